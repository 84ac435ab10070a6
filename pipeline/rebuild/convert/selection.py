"""Criteria that decide for each row by itself whether it is kept: ids, splits, an expression, and what they need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vilbert.manifests.exclusion import read_ids
from vilbert.manifests.manifest import Manifest
from vilbert.manifests.record import ManifestError
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.rebuild.convert.joined import PARQUET
from vilbert.pipeline.rebuild.convert.settings import ConvertSettings
from vilbert.pipeline.rebuild.where import Where, parse_where
from vilbert.pipeline.shards.checks.shard import key_hash
from vilbert.pipeline.shards.keys import sample_key
from vilbert.pipeline.shards.selection.file import SelectionFile
from vilbert.pipeline.shards.selection.match import open_selections


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Criteria that decide for each row by itself whether it is kept."""

    files: Mapping[str, SelectionFile]
    """Files of `--selection` by the content of their data set."""
    ids: NDArray[np.uint64] | None
    """Hashes of the keys of `--ids`, ascending."""
    splits: frozenset[str] | None
    where: Where | None
    joins: bool
    drop_unjoined: bool
    add_fields: bool
    one_split_per_shard: bool
    by_image: bool
    """Whether images are identified by their SHA-256."""

    @property
    def decides_by_metadata(self) -> bool:
        """Whether the decision needs metadata, which failed rows do not have."""
        chosen = self.splits is not None or self.where is not None
        return chosen or self.drop_unjoined or self.one_split_per_shard

    @property
    def needs_metadata(self) -> bool:
        """Whether metadata is read in addition to the keys."""
        return self.decides_by_metadata or self.joins or self.by_image


def read_selection(settings: ConvertSettings) -> Selection:
    """Return the selection of the settings, with the file of ids read."""
    return Selection(
        files=open_selections(settings.selection),
        ids=None if settings.ids is None else _hashes(_ids(settings.ids)),
        splits=None if settings.split is None else frozenset(settings.split),
        where=None if settings.where is None else parse_where(settings.where),
        joins=bool(settings.join),
        drop_unjoined=settings.unjoined == "drop",
        add_fields=settings.add_fields_from is not None,
        one_split_per_shard=settings.one_split_per_shard,
        by_image=settings.deduplicate == "image",
    )


def _ids(path: Path) -> Iterable[str]:
    try:
        with path.open("rb") as file:
            is_manifest = file.read(4) == PARQUET
    except OSError as error:
        raise RefusedError(f"--ids {path}: cannot be read ({error.strerror})") from None
    if not is_manifest:
        try:
            return read_ids(path)
        except ManifestError as error:
            raise RefusedError(str(error).replace("--exclude-ids", "--ids")) from None
    manifest = Manifest.open(path)
    return (image_id for _, image_id in manifest.values("image_id", np.arange(manifest.rows)))


def _hashes(ids: Iterable[str]) -> NDArray[np.uint64]:
    hashes = np.unique(np.fromiter((key_hash(sample_key(image_id)) for image_id in ids), np.uint64))
    if not len(hashes):
        raise RefusedError("--ids: the file contains no id")
    return hashes
