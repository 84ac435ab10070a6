"""What is exported and imported again: the same samples, as far as the format can hold them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vilbert.extractors.regions import Regions
from vilbert.manifests.manifest import ManifestWriter
from vilbert.manifests.record import ImageRecord
from vilbert.pipeline.rebuild.formats.detect import detect_format, open_published
from vilbert.pipeline.rebuild.formats.registry import FORMATS, ImportOptions
from vilbert.pipeline.shards.sample import Sample

from ...shards.conftest import ATTRIBUTE_NAMES, CLASS_NAMES, HEIGHT, TOP_CLASSES, WIDTH
from .exporters.conftest import describe, make_samples

OBJECTS = ("object_ids", "object_scores")
CLASSES = ("class_ids", "class_probs")
ATTRIBUTES = ("attribute_ids", "attribute_scores")


@dataclass(frozen=True, kw_only=True)
class Case:
    """What comes back of an export."""

    exporter: str
    importer: str
    fields: tuple[str, ...]
    """Arrays beside boxes and features that come back bit by bit."""
    half: bool = False
    """Features come back in float16, and scores rounded to it."""
    pixels: float = 0
    """How far boxes may move: that they are stored as shares of the image's sides rounds them."""
    inside: str = ""
    """What of the export is imported."""
    captions: Callable[[Sample], list[str]] = lambda _: []
    options: ImportOptions = field(default_factory=ImportOptions)


CASES = [
    Case(exporter="vilbert-lmdb", importer="vilbert-lmdb", fields=(*OBJECTS, *CLASSES)),
    Case(exporter="vilbert-lmdb-arrays", importer="vilbert-lmdb", fields=(*OBJECTS, *CLASSES)),
    Case(exporter="volta-lmdb", importer="vilbert-lmdb", fields=(*OBJECTS, *ATTRIBUTES)),
    Case(exporter="bottom-up-tsv", importer="bottom-up-tsv", fields=(*OBJECTS, *CLASSES)),
    Case(exporter="lxmert-tsv", importer="bottom-up-tsv", fields=(*OBJECTS, *ATTRIBUTES)),
    Case(
        exporter="vilbert-pretraining-lmdb",
        importer="vilbert-pretraining-lmdb",
        fields=(*OBJECTS, *CLASSES),
        inside="training_feat_all.lmdb",
        captions=lambda sample: sample.meta["captions"],
    ),
    Case(
        exporter="mmf-lmdb",
        importer="mmf-lmdb",
        fields=(*OBJECTS, *CLASSES),
        options=ImportOptions(background="first"),
    ),
    Case(
        exporter="uniter-lmdb",
        importer="uniter-lmdb",
        fields=(*OBJECTS, *CLASSES),
        half=True,
        pixels=0.1,
        inside="feat_th0.2_max100_min10",
    ),
    Case(
        exporter="uniter-lmdb-compressed",
        importer="uniter-lmdb",
        fields=(*OBJECTS, *CLASSES),
        half=True,
        pixels=0.1,
        inside="feat_th0.2_max100_min10_compressed",
    ),
    Case(exporter="vinvl-tsv", importer="vinvl-tsv", fields=OBJECTS, pixels=1e-4, inside="feature.tsv"),
]


def samples() -> list[Sample]:
    """Return samples of one caption whose objects are the most probable classes, as detectors have them."""
    return [
        replace(
            sample,
            regions=with_best_objects(sample.regions),
            meta={**sample.meta, "captions": sample.meta["captions"][:1]},
        )
        for sample in make_samples()
    ]


def with_best_objects(regions: Regions) -> Regions:
    assert regions.class_ids is not None
    assert regions.class_probs is not None
    probabilities = np.where(regions.class_ids == 0, -1, regions.class_probs.astype(np.float32))
    best = probabilities.argmax(axis=1)[:, None]
    ids = np.take_along_axis(regions.class_ids, best, axis=1)[:, 0]
    return replace(regions, object_ids=ids, object_scores=np.take_along_axis(probabilities, best, axis=1)[:, 0])


@pytest.fixture
def options(tmp_path: Path) -> Callable[[ImportOptions], ImportOptions]:
    """Return a function that adds the names of classes and attributes and the sizes of the images."""
    (tmp_path / "objects.txt").write_text("\n".join(CLASS_NAMES[1:]))
    (tmp_path / "attributes.txt").write_text("\n".join(ATTRIBUTE_NAMES))
    records = [
        ImageRecord(image_id=sample.meta["image_id"], uri="x.jpg", width=WIDTH, height=HEIGHT) for sample in samples()
    ]
    with ManifestWriter(tmp_path / "sizes.parquet") as writer:
        writer.write(records)
        writer.commit()
    return lambda given: replace(
        given,
        class_names=tmp_path / "objects.txt",
        attribute_names=tmp_path / "attributes.txt",
        image_sizes=tmp_path / "sizes.parquet",
        top_classes=TOP_CLASSES,
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.exporter)
def test_the_same_samples_come_back(
    case: Case, options: Callable[[ImportOptions], ImportOptions], tmp_path: Path
) -> None:
    given = samples()
    path = tmp_path / "export.lmdb"
    with FORMATS.load(case.exporter).load_exporter().create(path, describe()) as writer:
        for sample in given:
            writer.add(sample)
        writer.finish()
    assert detect_format(path / case.inside) == case.importer
    with open_published(path / case.inside, options=options(case.options)) as source:
        rows = list(source.read(0, source.rows))
    assert all(isinstance(row, Sample) for row in rows), rows
    for sample, row in zip(given, rows, strict=True):
        assert isinstance(row, Sample)
        assert row.meta["image_id"] == sample.meta["image_id"]
        assert row.meta["captions"] == case.captions(sample)
        assert (row.regions.width, row.regions.height) == (WIDTH, HEIGHT)
        compare(sample.regions, row.regions, case)


def compare(expected: Regions, found: Regions, case: Case) -> None:
    assert list(found.arrays()) == [name for name in expected.arrays() if name in ("boxes", "features", *case.fields)]
    assert found.features.dtype == (np.float16 if case.half else np.float32)
    assert np.array_equal(found.features, expected.features)
    for name in ("boxes", *case.fields):
        ours: NDArray[Any] = expected.arrays()[name]
        theirs: NDArray[Any] = found.arrays()[name]
        tolerance = {"boxes": case.pixels, "object_scores": 1e-3 if case.half else 0}.get(name, 0)
        assert theirs.dtype == ours.dtype
        assert np.allclose(theirs, ours, rtol=0, atol=tolerance), name


def test_a_published_tsv_comes_back_byte_by_byte(tmp_path: Path, options: Callable[..., ImportOptions]) -> None:
    """LXMERT's own file layout: float32 features, CR LF, ten columns."""
    path = tmp_path / "first.tsv"
    write_tsv(path, samples(), describe())
    with open_published(path, options=options(ImportOptions())) as source:
        rows = [row for row in source.read(0, source.rows) if isinstance(row, Sample)]
        write_tsv(tmp_path / "second.tsv", rows, source.description)
    assert (tmp_path / "second.tsv").read_bytes() == path.read_bytes()


def write_tsv(path: Path, given: list[Sample], description: Any) -> None:
    with FORMATS.load("lxmert-tsv").load_exporter().create(path, description) as writer:
        for sample in given:
            writer.add(sample)
        writer.finish()
