"""Output folders of img2dataset: shards of tar + parquet or loose files + parquet (rom1504/img2dataset, `writer.py`).

A shard is `NNNNN.tar` or `NNNNN/`, with `NNNNN.parquet` (a row for every input, failures too) and `NNNNN_stats.json`,
written last: without it the shard is incomplete. Rows stand in the order of their keys, not of their download. The
parquet's sha256 is not taken over: it is of the downloaded bytes, which img2dataset encodes anew by default.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.captions import clean_captions
from manifests.document import pixels, read_document
from manifests.images import is_image
from manifests.record import ImageRecord, ManifestError
from manifests.report import Report
from manifests.uri import tar_index, tar_uri


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Where one shard's parts are; the folder's entries are known, so that a network disk is not asked again."""

    name: Path
    """Its path without suffix."""
    tar: bool
    parquet: bool
    stats: bool

    @property
    def data(self) -> Path:
        """The tar, or the folder of loose files."""
        return self.name.with_name(self.name.name + ".tar") if self.tar else self.name


def find_shards(root: Path) -> list[Shard]:
    """Return a folder's shards in the order of their names."""
    entries = {entry.name: entry for entry in root.iterdir()}
    tars = {name.removesuffix(".tar") for name in entries if name.endswith(".tar")}
    folders = {
        name
        for name, path in entries.items()
        if path.is_dir() and (name.isdecimal() or {f"{name}.parquet", f"{name}_stats.json"} & entries.keys())
    }
    if both := sorted(tars & folders):
        raise ManifestError(f"{root}: shard {both[0]} is there as a tar and as loose files; remove one of them")
    return [
        Shard(
            name=root / name,
            tar=name in tars,
            parquet=f"{name}.parquet" in entries,
            stats=f"{name}_stats.json" in entries,
        )
        for name in sorted(tars | folders)
    ]


def _key(member: str) -> str:
    """Return a member's key as WebDataset has it: its path up to the first dot of its name."""
    folder, slash, name = member.rpartition("/")
    return folder + slash + name.partition(".")[0]


def members(shard: Shard, *, first_only: bool = False) -> dict[str, str]:
    """Return image file names by key; with first_only, that of one image, which shows the suffix of all."""
    if shard.tar:
        names = list(tar_index(shard.data, stop_at=is_image if first_only else None))
    else:
        names = sorted(path.name for path in shard.data.iterdir())
    images: dict[str, str] = {}
    for name in names:
        if is_image(name):
            images.setdefault(_key(name), name)
    return images


def parquet_rows(shard: Shard) -> list[dict[str, Any]]:
    """Return the shard's rows as img2dataset listed them, by key."""
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
        names = pq.read_schema(path).names
        rows = pq.read_table(path, columns=[name for name in wanted if name in names]).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(
            f"{path}: cannot be read ({error}); fetch the shard again or remove all its files"
        ) from None
    if not {"key", "status"} <= set(names):
        raise ManifestError(f"{path}: no columns key and status; is it a shard of img2dataset?")
    return sorted(rows, key=lambda row: str(row["key"]))


def sidecar_rows(shard: Shard, images: dict[str, str], report: Report) -> Iterator[dict[str, Any]]:
    """Yield rows made from KEY.json and KEY.txt, for a shard without its parquet."""
    read = _sidecar_reader(shard)
    for key in sorted(images):
        row: dict[str, Any] = {}
        if (text := read(f"{key}.json")) is not None:
            try:
                row = dict(json.loads(text))
            except (TypeError, ValueError) as error:
                report.count("malformed-row", f"{shard.data}: {key}.json is not a JSON object: {error}")
                continue
        caption = read(f"{key}.txt")
        yield {**row, "key": key, "status": "success", "caption": row.get("caption") if caption is None else caption}


def _sidecar_reader(shard: Shard) -> Callable[[str], str | None]:
    """Return the function that gives a side file's text, or None where there is none."""
    if not shard.tar:
        return lambda name: (shard.data / name).read_text("utf-8", "replace") if (shard.data / name).is_file() else None
    index = tar_index(shard.data)

    def read(name: str) -> str | None:
        if name not in index:
            return None
        offset, size = index[name]
        with open(shard.data, "rb") as file:
            file.seek(offset)
            return file.read(size).decode("utf-8", "replace")

    return read


def count_unlisted(shard: Shard, listed: int, report: Report) -> None:
    """Count the inputs that img2dataset's statistics know and its rows do not (a crash in its thread loses them)."""
    if not shard.stats:
        return
    path = shard.name.with_name(shard.name.name + "_stats.json")
    count = read_document(path, []).get("count")
    if isinstance(count, int) and count > listed:
        report.count("unlisted-download", f"{path}: count {count}, {listed} listed", count - listed)


def read_img2dataset(
    root: Path, report: Report, *, check_files: bool = True, incomplete: bool = False, split: str | None = None
) -> Iterator[ImageRecord]:
    """Yield one record a downloaded image; its key is the image id.

    check_files: read every tar's headers (or folder) to see that each image is there. incomplete: read shards without
    `_stats.json` too. Failures, incomplete shards and resized images are counted.
    """
    for shard in find_shards(root):
        if not shard.stats and not incomplete:
            report.count("incomplete-shard", str(shard.data))
            continue
        images = members(shard, first_only=not check_files and shard.parquet)
        rows = parquet_rows(shard) if shard.parquet else list(sidecar_rows(shard, images, report))
        count_unlisted(shard, len(rows), report)
        suffix = next((Path(name).suffix for name in images.values()), ".jpg")
        for row in rows:
            key, where = str(row["key"]), f"{shard.data}: {row['key']}"
            if row["status"] != "success":
                report.count("failed-download", f"{where}: {row.get('error_message')} {row.get('url')}")
                continue
            if check_files and key not in images:
                report.count("missing-file", where)
            yield _record(shard, row, images.get(key, key + suffix), where, report, split)


def _record(shard: Shard, row: dict[str, Any], name: str, where: str, report: Report, split: str | None) -> ImageRecord:
    size = pixels(row.get("width")), pixels(row.get("height"))
    original = pixels(row.get("original_width")), pixels(row.get("original_height"))
    if None not in original and size != original:
        report.count("resized-image", f"{where}: {original[0]}x{original[1]} to {size[0]}x{size[1]}")
    caption = row.get("caption")
    if caption is None:
        report.count("no-caption", where)
    data = Path(shard.data).absolute()
    return ImageRecord(
        image_id=str(row["key"]),
        uri=tar_uri(data, name) if shard.tar else str(data / name),
        captions=() if caption is None else clean_captions([str(caption)], where, report),
        split=split or "",
        width=size[0],
        height=size[1],
    )
