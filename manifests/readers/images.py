"""Image files on a local disk: which there are, and where a name of an annotation file is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from vilbert.manifests.record import ManifestError
from vilbert.manifests.report import Report

SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))


_HIDDEN = frozenset(("__MACOSX", "@eaDir", "$RECYCLE.BIN"))
# Absolute, on a drive of Windows, with `..` between slashes of either kind, or with a NUL, which no file system takes.
_OUTSIDE = re.compile(r"[\\/]|[A-Za-z]:[\\/]|(?:.*[\\/])?\.\.(?:[\\/]|\Z)|.*\0", re.DOTALL)


def has_image_suffix(name: str) -> bool:
    """Say whether a file's name has the suffix of a format that is decoded."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def is_image(name: str) -> bool:
    """Say whether a file is an image by its name, and not hidden."""
    return has_image_suffix(name) and not is_hidden(os.path.basename(name))


def is_hidden(name: str) -> bool:
    """Say whether a file or folder of this name is hidden, or kept by a system beside the user's own.

    `._a.jpg` of macOS holds no image; `.Trash`, `.ipynb_checkpoints` and `.thumbnails` hold copies.
    """
    return (name.startswith(".") and name not in (".", "..")) or name in _HIDDEN


def is_hidden_below(root: Path | str, folder: str) -> bool:
    """Say whether a folder that `walk` yields is hidden or lies in a hidden one below the root.

    The root itself may be hidden: the user named it.
    """
    return any(map(is_hidden, os.path.relpath(folder, root).split(os.sep)))


def leads_out(name: str) -> bool:
    """Say whether a relative name could lead out of the folder or archive that it is looked up in."""
    return _OUTSIDE.match(name) is not None


def walk(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield (folder, file names) for every folder under `root`, sorted, links followed, each real folder once."""
    seen = set()
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=_refuse):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders.sort()
        yield folder, sorted(names)


def _refuse(error: OSError) -> None:
    raise ManifestError(f"{error.filename}: cannot list the folder: {error.strerror}") from error


class ImageRoot:
    """The folder of `--images`: finds a file by name in it, in the sub-folder that is named, or in any other."""

    def __init__(self, root: Path, *, check_files: bool = True) -> None:
        if not root.is_dir():
            raise ManifestError(f"--images {root}: no such folder")
        self.root = Path(os.path.abspath(root))
        self._check = check_files
        self._subfolders = sorted(
            entry.name for entry in os.scandir(self.root) if entry.is_dir() and not is_hidden(entry.name)
        )
        self._listings: dict[str, frozenset[str]] = {}

    def find(self, name: str, *, folder: str = "", where: str, report: Report) -> str:
        """Return the path of image `name`; count it where it is not there.

        folder: the sub-folder where the data set keeps it, looked into before the others.
        Raises ManifestError where two other sub-folders have the name, or the name leads out of the root.
        """
        for part in (folder, name):
            if leads_out(part):
                raise ManifestError(f"{where}: file name {part!r} points outside --images {self.root}")
        if not self._check:
            return str(self.root / (folder if folder in self._subfolders else "") / name)
        for candidate in ("", folder):
            if self._has(candidate, name):
                return str(self.root / candidate / name)
        found = [candidate for candidate in self._subfolders if self._has(candidate, name)]
        if len(found) > 1:
            raise ManifestError(
                f"{where}: {name} is in both {self.root / found[0]} and {self.root / found[1]}; "
                "set --images to the folder that contains the right one"
            )
        if found:
            return str(self.root / found[0] / name)
        report.count("missing-file", f"{where}: {self.root / name}")
        return str(self.root / name)

    def _has(self, folder: str, name: str) -> bool:
        subfolder, base = os.path.split(os.path.join(folder, name))
        if subfolder not in self._listings:  # one listing instead of a system call an image: folders may be remote
            path = self.root / subfolder
            self._listings[subfolder] = frozenset(os.listdir(path)) if path.is_dir() else frozenset()
        return base in self._listings[subfolder]
