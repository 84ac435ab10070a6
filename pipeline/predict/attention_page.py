"""A page of attention weights over the photograph: one file that needs nothing else and no network.

Regions with attention stay clear, the rest of the photograph is dimmed, and boxes are outlines, so that nothing covers
what the model looks at. The page opens on [CLS] with the mean over layers and heads, which is all that it shows without
scripts.

All weights lie in the page as bytes, a share of the greatest of their head, so that it stays small.

Shapes: H heads, T word pieces, R regions with the whole image at 0.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.pages.picture import photograph_uri
from vilbert.pipeline.predict.attention import Attention, AttentionMap, mean_maps
from vilbert.pipeline.predict.attention_script import SCRIPT, STYLE
from vilbert.pipeline.shards.viewing.draw import Rectangle, place_label

LEVELS = 255
FONT = 2.8
"""Size of a label, in hundredths of the photograph's longer side."""
LISTED = 6
"""Labels drawn and weights listed for what is chosen."""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{title}}</title>
<style>{{style}}</style>
</head>
<body>
<h1>{{title}}</h1>
<p>{{answer}}</p>
<p class="how">Choose a layer, a head, and a word or a region. Regions with the most attention stay clear; the rest of
the photograph is dimmed. Layers come in the order in which the model runs them.</p>
<p class="controls">
<label>Layer <select id="map">{{map_options}}</select></label>
<label>Head <select id="head"><option value="-1">mean of all</option></select></label>
</p>
<p id="words">{{words}}</p>
<div class="columns">
<figure>
<svg id="picture" viewBox="0 0 {{width}} {{height}}" role="group" aria-label="the photograph and its regions">
<mask id="looked-at" maskUnits="userSpaceOnUse" x="0" y="0" width="{{width}}" height="{{height}}">
<rect width="{{width}}" height="{{height}}" fill="#fff"/>
{{clear}}
</mask>
<image href="{{photograph}}" width="{{width}}" height="{{height}}"/>
<rect id="dim" class="{{dim}}" width="{{width}}" height="{{height}}" mask="url(#looked-at)"/>
{{regions}}
</svg>
<figcaption class="legend">
<span><svg viewBox="0 0 40 16" aria-hidden="true"><rect class="most" x="3" y="3" width="34" height="10"/></svg>
most attention</span>
<span><svg viewBox="0 0 40 16" aria-hidden="true"><rect class="least" x="3" y="3" width="34" height="10"/></svg>
little attention</span>
<span><svg viewBox="0 0 40 16" aria-hidden="true"><rect class="dimmed" width="40" height="16"/></svg>
dimmed: no attention</span>
<span><svg viewBox="0 0 40 16" aria-hidden="true"><rect class="selected" x="3" y="3" width="34" height="10"/></svg>
selected</span>
</figcaption>
</figure>
<div class="aside">
<h2 id="chosen">{{chosen}}</h2>
<table id="listed"><tbody>{{listed}}</tbody></table>
</div>
</div>
<h2 id="matrix-title"></h2>
<div class="wide"><canvas id="matrix"></canvas></div>
<noscript><p>Other words, layers and heads need scripts, which are switched off here.</p></noscript>
<script type="application/json" id="data">{{data}}</script>
<script>{{script}}</script>
</body>
</html>
"""


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
    parts = {
        "title": escape(title),
        "answer": escape(answer),
        "style": STYLE,
        "script": SCRIPT,
        "map_options": "".join(
            f'<option value="{number}"{" selected" if number == at else ""}>{escape(found.name)}</option>'
            for number, found in enumerate(maps)
        ),
        "words": _words(attention, first, row, weights),
        "regions": _regions(attention, over_regions),
        "clear": _clear(attention, over_regions),
        "dim": "dimming" if over_regions.any() else "",
        "width": str(attention.width),
        "height": str(attention.height),
        "photograph": photograph_uri(pixels),
        "chosen": escape(f"“{names[first.rows][row]}” looks at"),
        "listed": _listed(names[first.columns], weights),
        # A text may hold </script>; in JSON any character may be written as its number.
        "data": re.sub(r"[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", json.dumps(data)),
    }
    # One pass, so that nothing in a text is taken for a place to fill.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _PAGE)


def _encode(found: AttentionMap) -> dict[str, Any]:
    levels, most = to_levels(found.weights)
    return {
        "name": found.name,
        "rows": found.rows,
        "columns": found.columns,
        "most": [round(float(value), 6) for value in most],
        "weights": base64.b64encode(levels.tobytes()).decode(),
    }


def _words(attention: Attention, found: AttentionMap, row: int, weights: NDArray[np.float32]) -> str:
    shares = weights / max(float(weights.max()), 1e-9) if found.columns == "words" else np.zeros(len(attention.words))
    return " ".join(
        f'<button class="word{" chosen" if found.rows == "words" and number == row else ""}" data-n="{number}" '
        f'style="--w:{share:.3f}">{escape(word)}</button>'
        for number, (word, share) in enumerate(zip(attention.words, shares.tolist(), strict=True))
    )


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


def _clear(attention: Attention, weights: NDArray[Any]) -> str:
    """Return the part of the mask that keeps regions clear, the more attention the clearer."""
    shares = region_shares(weights)
    rows = []
    for number in largest_first(attention.boxes_xyxy):
        if number == 0:
            continue
        x1, y1, x2, y2 = attention.boxes_xyxy[number].tolist()
        rows.append(
            f'<rect class="clear" data-n="{number}" style="--w:{shares[number]:.3f}" x="{x1:.1f}" y="{y1:.1f}" '
            f'width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"/>'
        )
    return "\n".join(rows)


def _regions(attention: Attention, weights: NDArray[Any]) -> str:
    """Return the boxes, the largest below, each with its label, which those that matter show where there is room."""
    scale = max(attention.width, attention.height) / 100
    shares = region_shares(weights)
    boxes = attention.boxes_xyxy
    order = np.argsort(-weights, kind="stable")[:LISTED]
    places = _label_places(attention, order[order > 0].tolist() if weights.any() else [], scale)
    drawn, labels = [], []
    for number in largest_first(boxes):
        x1, y1, x2, y2 = boxes[number].tolist()
        left, bottom = places.get(number, (x1, y1))
        label = escape(attention.regions[number])
        drawn.append(
            f'<g class="region{" whole" if number == 0 else ""}" data-n="{number}" tabindex="0" '
            f'style="--w:{shares[number]:.3f};--line:{scale * 0.9:.2f}px">'
            f"<title>{label}</title>"
            f'<rect x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"/></g>'
        )
        labels.append(
            f'<text class="label{" there" if number in places else ""}" data-n="{number}" x="{left:.1f}" '
            f'y="{bottom:.1f}" font-size="{FONT * scale:.1f}">{label}</text>'
        )
    return "\n".join(drawn + labels)  # no box lies over a label


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


def _listed(names: tuple[str, ...], weights: NDArray[np.float32]) -> str:
    best = np.argsort(-weights, kind="stable")[:LISTED]
    most = max(float(weights.max()), 1e-9)
    return "".join(
        f'<tr><td class="number">{weights[at]:.3f}</td><td><span class="bar" style="--w:{weights[at] / most:.3f}">'
        f"</span></td><td>{escape(names[at])}</td></tr>"
        for at in best.tolist()
    )
