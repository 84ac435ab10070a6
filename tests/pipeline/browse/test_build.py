"""An index is built once, resumed after a kill, rebuilt when the data set changes, and no part of the data set."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vilbert.pipeline.browse import build
from vilbert.pipeline.browse.filters import Filters
from vilbert.pipeline.browse.index import Index
from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.jobs.plan import refuse_strangers
from vilbert.pipeline.shards.location.folder import LocalFolder
from vilbert.pipeline.shards.location.layout import BROWSE_FOLDER, DATASET_FILE

from ..shards.conftest import SmallDataset, write_small_dataset
from .conftest import Browse


def shards_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which each shard that a build reads is added."""
    read: list[int] = []
    original = build.read_entries

    def noted(*arguments: Any) -> Any:
        read.append(arguments[-1])
        return original(*arguments)

    monkeypatch.setattr(build, "read_entries", noted)
    return read


def test_the_second_opening_reads_no_shard(
    dataset: SmallDataset, browse: Browse, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = shards_read(monkeypatch)
    browse(dataset.directory)
    assert read == [0, 1, 2]
    browse(dataset.directory)
    assert read == [0, 1, 2]


def test_a_killed_build_is_resumed(tmp_path: Path, browse: Browse, monkeypatch: pytest.MonkeyPatch) -> None:
    made = write_small_dataset(tmp_path, rows=20)
    read = shards_read(monkeypatch)
    store = build._Build._store

    def killed(self: Any, entries: Any) -> None:
        if entries.shard == 3:
            raise KeyboardInterrupt
        store(self, entries)

    monkeypatch.setattr(build._Build, "_store", killed)
    with pytest.raises(KeyboardInterrupt):
        browse(made.directory)
    monkeypatch.setattr(build._Build, "_store", store)
    found = browse(made.directory).datasets[0]
    assert read == [0, 1, 2, 3, 3, 4]
    assert found.search.page(Filters()).matches == made.info.totals.samples
    assert found.search.page(Filters(caption="photograph 17")).matches == 1
    assert not (made.directory / BROWSE_FOLDER / build.PARTS).exists()


def test_a_changed_data_set_is_indexed_again(tmp_path: Path, browse: Browse, monkeypatch: pytest.MonkeyPatch) -> None:
    browse(write_small_dataset(tmp_path).directory)
    made = write_small_dataset(tmp_path, failed={})
    read = shards_read(monkeypatch)
    assert browse(made.directory).datasets[0].search.page(Filters()).matches == 10
    assert read == [0, 1, 2]


def test_a_read_only_data_set_is_indexed_in_the_cache(
    tmp_path: Path, browse: Browse, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = write_small_dataset(tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    index = browse(made.directory).datasets[0].index
    assert index.folder.is_relative_to(os.environ["XDG_CACHE_HOME"])
    assert index.samples == 7


def test_a_link_in_the_place_of_the_index_is_not_followed(tmp_path: Path, browse: Browse) -> None:
    made = write_small_dataset(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (made.directory / BROWSE_FOLDER).symlink_to(tmp_path / "elsewhere")
    browse(made.directory)
    assert not any((tmp_path / "elsewhere").iterdir())


def test_verify_and_extract_know_the_index(dataset: SmallDataset, browse: Browse) -> None:
    browse(dataset.directory)
    assert dataset.findings(deep=True) == ()
    (dataset.directory / DATASET_FILE).unlink()
    for folder in ("shards", "failures"):
        (dataset.directory / folder).rename(dataset.directory.parent / folder)
    refuse_strangers(LocalFolder(dataset.directory))


def test_a_damaged_shard_is_left_out_and_named(tmp_path: Path, browse: Browse) -> None:
    made = write_small_dataset(tmp_path, failed={})
    path = made.data_file(1)
    path.write_bytes(path.read_bytes()[:-1000])
    found = browse(made.directory).datasets[0]
    page = found.search.page(Filters())
    assert page.numbers == [0, 1, 2, 3, 8, 9]
    assert [found.index.at([number])[0].image_id for number in page.numbers][4:] == ["photo.008", "photo.009"]
    (problem,) = found.index.problems()
    assert path.name in problem
    with pytest.raises(ShardError):
        found.read(found.index.at([8])[0]._replace(place=7))


@pytest.mark.parametrize("harm", ["view", "short column", "no database"])
def test_an_index_from_elsewhere_is_refused_or_made_again(harm: str, tmp_path: Path, browse: Browse) -> None:
    made = write_small_dataset(tmp_path)
    folder = browse(made.directory).datasets[0].index.folder
    if harm == "view":
        with sqlite3.connect(folder / "index.sqlite") as database:
            database.execute("CREATE VIEW harmful AS SELECT * FROM samples")
    elif harm == "short column":
        (folder / "boxes.bin").write_bytes(b"")
    else:
        (folder / "index.sqlite").write_bytes(b"not SQLite" * 100)
        assert browse(made.directory).datasets[0].index.samples == 7
        return
    with pytest.raises(ShardError, match=f"delete {folder}"):
        browse(made.directory)


@pytest.mark.parametrize("column", ["order_boxes", "split", "score_samples"])
def test_a_damaged_column_is_named_and_not_a_traceback(
    column: str, tmp_path: Path, browse: Browse, client_of: Callable[[Any], Any]
) -> None:
    made = write_small_dataset(tmp_path)
    folder = browse(made.directory).datasets[0].index.folder
    path = folder / f"{column}.bin"
    path.write_bytes(b"\xff" * path.stat().st_size)
    try:
        client = client_of(browse(made.directory))
    except ShardError as error:
        assert f"{folder}: is damaged" in str(error)  # noqa: PT017  # where the charts read the column
        return
    pages = ("?boxes_min=2", "?split=train", "?score_min=0.2&score_max=0.4", "?object=dog&sort=-boxes")
    answers = [client.get(f"/0/{page}") for page in pages]
    assert any(answer.status_code == 500 for answer in answers)
    for answer in answers:
        assert answer.status_code == 200 or f"{folder}: is damaged" in answer.text


def test_no_statement_of_a_page_scans_a_table(
    tmp_path: Path, browse: Browse, client_of: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = write_small_dataset(tmp_path, failed={6: "corrupt"})
    path = made.data_file(1)
    path.write_bytes(path.read_bytes()[:-1000])
    site = browse(made.directory)
    index = site.datasets[0].index
    statements: dict[str, Any] = {}
    rows = Index.rows

    def noted(self: Index, statement: str, values: Any = ()) -> Any:
        statements[statement] = values
        return rows(self, statement, values)

    monkeypatch.setattr(Index, "rows", noted)
    monkeypatch.setattr("vilbert.pipeline.browse.search.LISTED_AT_ONCE", 1)
    client, key = client_of(site), index.at([0])[0].key
    pages = (
        f"?caption=photograph&same={key}",
        "?caption=photograph&sort=-score",
        f"?same={key}",
        "?boxes_min=1",
        f"sample/{key}",
        "sample/photo.009",
    )
    for page in (
        *pages,
        "statistics",
        "failures",
        "?failure=corrupt",
        "?failure=any",
        "failures?failure=corrupt",
        "failure/6",
    ):
        assert client.get(f"/0/{page}").status_code in (200, 307), page
    assert len(statements) >= 7
    for statement, values in statements.items():
        for *_, detail in rows(index, f"EXPLAIN QUERY PLAN {statement}", values):
            scans = detail.startswith("SCAN") and "VIRTUAL TABLE" not in detail and "(subquery" not in detail
            assert not scans or "shards_with_problems" in detail, (statement, detail)


def test_a_kill_inside_a_transaction_leaves_no_half_shard(
    tmp_path: Path, browse: Browse, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = write_small_dataset(tmp_path, rows=20)
    monkeypatch.setattr(build, "BATCH", 100)
    store, read = build._Build._store, shards_read(monkeypatch)

    def killed_inside(self: Any, entries: Any) -> None:
        store(self, entries)
        if entries.shard == 2:
            self._whole = False  # as while its rows are being inserted
            raise KeyboardInterrupt

    monkeypatch.setattr(build._Build, "_store", killed_inside)
    with pytest.raises(KeyboardInterrupt):
        browse(made.directory)
    monkeypatch.setattr(build._Build, "_store", store)
    found = browse(made.directory).datasets[0]
    assert read == [0, 1, 2, 0, 1, 2, 3, 4]
    with_captions = found.search.page(Filters(captions_min=1)).matches
    assert found.search.page(Filters(caption="photograph")).matches == with_captions > 0
