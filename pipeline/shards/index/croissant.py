"""croissant.json: a Croissant 1.0 description (MLCommons), whose record set reads index.parquet.

Croissant has no encoding for NPY members of a tar, so the shards are described as files with their SHA-256, and the
samples as rows of the Parquet index.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.shards.dataset import DatasetInfo
from vilbert.pipeline.shards.index.listed_shards import ListedShard
from vilbert.pipeline.shards.index.names import INDEX_FILE
from vilbert.pipeline.terminal import counted

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{
        name: f"cr:{name}"
        for name in (
            "citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty", "fileSet",
            "format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet",
            "references", "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField",
            "transform",
        )
    },
}  # fmt: skip
_KINDS = {
    "key": "sc:Text",
    "image_id": "sc:Text",
    "split": "sc:Text",
    "width": "sc:Integer",
    "height": "sc:Integer",
    "num_boxes": "sc:Integer",
    "shard": "sc:Text",
    "captions": "sc:Text",
}
"""Required columns of index.parquet, and their types."""
_REPEATED = ("captions",)
_ENCODINGS = {"tar": "application/x-tar", "lmdb": "application/octet-stream"}
_SEAL = "vilbert-index:"


def encode_croissant(info: DatasetInfo, shards: Sequence[ListedShard], index_sha256: str) -> bytes:
    """Return croissant.json of a complete data set; `index_sha256` is the hex digest of its index.parquet."""
    document = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": f"region-features-{str(info.records_sha256)[:16]}",
        "description": f"Region features of {counted(info.totals.samples, 'image')}, in "
        f"{counted(len(shards), f'{info.storage} shard')}; {INDEX_FILE} has one row per image.",
        "version": "1.0.0",
        "distribution": _distribution(info, shards, index_sha256),
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "samples",
                "name": "samples",
                "key": {"@id": "samples/key"},
                "field": [_field(column) for column in _KINDS],
            }
        ],
    }
    return encode_json({**document, "identifier": _seal(document)}, indent=1) + b"\n"


def is_sealed_croissant(document: Any) -> bool:
    """Return whether a parsed croissant.json is unchanged since `vilbert index` wrote it."""
    if not isinstance(document, dict):
        return False
    rest = {name: value for name, value in document.items() if name != "identifier"}
    return bool(document.get("identifier") == _seal(rest))


def _seal(document: dict[str, Any]) -> str:
    return _SEAL + hashlib.sha256(encode_json(document)).hexdigest()


def _distribution(info: DatasetInfo, shards: Sequence[ListedShard], index_sha256: str) -> list[dict[str, Any]]:
    files: list[dict[str, Any]] = [
        {
            "@type": "cr:FileObject",
            "@id": shard.file,
            "name": shard.file,
            "contentUrl": shard.file,
            "contentSize": f"{shard.bytes} B",
            "encodingFormat": _ENCODINGS[info.storage],
            "sha256": shard.sha256,
        }
        for shard in shards
    ]
    if info.storage == "tar" and shards:
        members = {
            "@type": "cr:FileSet",
            "@id": "metadata",
            "name": "metadata",
            "description": "The KEY.json of each sample; KEY.*.npy beside it are its arrays.",
            "containedIn": [{"@id": shard.file} for shard in shards],
            "encodingFormat": "application/json",
            "includes": "*.json",
        }
        files.append(members)
    index = {
        "@type": "cr:FileObject",
        "@id": INDEX_FILE,
        "name": INDEX_FILE,
        "contentUrl": INDEX_FILE,
        "encodingFormat": "application/x-parquet",
        "sha256": index_sha256,
    }
    return [*files, index]


def _field(column: str) -> dict[str, Any]:
    source = {"fileObject": {"@id": INDEX_FILE}, "extract": {"column": column}}
    return {
        "@type": "cr:Field",
        "@id": f"samples/{column}",
        "name": column,
        "dataType": _KINDS[column],
        **({"repeated": True} if column in _REPEATED else {}),
        "source": source,
    }
