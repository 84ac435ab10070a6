"""RUN: what a training run is, written down before its first step, and what it may be gone on with.

RUN/run.json holds the settings that decide what is learnt, the model's config, the data sets by content, and versions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.shards.atomic import write_atomic
from pipeline.shards.canonical import decode_json, encode_json
from pipeline.shards.errors import FingerprintError, LockedError, RefusedError
from pipeline.shards.lock import LOCK_FILE, exclusive_writer
from pipeline.train.disk import explain_disk_errors
from pipeline.train.known_features import EXTRACTORS

RUN_FILE = "run.json"
FINAL_FOLDER = "final"
TOKENIZER_FOLDER = "tokenizer"
IDENTITY = ("settings", "model", "data", "eval_data")
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "vilbert-pipeline")
_OF_THE_SOFTWARE = ("transformers_version", "id2label", "label2id", "_name_or_path")
_WHERE_ONLY = "path"  # a data set may lie elsewhere: its content decides


def make_run_folder(run: Path) -> None:
    """Make the folder; raise RefusedError where it holds something that is no run."""
    if run.is_file():
        raise RefusedError(f"--output {run}: is a file; give a folder")
    run.mkdir(parents=True, exist_ok=True)
    others = [path.name for path in run.iterdir() if path.name != LOCK_FILE]
    if others and not (run / RUN_FILE).is_file() and not _only_ours(others):
        raise RefusedError(f"--output {run}: holds {others[0]} and no {RUN_FILE}; give a new folder, or one of a run")


def _only_ours(names: list[str]) -> bool:
    """Say whether a run that was killed before it wrote run.json could have left these."""
    return all(name in ("tokenizer", "task.json", "cache", "ray") or name.startswith(".") for name in names)


def describe_run(
    settings: dict[str, Any],
    model: dict[str, Any],
    data: list[dict[str, Any]],
    eval_data: list[dict[str, Any]],
    *,
    extractors: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the content of run.json; extractors: what the features of the training data depend on."""
    software = {name: version(name) for name in PACKAGES}
    model = {key: value for key, value in model.items() if key not in _OF_THE_SOFTWARE}
    whole: dict[str, Any] = {"settings": settings, "model": model, "data": data, "eval_data": eval_data}
    whole |= {EXTRACTORS: list(extractors), "software": software}
    return dict(decode_json(encode_json(whole)))  # as it will be read back


def read_run(run: Path) -> dict[str, Any] | None:
    """Return run.json, or None where there is none; RefusedError where it is damaged."""
    path = run / RUN_FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RefusedError(
            f"{path}: is not the JSON that a run writes, it is damaged; a run with a checkpoint writes it anew when it "
            "goes on: without one, give another --output or delete the folder"
        )
    return found


def write_run(run: Path, description: Mapping[str, Any]) -> None:
    """Write run.json in one step; OSError naming it where the disk refuses."""
    with explain_disk_errors(run / RUN_FILE):
        write_atomic(run / RUN_FILE, encode_json(dict(description), indent=2) + b"\n")


@contextmanager
def writing(run: Path, *, patience: float) -> Iterator[None]:
    """Hold the run's folder for one writer; raise LockedError, naming the holder, where it is another's.

    patience: seconds to wait for the holder to end. When a group of processes is started again, the first of the group
    before may be dying still, and the system frees its lock only when it is dead.
    """
    deadline = time.monotonic() + patience
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(exclusive_writer(run))
                break
            except LockedError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.1)
        yield


def require_same_run(before: Mapping[str, Any], now: Mapping[str, Any], *, where: Path) -> None:
    """Raise FingerprintError where a run that goes on would not be the one before, naming each difference."""
    found = [line for part in IDENTITY for line in _differences(part, before.get(part), now.get(part))]
    if found:
        raise FingerprintError(
            f"{where}: was trained with other settings or data: {'; '.join(found)}. Give the same, or another --output"
        )


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
