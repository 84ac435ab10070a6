"""Opens published files and compares the samples with what was written."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vilbert.pipeline.rebuild.formats.detect import open_published
from vilbert.pipeline.rebuild.formats.registry import ImportOptions
from vilbert.pipeline.rebuild.source import SourceDescription
from vilbert.pipeline.shards.failures import FailureRow
from vilbert.pipeline.shards.sample import Sample

from .published import HEIGHT, WIDTH, Picture


def read_published(
    path: Path, *, format: str | None = None, **options: object
) -> tuple[SourceDescription, list[Sample | FailureRow]]:
    """Return the description and all rows of a file whose format is recognised, or named."""
    with open_published(path, format, ImportOptions(**options)) as source:  # type: ignore[arg-type]
        rows = list(source.read(0, source.rows))
        assert len(rows) == source.rows
        backwards = [next(iter(source.read(row, row + 1))) for row in reversed(range(source.rows))]
        scanned = list(source.scan(0, source.rows, metadata=True))  # type: ignore[attr-defined]
        for row, keyed, whole in zip(rows, source.scan(0, source.rows, metadata=False), scanned, strict=True):  # type: ignore[attr-defined]
            if isinstance(row, Sample):
                size = {"width": row.regions.width, "height": row.regions.height, "num_boxes": len(row.regions)}
                assert (keyed.key, whole.key) == (row.key, row.key)
                assert whole.metadata == {**row.meta, **size}
        assert [str(row) for row in map(_name, backwards)] == [str(row) for row in map(_name, reversed(rows))]
        return source.description, rows


def samples_of(rows: list[Sample | FailureRow]) -> list[Sample]:
    assert [row for row in rows if isinstance(row, FailureRow)] == []
    return [row for row in rows if isinstance(row, Sample)]


def failures_of(rows: list[Sample | FailureRow]) -> list[FailureRow]:
    return [row for row in rows if isinstance(row, FailureRow)]


def _name(row: Sample | FailureRow) -> object:
    return row.key if isinstance(row, Sample) else row


def require_boxes_and_features(
    sample: Sample, picture: Picture, *, dtype: str = "float32", image_id: str | None = None, pixels: float = 1e-4
) -> None:
    """Assert that a sample has the regions of a picture; `pixels`: how far its boxes may be off."""
    regions = sample.regions
    assert sample.meta["image_id"] == (picture.image_id if image_id is None else image_id)
    assert regions.features.dtype == dtype
    np.testing.assert_array_equal(regions.features, picture.features.astype(dtype))
    np.testing.assert_allclose(regions.boxes, picture.boxes, atol=pixels)
    assert (regions.width, regions.height) == (WIDTH, HEIGHT)


def require_objects(sample: Sample, picture: Picture) -> None:
    """Assert that a sample names the objects of a picture, 0 being the background."""
    assert sample.regions.object_ids is not None
    assert sample.regions.object_scores is not None
    np.testing.assert_array_equal(sample.regions.object_ids, picture.objects + 1)
    np.testing.assert_allclose(sample.regions.object_scores, picture.scores, atol=1e-3)


def require_attributes(sample: Sample, picture: Picture) -> None:
    """Assert that a sample has the attributes of a picture."""
    assert sample.regions.attribute_ids is not None
    assert sample.regions.attribute_scores is not None
    np.testing.assert_array_equal(sample.regions.attribute_ids, picture.attributes)
    np.testing.assert_allclose(sample.regions.attribute_scores, picture.attribute_scores, atol=1e-6)


def require_classes(sample: Sample, picture: Picture, top: int, *, atol: float = 1e-3) -> None:
    """Assert that a sample has the most probable classes of a picture, the background being 0."""
    ids, probs = sample.regions.class_ids, sample.regions.class_probs
    assert ids is not None
    assert probs is not None
    assert ids.shape == probs.shape == (picture.regions, top)
    expected = np.sort(picture.probs, axis=1)[:, ::-1][:, :top]
    np.testing.assert_allclose(probs, expected, atol=atol)
    np.testing.assert_allclose(np.take_along_axis(picture.probs, ids.astype(int), 1), expected, atol=atol)
