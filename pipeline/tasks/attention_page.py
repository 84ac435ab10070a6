"""A page that shows who looks at whom, on the photograph: one file that needs nothing else and no network.

All weights lie in the page as bytes, a share of the greatest of their head, so that it stays small. Without scripts it
shows one word and where it looks in the last co-attention layer.

Shapes: H heads, T word pieces, R regions with the whole image at 0.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.shards.draw import Rectangle, place_label
from pipeline.tasks.attention import Attention, AttentionMap, default_map
from pipeline.tasks.attention_script import SCRIPT, STYLE

LEVELS = 255
LONGEST_SIDE = 1280
"""Pixels of the photograph in the page; a larger one is reduced."""
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
<p class="how">Choose a layer, a head, and a word or a region: what it looks at is shaded, darkest where it looks most.
Layers come in the order in which the model runs them.</p>
<p class="controls">
<label>Layer <select id="map">{{map_options}}</select></label>
<label>Head <select id="head"><option value="-1">mean of all</option></select></label>
</p>
<p id="words">{{words}}</p>
<div class="columns">
<svg id="picture" viewBox="0 0 {{width}} {{height}}" role="img" aria-label="the photograph and its regions">
<image href="{{photograph}}" width="{{width}}" height="{{height}}"/>
{{regions}}
</svg>
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
    at = default_map(attention.maps)
    first = attention.maps[at]
    mean = first.weights.mean(axis=0)
    row = _telling_row(first, mean, attention.words)
    weights = mean[row]
    names = {"words": attention.words, "regions": attention.regions}
    data = {
        "words": attention.words,
        "regions": attention.regions,
        "maps": [_encode(found) for found in attention.maps],
        "start": {"map": at, "side": first.rows, "index": row},
        "listed": LISTED,
        "font": FONT * max(attention.width, attention.height) / 100,
    }
    parts = {
        "title": escape(title),
        "answer": escape(answer),
        "style": STYLE,
        "script": SCRIPT,
        "map_options": "".join(
            f'<option value="{number}"{" selected" if number == at else ""}>{escape(found.name)}</option>'
            for number, found in enumerate(attention.maps)
        ),
        "words": _words(attention, first, row, weights),
        "regions": _regions(attention, weights if first.columns == "regions" else np.zeros(len(attention.regions))),
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


def photograph_uri(pixels: NDArray[np.uint8]) -> str:
    """Return a photograph as a data URI, reduced where it is large."""
    image = Image.fromarray(pixels)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _telling_row(found: AttentionMap, mean: NDArray[np.float32], words: Sequence[str]) -> int:
    """Return the row that looks most at one thing, the whole image aside; no special token, no punctuation."""
    inside = mean[1:-1, 1:] if found.rows == "words" and len(mean) > 2 else mean[1:, 1:]
    if not inside.size:
        return 0
    most = inside.max(axis=1)
    if found.rows == "words":
        spelled = [any(map(str.isalnum, word)) for word in words[1 : len(most) + 1]]
        most = np.where(spelled, most, -1)
    return 1 + int(most.argmax())


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


def _regions(attention: Attention, weights: NDArray[Any]) -> str:
    """Return the boxes, the largest below, each with its label, which those that matter show where there is room."""
    scale = max(attention.width, attention.height) / 100
    shares = weights / max(float(weights.max()), 1e-9)
    boxes = attention.boxes_xyxy
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = np.argsort(-weights, kind="stable")[:LISTED]
    places = _label_places(attention, order[order > 0].tolist() if weights.any() else [], scale)
    drawn, labels = [], []
    for number in np.argsort(-areas, kind="stable").tolist():
        x1, y1, x2, y2 = boxes[number].tolist()
        left, bottom = places.get(number, (x1, y1))
        label = escape(attention.regions[number])
        drawn.append(
            f'<g class="region{" whole" if number == 0 else ""}" data-n="{number}" tabindex="0" '
            f'style="--w:{shares[number]:.3f};--line:{scale * (1.6 if number == 0 else 0.6):.2f}px">'
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
