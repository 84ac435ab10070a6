"""Whether a run's tokenizer is the one that its initial word embeddings were trained with.

Row i of the embeddings is word piece i of that tokenizer. Another one of a like size would train as well as nothing had
been loaded, and nobody would see it.
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
    """Refuse a tokenizer that numbers word pieces otherwise than the one that `--init-from` was trained with.

    Where that one lies beside the parameters, each word piece is to have the number there that it has here; where not,
    there are to be as many as the model embeds, and the tokenizer may not be of these captions (`--tokenizer new`).
    RefusedError says both sizes.
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
    """Return the tokenizer that comes with a model: in its folder, in the run that a checkpoint is of, or on the hub.

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
    except (CheckpointError, OSError):  # offline, and not kept here
        return False
