"""What a trained model says of the features that it knows: its features.json, task.json or run.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vilbert.pipeline.shards.canonical import encode_json
from vilbert.untrusted.documents import read_json

FEATURES_FILE = "features.json"
"""In a run's final/: what the regions of its data sets depended on, each way of it once, as in dataset.json."""
EXTRACTORS = "extractors"


def write_known_features(folder: Path, extractors: Sequence[Mapping[str, Any]]) -> None:
    """Write the file into a model's folder."""
    (folder / FEATURES_FILE).write_bytes(encode_json({EXTRACTORS: list(extractors)}, indent=2) + b"\n")


def read_known_features(model: str) -> tuple[dict[str, Any], ...]:
    """Return what the features of a model's training depended on; nothing where no file of it says so.

    model: a run, its final/, one of its checkpoints, or a file in one of these; or the name of a model on the hub.
    """
    path = Path(model)
    folders = [path / "final", path, *path.absolute().parents[:2]]
    files = [folder / name for folder in folders[:2] for name in (FEATURES_FILE, "task.json")]
    files += [folder / "run.json" for folder in folders[1:]]
    if path.is_file():
        files.insert(0, path.parent / FEATURES_FILE)
    for file in files if path.exists() else ():
        try:
            document = read_json(file)
        except (OSError, ValueError):
            continue  # missing or damaged: reported when the model is loaded
        if found := _extractors(document):
            return found
    return ()


def _extractors(document: Any) -> tuple[dict[str, Any], ...]:
    """Return the extractors that a document lists, or the tasks that it lists."""
    if not isinstance(document, dict):
        return ()
    parts = document.get("tasks")
    found: list[dict[str, Any]] = []
    for part in (document, *(parts if isinstance(parts, list) else ())):
        listed = part.get(EXTRACTORS) if isinstance(part, dict) else None
        found += [way for way in listed if isinstance(way, dict)] if isinstance(listed, list) else []
    return tuple(way for at, way in enumerate(found) if way not in found[:at])
