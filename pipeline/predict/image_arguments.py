"""What `--image` of `vilbert predict` names: files, URLs, folders of images, and patterns."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from vilbert.manifests.readers.images import is_image, walk
from vilbert.manifests.record import ManifestError
from vilbert.pipeline.errors import RefusedError


def expand_images(arguments: Sequence[str], *, in_pairs: bool) -> list[str]:
    """Return the paths and URLs of the images that arguments name, in their order.

    A folder stands for the images in it and below, a pattern (`*`, `?`, `[...]`, `**`) for the images that it matches,
    both sorted by name. A file with such a character in its name is that file. A file that does not exist is kept: it
    is a failure of that image.

    Args:
        arguments: As on the command line.
        in_pairs: Images come in pairs, left and right; a folder or a pattern then stands for one pair.

    Raises:
        RefusedError: A folder or a pattern has no image, or with `in_pairs` not exactly two.
    """
    found: list[str] = []
    for argument in arguments:
        images = _images_of(argument)
        if images is None:
            found.append(argument)
            continue
        if not images:
            raise RefusedError(f"--image {argument}: contains no image; give the path of a file, a folder or a URL")
        if in_pairs and len(images) != 2:
            raise RefusedError(
                f"--image {argument}: has {len(images)} images; in this task a folder or pattern stands for one "
                "pair of images, left and right in the order of their names: give the files of each pair"
            )
        found += images
    return found


def _images_of(argument: str) -> list[str] | None:
    """Return the images in a folder or of a pattern; None for a file or a URL."""
    if "://" in argument:
        return None
    if os.path.isdir(argument):
        try:
            return [
                os.path.join(folder, name) for folder, names in walk(Path(argument)) for name in names if is_image(name)
            ]
        except ManifestError as error:
            raise RefusedError(f"--image {argument}: {error}") from error
    if os.path.lexists(argument) or not glob.has_magic(argument):
        return None
    files = sorted(path for path in glob.glob(argument, recursive=True) if os.path.isfile(path))
    return [path for path in files if is_image(path)] or files
