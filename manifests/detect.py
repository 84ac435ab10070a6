"""Which published format a source has, from its content; what could be two or is none is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Literal, get_args

from manifests.conceptual_captions import ROWS_LOOKED_AT, detect_layout
from manifests.images import is_image, walk
from manifests.record import ManifestError
from manifests.table import URI_NAMES

Kind = Literal["conceptual-captions", "img2dataset", "coco", "karpathy", "folder", "csv", "jsonl"]
HEAD = 1 << 20
_BY_FIRST_BYTES = {
    b"PAR1": "Parquet; of img2dataset give the folder, and manifests are made from their sources",
    b"\x1f\x8b": "gzip; unpack it first",
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"\xff\xd8\xff": "a JPEG image; give its folder",
    b"\x89PNG": "a PNG image; give its folder",
}
_FORCE = f"name its kind with --kind ({', '.join(get_args(Kind))})"


def detect_kind(path: Path) -> Kind:
    """Return the kind of a source; raise ManifestError where it is not there, unknown or ambiguous."""
    if path.is_dir():
        return detect_folder(path)
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}") from None
    return detect_file(head, str(path))


def detect_folder(path: Path) -> Kind:
    """Return img2dataset where the folder has shards and folder where it has images; ManifestError for both or none."""
    names = sorted(entry.name for entry in path.iterdir())
    shards = [name for name in names if re.fullmatch(r".*\.tar|\d+\.parquet|\d+_stats\.json", name)]
    if shards:
        if images := [name for name in names if is_image(name)]:
            raise ManifestError(f"{path}: holds the shard {shards[0]} and the image {images[0]}; {_FORCE}")
        if not any(
            name.endswith(".tar") or (path / name.partition("_")[0].partition(".")[0]).is_dir() for name in shards
        ):
            raise ManifestError(
                f"{path}: shards of neither tar nor loose files; run img2dataset with --output_format webdataset"
            )
        return "img2dataset"
    if any(is_image(name) for _, names in walk(path) for name in names):
        return "folder"
    raise ManifestError(f"{path}: no images and no shards in this folder")


def detect_file(head: bytes, where: str) -> Kind:
    """Return the kind that a file's first bytes (HEAD of them) show."""
    for magic, what in _BY_FIRST_BYTES.items():
        if head.startswith(magic):
            raise ManifestError(f"{where}: {what}")
    if head[257:262] == b"ustar":
        raise ManifestError(f"{where}: a tar; give the folder of the shards, or unpack it")
    if b"\0" in head:
        raise ManifestError(f"{where}: a binary file of no known kind")
    text = head.decode("utf-8-sig", "replace")
    if not text.strip():
        raise ManifestError(f"{where}: empty file")
    if text.lstrip().startswith(("{", "[")):
        return _detect_json(text, where)
    return _detect_lines(text, whole=len(head) < HEAD, where=where)


def _detect_json(text: str, where: str) -> Kind:
    keys = set(re.findall(r'"(\w+)"\s*:', text))
    first_line = _first_object(text)
    kinds: list[Kind] = []
    if first_line is not None and set(URI_NAMES) & first_line.keys():
        kinds.append("jsonl")
    elif "filename" in keys and keys & {"sentences", "sentids"}:
        kinds.append("karpathy")
    elif "annotations" in keys or "images" in keys:
        if keys & {"bbox", "iscrowd", "segmentation"}:
            raise ManifestError(f"{where}: COCO instances hold boxes, not images; give the file to --given-boxes")
        if "file_name" in keys or {"image_id", "caption"} <= keys:
            kinds.append("coco")
    if not kinds:
        raise ManifestError(f"{where}: JSON of no known kind, it starts {text.lstrip()[:60]!r}; {_FORCE}")
    return kinds[0]


def _first_object(text: str) -> dict[str, object] | None:
    """Return the first line where it is a whole JSON object that is not itself a document of images."""
    try:
        value = json.loads(text.lstrip().partition("\n")[0])
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _detect_lines(text: str, *, whole: bool, where: str) -> Kind:
    """Return csv or conceptual-captions."""
    lines = text.split("\n")
    lines = [line for line in (lines if whole else lines[:-1])[:ROWS_LOOKED_AT] if line]
    if not lines:
        raise ManifestError(f"{where}: no line end in the first {HEAD} bytes; {_FORCE}")
    first = lines[0]
    names = [cell.strip().strip('"').lower() for cell in first.split(",")]
    if "\t" not in first and set(URI_NAMES) & set(names):
        if len(lines) > 1 and _has_layout(lines[1:]):
            raise ManifestError(f"{where}: a header with commas over rows with tabs; {_FORCE}")
        return "csv"
    with_tab = sum("\t" in line for line in lines)
    if with_tab >= 0.95 * len(lines):
        detect_layout(lines, where)
        return "conceptual-captions"
    raise ManifestError(
        f"{where}: neither tab separated captions and URLs nor CSV with a header that names {' or '.join(URI_NAMES)}; "
        f"it starts {first[:60]!r}; {_FORCE}"
    )


def _has_layout(lines: list[str]) -> bool:
    try:
        detect_layout(lines, "")
    except ManifestError:
        return False
    return True
