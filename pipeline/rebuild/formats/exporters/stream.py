"""Shared code of exporters: checks of the fields that a format needs, and arrays in the types that readers expect.

Shapes: N regions, D feature channels, C classes including the background, which is class 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.extractors.soft_labels import region_labels
from vilbert.pipeline.errors import OutputError, RefusedError, ShardError
from vilbert.pipeline.rebuild.formats.exporters.staging import Rows, StagedWriter
from vilbert.pipeline.rebuild.source import SourceDescription
from vilbert.pipeline.shards.sample import Sample

_NOT_IN_TSV = re.compile(r'[\t\r\n"\0]|^\s|\s$|^$')


@dataclass(frozen=True, kw_only=True)
class StreamExporter:
    """An `Exporter` made of a generator function."""

    write: Callable[[Path, SourceDescription], Rows]
    """Writes the samples that it is sent to a path; see `staging.Rows`."""
    fields: tuple[str, ...] = ()
    """Arrays that the format requires."""
    class_names: bool = False
    """Whether the format needs the names of the classes."""
    suffix: str = ""
    """Suffix of the output that the format's readers require."""

    def create(self, path: Path, description: SourceDescription) -> StagedWriter:
        """Create a file or folder; RefusedError if the samples lack a field that the format needs."""
        missing = [name for name in self.fields if name not in description.fields]
        if "class_probs" in missing:
            missing = [name for name in missing if name != "class_ids"]
        if self.class_names and not description.class_names:
            missing.append("class_names")
        if missing:
            raise RefusedError(
                f"the format needs {', '.join(missing)}, which the data set does not have; choose another format, or a "
                "data set that has them"
            )
        if not path.name.endswith(self.suffix):
            raise OutputError(f"--output {path}: readers of the format expect a name that ends in {self.suffix}")
        return StagedWriter(path, lambda work: self.write(work, description))


def float32(array: NDArray[Any]) -> NDArray[np.float32]:
    """Return an array as little-endian float32 in C order."""
    return np.ascontiguousarray(array, dtype="<f4")


def has_classes(description: SourceDescription) -> bool:
    """Return whether complete distributions over the classes can be written."""
    return "class_probs" in description.fields and bool(description.class_names)


def class_distributions(sample: Sample, description: SourceDescription) -> NDArray[np.float32]:
    """Return the probabilities of all classes, float32 [N, C]; the rest is divided evenly among classes not stored.

    Raises:
        ShardError: A class id is beyond the names of the classes.
    """
    try:
        return region_labels(sample.regions, len(description.class_names))
    except ValueError as error:
        raise ShardError(f"sample {sample.key}: {error}") from error


def foreground_ids(sample: Sample) -> NDArray[np.int64]:
    """Return the most probable classes without the background, int64 [N]: the first object class is 0."""
    assert sample.regions.object_ids is not None
    ids = sample.regions.object_ids.astype("<i8")
    if len(ids) and not ids.min():
        raise ShardError(f"sample {sample.key}: object_ids holds 0, the background, which the format cannot store")
    return ids - 1


def tsv_text(sample: Sample) -> str:
    """Return the image id for a column of a TSV; ShardError if it would break the row for some readers."""
    image_id: str = sample.meta["image_id"]
    if _NOT_IN_TSV.search(image_id):
        raise ShardError(
            f"sample {sample.key}: image id {image_id!r:.100} has a quote, tab or line break, or white space around "
            "it, which a TSV cannot hold; give other ids with --image-id-format"
        )
    return image_id
