"""The grid page: filters, a page of matching photographs with boxes, and links to neighbouring pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vilbert.pipeline.browse.filters import ANY, SORTS, FilterError, Filters
from vilbert.pipeline.browse.index import explained
from vilbert.pipeline.browse.opened import OpenedDataset
from vilbert.pipeline.browse.search import PAGE, Page
from vilbert.pipeline.browse.site import Site
from vilbert.pipeline.pages.templates import render
from vilbert.pipeline.shards.viewing.describe import name_of

MAX_PLACE = 2**62
COLOURS = 8
"""Colours of boxes in the style sheet."""


def grid_page(site: Site, dataset: OpenedDataset, query: Mapping[str, str]) -> str:
    """Return the page of a URL's query; a filter that cannot be is explained beside the form."""
    problem, filters, page = "", Filters(), Page([], [], 0, 0)
    try:
        filters = Filters.parse(query)
        page = page_of(dataset, filters, query)
    except FilterError as error:
        problem = str(error)
    cards, failed = [], []
    if filters.failure:
        failed = dataset.index.failures_at(page.numbers)
    else:
        places = zip(page.numbers, page.ranks, strict=True)
        with explained(dataset.index.folder):
            cards = [card(dataset, filters, number, rank) for number, rank in places]
    rows = dataset.index.at(page.numbers) if cards else []
    path = f"/{dataset.number}/"
    more = page.before + len(page.numbers) < page.matches
    sorts = {value: text for value, text in SORTS.items() if dataset.index.objects or not value.endswith("score")}
    return render(
        "grid.html",
        site=site,
        dataset=dataset,
        filters=filters,
        typed={name: query.get(name, "") for name in FIELDS},
        more_filters=any(query.get(name) for name in FIELDS if name not in ("caption", "object", "sort")),
        problem=problem,
        sorts=sorts,
        cards=list(zip(rows, cards, strict=True)),
        failed=failed,
        failures=sum(dataset.index.failure_counts.values()),
        query=filters.query(),
        count=page.matches,
        first=page.before + 1,
        last=page.before + len(page.numbers),
        previous=f"{path}{filters.query(until=page.ranks[0])}" if page.before else None,
        next=f"{path}{filters.query(after=page.ranks[-1])}" if more else None,
        last_page=f"{path}{filters.query(until=MAX_PLACE)}" if more else None,
        removable=removable(filters, path),
        page_size=PAGE,
        title="Photographs",
    )


FIELDS = tuple(Filters.__dataclass_fields__)
LABELS = {
    "caption": "caption",
    "object": "object",
    "attribute": "attribute",
    "split": "split",
    "same": "copies of",
    "failure": "failed:",
    "score": "score",
    "boxes": "boxes",
    "captions": "captions",
    "words": "words of a caption",
    "side": "shorter side",
}


ANY_LABELS = {"same": "images with copies", "failure": "failed images"}


def page_of(dataset: OpenedDataset, filters: Filters, query: Mapping[str, str], size: int = PAGE) -> Page:
    """Return the page that a query asks for; the last one where nothing lies behind the place that it names."""
    page = dataset.search.page(filters, **place_of(query), size=size)
    return page if page.numbers else dataset.search.page(filters, until=MAX_PLACE, size=size)


def place_of(query: Mapping[str, str]) -> dict[str, int]:
    """Return the page that a query requests: the matches after or before a position in the order."""
    for name in ("after", "until"):
        text = query.get(name, "")
        if text:
            if not text.isdecimal() or int(text) > MAX_PLACE:
                raise FilterError(f"{name}: is {text!r:.40}; follow the links to other pages")
            return {name: int(text)}
    return {}


def card(dataset: OpenedDataset, filters: Filters, number: int, rank: int) -> dict[str, Any]:
    """Return what the grid shows of a sample beside its row of the index."""
    columns = dataset.index.columns
    count = int(columns["boxes"][number])
    width, height = int(columns["width"][number]), int(columns["height"][number])
    boxes = columns["shown_boxes"][number][:count].tolist()
    objects = columns["shown_objects"][number][:count].tolist() if dataset.index.objects else [None] * len(boxes)
    names = [None if it is None else name_of(dataset.info.class_names, it) for it in objects]
    return {
        "query": filters.query(at=rank),
        "count": count,
        "width": width,
        "height": height,
        "split": dataset.index.splits[int(columns["split"][number])] if dataset.index.splits else "",
        "copies": int(columns["copies"][number]),
        "boxes": [
            {
                "x": x1,
                "y": y1,
                "width": max(x2 - x1, 0),
                "height": max(y2 - y1, 0),
                "colour": at % COLOURS,
                "name": name,
            }
            for at, ((x1, y1, x2, y2), name) in enumerate(zip(boxes, names, strict=True))
        ],
        "names": list(dict.fromkeys(name for name in names if name)),
    }


def removable(filters: Filters, path: str) -> list[tuple[str, str]]:
    """Return a description of each filter, with the URL of the page without it."""
    found = []
    for name, label in LABELS.items():
        if name in FIELDS:
            value = getattr(filters, name)
            if value:
                text = ANY_LABELS.get(name, "") if value == ANY else f"{label} {value}"
                found.append((text, path + filters.changed(**{name: ""}).query()))
            continue
        least, most = getattr(filters, f"{name}_min"), getattr(filters, f"{name}_max")
        if least is not None or most is not None:
            without = filters.changed(**{f"{name}_min": None, f"{name}_max": None})
            found.append((f"{label} {bounds(least, most)}", path + without.query()))
    return found


def bounds(least: float | None, most: float | None) -> str:
    """Return two bounds in words."""
    if least == most:
        return f"{least:g}"
    if most is None:
        return f"from {least:g}"
    return f"up to {most:g}" if least is None else f"{least:g} to {most:g}"
