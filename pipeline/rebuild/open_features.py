"""Open stored features: a data set, or a file of a published format."""

from __future__ import annotations

from vilbert.pipeline.errors import MissingError, RefusedError
from vilbert.pipeline.rebuild.dataset_source import DatasetSource, is_dataset
from vilbert.pipeline.rebuild.formats.registry import ImportOptions
from vilbert.pipeline.rebuild.source import Source
from vilbert.pipeline.shards.location.folder import Place, open_folder
from vilbert.plugins import PluginError


def open_features(place: Place, format: str | None, options: ImportOptions, *, verify: bool = True) -> Source:
    """Open a data set, or a file of published features.

    Args:
        place: Folder or URL of a data set, or path of a file or folder of features.
        format: Name of the format of published features; None recognises it by its content. A data set has none.
        options: Facts that a file of features does not contain.
        verify: Whether the SHA-256 of shards is compared before a sample is used.

    Raises:
        RefusedError: It is a URL without a data set, or the format does not exist.
        MissingError: It does not exist.
        ShardError: It is not a source, or is damaged.
    """
    if is_dataset(place):
        return DatasetSource(place, verify=verify)
    if isinstance(place, str):
        name = open_folder(place).name
        raise RefusedError(f"{name}: has no dataset.json; published features are read from files on this machine")
    if not place.exists():
        raise MissingError(f"{place}: no such file or folder")
    from vilbert.pipeline.rebuild.formats.detect import open_published

    try:
        return open_published(place, format, options)
    except PluginError as error:
        raise RefusedError(f"{place}: {error}") from error
