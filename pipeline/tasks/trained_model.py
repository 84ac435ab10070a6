"""The model and the tokenizer that a fine-tuning run made."""

from __future__ import annotations

from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from model.config import ViLBertConfig
from pipeline.tasks.trained_folder import TrainedFolder
from pipeline.train.checkpoint_manifest import MODEL
from pipeline.train.checkpoints import read_checkpoint


def load_model(kind: type[PreTrainedModel], folder: TrainedFolder, device: torch.device) -> PreTrainedModel:
    """Return the model on its device, in evaluation mode.

    Raises CheckpointError where the checkpoint is damaged, OSError where there is no whole model.
    """
    if folder.is_checkpoint:
        config = ViLBertConfig(**read_checkpoint(folder.model, hashes=True).info["run"]["model"])
        config._attn_implementation = "sdpa"
        model = kind(config)
        tensors = load_file(folder.model / MODEL)
        tied = {name: tensors[source] for name, source in (model._tied_weights_keys or {}).items()}
        model.load_state_dict({**tensors, **tied})
    else:
        try:
            loaded: Any = kind.from_pretrained(
                folder.model,
                attn_implementation="sdpa",
                output_loading_info=True,
                use_safetensors=True,
                trust_remote_code=False,
            )
        except SafetensorError as error:
            raise OSError(f"its file of parameters is damaged: {error}") from error
        model, told = loaded
        if lacking := sorted(told["missing_keys"]):
            raise OSError(f"it lacks {len(lacking)} parameters of {kind.__name__}, as {lacking[0]}")
    torch.nn.Module.to(model, device)  # transformers' own has no types
    model.train(False)
    return model


def load_its_tokenizer(folder: TrainedFolder) -> PreTrainedTokenizerBase:
    """Return the tokenizer that the model was trained with; OSError where there is none."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder.tokenizer, local_files_only=True, trust_remote_code=False
        )
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise OSError(
            "its tokenizer is Python code in the folder, which is never run; give a tokenizer.json"
        ) from error
    return tokenizer
