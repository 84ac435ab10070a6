"""Image files on a local disk: list them, and find the file that an annotation names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from vilbert.manifests.record import ManifestError
from vilbert.manifests.report import Report

SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))


_HIDDEN = frozenset(("__MACOSX", "@eaDir", "$RECYCLE.BIN"))
# Absolute paths, Windows drives, `..` between slashes of either kind, and NUL, which no file system accepts.
_OUTSIDE = re.compile(r"[\\/]|[A-Za-z]:[\\/]|(?:.*[\\/])?\.\.(?:[\\/]|\Z)|.*\0", re.DOTALL)


def has_image_suffix(name: str) -> bool:
    """Return whether a file's name has the suffix of a supported image format."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def is_image(name: str) -> bool:
    """Return whether a file name is that of an image that is not hidden."""
    return has_image_suffix(name) and not is_hidden(os.path.basename(name))


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name is hidden, or was created by an operating system or tool.

    `._a.jpg` of macOS is not an image; `.Trash`, `.ipynb_checkpoints` and `.thumbnails` contain copies.
    """
    return (name.startswith(".") and name not in (".", "..")) or name in _HIDDEN


def is_hidden_below(root: Path | str, folder: str) -> bool:
    """Return whether a folder that `walk` yields is hidden, or is in a hidden folder below the root.

    The root itself may be hidden: the user named it.
    """
    return any(map(is_hidden, os.path.relpath(folder, root).split(os.sep)))


def leads_out(name: str) -> bool:
    """Return whether a relative name could point outside the folder or archive that contains it."""
    return _OUTSIDE.match(name) is not None


def walk(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield (folder, file names) for every folder under `root`, sorted. Follows links; visits each real folder once."""
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
    """The folder of `--images`. Finds a file by name in the folder itself, a given sub-folder, or any other one."""

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
        """Return the path of image `name`; count it if it does not exist.

        Args:
            name: File name from an annotation file.
            folder: The sub-folder in which the data set stores it, which is searched first.
            where: Location for messages.
            report: Counts missing files.

        Raises:
            ManifestError: Several other sub-folders contain the name, or the name points outside the root.
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
        if subfolder not in self._listings:  # one listing instead of a system call per image: folders may be remote
            path = self.root / subfolder
            self._listings[subfolder] = frozenset(os.listdir(path)) if path.is_dir() else frozenset()
        return base in self._listings[subfolder]
