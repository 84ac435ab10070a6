"""The published way from disk to batch, reimplemented for comparison with ours.

It does what `ConceptCapLoaderTrain` of jiasenlu/vilbert_beta does, and what that calls of tensorpack and of BERT's
first tokenizer, in the same order: an LMDB value per sample, unpacked whole; masks by loops over words and regions; the
arrays of each sample padded, copied and sent to the training process one by one; batches stacked there, then the global
region put before the others. Omitted, in its favour: the buffer that shuffles samples and the process that reads them.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import multiprocessing
import pickle
import random
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any, Literal, cast

import lmdb
import msgpack
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vilbert.extractors.soft_labels import region_labels
from vilbert.pipeline.shards.sample import Sample

Storage = Literal["msgpack", "base64"]
"""msgpack: arrays as they are, as tensorpack writes what pre-training reads. base64: a pickled dict of text, as the
same repository keeps the features of its tasks."""

Point = list[Any]
WORDS, REGIONS, FEATURES, CLASSES = 36, 36, 2048, 1601
AHEAD = 50  # samples that tensorpack's socket takes in before they are asked for
NAMES = (
    "input_ids", "attention_mask", "token_type_ids", "masked_lm_labels", "next_sentence_label", "image_feat",
    "image_loc", "image_target", "image_label", "image_attention_mask", "image_id",
)  # fmt: skip


def write_lmdb(path: Path, samples: Iterable[Sample], storage: Storage) -> None:
    """Write samples as one LMDB file, keys being their numbers."""
    environment = lmdb.open(str(path), subdir=False, map_size=1 << 40, sync=False, lock=False)
    for number, sample in enumerate(samples):
        with environment.begin(write=True) as transaction:
            transaction.put(f"{number:08}".encode(), _encode(sample, storage))
    environment.close()


def _encode(sample: Sample, storage: Storage) -> bytes:
    regions = sample.regions
    features = regions.features.astype(np.float32)
    target = region_labels(regions, CLASSES)
    sizes = [str(len(regions)), str(regions.height), str(regions.width)]
    identity = [int(sample.meta["image_id"]), sample.meta["captions"][0]]
    if storage == "msgpack":
        return dumps([features, target, regions.boxes, *sizes, *identity])
    text = [base64.b64encode(array.tobytes()) for array in (features, target, regions.boxes)]
    names = ("features", "cls_prob", "boxes", "num_boxes", "image_h", "image_w", "image_id", "caption")
    return pickle.dumps(dict(zip(names, [*text, *sizes, *identity], strict=True)))


def _decode(value: bytes, storage: Storage) -> Point:
    if storage == "msgpack":
        return loads(value)
    row = pickle.loads(value)  # what is measured is what it costs
    boxes = int(row["num_boxes"])
    arrays = [
        np.frombuffer(base64.b64decode(row[name]), dtype=np.float32).reshape(boxes, -1)
        for name in ("features", "cls_prob", "boxes")
    ]
    return [*arrays, *(row[name] for name in ("num_boxes", "image_h", "image_w", "image_id", "caption"))]


def dumps(point: Point) -> bytes:
    """Pack a list as msgpack with msgpack_numpy's form of arrays."""
    return cast(bytes, msgpack.packb(point, default=_pack_array, use_bin_type=True))


def _pack_array(value: Any) -> dict[str, Any]:
    array = np.asarray(value)
    return {"nd": True, "type": array.dtype.str, "shape": array.shape, "data": array.tobytes()}


def loads(data: bytes) -> Point:
    """Unpack what `dumps` packed; arrays are views of the bytes."""
    return cast(Point, msgpack.unpackb(data, object_hook=_unpack_array, raw=False))


def _unpack_array(value: dict[str, Any]) -> Any:
    if "nd" not in value:
        return value
    return np.frombuffer(value["data"], dtype=value["type"]).reshape(value["shape"])


class WordByWord:
    """BERT's first tokenizer: text cleaned and split by character, each word cut into the longest pieces there are."""

    def __init__(self, vocabulary: dict[str, int]) -> None:
        self.vocab = vocabulary

    def tokenize(self, text: str) -> list[str]:
        """Return the pieces of a text, in lower case."""
        return [piece for word in self._words(text) for piece in self._pieces(word)]

    def _words(self, text: str) -> list[str]:
        cleaned = []
        for character in text:
            kind = unicodedata.category(character)
            if character in "\t\n\r " or kind == "Zs":
                cleaned.append(" ")
            elif ord(character) in (0, 0xFFFD) or kind.startswith("C"):
                continue
            elif 0x4E00 <= ord(character) <= 0x9FFF or 0x3400 <= ord(character) <= 0x4DBF:
                cleaned.append(f" {character} ")
            else:
                cleaned.append(character)
        words: list[str] = []
        for word in "".join(cleaned).split():
            plain = [c for c in unicodedata.normalize("NFD", word.lower()) if unicodedata.category(c) != "Mn"]
            part = ""
            for character in plain:
                if unicodedata.category(character).startswith("P") or character in "$+<=>^`|~":
                    words += [part, character] if part else [character]
                    part = ""
                else:
                    part += character
            words += [part] if part else []
        return words

    def _pieces(self, word: str) -> list[str]:
        pieces, start = [], 0
        characters = list(word)
        while start < len(characters):
            end = len(characters)
            while start < end:
                piece = ("##" if start else "") + "".join(characters[start:end])
                if piece in self.vocab:
                    break
                end -= 1
            if start == end:
                return ["[UNK]"]
            pieces.append(piece)
            start = end
        return pieces


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """What becomes of a sample."""

    tokenizer: WordByWord
    captions: Sequence[str]
    """Those that an image may get in place of its own."""
    masked: bool = True
    """False leaves out masks and swaps, to compare batches."""

    def __call__(self, point: Point) -> Point:
        """Return the arrays of a sample, padded, in the order of NAMES."""
        features_wp, target_wp, boxes_wp, num_boxes, image_h, image_w, image_id, caption = point
        feature = np.zeros((REGIONS, FEATURES), dtype=np.float32)
        target = np.zeros((REGIONS, CLASSES), dtype=np.float32)
        location = np.zeros((REGIONS, 5), dtype=np.float32)
        boxes, width, height = int(num_boxes), float(image_w), float(image_h)
        feature[:boxes], target[:boxes], location[:boxes, :4] = features_wp, target_wp, boxes_wp
        sides = location[:, 2:4] - location[:, 0:2]
        location[:, 4] = sides[:, 1] * sides[:, 0] / (width * height)
        for column, size in enumerate((width, height, width, height)):
            location[:, column] = location[:, column] / size
        feature, target = copy.deepcopy(feature), copy.deepcopy(target)
        swapped = self.masked and random.random() <= 0.5
        if swapped:
            caption = self.captions[random.randint(0, len(self.captions) - 1)]
        tokens = self.tokenizer.tokenize(caption)
        while len(tokens) > WORDS - 2:
            tokens.pop()
        word_label = self._mask_words(tokens)
        region_label = self._mask_regions(feature, boxes)
        ids = [self.tokenizer.vocab[token] for token in ["[CLS]", *tokens, "[SEP]"]]
        word_label = [-1, *word_label, -1]
        word_mask, segments, region_mask = [1] * len(ids), [0] * len(ids), [1] * boxes
        while len(region_mask) < REGIONS:
            region_mask.append(0)
            region_label.append(-1)
        while len(ids) < WORDS:
            ids.append(0)
            word_mask.append(0)
            segments.append(0)
            word_label.append(-1)
        text = [np.array(values) for values in (ids, word_mask, segments, word_label, int(swapped))]
        image = [feature, location, target, np.array(region_label), np.array(region_mask)]
        return [*text, *image, image_id]

    def _mask_words(self, tokens: list[str]) -> list[int]:
        """Mask some of the tokens in place; return their labels."""
        labels = []
        for place, token in enumerate(tokens):
            drawn = random.random()
            if drawn >= 0.15 or not self.masked:
                labels.append(-1)
                continue
            drawn /= 0.15
            if drawn < 0.8:
                tokens[place] = "[MASK]"
            elif drawn < 0.9:
                tokens[place] = random.choice(list(self.tokenizer.vocab.items()))[0]
            labels.append(self.tokenizer.vocab[token])
        return labels

    def _mask_regions(self, feature: NDArray[np.float32], boxes: int) -> list[int]:
        """Zero some of the regions in place; return their labels."""
        labels = []
        for place in range(boxes):
            drawn = random.random()
            if drawn >= 0.15 or not self.masked:
                labels.append(-1)
                continue
            if drawn / 0.15 < 0.9:
                feature[place] = 0
            labels.append(1)
        return labels


def published_batches(
    path: Path, storage: Storage, preprocess: Preprocess, batch_size: int, num_workers: int
) -> Iterator[dict[str, Tensor]]:
    """Yield batches of the file's samples, again and again; float32, padded, the global region first.

    With workers, samples come in the order in which they are ready, and a thread takes them in while batches are made.
    """
    if num_workers == 0:
        yield from _batch(_points(path, storage, preprocess, 0, 1), batch_size)
        return
    context = multiprocessing.get_context("fork")
    received: Queue[bytes] = Queue(maxsize=AHEAD)
    processes, pipes = [], []
    for number in range(num_workers):
        receiving, sending = context.Pipe(duplex=False)
        arguments = (sending, path, storage, preprocess, number, num_workers)
        process = context.Process(target=_work, args=arguments, daemon=True)
        process.start()
        sending.close()
        processes.append(process)
        pipes.append(receiving)
    threads = [Thread(target=_take_in, args=(pipe, received), daemon=True) for pipe in pipes]
    for thread in threads:
        thread.start()
    try:
        yield from _batch((loads(received.get()) for _ in count()), batch_size)
    finally:
        for process in processes:
            process.terminate()
            process.join()
        while any(thread.is_alive() for thread in threads):  # until each has met the end of its pipe
            with contextlib.suppress(Empty):
                received.get(timeout=0.01)


def _points(path: Path, storage: Storage, preprocess: Preprocess, first: int, each: int) -> Iterator[Point]:
    """Yield every `each`-th sample, endlessly."""
    environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False)
    entries = environment.stat()["entries"]
    for number in count(first, each):
        with environment.begin() as transaction:
            value: Any = transaction.get(f"{number % entries:08}".encode())
        yield preprocess(_decode(value, storage))


def _work(sending: Connection, path: Path, storage: Storage, preprocess: Preprocess, first: int, each: int) -> None:
    for point in _points(path, storage, preprocess, first, each):
        sending.send_bytes(dumps(point))


def _take_in(pipe: Connection, received: Queue[bytes]) -> None:
    with contextlib.suppress(EOFError, OSError):
        while True:
            received.put(pipe.recv_bytes())


def _batch(points: Iterator[Point], batch_size: int) -> Iterator[dict[str, Tensor]]:
    while True:
        rows = [next(points) for _ in range(batch_size)]
        batch = dict(zip(NAMES, (np.stack(column) for column in zip(*rows, strict=True)), strict=True))
        mask = batch["image_attention_mask"]
        mean = np.sum(batch["image_feat"], axis=1) / np.sum(mask, axis=1, keepdims=True)
        batch["image_feat"] = np.array(np.concatenate([mean[:, None], batch["image_feat"]], axis=1), dtype=np.float32)
        whole = np.repeat(np.array([[0, 0, 1, 1, 1]], dtype=np.float32), batch_size, axis=0)
        batch["image_loc"] = np.array(np.concatenate([whole[:, None], batch["image_loc"]], axis=1), dtype=np.float32)
        batch["image_attention_mask"] = np.concatenate([np.ones((batch_size, 1), dtype=mask.dtype), mask], axis=1)
        yield {name: torch.tensor(value) for name, value in batch.items()}
