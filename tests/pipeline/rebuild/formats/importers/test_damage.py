"""Files of all formats with bytes changed at random: refused with their name, or read with failures. Nothing else."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.formats.detect import detect_format, open_published
from vilbert.pipeline.rebuild.formats.registry import ImportOptions
from vilbert.pipeline.shards.failures import FailureRow
from vilbert.pipeline.shards.sample import Sample

from . import test_folders, test_frcnn_arrow, test_mmf, test_uniter_lmdb, test_vinvl_tsv
from .published import pictures, pretraining_lmdb_values, tsv, vilbert_lmdb_values, write_lmdb

ROUNDS = 12


def _tsv(folder: Path) -> Path:
    path = folder / "a.tsv"
    path.write_bytes(tsv(pictures(), 13))
    return path


def _folder(suffix: str, make: Callable[..., bytes]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "files").mkdir()
        for picture in pictures():
            (folder / "files" / f"{picture.image_id}{suffix}").write_bytes(make(picture))
        return folder / "files"

    return write


def _mmf_npy(folder: Path) -> Path:
    (folder / "files").mkdir()
    test_mmf.write_pairs(folder / "files", pictures(), "vmb")
    return folder / "files"


def _mmf_lmdb(folder: Path) -> Path:
    values = {}
    for picture in pictures():
        features, info = test_mmf.info_of(picture, "vmb")
        values[picture.image_id.encode()] = pickle.dumps({"feature_path": "", "features": features, **info})
    return write_lmdb(folder / "a.lmdb", {**values, b"keys": pickle.dumps(list(values))})


WRITERS: dict[str, Callable[[Path], Path]] = {
    "bottom-up-tsv": _tsv,
    "bottom-up-npz": _folder(".npz", test_folders.npz),
    "vilbert-npy": _folder(".npy", test_folders.npy),
    "vilbert-lmdb": lambda folder: write_lmdb(folder / "a.lmdb", vilbert_lmdb_values(pictures(), "arrays")),
    "vilbert-pretraining-lmdb": lambda folder: write_lmdb(folder / "a.lmdb", pretraining_lmdb_values(pictures())),
    "mmf-npy": _mmf_npy,
    "mmf-lmdb": _mmf_lmdb,
    "uniter-lmdb": lambda folder: test_uniter_lmdb.write(folder / "all", pictures(), compressed=False),
    "vinvl-tsv": lambda folder: test_vinvl_tsv.write(folder, pictures(), "json"),
    "frcnn-arrow": lambda folder: test_frcnn_arrow.write(
        folder / "a.arrow", [test_frcnn_arrow.row_of(*one) for one in enumerate(pictures())]
    ),
}


def _files(path: Path) -> Iterator[Path]:
    yield from [path] if path.is_file() else (file for file in sorted(path.rglob("*")) if file.name != "lock.mdb")


@pytest.mark.parametrize("name", list(WRITERS))
def test_changed_bytes(tmp_path: Path, name: str) -> None:
    path = WRITERS[name](tmp_path)
    sizes = test_uniter_lmdb.manifest(tmp_path / "sizes.parquet", pictures()) if name == "uniter-lmdb" else None
    options = ImportOptions(image_sizes=sizes)
    with open_published(path, None, options) as source:
        assert source.description.format == name
        expected = source.rows
    files = list(_files(path))
    originals = {file: file.read_bytes() for file in files}
    draw = random.Random(name)
    refusals = []
    for number in range(ROUNDS):
        file = draw.choice(files)
        data = bytearray(originals[file])
        if number % 3 == 0:
            del data[draw.randrange(len(data)) :]
        for _ in range(draw.choice([1, 3, 30])):
            if data:
                data[draw.randrange(len(data))] = draw.randrange(256)
        file.write_bytes(data)
        try:
            detect_format(path)
            with open_published(path, name, options) as source:
                rows = list(source.read(0, source.rows))
            assert all(isinstance(row, (Sample, FailureRow)) for row in rows)
            assert len(rows) <= expected + 2
        except ShardError as error:
            refusals.append(str(error))
        file.write_bytes(originals[file])
    assert all(str(tmp_path) in message for message in refusals)
    assert len(refusals) < ROUNDS or name.endswith(("lmdb", "arrow"))
    with open_published(path, name, options) as source:
        assert all(isinstance(row, Sample) for row in source.read(0, source.rows))
        for row in source.read(0, source.rows):
            assert isinstance(row, Sample)
            assert np.isfinite(row.regions.boxes).all()
            json.dumps(row.meta)
