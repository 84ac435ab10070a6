"""The start of fine-tuning: config, tokenizer and parameters of a pre-trained model, with a task's head."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from vilbert.model.checkpoint import load_checkpoint
from vilbert.model.config import ViLBertConfig
from vilbert.model.config_file import make_config, require_memory
from vilbert.model.layouts import is_head
from vilbert.model.tasks import ViLBertForTasks
from vilbert.model.tensor_files import CheckpointError
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.finetune.settings import FinetuneSettings
from vilbert.pipeline.tasks.task import Task
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.examples.words import load_tokenizer
from vilbert.pipeline.train.pretraining.start import named_config, whiten_features

logger = logging.getLogger(__name__)

NONE = "none"
TASK_TOKENS = "task_embeddings"
"""Part of the names of parameters that a pre-trained model lacks."""


def task_tokenizer(settings: FinetuneSettings, texts: Callable[[], Iterable[str]]) -> PreTrainedTokenizerBase:
    """Return the tokenizer of the settings, or that of the pre-trained model.

    Args:
        settings: The settings of the run.
        texts: Returns the training texts, for `--tokenizer new`.

    Raises:
        RefusedError: There is no tokenizer.
    """
    if settings.tokenizer is not None:
        return load_tokenizer(settings.tokenizer, texts() if settings.tokenizer == "new" else None)
    if not Path(settings.init_from).is_dir():
        if not Path(settings.init_from).exists():
            raise RefusedError(
                f"--init-from {settings.init_from}: no such file or folder; give a run of `vilbert pretrain`, its "
                "final/ or a ViLBERT checkpoint"
            )
        raise RefusedError(
            f"--init-from {settings.init_from}: is a file without a tokenizer; give the --tokenizer that the "
            "model was trained with, such as bert-base-uncased"
        )
    return load_tokenizer(settings.init_from, None)


def task_config(
    settings: FinetuneSettings, tokenizer: PreTrainedTokenizerBase, *, feature_dim: int, **heads: Any
) -> ViLBertConfig:
    """Return the named config or that of the pre-trained model, with the task's heads.

    Args:
        settings: The settings of the run.
        tokenizer: The tokenizer of the run.
        feature_dim: Number of channels of the features.
        heads: Config settings that the task determines, such as `num_answers`.

    Raises:
        RefusedError: The config is invalid, or does not match the features or the tokenizer.
    """
    source = settings.model or str(Path(settings.init_from) / "config.json")
    if settings.model is None and not Path(source).is_file():
        raise RefusedError(f"--init-from {settings.init_from}: has no config.json beside it; give its --model")
    try:
        named = named_config(source)
        if settings.init_from == NONE:
            sizes = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
            named = {**named, **sizes, "v_feature_size": feature_dim}
        config = make_config({**named, "task_heads": settings.task_heads, **heads})
        require_memory(config)
    except (ValueError, OSError) as error:
        raise RefusedError(f"--model {source}: {error}") from error
    if config.v_feature_size != feature_dim:
        channels = f"features of {config.v_feature_size} channels, the data sets have {feature_dim}"
        if settings.model is not None:
            raise RefusedError(
                f"--model {settings.model}: takes {channels}; give that of --init-from {settings.init_from}, or none"
            )
        raise RefusedError(
            f"--init-from {settings.init_from}: was trained on {channels}; extract with the detector of that training"
        )
    if len(tokenizer) > config.vocab_size:
        raise RefusedError(
            f"--tokenizer: has {len(tokenizer)} word pieces, the model embeds {config.vocab_size}: give the one that "
            "--init-from was trained with"
        )
    if settings.max_tokens > config.max_position_embeddings:
        raise RefusedError(
            f"--max-tokens {settings.max_tokens}: the model has {config.max_position_embeddings} positions"
        )
    return config


def build_task_model(config: ViLBertConfig, seed: int) -> ViLBertForTasks:
    """Build the model with parameters initialised from the seed."""
    torch.manual_seed(seed)
    config._attn_implementation = "sdpa"
    return ViLBertForTasks(config)


def load_task_start(model: ViLBertForTasks, settings: FinetuneSettings, corpus: Corpus) -> None:
    """Initialise a new model: load the checkpoint of `--init-from` and whiten the features if requested.

    Heads and task tokens that the checkpoint lacks are initialised randomly. Raises RefusedError for other missing
    ones.
    """
    if settings.init_from != NONE:
        tokens = model.config.task_specific_tokens
        try:
            report = load_checkpoint(model, settings.init_from, skip_mismatched_heads=True, allow_missing=tokens)
        except (CheckpointError, OSError, ValueError) as error:
            raise RefusedError(f"--init-from {settings.init_from}: {error}") from error
        lacking = [name for name in report.missing if not is_head(name) and TASK_TOKENS not in name]
        if lacking:
            raise RefusedError(
                f"--init-from {settings.init_from}: lacks {len(lacking):,} parameters of the model, as {lacking[0]}; "
                "give the --model that it belongs to"
            )
        logger.info("%s", report)
    if settings.whiten_features:
        whiten_features(model, corpus)


def begin_with_prior(model: ViLBertForTasks, task: Task) -> None:
    """Set the biases of an answer classifier to the log-odds of the answers' mean scores in the training items.

    The model then starts from the answer frequencies, as detectors do (Lin et al. 2017, Focal Loss, 3.3).
    """
    targets = task.targets(range(len(task.items)), [None] * len(task.items))
    labels, scores = targets["label_ids"], targets.get("label_scores", torch.ones(()))
    there = labels >= 0
    biases = dict(model.get_submodule(task.head).named_parameters())
    last = biases[[name for name in biases if name.endswith("bias")][-1]]
    sums = torch.zeros(len(last)).index_add(0, labels[there], scores.expand(labels.shape)[there])
    count = max(task.count(targets), 1)
    with torch.no_grad():
        last.copy_(torch.logit((sums / count).clamp(1 / (2 * count), 1 - 1 / (2 * count))))
