"""Names of the side files inside a data set's folder, including files of other tools in the folder of the shards."""

from __future__ import annotations

import re

CARD_FILE = "README.md"
"""Dataset card of the Hugging Face Hub; `datasets.load_dataset` reads its YAML header."""
WIDS_FILE = "shardindex.json"
"""Shard list of wids, the indexed reader of webdataset."""
CROISSANT_FILE = "croissant.json"
"""Croissant 1.0 description (MLCommons)."""
INDEX_FILE = "index.parquet"
"""One row per sample. Written last and deleted before shards change, so an existing file matches the shards."""
ENERGON_FOLDER = ".nv-meta"
"""Folder of Megatron-Energon."""
ENERGON_INFO = f"{ENERGON_FOLDER}/.info.json"
ENERGON_SPLITS = f"{ENERGON_FOLDER}/split.yaml"
ENERGON_DATASET = f"{ENERGON_FOLDER}/dataset.yaml"
ENERGON_SQLITE = f"{ENERGON_FOLDER}/index.sqlite"
ENERGON_UUID = f"{ENERGON_FOLDER}/index.uuid"
TAR_INDEX_SUFFIX = ".tar.idx"
"""Suffix of Energon's file for each tar: `shards/000003.tar.idx`."""

ROOT_NAMES = (CARD_FILE, WIDS_FILE, CROISSANT_FILE, INDEX_FILE, ENERGON_FOLDER)
"""Files that may exist in a folder to which a data set is extracted."""

_BESIDE_SHARDS = re.compile(r"([0-9]{6,})(?:\.tar\.idx|\.idx)")


def shard_of_side_file(name: str) -> int | None:
    """Return the shard of an index file in `shards/` (Energon's .tar.idx, DALI's .idx), or None for other files."""
    match = _BESIDE_SHARDS.fullmatch(name)
    return int(match[1]) if match else None
