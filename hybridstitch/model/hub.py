"""Downloads the files of a model on the Hugging Face Hub that the loader reads, and no others."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path

from hybridstitch.base.paths import INDEX
from hybridstitch.errors import InvalidInput, Problem
from hybridstitch.model.files import OPTIONAL, REQUIRED, TEXTS, weight_names


def download(model: str, field: str, *, variant: str | None = None, without: Collection[str] = ()) -> Path:
    """The folder of a model in the cache of huggingface_hub, with what the loader reads downloaded into it.

    Without a connection, the folder of what was downloaded before.

    Args:
        model: the hub id.
        field: `large` for a whole pipeline, `small` for its transformer and the configurations that both must share.
        variant: of the weights, such as "fp16", for the parts that have it.
        without: parts to leave out.

    Raises:
        InvalidInput: names the field, and what to do, for a model that the hub does not have or does not give, for one
            without safetensors, and without a connection for one that was not downloaded before.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        try:
            names = {each.rfilename for each in HfApi().model_info(model).siblings or ()}
        except RepositoryNotFoundError:
            raise
        except Exception as error:  # no connection: the client raises errors of several libraries
            return _cached(model, field, error)
        return Path(snapshot_download(model, allow_patterns=list(_wanted(model, field, names, variant, without))))
    except (RepositoryNotFoundError, GatedRepoError) as error:
        asking = f"a model that you may read on the hub: see https://huggingface.co/{model}, then `hf auth login`"
        raise InvalidInput([Problem(field, asking, f"{model}: {str(error).splitlines()[0]}")]) from error
    except OSError as error:
        again = "a download to its end; the same command resumes it"
        raise InvalidInput([Problem(field, again, f"{model}: {error}")]) from error


def _cached(model: str, field: str, error: Exception) -> Path:
    """The folder of what was downloaded of a model before. It need not be the whole repository."""
    from huggingface_hub import try_to_load_from_cache

    name = "transformer/config.json" if field == "small" else INDEX
    found = try_to_load_from_cache(model, name)
    if isinstance(found, str):
        return Path(found.removesuffix(name))
    expected = f"a connection to the hub, or a model in its cache (`hf download {model}`), or a folder"
    raise InvalidInput([Problem(field, expected, f"{model}: {error}")]) from error


def _wanted(
    model: str, field: str, names: Collection[str], variant: str | None, without: Collection[str]
) -> Iterator[str]:
    """The names of the files to download, of those that the model has."""
    from huggingface_hub import hf_hub_download

    parts = {"transformer": "diffusers"}
    if field == "small":
        yield from ("vae/config.json", "scheduler/scheduler_config.json")
    elif INDEX in names:
        yield INDEX
        index = json.loads(Path(hf_hub_download(model, INDEX)).read_text(encoding="utf-8"))
        entries = {name: index.get(name) for name in (*REQUIRED, *OPTIONAL) if name not in without}
        parts = {name: str(entry[0]) for name, entry in entries.items() if entry and entry[0]}
    for part, library in parts.items():
        inside = {name.removeprefix(f"{part}/") for name in names if Path(name).parent.as_posix() == part}
        yield from (f"{part}/{name}" for name in inside if name.endswith(TEXTS) and ".index." not in name)
        stored = [name for name in inside if name.endswith((".safetensors", ".bin"))]
        found = next((name for name, _ in weight_names(library, variant) if name in inside), None)
        if found is None and stored:
            expected = "weights as safetensors, named as diffusers names them; a `variant` takes others than the plain"
            raise InvalidInput([Problem(f"{field}: {model}/{part}", expected, ", ".join(sorted(stored)))])
        if found is not None:
            yield f"{part}/{found}"
            if found.endswith(".json"):
                content = json.loads(Path(hf_hub_download(model, f"{part}/{found}")).read_text(encoding="utf-8"))
                yield from (f"{part}/{shard}" for shard in sorted(set(content["weight_map"].values())))
