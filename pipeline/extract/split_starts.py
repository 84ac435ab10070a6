"""`extract --one-split-per-shard`: start shards such that each contains rows of one split."""

from __future__ import annotations

from collections.abc import Iterator

from vilbert.manifests.manifest import Manifest
from vilbert.pipeline.errors import RefusedError

MOST_SHARDS = 2
"""Maximum number of shards relative to a manifest without splits; mixed splits would make one shard per row."""


def split_starts(manifest: Manifest, rows: int, shard_size: int) -> tuple[int, ...] | None:
    """Return the first row of each shard, as `DatasetInfo.shard_starts`; None where all but the last have shard_size.

    Args:
        manifest: The manifest; its rows keep their order.
        rows: Number of rows to use.
        shard_size: Maximum number of rows of a shard.

    Raises:
        RefusedError: The manifest changes its split too often.
    """
    starts: list[int] = []
    splits = set()
    most = MOST_SHARDS * -(-rows // shard_size)
    for runs, (split, start, stop) in enumerate(_runs(manifest, rows), start=1):
        splits.add(split)
        starts.extend(range(start, stop, shard_size))
        if len(starts) > most + len(splits):
            raise RefusedError(
                f"--one-split-per-shard: {manifest.path} has {runs:,} runs of rows of one split in its first {stop:,} "
                f"rows, which make {len(starts):,} shards; put the rows of a split together with `vilbert manifest "
                "--group-by-split`"
            )
    return None if starts == list(range(0, rows, shard_size)) else tuple(starts)


def _runs(manifest: Manifest, rows: int) -> Iterator[tuple[str, int, int]]:
    """Yield (split, start, stop) of the longest runs of rows with the same split."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    current, begun, first = None, 0, 0
    with pq.ParquetFile(manifest.path) as file:
        for batch in file.iter_batches(columns=["split"]):
            encoded = pc.run_end_encode(batch.column(0))
            ends = encoded.run_ends.to_pylist()
            for split, start in zip(encoded.values.to_pylist(), [0, *ends], strict=False):
                if split == current or first + start >= rows:
                    continue
                if current is not None:
                    yield current, begun, first + start
                current, begun = split, first + start
            first += batch.num_rows
    if current is not None:
        yield current, begun, rows
