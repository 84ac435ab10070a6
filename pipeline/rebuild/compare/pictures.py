"""The most different images side by side: each set's boxes on the photograph, coloured by agreement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vilbert.extractors.regions import Regions
from vilbert.pipeline.extract.prepare import Prepared
from vilbert.pipeline.pages.picture import photograph_uri
from vilbert.pipeline.pages.templates import render
from vilbert.pipeline.rebuild.compare.detector import RunningDetector
from vilbert.pipeline.rebuild.compare.diagnosis import prepare_pair
from vilbert.pipeline.rebuild.compare.images import Images
from vilbert.pipeline.rebuild.compare.pair import ImagePair
from vilbert.pipeline.rebuild.compare.settings import CompareSettings
from vilbert.pipeline.rebuild.compare.sides import Side, class_names
from vilbert.pipeline.rebuild.compare.statistics import Totals, WorstImage
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.shards.viewing.describe import name_of

LONGEST_SIDE = 640
"""Size of a photograph in the page, in pixels."""


def draw_worst(totals: Totals, sides: tuple[Side, Side], images: Images, settings: CompareSettings) -> Iterator[str]:
    """Yield the HTML of each of the most different images, which are read again."""
    for number, worst in enumerate(totals.worst_images()):
        prepared = prepare_pair((worst.row_a, worst.row_b), sides, images)
        a, b = (read(side, row, prepared) for side, row in zip(sides, (worst.row_a, worst.row_b), strict=True))
        if a is None or b is None:
            continue
        names = (class_names(sides[0]), class_names(sides[1]))
        pair = ImagePair(
            image_id=worst.image_id,
            a=a,
            b=b,
            row_a=worst.row_a,
            row_b=worst.row_b,
            min_iou=settings.min_iou,
            names=names,
        )
        yield draw_pair(number, pair, worst, prepared, settings.min_cosine)


def read(side: Side, row: int, prepared: Prepared | None) -> Regions | None:
    """Return the regions of an image in a side; None if the image is not available to a detector."""
    if not isinstance(side, RunningDetector):
        stored = side.sample(row)
        return stored.regions if isinstance(stored, Sample) else None
    if prepared is None:
        return None
    (found,) = side.run([prepared])
    return found.regions if isinstance(found, Sample) else None


def draw_pair(number: int, pair: ImagePair, worst: WorstImage, prepared: Prepared | None, min_cosine: float) -> str:
    """Return an image's HTML. number: index of the image in the page, for the photograph that both sides share."""
    note = "" if prepared is not None else " The photograph is not at hand."
    cosine = "" if worst.cosine is None else f", mean cosine {worst.cosine:.5f}"
    return render(
        "pair.html",
        number=number,
        image_id=pair.image_id,
        note=f"{worst.matched:.1%} of regions matched{cosine}.{note}",
        width=pair.a.width,
        height=pair.a.height,
        uri=None if prepared is None else photograph_uri(prepared.image.pixels, LONGEST_SIDE),
        sides=[{"name": name, "boxes": list(boxes_of(pair, name, min_cosine))} for name in ("A", "B")],
    )


def boxes_of(pair: ImagePair, name: str, min_cosine: float) -> Iterator[Mapping[str, Any]]:
    """Yield the boxes of a side, those that agree first, so that the others are drawn on top."""
    regions, matched = (pair.a, pair.boxes.a) if name == "A" else (pair.b, pair.boxes.b)
    cosines = np.full(len(regions), np.nan)
    cosines[matched] = pair.cosines if pair.comparable else 0.0
    names = pair.names[0 if name == "A" else 1]
    kinds = ["alone" if np.isnan(value) else "equal" if value >= min_cosine else "other" for value in cosines]
    order = sorted(range(len(regions)), key=lambda at: ("equal", "other", "alone").index(kinds[at]))
    for at in order:
        x1, y1, x2, y2 = np.nan_to_num(regions.boxes[at].astype(float)).tolist()
        label = "" if regions.object_ids is None else name_of(names, int(regions.object_ids[at]))
        cosine = "no match" if kinds[at] == "alone" else f"cosine {cosines[at]:.4f}"
        yield {
            "kind": kinds[at], "x": x1, "y": y1, "width": max(x2 - x1, 0), "height": max(y2 - y1, 0),
            "title": f"{at}: {label} {cosine}",
        }  # fmt: skip
