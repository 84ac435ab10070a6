"""Hugging Face imagefolder: `metadata.jsonl`, `.csv` or `.parquet` with one row per image below its folder."""

from __future__ import annotations

import os
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from vilbert.manifests.box_units import boxes_in_pixels
from vilbert.manifests.captions import storable
from vilbert.manifests.merge import merge_rows
from vilbert.manifests.readers.columns import ColumnNames, names_an_image
from vilbert.manifests.readers.csv_rows import HEADER_LINES, csv_header
from vilbert.manifests.readers.image_ids import image_names
from vilbert.manifests.readers.json_rows import read_jsonl
from vilbert.manifests.readers.parquet_rows import has_image_column
from vilbert.manifests.readers.table import TableKind, read_rows, table_record
from vilbert.manifests.record import ImageRecord, ManifestError
from vilbert.manifests.regular_file import open_regular
from vilbert.manifests.report import Report
from vilbert.manifests.uri import is_remote

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_KINDS: dict[str, TableKind] = {"metadata.jsonl": "jsonl", "metadata.csv": "csv", "metadata.parquet": "parquet"}
_SPLITS = {"train": "train", "validation": "val", "valid": "val", "val": "val", "dev": "val", "test": "test"}
_LISTINGS = 64  # cached folder listings: rows of one folder are mostly consecutive


def is_metadata(name: str) -> bool:
    """Return whether a file name is that of imagefolder metadata."""
    return name in _KINDS


def find_metadata(folder: str, names: list[str], columns: ColumnNames) -> tuple[Path, ColumnNames] | None:
    """Return the metadata file of a folder and its columns, or None if the folder has no such file.

    A column `file_name` has precedence over other columns that could name the image, such as its original URL.

    Raises:
        ManifestError: Two files list images.
    """
    choices = [columns] if columns.uri is not None else [columns._replace(uri="file_name"), columns]
    found = []
    for path in (Path(folder, name) for name in names if is_metadata(name)):
        chosen = next((choice for choice in choices if _names_images(path, choice)), None)
        if chosen is not None:
            found.append((path, chosen))
    if len(found) > 1:
        (first, _), (second, _) = found[:2]
        raise ManifestError(f"{first} and {second.name} both list the images of their folder; remove one of them")
    return found[0] if found else None


def _names_images(path: Path, columns: ColumnNames) -> bool:
    match _KINDS[path.name]:
        case "csv":
            with open(path, encoding="utf-8-sig", errors="replace", opener=open_regular, newline="") as file:
                return csv_header(list(islice(file, HEADER_LINES)), columns) is not None
        case "jsonl":
            return any(names_an_image(row, columns) for _, row in islice(read_jsonl(path, Report()), 1))
        case _:
            return has_image_column(path, columns)


class MetadataFile:
    """The rows of a metadata file and, after they were read, the images they name (8 bytes of memory per row)."""

    def __init__(self, path: Path, root: str, columns: ColumnNames) -> None:
        self.folder = os.path.abspath(path.parent)
        self._path = path
        self._root = root
        self._columns = columns
        self._hashes = array("q")
        self._sorted: NDArray[np.int64] | None = None
        self._listings: OrderedDict[str, tuple[dict[str, str], frozenset[str]]] = OrderedDict()

    def read(self, report: Report, *, check_files: bool) -> Iterator[ImageRecord]:
        """Return an iterator with one record per row. The id is the image path relative to the root, without suffix."""
        records = self._present(report, check_files)
        return boxes_in_pixels(records, str(self._path), report, self._columns.box_format)

    def _present(self, report: Report, check_files: bool) -> Iterator[ImageRecord]:
        """Yield the records; count those whose image does not exist."""
        for where, record in merge_rows(self._records(report), report):
            if check_files and "://" not in record.uri:
                folder, name = os.path.split(record.uri)
                if name not in self._listing(folder)[0] and not os.path.isfile(
                    record.uri
                ):  # hidden ones are not listed
                    report.count("missing-file", f"{where}: {record.uri}")
            yield record

    def names(self, folder: str, images: list[str]) -> list[bool]:
        """Return for each image of a folder whether a row named it."""
        import numpy as np

        if self._sorted is None:
            self._sorted = np.sort(np.frombuffer(self._hashes, np.int64))
        wanted = np.array([hash(os.path.join(folder, name)) for name in images], np.int64)
        places = np.minimum(np.searchsorted(self._sorted, wanted), max(len(self._sorted) - 1, 0))
        return (self._sorted[places] == wanted).tolist() if len(self._sorted) else [False] * len(images)

    def _records(self, report: Report) -> Iterator[tuple[str, ImageRecord]]:
        for where, row in read_rows(self._path, _KINDS[self._path.name], report, self._columns):
            row.pop("id", None)  # often not the id of the image
            try:
                record = table_record(row, self._columns, where, report, default_id=self._image_id)
                path = self._place(record.uri)
            except ValueError as error:
                report.count("malformed-row", f"{where}: {error}")
                continue
            self._hashes.append(hash(path))
            yield where, record._replace(uri=path, split=record.split or self.split_of(path))

    def _place(self, name: str) -> str:
        """Return the path of an image that a row names. Raise ValueError if it points outside the folder."""
        if "://" in name:
            if not is_remote(name):
                raise ValueError(f"file name {name!r} points outside the folder")
            return name
        path = os.path.normpath(os.path.join(self.folder, name))
        if os.path.isabs(name) or not path.startswith(os.path.join(self.folder, "")):
            raise ValueError(f"file name {name!r} points outside the folder")
        return path

    def _image_id(self, name: str) -> str:
        if "://" in name:
            return name
        folder, base = os.path.split(self._place(name))
        ids, taken = self._listing(folder)
        stem = os.path.splitext(base)[0]
        own = ids.get(base) or (base if stem in taken else stem)
        return PurePosixPath(os.path.relpath(folder, self._root), own).as_posix()

    def split_of(self, path: str) -> str:
        """Return the split named by the first folder below the root, as Hugging Face does, or an empty string."""
        return _SPLITS.get(os.path.relpath(path, self._root).split(os.sep)[0].lower(), "")

    def _listing(self, folder: str) -> tuple[dict[str, str], frozenset[str]]:
        """Return the ids of a folder's images by file name, and all file names, from one cached listing."""
        if folder not in self._listings:
            try:
                names = [name for name in sorted(os.listdir(folder)) if storable(name) == name]
            except OSError:
                names = []
            ids = image_names(names)
            self._listings[folder] = ids, frozenset(ids.values())
            if len(self._listings) > _LISTINGS:
                self._listings.popitem(last=False)
        self._listings.move_to_end(folder)
        return self._listings[folder]
