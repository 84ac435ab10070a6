"""CSV files of any separator are read whole; a row that is too long is one malformed row."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vilbert.manifests.readers import csv_rows
from vilbert.manifests.readers.columns import USUAL_NAMES, ColumnNames
from vilbert.manifests.readers.csv_rows import SEPARATORS, read_csv
from vilbert.manifests.record import ManifestError
from vilbert.manifests.report import Report

CELLS = st.text(
    st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=12
)  # csv.writer quotes no carriage return


def read(path: Path, columns: ColumnNames = USUAL_NAMES) -> tuple[list[dict[str, Any]], Report]:
    report = Report()
    return [row for _, row in read_csv(path, report, columns)], report


@given(
    st.lists(st.tuples(CELLS, CELLS), max_size=4),
    st.sampled_from(SEPARATORS),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_a_csv_writer_writes_is_read(
    tmp_path: Path, cells: list[tuple[str, str]], separator: str, end: str, with_mark: bool, quoting: Any
) -> None:
    path = tmp_path / "t.csv"
    with open(path, "w", encoding="utf-8-sig" if with_mark else "utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=separator, lineterminator=end, quoting=quoting)
        writer.writerows([("File Name", " CAPTION "), *((f"{i}{name}", text) for i, (name, text) in enumerate(cells))])
    rows, report = read(path)
    assert rows == [{"file_name": f"{i}{name}", "caption": text} for i, (name, text) in enumerate(cells)]
    assert not report.counts


def test_a_cell_longer_than_the_limit_of_the_csv_module(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"url,caption\nhttp://x/1,{'a' * 200_000}\n")
    assert len(read(tmp_path / "t.csv")[0][0]["caption"]) == 200_000


@pytest.mark.parametrize("long", ["y" * 250, '"' + "y\n" * 120 + '"', '"' + "y" * 150 + '""\n' + "y" * 90 + '"'])
def test_a_row_beyond_the_bound_is_one_malformed_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long: str
) -> None:
    monkeypatch.setattr(csv_rows, "MAX_CELL", 100)
    before = csv.field_size_limit(100)
    try:
        (tmp_path / "t.csv").write_text(f"url,caption\nhttp://x/1,a\nhttp://x/2,{long}\nhttp://x/3,c\n")
        rows, report = read(tmp_path / "t.csv")
    finally:
        csv.field_size_limit(before)
    assert rows == [{"url": "http://x/1", "caption": "a"}, {"url": "http://x/3", "caption": "c"}]
    assert report.counts == {"malformed-row": 1}


def test_a_quote_that_is_never_closed_does_not_take_the_rest_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_rows, "MAX_CELL", 100)
    before = csv.field_size_limit(100)
    try:
        (tmp_path / "t.csv").write_text('url,caption\nhttp://x/1,"a\n' + "http://x/2,b\n" * 50)
        with pytest.raises(ManifestError, match="inside a quoted cell"):
            read(tmp_path / "t.csv")
    finally:
        csv.field_size_limit(before)


def test_two_columns_of_captions_are_refused_and_the_option_chooses(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("url,Caption,text,Alt Text\nhttp://x/1,a,b,c\n")
    with pytest.raises(ManifestError, match=r"caption and text.*--caption-column"):
        read(tmp_path / "t.csv")
    assert read(tmp_path / "t.csv", ColumnNames(caption="alt-text"))[0][0]["alt_text"] == "c"
    with pytest.raises(ManifestError, match=r"no column 'nope'.*--caption-column"):
        read(tmp_path / "t.csv", ColumnNames(caption="nope"))


def test_two_columns_of_images_are_refused_unless_one_is_called_uri(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("url,path\nhttp://x/1,a.jpg\n")
    with pytest.raises(ManifestError, match=r"url and path.*--uri-column"):
        read(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("uri,url,path\nhttp://x/1,b,a.jpg\n")
    assert len(read(tmp_path / "t.csv")[0]) == 1
