"""Check that a run's tokenizer is the one with which its initial word embeddings were trained.

Row i of the embeddings belongs to token i of that tokenizer. With another tokenizer of similar size, training would be
no better than from random embeddings, without any visible error.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from vilbert.model.tensor_files import CheckpointError
from vilbert.model.text_stream import fetch_file
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.train.examples.words import NEW, VOCABULARY_FILES, holds_vocabulary, load_tokenizer
from vilbert.pipeline.train.pretraining.settings import PretrainSettings


def require_its_vocabulary(settings: PretrainSettings, tokenizer: PreTrainedTokenizerBase, *, embedded: int) -> None:
    """Raise RefusedError if the tokenizer assigns other ids than the one of `--init-from`.

    If that tokenizer is available next to the parameters, every token must have the same id in both. Otherwise the
    number of tokens must equal that of the model's embeddings, and the tokenizer must not be built from the captions
    (`--tokenizer new`).
    """
    ours, init_from = tokenizer.get_vocab(), settings.init_from
    sizes = f"--tokenizer {settings.tokenizer} has {len(ours)} word pieces, --init-from {init_from} "
    if len(ours) > embedded:
        raise RefusedError(f"{sizes}embeds {embedded}: give the tokenizer that --init-from was trained with")
    its = tokenizer_beside(init_from)
    if its is None:
        if settings.tokenizer != NEW and len(ours) == embedded:
            return
        raise RefusedError(
            f"{sizes}embeds {embedded} of a tokenizer that is not stored beside it: give the tokenizer that it was "
            "trained with (if it has fewer word pieces, put its files beside --init-from), or --init-from none"
        )
    theirs = its.get_vocab()
    others = sorted((number, piece) for piece, number in ours.items() if theirs.get(piece) != number)
    if others:
        number, piece = others[0]
        raise RefusedError(
            f"{sizes}was trained with another {len(theirs)}: {len(others)} differ, the first is {piece!r}, number "
            f"{number} here and {theirs.get(piece, 'none')} there; give --tokenizer {its.name_or_path}"
        )


def tokenizer_beside(init_from: str) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer of a model: from its folder, the run of its checkpoint, or the hub.

    None if no tokenizer with a mask token is found.
    """
    path = Path(init_from)
    if path.exists():
        folder = path if path.is_dir() else path.parent
        near = [str(place) for place in (folder, folder.parent.parent / "tokenizer") if holds_vocabulary(place)]
    else:
        near = [init_from] if any(_is_on_hub(init_from, name) for name in VOCABULARY_FILES) else []
    with contextlib.suppress(RefusedError):
        return load_tokenizer(near[0], None) if near else None
    return None


def _is_on_hub(model: str, name: str) -> bool:
    try:
        return fetch_file(model, name) is not None
    except (CheckpointError, OSError):  # offline, and not cached
        return False
