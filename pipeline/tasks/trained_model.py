"""The model and the tokenizer that a run of training made, read from its folder.

A folder may be damaged, or made by somebody else: its configuration is compared with the parameters before a model is
built, only safetensors are read, and every problem is a RefusedError that names the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vilbert.interrupts import delayed_interrupts
from vilbert.model.architecture import count_layers, describe, differences
from vilbert.model.checkpoint import check_tensors, copy_tensors
from vilbert.model.config import ViLBertConfig
from vilbert.model.config_file import CONFIG_FILE, SETTINGS, make_config, read_settings
from vilbert.model.load_report import some
from vilbert.model.tensor_files import CheckpointError
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.tasks.trained_folder import TrainedFolder
from vilbert.pipeline.train.examples.words import load_tokenizer_folder
from vilbert.pipeline.train.run.checkpoint_manifest import INFO, MODEL
from vilbert.pipeline.train.run.checkpoints import read_checkpoint

LAYER_SETTINGS = ("num_hidden_layers", "v_num_hidden_layers", "v_biattention_id")


def load_model(kind: type[PreTrainedModel], folder: TrainedFolder, device: torch.device) -> PreTrainedModel:
    """Return the model on its device, in float32 and evaluation mode.

    Raises:
        RefusedError: The folder has no whole model, or its configuration is not that of its parameters.
        ShardError: A checkpoint of a run is damaged (`vilbert.pipeline.train.run.checkpoint_manifest.CheckpointError`).
    """
    config = _read_config(folder)
    weights = folder.model / MODEL
    tensors = _read_tensors(weights)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    # Before a model of the configured size is built, the parameters have to be of that size.
    if others := differences(config, shapes):
        raise RefusedError(
            f"{folder.model}: {CONFIG_FILE} does not belong to {MODEL}: {describe(others)}; copy the whole "
            "folder again, or train again"
        )
    if absent := [setting for setting in LAYER_SETTINGS if setting not in count_layers(shapes)]:
        raise RefusedError(f"{weights}: contains no layers of a ViLBERT ({', '.join(absent)}); give a training run")
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model = kind(config)
    try:
        report = check_tensors(model, tensors, layout="reference", allow_missing=True)
    except CheckpointError as error:
        raise RefusedError(f"{weights}: {error}") from error
    if report.missing:
        raise RefusedError(
            f"{weights}: lacks {len(report.missing):,} parameters of {kind.__name__}: {some(report.missing)}; give a "
            "complete model of that kind"
        )
    model.to_empty(device=device)
    model.tie_weights()
    copy_tensors(model, tensors, report)
    model.train(False)
    return model


def load_its_tokenizer(folder: TrainedFolder, config: Any) -> PreTrainedTokenizerBase:
    """Return the tokenizer that the model was trained with; config: the model's, a `ViLBertConfig`.

    Raises RefusedError if it is missing or damaged, or has words that the model does not embed.
    """
    tokenizer = load_tokenizer_folder(str(folder.tokenizer))
    last = max(tokenizer.get_vocab().values(), default=0)
    if last >= config.vocab_size:
        raise RefusedError(
            f"{folder.tokenizer}: its tokenizer has word ids up to {last:,}, the model embeds {config.vocab_size:,}: "
            "they do not belong to one model; copy the complete folder again"
        )
    return tokenizer


def _read_config(folder: TrainedFolder) -> ViLBertConfig:
    if folder.is_checkpoint:
        path = folder.model / INFO
        found: Any = read_checkpoint(folder.model, hashes=True).info
        for part in ("run", "model"):
            found = found.get(part) if isinstance(found, dict) else None
        settings = {name: value for name, value in found.items() if name in SETTINGS} if isinstance(found, dict) else {}
    else:
        path = folder.model / CONFIG_FILE
    try:
        return make_config(settings if folder.is_checkpoint else read_settings(path))
    except FileNotFoundError:
        raise RefusedError(
            f"{folder.model}: is not a complete model, {CONFIG_FILE} is missing; give a run of `vilbert finetune`"
        ) from None
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise RefusedError(f"{path}: is not a model configuration: {reason}; copy the complete folder again") from error


def _read_tensors(weights: Path) -> dict[str, Tensor]:
    if not weights.is_file():
        beside = weights.with_name("pytorch_model.bin").is_file()
        remedy = "`vilbert convert-checkpoint` makes it from pytorch_model.bin" if beside else "name a run of training"
        raise RefusedError(f"{weights.parent}: is not a complete model, {weights.name} is missing; {remedy}")
    try:
        with delayed_interrupts():
            return dict(load_file(weights))
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise RefusedError(f"{weights}: its parameters are damaged ({error}); copy it again") from error
