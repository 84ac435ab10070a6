"""A tree of folders with images: the image id is the path relative to the root, without the suffix.

Captions come from a metadata file in the Hugging Face imagefolder format, which lists the images below its folder, or
from caption files next to the images. Folders below the root that contain img2dataset shards are read as shards.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from vilbert.manifests.captions import storable
from vilbert.manifests.readers.caption_files import CaptionFiles, is_caption_file
from vilbert.manifests.readers.columns import USUAL_NAMES, ColumnNames
from vilbert.manifests.readers.image_ids import image_names
from vilbert.manifests.readers.images import has_image_suffix, is_hidden, is_hidden_below, is_image, walk
from vilbert.manifests.readers.img2dataset import read_img2dataset
from vilbert.manifests.readers.metadata_file import MetadataFile, find_metadata, is_metadata
from vilbert.manifests.record import ImageRecord, ManifestError
from vilbert.manifests.report import Report

_SHARD = re.compile(r".*\.tar|\d+\.parquet|\d+_stats\.json")


def shard_names(folder: Path, names: Sequence[str]) -> list[str]:
    """Return the files of a folder that are parts of image shards; none if no tar or folder contains images."""
    names = [name for name in names if _SHARD.fullmatch(name) and not is_hidden(name)]
    numbers = {re.split(r"[_.]", name)[0] for name in names}
    has_images = any(name.endswith(".tar") for name in names) or any((folder / number).is_dir() for number in numbers)
    return names if has_images else []


def holds_images(path: Path) -> bool:
    """Return whether a tree has image files, or shards below its root, outside hidden folders."""
    return any(
        any(map(is_image, names)) or shard_names(Path(folder), names)
        for folder, names in walk(path)
        if not is_hidden_below(path, folder)
    )


def read_folder(
    path: Path,
    report: Report,
    *,
    split: str | None = None,
    columns: ColumnNames = USUAL_NAMES,
    check_files: bool = True,
    incomplete: bool = False,
) -> Iterator[ImageRecord]:
    """Yield one record per image file in sorted order, including sub-folders. Count files that are not images.

    `split`, `check_files` and `incomplete` are those of `read_img2dataset`. Rows of a metadata file come before the
    other images of its folder.
    """
    root = os.path.abspath(path)
    captions = CaptionFiles(report, columns)
    metadata: list[MetadataFile] = []
    shard_folder, has_columns = "", False
    for folder, names in walk(Path(root)):
        if shard_folder and folder.startswith(shard_folder):
            continue  # the loose files of a shard
        prefix = "" if folder == root else os.path.relpath(folder, root).replace(os.sep, "/") + "/"
        hidden = is_hidden_below(root, folder)
        if folder != root and not hidden and not any(map(is_image, names)) and shard_names(Path(folder), names):
            shard_folder = os.path.join(folder, "")
            for record in read_img2dataset(
                Path(folder), report, check_files=check_files, incomplete=incomplete, split=split
            ):
                yield record._replace(image_id=prefix + record.image_id)
            continue
        while metadata and not f"{folder}{os.sep}".startswith(f"{metadata[-1].folder}{os.sep}"):
            metadata.pop()
        file = None
        if not hidden and (found := find_metadata(folder, names, columns)):
            file, has_columns = found[0], True
            metadata.append(MetadataFile(file, root, found[1]))
            for record in metadata[-1].read(report, check_files=check_files):
                yield record if split is None else record._replace(split=split)
        images = list(_images(folder, names, report, hidden=hidden, captions=not metadata, metadata=file))
        ids = image_names(names)
        if metadata:
            for name, is_named in zip(images, metadata[-1].names(folder, images), strict=True):
                if not is_named:
                    image = os.path.join(folder, name)
                    report.count("image-without-metadata", image)
                    own = metadata[-1].split_of(image) if split is None else split
                    yield ImageRecord(image_id=prefix + ids[name], uri=image, split=own)
        else:
            for name, texts in zip(images, captions.read(folder, names, images), strict=True):
                image = os.path.join(folder, name)
                yield ImageRecord(image_id=prefix + ids[name], uri=image, captions=texts, split=split or "")
    captions.finish()
    if columns.uri is not None and not has_columns:
        raise ManifestError(f"--uri-column {columns.uri}: no metadata file in {path} has this column")


def _images(
    folder: str, names: Sequence[str], report: Report, *, hidden: bool, captions: bool, metadata: Path | None
) -> Iterator[str]:
    """Yield the names of a folder's images that are not hidden. In a hidden folder, all images are hidden.

    Counts all other files, except caption files (if `captions`) and metadata.
    """
    for name in names:
        file = os.path.join(folder, name)
        if storable(file) != file:
            report.count("unreadable-name", repr(file))
        elif (hidden or is_hidden(name)) and (has_image_suffix(name) or _SHARD.fullmatch(name) or is_metadata(name)):
            report.count("hidden-file", file)
        elif is_image(name):
            yield name
        elif not (captions and is_caption_file(name)) and not (metadata and name == metadata.name):
            report.count("other-file", file)
