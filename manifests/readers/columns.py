"""Find the columns of a table that hold the image's path or URL and its captions.

Names are compared in lower case, with spaces and hyphens as underscores: `File Name` matches `file_name`. A table with
two candidate columns is refused, and the message names the option that selects one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from vilbert.manifests.boxes import BoxFormat
from vilbert.manifests.record import ManifestError

ID_NAMES = ("image_id", "id")
URI_NAMES = (
    *("uri", "url", "image_url", "path", "img_path", "image_path"),
    *("image", "file_name", "filename", "filepath"),
)
FIELD_NAMES = ("split", "sha256", "width", "height", "boxes", "exif_orientation")
"""Further columns of a record, besides id, image and captions."""
CAPTION_NAMES = ("caption", "captions", "sentences", "text", "title")


class ColumnNames(NamedTuple):
    """Column options of the user; None selects a column by its usual names."""

    uri: str | None = None
    """Value of --uri-column."""
    caption: str | None = None
    """Value of --caption-column."""
    box_format: BoxFormat | None = None
    """Value of --box-format: the format of the column `boxes`."""

    @property
    def named(self) -> bool:
        """Whether the user named a column."""
        return self.uri is not None or self.caption is not None


USUAL_NAMES = ColumnNames()
"""No column options."""


@lru_cache(maxsize=4096)
def normalise(name: str) -> str:
    """Return a column's name in the form used for comparison."""
    return name.strip().casefold().replace(" ", "_").replace("-", "_")


def normalise_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with normalised names, without nulls. Raise ValueError if two names become equal."""
    values = {normalise(name): value for name, value in row.items() if value is not None}
    if len(values) < sum(value is not None for value in row.values()):
        raise ValueError(f"duplicate column name among {', '.join(row)}")
    return values


def uri_column(names: Collection[str], columns: ColumnNames, where: str) -> str | None:
    """Return the normalised name of the column with the image's path or URL, or None.

    A column `uri` has precedence over the other names.

    Raises:
        ManifestError: There are two other candidates.
    """
    if columns.uri is not None:
        return _asked(columns.uri, names)
    return "uri" if "uri" in names else _only(names, URI_NAMES, "name the image", "--uri-column", where)


def caption_column(names: Collection[str], columns: ColumnNames, where: str) -> str | None:
    """Return the normalised name of the caption column, or None. Raise ManifestError if there are two candidates."""
    if columns.caption is not None:
        return _asked(columns.caption, names)
    taken = () if columns.uri is None else (normalise(columns.uri),)
    return _only(names, CAPTION_NAMES, "hold the captions", "--caption-column", where, taken)


def require_columns(names: Collection[str], columns: ColumnNames, where: str) -> tuple[str, str | None]:
    """Return the image and caption columns of a table with a header. Raise ManifestError if one is missing."""
    for asked, option in ((columns.uri, "--uri-column"), (columns.caption, "--caption-column")):
        if asked is not None and normalise(asked) not in names:
            raise ManifestError(f"{where}: no column {asked!r} ({option}); the columns are {', '.join(names)}")
    uri = uri_column(names, columns, where)
    if uri is None:
        raise ManifestError(
            f"{where}: no column of the header ({', '.join(names) or 'empty'}) names the image; expected one of "
            f"{', '.join(URI_NAMES)}; set it with --uri-column"
        )
    return uri, caption_column(names, columns, where)


def names_an_image(names: Iterable[str], columns: ColumnNames) -> bool:
    """Return whether any of these (not yet normalised) column names can name the image."""
    wanted = set(URI_NAMES) if columns.uri is None else {normalise(columns.uri)}
    return bool(wanted & set(map(normalise, names)))


def _asked(name: str, names: Collection[str]) -> str | None:
    return normalised if (normalised := normalise(name)) in names else None


def _only(
    names: Collection[str], known: Iterable[str], what: str, option: str, where: str, taken: Collection[str] = ()
) -> str | None:
    present = [name for name in known if name in names and name not in taken]
    if len(present) > 1:
        raise ManifestError(
            f"{where}: the columns {' and '.join(present)} could both {what}: choose one, such as {option} {present[0]}"
        )
    return present[0] if present else None
