"""`vilbert index`: write the side files of a data set."""

from __future__ import annotations

import logging

from tyro.conf import Positional

from vilbert.pipeline.shards.dataset import read_info
from vilbert.pipeline.shards.location.folder import open_folder
from vilbert.pipeline.shards.location.place_option import PlaceOption
from vilbert.pipeline.terminal import counted
from vilbert.settings import validated

logger = logging.getLogger(__name__)


@validated
class IndexSettings:
    """Write side files with which other tools open a data set; the shards do not change.

    README.md (Hugging Face card), shardindex.json (wids), .nv-meta/ and .tar.idx (Megatron-Energon), croissant.json,
    and index.parquet with one row per sample. A README.md, split.yaml, dataset.yaml or croissant.json that you wrote or
    edited is never overwritten. LMDB data sets get the card, croissant.json and index.parquet.
    """

    directory: Positional[PlaceOption]
    """Folder of the data set, or its URL, whose shards are downloaded once."""


def index(settings: IndexSettings) -> int:
    """Write the side files and return 0."""
    from vilbert.pipeline.shards.index.write import index_dataset

    folder = open_folder(settings.directory)
    read_info(folder)  # before anything is written to a folder that is not a data set
    with folder.exclusive_writer():
        written = index_dataset(folder)
    for name in written.kept:
        logger.info("%s: not replaced, because another program wrote or changed it", name)
    logger.info("%s: %s up to date", folder.name, counted(written.files, "side file is", "side files are"))
    return 0
