"""A plain folder of images: the path below the folder, without its suffix, is the id."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from manifests.captions import storable
from manifests.images import is_image, walk
from manifests.record import ImageRecord
from manifests.report import Report


def image_names(names: list[str]) -> dict[str, str]:
    """Return id by file name for the images of one folder: the stem, or the whole name where another file claims it.

    `a.jpg` and `a.png` are `a.jpg` and `a.png`; beside them, `a.jpg.png` keeps its whole name too.
    """
    images = [name for name in names if is_image(name)]
    stems = Counter(os.path.splitext(name)[0] for name in images)
    stems.update(images)
    return {name: stem if stems[stem := os.path.splitext(name)[0]] == 1 else name for name in images}


def read_folder(path: Path, report: Report, *, split: str | None = None) -> Iterator[ImageRecord]:
    """Yield one record an image file, in sorted order, sub-folders included; count files that are no images."""
    root = os.path.abspath(path)
    for folder, names in walk(Path(root)):
        relative = os.path.relpath(folder, root)
        prefix = "" if relative == "." else relative.replace(os.sep, "/") + "/"
        ids = image_names(names)
        for name in names:
            file = os.path.join(folder, name)
            if storable(file) != file:
                report.count("unreadable-name", repr(file))
            elif name not in ids:
                report.count("other-file", file)
            else:
                yield ImageRecord(image_id=prefix + ids[name], uri=file, split=split or "")
