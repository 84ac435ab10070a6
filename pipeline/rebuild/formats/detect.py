"""Detect the format of a published file by its content, and open it as a `Source`."""

from __future__ import annotations

from pathlib import Path

from vilbert.pipeline.errors import MissingError, ShardError
from vilbert.pipeline.rebuild.formats.registry import FORMATS, FormatSpec, Importer, ImportOptions
from vilbert.pipeline.rebuild.source import Source
from vilbert.plugins import PluginError


def detect_format(path: Path) -> str | None:
    """Return the name of the format whose importer recognises a file or folder; None if none does."""
    for name in FORMATS:
        try:
            importer = find_format(name).load_importer()
        except (PluginError, ImportError):
            continue  # of another package: `vilbert doctor` reports it
        if importer is not None and importer.detect(path):
            return name
    return None


def open_published(path: Path, format: str | None = None, options: ImportOptions | None = None) -> Source:
    """Open a file or folder of published features.

    Args:
        path: The file or folder.
        format: Name of its format; None: detected from its content.
        options: Facts that the file does not contain.

    Raises:
        MissingError: The path does not exist.
        ShardError: Its format is unknown or cannot be imported, or it is damaged, hostile or empty.
        PluginError: The format belongs to a package that cannot be imported.
    """
    if not path.exists():
        raise MissingError(f"{path}: no such file or folder")
    if format is None:
        format = detect_format(path)
    if format is None:
        raise unrecognised(path)
    importer = load_importer(format)
    return importer.open(path, options or ImportOptions())


def unrecognised(path: Path) -> ShardError:
    """Return why no importer recognises a file or folder: it is empty, a damaged LMDB, or of another format."""
    from vilbert.pipeline.rebuild.formats.importers.lmdb_values import data_file, is_lmdb, open_lmdb

    file = data_file(path)
    if file.is_file() and file.stat().st_size == 0:
        return ShardError(f"{file}: is empty; download it again")
    if is_lmdb(path):
        try:
            open_lmdb(path).close()
        except ShardError as error:
            return error
    return ShardError(f"{path}: its format is not recognised; give one of these: {', '.join(importable())}")


def importable() -> list[str]:
    """Return the names of the formats that can be imported, except those of packages that fail to import."""
    names = []
    for name in FORMATS:
        try:
            if find_format(name).importer is not None:
                names.append(name)
        except PluginError:
            continue
    return names


def load_importer(name: str) -> Importer:
    """Return the importer of a format by name.

    Raises:
        ShardError: The format cannot be imported.
        PluginError: The format does not exist.
    """
    importer = find_format(name).load_importer()
    if importer is None:
        raise ShardError(
            f"format {name}: can be exported but not imported; the import formats are {', '.join(importable())}"
        )
    return importer


def find_format(name: str) -> FormatSpec:
    """Return the `FormatSpec` of a format.

    Raises:
        PluginError: The format does not exist, or a package provides something else under its name.
    """
    spec = FORMATS.load(name)
    if not isinstance(spec, FormatSpec):
        raise PluginError(f"format {name!r} is a {type(spec).__name__}, expected a FormatSpec")
    return spec
