"""Rows of a CSV file with a header, separated by commas, semicolons or tabs and quoted according to RFC 4180.

The separator is the one with which the first line is a header that names an image. The lengths of cells and lines are
bounded, so that a damaged file cannot exhaust memory; a row with a longer cell counts as one malformed row.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from vilbert.manifests.readers.columns import ColumnNames, names_an_image, normalise, require_columns
from vilbert.manifests.record import ManifestError
from vilbert.manifests.regular_file import open_regular
from vilbert.manifests.report import Report

SEPARATORS = (",", ";", "\t")
MAX_CELL = 1 << 24
"""Maximum number of characters in a cell, and in a line."""
HEADER_LINES = 20
"""Maximum number of lines in a header, whose quoted cells may contain line breaks."""


def csv_header(lines: Sequence[str], columns: ColumnNames) -> tuple[str, list[str]] | None:
    """Return the separator of a table and the cells of its header, or None if it is not a table of images.

    Args:
        lines: The first lines, including line breaks; quoted header cells may contain line breaks.
        columns: Column options of the user.
    """
    for separator in SEPARATORS:
        try:
            cells = next(csv.reader(lines, strict=True, delimiter=separator), [])
        except csv.Error:
            continue
        if names_an_image(cells, columns):
            return separator, cells
    return None


class _TooLongError(Exception):
    """A line longer than MAX_CELL, whose remainder has not been read."""


class _Lines:
    """The lines of a file for csv.reader, with the state of quoting after them."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self.number = 0
        """Number of the last line read, from 1."""
        self.open = False
        """Whether the lines since `begin_row` have an odd number of quotes."""

    def begin_row(self) -> None:
        """Reset the quoting state."""
        self.open = False

    def __iter__(self) -> Iterator[str]:
        while line := self._file.readline(MAX_CELL + 1):
            self.number += 1
            self.open ^= bool(line.count('"') & 1)
            if len(line) > MAX_CELL and not line.endswith(("\n", "\r")):
                raise _TooLongError
            yield line

    def skip_row(self, *, within_line: bool) -> bool:
        """Skip to the end of the row. Return False if the file ends inside a quoted cell."""
        while within_line or self.open:
            part = self._file.readline(MAX_CELL + 1)
            if not part:
                return not self.open
            self.number += not within_line
            self.open ^= bool(part.count('"') & 1)
            within_line = not part.endswith(("\n", "\r"))
        return True


def read_csv(path: Path, report: Report, columns: ColumnNames) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, row) of a file whose first line names the columns. Names are normalised; empty cells omitted."""
    csv.field_size_limit(max(MAX_CELL, csv.field_size_limit()))
    with open(path, encoding="utf-8-sig", errors="replace", opener=open_regular, newline="") as file:
        header = csv_header(_first_lines(file), columns)
        file.seek(0)
        rows = _rows(path, file, header[0] if header else ",", report)
        _, cells = next(rows, ("", []))
        names = [normalise(cell) for cell in cells]
        if len(set(names)) < len(names):
            raise ManifestError(f"{path}: the header names a column twice: {', '.join(names)}; give each name once")
        _, caption = require_columns(names, columns, str(path))
        for where, row in rows:
            if len(row) == len(names):
                yield where, {name: cell for name, cell in zip(names, row, strict=True) if cell or name == caption}
            elif row:
                report.count("malformed-row", f"{where}: {len(row)} cells, {len(names)} columns")


def _first_lines(file: IO[str]) -> list[str]:
    return [line for _ in range(HEADER_LINES) if (line := file.readline(MAX_CELL))]


def _rows(path: Path, file: IO[str], separator: str, report: Report) -> Iterator[tuple[str, list[str]]]:
    """Yield (place, cells) of every row; count rows that are too long."""
    lines = _Lines(file)
    while True:
        reader = csv.reader(iter(lines), strict=True, delimiter=separator)
        try:
            for row in reader:
                yield f"{path}:{lines.number}", row
                lines.begin_row()
            return
        except _TooLongError:
            whole = lines.skip_row(within_line=True)
        except csv.Error as error:
            if "field limit" not in str(error):
                raise ManifestError(
                    f"{path}:{lines.number}: {error}; quote cells according to RFC 4180, or use JSONL"
                ) from None
            whole = lines.skip_row(within_line=False)
        where = f"{path}:{lines.number}"
        if not whole:
            raise ManifestError(f"{where}: the file ends inside a quoted cell of more than {MAX_CELL:,} characters")
        report.count("malformed-row", f"{where}: a cell or line of more than {MAX_CELL:,} characters")
        lines.begin_row()
