"""The job, the same for every framework: drawn images, the detector of the shapes data set, features and boxes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
COLUMNS = ("image_id", "features", "boxes")
MANIFEST, ROWS = "manifest.parquet", "rows"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is computed. All frameworks run the detector in one worker with one thread."""

    images: int = 10_000
    """Drawn images."""
    shard_size: int = 250
    """Images per shard, and per block or partition of the others."""
    batch_size: int = 8
    """Images per forward pass."""


class Detector:
    """The detector as a framework's worker holds it."""

    def __init__(self) -> None:
        """Build it, for one thread."""
        import torch

        from vilbert.extractors.extractor import DetectorSettings, ExtractorSettings, build_extractor

        torch.set_num_threads(1)
        self._extractor = build_extractor(ExtractorSettings(detector=DetectorSettings(detector="shapes", device="cpu")))

    def rows(self, image_ids: Sequence[str], paths: Sequence[str]) -> list[Row]:
        """Return a row with `COLUMNS` for each image. Images of one size are computed as one batch.

        Features are the bytes of float16 [regions, channels], boxes those of float32 [regions, 4].
        """
        import numpy as np
        from PIL import Image

        images = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
        batches: dict[tuple[int, int], list[int]] = {}
        for index, image in enumerate(images):
            height, width = image.shape[:2]
            batches.setdefault(self._extractor.resized_shape(height, width), []).append(index)
        rows: list[Row] = [{} for _ in images]
        for indices in batches.values():
            regions_of_batch = self._extractor.extract([images[index] for index in indices], [None] * len(indices))
            for index, regions in zip(indices, regions_of_batch, strict=True):
                features, boxes = np.asarray(regions.features, np.float16), np.asarray(regions.boxes, np.float32)
                rows[index] = dict(zip(COLUMNS, (image_ids[index], features.tobytes(), boxes.tobytes()), strict=True))
        return rows


def columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Return rows as columns."""
    return {name: [row[name] for row in rows] for name in COLUMNS}


def prepare(folder: Path, job: Job, seed: int) -> None:
    """Draw the images and list them: a manifest for this pipeline, a Parquet file per shard for the others."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from vilbert.pipeline.cli import main
    from vilbert.pipeline.shapes.render import render
    from vilbert.pipeline.shapes.scene import make_scene

    images, rows = folder / "images", folder / ROWS
    images.mkdir()
    rows.mkdir()
    names = [f"{number:06d}" for number in range(job.images)]
    paths = [images / f"{name}.png" for name in names]
    for number, path in enumerate(paths):
        render(make_scene(seed, number)).save(path)
    if main(["manifest", str(images), "--output", str(folder / MANIFEST)]):
        raise SystemExit("the manifest cannot be written")
    table = pa.table({"image_id": names, "path": list(map(str, paths))})
    for start in range(0, job.images, job.shard_size):
        pq.write_table(table.slice(start, job.shard_size), rows / f"{start:06d}.parquet")
