"""Export RUN/final: the trained model as a folder for `from_pretrained`, with its tokenizer and a model card.

The folder is created under a temporary name, synced and renamed, so it is complete or absent.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vilbert.pipeline.shards.storage.atomic import fsync_dir, give_usual_mode, temporary_path
from vilbert.pipeline.train.data.known_features import EXTRACTORS, write_known_features
from vilbert.pipeline.train.examples.words import save_tokenizer
from vilbert.pipeline.train.run.disk import explain_disk_errors
from vilbert.pipeline.train.run.folder import FINAL_FOLDER
from vilbert.pipeline.train.run.report import DATA_HEAD, data_rows, flat

CARD_FILE = "README.md"
LOCAL = "(local)"
PATH_SETTINGS = frozenset(
    {"annotations", "cache", "data", "eval_data", "given_data", "init_from", "model", "names", "output", "tokenizer"}
)
"""Settings whose values may be paths, even without a slash, if such files or folders exist."""
KEYWORDS = ("none", "new", "shapes")
"""Values of these settings that are never paths."""
DATA_COLUMNS = DATA_HEAD[1:]

PRETRAIN = "pretrain"
_LOADING = """\
from {module} import {name}
from transformers import AutoTokenizer

vilbert = {name}.from_pretrained("{folder}").eval()
tokenizer = AutoTokenizer.from_pretrained("{folder}")
"""


def export_final(
    run: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, facts: Mapping[str, Any]
) -> Path:
    """Write RUN/final, replacing an older one, and return its path.

    If it is killed, the older folder, the new one or, between two renames, none exists; exporting again completes it.

    Args:
        run: The run folder.
        model: The trained model.
        tokenizer: Its tokenizer.
        facts: Content of run.json (`settings`, `model`, `data`, `eval_data`, `extractors`, `software`), `steps`, and
            `evaluation`: the last journal entry of an evaluation, or None.

    Raises:
        OSError: The disk is full; the older folder is kept.
    """
    final = run / FINAL_FOLDER
    sweep_unfinished(run)
    temporary, older = temporary_path(final), temporary_path(final)
    try:
        temporary.mkdir()
        with explain_disk_errors(final):
            try:
                model.save_pretrained(temporary)
            except SafetensorError as error:  # safetensors' error for a full disk
                raise OSError(f"the model cannot be written: {error}") from error
            save_tokenizer(tokenizer, temporary)
            (temporary / CARD_FILE).write_text(model_card(facts), encoding="utf-8")
            if facts.get(EXTRACTORS):
                write_known_features(temporary, facts[EXTRACTORS])
            give_usual_mode(temporary)
            sync_folder(temporary)
            if final.exists():
                final.rename(older)  # a rename cannot replace a folder that is not empty
            temporary.rename(final)
    except BaseException:
        if older.exists() and not final.exists():
            older.rename(final)
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    fsync_dir(run)
    shutil.rmtree(older, ignore_errors=True)
    return final


def sweep_unfinished(run: Path) -> None:
    """Delete unfinished files of killed exports; only while no other process exports there."""
    for path in run.glob(f".{FINAL_FOLDER}.*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Sync a folder and all files in it."""
    for directory, _, names in os.walk(folder):
        for name in names:
            with (Path(directory) / name).open("rb") as file:
                os.fsync(file.fileno())
        fsync_dir(Path(directory))


def model_card(facts: Mapping[str, Any]) -> str:
    """Return the model card: hub metadata, how to load the model, training data and evaluation."""
    data, held_out = facts.get("data", []), facts.get("eval_data", [])
    evaluation = facts.get("evaluation") or {}
    figures = [(name, value) for name, value in evaluation.items() if name not in ("kind", "not_finite")]
    samples = sum(part.get("samples", 0) for part in data)
    stage = facts.get("stage", PRETRAIN)
    module, name = (
        ("vilbert.model.vilbert", "ViLBertForPreTraining")
        if stage == PRETRAIN
        else ("vilbert.model.tasks", "ViLBertForTasks")
    )
    loading = _LOADING.format(folder="PATH/TO/THIS/FOLDER", module=module, name=name)
    head = {
        "library_name": "transformers",
        "tags": ["vilbert", "vision-and-language", "pre-training" if stage == PRETRAIN else stage.split()[-1]],
    }
    sections = [
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n\n{_story(stage, facts, samples)}",
        f"## How to load it\n\nWith vilbert-pipeline installed:\n\n```python\n{loading}```",
        _section("Evaluation on held-out samples", ("figure", "value"), figures),
        _section("Region features of the training", DATA_COLUMNS, _data_rows(data)),
        _section("Held-out region features", DATA_COLUMNS, _data_rows(held_out)),
        _section("Training settings", ("setting", "value"), flat(_without_paths(facts.get("settings", {})))),
        _section("Software", ("package", "version"), flat(facts.get("software", {}))),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _story(stage: str, facts: Mapping[str, Any], samples: int) -> str:
    if stage == PRETRAIN:
        return (
            f"# ViLBERT, pre-trained\n\nPre-trained for {facts['steps']:,} steps on region features and captions of "
            f"{samples:,} samples: masked words, masked regions, and whether text and image match (Lu et al., NeurIPS "
            f"2019).{_held_out_sentence(facts)}"
        )
    task = stage.split()[-1]
    return (
        f"# ViLBERT, fine-tuned: {task}\n\nFine-tuned for {facts['steps']:,} steps on the annotations of {task} and "
        f"the region features of {samples:,} images{_begun_from(facts)}; `vilbert predict {task}` uses it (Lu et al., "
        "NeurIPS 2019)."
    )


def _held_out_sentence(facts: Mapping[str, Any]) -> str:
    settings = facts.get("settings", {})
    if settings.get("eval_split") != "held-out":
        return ""
    samples = sum(part.get("samples", 0) for part in facts.get("eval_data", []))
    return (
        f" The data name no split for evaluation: {samples:,} samples, chosen by the hash of their image ids (seed "
        f"{settings.get('hold_out_seed')}), were held out of training and evaluated on."
    )


def _begun_from(facts: Mapping[str, Any]) -> str:
    """Return the initial model for the card: a hub name, or a local model without its path."""
    source = facts.get("settings", {}).get("init_from", "none")
    if source == "none":
        return ""
    return ", from a pre-trained checkpoint" if _is_local(source, "init_from") else f", from `{source}`"


def _data_rows(data: Sequence[Mapping[str, Any]]) -> list[tuple[object, ...]]:
    """Return a row per data set, without its path, which is specific to the training machine."""
    return [row[1:] for row in data_rows(part for part in data if "records_sha256" in part)]


def _without_paths(value: Any, setting: str = "") -> Any:
    """Return settings with paths of the training machine replaced by "(local)".

    Args:
        value: The value of a setting, or a mapping of settings.
        setting: Name of the setting.
    """
    if isinstance(value, Mapping):
        return {name: _without_paths(one, str(name)) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(one, setting) for one in value]
    return LOCAL if isinstance(value, str) and _is_local(value, setting) else value


def _is_local(text: str, setting: str) -> bool:
    """Return whether the value of a setting is a local path rather than a name, such as a model on the hub."""
    if setting in PATH_SETTINGS and text not in KEYWORDS:
        return os.path.isabs(text) or text.startswith((".", "~")) or os.path.lexists(text)
    return os.sep in text and (os.path.isabs(text) or text.startswith((".", "~")) or os.path.lexists(text))


def _section(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return f"## {title}\n\n" + "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    # Model cards are rendered: text must not end its table cell or become markup.
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").split())
