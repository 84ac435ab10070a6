"""Photographs to regions, as `vilbert extract` makes them, for images that are asked about here and now."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vilbert.extractors.decode import DecodeSettings, ImageError, decode
from vilbert.extractors.extractor import Extractor
from vilbert.extractors.images.rgb import to_rgb, upright
from vilbert.extractors.regions import Regions
from vilbert.manifests.orientation import has_published_name
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.extract.batches import group_by_shape
from vilbert.pipeline.tasks.images import mean_weights
from vilbert.pipeline.tasks.task import Shown


class Detected(NamedTuple):
    """A photograph whose regions are known."""

    name: str
    """Its path or URL."""
    regions: Regions
    """What the detector found."""


Photograph = str | os.PathLike[str] | Image.Image | NDArray[np.uint8] | Detected
"""The path or the URL of an image file, an image of PIL, its pixels (RGB [H, W, 3]), or its regions."""

DETECTOR_BATCH = 8
"""Photographs at the detector at a time, as in `vilbert extract` by default."""
ORIENTATION = 0x0112
"""Number of the EXIF field that says how an image is turned."""


Item = TypeVar("Item")
Result = TypeVar("Result")


class ArgumentError(RefusedError, TypeError):
    """An argument of another type than the function takes; says which and what to give."""


def as_photographs(images: Iterable[Photograph], what: str = "images") -> list[Photograph]:
    """Return photographs as a list; ArgumentError where one is given in place of a list, or of a wrong type."""
    single = isinstance(images, str | bytes | os.PathLike | Image.Image | Detected)
    if single or (isinstance(images, np.ndarray) and images.ndim == 3) or not isinstance(images, Iterable):
        raise ArgumentError(
            f"{what}: is a single {type(images).__name__}; give a list of photographs, such as [photograph]"
        )
    return [as_photograph(image, f"{what}[{number}]") for number, image in enumerate(images)]


def as_photograph(image: Photograph, what: str) -> Photograph:
    """Return a photograph, a path as text; ArgumentError where it is of a wrong type. what: its name in messages."""
    if isinstance(image, str | os.PathLike) and isinstance(path := os.fspath(image), str):
        return path
    if isinstance(image, Image.Image | np.ndarray | Detected):
        return image
    raise ArgumentError(
        f"{what}: is a {type(image).__name__}; give a path, a URL, a PIL image, or RGB pixels, uint8 [H, W, 3]"
    )


def as_photograph_pairs(
    pairs: Iterable[tuple[Photograph, Photograph]], what: str
) -> list[tuple[Photograph, Photograph]]:
    """Return pairs of photographs, (left, right); ArgumentError for anything else. what: for messages."""
    if isinstance(pairs, str | bytes | os.PathLike) or not isinstance(pairs, Iterable):
        raise ArgumentError(f"{what}: give a list of pairs of photographs, such as [(left, right)]")
    checked = []
    for number, pair in enumerate(pairs):
        sides = as_photographs(pair, f"{what}[{number}]")
        if len(sides) != 2:
            raise ArgumentError(f"{what}[{number}]: has {len(sides)} photographs; give two, (left, right)")
        checked.append((sides[0], sides[1]))
    return checked


def name_of_photograph(photograph: Photograph, number: int) -> str:
    """Return what messages call a photograph: its path, or its place in the list from 0."""
    if isinstance(photograph, Detected):
        return photograph.name
    return os.fspath(photograph) if isinstance(photograph, str | os.PathLike) else f"image {number}"


def read_pixels(
    photograph: Photograph, name: str, decoding: DecodeSettings, read: Callable[[str], bytes]
) -> NDArray[np.uint8]:
    """Return RGB uint8 [H, W, 3], upright; files of COCO and Visual Genome as stored, as they are extracted.

    read: returns the bytes behind a path or URL, or raises ImageError. RefusedError naming the photograph and the
    reason where it cannot be had.
    """
    if isinstance(photograph, Detected):
        photograph = photograph.name
    if isinstance(photograph, str | os.PathLike):
        path = os.fspath(photograph)
        try:
            # As the manifest does for the same file, so that the regions are those of training.
            named = path if "://" in path else os.path.abspath(path)
            return decode(read(path), decoding, apply_orientation=not has_published_name(named)).pixels
        except ImageError as error:
            raise RefusedError(f"{name}: cannot be used as a photograph, {error}") from error
    if isinstance(photograph, Image.Image):
        return _pixels_of(photograph, name)
    if photograph.dtype != np.uint8 or photograph.ndim != 3 or photograph.shape[2] != 3 or not photograph.size:
        found = f"{photograph.dtype}{list(photograph.shape)}"
        raise RefusedError(f"{name}: is {found}; give RGB pixels, uint8[H, W, 3], or the path of a file")
    return photograph


def _pixels_of(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """Return the pixels of an image of PIL as those of its file would be: upright, alpha composited on white."""
    try:
        image.load()
        return upright(to_rgb(image), image.getexif().get(ORIENTATION, 1))
    except (OSError, ValueError, SyntaxError) as error:  # what PIL's decoders raise of files that are damaged or closed
        raise RefusedError(f"{name}: cannot be used as a photograph, {error}") from error


def detect_each(
    extractor: Extractor,
    photographs: Sequence[tuple[str, Photograph]],
    *,
    decoding: DecodeSettings,
    read: Callable[[str], bytes],
) -> list[Regions | RefusedError]:
    """Return the regions of photographs, each with its name.

    A photograph that cannot be read, or in which the detector finds nothing, has the error that says so. On a CPU, each
    thread runs the detector on photographs of its own: small operators gain little from several threads. The pixels of
    at most two times `DETECTOR_BATCH` photographs are held.
    """
    found: dict[int, Regions | RefusedError] = {}

    def read_all() -> Iterator[tuple[int, NDArray[np.uint8]]]:
        for number, (name, photograph) in enumerate(photographs):
            if isinstance(photograph, Detected):
                found[number] = photograph.regions
                continue
            try:
                pixels = read_pixels(photograph, name, decoding, read)
            except RefusedError as error:
                found[number] = error
            else:
                yield number, pixels

    def detect(batch: list[tuple[int, NDArray[np.uint8]]]) -> dict[int, Regions]:
        regions = extractor.extract([pixels for _, pixels in batch], [None] * len(batch))
        return dict(zip((number for number, _ in batch), regions, strict=True))

    threads = min(torch.get_num_threads(), DETECTOR_BATCH, sum(not isinstance(it, Detected) for _, it in photographs))
    if threads < 2 or extractor.fingerprint()["device"] != "cpu":
        threads = 1
    size = -(-DETECTOR_BATCH // threads)
    batches = group_by_shape(
        read_all(), lambda item: extractor.resized_shape(*item[1].shape[:2]), size, max_lag=DETECTOR_BATCH
    )
    for of_batch in map_in_threads(detect, batches, threads) if threads > 1 else map(detect, batches):
        found.update(of_batch)
    return [
        of_one
        if isinstance(of_one, RefusedError) or len(of_one)
        else RefusedError(f"{name}: the detector found no region")
        for of_one, (name, _) in zip((found[number] for number in range(len(photographs))), photographs, strict=True)
    ]


def map_in_threads(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Yield `function` of each item, in order, computed in threads that share the cores of PyTorch's operators.

    At most `threads` + 1 items are taken from `items` ahead of the result that is yielded.
    """
    operator_threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(operator_threads // threads,))
    try:
        with pool:
            ahead: deque[Future[Result]] = deque()
            for item in items:
                ahead.append(pool.submit(function, item))
                if len(ahead) > threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
    finally:
        torch.set_num_threads(operator_threads)  # what the pool's threads set holds for threads that start later, too


def shown(regions: Regions, name: str, *, max_regions: int) -> Shown:
    """Return the first `max_regions` regions as a task shows them."""
    boxes = regions.boxes[:max_regions]
    return Shown(
        image_id=name,
        width=regions.width,
        height=regions.height,
        boxes=boxes,
        features=regions.features[:max_regions],
        weights=mean_weights(len(boxes)),
    )
