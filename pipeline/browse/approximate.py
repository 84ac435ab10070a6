"""An approximate index of the features of a large data set (FAISS: inverted lists of product-quantised unit vectors).

It is built once in the background and written now and then, so that an interrupted build is resumed. It lies in the
user's cache folder, never in the data set: FAISS does not read files of unknown origin safely.

Shapes: R regions of the data set, D feature channels.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.browse.opened import OpenedDataset
from vilbert.pipeline.errors import CorruptShardError, ShardError
from vilbert.pipeline.shards.location.layout import data_path
from vilbert.pipeline.shards.storage.store import open_shard

CODE_BYTES = (64, 48, 32, 16, 8, 4, 2, 1)
"""Bytes that stand for a vector: the first that divides D."""
TRAINING_VECTORS = 40
"""Per inverted list."""
MAX_LISTS = 4096
PROBED = 64
"""Inverted lists that a search reads."""
SAVES = 10
"""Times that a build is written."""


class ApproximateIndex:
    """The approximate index of one data set: built in a thread of its own, then searched."""

    def __init__(self, dataset: OpenedDataset) -> None:
        self._dataset = dataset
        boxes = dataset.index.columns["boxes"].astype(np.int64)
        self._starts = np.concatenate([[0], np.cumsum(boxes)])  # of each sample's regions among all
        self._thread: threading.Thread | None = None
        self._index: Any = None
        self.progress = 0.0
        """Share of the data set that is indexed."""
        self.problem: str | None = None
        """Why it cannot be built."""

    def ready(self) -> bool:
        """Return whether it can be searched; start to build it where it is not there."""
        if self._index is None and self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        return self._index is not None

    def wait(self) -> None:
        """Wait for the end of the build."""
        self.ready()
        if self._thread is not None:
            self._thread.join()

    def candidates(self, wanted: NDArray[np.float32], count: int) -> list[tuple[int, int]]:
        """Return about `count` regions near a unit vector [D]: the number of the sample, the region in it.

        Only regions of samples that are shown.
        """
        import faiss

        index, parameters = self._dataset.index, None
        if not index.complete:
            shown = np.repeat(index.columns["present"], np.diff(self._starts))
            selector = faiss.IDSelectorBitmap(np.packbits(shown, bitorder="little"))
            parameters = faiss.SearchParametersIVF(sel=selector, nprobe=PROBED)
        _, rows = self._index.search(wanted[None], count, params=parameters)
        regions = rows[0][rows[0] >= 0]
        samples = np.searchsorted(self._starts, regions, side="right") - 1
        return list(zip(samples.tolist(), (regions - self._starts[samples]).tolist(), strict=True))

    def _run(self) -> None:
        self.problem = "its building ended with an error; see the terminal"
        try:
            index = self._build()
            index.nprobe = PROBED
            self._index, self.problem = index, None
        except ImportError:
            self.problem = "pip install 'vilbert-pipeline[similar]' for an index of all regions"
        except (ShardError, OSError, RuntimeError) as error:  # RuntimeError: FAISS
            self.problem = str(error)

    def _build(self) -> Any:
        import faiss

        path, total = index_path(self._dataset), int(self._starts[-1])
        index = None
        if path.exists():
            with contextlib.suppress(RuntimeError):  # of another version, or damaged: built again
                index = faiss.read_index(str(path), faiss.IO_FLAG_READ_ONLY | faiss.IO_FLAG_MMAP)
                if index.ntotal < total:
                    index = faiss.read_index(str(path))
        if index is None or index.d != self._dataset.info.feature_dim or index.ntotal > total:
            index = self._train(faiss)
        if index.ntotal == total:
            self.progress = 1.0
            return index
        shards = list(self._shards())
        step = -(-len(shards) // SAVES)
        for at, (shard, start, stop) in enumerate(shards, start=1):
            if start < index.ntotal:
                continue  # stored by the build that is resumed
            if stop > start:
                index.add(self._vectors(shard, stop - start))
            self.progress = stop / total
            if at % step == 0 or at == len(shards):
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = path.with_suffix(".partial")
                faiss.write_index(index, str(partial))
                os.replace(partial, path)
                print(f"{self._dataset.directory}: similar regions {self.progress:.0%} indexed", file=sys.stderr)
        return index

    def _train(self, faiss: Any) -> Any:
        """Return an index without vectors, trained on the features of shards at equal distances."""
        total, dim = int(self._starts[-1]), self._dataset.info.feature_dim
        lists = max(1, min(MAX_LISTS, 2 ** round(np.log2(4 * np.sqrt(total))), total // TRAINING_VECTORS))
        code_bytes = next(number for number in CODE_BYTES if dim % number == 0)
        needed = TRAINING_VECTORS * max(lists, 256)
        shards = [it for it in self._shards() if it[2] > it[1]]
        chosen = shards[:: max(1, total // needed)]  # about 1 / (total // needed) of all regions
        vectors = np.concatenate([self._vectors(shard, stop - start) for shard, start, stop in chosen])
        index = faiss.index_factory(dim, f"IVF{lists},PQ{code_bytes}", faiss.METRIC_INNER_PRODUCT)
        # Orders the codes by annealing for a filter that is not used here; it takes longer than all else.
        faiss.downcast_index(index).do_polysemous_training = False
        index.train(vectors[: 2 * needed])
        return index

    def _shards(self) -> Iterator[tuple[int, int, int]]:
        """Yield each shard with its first region and the one behind its last."""
        sample = 0
        for shard, record in self._dataset.records.items():
            yield shard, int(self._starts[sample]), int(self._starts[sample + record.samples])
            sample += record.samples

    def _vectors(self, shard: int, count: int) -> NDArray[np.float32]:
        """Return the unit vectors [count, D] of a shard; zeros where it cannot be read any more."""
        path = data_path(self._dataset.directory, shard, self._dataset.info.storage)
        try:
            with open_shard(path, verify=False) as reader:
                parts = [reader.read(place, ("features",)).arrays["features"] for place in range(len(reader))]
        except CorruptShardError:
            parts = []
        features = np.concatenate(parts).astype(np.float32) if parts else np.empty((0, 0), np.float32)
        if len(features) != count:
            return np.zeros((count, self._dataset.info.feature_dim), np.float32)
        features[~np.isfinite(features).all(axis=1)] = 0
        unit: NDArray[np.float32] = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
        return unit


def index_path(dataset: OpenedDataset) -> Path:
    """Return where the approximate index of a data set's content lies."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "vilbert" / "similar" / f"{dataset.index.digest[:32]}.faiss"
