"""`vilbert inspect`: look at a data set, or at one of its samples, and draw its regions on the photograph."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tyro.conf import Positional

from vilbert.pipeline.shards.dataset import DatasetInfo, read_info
from vilbert.pipeline.shards.describe import (
    best_boxes,
    dataset_lines,
    describe_dataset,
    describe_sample,
    name_of,
    sample_lines,
)
from vilbert.pipeline.shards.errors import ShardError
from vilbert.pipeline.shards.folder import Folder, open_folder
from vilbert.pipeline.shards.keys import sample_key
from vilbert.pipeline.shards.layout import data_path, record_path
from vilbert.pipeline.shards.record import ShardRecord, read_records_of
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.shards.store import open_shard
from vilbert.pipeline.shards.urls import is_remote
from vilbert.pipeline.terminal import counted, one_line, print_lines
from vilbert.settings import PositiveInt, validated

PICTURES = (".png", ".jpg", ".jpeg")
FIRST_SAMPLES = 3
LISTED, DRAWN = 36, 10
"""Objects that are listed and drawn where --max-boxes does not say: more boxes hide the photograph and each other."""


@validated
class InspectSettings:
    """Look at a data set (DIR), or at one sample: DIR:N is the N-th from 0, DIR#KEY names its key or image id.

    Example: vilbert inspect features:0 --image sample.png
    """

    target: Positional[str]
    """DIR, DIR:N or DIR#KEY (quote the # in a shell); DIR may be a URL."""
    image: Path | None = None
    """Draw the sample's boxes with their labels on its photograph, into this .png or .jpg file."""
    max_boxes: PositiveInt | None = None
    """How many objects to list and to draw, the best scores first; by default 36 are listed and 10 are drawn."""
    json: bool = False
    """Print one JSON object in place of the text."""

    def __post_init__(self) -> None:
        if self.image is not None and self.image.suffix.lower() not in PICTURES:
            raise ValueError(f"--image {self.image}: give a file name that ends in {' or '.join(PICTURES)}")


class Target(NamedTuple):
    """What to look at."""

    directory: Path | str
    """A path, or a URL."""
    selector: int | str | None
    """The number of a sample, its key or image id, or None for the whole data set."""


class Place(NamedTuple):
    """Where a sample lies."""

    number: int
    """In the data set, from 0."""
    shard: int
    sample: int
    """In the shard, from 0."""


def parse_target(text: str) -> Target:
    """Return the folder and the selector of DIR, DIR:N or DIR#KEY; a folder's own name may hold : and #."""
    if is_remote(text):
        match_remote = re.fullmatch(r"([^#]+://[^#]*/[^#]*?)(?::(\d+)|#(.+))?", text, re.DOTALL)
        url, number, key = match_remote.groups() if match_remote else (text, None, None)
        return Target(url, int(number) if number else key)
    if Path(text).is_dir():
        return Target(Path(text), None)
    for match in re.finditer("#", text):
        if Path(text[: match.start()]).is_dir() and match.end() < len(text):
            return Target(Path(text[: match.start()]), text[match.end() :])
    match_number = re.fullmatch(r"(.+):(\d+)", text, re.DOTALL)
    if match_number and Path(match_number[1]).is_dir():
        return Target(Path(match_number[1]), int(match_number[2]))
    return Target(Path(text), None)


def inspect(settings: InspectSettings) -> int:
    """Print a data set or one sample, and draw the sample where asked; return 2 where none is named to draw."""
    directory, selector = parse_target(settings.target)
    folder = open_folder(directory)
    info = read_info(folder)
    records = read_records_of(folder)
    if selector is None:
        if settings.image is not None:
            print(f"--image {settings.image}: name a sample, {folder.name}:0 for the first", file=sys.stderr)
            return 2
        numbers = range(min(FIRST_SAMPLES, sum(record.samples for record in records.values())))
        first = [read_sample(directory, info, find_sample(folder, info, records, number)) for number in numbers]
        document = describe_dataset(info, records, first)
        _print(settings, document, dataset_lines(folder.name, document))
        return 0
    place = find_sample(folder, info, records, selector)
    sample = read_sample(directory, info, place)
    document = {**place._asdict(), **describe_sample(info, sample, settings.max_boxes or LISTED)}
    _print(settings, document, sample_lines(folder.name, document))
    if settings.image is not None:
        count = settings.max_boxes or DRAWN
        draw_sample(info, sample, settings.image, count)
        for line in drawn_lines(info, sample, settings.image, count):
            print(one_line(line), file=sys.stderr)
    return 0


def drawn_lines(info: DatasetInfo, sample: Sample, picture: Path, count: int) -> Iterator[str]:
    """Yield what was drawn, and which boxes these are: a label belongs to the box that the detector refined for it."""
    boxes = counted(len(sample.regions), "box", "boxes")
    yield f"drawn: {picture}, the {min(count, len(sample.regions))} best of {boxes}"
    if saved_box(info) == "proposal":
        yield (
            "  These are the boxes that the features were pooled from, the detector's proposals, as in published data "
            "sets. The labels belong to boxes refined from them, which this data set does not store; `vilbert extract "
            "--saved-box regressed` stores these instead."
        )


def saved_box(info: DatasetInfo) -> str | None:
    """Return which boxes a data set stores, proposal or regressed; None where it does not say."""
    selection = info.fingerprint_fields.get("selection")
    found = selection.get("saved_box") if isinstance(selection, Mapping) else None
    return found if isinstance(found, str) else None


def _print(settings: InspectSettings, document: dict[str, Any], lines: Iterable[str]) -> None:
    if settings.json:
        print(json.dumps(document, indent=2))
    else:
        print_lines(lines)


def find_sample(folder: Folder, info: DatasetInfo, records: dict[int, ShardRecord], selector: int | str) -> Place:
    """Return where a sample lies; raise ShardError where there is no such sample."""
    first = 0
    for shard, record in records.items():
        if isinstance(selector, int):
            if selector < first + record.samples:
                return Place(selector, shard, selector - first)
        else:
            name = data_path(Path(), shard, info.storage).as_posix()
            with folder.local([name]) as directory, open_shard(directory / name, verify=False) as reader:
                if (key := sample_key(selector)) in (keys := reader.keys()):
                    return Place(first + keys.index(key), shard, keys.index(key))
        first += record.samples
    if isinstance(selector, int):
        raise ShardError(f"{folder.name}:{selector}: the data set has {counted(first, 'sample')}, numbered from 0")
    raise ShardError(f"{folder.name}#{selector}: no sample of {first:,} has this key or image id")


def read_sample(place_of_data: Path | str, info: DatasetInfo, place: Place) -> Sample:
    """Return the sample at a place."""
    folder, name = open_folder(place_of_data), data_path(Path(), place.shard, info.storage).as_posix()
    record = record_path(Path(), place.shard).as_posix()
    with folder.local([name, record]) as directory, open_shard(directory / name) as reader:
        if place.sample >= len(reader):
            raise ShardError(
                f"{folder.name}/{name}: holds fewer samples than its record says; run `vilbert verify {folder.name}`"
            )
        return reader[place.sample]


def draw_sample(info: DatasetInfo, sample: Sample, picture: Path, max_boxes: int) -> None:
    """Draw a sample's best boxes on its photograph into the file `picture`.

    Raises ShardError where the photograph cannot be read or is not the sample's, or the picture cannot be written.
    """
    from vilbert.pipeline.shards.draw import draw_regions

    regions = sample.regions
    best = best_boxes(regions, max_boxes)
    labels = [
        f"{name_of(info.class_names, int(regions.object_ids[box]))} {regions.object_scores[box]:.2f}" for box in best
    ]
    image = draw_regions(read_photograph(sample), regions.boxes[best], labels)
    try:
        image.save(picture, quality=95, subsampling=0)  # JPEG's halved colour would smear thin lines
    except OSError as error:
        raise ShardError(f"--image {picture}: cannot be written ({error.strerror or error})") from error


def read_photograph(sample: Sample) -> NDArray[np.uint8]:
    """Return the [H, W, 3] RGB pixels that a sample's boxes lie on, turned as they were for the detector."""
    from vilbert.extractors.decode import DecodeSettings, ImageError, decode

    uri = str(sample.meta.get("uri", ""))
    data = fetch(uri) if sample.image is None else sample.image
    if sample.meta.get("sha256") not in (None, hashlib.sha256(data).hexdigest()):
        raise ShardError(f"{uri}: is not the file that the regions were extracted from, its sha256 is another")
    limits = DecodeSettings(allow_truncated=True, min_side=1, max_aspect=1e9)
    try:
        pixels = decode(data, limits, apply_orientation=bool(sample.meta.get("transposed", True))).pixels
    except ImageError as error:
        raise ShardError(f"{uri}: cannot be decoded ({error})") from error
    if pixels.shape[:2] != (sample.regions.height, sample.regions.width):
        size = f"{sample.regions.width}x{sample.regions.height}"
        raise ShardError(f"{uri}: is {pixels.shape[1]}x{pixels.shape[0]}, the regions are of a photograph of {size}")
    return pixels


def fetch(uri: str) -> bytes:
    """Return the bytes behind a record's uri; raise ShardError where they cannot be had."""
    from vilbert.extractors.decode import DecodeSettings, ImageError
    from vilbert.manifests.uri import ImageReader, mask_credentials
    from vilbert.pipeline.extract.fetch import Fetcher
    from vilbert.pipeline.extract.fetch_settings import FetchSettings

    # A data set can name any URL: it is read by the rules of `vilbert extract`, which leave private addresses alone.
    fetcher = Fetcher(FetchSettings(), ImageReader(), max_bytes=DecodeSettings().max_bytes)
    try:
        return fetcher.read(uri)
    except ImageError as error:
        what = mask_credentials(f"{uri!r} ({error.reason}: {error.detail})")
        raise ShardError(
            f"cannot read the photograph {what}; --image needs it where it was "
            "for `vilbert extract`: relative paths start at the folder you are in"
        ) from error
    finally:
        fetcher.stop()
