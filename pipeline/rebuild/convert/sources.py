"""Open the sources of a conversion."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from vilbert.pipeline.errors import RefusedError, ShardError
from vilbert.pipeline.rebuild.convert.baked_columns import BakedColumns
from vilbert.pipeline.rebuild.convert.plan import SOURCES_FOLDER
from vilbert.pipeline.rebuild.convert.settings import ConvertSettings
from vilbert.pipeline.rebuild.dataset_source import DatasetSource
from vilbert.pipeline.rebuild.formats.registry import ImportOptions
from vilbert.pipeline.rebuild.open_features import open_features
from vilbert.pipeline.rebuild.source import Source
from vilbert.pipeline.shards.location.folder import Place
from vilbert.pipeline.shards.location.layout import PLAN_FOLDER
from vilbert.pipeline.shards.storage.closing import Closing


def open_source(place: Place, settings: ConvertSettings, *, verify: bool = True, scratch: Path | None = None) -> Source:
    """Open a data set, or a file of published features.

    Args:
        place: Its location.
        settings: How published features are read.
        verify: Whether the SHA-256 of shards is compared before a sample is used.
        scratch: Folder for indexes of published features, shared with other processes.

    Raises:
        RefusedError: It is a URL without a data set.
        ShardError: It is not a source, or is damaged.
    """
    importing = dataclasses.replace(settings.importing, scratch=scratch)
    return open_features(place, settings.source_format, importing, verify=verify)


class OpenSources(Closing):
    """The sources of a conversion, opened for one thread."""

    def __init__(self, settings: ConvertSettings, *, verify: bool = True) -> None:
        """Open all sources, and the source of `--add-fields-from`.

        If there is a plan, indexes of published features are stored beside it; otherwise each process makes its own.

        Args:
            settings: Names of the sources.
            verify: Whether the SHA-256 of shards is compared before a sample is used.
        """
        home = settings.output / PLAN_FOLDER if isinstance(settings.output, Path) else None
        scratch = home / SOURCES_FOLDER if home is not None and home.is_dir() else None
        with ExitStack() as stack:

            def opened(place: Place) -> Source:
                return stack.enter_context(open_source(place, settings, verify=verify, scratch=scratch))

            self.sources = [self._baked(place, opened(place), settings, verify) for place in settings.sources]
            self.donor = None if settings.add_fields_from is None else opened(settings.add_fields_from)
            for place, source in zip(settings.sources, self.sources, strict=True):
                if source.rows == 0:
                    raise ShardError(f"{place}: has no rows")
            _require_use(settings, [*self.sources, *([] if self.donor is None else [self.donor])])
            self._stack = stack.pop_all()

    @staticmethod
    def _baked(place: Place, source: Source, settings: ConvertSettings, verify: bool) -> Source:
        """Return a source with the requested columns in its samples."""
        if not settings.columns:
            return source
        if not isinstance(source, DatasetSource):
            raise RefusedError(f"--columns: {place}: is a file of published features, which has no columns")
        return BakedColumns(source, settings.columns, verify=verify)

    def close(self) -> None:
        """Release all files."""
        self._stack.close()


def _require_use(settings: ConvertSettings, sources: Sequence[Source]) -> None:
    """Raise RefusedError for options of published features if all sources are data sets."""
    if any(source.description.format != "vilbert" for source in sources):
        return
    given = [] if settings.source_format is None else ["--source-format"]
    given += [
        f"--{option.name.replace('_', '-')}"
        for option in dataclasses.fields(ImportOptions)
        if getattr(settings.importing, option.name) != option.default
    ]
    if given:
        raise RefusedError(f"{' '.join(given)}: for files of published features, but all sources are data sets")
