"""What a shard that is made once more keeps: its samples, and the failed rows that are not to be tried again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from vilbert.manifests.record import ImageRecord
from vilbert.pipeline.shards.failures import FailureRow, read_failures
from vilbert.pipeline.shards.keys import sample_key
from vilbert.pipeline.shards.location.folder import Folder
from vilbert.pipeline.shards.location.layout import StorageFormat, data_path, failures_path, shard_files
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.shards.storage.store import open_shard

Kept = Mapping[int, Callable[[], Sample | FailureRow]]
"""By row, a function that returns what is there of it: samples are not all held in memory."""


@contextmanager
def keep(
    folder: Folder,
    shard: int,
    storage: StorageFormat,
    records: Mapping[int, ImageRecord],
    reasons: Sequence[str],
) -> Iterator[Kept]:
    """Give what is to be kept of a shard that is there, while its files stay open.

    records: the shard's rows of the manifest. reasons: those to try again; none: all of them.
    A retry that was killed between two files of a shard leaves it without a record; what is there is kept all the same.
    Raises CorruptShardError where the shard is not what its record says.
    """
    with folder.local(shard_files(shard, storage)) as directory:
        path = data_path(directory, shard, storage)
        if not path.exists():
            yield {}
            return
        listed = failures_path(directory, shard)
        failures = read_failures(listed) if listed.exists() else []
        with open_shard(path) as reader:
            places = {key: index for index, key in enumerate(reader.keys())}
            kept: dict[int, Callable[[], Sample | FailureRow]] = {
                row: partial(reader.__getitem__, places[key])
                for row, record in records.items()
                if (key := sample_key(record.image_id)) in places
            }
            for failure in failures:
                if reasons and failure.reason not in reasons:
                    kept[failure.row] = partial(_same, failure)
            yield kept


def _same(failure: FailureRow) -> FailureRow:
    return failure
