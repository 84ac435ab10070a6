"""Models of the transformers library, from a folder or the Hugging Face hub: safetensors weights, no code of theirs.

A hub name is downloaded into the hub's cache and is a folder from then on. Nothing else is fetched: a configuration
that names another model does not download it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vilbert.extractors.extractor import ExtractorError
from vilbert.extractors.weights import require_finite
from vilbert.interrupts import delayed_interrupts
from vilbert.untrusted.documents import DocumentError, read_json

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?")
_HUB_FILES = ("*.json", "*.safetensors", "*.txt")
_MAX_CONFIG_BYTES = 16 << 20
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5")
# What transformers, huggingface_hub, safetensors and torch raise of a folder that is not whole.
_LOAD_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
_UNUSED = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")


@dataclass(frozen=True, kw_only=True)
class PretrainedFolder:
    """A folder with config.json and safetensors weights."""

    path: Path
    """The folder."""
    name: str
    """As the user gave it, for messages."""
    model_type: str
    """`model_type` of config.json."""
    config: Mapping[str, Any]
    """The values of config.json."""
    weights_sha256: str
    """sha256 of the weights file; of several files, of their names and hashes."""


def open_pretrained(name: str, *, option: str) -> PretrainedFolder:
    """Return the folder of a model; download it if `name` is not a folder but a hub name.

    Args:
        name: A folder as `save_pretrained` writes it, or a hub name `OWNER/NAME`, `OWNER/NAME@REVISION`.
        option: The option that names it, for messages: "--weights".

    Raises:
        ExtractorError: There is no such folder or hub model, its config.json is damaged, or it has no safetensors.
    """
    path = _folder(name) or _download(name, option)
    config_path = path / "config.json"
    try:
        config = read_json(config_path, max_bytes=_MAX_CONFIG_BYTES)
    except OSError as error:
        raise ExtractorError(
            f"{option} {name}: cannot read {config_path} ({error.strerror}); give a folder as save_pretrained writes it"
        ) from error
    except DocumentError as error:
        raise ExtractorError(f"{config_path}: damaged: {error}; download the model again") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ExtractorError(f"{config_path}: has no model_type; expected the config of a transformers model")
    if "transformers_weights" in config or (path / "adapter_config.json").exists():
        raise ExtractorError(
            f"{option} {name}: its weights are not in model.safetensors alone (adapter_config.json, or "
            "transformers_weights in config.json); merge the adapter, and save the model with save_pretrained"
        )
    return PretrainedFolder(
        path=path,
        name=name,
        model_type=config["model_type"],
        config=config,
        weights_sha256=_hash_files(_weight_files(path, option, name)),
    )


def load_pretrained(model_class: Any, folder: PretrainedFolder, **options: Any) -> Any:
    """Return a model in float32 on the CPU, in evaluation mode, with every parameter read from the folder.

    Args:
        model_class: A class of transformers with `from_pretrained`.
        folder: Where config and weights are.
        **options: Further arguments of `from_pretrained`.

    Raises:
        ExtractorError: The files are damaged, belong to another model, lack parameters, or hold NaN or infinity.
    """
    import safetensors
    from huggingface_hub.errors import StrictDataclassError

    try:
        # Layers draw their first values from torch's global generator, which is not ours to move on.
        with torch.random.fork_rng(devices=[]), _quiet(), delayed_interrupts():
            model, report = model_class.from_pretrained(
                folder.path,
                trust_remote_code=False,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                dtype=torch.float32,
                **options,
            )
    except (safetensors.SafetensorError, StrictDataclassError, *_LOAD_ERRORS) as error:
        raise ExtractorError(f"{folder.name}: cannot load this {folder.model_type} model: {reason(error)}") from error
    if missing := sorted(report["missing_keys"]):
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ExtractorError(
            f"{folder.name}: the weights lack {', '.join(missing[:3])}{more}: they do not match config.json, or were "
            "saved without these layers"
        )
    require_finite(model.state_dict(), folder.name)
    return model.eval().requires_grad_(False)


def load_processor(processor_class: Any, folder: PretrainedFolder) -> Any:
    """Return an image processor or a tokenizer of the folder.

    Raises:
        ExtractorError: The folder has none, or its files are damaged.
    """
    try:
        return processor_class.from_pretrained(folder.path, trust_remote_code=False, local_files_only=True)
    except BaseException as error:  # tokenizers raises a bare Exception, and PanicException, of files that it refuses
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ExtractorError(
            f"{folder.name}: {processor_class.__name__} cannot read preprocessor or tokenizer files: {reason(error)}"
        ) from error


def plain_values(described: Any) -> dict[str, Any]:
    """Return the JSON values of a configuration or an image processor, without paths and versions."""
    values = json.loads(described.to_json_string())
    return {key: value for key, value in values.items() if key not in _UNUSED}


def reason(error: BaseException) -> str:
    """Return the first line of an error's message that is not empty, or the error's type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def _folder(name: str) -> Path | None:
    """Return the folder of this name; None if it does not exist."""
    try:
        path = Path(name).expanduser()
        return path if name and path.is_dir() else None
    except (RuntimeError, ValueError):  # "~nobody", a NUL character
        return None


def _download(name: str, option: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    if not _HUB_NAME.fullmatch(name):
        raise ExtractorError(f"{option} {name!r}: no such folder, and not a hub name OWNER/NAME either")
    repository, _, revision = name.partition("@")
    try:
        return Path(
            snapshot_download(
                repository, revision=revision or None, allow_patterns=list(_HUB_FILES), ignore_patterns=["*/*"]
            )
        )
    except (HFValidationError, OSError, ValueError, RuntimeError) as error:
        raise ExtractorError(
            f"{option} {name}: no such folder, and it cannot be downloaded from the Hub ({reason(error)}). Download "
            "it elsewhere "
            f"(hf download {repository}) and give its folder"
        ) from error


def _weight_files(path: Path, option: str, name: str) -> list[Path]:
    """Return the safetensors files that transformers reads, in the order of their names."""
    index = path / "model.safetensors.index.json"
    if (path / "model.safetensors").is_file():
        return [path / "model.safetensors"]
    if not index.is_file():
        pickles = sorted(it.name for it in path.iterdir() if it.suffix in _PICKLES)
        found = f", only {pickles[0]}, which is not read: it can run code" if pickles else ""
        raise ExtractorError(
            f"{option} {name}: the folder has no model.safetensors{found}. Get the model as safetensors; many hub "
            "models have a converted revision, NAME@refs/pr/NUMBER"
        )
    try:
        shards = read_json(index, max_bytes=_MAX_CONFIG_BYTES)["weight_map"].values()
        names = sorted({shard for shard in shards if Path(shard).name == shard and shard.endswith(".safetensors")})
        if not names or len(names) != len(set(shards)):
            raise ValueError("weight_map must name safetensors files of this folder")
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise ExtractorError(f"{index}: damaged: {reason(error)}; download the model again") from error
    return [path / shard for shard in names]


def _hash_files(files: list[Path]) -> str:
    hashes = {}
    for file in files:
        try:
            with open(file, "rb") as opened:
                hashes[file.name] = hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            raise ExtractorError(f"{file}: cannot read the weights: {error.strerror}") from error
    if len(hashes) == 1:
        return hashes.popitem()[1]
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide transformers' progress bars and its report of parameters, which `load_pretrained` checks itself."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
