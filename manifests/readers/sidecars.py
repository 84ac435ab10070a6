"""Captions and metadata next to the images of a shard: `KEY.txt` and `KEY.json`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vilbert.manifests.captions import storable
from vilbert.manifests.readers.shard_files import ShardFiles
from vilbert.manifests.report import Report
from vilbert.untrusted.documents import DocumentError, parse_json


def sidecar_rows(
    where: str, files: ShardFiles, names: Mapping[str, str], read_side: Callable[[str], bytes], report: Report
) -> Iterator[dict[str, Any]]:
    """Yield one row per image from its side files, in the form of img2dataset's Parquet rows.

    `names` maps image ids to plain names. Rows whose .json cannot be read are counted and skipped. If the captions
    differ, that of the .txt file is used.
    """
    files.count_sides_alone(where, report)
    for key, name in names.items():
        row: dict[str, Any] = {}
        place = f"{where}: {key}"
        if side := files.side(name, ".json"):
            try:
                row = _json_object(read_side(side))
            except DocumentError as error:
                report.count("malformed-row", f"{place}: {side}: {error}")
                continue
        caption = row.get("caption")
        if side := files.side(name, ".txt"):
            try:
                text = read_side(side).decode("utf-8-sig", "replace")
            except DocumentError as error:
                report.count("unreadable-caption", f"{place}: {side}: {error}")
            else:
                if isinstance(caption, str) and storable(caption).split() != text.split():
                    report.count("caption-conflict", f"{place}: {text[:80]!r} and {caption[:80]!r}")
                caption = text
        yield {**row, "key": key, "caption": caption}


def _json_object(data: bytes) -> dict[str, Any]:
    value = parse_json(data, allow_surrogates=True, allow_nan=True)
    if not isinstance(value, dict):
        raise DocumentError("not a JSON object")
    return value
