"""`vilbert inspect`: describe a data set or one of its samples, and draw the regions on the image."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tyro.conf import Positional

from vilbert.pipeline.errors import RefusedError, ShardError
from vilbert.pipeline.shards.columns.describe import describe_columns, region_columns, values_of_sample, with_regions
from vilbert.pipeline.shards.dataset import DatasetInfo, read_info
from vilbert.pipeline.shards.location.folder import Folder, open_folder, what_is_there
from vilbert.pipeline.shards.location.layout import DATASET_FILE
from vilbert.pipeline.shards.record import read_records_of
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.shards.viewing.describe import (
    best_boxes,
    box_labels,
    dataset_lines,
    describe_dataset,
    describe_sample,
    labelled_boxes,
    sample_lines,
)
from vilbert.pipeline.shards.viewing.sample_place import find_sample, read_sample
from vilbert.pipeline.terminal import counted, one_line, print_lines
from vilbert.pipeline.urls import is_remote
from vilbert.settings import PositiveInt, validated

PICTURES = (".png", ".jpg", ".jpeg")
FIRST_SAMPLES = 3
LISTED, DRAWN = 36, 10
"""Default numbers of listed and drawn objects; more boxes would hide the image and each other."""


@validated
class InspectSettings:
    """Show a data set (DIR) or one sample: DIR:N by index, starting at 0; DIR#KEY by key or image id.

    For published features in another format, print the format, its available fields and its missing fields.

    Example: vilbert inspect features:0 --image sample.png
    """

    target: Positional[str]
    """DIR, DIR:N or DIR#KEY (quote the # in a shell); DIR may be a URL, or published features in another format."""
    image: Path | None = None
    """Write the sample's image with boxes and labels to this .png or .jpg file."""
    column: str | None = None
    """Show and draw the sample's regions from this column instead of those of the data set."""
    max_boxes: PositiveInt | None = None
    """Number of objects to list and draw, highest scores first; default: 36 listed, 10 drawn."""
    json: bool = False
    """Print one JSON object instead of text."""

    def __post_init__(self) -> None:
        if self.image is not None and self.image.suffix.lower() not in PICTURES:
            raise ValueError(f"--image {self.image}: give a file name that ends in {' or '.join(PICTURES)}")


class Target(NamedTuple):
    """A data set, and optionally one of its samples."""

    directory: Path | str
    """A path, or a URL."""
    selector: int | str | None
    """Index of a sample, its key or image id; None for the whole data set."""


def parse_target(text: str) -> Target:
    """Split DIR, DIR:N or DIR#KEY into folder and selector; the folder's name may contain `:` and `#`."""
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
    """Print a data set or one sample and draw it if requested; return 2 if --image is given without a sample."""
    directory, selector = parse_target(settings.target)
    if isinstance(directory, Path) and selector is None and not (directory / DATASET_FILE).is_file():
        status = inspect_published(settings, directory)
        if status is not None:
            return status
    folder = open_folder(directory)
    info = read_info(folder)
    records = read_records_of(folder)
    if selector is None:
        if settings.image is not None or settings.column is not None:
            option = f"--image {settings.image}" if settings.image is not None else f"--column {settings.column}"
            print(f"{option}: name a sample, {folder.name}:0 for the first", file=sys.stderr)
            return 2
        numbers = range(min(FIRST_SAMPLES, sum(record.samples for record in records.values())))
        first = [read_sample(directory, info, find_sample(folder, info, records, number)) for number in numbers]
        document = describe_dataset(info, records, first, describe_columns(folder, info))
        _print(settings, document, dataset_lines(folder.name, document))
        return 0
    place = find_sample(folder, info, records, selector)
    sample = read_sample(directory, info, place)
    regions, shown = (info, sample)
    if settings.column is not None:
        regions, shown = regions_of_column(folder, settings.column, place.shard, sample)
    document = {
        **place._asdict(),
        **describe_sample(regions, shown, settings.max_boxes or LISTED),
        "columns": values_of_sample(folder, place.shard, sample.key),
    }
    _print(settings, document, sample_lines(folder.name, document))
    if settings.image is not None:
        count = settings.max_boxes or DRAWN
        draw_sample(regions, shown, settings.image, count)
        for line in drawn_lines(regions, shown, settings.image, count):
            print(one_line(line), file=sys.stderr)
    return 0


def regions_of_column(folder: Folder, name: str, shard: int, sample: Sample) -> tuple[DatasetInfo, Sample]:
    """Return the dataset.json of a region column, and the sample with the regions of that column.

    Raises:
        RefusedError: The column does not exist, or has no regions for the sample.
    """
    columns = region_columns(folder)
    column = columns.get(name)
    if column is None or column.regions is None:
        there = ", ".join(columns) or "none"
        raise RefusedError(
            f"--column {name}: {folder.name} has no finished region column with this name; available: {there}"
        )
    found = with_regions(folder, column, shard, sample)
    if found is None:
        raise RefusedError(f"--column {name}: {folder.name}: the column has no regions for {sample.key}")
    return column.regions, found


def inspect_published(settings: InspectSettings, path: Path) -> int | None:
    """Describe a file or folder of published features; return None if the path does not exist.

    The exit status is 1 if the features cannot be imported without changes.

    Raises:
        ShardError: No format is recognised.
    """
    from vilbert.pipeline.rebuild.formats.describe import describe_published, published_lines
    from vilbert.pipeline.rebuild.formats.detect import unrecognised

    if not path.exists():
        return None
    document = describe_published(path)
    if document is None:
        reason = str(unrecognised(path)).removeprefix(f"{path}: ")
        raise ShardError(f"{path}: {what_is_there(open_folder(path))}. As published features: {reason}")
    if settings.image is not None:
        print(f"--image {settings.image}: give a data set; convert {path} first", file=sys.stderr)
        return 2
    _print(settings, document, published_lines(path, document))
    return 1 if "problem" in document else 0


def drawn_lines(info: DatasetInfo, sample: Sample, picture: Path, count: int) -> Iterator[str]:
    """Yield lines about the drawn boxes, and a note if they are proposals: labels belong to the refined boxes."""
    boxes = counted(len(sample.regions), "box", "boxes")
    yield f"drawn: {picture}, the {min(count, len(sample.regions))} best of {boxes}"
    if sample.regions.object_boxes is None and saved_box(info) == "proposal":
        yield (
            "  These are the boxes that the features were pooled from, the detector's proposals, as in published data "
            "sets. The labels belong to boxes refined from them, which this data set does not store; `vilbert extract "
            "--saved-box both` stores them too."
        )


def saved_box(info: DatasetInfo) -> str | None:
    """Return which boxes a data set stores (the value of --saved-box); None if it is not recorded."""
    extractor = info.fingerprint_fields.get("extractor")
    selection = extractor.get("selection") if isinstance(extractor, Mapping) else None
    found = selection.get("saved_box") if isinstance(selection, Mapping) else None
    return found if isinstance(found, str) else None


def _print(settings: InspectSettings, document: dict[str, Any], lines: Iterable[str]) -> None:
    if settings.json:
        print(json.dumps(document, indent=2))
    else:
        print_lines(lines)


def draw_sample(info: DatasetInfo, sample: Sample, picture: Path, max_boxes: int) -> None:
    """Draw a sample's highest-scoring boxes on its image and save the result to `picture`.

    Raises:
        ShardError: The image cannot be read or is not that of the sample, or the picture cannot be written.
    """
    from vilbert.pipeline.extract.photograph import read_photograph
    from vilbert.pipeline.shards.viewing.draw import draw_regions

    regions = sample.regions
    best = best_boxes(regions, max_boxes)
    labels = box_labels(regions, info.class_names, best)
    image = draw_regions(read_photograph(sample), labelled_boxes(regions)[best], labels)
    try:
        image.save(picture, quality=95, subsampling=0)  # JPEG's halved colour would smear thin lines
    except OSError as error:
        raise ShardError(f"--image {picture}: cannot be written ({error.strerror or error})") from error
