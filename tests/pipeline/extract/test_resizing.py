"""A detector that resizes on the CPU does it in the threads that decode, and nothing else changes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vilbert.extractors.batch import ResizedImage
from vilbert.extractors.extractor import ExtractorSettings, build_extractor
from vilbert.extractors.regions import Regions
from vilbert.pipeline.extract import worker
from vilbert.pipeline.extract.run import extract
from vilbert.pipeline.extract.settings import ExtractSettings

from .conftest import contents


class Resizing:
    """An extractor with `resize`, which fails on images that `fails` names."""

    def __init__(self, extractor: Any, fails: Callable[[NDArray[np.uint8]], bool]) -> None:
        self._extractor, self._fails = extractor, fails
        self.threads: set[str] = set()
        self.resized = self.images = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._extractor, name)

    def resize(self, image: NDArray[np.uint8]) -> ResizedImage:
        self.threads.add(threading.current_thread().name.partition("_")[0])
        if self._fails(image):
            raise MemoryError("no room")
        return ResizedImage(stored=(image.shape[0], image.shape[1]), pixels=torch.from_numpy(image))

    def extract(self, images: Sequence[NDArray[np.uint8] | ResizedImage], boxes: Sequence[Any]) -> list[Regions]:
        self.resized += sum(isinstance(image, ResizedImage) for image in images)
        self.images += len(images)
        ready = [image if isinstance(image, ResizedImage) else self.resize(image) for image in images]
        regions: list[Regions] = self._extractor.extract([image.pixels.numpy() for image in ready], boxes)
        return regions


def with_resizing(
    settings: ExtractSettings, monkeypatch: pytest.MonkeyPatch, fails: Callable[[NDArray[np.uint8]], bool]
) -> Resizing:
    """Extract with the settings' detector, which resizes; return it."""
    made = Resizing(build_extractor(ExtractorSettings(detector=settings.detector, selection=settings.selection)), fails)
    monkeypatch.setattr(worker, "build_extractor", lambda settings: made)
    assert extract(settings) == 0
    return made


def test_decoding_threads_resize_and_the_bytes_are_the_same(
    settings_for: Callable[..., ExtractSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, ahead = settings_for("plain"), settings_for("ahead")
    assert extract(plain) == 0
    detector = with_resizing(ahead, monkeypatch, lambda image: False)
    assert detector.threads == {"decode"}
    assert detector.resized == detector.images == 19
    assert contents(plain.output) == contents(ahead.output)


def test_an_image_that_cannot_be_resized_fails_alone(
    settings_for: Callable[..., ExtractSettings], monkeypatch: pytest.MonkeyPatch, images: Path
) -> None:
    from PIL import Image

    wrong = np.asarray(Image.open(images / "scene05.png").convert("RGB"))
    settings = settings_for("features")
    with_resizing(settings, monkeypatch, lambda image: np.array_equal(image, wrong))
    lines = [line for path in (settings.output / "failures").iterdir() for line in path.read_text().splitlines()]
    assert [line for line in lines if "scene05" in line and "out_of_memory" in line]
    assert len(lines) == 4
