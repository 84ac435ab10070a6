"""A page of attention weights over the photograph: one file that needs nothing else and no network.

Regions with attention stay clear, the rest of the photograph is dimmed, and boxes are outlines, so that nothing covers
what the model looks at. The page opens on [CLS] with the mean over layers and heads, which is all that it shows without
scripts.

All weights lie in the page as bytes, a share of the greatest of their head, so that it stays small.

Shapes: H heads, T word pieces, R regions with the whole image at 0.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.pages.picture import photograph_uri
from vilbert.pipeline.pages.templates import render
from vilbert.pipeline.predict.attention import Attention, AttentionMap, mean_maps
from vilbert.pipeline.shards.viewing.draw import Rectangle, place_label

LEVELS = 255
FONT = 2.8
"""Size of a label, in hundredths of the photograph's longer side."""
LONGEST_SIDE = 1120
"""Pixels of the photograph; a larger one is reduced, so that the page of a large model stays below 3 MB."""
LISTED = 6
"""Labels drawn and weights listed for what is chosen."""


class Levels(NamedTuple):
    """The weights of a map in bytes: weight = level / 255 x most, off by most / 510 at most."""

    levels: NDArray[np.uint8]
    """[H, rows, columns]."""
    most: NDArray[np.float32]
    """[H] the greatest weight of each head."""


def to_levels(weights: NDArray[np.float32]) -> Levels:
    """Return weights [H, rows, columns] from 0 up as bytes."""
    most = weights.max(axis=(1, 2)).astype(np.float32)
    whole = np.where(most > 0, most, 1)[:, None, None]
    return Levels(np.rint(weights / whole * LEVELS).astype(np.uint8), most)


def attention_page(attention: Attention, pixels: NDArray[np.uint8], *, title: str, answer: str) -> str:
    """Return the page, HTML.

    pixels: RGB [H, W, 3] of the photograph. title: what was asked; answer: what the model says. Both, and the words and
    regions, are shown as they are, whatever they hold.
    """
    maps = [*mean_maps(attention.maps), *attention.maps]
    at, row = 0, 0  # the mean of the layers in which words look at regions, where there are some, and [CLS]
    first = maps[at]
    weights = first.weights.mean(axis=0)[row]
    names = {"words": attention.words, "regions": attention.regions}
    data = {
        "words": attention.words,
        "regions": attention.regions,
        "maps": [_encode(found) for found in maps],
        "start": {"map": at, "side": first.rows, "index": row},
        "listed": LISTED,
        "font": FONT * max(attention.width, attention.height) / 100,
    }
    over_regions = weights if first.columns == "regions" else np.zeros(len(attention.regions), np.float32)
    over_words = weights if first.columns == "words" else np.zeros(len(attention.words), np.float32)
    scale = max(attention.width, attention.height) / 100
    return render(
        "attention.html",
        title=title,
        answer=answer,
        maps=maps,
        words=_words(attention, over_words, row if first.rows == "words" else None),
        boxes=_boxes(attention, over_regions, scale),
        line=f"{scale * 0.9:.2f}",
        font=f"{FONT * scale:.1f}",
        dimming=bool(over_regions.any()),
        width=attention.width,
        height=attention.height,
        photograph=photograph_uri(pixels, LONGEST_SIDE),
        chosen=f"\u201c{names[first.rows][row]}\u201d looks at",
        listed=_listed(names[first.columns], weights),
        data=data,
    )


def _encode(found: AttentionMap) -> dict[str, Any]:
    levels, most = to_levels(found.weights)
    return {
        "name": found.name,
        "rows": found.rows,
        "columns": found.columns,
        "most": [round(float(value), 6) for value in most],
        "weights": base64.b64encode(levels.tobytes()).decode(),
    }


def _words(attention: Attention, weights: NDArray[np.float32], chosen: int | None) -> list[dict[str, Any]]:
    """Return the words as buttons; chosen: the one that is shown first."""
    shares = weights / max(float(weights.max(initial=0.0)), 1e-9)
    return [
        {"text": word, "share": f"{share:.3f}", "chosen": number == chosen}
        for number, (word, share) in enumerate(zip(attention.words, shares.tolist(), strict=True))
    ]


def region_shares(weights: NDArray[Any]) -> NDArray[Any]:
    """Return weights [R] as shares, 0 to 1, of the greatest of a region; the whole image, at 0, may be clipped.

    Most heads look at the whole image far more than at any region, which would leave all regions dim.
    """
    most = weights[1:].max(initial=0.0) or weights.max()
    return np.minimum(weights / max(float(most), 1e-9), 1.0)


def largest_first(boxes_xyxy: NDArray[np.float32]) -> list[int]:
    """Return the numbers of boxes [R, 4] from the largest to the smallest."""
    areas = (boxes_xyxy[:, 2] - boxes_xyxy[:, 0]) * (boxes_xyxy[:, 3] - boxes_xyxy[:, 1])
    return [int(number) for number in np.argsort(-areas, kind="stable")]


def _boxes(attention: Attention, weights: NDArray[Any], scale: float) -> list[dict[str, Any]]:
    """Return the boxes, the largest first so that it lies below, each with its label, shown where there is room."""
    shares = region_shares(weights)
    order = np.argsort(-weights, kind="stable")[:LISTED]
    places = _label_places(attention, order[order > 0].tolist() if weights.any() else [], scale)
    boxes = []
    for number in largest_first(attention.boxes_xyxy):
        x1, y1, x2, y2 = attention.boxes_xyxy[number].tolist()
        left, bottom = places.get(number, (x1, y1))
        boxes.append({
            "number": number, "share": f"{shares[number]:.3f}", "label": attention.regions[number],
            "x": f"{x1:.1f}", "y": f"{y1:.1f}", "width": f"{x2 - x1:.1f}", "height": f"{y2 - y1:.1f}",
            "labelled": number in places, "left": f"{left:.1f}", "bottom": f"{bottom:.1f}",
        })  # fmt: skip
    return boxes


def _label_places(attention: Attention, numbers: Sequence[int], scale: float) -> dict[int, tuple[float, float]]:
    """Return where the labels of some regions begin, on their base line; a label without a free place has none."""
    taken: list[Rectangle] = []
    places = {}
    for number in numbers:
        x1, y1, x2, y2 = attention.boxes_xyxy[number].tolist()
        size = (len(attention.regions[number]) * 0.62 * FONT * scale, 1.2 * FONT * scale)
        place = place_label((x1, y1, x2, y2), size, 1, taken, (attention.width, attention.height))
        if place is not None:
            taken.append(place)
            places[number] = (place[0], place[3] - 0.3 * FONT * scale)
    return places


def _listed(names: tuple[str, ...], weights: NDArray[np.float32]) -> list[dict[str, str]]:
    """Return the largest weights with their names."""
    best = np.argsort(-weights, kind="stable")[:LISTED]
    most = max(float(weights.max()), 1e-9)
    return [
        {"weight": f"{weights[at]:.3f}", "share": f"{weights[at] / most:.3f}", "name": names[at]}
        for at in best.tolist()
    ]
