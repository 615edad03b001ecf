"""The parser of commands: an error is one line that names the option, and each help has an example."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from hybridstitch.base.suggestions import nearest

EXAMPLES = {
    "pack": "pack --pair models/emoji --out model_store",
    "serve": "serve --store model_store --port 8080",
    "doctor": "doctor --url http://127.0.0.1:8080 --key-file key_file.json",
    "generate": 'generate "a red apple on blue" --seed 0 --out apple.png --mask-overlay apple-mask.png',
    "explain": 'explain "a red apple on blue" --seed 0 --target mask --out apple.html',
    "compare": "compare --a models/emoji#recipe=large --b models/emoji#speed=1.83 --count 8 --out build/compare",
    "compare rate": "compare rate build/compare",
    "compare shadow": "compare shadow --a models/emoji#recipe=large --b models/emoji "
    "--requests requests.jsonl --out build/shadow",
    "bench": "bench --count 8 --recipes small,hybridstitch,speed=1.83 --out build/bench",
    "tune": "tune --large SD35_LARGE_FOLDER --small SD35_MEDIUM_FOLDER --prompts calibration.txt --out recipes.json",
    "recipes": "recipes --pair models/emoji",
    "demo": "demo --out demo",
}
"""An example of each command, without the program's name."""


class CommandParser(argparse.ArgumentParser):
    """Exits with code 2 and one line for a wrong option. The help ends with the command's example."""

    def __init__(self, **given: Any) -> None:
        program, _, command = given["prog"].partition(" ")
        example = EXAMPLES.get(command)
        if example:
            given |= {"epilog": f"example:\n  {program} {example}"}
        given.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**given)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As in the base class, but an unknown option is an error of its command."""
        args = [*(sys.argv[1:] if args is None else args)]
        before_end = args[: args.index("--")] if "--" in args else args
        if empty := [each for each in before_end if re.fullmatch(r"--[\w-]+=--", each)]:
            # argparse takes this for the end of the options, and an empty list for the value.
            self.error(f"{empty[0].removesuffix('=--')}: expected a value, got '--'")
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            named = [each for each in unknown if each.startswith("-")] or unknown
            self.error("; ".join(map(self._unknown, named)))
        return options, unknown

    def error(self, message: str) -> NoReturn:
        """Print the error and exit with code 2."""
        line = re.sub(r"^argument (-[\w-]+/)?", "", message)
        self.exit(2, f"error: {line} (usage: {self.prog} --help)\n")

    def _unknown(self, option: str) -> str:
        name = option.partition("=")[0]
        near = nearest(self._option_names(), name.lstrip("-"))
        return f"{name}: no such option" + (f", did you mean --{near}?" if near else "")

    def _option_names(self) -> Sequence[str]:
        return [name[2:] for name in self._option_string_actions if name.startswith("--")]
