"""What dataset.json says of a converted data set is pinned, and forged counts are found by `vilbert verify`."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vilbert.pipeline.errors import CorruptShardError
from vilbert.pipeline.rebuild.convert.command import convert
from vilbert.pipeline.rebuild.convert.settings import ConvertSettings
from vilbert.pipeline.shards.checks.verify import examine
from vilbert.pipeline.shards.dataset import read_dataset, write_dataset
from vilbert.pipeline.shards.record import read_records, records_digest

GOLDEN = Path(__file__).parents[2] / "shards" / "golden"


def test_a_converted_data_set_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the command in `tests/pipeline/shards/golden` with --output converted to write the golden files anew."""
    monkeypatch.chdir(GOLDEN)
    settings = ConvertSettings(sources=(Path("tar"),), output=tmp_path / "out", where="split == 'val'", max_boxes=1)
    assert convert(settings) == 0
    for path in sorted((GOLDEN / "converted").rglob("*.*")):
        written = (tmp_path / "out" / path.relative_to(GOLDEN / "converted")).read_bytes()
        if path.name == "dataset.json":
            expected, found = (json.loads(content) | {"software": {}} for content in (path.read_bytes(), written))
            assert found == expected
        else:
            assert written == path.read_bytes()


@pytest.fixture
def converted(source: Callable[..., Path], run: Callable[..., Path]) -> Path:
    """A data set of 3 shards, 2 of which count dropped rows."""
    return run("out", source("a", rows=20), split=("train",), shard_size=5)


def forge(directory: Path, **changes: Any) -> None:
    """Change fields of dataset.json."""
    document = json.loads((directory / "dataset.json").read_bytes())
    (directory / "dataset.json").write_text(json.dumps({**document, **changes}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shard_starts": [0, 9]}, None),
        ({"shard_starts": [1, 9, 15]}, "shard_starts do not ascend from 0"),
        ({"shard_starts": [0, 9, 9]}, "shard_starts do not ascend"),
        ({"shard_starts": [0, 9, 99]}, "shard_starts do not ascend"),
        ({"shard_starts": []}, "shard_starts do not ascend"),
        ({"shard_starts": [0, "9"]}, "shard_starts.1. is '9'"),
        ({"shard_starts": 10**30}, "shard_starts is"),
        ({"converted": []}, "converted is"),
        ({"converted": [{"rows": 20}]}, "converted.0..sources is missing"),
        ({"converted": "x"}, "converted is"),
        ({"rows": 21}, "the rows of `converted` do not add up to 21"),
        ({"format": 1}, "converted is not a field of this format"),
        ({"stranger": 1}, "stranger is not a field"),
    ],
)
def test_a_forged_document_is_refused_or_found(converted: Path, changes: dict[str, Any], said: str | None) -> None:
    forge(converted, **changes)
    if said is None:
        assert {finding.code for finding in examine(converted, deep=False).findings} >= {"rows", "dataset-damaged"}
        return
    with pytest.raises(CorruptShardError, match=said):
        read_dataset(converted)


def test_sources_whose_rows_are_not_those_of_the_command_are_refused(converted: Path) -> None:
    step = json.loads((converted / "dataset.json").read_bytes())["converted"][0]
    step["sources"][0]["rows"] -= 1
    forge(converted, converted=[step])
    with pytest.raises(CorruptShardError, match=r"converted\[0\] has 20 rows"):
        read_dataset(converted)


def test_a_row_that_is_hidden_in_the_counts_is_found(converted: Path, tmp_path: Path) -> None:
    records = read_records(converted)
    shard = next(number for number, record in records.items() if record.dropped.get("split", 0) > 1)
    record = records[shard]
    fewer = dataclasses.replace(
        record,
        rows=(record.rows[0], record.rows[1] - 1),
        dropped={**record.dropped, "split": record.dropped["split"] - 1},
    )
    (converted / "shards" / f"{shard:06}.json").write_bytes(fewer.to_json())
    info = read_dataset(converted)
    changed = {**records, shard: fewer}
    write_dataset(converted, dataclasses.replace(info, records_sha256=records_digest(changed.values())))
    assert {finding.code for finding in examine(converted, deep=False).findings} >= {"rows", "totals"}


def test_verify_proves_the_sum(converted: Path) -> None:
    verdict = examine(converted, deep=True)
    assert verdict.findings == ()
    assert "12 samples + 0 failed rows + 8 dropped = 20 rows" in verdict.proven
    assert "converted from 1 source, whose rows are all counted" in verdict.proven
    shutil.rmtree(converted)
