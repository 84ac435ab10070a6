"""Photographs through the detector in several threads: the same regions, in order, and nothing left changed."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vilbert.extractors.decode import DecodeSettings
from vilbert.extractors.extractor import Extractor, ExtractorSettings, build_extractor
from vilbert.extractors.regions import Regions
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.predict.photographs import DETECTOR_BATCH, detect_each, map_in_threads

from .tiny_predictor import DETECTOR, SELECTION, write_scenes


@pytest.fixture
def four_threads() -> Iterator[None]:
    """PyTorch's operators in four threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Ten photographs."""
    return write_scenes(tmp_path_factory.mktemp("scenes"))


class Watched:
    """The shapes detector, and which threads called it, with how many threads of operators and images each."""

    def __init__(self) -> None:
        self._extractor: Extractor = build_extractor(ExtractorSettings(detector=DETECTOR, selection=SELECTION))
        self.calls: list[tuple[str, int, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._extractor, name)

    def extract(self, images: Sequence[NDArray[np.uint8]], given: Sequence[None]) -> list[Regions]:
        """Return the regions of images."""
        self.calls.append((threading.current_thread().name, torch.get_num_threads(), len(images)))
        return self._extractor.extract(images, given)


def detect(extractor: Any, paths: Sequence[Path]) -> list[Regions | RefusedError]:
    """Return the regions of files."""
    named = [(str(path), path) for path in paths]
    return detect_each(extractor, named, decoding=DecodeSettings(), read=lambda path: Path(path).read_bytes())


def test_each_thread_detects_on_photographs_of_its_own(scenes: list[Path], four_threads: None) -> None:
    watched = Watched()
    found = detect(watched, scenes)
    assert torch.get_num_threads() == 4
    assert {threads for _, threads, _ in watched.calls} == {1}
    assert all(name != threading.current_thread().name for name, _, _ in watched.calls)
    assert max(images for _, _, images in watched.calls) <= DETECTOR_BATCH // 4
    torch.set_num_threads(1)
    alone = Watched()
    for one, expected in zip(found, detect(alone, scenes), strict=True):
        assert isinstance(one, Regions)
        assert isinstance(expected, Regions)
        np.testing.assert_allclose(one.boxes, expected.boxes, atol=1e-2)
        np.testing.assert_allclose(one.features, expected.features, rtol=1e-3, atol=1e-3)
    assert {name for name, _, _ in alone.calls} == {threading.current_thread().name}


def test_one_photograph_has_all_threads(scenes: list[Path], four_threads: None) -> None:
    watched = Watched()
    detect(watched, scenes[:1])
    assert [(threads, images) for _, threads, images in watched.calls] == [(4, 1)]


def test_a_file_that_is_no_image_has_its_error_in_its_place(
    tmp_path: Path, scenes: list[Path], four_threads: None
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not an image")
    found = detect(Watched(), [scenes[0], broken, scenes[1]])
    assert [type(one) for one in found] == [Regions, RefusedError, Regions]
    assert str(broken) in str(found[1])


def test_few_items_are_taken_ahead(four_threads: None) -> None:
    taken = count()
    results = map_in_threads(str, (next(taken) for _ in range(1000)), 2)
    assert list(islice(results, 5)) == ["0", "1", "2", "3", "4"]
    assert next(taken) <= 5 + 3
    results.close()  # type: ignore[attr-defined]
    assert torch.get_num_threads() == 4


def test_an_error_of_a_thread_is_raised_and_threads_are_as_before(four_threads: None) -> None:
    with pytest.raises(ZeroDivisionError):
        list(map_in_threads(lambda number: 1 // number, range(3), 2))
    assert torch.get_num_threads() == 4
