"""Register ViLBERT with the `AutoConfig` and `AutoModel` classes of transformers, without importing transformers.

Each class is registered when transformers imports the module that defines it, or at once if it is already imported.
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
"""Modules that `MODELS` depends on and that import the auto classes of transformers, innermost first."""


class _AfterImport:
    """Import hook that calls `_register` after certain modules are imported.

    `wrapt` offers the same hook, but importing it takes 40 ms.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._waiting = set(names)

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in self._waiting:
            return None
        self._waiting.remove(name)  # so that `find_spec` below uses the other finders
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

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]  # the loader belongs to this module alone
        return spec


def register_when_imported() -> None:
    """Register the classes when transformers imports its auto classes, or now if they are already imported."""
    names = (f"{AUTO}.configuration_auto", f"{AUTO}.modeling_auto", *IMPORTED_FIRST)
    sys.meta_path.insert(0, _AfterImport(names))
    for name in names:
        if name in sys.modules:
            _register(name)


# Each module of this package registers its classes in its last statements, so that importing it is enough. A module
# that is still being imported has itself caused the import of transformers and must not be imported again.


def _register(imported: str) -> None:
    if imported == f"{AUTO}.configuration_auto":
        importlib.import_module("vilbert.model.config")
    elif MODELS not in sys.modules and not any(map(_is_being_imported, set(IMPORTED_FIRST) - {imported})):
        importlib.import_module(MODELS)  # otherwise this is called again after the current import


def _is_being_imported(name: str) -> bool:
    return name in sys.modules and bool(getattr(sys.modules[name].__spec__, "_initializing", False))
