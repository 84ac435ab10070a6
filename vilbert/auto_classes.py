"""Let `AutoConfig` and `AutoModel` of transformers know ViLBERT, without importing transformers here.

Each is registered when transformers imports the module that defines it, or at once where it has done so already.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from wrapt import register_post_import_hook

AUTO = "transformers.models.auto"


def register_when_imported() -> None:
    """Register the classes when transformers imports its auto classes."""
    register_post_import_hook(_register_config, f"{AUTO}.configuration_auto")
    register_post_import_hook(_register_models, f"{AUTO}.modeling_auto")


# The modules register their classes at their end. One that is being imported now has imported transformers itself.


def _register_config(_module: Any) -> None:
    if "model.config" not in sys.modules:
        importlib.import_module("model.config")


def _register_models(_module: Any) -> None:
    if "model.vilbert" not in sys.modules:
        importlib.import_module("model.vilbert")
