"""Group the files of a shard: images, and the captions and metadata with the same key.

The WebDataset key is the part of a file's name before the first dot: `a.left.jpg` and `a.txt` have the key `a`. Many
tools instead mean the name without its last suffix, as in `22.05.jpg` and `22.05.txt`, so that name has precedence, and
two images with the same key stay separate.
"""

from __future__ import annotations

import os
import posixpath
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from vilbert.manifests.captions import storable
from vilbert.manifests.readers.image_ids import image_names
from vilbert.manifests.readers.images import has_image_suffix, is_hidden, is_image, leads_out
from vilbert.manifests.readers.shards import Shard
from vilbert.manifests.readers.tar_listing import list_tar, plain_name
from vilbert.manifests.regular_file import open_regular
from vilbert.manifests.report import Report
from vilbert.untrusted.documents import DocumentError

SIDE_SUFFIXES = (".txt", ".json")
MAX_SIDE_BYTES = 1 << 24
"""Maximum size of a side file."""


def key_of(name: str) -> str:
    """Return a file's WebDataset key: its path up to the first dot of its name."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def stem_of(name: str) -> str:
    """Return a file's path without its last suffix."""
    return posixpath.splitext(name)[0]


@dataclass(kw_only=True)
class ShardFiles:
    """The files of one shard: mappings from plain names to stored names."""

    images: dict[str, str] = field(default_factory=dict)
    sides: dict[str, str] = field(default_factory=dict)
    """Captions and metadata, with the suffix in lower case."""

    def side(self, image: str, suffix: str) -> str | None:
        """Return the stored name of an image's side file, found by its name without suffix, or else by its key."""
        return self.sides.get(stem_of(image) + suffix) or self.sides.get(key_of(image) + suffix)

    def by_id(self, where: str, report: Report) -> dict[str, str]:
        """Return the images' plain names by id, sorted by id. Count images that share a key.

        The id is the key. It is the name without suffix if images share the key or a side file has that name, and the
        whole name if that is not unique either (`a.jpg` and `a.png`).
        """
        groups: defaultdict[str, list[str]] = defaultdict(list)
        for name in self.images:
            groups[key_of(name)].append(name)
        ids = {}
        for key, names in groups.items():
            if len(names) > 1:
                report.count("shared-key", f"{where}: {', '.join(names[:3])}", len(names))
                folder, slash, _ = key.rpartition("/")
                bases = image_names([posixpath.basename(name) for name in names])
                ids.update({folder + slash + base_id: folder + slash + base for base, base_id in bases.items()})
            else:
                stem = stem_of(names[0])
                ids[stem if any(stem + suffix in self.sides for suffix in SIDE_SUFFIXES) else key] = names[0]
        return dict(sorted(ids.items()))

    def by_key(self) -> dict[str, str]:
        """Return the images' plain names by every name that a row may use: path without suffix, key, file name.

        The file name alone is for tars whose members are in a folder; it is omitted if two folders have it.
        """
        names: dict[str, str] = {}
        for name_of in (stem_of, key_of):
            for name in self.images:
                names.setdefault(name_of(name), name)
        bases: dict[str, str | None] = {}
        for name in self.images:
            base = posixpath.basename(stem_of(name))
            bases[base] = None if base in bases else name
        return {base: name for base, name in bases.items() if name is not None} | names

    def count_sides_alone(self, where: str, report: Report) -> None:
        """Count keys that have captions or metadata but no image."""
        with_image = {part for name in self.images for part in (stem_of(name), key_of(name))}
        alone = {stem_of(side) for side in self.sides} - with_image
        for key in sorted(key for key in alone if key_of(key) not in with_image):
            report.count("no-image", f"{where}: {key}")


def open_shard(shard: Shard, report: Report) -> tuple[ShardFiles, Callable[[str], bytes]]:
    """Return a shard's files and a function that reads a side file by its stored name. Count unreadable files.

    The function raises DocumentError for a file larger than `MAX_SIDE_BYTES`.
    """
    where = str(shard.data)
    if not shard.tar:
        return group_files(_loose_names(shard.data, report), where, report), lambda name: _read(shard.data / name)
    listing = list_tar(shard.data)
    if listing.damage:
        report.count("damaged-tar", f"{where}: {listing.damage}")
    for name in listing.unreadable:
        report.count("unreadable-member", f"{where}: {name!r}")
    for name in listing.repeated:
        report.count("repeated-image" if is_image(name) else "repeated-side-file", f"{where}: {name!r}")

    def read(name: str) -> bytes:
        return _read(shard.data, *listing.places[name])

    return group_files(listing.places, where, report), read


def _loose_names(folder: Path, report: Report) -> list[str]:
    """Return the names in a shard's folder. Count pipes, devices and dangling links, which cannot be read."""
    names = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_file() or entry.is_dir():
                names.append(entry.name)
            else:
                report.count("unreadable-member", entry.path)
    return names


def _read(path: Path, offset: int = 0, size: int | None = None) -> bytes:
    """Return the bytes of a side file, or a part of it. Raise DocumentError if it is too large."""
    with open(path, "rb", opener=open_regular) as file:
        file.seek(offset)
        data = file.read(MAX_SIDE_BYTES + 1 if size is None else min(size, MAX_SIDE_BYTES + 1))
    if len(data) > MAX_SIDE_BYTES:
        raise DocumentError(f"larger than {MAX_SIDE_BYTES:,} bytes")
    return data


def group_files(names: Iterable[str], where: str, report: Report) -> ShardFiles:
    """Sort a shard's files into images and side files. Count all others by kind."""
    files = ShardFiles()
    for stored in names:
        name = plain_name(stored)
        suffix = posixpath.splitext(name)[1].lower()
        image = has_image_suffix(name)
        if leads_out(name):
            report.count("outside-name", f"{where}: {stored!r}")
        elif "::" in stored or storable(stored) != stored:  # neither can be used in a URI
            report.count("unreadable-name", f"{where}: {stored!r}")
        elif any(map(is_hidden, name.split("/"))):
            report.count("hidden-file" if image else "other-file", f"{where}: {stored}")
        elif image:
            _add(files.images, name, stored, "repeated-image", where, report)
        elif suffix in SIDE_SUFFIXES:
            _add(files.sides, stem_of(name) + suffix, stored, "repeated-side-file", where, report)
        else:
            report.count("other-file", f"{where}: {stored}")
    return files


def _add(files: dict[str, str], name: str, stored: str, issue: str, where: str, report: Report) -> None:
    if name in files:
        report.count(issue, f"{where}: {stored}")
    files[name] = stored
