"""Batches at the detector: what is halved, what is tried again, and what the journal says of it."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from vilbert.extractors.regions import Regions
from vilbert.pipeline.errors import DeviceLostError
from vilbert.pipeline.extract import turns
from vilbert.pipeline.extract.detection import Detection
from vilbert.pipeline.extract.prepare import Prepared
from vilbert.pipeline.extract.turns import Turns
from vilbert.pipeline.jobs.journal import Journal, parse_journal
from vilbert.pipeline.jobs.journals import AppendedFile
from vilbert.pipeline.shards.failures import FailureRow

from .test_turns import Stream

WITHOUT_REGIONS = Regions(
    boxes=np.zeros((0, 4), np.float32),
    features=np.zeros((0, 3), np.float16),
    object_ids=np.zeros(0, np.uint16),
    object_scores=np.zeros(0, np.float32),
    class_ids=np.zeros((0, 2), np.uint16),
    class_probs=np.zeros((0, 2), np.float16),
    width=4,
    height=4,
)


class Detector:
    """Raises these errors in turn, None for none, then no more of them; remembers how many images it was given."""

    def __init__(self, *errors: Exception | None) -> None:
        self._errors = list(errors)
        self.given: list[int] = []

    feature_dim = 3

    def resized_shape(self, height: int, width: int) -> tuple[int, int]:
        return height, width

    def extract(self, images: list[Any], boxes: list[Any]) -> list[Regions]:
        self.given.append(len(images))
        if self._errors and (error := self._errors.pop(0)):
            raise error
        return [WITHOUT_REGIONS for _ in images]


def items(number: int) -> list[Any]:
    image = SimpleNamespace(pixels=np.zeros((4, 4, 3), np.uint8))
    record = SimpleNamespace(image_id="i", uri="i.jpg")
    image_and_record: dict[str, Any] = {"image": image, "record": record}
    return [Prepared(row=row, sha256="", boxes=None, **image_and_record) for row in range(number)]


def detect(detector: Detector, device: str, journal: Journal, number: int = 4) -> list[str]:
    """Return the reasons of all rows; an image without regions is one that went well."""
    found = Detection(detector, 4, Turns(device)).detect(items(number), journal)  # type: ignore[arg-type]
    rows = [outcome for _, outcome in found]
    assert all(isinstance(row, FailureRow) for row in rows)
    return [row.reason for row in rows]


@pytest.fixture(autouse=True)
def streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_cuda_streams", lambda: [Stream(0), Stream(1)])


FULL = torch.OutOfMemoryError("CUDA out of memory.")


def test_a_batch_that_has_no_room_beside_another_is_tried_alone_before_it_is_halved() -> None:
    detector = Detector(FULL)
    assert detect(detector, "cuda", Journal()) == ["no_regions"] * 4
    assert detector.given == [4, 4]


def test_one_that_has_no_room_alone_is_halved() -> None:
    detector = Detector(FULL, FULL)
    assert detect(detector, "cuda", Journal()) == ["no_regions"] * 4
    assert detector.given == [4, 4, 2, 2]
    detector = Detector(FULL)
    assert detect(detector, "cpu", Journal()) == ["no_regions"] * 4
    assert detector.given == [4, 2, 2]


def test_a_batch_size_that_had_no_room_is_not_tried_again_at_that_shape() -> None:
    detector = Detector(FULL, FULL, FULL, FULL)
    detection = Detection(detector, 4, Turns("cuda"))  # type: ignore[arg-type]
    for number in (4, 3, 2, 1):
        assert len(list(detection.detect(items(number), Journal()))) == number
    # 4 and then 2 have no room, each beside the other shard and alone; the rest goes through one by one at once.
    assert detector.given == [4, 4, 2, 2, *[1] * 10]
    wide = items(4)
    for item in wide:
        item.image.pixels = np.zeros((4, 5, 3), np.uint8)
    detector.given.clear()
    assert len(list(detection.detect(wide, Journal()))) == 4
    assert detector.given == [4]


def test_an_image_that_has_no_room_alone_is_a_failure() -> None:
    assert detect(Detector(FULL, FULL), "cuda", Journal(), number=1) == ["out_of_memory"]


def cpu_is_full() -> Exception:
    """Return the error of PyTorch's allocator for more bytes than any machine has."""
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator") as caught:
        torch.empty(2**60, dtype=torch.uint8)
    return caught.value


def numpy_is_full() -> Exception:
    with pytest.raises(MemoryError) as caught:
        np.empty(2**60, np.uint8)
    return caught.value


def libraries_are_full() -> list[Exception]:
    return [
        RuntimeError("std::bad_alloc"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ]


class Hungry(Detector):
    """Has no memory for batches of more than `most` images, and none for one row, however it comes."""

    def __init__(self, error: Exception, *, most: int, row: int) -> None:
        super().__init__()
        self._error = error
        self._most = most
        self._row = row

    def extract(self, images: list[Any], boxes: list[Any]) -> list[Regions]:
        self.given.append(len(images))
        if len(images) > self._most or any(image[0, 0, 0] == self._row for image in images):
            raise self._error
        return [WITHOUT_REGIONS for _ in images]


@pytest.mark.parametrize("error", [FULL, cpu_is_full(), numpy_is_full(), *libraries_are_full()])
def test_an_image_that_exceeds_the_memory_of_any_device_fails_alone(error: Exception) -> None:
    detector = Hungry(error, most=2, row=5)
    batch: list[Any] = [
        replace(item, image=SimpleNamespace(pixels=np.full((4, 4, 3), item.row, np.uint8))) for item in items(8)
    ]
    found = dict(Detection(detector, 8, Turns("cpu")).detect(batch, Journal()))  # type: ignore[arg-type]
    reasons = {row: made.reason for row, made in found.items() if isinstance(made, FailureRow)}
    assert reasons == {**dict.fromkeys(range(8), "no_regions"), 5: "out_of_memory"}
    assert detector.given == [8, 4, 2, 2, 2, 1, 1, 1, 1]  # a size that failed is not tried again


def test_when_the_gpu_is_lost_the_journal_says_over_which_rows(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    lost = torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nMore of it.")
    with (
        pytest.raises(DeviceLostError, match=r"the GPU failed: CUDA error: .* encountered; run"),
        Journal(AppendedFile(path, careful=False)) as journal,
    ):
        detect(Detector(lost), "cuda", journal)
    (attempt,) = parse_journal(path.read_bytes(), range(4))
    assert attempt.detecting == {0, 1, 2, 3}
    assert not attempt.ended


@pytest.mark.parametrize(
    ("message", "reasons"),
    [
        ("CUDA error: out of memory", ["no_regions"] * 4),
        ("CUDA error: no kernel image is available for execution on the device", ["no_regions"] * 4),
    ],
)
def test_an_error_after_which_the_gpu_goes_on_halves_the_batch(message: str, reasons: list[str]) -> None:
    error = torch.AcceleratorError(message)
    assert detect(Detector(error, error), "cuda", Journal()) == reasons
    said = "out_of_memory" if "memory" in message else "detector_error"
    assert detect(Detector(error, error), "cuda", Journal(), number=1) == [said]


def test_another_error_ends_the_attempt_in_order_or_is_an_images(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(AppendedFile(path, careful=False), keep=True) as journal:
        assert detect(Detector(ValueError("a box of no width")), "cuda", journal, number=1) == ["detector_error"]
    (attempt,) = parse_journal(path.read_bytes(), range(4))
    assert (attempt.detecting, attempt.ended) == (set(), True)
