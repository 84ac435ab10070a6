"""The formats of published features by name. docs/extending/format.md shows how a package adds one.

A `FormatSpec` holds what is known of a format without importing its libraries. Files are recognised by their content,
never by their name alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from vilbert.pipeline.rebuild.source import Source, SourceDescription
from vilbert.pipeline.shards.sample import Sample
from vilbert.plugins import Registry

BUILT_IN = {
    "bottom-up-tsv": "vilbert.pipeline.rebuild.formats.bottom_up_tsv:SPEC",
    "coco-detections": "vilbert.pipeline.rebuild.formats.coco_detections:SPEC",
    "hdf5": "vilbert.pipeline.rebuild.formats.hdf5:SPEC",
    "lxmert-tsv": "vilbert.pipeline.rebuild.formats.lxmert_tsv:SPEC",
    "mmf-lmdb": "vilbert.pipeline.rebuild.formats.mmf_lmdb:SPEC",
    "parquet": "vilbert.pipeline.rebuild.formats.parquet:SPEC",
    "uniter-lmdb": "vilbert.pipeline.rebuild.formats.uniter_lmdb:SPEC",
    "uniter-lmdb-compressed": "vilbert.pipeline.rebuild.formats.uniter_lmdb_compressed:SPEC",
    "vilbert-lmdb": "vilbert.pipeline.rebuild.formats.vilbert_lmdb:SPEC",
    "vilbert-lmdb-arrays": "vilbert.pipeline.rebuild.formats.vilbert_lmdb_arrays:SPEC",
    "vilbert-pretraining-lmdb": "vilbert.pipeline.rebuild.formats.vilbert_pretraining_lmdb:SPEC",
    "vinvl-tsv": "vilbert.pipeline.rebuild.formats.vinvl_tsv:SPEC",
    "volta-lmdb": "vilbert.pipeline.rebuild.formats.volta_lmdb:SPEC",
}
FORMATS = Registry(kind="format", group="vilbert.formats", built_in=BUILT_IN)


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What a file of features does not say of itself."""

    class_names: Path | None = None
    """Text file with one class name per line, without the background."""
    attribute_names: Path | None = None
    """Text file with one attribute name per line."""


class Importer(Protocol):
    """Reads one format."""

    def detect(self, path: Path) -> bool:
        """Return whether the file or folder is of this format, by a few bytes of its content; never raise for others'
        files."""

    def open(self, path: Path, options: ImportOptions) -> Source:
        """Open a file or folder.

        Raises:
            ShardError: It is damaged, hostile or empty; the message names the file.
        """


class ExportWriter(Protocol):
    """A file of features that is being written. Left without `finish`, nothing of it remains."""

    def add(self, sample: Sample) -> None:
        """Append a sample.

        Raises:
            ShardError: The format cannot hold it.
        """

    def finish(self) -> None:
        """Make the file complete under its name."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Exporter(Protocol):
    """Writes one format."""

    def create(self, path: Path, description: SourceDescription) -> ExportWriter:
        """Begin a file or folder of samples that are as described.

        Raises:
            ShardError: The format needs a field that the samples do not have; it names the field.
        """


@dataclass(frozen=True, kw_only=True)
class FormatSpec:
    """A format's own facts, in a module that imports nothing heavy."""

    summary: str
    """One line of help: whose files these are."""
    importer: Callable[[], Importer] | str | None = None
    """Makes the importer, or `module:attribute` that does; None where files of it cannot be imported."""
    exporter: Callable[[], Exporter] | str | None = None
    """Makes the exporter, or `module:attribute` that does; None where files of it cannot be exported."""
    lost: tuple[str, ...] = ()
    """What of a data set an export cannot hold, for people."""

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
