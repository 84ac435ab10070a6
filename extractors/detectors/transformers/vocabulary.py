"""The names that an open-vocabulary detector looks for, and what its text encoder is given of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vilbert.extractors.extractor import ExtractorError
from vilbert.extractors.pretrained import PretrainedFolder, load_processor

MAX_BYTES = 1 << 20
MAX_NAMES = 65_535
"""Class ids are uint16, and 0 is the background."""


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Names in the form that a family of detectors takes; the fields of other families are empty."""

    count: int
    """C, the number of names."""
    tokens: Mapping[str, Tensor]
    """Grounding DINO: arguments of the model, int64 [1, T] each: all names in one text."""
    name_of_token: Tensor
    """Grounding DINO: int64 [T], the name that a token belongs to, -1 for separators."""
    embeddings: Tensor
    """OWL: float32 [1, C, E]."""

    def to(self, device: torch.device) -> Prompts:
        """Return the same on a device."""
        return Prompts(
            count=self.count,
            tokens={key: value.to(device) for key, value in self.tokens.items()},
            name_of_token=self.name_of_token.to(device),
            embeddings=self.embeddings.to(device),
        )


def read_vocabulary(path: str) -> tuple[str, ...]:
    """Return the names in a text file, one per line; empty lines are skipped.

    Raises:
        ExtractorError: The file cannot be read, is not UTF-8, has no names, too many, or one of them twice.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or error
        raise ExtractorError(f"--vocabulary {path}: cannot read it: {problem}") from error
    if len(data) > MAX_BYTES:
        raise ExtractorError(f"--vocabulary {path}: larger than {MAX_BYTES} bytes; give one name per line")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ExtractorError(f"--vocabulary {path}: not UTF-8 text: {error}") from error
    lines = {number: " ".join(line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip()}
    first: dict[str, int] = {}
    for number, name in lines.items():
        if not name.isprintable():
            raise ExtractorError(f"--vocabulary {path}: line {number} has control characters")
        if first.setdefault(name.lower(), number) != number:
            raise ExtractorError(f"--vocabulary {path}: line {number} repeats {name!r} of line {first[name.lower()]}")
    if not 1 <= len(lines) <= MAX_NAMES:
        raise ExtractorError(f"--vocabulary {path}: has {len(lines)} names; give 1 to {MAX_NAMES}, one per line")
    return tuple(lines.values())


def make_prompts(model: Any, folder: PretrainedFolder, names: tuple[str, ...], prompt: str) -> Prompts:
    """Return what the model takes of these names.

    Args:
        model: The detector, on the CPU.
        folder: Where its tokenizer is.
        names: The vocabulary.
        prompt: Text with `{}` where the name goes.

    Raises:
        ExtractorError: The names do not fit into the text that the model reads, or the tokenizer cannot be read.
    """
    from transformers import AutoTokenizer

    tokenizer = load_processor(AutoTokenizer, folder)
    texts = [prompt.format(name) for name in names]
    if folder.model_type in ("owlvit", "owlv2"):
        return _owl_prompts(model, tokenizer, texts)
    return _grounding_prompts(model, tokenizer, texts)


@torch.inference_mode()
def _owl_prompts(model: Any, tokenizer: Any, texts: list[str]) -> Prompts:
    length = model.config.text_config.max_position_embeddings
    tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    owl = model.owlv2 if hasattr(model, "owlv2") else model.owlvit
    # in parts: thousands of names at once would take gigabytes
    embeddings = [
        owl.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
        for ids, mask in zip(tokens["input_ids"].split(64), tokens["attention_mask"].split(64), strict=True)
    ]
    return Prompts(
        count=len(texts),
        tokens={},
        name_of_token=torch.zeros(0, dtype=torch.int64),
        embeddings=torch.cat(embeddings)[None].clone(),
    )


def _grounding_prompts(model: Any, tokenizer: Any, texts: list[str]) -> Prompts:
    """Return one text "cat. dog." with the name of each token; a full stop separates names, so none may have one."""
    if dotted := next((text for text in texts if "." in text), None):
        raise ExtractorError(
            f"--vocabulary: {dotted!r}: Grounding DINO separates names by full stops; write it without"
        )
    special = set(tokenizer.all_special_ids)
    stop = tokenizer.convert_tokens_to_ids(".")
    tokens = tokenizer(". ".join(text.lower() for text in texts) + ".", return_tensors="pt", return_token_type_ids=True)
    name_of_token, name = [], 0
    for token in tokens["input_ids"][0].tolist():
        name_of_token.append(-1 if token == stop or token in special else name)
        name += token == stop
    limit = min(model.config.max_text_len, model.config.text_config.max_position_embeddings)
    if len(name_of_token) > limit:
        raise ExtractorError(
            f"--vocabulary: {len(texts)} names are {len(name_of_token)} tokens, and this model reads {limit}; give "
            "fewer names, or use an OWLv2 model, which takes any number"
        )
    if empty := set(range(len(texts))) - set(name_of_token):
        raise ExtractorError(f"--vocabulary: {texts[min(empty)]!r} has no token in this model's vocabulary")
    return Prompts(
        count=len(texts),
        tokens={key: tokens[key] for key in ("input_ids", "attention_mask", "token_type_ids")},
        name_of_token=torch.tensor(name_of_token),
        embeddings=torch.zeros(0),
    )
