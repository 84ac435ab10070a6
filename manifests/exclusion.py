"""Images to leave out, such as another task's test set: the same COCO photographs are in many data sets.

12-in-1 (Lu et al. 2020) drops from training whatever another task tests on, by `coco_test_ids.npy`; such a list is read
as it is, as a JSON list, or as text with one id a line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from manifests.record import ImageRecord, ManifestError
from manifests.report import Report
from vilbert.untrusted.arrays import read_npy


def read_ids(path: Path) -> set[str]:
    """Return the ids in a .npy, JSON or text file; numbers become their digits."""
    try:
        if path.suffix == ".npy":
            return set(map(str, read_npy(path).ravel().tolist()))
        text = path.read_text("utf-8-sig")
        if path.suffix == ".json":
            ids = json.loads(text)
            if not isinstance(ids, list) or not all(isinstance(i, str | int) for i in ids):
                raise ManifestError(f"--exclude-ids {path}: expected a JSON list of ids")
            return set(map(str, ids))
    except FileNotFoundError:
        raise ManifestError(f"--exclude-ids {path}: no such file") from None
    except (ValueError, OSError) as error:
        raise ManifestError(f"--exclude-ids {path}: cannot be read: {error}") from None
    return {line.strip() for line in text.splitlines() if line.strip()}


class Exclusion:
    """The ids to leave out, and which of them were met."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ids = read_ids(path)
        self._met: set[str] = set()

    def filter(self, records: Iterator[ImageRecord], report: Report) -> Iterator[ImageRecord]:
        """Yield the records whose id is not on the list; count the others."""
        for record in records:
            if record.image_id in self._ids:
                self._met.add(record.image_id)
                report.count("excluded-id", record.image_id)
            else:
                yield record

    def count_unmet(self, report: Report) -> None:
        """Count the ids that no record had: another spelling of ids would leave the leak open."""
        for image_id in sorted(self._ids - self._met):
            report.count("unmatched-exclusion", f"{self.path}: {image_id}")
