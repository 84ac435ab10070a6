"""The published ViLBERT of a checkout of vilbert_beta or vilbert-multi-task, on current torch.

Both repositories import packages that no longer exist. `vilbert/vilbert.py` needs little of them to build a model; this
module provides that part in memory. The file itself runs unchanged, without its package's `__init__`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

from torch import nn

PACKAGE = "published_vilbert"


class _PreTrainedModel(nn.Module):
    """What is left of pytorch_transformers' class where nothing is loaded, pruned or resized."""

    def __init__(self, config: Any, *_: Any, **__: Any) -> None:
        super().__init__()
        self.config = config

    def _tie_or_clone_weights(self, first: nn.Module, second: nn.Module) -> None:
        first.weight = second.weight


def _cached_path(path: str, cache_dir: str | None = None) -> str:
    raise FileNotFoundError(f"{path}: the benchmark does not download files")


def load_module(checkout: Path) -> types.ModuleType:
    """Return `vilbert/vilbert.py` of a checkout as a module; FileNotFoundError if it does not exist."""
    source = checkout / "vilbert" / "vilbert.py"
    if not source.is_file():
        raise FileNotFoundError(
            f"{source} does not exist: pass --reference a checkout of vilbert_beta or vilbert-multi-task"
        )
    package, utils = types.ModuleType(PACKAGE), types.ModuleType(f"{PACKAGE}.utils")
    package.__path__ = []
    vars(utils).update(PreTrainedModel=_PreTrainedModel, cached_path=_cached_path)
    spec = importlib.util.spec_from_file_location(f"{PACKAGE}.vilbert", source)
    if spec is None or spec.loader is None:
        raise ImportError(f"{source} cannot be read as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules.update({PACKAGE: package, utils.__name__: utils, module.__name__: module})
    spec.loader.exec_module(module)
    return module


def pretraining_model(checkout: Path, **changes: Any) -> nn.Module:
    """Return the checkout's BertForMultiModalPreTraining of its 6-layer config, keys of `changes` replaced."""
    module = load_module(checkout)
    settings = json.loads((checkout / "config" / "bert_base_6layer_6conect.json").read_text(encoding="utf-8"))
    with contextlib.redirect_stdout(sys.stderr):  # its constructor prints
        model: nn.Module = module.BertForMultiModalPreTraining(module.BertConfig.from_dict({**settings, **changes}))
    return model
