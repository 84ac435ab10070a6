"""Named rows, in which several formats store images: the values of an LMDB by key, or the files of a folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from vilbert.pipeline.rebuild.formats.importers.published_image import Head, PublishedImage, RowError


class NamedRows(Protocol):
    """Bytes by index, each with a name."""

    def __len__(self) -> int: ...

    def name(self, row: int) -> str:
        """Return the name of a row; characters that UTF-8 cannot encode are escaped."""

    def read(self, row: int) -> bytes:
        """Return the bytes of a row; raise RowError if they cannot be read."""

    def close(self) -> None:
        """Release files."""


class NamedReader:
    """One image per named row, whose image id comes from the name. A `RowReader`."""

    def __init__(
        self,
        rows: NamedRows,
        parse: Callable[[str, bytes], PublishedImage] | None = None,
        image_id: Callable[[str], str] = str,
    ) -> None:
        """Store the rows.

        Args:
            rows: The rows; closed with the reader.
            parse: Returns the image from an image id and the bytes of its row; raises RowError for a damaged row. None
                if a subclass has its own `parse`.
            image_id: Returns the image id for a name.
        """
        self.rows, self._parse, self._image_id = rows, parse, image_id

    def __len__(self) -> int:
        return len(self.rows)

    def content(self, row: int) -> bytes:
        """Return name and bytes of a row."""
        return b"%s\0%s" % (self.rows.name(row).encode(), self.rows.read(row))

    def head(self, row: int) -> Head:
        """Return the image id."""
        return Head(image_id=self._image_id(self.rows.name(row)))

    def image(self, row: int) -> PublishedImage:
        """Return the image of a row."""
        image_id = self.head(row).image_id
        try:
            return self.parse(row, image_id)
        except RowError as error:
            raise RowError(error.reason, str(error), error.image_id or image_id) from error

    def parse(self, row: int, image_id: str) -> PublishedImage:
        """Return the image from the bytes of a row."""
        assert self._parse is not None
        return self._parse(image_id, self.rows.read(row))

    def close(self) -> None:
        """Release files."""
        self.rows.close()


def file_stem(name: str, suffix: str) -> str:
    """Return the image id in a file name: the last part of the path, without its suffix."""
    return name.rpartition("/")[2].removesuffix(suffix)
