"""The file of a selection: which samples of one data set are used, by shard and position.

It is a Parquet file with a row per sample, in the order of the data set: `image_id`, `key`, `split`, `shard`, `place`.
The footer has a JSON document under `vilbert.selection`: the format number, the data set by its fingerprint and the
hash of its records, how the samples were selected, their number, and a digest of shard, place and split of all rows.
Two selections of the same samples have the same digest, whatever expression or release of Parquet wrote them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vilbert.documents import Count, Digest, document, from_json
from vilbert.pipeline.errors import OutputError, RefusedError, ShardError
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.shards.dataset import DatasetInfo
from vilbert.pipeline.shards.storage.atomic import fsync_dir, temporary_path
from vilbert.settings import PositiveInt
from vilbert.untrusted.documents import parse_json

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
FOOTER = b"vilbert.selection"
COLUMNS = ("image_id", "key", "split", "shard", "place")
_READ = ("split", "shard", "place")
_GROUP_ROWS = 65_536
_MAX_FOOTER_BYTES = 1 << 20
_AGAIN = "write it again with `vilbert select`"


def selection_schema() -> pa.Schema:
    """Return the columns of the file."""
    import pyarrow as pa

    types = (pa.string(), pa.string(), pa.string(), pa.int32(), pa.int32())
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in zip(COLUMNS, types, strict=True)])


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """The selected samples of a data set."""

    digest: str
    """SHA-256 of shard, position and split of all samples, 64 hex digits."""
    starts: NDArray[np.int64]
    """[shards + 1] offset of each shard's samples in the arrays below, then the number of samples."""
    places: NDArray[np.uint32]
    """[samples] position of each sample in its shard, ascending within a shard."""
    splits: NDArray[np.uint32]
    """[samples] index of each sample's split in `split_names`."""
    split_names: tuple[str, ...]

    def of_shard(self, shard: int) -> NDArray[np.uint32]:
        """Return the positions of the selected samples of a shard, uint32 [selected], ascending."""
        return self.places[self.starts[shard] : self.starts[shard + 1]]

    def counts(self, split: str | None) -> NDArray[np.int64]:
        """Return the number of selected samples of a split (None: of all splits) in each shard, int64 [shards]."""
        if split is None:
            return np.diff(self.starts)
        of_split = np.zeros(len(self.places), bool)
        if split in self.split_names:
            of_split = self.splits == self.split_names.index(split)
        before = np.concatenate([[0], np.cumsum(of_split)])
        counts: NDArray[np.int64] = np.diff(before[self.starts])
        return counts

    def by_split(self) -> dict[str, int]:
        """Return the number of selected samples by split, sorted by name."""
        counts = np.bincount(self.splits, minlength=len(self.split_names)).tolist()
        return {name: count for name, count in sorted(zip(self.split_names, counts, strict=True)) if count}


@document
class SelectionData:
    """The data set of a selection."""

    records_sha256: Digest
    fingerprint: Digest
    samples: Count


@document
class SelectionFooter:
    """The document in the footer, without the format number."""

    data: SelectionData
    how: dict[str, Any]
    samples: PositiveInt
    digest: Digest


@dataclass(frozen=True, kw_only=True)
class SelectionFile:
    """A selection on disk whose footer has been read."""

    path: Path
    records_sha256: str
    """Hash of the records of its data set, which identifies the content."""
    samples: int
    """Number of selected samples."""
    digest: str
    """See `Selection.digest`."""
    how: Mapping[str, Any]
    """How the samples were selected, as JSON values: `where`, `selections`, `not_in`."""

    @classmethod
    def open(cls, path: Path) -> SelectionFile:
        """Read the footer of a selection.

        Raises:
            RefusedError: The file does not exist, is not a selection, or is damaged.
        """
        import pyarrow.parquet as pq

        if not path.is_file():
            raise RefusedError(f"--selection {path}: no such file; `vilbert select` writes one")
        with _damage(path):
            metadata = pq.read_metadata(path)
            footer = (metadata.metadata or {}).get(FOOTER)
            if footer is None:
                raise RefusedError(f"--selection {path}: is not a selection; `vilbert select` writes one")
            schema = metadata.schema.to_arrow_schema().remove_metadata()
            rows = sum(metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
            if len(footer) > _MAX_FOOTER_BYTES:
                raise ValueError("its footer is too large")
            document = parse_json(footer)
            if isinstance(document, dict) and (number := document.pop("format", None)) != FORMAT:
                raise RefusedError(
                    f"--selection {path}: has format {number!r:.20}, this version reads format {FORMAT}; {_AGAIN}"
                )
            found = from_json(SelectionFooter, document)
            if not schema.equals(selection_schema()) or rows != found.samples or metadata.num_rows != rows:
                raise ValueError("its footer does not match its rows or columns")
        return cls(
            path=path,
            records_sha256=found.data.records_sha256,
            samples=found.samples,
            digest=found.digest,
            how=found.how,
        )

    def load(self, shard_samples: Sequence[int]) -> Selection:
        """Read the samples.

        Args:
            shard_samples: Number of samples of each shard of the data set.

        Raises:
            RefusedError: The file is damaged.
        """
        import pyarrow.parquet as pq

        sizes = np.asarray(shard_samples, np.int64)
        with _damage(self.path):
            if self.samples > sizes.sum():
                raise ValueError(f"it has {self.samples:,} rows, the data set {int(sizes.sum()):,} samples")
            splits, shards, places = [], [], []
            names: dict[str, int] = {}
            with pq.ParquetFile(self.path, read_dictionary=["split"]) as file:
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group, columns=list(_READ))
                    if any(table.column(name).null_count for name in _READ):
                        raise ValueError("a value is missing")
                    shards.append(table.column("shard").to_numpy())
                    places.append(table.column("place").to_numpy())
                    for chunk in table.column("split").chunks:
                        codes = [names.setdefault(name, len(names)) for name in chunk.dictionary.to_pylist()]
                        splits.append(np.array(codes, np.uint32)[chunk.indices.to_numpy()])
            found = _selection(
                np.concatenate(shards).astype(np.int64),
                np.concatenate(places).astype(np.int64),
                np.concatenate(splits),
                tuple(names),
                sizes,
            )
            if found.digest != self.digest:
                raise ValueError("its rows are not the ones it was written with")
        return found


def _selection(
    shards: NDArray[np.int64],
    places: NDArray[np.int64],
    splits: NDArray[np.uint32],
    names: tuple[str, ...],
    sizes: NDArray[np.int64],
) -> Selection:
    """Return a selection of these rows; ValueError if they are not positions of the data set in order."""
    if not len(shards) or shards.min() < 0 or shards.max() >= len(sizes):
        raise ValueError("it refers to a shard that the data set does not have")
    if places.min() < 0 or bool((places >= sizes[shards]).any()):
        raise ValueError("it refers to a sample that its shard does not have")
    numbers = (np.cumsum(sizes) - sizes)[shards] + places
    if bool((np.diff(numbers) <= 0).any()):
        raise ValueError("its rows are not in the order of the data set")
    return Selection(
        digest=selection_digest(shards, places, [names[code] for code in splits.tolist()]),
        starts=np.searchsorted(shards, np.arange(len(sizes) + 1)).astype(np.int64),
        places=places.astype(np.uint32),
        splits=splits,
        split_names=names,
    )


def selection_digest(shards: NDArray[Any], places: NDArray[Any], splits: Sequence[str]) -> str:
    """Return the hex SHA-256 of a selection's samples: shards, positions (int64 [samples]) and splits, in order."""
    digest = hashlib.sha256(len(splits).to_bytes(8, "little"))
    for numbers in (shards, places):
        digest.update(np.ascontiguousarray(numbers, "<i8").data)
    names = sorted(set(splits))
    digest.update(encode_json(names))
    codes = {name: code for code, name in enumerate(names)}
    digest.update(np.array([codes[name] for name in splits], "<i8").data)
    return digest.hexdigest()


def write_selection(path: Path, info: DatasetInfo, tables: Iterable[pa.Table], how: Mapping[str, Any]) -> SelectionFile:
    """Write a selection atomically.

    Args:
        path: The file; an existing one is replaced.
        info: The dataset.json of the complete data set.
        tables: The selected samples in the order of the data set, with the columns of `selection_schema`.
        how: How they were selected, as JSON values.

    Raises:
        RefusedError: No sample is selected.
        ShardError: The file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pa.concat_tables([selection_schema().empty_table(), *tables])
    if not len(rows):
        raise RefusedError(f"{path}: not written, because no sample is selected")
    digest = selection_digest(
        rows.column("shard").to_numpy(), rows.column("place").to_numpy(), rows.column("split").to_pylist()
    )
    document = {
        "format": FORMAT,
        "data": {
            "records_sha256": info.records_sha256,
            "fingerprint": info.fingerprint,
            "samples": info.totals.samples,
        },
        "how": dict(how),
        "samples": len(rows),
        "digest": digest,
    }
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:  # pyarrow opens no path that is not UTF-8
            marked = rows.replace_schema_metadata({FOOTER: encode_json(document)})
            pq.write_table(marked, file, row_group_size=_GROUP_ROWS, compression="zstd", use_dictionary=["split"])
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync_dir(path.parent)
    except OSError as error:
        raise ShardError(f"--output {path}: cannot be written ({error.strerror or error})") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return SelectionFile.open(path)


def require_replaceable(path: Path) -> None:
    """Raise RefusedError if writing a selection would replace a file that is not a selection."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.is_dir():
        raise OutputError(f"--output {path}: is a folder; give a file")
    if not path.exists():
        return
    try:
        is_selection = path.is_file() and FOOTER in (pq.read_metadata(path).metadata or {})
    except (pa.ArrowException, OSError, ValueError):
        is_selection = False
    if not is_selection:
        raise OutputError(f"--output {path}: exists and is not a selection; delete it, or give another file")


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Convert errors of pyarrow or of our checks to RefusedError."""
    import pyarrow as pa

    try:
        yield
    except RefusedError:
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError, LookupError, OverflowError, MemoryError) as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise RefusedError(f"--selection {path}: is damaged ({said:.200}); {_AGAIN}") from error
