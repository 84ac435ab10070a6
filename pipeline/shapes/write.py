"""`vilbert shapes`: write the shapes data set, images and annotations in the published formats.

All is written to a hidden folder beside the output and renamed at the end, so that what bears the output's name is
whole.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Annotated, NamedTuple

from annotated_types import Interval
from tyro.conf import Positional

from vilbert.pipeline.shapes.annotations import SCENES, Row, json_files, line_files, rows
from vilbert.pipeline.shapes.files import JsonFile, LineFile, compact
from vilbert.pipeline.shapes.layout import image_path, metadata_path
from vilbert.pipeline.shapes.render import jpeg
from vilbert.pipeline.shapes.scene import make_scene
from vilbert.pipeline.shapes.task_rows import metadata
from vilbert.pipeline.shards.parallel import cores, processes
from vilbert.settings import Seed, validated

log = logging.getLogger(__name__)

FEWEST_SCENES = 10  # one of each split
MOST_SCENES = 10_000_000  # ids of VCR and REFER stay below 2**31
MOST_SEED = 2**63 - 1
WORTH_PROCESSES = 500  # fewer scenes are drawn sooner than processes start
SCENES_IN_MEMORY = 4000
SCENES_A_LOG_LINE = 5000  # if there is no terminal for a progress bar


@validated
class ShapesSettings:
    """Generate a small data set for trials: pictures of coloured shapes, with captions, questions and answers.

    The files have the names and formats of COCO, Conceptual Captions, VQA v2, VCR, RefCOCOg and Karpathy's split;
    docs/shapes.md lists them. The same seed gives the same bytes, and a larger data set begins with the scenes of a
    smaller one.
    """

    output: Positional[Path]
    """The data set's folder."""
    scenes: Annotated[int, Interval(ge=FEWEST_SCENES, le=MOST_SCENES)] = 1000
    """Number of pictures: of every ten, eight for training, one for validation, one for testing."""
    seed: Seed = 0
    """Random seed of the scenes."""
    overwrite: bool = False
    """Replace an existing shapes data set."""


def refusal(output: Path, overwrite: bool) -> str | None:
    """Return why nothing may be written to `output`, or None if it may."""
    if not output.exists():
        return None
    if not output.is_dir():
        return f"{output} is a file; give a folder"
    if not any(output.iterdir()):
        return None
    if not (output / SCENES).is_file():
        return f"{output} holds something else than a shapes data set; give another folder"
    return None if overwrite else f"{output} holds a shapes data set; give another folder, or --overwrite to replace it"


@contextmanager
def _renamed_when_whole(output: Path) -> Iterator[Path]:
    """Give a folder to write in; put it in the place of `output` at the end, remove it where something fails."""
    output = output.resolve()  # a name for `.`, and the folder behind a link
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished, old = (output.parent / f".{output.name}.{state}-{os.getpid()}" for state in ("unfinished", "old"))
    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed: this process is another of the same id
    unfinished.mkdir()
    try:
        yield unfinished
        if output.exists():
            output.rename(old)
        unfinished.rename(output)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        if old.exists() and not output.exists():
            old.rename(output)
        shutil.rmtree(unfinished, ignore_errors=True)


class Made(NamedTuple):
    """What is written of one scene."""

    image: bytes
    metadata: bytes
    rows: list[Row]


def _made(seed: int, index: int) -> Made:
    scene = make_scene(seed, index)
    return Made(image=jpeg(scene), metadata=compact(metadata(scene)), rows=list(rows(scene)))


def _all_made(settings: ShapesSettings) -> Iterator[Made]:
    """Yield the scenes in order, made on every core where there are enough of them."""
    make = partial(_made, settings.seed)
    if settings.scenes < WORTH_PROCESSES:
        yield from map(make, range(settings.scenes))
        return
    with processes(cores()) as pool:
        for first in range(0, settings.scenes, SCENES_IN_MEMORY):
            block = range(first, min(first + SCENES_IN_MEMORY, settings.scenes))
            yield from pool.map(make, block, chunksize=20)


def _write_scenes(folder: Path, settings: ShapesSettings, files: dict[str, JsonFile | LineFile]) -> None:
    from tqdm import tqdm

    for index, made in enumerate(tqdm(_all_made(settings), total=settings.scenes, unit="scene", disable=None)):
        (folder / image_path(index)).write_bytes(made.image)
        (folder / metadata_path(index)).write_bytes(made.metadata)
        for row in made.rows:
            files[row.path].add(row.value, row.name)
        if (index + 1) % SCENES_A_LOG_LINE == 0 and not sys.stderr.isatty():
            log.info("%d of %d scenes", index + 1, settings.scenes)


def _write(folder: Path, settings: ShapesSettings) -> None:
    frames, lines = json_files(), line_files()
    some_of_each = range(FEWEST_SCENES)
    paths = [*map(Path, [*frames, *lines]), *map(image_path, some_of_each), *map(metadata_path, some_of_each)]
    for parent in {folder / path.parent for path in paths}:
        parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        files: dict[str, JsonFile | LineFile] = {path: JsonFile(folder / path, frame) for path, frame in frames.items()}
        files |= {path: LineFile(folder / path) for path in lines}
        for file in files.values():
            stack.callback(file.discard)
        _write_scenes(folder, settings, files)
        for file in files.values():
            file.close()


def write_shapes(settings: ShapesSettings) -> int:
    """Write the data set; return 0, or 2 where the output is refused, or 1 where the disk fails."""
    reason = refusal(settings.output, settings.overwrite)
    if reason:
        log.error("%s", reason)
        return 2
    start = perf_counter()
    try:
        with _renamed_when_whole(settings.output) as folder:
            _write(folder, settings)
    except (OSError, BrokenProcessPool) as error:
        log.error("%s could not be written: %s; no partial output remains", settings.output, error)
        return 1
    seconds = perf_counter() - start
    log.info("%d scenes in %s, %.0f per second", settings.scenes, settings.output, settings.scenes / seconds)
    return 0
