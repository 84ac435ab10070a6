"""The run folder: the description of a run, written before its first step, and the check of resumed runs.

RUN/run.json contains the settings that affect training, the model's config, the data sets by content, and versions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vilbert.documents import List, document, from_json
from vilbert.pipeline.errors import READ_ONLY, FingerprintError, LockedError, OutputError, RefusedError
from vilbert.pipeline.shards.canonical import decode_json, encode_json
from vilbert.pipeline.shards.location.lock import LOCK_FILE, exclusive_writer
from vilbert.pipeline.shards.storage.atomic import write_atomic
from vilbert.pipeline.train.data.known_features import EXTRACTORS
from vilbert.pipeline.train.run.disk import explain_disk_errors
from vilbert.pipeline.train.run.new_folder import new_folder
from vilbert.untrusted.documents import read_json

RUN_FILE = "run.json"
FINAL_FOLDER = "final"
TOKENIZER_FOLDER = "tokenizer"
IDENTITY = ("settings", "model", "data", "eval_data")
"""Parts that must be equal when a run is resumed."""
RENAMED_SETTINGS = {
    "max_words": "max_tokens",
    "most_missing": "max_missing_fraction",
    "least_answers": "min_answer_count",
}
"""Settings that have other names in run.json of version 0.1.0."""
ADDED_SETTINGS = {"features": ["base"], "optim": "adamw", "muon_learning_rate": 0.02, "muon_momentum": 0.95}
"""Settings that version 0.1.0 did not have, with its behaviour."""
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "vilbert-pipeline")
_OF_THE_SOFTWARE = ("transformers_version", "id2label", "label2id", "_name_or_path")
_WHERE_ONLY = "path"  # a data set may lie elsewhere: its content decides


@document
class RunDescription:
    """The content of run.json. It has no format number: a key of a newer version is refused."""

    settings: dict[str, Any]
    """Settings that affect training."""
    model: dict[str, Any]
    """The model's config."""
    data: List[dict[str, Any]]
    """The data sets that are trained on, by content."""
    eval_data: List[dict[str, Any]] = ()
    extractors: List[dict[str, Any]] = ()
    """Distinct detector and selection settings of the training features."""
    software: dict[str, str] = field(default_factory=dict)
    """Versions by package."""


_OPTIONAL = ("eval_data", "extractors", "software")
"""Fields that early versions did not write."""


@contextmanager
def run_folder(run: Path) -> Iterator[None]:
    """Create the run's folder, and delete it if the block fails before any training.

    Raises:
        OutputError: The folder holds something other than a run.
    """
    with ExitStack() as stack:
        if not run.is_file():
            stack.enter_context(new_folder(run, is_used=lambda: has_learnt(run)))
        make_run_folder(run)
        yield


def has_learnt(run: Path) -> bool:
    """Return whether a run has a checkpoint or a journal entry."""
    journal = run / "metrics.jsonl"
    return any((run / "checkpoints").glob("step-*")) or (journal.is_file() and journal.stat().st_size > 0)


def make_run_folder(run: Path) -> None:
    """Create the folder; raise OutputError if it holds something other than a run."""
    if run.is_file():
        raise OutputError(f"--output {run}: is a file; give a folder")
    run.mkdir(parents=True, exist_ok=True)
    others = [path.name for path in run.iterdir() if path.name != LOCK_FILE]
    if others and not (run / RUN_FILE).is_file() and not _only_ours(others):
        raise OutputError(f"--output {run}: contains {others[0]} but no {RUN_FILE}; give a new folder or that of a run")


def _only_ours(names: list[str]) -> bool:
    """Return whether these files may be from a run that was killed before it wrote run.json."""
    ours = ("tokenizer", "task.json", "cache", "ray")
    return all(name in ours or name.startswith((".", "hard-negatives-")) for name in names)


def describe_run(
    settings: dict[str, Any],
    model: dict[str, Any],
    data: list[dict[str, Any]],
    eval_data: list[dict[str, Any]],
    *,
    extractors: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the content of run.json; `extractors`: detector and selection settings of the training features."""
    software = {name: version(name) for name in PACKAGES}
    model = {key: value for key, value in model.items() if key not in _OF_THE_SOFTWARE}
    whole: dict[str, Any] = {"settings": settings, "model": model, "data": data, "eval_data": eval_data}
    whole |= {EXTRACTORS: list(extractors), "software": software}
    return dict(decode_json(encode_json(whole)))  # as it will be read back


def read_run(run: Path) -> dict[str, Any] | None:
    """Read run.json; return None if it does not exist, raise RefusedError if it is damaged."""
    path = run / RUN_FILE
    if not path.is_file():
        return None
    try:
        found = read_json(path)
        from_json(RunDescription, found, optional=_OPTIONAL)
    except ValueError as error:
        raise RefusedError(
            f"{path}: is damaged ({error}); a run with a checkpoint rewrites it when it resumes; without one, give "
            "another --output or delete the folder"
        ) from None
    return {**found, "settings": _renamed(found["settings"])}


def _renamed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of run.json under their current names, also those of each task of a multi-task run."""
    found = {RENAMED_SETTINGS.get(name, name): value for name, value in settings.items()}
    if isinstance(tasks := found.get("tasks"), list):
        found["tasks"] = [_renamed(task) if isinstance(task, dict) else task for task in tasks]
    return found


def in_present_terms(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of a run of any version with the current settings."""
    settings = description.get("settings")
    if not isinstance(settings, Mapping):
        return dict(description)
    return {**description, "settings": {**ADDED_SETTINGS, **_renamed(settings)}}


def write_run(run: Path, description: Mapping[str, Any]) -> None:
    """Write run.json atomically if its content changed; raise OSError naming it if it cannot be written."""
    encoded = encode_json(dict(description), indent=2) + b"\n"
    if (run / RUN_FILE).is_file() and (run / RUN_FILE).read_bytes() == encoded:
        return
    with explain_disk_errors(run / RUN_FILE):
        write_atomic(run / RUN_FILE, encoded)


@contextmanager
def writing(run: Path, *, patience: float) -> Iterator[None]:
    """Lock the run's folder for one writer; raise LockedError, naming the holder, if another process has locked it.

    Args:
        run: The run folder.
        patience: Seconds to wait for the lock. When a group of processes is restarted, the first process of the
            previous group may still be exiting, and the system frees its lock only when it has exited.
    """
    from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

    waiting = Retrying(
        retry=retry_if_exception_type(LockedError), stop=stop_after_delay(patience), wait=wait_fixed(0.1), reraise=True
    )
    with ExitStack() as stack:
        waiting(lambda: stack.enter_context(exclusive_writer(run)))
        yield


@contextmanager
def writing_where_possible(run: Path, *, patience: float) -> Iterator[bool]:
    """Lock the folder like `writing` and yield True; yield False for a run on a read-only disk."""
    with ExitStack() as stack:
        try:
            stack.enter_context(writing(run, patience=patience))
        except OSError as error:
            if error.errno not in READ_ONLY or not (run / RUN_FILE).is_file():
                raise
            yield False
        else:
            yield True


def is_described(run: Path, description: Mapping[str, Any]) -> bool:
    """Return whether run.json describes the same run."""
    try:
        before = read_run(run)
    except RefusedError:  # damaged: it is rewritten
        return False
    return before is not None and not _all_differences(before, description)


def require_same_run(before: Mapping[str, Any], now: Mapping[str, Any], *, where: Path) -> None:
    """Raise FingerprintError with each difference if a resumed run would differ from the earlier one."""
    if found := _all_differences(before, now):
        raise FingerprintError(
            f"{where}: was trained with other settings or data: {'; '.join(found)}. Give the same, or another --output"
        )


def _all_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [line for part in IDENTITY for line in _differences(part, before.get(part), now.get(part))]


def _differences(name: str, before: Any, now: Any) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            line
            for key in sorted(before.keys() | now.keys())
            if key != _WHERE_ONLY
            for line in _differences(f"{name}.{key}" if name != "settings" else key, before.get(key), now.get(key))
        ]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now) and _of_dicts(before):
        return [
            line
            for index, (first, second) in enumerate(zip(before, now, strict=True))
            for line in _differences(f"{name}[{index}]", first, second)
        ]
    return [] if before == now else [f"{name} {_brief(before)} before, now {_brief(now)}"]


def _of_dicts(values: list[Any]) -> bool:
    return all(isinstance(value, dict) for value in values)


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
