"""The images of a report, with boxes drawn on them, small enough for a page in one file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vilbert.pipeline.extract.photograph import read_photograph
from vilbert.pipeline.pages.picture import photograph_uri
from vilbert.pipeline.shards.dataset import DatasetInfo, read_dataset
from vilbert.pipeline.shards.keys import sample_key
from vilbert.pipeline.shards.location.layout import data_path
from vilbert.pipeline.shards.record import read_records
from vilbert.pipeline.shards.storage.store import open_shard
from vilbert.pipeline.shards.viewing.describe import best_boxes, box_labels, labelled_boxes
from vilbert.pipeline.shards.viewing.draw import draw_regions
from vilbert.pipeline.shards.viewing.sample_place import Place, read_sample

BOXES = 10
"""Number of detected boxes to draw, highest scores first."""


class Photographs:
    """The images of a data set by image id, read from the paths or URLs of `vilbert extract`."""

    def __init__(self, directory: Path, task: Any, numbers: Iterable[int]) -> None:
        """Find the images of some items."""
        self.info = read_dataset(directory)
        wanted = {image for number in numbers for image in task.images(task.items[number])}
        self.places = find_samples(directory, self.info, wanted)
        self.read = lru_cache(maxsize=8)(self._read)
        self._directory = directory

    def _read(self, image_id: str) -> tuple[Any, Any]:
        sample = read_sample(self._directory, self.info, self.places[image_id])
        return read_photograph(sample), sample.regions

    def draw(self, image_id: str, side: int) -> str:
        """Return an image without boxes as a data URI; empty if the data set does not have it."""
        return _uri(Image.fromarray(self.read(image_id)[0]), side) if image_id in self.places else ""

    def draw_detected(self, image_id: str, side: int) -> str:
        """Return an image with the best detected boxes as a data URI."""
        pixels, regions = self.read(image_id)
        best = best_boxes(regions, BOXES)
        return _uri(
            draw_regions(pixels, labelled_boxes(regions)[best], box_labels(regions, self.info.class_names, best)), side
        )

    def draw_boxes(self, image_id: str, boxes: Mapping[str, Sequence[float]], side: int) -> str:
        """Return an image with labelled boxes as a data URI."""
        pixels = self.read(image_id)[0]
        height, width = pixels.shape[:2]
        boxes_xyxy = np.clip(np.array([*boxes.values()]), 0, [width, height, width, height]).astype(np.float32)
        drawn = draw_regions(pixels, boxes_xyxy, [*boxes])
        return _uri(drawn, side)


def _uri(image: Image.Image, side: int) -> str:
    image.thumbnail((side, side))
    return photograph_uri(np.asarray(image))


def find_samples(directory: Path, info: DatasetInfo, image_ids: Iterable[str]) -> dict[str, Place]:
    """Return the places of the images' samples that exist; each shard is opened once."""
    wanted = {sample_key(image_id): image_id for image_id in image_ids}
    found: dict[str, Place] = {}
    first = 0
    for shard, record in read_records(directory).items():
        with open_shard(data_path(directory, shard, info.storage), verify=False) as reader:
            for at, key in enumerate(reader.keys()):
                if key in wanted:
                    found[wanted[key]] = Place(first + at, shard, at)
        first += record.samples
    return found
