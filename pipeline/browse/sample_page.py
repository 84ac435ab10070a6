"""The page of one sample: photograph and boxes, regions with their scores, captions, record and place."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import numpy as np

from vilbert.extractors.regions import Regions
from vilbert.pipeline.browse.filters import FilterError, Filters
from vilbert.pipeline.browse.grid import COLOURS, FIELDS, MAX_PLACE
from vilbert.pipeline.browse.index import IndexedSample
from vilbert.pipeline.browse.opened import OpenedDataset
from vilbert.pipeline.browse.shown_regions import shown_regions
from vilbert.pipeline.browse.site import Site
from vilbert.pipeline.errors import RefusedError, ShardError
from vilbert.pipeline.pages.templates import render
from vilbert.pipeline.shards.columns.describe import values_of_sample
from vilbert.pipeline.shards.dataset import DatasetInfo
from vilbert.pipeline.shards.location.folder import LocalFolder
from vilbert.pipeline.shards.location.layout import data_path
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.shards.viewing.describe import describe_sample, labelled_boxes, name_of

MAX_VALUE = 2000
"""Characters of a column's value."""
SHOWN_REGIONS = 10
"""Regions whose boxes are drawn at first; the others when they are chosen."""


def sample_page(site: Site, dataset: OpenedDataset, found: IndexedSample, query: Mapping[str, str]) -> str:
    """Return the page of a sample within the matches of a query."""
    filters = Filters.parse(query)
    rank = query.get("at", "" if filters != Filters() else str(found.number))
    try:
        sample, problem = dataset.read(found), ""
        offset = dataset.offset(found)
    except ShardError as error:
        sample, problem, offset = None, str(error), None
    columns = dataset.index.columns
    shown = None if sample is None else shown_regions(dataset, found, sample, query.get("column", ""))
    column = "" if shown is None else shown.column
    neighbours = {}
    if rank.isdecimal() and int(rank) < MAX_PLACE:
        neighbours = beside(dataset, filters, int(rank), **({"column": column} if column else {}))
    asked = NOT_ASKED if shown is None or column else ask(site, dataset, found, query)
    values, values_problem = ({}, "") if sample is None else column_values(dataset, found)
    return render(
        "sample.html",
        site=site,
        dataset=dataset,
        found=found,
        sample=sample,
        problem=problem,
        shown=shown,
        choices={} if shown is None else choices(dataset, found, shown.columns, query),
        regions=[] if shown is None else regions_of(shown.info, shown.sample),
        has_scores=shown is not None and shown.sample.regions.object_scores is not None,
        shown_regions=SHOWN_REGIONS,
        captions=[] if sample is None else captions_of(sample),
        facts={} if sample is None else facts(dataset, found, sample, offset),
        record=None if sample is None else json.dumps(sample.meta, indent=2, ensure_ascii=False, sort_keys=True),
        fields={} if shown is None else describe_sample(shown.info, shown.sample, 0)["fields"],
        values=values,
        values_problem=values_problem,
        copies=int(columns["copies"][found.number]),
        back=f"/{dataset.number}/{filters.query()}",
        filtered=filters.active,
        neighbours=neighbours,
        kept={name: query[name] for name in (*FIELDS, "at") if query.get(name)},
        **asked,
        title=f"Sample {found.image_id}",
    )


def choices(
    dataset: OpenedDataset, found: IndexedSample, columns: Sequence[str], query: Mapping[str, str]
) -> dict[str, str]:
    """Return the pages of a sample with the regions of the data set ("") and of columns, by name of the column."""
    kept = {name: query[name] for name in (*FIELDS, "at") if query.get(name)}
    path = f"/{dataset.number}/sample/{found.key}"
    return {
        name: f"{path}?{urlencode(values)}" if (values := {**kept, **({"column": name} if name else {})}) else path
        for name in (("", *columns) if columns else ())
    }


NOT_ASKED: dict[str, Any] = {"ask": None, "ask_problem": "", "answered": None, "attention_url": ""}


def ask(site: Site, dataset: OpenedDataset, found: IndexedSample, query: Mapping[str, str]) -> dict[str, Any]:
    """Return the form that asks a model, where there is one, and its answers, where the URL has a question."""
    if site.asking is None:
        return NOT_ASKED
    from vilbert.pipeline.browse.asking import ASKED, ask_values

    shown = {**NOT_ASKED, "ask": ask_values(site.asking, query)}
    if not query.get(ASKED):
        return shown
    try:
        typed = site.asking.typed(query)
        shown["answered"] = site.asking.answer(dataset, found, typed)
    except (FilterError, RefusedError) as error:
        return {**shown, "ask_problem": str(error)}
    values = dict(zip((field.name for field in site.asking.fields), typed, strict=True))
    return {**shown, "attention_url": f"/{dataset.number}/attention/{found.key}?{urlencode(values)}"}


def beside(dataset: OpenedDataset, filters: Filters, rank: int, **more: str) -> dict[str, Any]:
    """Return the samples before and behind a place of the matches, with their URLs; those that there are.

    more: further values of the URLs.
    """
    try:
        following = dataset.search.page(filters, after=rank, size=1)
        preceding = dataset.search.page(filters, until=rank, size=1)
    except FilterError:
        return {}
    urls: dict[str, Any] = {"position": preceding.before + len(preceding.numbers) + 1, "count": following.matches}
    for name, page in (("next", following), ("previous", preceding)):
        if page.numbers:
            (neighbour,) = dataset.index.at(page.numbers)
            urls[name] = f"/{dataset.number}/sample/{neighbour.key}{filters.query(at=page.ranks[0], **more)}"
    return urls


def column_values(dataset: OpenedDataset, found: IndexedSample) -> tuple[dict[str, str], str]:
    """Return what the columns of the data set hold of a sample, as texts by name, and what is wrong with one."""
    try:
        values = values_of_sample(LocalFolder(dataset.directory), found.shard, found.key)
    except ShardError as error:
        return {}, str(error)
    texts = (it if isinstance(it, str) else json.dumps(it, ensure_ascii=False) for it in values.values())
    return dict(zip(values, (text[:MAX_VALUE] for text in texts), strict=True)), ""


def captions_of(sample: Sample) -> list[str]:
    """Return a sample's captions as texts, whatever its metadata holds in their place."""
    captions = sample.meta.get("captions", [])
    return [str(caption) for caption in captions] if isinstance(captions, list) else [str(captions)]


def facts(dataset: OpenedDataset, found: IndexedSample, sample: Sample, offset: int | None) -> dict[str, str]:
    """Return the facts about a sample, one per line."""
    regions = sample.regions
    place = data_path(dataset.directory, found.shard, dataset.info.storage)
    where = f"byte {offset:,}" if offset is not None else f"LMDB key {found.key}"
    return {
        "key": found.key,
        "image id": found.image_id,
        "split": str(sample.meta.get("split", "")) or "none",
        "size": f"{regions.width} x {regions.height} pixels",
        "regions": f"{len(regions):,}",
        "shard": f"{place}, sample {found.place}, {where}",
        "image": "kept in the shard" if sample.image is not None else str(sample.meta.get("uri", "")) or "no uri",
    }


def regions_of(info: DatasetInfo, sample: Sample) -> list[dict[str, Any]]:
    """Return the data of each region for the page, sorted by descending score, or in file order without scores."""
    regions = sample.regions
    order = np.arange(len(regions))
    if regions.object_scores is not None:
        order = np.argsort(-np.nan_to_num(regions.object_scores), kind="stable")
    return [{"colour": at % COLOURS, **region_of(info, regions, int(number))} for at, number in enumerate(order)]


def region_of(info: DatasetInfo, regions: Regions, number: int) -> dict[str, Any]:
    """Return what the page shows of one region; FilterError if it does not exist. number: its place in the arrays."""
    if number >= len(regions):
        raise FilterError(f"region: there are {len(regions)}, numbered from 0")
    drawn = labelled_boxes(regions)[number]
    box = np.nan_to_num(drawn).clip(-1e6, 1e6).tolist()
    x1, y1, x2, y2 = (round(side, 1) for side in box)
    found: dict[str, Any] = {
        "number": number,
        "box": [f"{side:.1f}" for side in drawn.tolist()],
        "pooled": None if regions.object_boxes is None else [f"{side:.1f}" for side in regions.boxes[number].tolist()],
        "x": x1,
        "y": y1,
        "width": max(round(x2 - x1, 1), 0),
        "height": max(round(y2 - y1, 1), 0),
        "area": max(x2 - x1, 0) * max(y2 - y1, 0),
        "name": None,
        "score": None,
        "attribute": None,
        "classes": [],
    }
    if regions.object_ids is not None and regions.object_scores is not None:
        found["name"] = name_of(info.class_names, int(regions.object_ids[number]))
        found["score"] = float(regions.object_scores[number])
    if regions.attribute_ids is not None and regions.attribute_scores is not None:
        found["attribute"] = name_of(info.attribute_names, int(regions.attribute_ids[number]))
        found["attribute_score"] = float(regions.attribute_scores[number])
    if regions.class_ids is not None and regions.class_probs is not None:
        found["classes"] = [
            (name_of(info.class_names, class_id), probability)
            for class_id, probability in zip(
                regions.class_ids[number].tolist(), regions.class_probs[number].tolist(), strict=True
            )
        ]
    return found
