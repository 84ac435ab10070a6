"""`vilbert column add`, `column list`, `column drop`."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.shards.columns.layout import check_column_name, column_folder, column_names, is_column
from vilbert.pipeline.shards.dataset import read_info
from vilbert.pipeline.shards.location.folder import open_folder
from vilbert.pipeline.shards.location.place_option import PlaceOption
from vilbert.pipeline.terminal import counted, print_lines
from vilbert.settings import validated

logger = logging.getLogger(__name__)


@validated
class AddColumnSettings:
    """Add a column to a data set: one value per image, from a file keyed by image id. The shards do not change.

    Examples: vilbert column add features --column clip clip.parquet
    vilbert column add features --column dino dino.npy --ids ids.txt
    """

    directory: Positional[PlaceOption]
    """Folder of the data set, or its URL."""
    file: Positional[Path]
    """.parquet, .jsonl, or .npy with --ids."""
    column: str
    """Name of the column: at most 20 of a-z, 0-9 and _."""
    ids: Path | None = None
    """With .npy: the image ids of its rows, one per line, or a .json list."""
    id_column: str = "image_id"
    """Parquet column or JSON field of the image id."""
    value_column: str | None = None
    """Parquet column or JSON field of the value; default: the only other one, or all others as one JSON object."""
    missing: Literal["error", "skip"] = "error"
    """Images of the data set that have no value in the file: refuse, or leave them without one."""


@validated
class ListColumnsSettings:
    """List the columns of a data set."""

    directory: Positional[PlaceOption]
    """Folder of the data set, or its URL."""
    json: bool = False
    """Print a JSON list of objects."""


@validated
class DropColumnSettings:
    """Delete a column of a data set, finished or not."""

    directory: Positional[PlaceOption]
    """Folder of the data set, or its URL."""
    column: str
    """Name of the column."""


def add(settings: AddColumnSettings) -> int:
    """Write the column and return 0."""
    from vilbert.pipeline.shards.columns.add import add_column
    from vilbert.pipeline.shards.columns.values_file import open_values

    check_column_name(settings.column)
    folder = open_folder(settings.directory)
    read_info(folder)
    values = open_values(
        settings.file, ids=settings.ids, id_column=settings.id_column, value_column=settings.value_column
    )
    with folder.exclusive_writer():
        info = add_column(folder, settings.column, values, missing=settings.missing)
    if unused := len(values.places) - info.samples:
        logger.warning("%s: %s for images that are not in the data set", settings.file, counted(unused, "value is"))
    logger.info("%s: column %s has %s", folder.name, info.name, counted(info.samples, "value"))
    return 0


def list_columns(settings: ListColumnsSettings) -> int:
    """Print the columns and return 0."""
    from vilbert.pipeline.shards.columns.describe import column_line, describe_columns

    folder = open_folder(settings.directory)
    described: list[dict[str, Any]] = describe_columns(folder, read_info(folder))
    if settings.json:
        print(json.dumps(described, indent=2))
    else:
        print_lines(map(column_line, described) if described else [f"{folder.name}: no columns"])
    return 0


def drop(settings: DropColumnSettings) -> int:
    """Delete the column and return 0."""
    from vilbert.pipeline.shards.columns.add import empty

    check_column_name(settings.column)
    folder = open_folder(settings.directory)
    read_info(folder)
    column = column_folder(folder, settings.column)
    if not is_column(column):
        there = ", ".join(column_names(folder)) or "none"
        raise RefusedError(f"{folder.name}: has no column {settings.column}; its columns: {there}")
    with folder.exclusive_writer():
        empty(column)
    return 0
