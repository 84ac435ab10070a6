"""README.md: the data set's card on the Hugging Face Hub, with which `datasets.load_dataset` opens the folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vilbert.pipeline.shards.dataset import DatasetInfo
from vilbert.pipeline.shards.index.listed_shards import NO_SPLIT, ListedShard, by_split, shown_split
from vilbert.pipeline.shards.index.names import INDEX_FILE
from vilbert.pipeline.shards.index.seal import seal_markdown
from vilbert.pipeline.terminal import counted

_METADATA = {
    "image_id": "string",
    "captions": "[string]",
    "split": "string",
    "uri": "string",
    "sha256": "string",
    "format": "string",
    "mode": "string",
    "transposed": "bool",
    "width": "int64",
    "height": "int64",
    "num_boxes": "int64",
}
"""Fields of KEY.json that the card's features include; `datasets` ignores others."""


def encode_card(info: DatasetInfo, shards: Sequence[ListedShard]) -> bytes:
    """Return README.md of a complete data set."""
    import yaml

    header = yaml.safe_dump(_header(info, shards), sort_keys=False, allow_unicode=True, width=120)
    return seal_markdown(f"---\n{header}---\n\n{_text(info, shards)}")


def _header(info: DatasetInfo, shards: Sequence[ListedShard]) -> dict[str, Any]:
    header: dict[str, Any] = {
        "pretty_name": f"Region features of {counted(info.totals.samples, 'image')}",
        "tags": ["region-features", "vilbert", "webdataset"],
    }
    if info.storage != "tar" or not shards:
        index = {"split": NO_SPLIT if list(info.splits) in ([], [""]) else shown_split(info.splits), "path": INDEX_FILE}
        return {**header, "configs": [{"config_name": "default", "data_files": [index]}]}
    groups = by_split(shards)
    files = [
        {"split": split, "path": "shards/*.tar" if len(groups) == 1 else [shard.file for shard in members]}
        for split, members in groups.items()
    ]
    splits = [
        {
            "name": split,
            "num_bytes": sum(shard.bytes for shard in members),
            "num_examples": sum(shard.samples for shard in members),
        }
        for split, members in groups.items()
    ]
    size_bytes = sum(shard.bytes for shard in shards)
    header["configs"] = [
        {"config_name": "default", "data_files": files}
    ]  # all files of a card must have the same format
    header["dataset_info"] = [
        {
            "config_name": "default",
            "features": _features(info),
            "splits": splits,
            "download_size": size_bytes,
            "dataset_size": size_bytes,
        }
    ]
    return header


def _features(info: DatasetInfo) -> list[dict[str, Any]]:
    """Return the features of a tar's samples in the YAML form of `datasets`."""
    features: list[dict[str, Any]] = []
    for name, field in info.fields.items():
        rows, *columns = (None if size == "N" else size for size in field["shape"])
        if columns:
            array = {"array2_d": {"shape": [rows, *columns], "dtype": field["dtype"]}}
            features.append({"name": f"{name}.npy", "dtype": array})
        else:
            features.append({"name": f"{name}.npy", "list": field["dtype"]})
    if info.fingerprint_fields.get("keep_images"):
        features.append({"name": "jpg", "dtype": "image"})
    metadata = [
        {"name": name, "list": kind.strip("[]")} if kind.startswith("[") else {"name": name, "dtype": kind}
        for name, kind in _METADATA.items()
    ]
    texts = [{"name": name, "dtype": "string"} for name in ("__key__", "__url__")]
    return [*features, {"name": "json", "struct": metadata}, *texts]


def _text(info: DatasetInfo, shards: Sequence[ListedShard]) -> str:
    totals = info.totals
    splits = ", ".join(f"{name or '(none)'} {count:,}" for name, count in info.splits.items()) or "none"
    arrays = "\n".join(
        f"| `{name}` | {field['dtype']} | [{', '.join(map(str, field['shape']))}] |"
        for name, field in info.fields.items()
    )
    paragraphs = [
        f"# Region features of {counted(totals.samples, 'image')}",
        f"Features of image regions, {counted(info.feature_dim, 'channel')} each, in "
        f"{counted(len(shards), f'{info.storage} shard')} of {totals.bytes:,} bytes; written by `vilbert`.",
        f"- splits: {splits}\n- images that failed: {sum(totals.failures.values()):,}\n"
        f"- classes: {len(info.class_names):,}, attributes: {len(info.attribute_names):,} (names in `dataset.json`)\n"
        f"- fingerprint of the settings: `{info.fingerprint}`\n- SHA-256 of all records: `{info.records_sha256}`",
        f"| array, N regions | dtype | shape |\n|---|---|---|\n{arrays}",
        _how_to_load(info, shards),
    ]
    return "\n\n".join(paragraphs) + "\n"


def _how_to_load(info: DatasetInfo, shards: Sequence[ListedShard]) -> str:
    if info.storage != "tar" or not shards:
        return (
            f"`load_dataset` gives the rows of `{INDEX_FILE}`, one per image. The arrays are in LMDB files, which "
            "`vilbert.open_dataset` reads; `vilbert convert` makes tar files of them, which `load_dataset` reads."
        )
    split = next(iter(by_split(shards)))
    text = (
        "```python\nfrom datasets import load_dataset\n\n"
        f'data = load_dataset("PATH OR REPOSITORY", split="{split}").with_format("numpy")\n'
        'data[0]["features.npy"]  # [N, D]\n```\n\n'
        f"`{INDEX_FILE}` has one row per image without the arrays: "
        f'`load_dataset("parquet", data_files="PATH/{INDEX_FILE}")`.'
    )
    if any(name not in info.splits for name in by_split(shards)) and len(info.splits) > 1:
        text += (
            " A name such as `train_val` stands for shards that hold samples of both splits; the field `split` of "
            "`json` tells them apart."
        )
    return text
