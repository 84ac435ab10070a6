"""Write the rows of a data set as a manifest: its images with its boxes, for another model.

Row i of the manifest is row i of the data set. A row without given boxes has no sample in the data set.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from vilbert.manifests.manifest import Manifest, ManifestWriter
from vilbert.manifests.record import ImageRecord, ManifestError
from vilbert.pipeline.errors import CorruptShardError, RefusedError, ShardError
from vilbert.pipeline.shards.dataset import DatasetInfo, read_dataset
from vilbert.pipeline.shards.keys import sample_key
from vilbert.pipeline.shards.location.folder import Folder
from vilbert.pipeline.shards.location.layout import data_path
from vilbert.pipeline.shards.record import ShardRecord, read_each_record
from vilbert.pipeline.shards.storage.store import ShardReader, open_shard

KEPT = "kept:"
"""Prefix of the uri of an image that is stored in the data set; its key follows."""
OPEN_SHARDS = 4
"""Number of shards kept open while images are read from them."""


def write_base_rows(folder: Folder, info: DatasetInfo, path: Path) -> Manifest:
    """Write the rows of a complete data set as a manifest and return it.

    Raises:
        RefusedError: The data set lacks what is needed to find its images again.
        ShardError: A shard is damaged.
    """
    original = original_manifest(info)
    path.parent.mkdir(parents=True, exist_ok=True)
    with ManifestWriter(path, orientation=True) as writer:
        for record in read_each_record(folder, range(info.shards)):
            writer.write(list(base_rows(folder, info, record, original)))
        return writer.commit()


def original_manifest(info: DatasetInfo) -> Manifest | None:
    """Return the manifest of the data set if it still exists; it contains the original URLs."""
    if not Path(info.manifest).is_file():
        return None
    try:
        manifest = Manifest.open(info.manifest)
    except ManifestError:
        return None
    return manifest if manifest.hash == info.manifest_hash else None


def base_rows(
    folder: Folder, info: DatasetInfo, record: ShardRecord, original: Manifest | None
) -> Iterator[ImageRecord]:
    """Yield the rows of a shard: its samples, and at the end as many rows without boxes as it has fewer samples."""
    uris: dict[str, str] = {}
    if original is not None and record.rows[1] <= original.rows:
        uris = {row.image_id: row.uri for row in original.read(*record.rows)}
    start, stop = record.rows
    keeps = bool(info.fingerprint_fields.get("keep_images"))
    if record.samples:
        file = data_path(Path(), record.shard, info.storage).as_posix()
        with folder.local([file]) as directory, open_shard(directory / file, verify=False) as reader:
            for number, key in enumerate(reader.keys()):
                arrays, metadata = reader.read(number, ["boxes"])
                image_id, uri = metadata["image_id"], metadata.get("uri")
                if sample_key(image_id) != key or not (keeps or isinstance(uri, str)):
                    raise RefusedError(f"{folder.name}: sample {key} does not record the location of its image")
                sha256 = metadata.get("sha256")
                yield ImageRecord(
                    image_id=image_id,
                    uri=f"{KEPT}{key}" if keeps else uris.get(image_id, str(uri)),
                    split=str(metadata.get("split", "")),
                    boxes_xyxy=tuple(tuple(box) for box in arrays["boxes"].tolist()),
                    sha256=sha256 if isinstance(sha256, str) else None,
                    width=metadata["width"],
                    height=metadata["height"],
                    exif_orientation=bool(metadata.get("transposed", False)),
                )
    if stop - start < record.samples:
        raise ShardError(f"{folder.name}: shard {record.shard} holds more samples than rows")
    for row in range(start + record.samples, stop):
        yield ImageRecord(image_id=f"no sample, row {row}", uri="none")


class KeptImages:
    """The images stored in a data set. Threads may share it."""

    def __init__(self, directory: Path) -> None:
        """Open the folder of a data set."""
        info = read_dataset(directory)
        self._directory = directory
        self._storage = info.storage
        self._starts = [info.shard_rows(shard)[0] for shard in range(info.shards)]
        self._open: OrderedDict[int, tuple[ShardReader, dict[str, int]]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, row: int, key: str) -> bytes:
        """Return the bytes of a sample's image; raise CorruptShardError if they are missing."""
        with self._lock:
            shard = bisect_right(self._starts, row) - 1
            if shard not in self._open:
                while len(self._open) >= OPEN_SHARDS:
                    self._open.popitem(last=False)[1][0].close()
                reader = open_shard(data_path(self._directory, shard, self._storage), verify=False)
                self._open[shard] = reader, {key: number for number, key in enumerate(reader.keys())}
            self._open.move_to_end(shard)
            reader, places = self._open[shard]
            image = reader[places[key]].image if key in places else None
        if image is None:
            raise CorruptShardError("does not contain its image", path=reader.path, key=key)
        return image
