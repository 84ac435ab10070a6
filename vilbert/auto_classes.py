"""Let `AutoConfig` and `AutoModel` of transformers know ViLBERT, without importing transformers here.

Each is registered when transformers imports the module that defines it, or at once where it has done so already.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from wrapt import register_post_import_hook

AUTO = "transformers.models.auto"
MODELS = "vilbert.model.vilbert"
IMPORTED_FIRST = ("transformers.modeling_layers", "vilbert.model.layers", "vilbert.model.encoder")
"""Modules that `MODELS` needs and that import transformers' auto classes themselves, the inner one first."""


def register_when_imported() -> None:
    """Register the classes when transformers imports its auto classes."""
    register_post_import_hook(_register_config, f"{AUTO}.configuration_auto")
    for name in (f"{AUTO}.modeling_auto", *IMPORTED_FIRST):
        register_post_import_hook(_register_models, name)


# The modules register their classes at their end. One that is being imported now has imported transformers itself.


def _register_config(_module: Any) -> None:
    if "vilbert.model.config" not in sys.modules:
        importlib.import_module("vilbert.model.config")


def _register_models(module: Any) -> None:
    unfinished = any(_is_being_imported(name) for name in IMPORTED_FIRST if name != module.__name__)
    if MODELS not in sys.modules and not unfinished:  # when it is finished, this function is called again
        importlib.import_module(MODELS)


def _is_being_imported(name: str) -> bool:
    return name in sys.modules and bool(getattr(sys.modules[name].__spec__, "_initializing", False))
