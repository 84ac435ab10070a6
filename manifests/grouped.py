"""`vilbert manifest --group-by-split`: order the rows by split."""

from __future__ import annotations

from pathlib import Path

from vilbert.manifests.manifest import Manifest, ManifestWriter
from vilbert.manifests.record import ManifestError

MOST_SPLITS = 1000
"""Maximum number of splits: a row group is read once for each split in it."""


def group_by_split(manifest: Manifest, path: Path, *, orientation: bool) -> Manifest:
    """Write the rows of a manifest to another file, sorted by the names of their splits, and return that manifest.

    Rows of a split keep their order. Memory is proportional to one row group (`manifest.ROWS_PER_GROUP`).

    Raises:
        ManifestError: There are more than `MOST_SPLITS` splits.
    """
    groups = list(zip(manifest.group_starts, manifest.group_starts[1:], strict=False))
    there = _splits_of_groups(manifest)
    names = sorted(set().union(*there))
    if len(names) > MOST_SPLITS:
        raise ManifestError(f"--group-by-split: the rows have {len(names):,} different splits, at most {MOST_SPLITS:,}")
    with ManifestWriter(path, orientation=orientation) as writer:
        for name in names:
            for (start, stop), splits in zip(groups, there, strict=True):
                if name in splits:
                    writer.write([record for record in manifest.read(start, stop) if record.split == name])
        return writer.commit()


def _splits_of_groups(manifest: Manifest) -> list[set[str]]:
    """Return the splits of each Parquet row group."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with pq.ParquetFile(manifest.path) as file:
        return [
            set(pc.unique(file.read_row_group(group, columns=["split"]).column(0)).to_pylist())
            for group in range(file.num_row_groups)
        ]
