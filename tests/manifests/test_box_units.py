"""Boxes within 0..1: what is refused, and what is left alone."""

from __future__ import annotations

import pytest

from vilbert.manifests.box_units import boxes_in_pixels
from vilbert.manifests.boxes import are_fractions, within_unit
from vilbert.manifests.record import Box, ImageRecord, ManifestError
from vilbert.manifests.report import Report


def records(*images: tuple[Box, ...] | None) -> list[ImageRecord]:
    return [ImageRecord(image_id=str(i), uri=f"{i}.jpg", boxes_xyxy=boxes) for i, boxes in enumerate(images)]


def test_boxes_of_one_whole_pixel_are_no_fractions() -> None:
    report = Report()
    given = records(((0.0, 0.0, 1.0, 1.0),), None)
    assert list(boxes_in_pixels(iter(given), "t", report, None)) == given
    assert not report.counts


@pytest.mark.parametrize("fraction", [(0.0, 0.0, 1.0, 0.999), (0.25, 0.0, 1.0, 1.0)])
def test_a_single_fraction_shows_what_all_boxes_within_the_unit_square_are(fraction: Box) -> None:
    given = records(((0.0, 0.0, 1.0, 1.0),), (fraction,), None)
    with pytest.raises(ManifestError, match=r"2 images.*--box-format .*cxcywh-normalized$"):
        list(boxes_in_pixels(iter(given), "t", Report(), None))
    assert within_unit([fraction])
    assert are_fractions([fraction])


def test_no_boxes_are_no_fractions() -> None:
    assert list(boxes_in_pixels(iter(records(None, None)), "t", Report(), None)) == records(None, None)
