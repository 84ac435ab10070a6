"""Initialise the text stream from a BERT or RoBERTa of transformers, as ViLBERT's pre-training does.

    config = ViLBertConfig(**text_settings("bert-base-uncased"))
    report = load_text_stream(ViLBertForPreTraining(config), "bert-base-uncased")

Embeddings, text layers and the masked-word head are loaded; the visual stream and co-attention are unchanged.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import PreTrainedModel

from vilbert.model.checkpoint import LoadReport, check_tensors, copy_tensors, read_state_dict
from vilbert.model.hub import hub_problem
from vilbert.model.layouts import clean, inverse
from vilbert.model.tensor_files import CheckpointError
from vilbert.untrusted.documents import read_json

# Settings of BERT and RoBERTa in transformers with the same names as ours, and their defaults.
_SIZES = {
    "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "hidden_act": "gelu", "max_position_embeddings": 512,
    "type_vocab_size": 2, "pad_token_id": 0,
}  # fmt: skip
_EPS = 1e-12
_FILES = ("model.safetensors", "pytorch_model.bin")
_ROBERTA_HEAD = {
    "lm_head.dense.": "cls.predictions.transform.dense.",
    "lm_head.layer_norm.": "cls.predictions.transform.LayerNorm.",
    "lm_head.decoder.": "cls.predictions.decoder.",
    "lm_head.bias": "cls.predictions.bias",
}
_TEXT = ("bert.embeddings.", "bert.encoder.layer.", "cls.predictions.")
_DECODER_BIAS = "cls.predictions.decoder.bias"  # the same as cls.predictions.bias
_POSITION_IDS = "bert.embeddings.position_ids"  # a buffer of older versions


def fetch_file(source: str | os.PathLike[str], name: str) -> Path | None:
    """Return a file of a folder or of a model on the Hub, or None if it has no such file."""
    if Path(source).is_dir():
        path = Path(source) / name
        return path if path.is_file() else None
    try:
        return Path(hf_hub_download(str(source), name, local_files_only=hub_problem() is not None))
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{source}: no such file or folder here, and {name} of a model of that name is not in the Hugging Face "
            f"cache of this machine; {hub_problem() or error}. Give a folder, or download the model where there is a "
            "network"
        ) from error
    except EntryNotFoundError:
        return None
    except (HfHubHTTPError, HFValidationError) as error:
        raise CheckpointError(f"{source}: is neither a folder nor a model on the Hub: {error}") from error


def text_settings(source: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the settings of `ViLBertConfig` for a text stream with the sizes of a BERT or RoBERTa.

    Args:
        source: A folder, or a model name on the Hub. If it does not have 12 text layers, also set `t_biattention_id`.

    Raises:
        CheckpointError: The model is neither a BERT nor a RoBERTa.
    """
    path = fetch_file(source, "config.json")
    if path is None:
        raise CheckpointError(
            f"{source}: has no config.json; give a folder that save_pretrained wrote, or a model name on the Hub"
        )
    try:
        found = read_json(path)
    except ValueError as error:
        raise CheckpointError(f"{path}: is not a configuration: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: is not a JSON object of settings but a {type(found).__name__}")
    kind = found.get("model_type", "bert")
    if kind not in ("bert", "roberta"):
        raise CheckpointError(f"{source}: is a {kind}; the text stream is a bert or a roberta")
    defaults = {**_SIZES, "pad_token_id": 1 if kind == "roberta" else 0}
    sizes = {name: found.get(name, default) for name, default in defaults.items()}
    return {**sizes, "layer_norm_eps": found.get("layer_norm_eps", _EPS), "text_model": kind}


def text_names(names: Iterable[str]) -> dict[str, str | None]:
    """Map the names in a file of BERT or RoBERTa, with or without heads, to ours, or to None if unused."""
    mapped: dict[str, str | None] = {}
    for name in names:
        ours = clean(name)
        for theirs, prefix in _ROBERTA_HEAD.items():
            ours = ours.replace(theirs, prefix, 1) if ours.startswith(theirs) else ours
        ours = ours.removeprefix("roberta.").removeprefix("bert.")
        ours = ours if ours.startswith("cls.") else f"bert.{ours}"
        mapped[name] = ours if ours.startswith(_TEXT) and ours not in (_DECODER_BIAS, _POSITION_IDS) else None
    inverse(mapped)
    return mapped


def _differences(config: Any, theirs: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} {getattr(config, name)!r}, there {value!r}"
        for name, value in theirs.items()
        if getattr(config, name) != value
    ]


def load_text_stream(model: PreTrainedModel, source: str | os.PathLike[str]) -> LoadReport:
    """Load the text stream of a ViLBERT from a BERT or RoBERTa of transformers, in place.

    With co-attention disabled, the text states then equal those of `BertModel` or `RobertaModel`.

    Args:
        model: The ViLBERT.
        source: A folder with config.json and model.safetensors or pytorch_model.bin, or a model name on the Hub.

    Returns:
        A report. A different layer_norm_eps is listed in its notes.

    Raises:
        CheckpointError: Settings that affect shapes or positions differ. The message names them.
    """
    theirs = text_settings(source)
    eps = theirs.pop("layer_norm_eps")
    if differences := _differences(model.config, theirs):
        raise CheckpointError(
            f"the text stream is not that of {source}: {'; '.join(differences)}. Create the config with "
            "ViLBertConfig(**text_settings(source), ...)"
        )
    path = next((found for name in _FILES if (found := fetch_file(source, name)) is not None), None)
    # A folder may have several weights files, which `read_state_dict` merges.
    state = read_state_dict(source if path is None and Path(source).is_dir() else path or _absent(source))
    names = text_names(state)
    tensors = {ours: state[name] for name, ours in names.items() if ours is not None}
    report = check_tensors(
        model,
        tensors,
        layout=theirs["text_model"],
        unused=tuple(name for name, ours in names.items() if ours is None),
        allow_missing=True,
    )
    copy_tensors(model, tensors, report)
    missing = tuple(name for name in report.missing if name.startswith(_TEXT) and ".task_embeddings." not in name)
    if backbone := [name for name in missing if name.startswith("bert.")]:
        raise CheckpointError(
            f"{source}: lacks {len(backbone)} parameters of the text stream: {', '.join(backbone[:8])}"
        )
    eps_note = f"layer_norm_eps {model.config.layer_norm_eps}, there {eps}: states will differ by as much"
    notes = () if eps == model.config.layer_norm_eps else (eps_note,)
    return replace(report, missing=missing, unread=(), notes=notes)


def _absent(source: str | os.PathLike[str]) -> Path:
    raise CheckpointError(f"{source}: has none of {', '.join(_FILES)}")
