"""Exclude images, such as another task's test set: many data sets share the same COCO photographs.

12-in-1 (Lu et al. 2020) removes the test images of all tasks from training, by `coco_test_ids.npy`. Such a list is read
from a .npy file, a JSON list, or a text file with one id per line.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vilbert.manifests.record import ImageRecord, ManifestError
from vilbert.manifests.report import Report
from vilbert.untrusted.arrays import read_npy
from vilbert.untrusted.documents import read_json


def read_ids(path: Path) -> set[str]:
    """Return the ids in a .npy, JSON or text file; numbers are converted to strings."""
    try:
        if path.suffix.lower() == ".npy":
            return set(map(_id_text, _read_npy(path)))
        if path.suffix.lower() == ".json":
            ids = read_json(path)
            if not isinstance(ids, list):
                raise ManifestError(f"--exclude-ids {path}: expected a JSON list of ids")
            return set(map(_id_text, ids))
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise ManifestError(f"--exclude-ids {path}: no such file") from None
    except (ValueError, OSError) as error:
        raise ManifestError(f"--exclude-ids {path}: cannot be read: {error}") from None
    return {line.strip() for line in text.split("\n") if line.strip()}


def _read_npy(path: Path) -> list[object]:
    """Return the values of an array. Raise ValueError if the file is not an array of plain values."""
    array = read_npy(path)
    if array.dtype.kind not in "iufUS":
        raise ValueError("expected an array of numbers or strings")
    values: list[object] = array.ravel().tolist()
    return values


def _id_text(value: object) -> str:
    """Return an id as a string. An integral float is an integer that NumPy or pandas has converted."""
    if isinstance(value, bytes):
        value = value.decode("utf-8")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str | int) and not isinstance(value, bool):
        return str(value).strip()
    raise ValueError(f"{value!r:.80} is not an id, expected a string or an integer")


class Exclusion:
    """The ids to exclude, and which of them occurred."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ids = read_ids(path)
        self._met: set[str] = set()

    def filter(self, records: Iterator[ImageRecord], report: Report) -> Iterator[ImageRecord]:
        """Yield the records whose id is not excluded; count the others."""
        for record in records:
            if record.image_id in self._ids:
                self._met.add(record.image_id)
                report.count("excluded-id", record.image_id)
            else:
                yield record

    def count_unmet(self, report: Report) -> None:
        """Count the ids that no record has: if ids are spelled differently, test images would stay in training."""
        for image_id in sorted(self._ids - self._met):
            report.count("unmatched-exclusion", f"{self.path}: {image_id}")
