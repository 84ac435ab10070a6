"""Tokenize captions: the tokenizer of a run, and the padded ids of a batch.

A tokenizer comes from the hub or a folder, or is made of the captions at hand: a vocabulary of whole words, for data
of few words, where BERT's pieces would only make captions longer.

Shapes: B captions, T word pieces of the longest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from vilbert.manifests.captions import storable
from vilbert.model.hub import hub_problem
from vilbert.pipeline.errors import RefusedError, first_line
from vilbert.untrusted.documents import read_json

NEW = "new"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SHIPPED = Path(__file__).parents[2] / "recipes" / "tokenizer"
"""Folder of vocabularies shipped with the package, one token per line."""
VOCABULARY_SIZE = 30_522  # BERT's; words beyond it are spelt from their characters
VOCABULARY_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model")
JSON_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    "config.json",
)
"""JSON files of a tokenizer's folder that transformers reads if they exist."""
MAX_TOKENIZER_BYTES = 1 << 29
PROBE = "a \u9f98"
"""A text with a character that few vocabularies contain, to check that a tokenizer works."""
LONGEST_WORD = 100  # WordPiece calls a longer word unknown without looking at it


def load_tokenizer(source: str, captions: Iterable[str] | None) -> PreTrainedTokenizerFast:
    """Load a fast tokenizer, or make one of `captions` where source is "new".

    source: "new"; "shapes", the words of the shapes data set, of its captions and of its tasks; a folder that
    `save_pretrained` wrote; or a name on the hub (its local copy is used where there is one). The tokenizer has a
    classifier, a separator, a padding and a mask token.
    Raises RefusedError if there is no such tokenizer, or it cannot mask words.
    """
    if source == NEW:
        if captions is None:
            raise RefusedError("tokenizer new: no captions to build a vocabulary from; give a tokenizer instead")
        return new_tokenizer(captions)
    if (shipped := SHIPPED / f"{source}.txt").is_file():
        return _whole_words(shipped.read_text(encoding="utf-8").splitlines())
    return _require_masking(source, _load_from_folder(source) if Path(source).is_dir() else _load_from_hub(source))


def load_tokenizer_folder(folder: str) -> PreTrainedTokenizerFast:
    """Load the fast tokenizer in a folder, with the checks of `load_tokenizer`; RefusedError where it is damaged."""
    return _require_masking(folder, _load_from_folder(folder))


def _require_masking(source: str, tokenizer: Any) -> PreTrainedTokenizerFast:
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise RefusedError(
            f"tokenizer {source}: is {type(tokenizer).__name__}, which is not a fast tokenizer; give another"
        )
    missing = [name for name in ("cls", "sep", "pad", "mask") if getattr(tokenizer, f"{name}_token_id") is None]
    if missing:
        raise RefusedError(
            f"tokenizer {source}: has no {', '.join(missing)} token, which masking needs: give one such as "
            "bert-base-uncased, or new"
        )
    return tokenizer


def holds_vocabulary(folder: Path) -> bool:
    """Return whether a folder contains a file from which a tokenizer can be loaded."""
    return any((folder / name).is_file() for name in VOCABULARY_FILES)


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save a tokenizer as a folder for `load_tokenizer`; raise OSError if it cannot be written."""
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:  # tokenizers raises a bare Exception of a full disk
        if type(error) is not Exception and not isinstance(error, OSError):
            raise
        raise OSError(f"the tokenizer cannot be written: {error}") from error


def _load_from_folder(folder: str) -> Any:
    if not holds_vocabulary(Path(folder)):  # transformers would make one of special tokens alone
        raise RefusedError(
            f"tokenizer {folder}: the folder contains no tokenizer, none of {', '.join(VOCABULARY_FILES)}; give one "
            "that "
            "holds tokenizer.json and tokenizer_config.json"
        )
    for name in JSON_FILES:
        if (path := Path(folder) / name).is_file():
            _require_object(path)
    try:
        return _from_transformers(folder, local_files_only=True)
    except _LoadError as error:
        raise RefusedError(
            f"tokenizer {folder}: the folder contains no complete tokenizer ({error}); give one that holds "
            "tokenizer.json and tokenizer_config.json as save_pretrained wrote them"
        ) from error


class _LoadError(Exception):
    """transformers cannot load a tokenizer; the message contains the reason."""


def _from_transformers(source: str, **options: bool) -> Any:
    """Return the tokenizer that transformers makes of a folder or a name; raise _LoadError where it makes none."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
        tokenizer(PROBE, add_special_tokens=False)
    except BaseException as error:  # tokenizers raises a bare Exception, and PanicException, of files that it refuses
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if "trust_remote_code" in str(error):
            raise RefusedError(
                f"tokenizer {source}: its tokenizer is Python code, which is not executed; give a folder with a "
                "tokenizer.json"
            ) from None
        raise _LoadError(first_line(error)) from error
    return tokenizer


def _require_object(path: Path) -> None:
    """Refuse a file of a tokenizer that is not a JSON object, which transformers would fail at without naming it."""
    try:
        found = read_json(path, max_bytes=MAX_TOKENIZER_BYTES, allow_surrogates=True)
    except (OSError, ValueError) as error:
        raise RefusedError(f"{path}: is damaged: {error}; copy the folder again") from error
    if not isinstance(found, dict):
        raise RefusedError(f"{path}: is damaged: not a JSON object but a {type(found).__name__}; copy the folder again")


def _load_from_hub(name: str) -> Any:
    here = "no tokenizer of that name in the Hugging Face cache of this machine"
    try:
        return _from_transformers(name, local_files_only=True)
    except _LoadError as error:
        if not isinstance(error.__cause__, (OSError, ValueError)):  # which say that it is not on this machine yet
            here = f"the one of that name in the Hugging Face cache of this machine is damaged ({error})"
    problem = hub_problem()
    try:
        if problem is None:
            return _from_transformers(name)
    except _LoadError as error:
        problem = str(error)
    raise RefusedError(
        f"tokenizer {name}: no such folder here, and {here}; {problem}. Give a folder that holds tokenizer.json and "
        "tokenizer_config.json, or new to build a vocabulary from the captions"
    )


def new_tokenizer(captions: Iterable[str], *, size: int = VOCABULARY_SIZE) -> PreTrainedTokenizerFast:
    """Make a lower-case WordPiece tokenizer whose vocabulary is the words of `captions`.

    The vocabulary is the five special tokens, the characters, the characters inside a word, then whole words, the
    most frequent first and equally frequent ones by the alphabet, until it has `size` entries. It does not depend on
    the order of the captions. A word that is not in it is spelt from its characters.
    """
    normalizer, splitter = _splitting()
    counts: Counter[str] = Counter()
    for caption in captions:
        counts.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(storable(caption))))
    if not counts:
        raise RefusedError(
            "--tokenizer new: the training samples have no captions to build a vocabulary from; give a tokenizer"
        )
    characters = sorted(set(chain.from_iterable(counts)))
    ranked = sorted((word for word in counts if 1 < len(word) <= LONGEST_WORD), key=lambda word: (-counts[word], word))
    entries = [*SPECIAL, *characters, *(f"##{character}" for character in characters)]
    entries += ranked[: max(size - len(entries), 0)]
    return _whole_words(entries)


def _splitting() -> tuple[normalizers.Normalizer, pre_tokenizers.PreTokenizer]:
    """Return the normalizer and the pre-tokenizer of lower-case words, as in BERT."""
    return normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()


def _whole_words(entries: Sequence[str]) -> PreTrainedTokenizerFast:
    """Return the tokenizer with a vocabulary, which begins with the special tokens."""
    normalizer, splitter = _splitting()
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    model = models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=LONGEST_WORD)  # noqa: S106
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    return BertTokenizer(tokenizer_object=tokenizer)


class Words(NamedTuple):
    """The captions of a batch as ids."""

    ids: NDArray[np.int64]
    """[B, T]: classifier token, caption, separator, padding."""
    lengths: NDArray[np.int64]
    """[B] number of ids without padding."""
    maskable: NDArray[np.bool_]
    """[B, T] whether the id is a token of the caption."""


def to_pieces(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of each text, without special tokens, padding or truncation."""
    backend: Tokenizer = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    storable_texts = [storable(text) for text in texts]  # a tokenizer takes no lone surrogates
    return [encoded.ids for encoded in backend.encode_batch_fast(storable_texts, add_special_tokens=False)]


def to_words(tokenizer: PreTrainedTokenizerBase, captions: Sequence[str], *, max_words: int) -> Words:
    """Tokenize captions and pad them to the longest one; captions longer than `max_words` are truncated."""
    kept = [ids[: max_words - 2] for ids in to_pieces(tokenizer, captions)]
    counts = np.fromiter(map(len, kept), dtype=np.int64, count=len(kept))
    places = np.arange(int(counts.max(initial=0)) + 2)
    ids = np.full((len(kept), len(places)), tokenizer.pad_token_id, dtype=np.int64)
    inside = (places >= 1) & (places <= counts[:, None])
    ids[inside] = np.fromiter(chain.from_iterable(kept), dtype=np.int64, count=int(counts.sum()))
    ids[:, 0] = tokenizer.cls_token_id
    ids[np.arange(len(kept)), counts + 1] = tokenizer.sep_token_id
    # A caption may spell a special token, such as "[SEP]"; it is no word to learn.
    special = [tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id, tokenizer.mask_token_id]
    return Words(ids, counts + 2, inside & ~np.isin(ids, special))


def replacement_ids(tokenizer: PreTrainedTokenizerBase, *, special: bool) -> NDArray[np.int64]:
    """Return the ids of random replacement tokens, ascending: the vocabulary with or without special tokens."""
    ids = np.arange(len(tokenizer), dtype=np.int64)
    return ids if special else np.delete(ids, tokenizer.all_special_ids)
