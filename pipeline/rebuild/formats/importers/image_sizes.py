"""Image sizes from a manifest, for formats without sizes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vilbert.manifests.manifest import ROWS_PER_GROUP, Manifest
from vilbert.manifests.record import ManifestError
from vilbert.pipeline.errors import RefusedError


@dataclass(frozen=True)
class ImageSizes:
    """Width and height by image id: 16 bytes per image, ordered by a 64-bit hash of the id."""

    manifest_hash: str
    hashes: NDArray[np.uint64]
    sizes: NDArray[np.int32]
    """[images, 2] width and height in pixels."""

    @classmethod
    def read(cls, path: Path) -> ImageSizes:
        """Read a manifest's sizes.

        Raises:
            RefusedError: It is not a manifest, or has no image sizes.
        """
        hashes, sizes = [], []
        try:
            manifest = Manifest.open(path)
            for start in range(0, manifest.rows, ROWS_PER_GROUP):
                for record in manifest.read(start, min(start + ROWS_PER_GROUP, manifest.rows)):
                    if record.width is not None and record.height is not None:
                        hashes.append(_hash(record.image_id))
                        sizes.append((record.width, record.height))
        except ManifestError as error:
            raise RefusedError(f"--image-sizes {error}") from error
        if not hashes:
            raise RefusedError(
                f"--image-sizes {path}: contains no image size: create a manifest of a source with sizes, such as COCO"
            )
        keys = np.array(hashes, np.uint64)
        order = np.argsort(keys, kind="stable")
        return cls(manifest.hash, keys[order], np.array(sizes, np.int32)[order])

    def find(self, image_id: str) -> tuple[int, int] | tuple[None, None]:
        """Return the width and height of an image, None if the manifest has none."""
        key = np.uint64(_hash(image_id))
        at = int(self.hashes.searchsorted(key))
        if at == len(self.hashes) or self.hashes[at] != key:
            return None, None
        width, height = self.sizes[at].tolist()
        return width, height


def _hash(image_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(image_id.encode(), digest_size=8).digest(), "little")
