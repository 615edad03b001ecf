"""Builds a wheel with the files that lie beside the package in a checkout. pyproject.toml declares all else."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

BESIDE = ("config.properties", "models/emoji/heldout_prompts.txt", *map(str, sorted(Path("handler").glob("*.*"))))


class BuildWithFiles(build_py):
    """Copies these files to `hybridstitch/_files`, where `base/paths.py` finds them."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:  # uses the files of the checkout
            return
        for name in BESIDE:
            target = Path(self.build_lib, "hybridstitch", "_files", name)
            self.mkpath(str(target.parent))
            self.copy_file(name, str(target))


setup(cmdclass={"build_py": BuildWithFiles})
