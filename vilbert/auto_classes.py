"""Let `AutoConfig` and `AutoModel` of transformers know ViLBERT, without importing transformers here.

Each is registered when transformers imports the module that defines it, or at once where it has done so already.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

AUTO = "transformers.models.auto"
MODELS = "vilbert.model.vilbert"
IMPORTED_FIRST = ("transformers.modeling_layers", "vilbert.model.layers", "vilbert.model.encoder")
"""Modules that `MODELS` needs and that import transformers' auto classes themselves, the inner one first."""


class _AfterImport:
    """Calls `_register` after an import of certain modules. `wrapt` does that too, but takes 40 ms to be imported."""

    def __init__(self, names: Sequence[str]) -> None:
        self._waiting = set(names)

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in self._waiting:
            return None
        self._waiting.remove(name)  # the other finders are asked now
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._waiting.add(name)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            _register(name)

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]  # of this module's loader alone
        return spec


def register_when_imported() -> None:
    """Register the classes when transformers imports its auto classes, or now where it has done so."""
    names = (f"{AUTO}.configuration_auto", f"{AUTO}.modeling_auto", *IMPORTED_FIRST)
    sys.meta_path.insert(0, _AfterImport(names))
    for name in names:
        if name in sys.modules:
            _register(name)


# The modules register their classes at their end. One that is being imported now has imported transformers itself.


def _register(imported: str) -> None:
    if imported == f"{AUTO}.configuration_auto":
        importlib.import_module("vilbert.model.config")
    elif MODELS not in sys.modules and not any(map(_is_being_imported, set(IMPORTED_FIRST) - {imported})):
        importlib.import_module(MODELS)  # else, when the module being imported is finished, this is called again


def _is_being_imported(name: str) -> bool:
    return name in sys.modules and bool(getattr(sys.modules[name].__spec__, "_initializing", False))
