"""Read the images of a data set again, for scores that need them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from vilbert.extractors.decode import DecodeSettings
from vilbert.manifests.manifest import Manifest
from vilbert.manifests.record import ImageRecord
from vilbert.manifests.uri import ImageReader
from vilbert.pipeline.extract.base_rows import KEPT, KeptImages, base_rows, original_manifest
from vilbert.pipeline.extract.fetching.fetcher import Fetcher
from vilbert.pipeline.extract.fetching.settings import FetchSettings
from vilbert.pipeline.extract.prepare import Prepared, prepare
from vilbert.pipeline.shards.dataset import DatasetInfo
from vilbert.pipeline.shards.failures import FailureRow
from vilbert.pipeline.shards.location.folder import LocalFolder
from vilbert.pipeline.shards.record import ShardRecord

DECODING = DecodeSettings(allow_truncated=True, min_side=1, max_aspect=1e9)
"""Decoding limits looser than those of any extraction, so that images of the data set are accepted."""
DECODED_AHEAD = 8
"""Number of images that are decoded ahead; one may have 150 MB."""


class Images:
    """The images of a data set: its stored bytes, or the files at their original locations; read ahead by threads."""

    def __init__(self, folder: LocalFolder, info: DatasetInfo, fetching: FetchSettings) -> None:
        """Open the images of a complete data set."""
        self._folder, self._info = folder, info
        self._kept = KeptImages(folder.path) if info.fingerprint_fields.get("keep_images") else None
        self._manifest: Manifest | None = original_manifest(info)
        self._fetcher = Fetcher(fetching, ImageReader(), max_bytes=DECODING.max_bytes)
        self._decoders = ThreadPoolExecutor(1, thread_name_prefix="decode")

    def read(self, record: ShardRecord) -> Iterator[NDArray[np.uint8] | FailureRow]:
        """Yield the pixels of each sample of a shard, [H, W, 3] RGB, or the reason why they cannot be read."""
        rows = islice(base_rows(self._folder, self._info, record, self._manifest), record.samples)
        numbered = list(enumerate(rows, record.rows[0]))
        with self._fetcher.ahead(
            numbered, self._prepare, self._decoders, window=DECODED_AHEAD, beat=_no_pulse
        ) as prepared:
            for item in prepared:
                yield item.image.pixels if isinstance(item, Prepared) else item

    def _prepare(self, item: tuple[int, ImageRecord], read: Callable[[], bytes]) -> Prepared | FailureRow:
        row, record = item
        if self._kept is not None:
            read = partial(self._kept.read, row, record.uri.removeprefix(KEPT))
        return prepare(row, record, DECODING, read, of_dataset=True)

    def close(self) -> None:
        """Stop the threads."""
        self._fetcher.stop()
        self._decoders.shutdown(wait=False, cancel_futures=True)


def _no_pulse() -> None:
    """Ignore a heartbeat."""
