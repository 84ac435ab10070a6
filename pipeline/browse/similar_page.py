"""The page of regions that are similar to a region."""

from __future__ import annotations

from typing import Any

from vilbert.pipeline.browse.index import IndexedSample
from vilbert.pipeline.browse.opened import OpenedDataset
from vilbert.pipeline.browse.sample_page import region_of
from vilbert.pipeline.browse.similar import Similar
from vilbert.pipeline.browse.site import Site
from vilbert.pipeline.pages.templates import render


def similar_page(
    site: Site, dataset: OpenedDataset, found: IndexedSample, region: int, similar: Similar | None = None
) -> str:
    """Return the page of the regions most similar to a region of a sample; without them, one that asks for them."""
    return render(
        "similar.html",
        site=site,
        dataset=dataset,
        found=found,
        region=region_of(dataset.info, dataset.read(found).regions, region),
        results=[] if similar is None else _results(dataset, similar),
        similar=similar,
        title=f"Regions similar to region {region} of {found.image_id}",
    )


def _results(dataset: OpenedDataset, similar: Similar) -> list[dict[str, Any]]:
    """Return what the page shows of the regions that were found."""
    rows = {row.number: row for row in dataset.index.at([it.number for it in similar.regions])}
    return [
        {
            "row": rows[it.number],
            "cosine": it.cosine,
            **region_of(dataset.info, dataset.read(rows[it.number]).regions, it.region),
        }
        for it in similar.regions
        if it.number in rows
    ]
