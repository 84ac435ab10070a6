"""The formats of published features by name. docs/extending/format.md shows how a package adds one.

A `FormatSpec` describes a format without importing its libraries. Files are recognised by their content, never only by
their name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, Self

from tyro.conf import Suppress

from vilbert.plugins import Registry
from vilbert.settings import PositiveInt, validated

if TYPE_CHECKING:  # settings of commands import this module, and must not import NumPy
    from vilbert.pipeline.rebuild.source import Source, SourceDescription
    from vilbert.pipeline.shards.sample import Sample

_HERE = "vilbert.pipeline.rebuild.formats"
FORMATS = Registry(
    kind="format",
    group="vilbert.formats",
    built_in={
        "bottom-up-npz": f"{_HERE}.bottom_up_npz:SPEC",
        "bottom-up-tsv": f"{_HERE}.bottom_up_tsv:SPEC",
        "coco-detections": f"{_HERE}.coco_detections:SPEC",
        "frcnn-arrow": f"{_HERE}.frcnn_arrow:SPEC",
        "hdf5": f"{_HERE}.hdf5:SPEC",
        "lxmert-tsv": f"{_HERE}.lxmert_tsv:SPEC",
        "mmf-lmdb": f"{_HERE}.mmf_lmdb:SPEC",
        "mmf-npy": f"{_HERE}.mmf_npy:SPEC",
        "oscar-tsv": f"{_HERE}.oscar_tsv:SPEC",
        "parquet": f"{_HERE}.parquet:SPEC",
        "uniter-lmdb": f"{_HERE}.uniter_lmdb:SPEC",
        "uniter-lmdb-compressed": f"{_HERE}.uniter_lmdb_compressed:SPEC",
        "vilbert-lmdb": f"{_HERE}.vilbert_lmdb:SPEC",
        "vilbert-lmdb-arrays": f"{_HERE}.vilbert_lmdb_arrays:SPEC",
        "vilbert-npy": f"{_HERE}.vilbert_npy:SPEC",
        "vilbert-pretraining-lmdb": f"{_HERE}.vilbert_pretraining_lmdb:SPEC",
        "vinvl-tsv": f"{_HERE}.vinvl_tsv:SPEC",
        "volta-lmdb": f"{_HERE}.volta_lmdb:SPEC",
    },
)


@validated
class ImportOptions:
    """Facts about a file of published features that the file does not contain."""

    class_names: Path | None = None
    """Text file with one class name per line, without the background; default: the names are "class 1", "class 2", …"""
    attribute_names: Path | None = None
    """Text file with one attribute name per line; default: "attribute 0", "attribute 1", …"""
    image_sizes: Path | None = None
    """Manifest (of `vilbert manifest`) with the width and height of each image, for formats without image sizes."""
    background: Literal["none", "first", "last"] | None = None
    """Meaning of the class ids in the file. none: foreground classes only, from 0. first: 0 is the background. last:
    the largest id is the background. Default: the convention of the tools that write the format."""
    top_classes: PositiveInt = 20
    """Number of most probable classes to keep per region, for files with probabilities of all classes."""
    number_ids: bool = False
    """Take the number at the end of an image id, as COCO's annotations have it: COCO_train2014_000000132417 becomes
    132417."""
    origin: str | None = None
    """Free text that describes how the features were extracted, such as "BUTD ResNet-101, 36 boxes". Files of one
    format with the same words and the same options count as made by the same detector: they get one fingerprint, so
    that they can be appended to each other. Default: the content of a file is its fingerprint."""
    scratch: Annotated[Path | None, Suppress] = None
    """Folder for row offsets and unpacked .gz files, shared with other processes that open the same file; None keeps
    them in this process. It does not affect the samples."""

    def __post_init__(self) -> None:
        if self.origin is not None and not self.origin.strip():
            raise ValueError("--origin: is empty; describe what produced the features, or leave it out")


class Importer(Protocol):
    """Reads one format."""

    def detect(self, path: Path) -> bool:
        """Return whether the file or folder has this format, from a few bytes of its content; never raise for other
        files."""

    def open(self, path: Path, options: ImportOptions) -> Source:
        """Open a file or folder.

        Raises:
            ShardError: The file is damaged, hostile or empty; the message names it.
        """


class ExportWriter(Protocol):
    """A file of features that is being written. Without `finish`, it is deleted."""

    def add(self, sample: Sample) -> None:
        """Append a sample.

        Raises:
            ShardError: The format cannot store it.
        """

    def finish(self) -> None:
        """Complete the file and rename it to its final name."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Exporter(Protocol):
    """Writes one format."""

    def create(self, path: Path, description: SourceDescription) -> ExportWriter:
        """Create a file or folder for samples of this description.

        Raises:
            ShardError: The format needs a field that the samples do not have; the message names it.
        """


@dataclass(frozen=True, kw_only=True)
class FormatSpec:
    """Description of a format, in a module that imports nothing heavy."""

    summary: str
    """One line of help: which tools write these files."""
    importer: Callable[[], Importer] | str | None = None
    """Function that builds the importer, or its `module:attribute`; None if the format cannot be imported."""
    exporter: Callable[[], Exporter] | str | None = None
    """Function that builds the exporter, or its `module:attribute`; None if the format cannot be exported."""
    lost: tuple[str, ...] = ()
    """What an export cannot store: names in `lost.PARTS`, which are shown if the data set has them, and texts for
    users."""

    def load_importer(self) -> Importer | None:
        """Import and return the importer."""
        return None if self.importer is None else _make(self.importer)

    def load_exporter(self) -> Exporter | None:
        """Import and return the exporter."""
        return None if self.exporter is None else _make(self.exporter)


def _make(what: Callable[[], Any] | str) -> Any:
    if callable(what):
        return what()
    module, _, name = what.partition(":")
    return getattr(importlib.import_module(module), name)()
