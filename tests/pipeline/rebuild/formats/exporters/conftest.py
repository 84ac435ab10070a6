"""Samples to export, and readers of pickles and distributions that share no code with the exporters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vilbert.extractors.regions import Regions
from vilbert.pipeline.rebuild.formats.registry import FORMATS
from vilbert.pipeline.rebuild.source import SourceDescription
from vilbert.pipeline.shards.keys import sample_key
from vilbert.pipeline.shards.sample import Sample, describe_fields
from vilbert.untrusted.pickles import Stub, load

from ....shards.conftest import ATTRIBUTE_NAMES, CLASS_NAMES, FEATURE_DIM, TOP_CLASSES, random_regions

Write = Callable[..., Path]


def describe(**changes: Any) -> SourceDescription:
    """Return the description of `make_samples`."""
    fields = describe_fields(feature_dim=FEATURE_DIM, top_classes=TOP_CLASSES, attributes=True)
    description = SourceDescription(
        format="vilbert", fields=fields, class_names=CLASS_NAMES, attribute_names=ATTRIBUTE_NAMES
    )
    return replace(description, **changes)


def without(*names: str) -> SourceDescription:
    """Return the description of samples without some fields."""
    return describe(fields={name: field for name, field in describe().fields.items() if name not in names})


def first_regions(regions: Regions, count: int) -> Regions:
    """Return the first regions of an image."""
    return replace(regions, **{name: array[:count] for name, array in regions.arrays().items()})


def make_samples(ids: Sequence[str] = ("17", "9", "300"), boxes: Sequence[int] = (4, 1, 6)) -> list[Sample]:
    """Return samples, each with two captions; the second is of the split val."""
    return [
        Sample(
            key=sample_key(image_id),
            regions=first_regions(random_regions(row, boxes=max(count, 1)), count),
            meta={
                "image_id": image_id,
                "captions": [f"a café {row}", 'a "quoted"\ttab'],
                "split": "val" if row == 1 else "train",
                "uri": f"images/COCO_{image_id}.jpg",
            },
        )
        for row, (image_id, count) in enumerate(zip(ids, boxes, strict=True))
    ]


def drop(sample: Sample, *names: str) -> Sample:
    """Return a sample without some arrays."""
    return replace(sample, regions=replace(sample.regions, **dict.fromkeys(names)))


def distribution(regions: Regions, classes: int = len(CLASS_NAMES)) -> NDArray[np.float64]:
    """Return what the classes of each region have, those that were not kept the rest in equal parts."""
    assert regions.class_ids is not None
    assert regions.class_probs is not None
    rows = []
    for ids, probabilities in zip(regions.class_ids.tolist(), regions.class_probs.tolist(), strict=True):
        kept = dict(zip(ids, probabilities, strict=True))
        rest = max(1 - sum(kept.values()), 0) / (classes - len(kept))
        rows.append([kept.get(number, rest) / max(1, sum(kept.values())) for number in range(classes)])
    return np.array(rows)


class _Array(Stub):
    """What `numpy.core.multiarray._reconstruct` makes: an array, once it gets its state."""

    __slots__ = ("value",)

    def set_state(self, state: Any) -> None:
        version, shape, dtype, fortran, data = state
        assert (version, fortran) == (1, False)
        self.value = np.frombuffer(data, dtype.name).reshape(shape)


class _Dtype(Stub):
    __slots__ = ("name",)

    def call(self, kind: str, align: bool, copy: bool) -> _Dtype:
        made = _Dtype()
        made.name = kind
        return made

    def set_state(self, state: Any) -> None:
        assert state == (3, "<", None, None, None, -1, -1, 0)
        self.name = "<" + self.name


class _Reconstruct(Stub):
    __slots__ = ()

    def call(self, kind: Any, shape: Any, code: Any) -> _Array:
        assert (shape, code) == ((0,), b"b")
        return _Array()


def unpickle(data: bytes) -> Any:
    """Return the value of a pickle that names nothing but NumPy's arrays, by the names that NumPy has always had."""
    known: dict[tuple[str, str], Stub] = {
        ("numpy.core.multiarray", "_reconstruct"): _Reconstruct(),
        ("numpy", "ndarray"): Stub(),
        ("numpy", "dtype"): _Dtype(),
    }
    value = load(data, lookup=lambda module, name: known[module, name])
    if isinstance(value, dict):
        return {key: part.value if isinstance(part, _Array) else part for key, part in value.items()}
    return value


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that exports samples under a name and returns the path."""

    def export(
        format_name: str,
        samples: Iterable[Sample],
        description: SourceDescription | None = None,
        name: str = "features.lmdb",
    ) -> Path:
        exporter = FORMATS.load(format_name).load_exporter()
        with exporter.create(tmp_path / name, description or describe()) as writer:
            for sample in samples:
                writer.add(sample)
            writer.finish()
        assert [path.name for path in tmp_path.iterdir()] == [name]
        return tmp_path / name

    return export
