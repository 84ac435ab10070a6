"""The memory that an export takes does not grow with the number of samples."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from vilbert.pipeline.rebuild.formats.exporters import lmdb_file
from vilbert.pipeline.shards.sample import Sample

from .conftest import Write, make_samples

CHANNELS = 30_000


def large_samples(count: int) -> Iterator[Sample]:
    """Yield samples of half a megabyte in float32."""
    (sample,) = make_samples(("1",), (4,))
    features = np.random.default_rng(0).random((4, CHANNELS)).astype(np.float16)
    sample = replace(sample, regions=replace(sample.regions, features=features))
    for number in range(count):
        yield replace(sample, meta={**sample.meta, "image_id": str(number)})


@pytest.mark.parametrize(
    "name",
    [
        *("bottom-up-tsv", "lxmert-tsv", "vilbert-lmdb", "vilbert-lmdb-arrays", "mmf-lmdb", "uniter-lmdb"),
        *("vilbert-pretraining-lmdb", "vinvl-tsv", "oscar-tsv"),
    ],
)
def test_it_is_flat(name: str, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_file, "_BATCH_BYTES", 1 << 20)
    tracemalloc.start()
    try:
        write(name, large_samples(40))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 << 20  # all samples are 10 MB in float16, 19 MB in float32, 26 MB in base64
