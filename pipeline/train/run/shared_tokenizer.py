"""RUN/tokenizer: the tokenizer that all processes of a run, and all its restarts, share."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from vilbert.pipeline.train.engine.distributed import Group
from vilbert.pipeline.train.examples.words import load_tokenizer, save_tokenizer
from vilbert.pipeline.train.run.disk import explain_disk_errors
from vilbert.pipeline.train.run.export import sync_folder
from vilbert.pipeline.train.run.folder import RUN_FILE, TOKENIZER_FOLDER

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def shared_tokenizer(run: Path, group: Group, make: Callable[[], PreTrainedTokenizerBase]) -> PreTrainedTokenizerBase:
    """Return the run's tokenizer, which the first process makes and keeps in RUN/tokenizer.

    It is recreated until run.json exists, because a refused start may have used another one.
    """
    folder = run / TOKENIZER_FOLDER
    is_whole = all((folder / name).is_file() for name in TOKENIZER_FILES)
    if group.first and not (is_whole and (run / RUN_FILE).is_file()):
        made = make()
        temporary = folder.with_name(f".{TOKENIZER_FOLDER}.tmp")
        for left in (temporary, folder):
            shutil.rmtree(left, ignore_errors=True)
        with explain_disk_errors(folder):
            save_tokenizer(made, temporary)
            sync_folder(temporary)
            temporary.rename(folder)
    group.wait()
    return load_tokenizer(str(folder), None)
