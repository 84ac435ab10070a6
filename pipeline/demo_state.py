"""State of a demo folder: its settings and the finished stages."""

from __future__ import annotations

from dataclasses import asdict, field
from pathlib import Path

from vilbert.documents import Count, document, from_json
from vilbert.pipeline.errors import OutputError, RefusedError
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.shards.storage.atomic import write_atomic
from vilbert.settings import NonNegativeFloat
from vilbert.untrusted.documents import DocumentError, read_json

STATE_FILE = "demo.json"
FIRST_MARKER = ".vilbert-demo"
"""Marker file of earlier versions, whose demos cannot be resumed."""
REMEDY = "choose another --output, or give --overwrite to delete that demo and start again"


@document
class DemoState:
    """Content of OUTPUT/demo.json."""

    version: str
    """Version of vilbert-pipeline that started the demo."""
    scenes: Count
    """Number of scenes."""
    seconds: dict[str, NonNegativeFloat] = field(default_factory=dict)
    """Duration of each finished stage in seconds, by stage name."""

    def write(self, output: Path) -> None:
        """Write demo.json atomically."""
        write_atomic(output / STATE_FILE, encode_json(asdict(self), indent=2) + b"\n")


def open_demo(output: Path, version: str, scenes: int) -> DemoState:
    """Return the state of the demo in a folder, or a new state if the folder is empty.

    Raises:
        RefusedError: The folder holds a demo with other settings, or a damaged demo.json.
        OutputError: The folder holds other files.
    """
    path = output / STATE_FILE
    if not path.is_file():
        _require_empty(output)
        return DemoState(version=version, scenes=scenes)
    state = _parse(path)
    if state.version != version:
        raise RefusedError(f"{output}: holds a demo of version {state.version}, this is version {version}: {REMEDY}")
    if state.scenes != scenes:
        raise RefusedError(
            f"{output}: holds a demo of {state.scenes} scenes, not {scenes}: give --scenes {state.scenes}, {REMEDY}"
        )
    return state


def is_demo(output: Path) -> bool:
    """Return whether a folder holds a demo of any version."""
    return (output / STATE_FILE).is_file() or (output / FIRST_MARKER).is_file()


def _require_empty(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output}: is a file; choose another --output")
    if (output / FIRST_MARKER).is_file():
        raise RefusedError(f"{output}: holds a demo of an earlier version, which cannot be resumed: {REMEDY}")
    if output.is_dir() and (others := sorted(path.name for path in output.iterdir() if path.name != ".lock")):
        raise OutputError(f"{output}: holds {others[0]}, which does not belong to a demo; choose another --output")


def _parse(path: Path) -> DemoState:
    try:
        return from_json(DemoState, read_json(path))
    except (DocumentError, OSError) as error:
        raise RefusedError(f"{path}: is not a valid demo state ({error}): {REMEDY}") from error
