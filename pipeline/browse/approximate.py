"""An approximate index of the features of a large data set (FAISS: inverted lists of product-quantised unit vectors).

It is built once by a background thread of low priority and saved ten times, so that an interrupted build is resumed. It
lies in the user's cache folder, never in the data set: FAISS does not read files of unknown origin safely.

Memory of a build: the training vectors (TRAINING_VECTORS x lists x D float32), then a block of BLOCK regions and the
codes of the regions added so far. Afterwards the file is memory-mapped.

Shapes: R regions of the data set, D feature channels.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.browse.opened import OpenedDataset
from vilbert.pipeline.errors import CorruptShardError, ShardError
from vilbert.pipeline.shards.location.layout import data_path
from vilbert.pipeline.shards.storage.store import ShardReader, open_shard
from vilbert.pipeline.signals import abandon

CODE_BYTES = (64, 48, 32, 16, 8, 4, 2, 1)
"""Bytes per vector: the first value that divides D."""
TRAINING_VECTORS = 40
"""Per inverted list."""
MAX_LISTS = 4096
PROBED = 64
"""Number of inverted lists that a search reads."""
SAVES = 10
"""Number of times that an unfinished index is saved."""
BLOCK = 8192
"""Regions whose features are in memory at once, or those of one sample if it has more."""
NICENESS = 10
"""Of the thread that builds, so that pages stay fast."""


class ApproximateIndex:
    """The approximate index of one data set, built in a background thread and then searched."""

    def __init__(self, dataset: OpenedDataset) -> None:
        self._dataset = dataset
        boxes = dataset.index.columns["boxes"].astype(np.int64)
        samples = [record.samples for record in dataset.records.values()]
        self._firsts = dict(zip(dataset.records, np.cumsum([0, *samples])[:-1].tolist(), strict=True))
        """Number of each shard's first sample."""
        self._starts = np.concatenate([[0], np.cumsum(boxes)])  # of each sample's regions among all
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._index: Any = None
        self.progress = 0.0
        """Share of the data set that is indexed."""
        self.problem: str | None = None
        """Reason why the index cannot be built."""

    def ready(self) -> bool:
        """Return whether it can be searched; start to build it where it is not there."""
        if self._index is None and self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        return self._index is not None

    def wait(self) -> None:
        """Wait until the index is built."""
        self.ready()
        if self._thread is not None:
            self._thread.join()

    def close(self) -> None:
        """Stop building so that the process can exit."""
        if self._thread is not None:
            abandon(self._ended)

    def candidates(self, wanted: NDArray[np.float32], count: int) -> list[tuple[int, int]]:
        """Return about `count` regions near a unit vector [D]: the number of the sample, the region in it.

        Only regions of samples that are shown.
        """
        _, rows = self._index.search(wanted[None], count, params=self._shown)
        regions = rows[0][rows[0] >= 0]
        samples = np.searchsorted(self._starts, regions, side="right") - 1
        return list(zip(samples.tolist(), (regions - self._starts[samples]).tolist(), strict=True))

    @cached_property
    def _shown(self) -> Any:
        """The parameters of a search: where not all samples are shown, a bit for each region."""
        import faiss

        index = self._dataset.index
        if index.complete:
            return faiss.SearchParametersIVF(nprobe=PROBED)
        shown = np.repeat(index.columns["present"], np.diff(self._starts))
        selector = faiss.IDSelectorBitmap(np.packbits(shown, bitorder="little"))
        return faiss.SearchParametersIVF(sel=selector, nprobe=PROBED)

    def _run(self) -> None:
        self.problem = "its building ended with an error; see the terminal"
        with contextlib.suppress(AttributeError, OSError):  # Linux: of this thread and those that FAISS starts in it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        try:
            self._index, self.problem = self._build(), None
        except ImportError:
            self.problem = "pip install 'vilbert-pipeline[similar]' for an index of all regions"
        except (ShardError, OSError, RuntimeError) as error:  # RuntimeError: FAISS
            self.problem = str(error)
        finally:
            self._ended.set()

    def _build(self) -> Any:
        import faiss

        path, total = index_path(self._dataset), int(self._starts[-1])
        index = None
        if path.exists():
            with contextlib.suppress(RuntimeError):  # of another version, or damaged: built again
                index = self._mapped(path)
                if index.ntotal < total:
                    index = faiss.read_index(str(path))
        if index is None or index.d != self._dataset.info.feature_dim or index.ntotal > total:
            index = self._train(faiss)
        if index.ntotal < total:
            self._add(faiss, index, path)
            index = self._mapped(path)
        self.progress = 1.0
        return index

    def _add(self, faiss: Any, index: Any, path: Path) -> None:
        """Add the regions that an index lacks, and save it now and then."""
        shards = list(self._shards())
        step = -(-len(shards) // SAVES)
        for at, (shard, start, stop) in enumerate(shards, start=1):
            if start < index.ntotal:
                continue  # added by the build that is resumed
            for block in self._blocks(shard, range(len(self._counts(shard)))):
                index.add(block)
                self.progress = index.ntotal / int(self._starts[-1])
            if index.ntotal != stop:
                raise ShardError(f"{index.ntotal:,} regions after shard {shard}, expected {stop:,}; start again")
            if at % step == 0 or at == len(shards):
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = path.with_suffix(".partial")
                faiss.write_index(index, str(partial))
                os.replace(partial, path)
                print(f"{self._dataset.directory}: similar regions {self.progress:.0%} indexed", file=sys.stderr)

    @staticmethod
    def _mapped(path: Path) -> Any:
        import faiss

        return faiss.read_index(str(path), faiss.IO_FLAG_READ_ONLY | faiss.IO_FLAG_MMAP)

    def _train(self, faiss: Any) -> Any:
        """Return an index without vectors, trained on the features of samples at equal distances."""
        total, dim = int(self._starts[-1]), self._dataset.info.feature_dim
        lists = max(1, min(MAX_LISTS, 2 ** round(np.log2(total) / 2), total // TRAINING_VECTORS))  # about sqrt(R)
        code_bytes = next(number for number in CODE_BYTES if dim % number == 0)
        needed = min(TRAINING_VECTORS * max(lists, 256), total)
        stride = max(1, total // needed)
        vectors, filled = np.empty((needed, dim), np.float32), 0
        for shard, _, _ in self._shards():
            for block in self._blocks(shard, range(0, len(self._counts(shard)), stride)):
                part = block[: needed - filled]
                vectors[filled : filled + len(part)] = part
                filled += len(part)
        index = faiss.index_factory(dim, f"IVF{lists},PQ{code_bytes}", faiss.METRIC_INNER_PRODUCT)
        # Orders the codes by annealing for a filter that is not used here; it takes longer than all else.
        faiss.downcast_index(index).do_polysemous_training = False
        index.train(vectors[:filled])
        return index

    def _shards(self) -> Iterator[tuple[int, int, int]]:
        """Yield each shard with the range [start, stop) of its regions."""
        for shard, first in self._firsts.items():
            last = first + self._dataset.records[shard].samples
            yield shard, int(self._starts[first]), int(self._starts[last])

    def _counts(self, shard: int) -> NDArray[np.int64]:
        """Return the number of regions of each sample of a shard."""
        first = self._firsts[shard]
        return np.diff(self._starts[first : first + self._dataset.records[shard].samples + 1])

    def _blocks(self, shard: int, places: range) -> Iterator[NDArray[np.float32]]:
        """Yield the unit vectors [about BLOCK, D] of some samples of a shard; zeros where they cannot be read."""
        counts, path = self._counts(shard), data_path(self._dataset.directory, shard, self._dataset.info.storage)
        dim = self._dataset.info.feature_dim
        with contextlib.ExitStack() as stack:
            reader: ShardReader | None = None
            with contextlib.suppress(CorruptShardError):
                reader = stack.enter_context(open_shard(path, verify=False))
            parts: list[NDArray[Any]] = []
            size = 0
            for place in places:
                features = np.zeros((counts[place], dim), np.float16)
                if reader is not None:
                    with contextlib.suppress(CorruptShardError, IndexError):
                        read = reader.read(place, ("features",)).arrays["features"]
                        features = read if read.shape == features.shape else features
                if parts and size + len(features) > BLOCK:
                    yield unit_vectors(np.concatenate(parts))
                    parts, size = [], 0
                parts.append(features)
                size += len(features)
            if size:
                yield unit_vectors(np.concatenate(parts))


def unit_vectors(features: NDArray[Any]) -> NDArray[np.float32]:
    """Return float32 unit vectors [R, D]; zero vectors remain zero."""
    made: NDArray[np.float32] = features.astype(np.float32)
    made[~np.isfinite(made).all(axis=1)] = 0
    made /= np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-12)
    return made


def index_path(dataset: OpenedDataset) -> Path:
    """Return the path of the approximate index for the content of a data set."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "vilbert" / "similar" / f"{dataset.index.digest[:32]}.faiss"
