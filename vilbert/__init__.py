"""ViLBERT end to end: extract region features into verified shards, and train the model on them.

    import vilbert

    predictor = vilbert.Predictor.load("runs/vqa")
    dataset = vilbert.open_dataset("features")

Importing this package imports neither torch nor transformers: the names below are imported on first use. It registers
ViLBERT with the `AutoConfig` and `AutoModel` classes of transformers, whichever package is imported first.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vilbert.auto_classes import register_when_imported

if TYPE_CHECKING:
    from vilbert.extractors.extractor import build_extractor as build_extractor
    from vilbert.model.checkpoint import load_checkpoint as load_checkpoint
    from vilbert.pipeline.predict.predictor import Predictor as Predictor
    from vilbert.pipeline.shards.open_dataset import open_dataset as open_dataset
    from vilbert.pipeline.train.data.ordered_loader import order as order

_MODULES = {
    "Predictor": "vilbert.pipeline.predict.predictor",
    "build_extractor": "vilbert.extractors.extractor",
    "load_checkpoint": "vilbert.model.checkpoint",
    "open_dataset": "vilbert.pipeline.shards.open_dataset",
    "order": "vilbert.pipeline.train.data.ordered_loader",
}

__all__ = ["Predictor", "build_extractor", "load_checkpoint", "open_dataset", "order"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(_MODULES)}")
    value = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})


register_when_imported()
