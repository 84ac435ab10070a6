"""The start of a run: its tokenizer, its model and the initial parameters."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vilbert.model.checkpoint import load_checkpoint
from vilbert.model.config import PRESETS, ViLBertConfig
from vilbert.model.config_file import make_config, read_settings, require_memory
from vilbert.model.operators import Linear
from vilbert.model.tensor_files import CheckpointError
from vilbert.model.text_stream import load_text_stream, text_settings
from vilbert.model.vilbert import ViLBertForPreTraining
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.shards.columns.layout import BASE
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.data.order import Order
from vilbert.pipeline.train.pretraining.settings import PretrainSettings
from vilbert.pipeline.train.pretraining.vocabulary import require_its_vocabulary
from vilbert.untrusted.documents import read_json

logger = logging.getLogger(__name__)

SHIPPED = Path(__file__).parents[2] / "recipes" / "model"
"""Folder of configs shipped with the package, in addition to the published ones of `vilbert.model.config`."""
VISUAL_TARGETS = {"classes": 0, "regression": 1, "nce": 2}
"""`ViLBertConfig.visual_target` by `--visual-target`."""
TEXT_MODELS = ("bert", "roberta")
FILE_SUFFIXES = (".bin", ".safetensors", ".pth", ".pt", ".ckpt", ".tar", ".gz", ".tgz", ".json", ".zip")
WHITENED_SAMPLES = 2048
SMALLEST_VARIANCE = 1e-2  # of a direction, as a share of the mean: what varies less may be noise


def begins_from_text(init_from: str) -> bool:
    """Return whether `--init-from` is a BERT or RoBERTa of transformers rather than a ViLBERT checkpoint."""
    path = Path(init_from)
    if not path.exists():
        return init_from != "none" and is_hub_name(init_from)
    config = path / "config.json"
    found = read_json(config) if config.is_file() else None
    return isinstance(found, dict) and found.get("model_type") in TEXT_MODELS


def is_hub_name(name: str) -> bool:
    """Return whether a name that is not a local file may be a model on the hub: NAME or OWNER/NAME."""
    return re.fullmatch(r"([\w-][\w.-]*/)?[\w-][\w.-]*", name) is not None and Path(name).suffix not in FILE_SUFFIXES


def model_config(
    settings: PretrainSettings,
    tokenizer: PreTrainedTokenizerBase,
    *,
    feature_dim: int,
    num_classes: int,
    soft_labels: bool = True,
) -> ViLBertConfig:
    """Return the named config with the sizes of its text stream, data and tokenizer.

    Args:
        settings: The settings of the run.
        tokenizer: The tokenizer of the run.
        feature_dim: Number of channels of the features.
        num_classes: Number of classes of soft labels.
        soft_labels: Whether the data sets have class probabilities, which determines `--visual-target auto`.

    Raises:
        RefusedError: The config is invalid, or the tokenizer does not match the initial parameters.
    """
    sizes = _text_sizes(settings.init_from, tokenizer)
    try:
        named = named_config(settings.model)
        target = choose_visual_target(settings.visual_target, named.get("visual_target", 0), soft_labels=soft_labels)
        if target != 0 and settings.class_targets != BASE:
            raise RefusedError(
                f"--class-targets {settings.class_targets}: the model predicts features of masked regions; give "
                "--visual-target classes"
            )
        target_size = num_classes if target == 0 else feature_dim
        sizes |= {"visual_target": target, "v_feature_size": feature_dim, "v_target_size": target_size}
        config = make_config({**named, **sizes})
        require_memory(config)
    except (ValueError, OSError) as error:
        raise RefusedError(f"--model {settings.model}: {error}") from error
    if Path(settings.init_from).exists() or begins_from_text(settings.init_from):  # not needed by a resumed run
        require_its_vocabulary(settings, tokenizer, embedded=config.vocab_size)
    positions = config.max_position_embeddings
    if settings.items.max_tokens > positions:
        raise RefusedError(f"--max-tokens {settings.items.max_tokens}: the model has {positions} positions")
    return config


def choose_visual_target(wanted: str, configured: int, *, soft_labels: bool) -> int:
    """Return `ViLBertConfig.visual_target` of a run.

    Args:
        wanted: `PretrainSettings.visual_target`.
        configured: Value of the model's config.
        soft_labels: Whether the data sets have class probabilities.

    Raises:
        RefusedError: Soft labels are the prediction target and the data sets have none.
    """
    if wanted == "auto" and configured == 0 and not soft_labels:
        logger.info(
            "masked regions predict their features (--visual-target regression): the data sets have no class "
            "probabilities; the alternative is --visual-target nce"
        )
        return VISUAL_TARGETS["regression"]
    if wanted == "classes" and not soft_labels:
        raise RefusedError(
            "--visual-target classes: the data sets have no class probabilities, because their detector has no softmax "
            "over classes; give --visual-target regression or nce"
        )
    return VISUAL_TARGETS.get(wanted, configured)


def _text_sizes(init_from: str, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return config settings of the text stream that are determined by the initial BERT, or else by the tokenizer."""
    if init_from == "none":
        return {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    try:
        return text_settings(init_from) if begins_from_text(init_from) else {}  # a checkpoint has what its config says
    except (CheckpointError, ValueError, OSError) as error:
        raise RefusedError(f"--init-from {init_from}: {error}") from error


def named_config(name: str) -> dict[str, Any]:
    """Return the settings of a published or shipped configuration, or of a config.json.

    Raises:
        ValueError: There is no such configuration, or the file is invalid.
    """
    if name in PRESETS:
        return dict(PRESETS[name])
    path = SHIPPED / f"{name}.json" if (SHIPPED / f"{name}.json").is_file() else Path(name)
    if not path.is_file():
        raise ValueError(
            f"is not a file and not one of {', '.join([*PRESETS, *(p.stem for p in sorted(SHIPPED.glob('*.json')))])}"
        )
    return read_settings(path)


def build_model(settings: PretrainSettings, config: ViLBertConfig) -> ViLBertForPreTraining:
    """Build the model with parameters initialised from the seed."""
    torch.manual_seed(settings.seed)
    config._attn_implementation = "sdpa"
    return ViLBertForPreTraining(config)


def load_start(model: PreTrainedModel, settings: PretrainSettings, corpus: Corpus) -> None:
    """Initialise a new model: load `--init-from` and whiten the features if requested."""
    if settings.init_from != "none":
        try:
            load: Callable[..., object] = load_text_stream if begins_from_text(settings.init_from) else load_checkpoint
            report = load(model, settings.init_from)
        except (CheckpointError, OSError, ValueError) as error:
            raise RefusedError(f"--init-from {settings.init_from}: {error}") from error
        logger.info("%s", report)
    if settings.whiten_features:
        whiten_features(model, corpus)


def whiten_features(model: PreTrainedModel, corpus: Corpus) -> None:
    """Initialise the region embedding in place so that it whitens the features (mean 0, covariance 1).

    A detector's features share a large mean and vary most in what the detector was trained to distinguish. Other
    information, such as an object's colour, lies in directions with little variance, which a short training does not
    pick up. The statistics are those of the first `WHITENED_SAMPLES` samples; the architecture is unchanged. Source:
    Kessy et al., "Optimal whitening and decorrelation" (2018), ZCA.
    """
    order = Order(corpus.shard_sizes, seed=0, shuffle=False)
    places = order.at(np.arange(min(WHITENED_SAMPLES, order.epoch_size)))
    found = [example.features for example in corpus.read(places) if example is not None and len(example.boxes)]
    if not found:
        raise RefusedError("--whiten-features: no region could be read from the first samples")
    features = np.concatenate(found).astype(np.float64)
    mean = features.mean(axis=0)
    variances, directions = np.linalg.eigh(np.cov(features - mean, rowvar=False, bias=True))
    least = SMALLEST_VARIANCE * variances.mean()
    embedding: Linear = model.bert.v_embeddings.image_embeddings  # type: ignore[assignment, union-attr]
    whitening = torch.from_numpy(directions / np.sqrt(np.maximum(variances, least)) @ directions.T).to(embedding.weight)
    with torch.no_grad():
        embedding.weight.copy_(embedding.weight @ whitening)
        embedding.bias.sub_(embedding.weight @ torch.from_numpy(mean).to(embedding.weight))
