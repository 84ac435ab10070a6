"""Read and validate the config.json of a model folder, ours or that of the published code, within bounds.

`ViLBertConfig(**json)` would also accept everything that transformers reads from a configuration: Python code to
import, a quantizer, a label table of any size. Only the settings of the model are read here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from vilbert.model.architecture import count_parameters
from vilbert.model.config import ViLBertConfig
from vilbert.untrusted.documents import read_json

CONFIG_FILE = "config.json"
MAX_BYTES = 64 << 20
"""Maximum size of a config.json; one with a table of labels has a few megabytes."""
SETTINGS = frozenset(ViLBertConfig.__annotations__) - {"model_type"}
"""Names of the settings of a ViLBERT."""
DTYPES = ("float32", "float16", "bfloat16", "float64")


class ConfigError(ValueError):
    """A configuration that cannot be read or is invalid."""


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings in a config.json by name, not yet validated.

    A file without `model_type` is one of the published code; its keys are converted (`ViLBertConfig.from_reference`).
    In our files, keys that are not settings of the model are ignored.

    Raises:
        ConfigError: Not JSON, not an object, the configuration of another model, or unknown published keys.
        OSError: The file cannot be read.
    """
    try:
        found = read_json(path, max_bytes=MAX_BYTES)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if not isinstance(found, dict):
        raise ConfigError(f"is not a JSON object of settings but a {type(found).__name__}")
    if "model_type" not in found:
        return _published(found)
    if found["model_type"] != ViLBertConfig.model_type:
        raise ConfigError(f"is the configuration of a {found['model_type']!r:.60} model, not of a ViLBERT")
    settings = {name: value for name, value in found.items() if name in SETTINGS}
    return settings | ({"dtype": found["dtype"]} if found.get("dtype") in DTYPES else {})


def make_config(settings: Mapping[str, Any]) -> ViLBertConfig:
    """Return the configuration with these settings. Raise ConfigError for a setting with a wrong type or value."""
    try:
        return ViLBertConfig(**settings)
    except (ValueError, TypeError, OverflowError, StrictDataclassError) as error:
        raise ConfigError(str(error.__cause__ or error)) from error


def require_memory(config: ViLBertConfig) -> None:
    """Raise ConfigError if the parameters of a model would not fit into the memory of this machine."""
    parameters, memory = count_parameters(config), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if 4 * parameters > memory:
        raise ConfigError(
            f"makes a model of {parameters:,} parameters, {4 * parameters / 1e9:,.1f} GB; this machine has "
            f"{memory / 1e9:,.1f} GB of memory"
        )


def _published(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a published file with our names. The sizes of regions may be replaced later."""
    size = found.get("v_feature_size", ViLBertConfig.v_feature_size)
    try:
        # With equal sizes every `visual_target` is valid.
        config = ViLBertConfig.from_reference(found, v_feature_size=size, v_target_size=size)
    except (ValueError, TypeError, OverflowError, StrictDataclassError) as error:
        raise ConfigError(str(error.__cause__ or error)) from error
    settings = {name: value for name, value in config.to_diff_dict().items() if name in SETTINGS}
    target = ViLBertConfig.v_target_size if config.visual_target == 0 else size
    return {**settings, "v_feature_size": size, "v_target_size": found.get("v_target_size", target)}
