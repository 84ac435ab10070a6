"""Every shipped config is read as it would be from the command line, and makes a model."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vilbert import pipeline
from vilbert.model.config import PRESETS
from vilbert.model.vilbert import ViLBertForPreTraining
from vilbert.pipeline.cli import parse
from vilbert.pipeline.train.pretraining.settings import PretrainSettings
from vilbert.pipeline.train.pretraining.start import model_config
from vilbert.pipeline.train.run.settings import identity

RECIPES = Path(pipeline.__file__).parent / "recipes"
PRETRAIN = sorted(path.stem for path in (RECIPES / "pretrain").glob("*.yaml"))
SHIPPED = sorted(path.stem for path in (RECIPES / "model").glob("*.json"))


class Tokenizer(SimpleNamespace):
    """As many word pieces as BERT's."""

    pad_token_id = 0

    def __len__(self) -> int:
        return 30_522


def settings_of(*more: str) -> PretrainSettings:
    found = parse("pretrain", ["features", "--output", "run", *more])
    assert isinstance(found, PretrainSettings)
    return found


def parameters(settings: PretrainSettings, feature_dim: int = 2048, num_classes: int = 1601) -> int:
    """Build a config's model without memory for it, and count what it would learn."""
    tokenizer: Any = Tokenizer()
    config = model_config(settings, tokenizer, feature_dim=feature_dim, num_classes=num_classes)
    with torch.device("meta"):
        model = ViLBertForPreTraining(config)
    assert (config.v_feature_size, config.vocab_size) == (feature_dim, 30_522)
    assert config.v_target_size == (num_classes if config.visual_target == 0 else feature_dim)
    return sum(parameter.numel() for parameter in model.parameters())


def test_there_are_configs() -> None:
    assert {"default", "paper", "shapes", "vilbert_beta", "vilbert_multi_task"} <= set(PRETRAIN)
    assert "shapes" in SHIPPED


@pytest.mark.parametrize("name", PRETRAIN)
def test_a_pre_training_config_is_read_and_its_model_is_built(name: str) -> None:
    settings = settings_of("--config", name, "--init-from", "none")
    count = parameters(settings)
    assert count < 2e7 if name == "shapes" else 2.4e8 < count < 3e8


@pytest.mark.parametrize("name", PRETRAIN)
def test_options_go_over_a_config(name: str) -> None:
    plain = settings_of("--config", name)
    settings = settings_of("--config", name, "--seed", "7", "--batch-size", "96", "--word-mask", "0.25")
    changed = {"seed": 7, "batch_size": 96, "word_mask": 0.25}
    assert identity(settings) == identity(plain) | changed


def test_the_default_config_is_what_no_config_gives() -> None:
    assert settings_of("--config", "default") == settings_of()


@pytest.mark.parametrize("name", [*SHIPPED, *PRESETS])
def test_a_model_that_is_named_is_built(name: str) -> None:
    assert parameters(settings_of("--model", name, "--init-from", "none"), feature_dim=512, num_classes=33) > 1e5


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_config_has_no_setting_that_is_not_one(name: str) -> None:
    """A misspelt name would be kept by transformers without a word, and do nothing."""
    from vilbert.model.config import ViLBertConfig

    known = ViLBertConfig().to_dict().keys()
    found = json.loads((RECIPES / "model" / f"{name}.json").read_text(encoding="utf-8"))
    assert found.keys() <= known
