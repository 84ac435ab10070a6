"""`vilbert stats --html`: charts of the statistics, on a page in one file that needs no network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vilbert.pipeline.pages.bars import Bar, Chart
from vilbert.pipeline.pages.templates import render
from vilbert.pipeline.shards.viewing.histogram import group_counts


def stats_page(name: str, figures: Mapping[str, Any]) -> str:
    """Return the HTML page; figures: the output of `vilbert stats --json`."""
    failures = figures["failures"]
    duplicates = figures["duplicates"]
    facts = {
        "state": "complete" if figures["complete"] else "incomplete",
        "shards": f"{figures['shards']['done']:,} of {figures['shards']['planned']:,}",
        "images": f"{figures['images']:,} of {figures['rows']:,} rows, {sum(failures.values()):,} failed",
        "size": f"{figures['bytes']:,} bytes, {figures['bytes_per_image']:,} an image",
        "copies": f"{duplicates['images']:,} images share their bytes with another",
    }
    found = [
        chart("Failures by reason", sorted(failures.items(), key=lambda item: (-item[1], item[0]))),
        chart("Images by split", [(split or "(none)", count) for split, count in figures["splits"].items()]),
        distribution("Boxes of an image", figures["boxes_per_image"]),
        distribution("Captions of an image", figures["captions_per_image"]),
        distribution("Words of a caption", figures["words_per_caption"]),
    ]
    counts = figures["object_scores"]["counts"]
    if any(counts):
        bins = len(counts)
        rows = [(f"{at / bins:.1f}-{(at + 1) / bins:.1f}", count) for at, count in enumerate(counts)]
        found.append(chart("Boxes by object score", rows))
    found.append(chart("Boxes by object class", figures["classes"]))
    return render("stats.html", title=f"Statistics of {name}", facts=facts, found=[it for it in found if it.bars])


def chart(title: str, rows: Any, note: str = "") -> Chart:
    """Return the chart of rows (label, count)."""
    return Chart(title, bars=tuple(Bar(str(label), int(count)) for label, count in rows), note=note)


def distribution(title: str, found: Mapping[str, Any]) -> Chart:
    """Return the histogram of a distribution of `vilbert stats --json`."""
    note = f"{found['min']:,} to {found['max']:,}, mean {found['mean']:.1f}"
    return chart(title, group_counts({int(number): count for number, count in found["counts"].items()}), note)
