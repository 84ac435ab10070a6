"""The page of regions that are similar to a region."""

from __future__ import annotations

from typing import Any

from vilbert.pipeline.browse.index import IndexedSample
from vilbert.pipeline.browse.opened import OpenedDataset
from vilbert.pipeline.browse.sample_page import region_of
from vilbert.pipeline.browse.site import Site
from vilbert.pipeline.pages.templates import render


def similar_page(site: Site, dataset: OpenedDataset, found: IndexedSample, region: int) -> str:
    """Return the page of the regions most similar to a region of a sample."""
    similar = site.similar[dataset.number].find(found, region)
    rows = {row.number: row for row in dataset.index.at([it.number for it in similar.regions])}
    results: list[dict[str, Any]] = []
    for it in similar.regions:
        if it.number not in rows:
            continue
        row = rows[it.number]
        results.append(
            {"row": row, "cosine": it.cosine, **region_of(dataset.info, dataset.read(row).regions, it.region)}
        )
    return render(
        "similar.html",
        site=site,
        dataset=dataset,
        found=found,
        region=region_of(dataset.info, dataset.read(found).regions, region),
        results=results,
        similar=similar,
        title=f"Regions similar to region {region} of {found.image_id}",
    )
