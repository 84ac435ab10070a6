"""Output folders of img2dataset: shards of tar + parquet or loose files + parquet (rom1504/img2dataset, `writer.py`).

A shard is `NNNNN.tar` or `NNNNN/`, with `NNNNN.parquet` (one row per input, including failures) and `NNNNN_stats.json`,
which is written last: without it the shard is incomplete. Rows are in the order of their keys, not of their download.
The sha256 of the Parquet file is not used: it is that of the downloaded bytes, which img2dataset re-encodes by default.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vilbert.manifests.captions import image_captions
from vilbert.manifests.readers.document import pixels, read_document
from vilbert.manifests.readers.images import is_image, leads_out
from vilbert.manifests.readers.shard_files import ShardFiles, open_shard
from vilbert.manifests.readers.shards import Shard, find_shards
from vilbert.manifests.readers.sidecars import sidecar_rows
from vilbert.manifests.readers.tar_listing import list_tar
from vilbert.manifests.record import ImageRecord, ManifestError
from vilbert.manifests.regular_file import require_regular
from vilbert.manifests.report import Report
from vilbert.manifests.uri import tar_uri


def parquet_rows(shard: Shard) -> list[dict[str, Any]]:
    """Return the rows that img2dataset listed for the shard, sorted by key."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = shard.name.with_name(shard.name.name + ".parquet")
    wanted = (
        "key",
        "status",
        "error_message",
        "url",
        "caption",
        "width",
        "height",
        "original_width",
        "original_height",
    )
    try:
        require_regular(path)
        names = pq.read_schema(path).names
        rows = pq.read_table(path, columns=[name for name in wanted if name in names]).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ManifestError(
            f"{path}: cannot be read ({error}); download the shard again or remove all its files"
        ) from None
    if not {"key", "status"} <= set(names):
        raise ManifestError(f"{path}: no columns key and status; is it an img2dataset shard?")
    return sorted(rows, key=lambda row: str(row["key"]))


def count_unlisted(shard: Shard, listed: int, report: Report) -> None:
    """Count the inputs in img2dataset's statistics that are not in its rows (lost if one of its threads fails)."""
    if not shard.stats:
        return
    path = shard.name.with_name(shard.name.name + "_stats.json")
    count = read_document(path, []).get("count")
    if isinstance(count, int) and count > listed:
        report.count("unlisted-download", f"{path}: count {count}, {listed} listed", count - listed)


def read_img2dataset(
    root: Path, report: Report, *, check_files: bool = True, incomplete: bool = False, split: str | None = None
) -> Iterator[ImageRecord]:
    """Yield one record per downloaded image. Its key is the image id.

    Failures, incomplete shards, resized images and all files without a row are counted.

    Args:
        root: The folder of the shards.
        report: Receives the counts.
        check_files: Read the headers of every tar (or the folder) to check that each image exists.
        incomplete: Also read shards without `_stats.json`.
        split: Split of the records.
    """
    for shard in find_shards(root, report):
        if not shard.stats and not incomplete:
            report.count("incomplete-shard", str(shard.data))
        elif shard.parquet:
            yield from _listed_images(shard, report, check_files, split)
        else:
            files, read_side = open_shard(shard, report)
            names = files.by_id(str(shard.data), report)
            rows = list(sidecar_rows(str(shard.data), files, names, read_side, report))
            count_unlisted(shard, len(rows), report)
            for row in rows:
                yield _record(shard, row, files.images[names[row["key"]]], report, split)


def _listed_images(shard: Shard, report: Report, check_files: bool, split: str | None) -> Iterator[ImageRecord]:
    """Yield the images that a shard's parquet lists as downloaded."""
    rows = parquet_rows(shard)
    count_unlisted(shard, len(rows), report)
    files = open_shard(shard, report)[0] if check_files else ShardFiles()
    names = files.by_key()
    before, suffix = around_key(next(iter(files.images.values()), None) or first_image(shard))
    listed = set()
    for row in rows:
        key, where = row["key"], f"{shard.data}: {row['key']}"
        if not _is_key(key):
            report.count("malformed-row", f"{where}: no key of a file in the shard")
            continue
        row["key"] = str(key)
        name = names.get(row["key"])
        listed.add(name)
        if row["status"] != "success":
            report.count("failed-download", f"{where}: {row.get('error_message')} {row.get('url')}")
            continue
        if check_files and name is None:
            report.count("missing-file", where)
        yield _record(shard, row, f"{before}{key}{suffix}" if name is None else files.images[name], report, split)
    for name, stored in files.images.items():
        if name not in listed:
            report.count("unlisted-image", f"{shard.data}: {stored}")


def first_image(shard: Shard) -> str:
    """Return the name of a shard's first image, or a name without a key for an empty shard."""
    names = list_tar(shard.data, stop_at=is_image).places if shard.tar else [path.name for path in shard.data.iterdir()]
    return next(filter(is_image, names), ".jpg")


def around_key(name: str) -> tuple[str, str]:
    """Return the parts before and after the key in an image's name, which are the same for all images of a shard."""
    folder, slash, base = name.rpartition("/")
    return folder + slash, base[base.rindex(".") :]


def _is_key(key: object) -> bool:
    return (
        isinstance(key, str | int)
        and not isinstance(key, bool)
        and str(key).strip() != ""
        and "::" not in str(key)
        and not leads_out(str(key))
    )


def _record(shard: Shard, row: dict[str, Any], name: str, report: Report, split: str | None) -> ImageRecord:
    where = f"{shard.data}: {row['key']}"
    size = pixels(row.get("width")), pixels(row.get("height"))
    original = pixels(row.get("original_width")), pixels(row.get("original_height"))
    if None not in original and size != original:
        report.count("resized-image", f"{where}: {original[0]}x{original[1]} to {size[0]}x{size[1]}")
    data = Path(shard.data).absolute()
    return ImageRecord(
        image_id=row["key"],
        uri=tar_uri(data, name) if shard.tar else str(data / name),
        captions=image_captions([row.get("caption")], where, report),
        split=split or "",
        width=size[0],
        height=size[1],
    )
