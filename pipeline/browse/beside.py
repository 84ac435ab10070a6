"""Two data sets side by side: the differences of their settings, and the regions of one image in both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vilbert.extractors.agreement import box_iou, cosines
from vilbert.extractors.regions import Regions
from vilbert.pipeline.browse.filters import FilterError
from vilbert.pipeline.browse.index import IndexedSample
from vilbert.pipeline.browse.opened import OpenedDataset
from vilbert.pipeline.browse.sample_page import regions_of
from vilbert.pipeline.browse.site import Site
from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.jobs.plan import differences
from vilbert.pipeline.pages.templates import render
from vilbert.pipeline.shards.sample import Sample

MATCHING_IOU = 0.5
SEARCHED = 500
"""Samples that are looked at for the next one that both data sets have."""
SHOWN = 36


def beside_page(site: Site, query: Mapping[str, str]) -> str:
    """Return the page of two data sets and one image: `a`, `b` number the data sets, `sample` names a key."""
    if len(site.datasets) < 2:
        raise FilterError("give two data sets: vilbert browse DIR DIR")
    first, second = (chosen(site, query, name, default) for name, default in (("a", 0), ("b", 1)))
    found = first.index.find(query.get("sample", "").strip()) if query.get("sample") else None
    problem = ""
    if query.get("sample") and found is None:
        problem = f"{first.name}: no sample has the key or image id {query['sample']!r:.80}"
    if found is None and not problem:
        found = neighbour(first, second, -1, 1)
        problem = "" if found else f"none of the first {SEARCHED} samples of {first.name} is in {second.name}"
    other = None if found is None else second.index.find(found.key)
    if found is not None and other is None:
        problem = f"{second.name}: no sample has the key {found.key}"
    sides, pairing = [], {}
    if found is not None and other is not None:
        try:
            samples = first.read(found), second.read(other)
            sides = [side(*it) for it in ((first, found, samples[0]), (second, other, samples[1]))]
            pairing = compare_regions(samples[0].regions, samples[1].regions)
        except ShardError as error:
            problem = str(error)
    return render(
        "beside.html",
        site=site,
        dataset=None,
        first=first,
        second=second,
        found=found,
        problem=problem,
        sides=sides,
        pairing=pairing,
        previous=None if found is None else neighbour(first, second, found.number, -1),
        next=None if found is None else neighbour(first, second, found.number, 1),
        findings=None if first is second else site.comparisons.find(first, second),
        differences=list(differences(settings_of(first), settings_of(second))),
        title="Side by side",
    )


def chosen(site: Site, query: Mapping[str, str], name: str, default: int) -> OpenedDataset:
    """Return the data set with the index given in the query."""
    text = query.get(name, str(default))
    if not text.isdecimal() or len(text) > 6 or int(text) >= len(site.datasets):
        raise FilterError(f"{name}: is {text!r:.20}; choose a data set from 0 to {len(site.datasets) - 1}")
    return site.datasets[int(text)]


def settings_of(dataset: OpenedDataset) -> dict[str, Any]:
    """Return the fields of two dataset.json files to compare."""
    info = dataset.info
    return {
        "storage": info.storage,
        "rows": info.rows,
        "samples": info.totals.samples,
        "manifest_hash": info.manifest_hash,
        "fields": info.fields,
        "class_names": len(info.class_names),
        "attribute_names": len(info.attribute_names),
        **info.fingerprint_fields,
    }


def neighbour(first: OpenedDataset, second: OpenedDataset, number: int, step: int) -> IndexedSample | None:
    """Return the next sample of the first data set, forwards or backwards, that the second has, too."""
    numbers = range(number + step, number + step * (SEARCHED + 1), step)
    there = [at for at in numbers if 0 <= at < first.index.samples and first.index.columns["present"][at]]
    for found in first.index.at(there):
        if second.index.find(found.key) is not None:
            return found
    return None


def side(dataset: OpenedDataset, found: IndexedSample, sample: Sample) -> dict[str, Any]:
    """Return what the page shows of one data set."""
    return {
        "dataset": dataset,
        "found": found,
        "width": sample.regions.width,
        "height": sample.regions.height,
        "count": len(sample.regions),
        "regions": regions_of(dataset.info, sample)[:SHOWN],
    }


def compare_regions(first: Regions, second: Regions) -> dict[str, str]:
    """Return how the regions of one image agree, in words: boxes by IoU, and the features of matched boxes by cosine.

    Each region of the first is matched with the region of the second whose box overlaps it most.
    """
    if not len(first) or not len(second):
        return {"regions": f"{len(first)} and {len(second)}"}
    ious = box_iou(first.boxes, second.boxes)
    best = ious.argmax(axis=1)
    highest = ious[np.arange(len(first)), best]
    matched = highest >= MATCHING_IOU
    words = {
        "regions": f"{len(first)} and {len(second)}",
        "matched": f"{int(matched.sum())} of {len(first)} with an IoU of at least {MATCHING_IOU}",
        "mean IoU": f"{highest.mean():.3f} with the region that overlaps most",
    }
    if matched.any() and first.features.shape[1] == second.features.shape[1]:
        found = cosines(first.features[matched], second.features[best[matched]])
        words["cosine of matched features"] = f"mean {found.mean():.4f}, least {found.min():.4f}"
    elif matched.any():
        words["features"] = f"{first.features.shape[1]:,} and {second.features.shape[1]:,} channels"
    return words
