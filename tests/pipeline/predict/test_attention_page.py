"""The attention page: its weights are the model's, its texts are texts, and it needs nothing but itself."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from vilbert.pipeline.pages.templates import static_text
from vilbert.pipeline.predict.attention import Attention, AttentionMap, mean_maps
from vilbert.pipeline.predict.attention_page import attention_page, to_levels

from .tiny_predictor import load, write_model, write_scenes

HOSTILE = "</script><img src=x onerror=alert(1)>{{data}}&\u2028\"'"


def random_attention(*, words: int = 4, regions: int = 5, layers: int = 2, heads: int = 3) -> Attention:
    draw = np.random.default_rng(1)
    sizes = {"words": words, "regions": regions}
    sides: tuple[Any, ...] = (("words", "words"), ("words", "regions"), ("regions", "words"), ("regions", "regions"))
    maps = [
        AttentionMap(
            layer=f"layer {layer}",
            rows=rows,
            columns=columns,
            weights=draw.dirichlet(np.full(sizes[columns], 0.3), (heads, sizes[rows])).astype(np.float32),
        )
        for layer in range(layers)
        for rows, columns in sides
    ]
    corners = draw.uniform(0, 150, (regions, 2))
    return Attention(
        words=("[CLS]", *[f"word{number}" for number in range(words - 2)], "[SEP]"),
        regions=("whole image", *[f"{number} thing" for number in range(1, regions)]),
        boxes_xyxy=np.concatenate([corners, corners + draw.uniform(10, 50, (regions, 2))], axis=1).astype(np.float32),
        width=200,
        height=200,
        maps=tuple(maps),
    )


def page_of(attention: Attention, title: str = "what is it", answer: str = "a thing") -> str:
    pixels = np.full((attention.height, attention.width, 3), 90, dtype=np.uint8)
    return attention_page(attention, pixels, title=title, answer=answer)


def data_of(page: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return dict(json.loads(text))


def decode(data: dict[str, Any], number: int) -> NDArray[np.float64]:
    """Return a map's weights as the page's script computes them."""
    found = data["maps"][number]
    most = np.array(found["most"])
    shape = len(most), len(data[found["rows"]]), len(data[found["columns"]])
    levels = np.frombuffer(base64.b64decode(found["weights"]), np.uint8).reshape(shape)
    return np.asarray(levels / 255 * most[:, None, None], dtype=np.float64)


class Elements(HTMLParser):
    """Collects the tags and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@given(arrays(np.float32, (2, 3, 4), elements=st.floats(0, 1, width=32)))
def test_levels_are_near_the_weights(weights: NDArray[np.float32]) -> None:
    levels, most = to_levels(weights)
    assert np.abs(levels / 255 * most[:, None, None] - weights).max() <= 1 / 510 + 1e-6


def test_small_weights_are_as_exact_as_great_ones() -> None:
    weights = np.full((1, 1, 101), 0.01, dtype=np.float32)
    levels, most = to_levels(weights)
    assert np.allclose(levels / 255 * most[0], 0.01, atol=1e-6)


def test_the_page_holds_the_maps_of_the_model(tmp_path: Path) -> None:
    photograph = write_scenes(tmp_path / "shapes")[0]
    predictor = load(write_model(tmp_path / "run", "vqa"))
    attention = predictor.attend(photograph, ("what colour is the ring",))
    data = data_of(page_of(attention))
    assert data["words"] == list(attention.words)
    assert len(attention.maps) == 8
    for number, found in enumerate([*mean_maps(attention.maps), *attention.maps]):
        assert np.abs(decode(data, number) - found.weights).max() <= 1 / 255


def test_what_texts_hold_is_shown_and_never_run() -> None:
    attention = random_attention()
    hostile = Attention(
        words=("[CLS]", HOSTILE, "b", "[SEP]"),
        regions=("whole image", HOSTILE, *attention.regions[2:]),
        boxes_xyxy=attention.boxes_xyxy,
        width=200,
        height=200,
        maps=attention.maps,
    )
    page = page_of(hostile, title=HOSTILE, answer=HOSTILE)
    found, harmless = Elements(page), Elements(page_of(attention))
    assert [tag for tag, _ in found.tags] == [tag for tag, _ in harmless.tags]
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    assert found.text.count(HOSTILE) >= 4
    assert data_of(page)["words"][1] == HOSTILE


def test_nothing_is_fetched() -> None:
    page = page_of(random_attention())
    addresses = [
        value for _, attributes in Elements(page).tags for name, value in attributes.items() if name in ("src", "href")
    ]
    assert len(addresses) == 1
    assert str(addresses[0]).startswith("data:image/jpeg;base64,")
    assert "default-src 'none'" in page
    assert "http:" not in page
    assert "https:" not in page


def test_the_page_opens_on_cls_with_the_mean_over_layers_and_heads() -> None:
    attention = random_attention()
    tags = Elements(page_of(attention)).tags
    (chosen,) = [it for tag, it in tags if tag == "button" and "chosen" in str(it["class"])]
    assert chosen["data-n"] == "0"
    layers = [it.weights for it in attention.maps if (it.rows, it.columns) == ("words", "regions")]
    mean = np.mean(layers, axis=(0, 1))[0]
    regions = {int(str(it["data-n"])): str(it["style"]) for tag, it in tags if tag == "g"}
    shares = {at: float(re.findall(r"--w:([\d.]+)", style)[0]) for at, style in regions.items()}
    assert shares == pytest.approx({at: min(mean[at] / mean[1:].max(), 1) for at in range(len(mean))}, abs=1e-3)


def test_nothing_covers_a_region_with_attention() -> None:
    """The dimming has a hole at each region, as clear as its share of attention; boxes are outlines."""
    tags = Elements(page_of(random_attention())).tags
    holes = {int(str(it["data-n"])): it for tag, it in tags if tag == "rect" and it.get("class") == "clear"}
    drawn = {int(str(it["data-n"])): it for tag, it in tags if tag == "g"}
    assert holes.keys() == drawn.keys() - {0}
    for number, hole in holes.items():
        assert str(drawn[number]["style"]).startswith(str(hole["style"]))
    assert re.search(r"\.region rect \{ fill: transparent;", static_text("attention.css"))


def test_the_page_has_a_legend() -> None:
    text = Elements(page_of(random_attention())).text
    assert all(words in text for words in ("most attention", "dimmed: no attention", "selected"))


def test_a_model_without_coattention_opens_on_its_first_layer() -> None:
    weights = np.full((1, 4, 4), 0.25, np.float32)
    attention = replace(
        random_attention(words=4, regions=3),
        maps=(AttentionMap(layer="text layer 0", rows="words", columns="words", weights=weights),),
    )
    assert data_of(page_of(attention))["start"] == {"map": 0, "side": "words", "index": 0}


def test_a_large_model_on_a_large_photograph_stays_small() -> None:
    large = random_attention(words=36, regions=101, layers=6, heads=12)
    pixels = np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), dtype=np.uint8)
    assert len(attention_page(large, pixels, title="", answer="")) < 3_000_000


def test_a_photograph_without_regions_has_a_page() -> None:
    page = page_of(random_attention(words=2, regions=1))
    assert data_of(page)["regions"] == ["whole image"]
