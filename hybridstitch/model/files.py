"""The files of an SD3 folder that the loader reads, and checks that each is present and complete."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from hybridstitch.base.paths import INDEX
from hybridstitch.errors import Problem

REQUIRED = ("transformer", "vae", "scheduler", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
OPTIONAL = ("text_encoder_3", "tokenizer_3", "image_encoder", "feature_extractor")
"""Parts that the loader reads if the index names them; it reads no others."""
LEFT_OUT = {"text_encoder_3": ("text_encoder_3", "tokenizer_3")}
"""Parts that a caller may leave out, each with what goes with it."""
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("spiece.model",))
_WEIGHTS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
"""Stem of the files with weights, by the library that loads them."""
_CONFIGS = {"scheduler": "scheduler_config.json", "feature_extractor": "preprocessor_config.json"}
TEXTS = (".json", ".txt", ".model", ".jinja")
"""Endings of the files of tokenizers."""


class ModelFiles:
    """The files that the loader reads, under their names in a folder without variants.

    Args:
        variant: takes the weights of this variant, such as "fp16", from the parts that have it.
        without: parts that are left out although the index names them: the text encoder of `LEFT_OUT`.

    Attributes:
        index: the index without the parts that are left out.
        parts: the library and the class of each part that the index names.
        files: the path of each file, by its relative name in a packed folder.
        problems: what is wrong with files, each under its path.
        tensors: for each part the shape of each of its tensors.
        with_variant: the parts whose weights are those of the variant.
    """

    def __init__(self, variant: str | None = None, without: Collection[str] = ()):
        self.variant = variant
        self.without = {part for name in without for part in LEFT_OUT.get(name, ())}
        self.index: dict[str, Any] = {}
        self.parts: dict[str, list[str]] = {}
        self.files: dict[str, Path] = {}
        self.problems: list[Problem] = []
        self.tensors: dict[str, dict[str, tuple[int, ...]]] = {}
        self.with_variant: set[str] = set()

    def add_pipeline(self, folder: Path) -> None:
        """Add the parts of an SD3 pipeline that its index names."""
        index = self.add_json(INDEX, folder / INDEX)
        if index is None:
            return
        self.index = index | {name: [None, None] for name in self.without}
        parts = self.parts
        for name in (*REQUIRED, *OPTIONAL):
            entry = self.index.get(name)
            if isinstance(entry, list) and len(entry) == 2 and all(isinstance(each, str) for each in entry):
                parts[name] = entry
            elif entry not in (None, [None, None]):
                self._refuse(folder / INDEX, f"{name}: a list of a library and a class", entry)
        if self.problems:
            return
        if absent := [name for name in REQUIRED if name not in parts]:
            self._refuse(folder / INDEX, f"an SD3 pipeline, with {', '.join(absent)}", index.get("_class_name"))
        third = [name for name in ("text_encoder_3", "tokenizer_3") if name in parts]
        if len(third) == 1:
            self._refuse(folder / INDEX, "text_encoder_3 and tokenizer_3, or neither", f"{third[0]} alone")
        for name, (library, _) in parts.items():
            if library not in _WEIGHTS:
                self._refuse(folder / INDEX, f"{name} of one of: {', '.join(_WEIGHTS)}", library)
            else:
                self.add_part(name, folder / name, library)

    def add_part(self, name: str, folder: Path, library: str = "diffusers") -> None:
        """Add the files of one part from its folder."""
        if not folder.is_dir():
            self._refuse(folder, f"an existing folder{_way_without(name)}", None)
        elif name.startswith("tokenizer"):
            self._add_texts(name, folder)
            if not any(all((folder / each).is_file() for each in names) for names in VOCABULARIES):
                # Without a vocabulary, transformers builds a tokenizer that knows no words.
                words = "; ".join(" and ".join(names) for names in VOCABULARIES)
                self._refuse(folder, f"a vocabulary, one of: {words}", None)
        elif name in _CONFIGS:
            self.add_json(f"{name}/{_CONFIGS[name]}", folder / _CONFIGS[name])
        else:
            self.add_json(f"{name}/config.json", folder / "config.json")
            self._add_weights(name, folder, library)

    @property
    def absent(self) -> dict[str, None]:
        """The arguments by which diffusers loads a pipeline without a third text encoder, if it has none."""
        return {name: None for name in LEFT_OUT["text_encoder_3"] if (self.index.get(name) or [None])[0] is None}

    def folder_of(self, part: str) -> Path:
        """The folder with the files of a part."""
        return next(path.parent for name, path in self.files.items() if name.startswith(f"{part}/"))

    def finish(self) -> None:
        """Add a problem if no part has the variant."""
        if self.variant is not None and not self.with_variant and not self.problems:
            expected = f"a variant that exists: no part has weights named *.{self.variant}.safetensors"
            self.problems.append(Problem("variant", expected, self.variant))

    def _add_texts(self, part: str, folder: Path) -> None:
        for path in sorted(folder.iterdir()):
            if path.suffix == ".json":
                self.add_json(f"{part}/{path.name}", path)
            elif path.suffix in TEXTS and path.is_file():
                self.files[f"{part}/{path.name}"] = path

    def _add_weights(self, part: str, folder: Path, library: str) -> None:
        stem = _WEIGHTS[library]
        for name, variant in weight_names(library, self.variant):
            if (folder / name).is_file():
                self.with_variant |= {part} if variant else set()
                if name.endswith(".json"):
                    self._add_sharded(part, f"{stem}.safetensors.index.json", folder / name)
                else:
                    self._add_tensors(part, f"{stem}.safetensors", folder / name)
                return
        self._refuse_without_weights(folder, stem, _way_without(part))

    def _refuse_without_weights(self, folder: Path, stem: str, advice: str) -> None:
        whole, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
        variants = sorted({path.name.split(".")[-2].split("-")[0] for path in folder.glob(f"{stem}*.*.safetensors")})
        pickles = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICKLED)
        if variants:
            instead = (
                f"--variant {variants[0]} (in Python variant={variants[0]!r}) takes the {variants[0]} files instead"
            )
            self._refuse(whole, f"an existing file; {instead}", None)
        elif next(folder.glob(f"{stem}-*.safetensors"), None):
            self._refuse(index, "an existing file: the weights are in several files", None)
        elif pickles:
            self._refuse(pickles[0], f"{whole.name} instead: loading a pickle runs code in it", pickles[0].name)
        else:
            self._refuse(whole, f"an existing file{advice}", None)

    def _add_sharded(self, part: str, name: str, path: Path) -> None:
        index = self.add_json(f"{part}/{name}", path)
        if index is None:
            return
        places = index.get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(each, str) for each in places.values()) or not places:
            self._refuse(path, "a weight_map of tensors to files", places)
            return
        if not isinstance(index.get("metadata"), dict):
            self._refuse(path, "an object `metadata`", index.get("metadata"))
        for shard in sorted(set(places.values())):
            if Path(shard).name != shard:
                self._refuse(path, "files of the same folder", shard)
            elif not (path.parent / shard).is_file():
                self._refuse(path.parent / shard, f"an existing file: {path.name} names it{_way_without(part)}", None)
            else:
                held = self._add_tensors(part, shard, path.parent / shard)
                lost = [tensor for tensor, place in places.items() if place == shard and tensor not in held]
                if held and lost:
                    self._refuse(path.parent / shard, f"the tensors that {path.name} names", f"no {lost[0]}")

    def _add_tensors(self, part: str, name: str, path: Path) -> dict[str, tuple[int, ...]]:
        """The shapes of the tensors in a file. Checks the header and the file's length, and reads no weight."""
        self.files[f"{part}/{name}"] = path
        try:
            with safe_open(path, "np") as opened:
                held = {tensor: tuple(opened.get_slice(tensor).get_shape()) for tensor in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            self._refuse(path, "a complete safetensors file", str(error))
            return {}
        self.tensors.setdefault(part, {}).update(held)
        return held

    def add_json(self, name: str, path: Path) -> dict[str, Any] | None:
        """Add a JSON file and return the object in it; None, with a problem, if it holds no object."""
        self.files[name] = path
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            self._refuse(path, "an existing file", None)
        except (OSError, ValueError, RecursionError) as error:
            self._refuse(path, "a JSON file", str(error))
        else:
            if isinstance(content, dict):
                return content
            self._refuse(path, "a JSON object", content)
        return None

    def _refuse(self, path: Path, expected: str, got: Any) -> None:
        self.problems.append(Problem(str(path), expected, got))


def weight_names(library: str, variant: str | None) -> Iterator[tuple[str, str | None]]:
    """The files that can hold the weights of a part, or their index, each with its variant: the first one counts."""
    stem = _WEIGHTS.get(library, "")
    for each in (variant, None) if variant else (None,):
        indices, single = _index_names(stem, each), _with_variant(f"{stem}.safetensors", each)
        # Where there are both, diffusers reads the index and transformers the single file.
        for name in [*indices, single] if library == "diffusers" else [single, *indices]:
            yield name, each


def _way_without(part: str) -> str:
    """How to do without a part that is not there, if that is possible."""
    for name, left_out in LEFT_OUT.items():
        if part in left_out:
            return f"; --without {name} (in Python without=[{name!r}]) does without it"
    return ""


def _with_variant(name: str, variant: str | None) -> str:
    stem, _, ending = name.rpartition(".")
    return f"{stem}.{variant}.{ending}" if variant else name


def _index_names(stem: str, variant: str | None) -> list[str]:
    """Names of the index of sharded weights; the second name of a variant is that of older versions of diffusers."""
    name = f"{stem}.safetensors.index.json"
    return [name] if variant is None else [_with_variant(name, variant), f"{stem}.safetensors.{variant}.index.json"]
