"""Other names for images in an export: a template of their metadata.

Readers of old formats look up images by the ids of their annotation files: LXMERT by `COCO_train2014_000000391895`,
vilbert_beta by `391895`, UNITER by `coco_train2014_000000391895.npz`. The ids in a manifest may differ.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from array import array
from pathlib import PurePosixPath
from urllib.parse import urlsplit

import numpy as np

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.shards.sample import Sample

UNCHANGED = "{id}"
_FIELD = re.compile(r"\{(?:id|stem|number(?::0([1-9][0-9]?))?)\}")


def check_template(template: str) -> None:
    """Raise ValueError if a template has unknown fields, or no field."""
    rest, fields = _FIELD.subn("", template)
    if not fields or "{" in rest or "}" in rest:
        raise ValueError(
            f"{template!r}: use {{id}} (the image id), {{stem}} (the file name without its extension), {{number}} (the "
            "digits at the end of the image id) or {number:012} (12 digits), with other text around it"
        )


def image_name(template: str, sample: Sample) -> str:
    """Return the name of an image from a template that `check_template` accepts.

    Raises:
        ShardError: The image lacks a field of the template.
    """
    return _FIELD.sub(lambda match: _value(match, sample), template)


def _value(match: re.Match[str], sample: Sample) -> str:
    image_id: str = sample.meta["image_id"]
    if match[0] == "{id}":
        return image_id
    if match[0] == "{stem}":
        uri = sample.meta.get("uri")
        stem = PurePosixPath(urlsplit(uri).path if "://" in uri else uri).stem if isinstance(uri, str) else ""
        if not stem:
            raise ShardError(f"sample {sample.key}: has no uri for {{stem}}; use {{id}} or {{number}}")
        return stem
    digits = re.search(r"([0-9]+)$", image_id, re.ASCII)
    if digits is None:
        raise ShardError(f"sample {sample.key}: image id {image_id!r:.100} does not end in digits for {match[0]}")
    return (digits[1].lstrip("0") or "0").zfill(int(match[1] or 0))


class ImageNames:
    """Renames samples and detects equal names; uses 8 bytes of memory per image."""

    def __init__(self, template: str) -> None:
        self._template = template
        self._digests = array("Q")

    def rename(self, sample: Sample) -> Sample:
        """Return the renamed sample."""
        if self._template == UNCHANGED:
            return sample
        name = image_name(self._template, sample)
        self._digests.append(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()))
        return dataclasses.replace(sample, meta={**sample.meta, "image_id": name})

    def require_unique(self) -> None:
        """Raise ShardError if two images have the same name."""
        repeated = len(self._digests) - len(np.unique(np.asarray(self._digests, np.uint64)))
        if repeated:
            raise ShardError(
                f"--image-id-format '{self._template}' gives {repeated:,} of {len(self._digests):,} images a name that "
                "another image has too; use {id} or {stem}"
            )
