"""The page of statistics."""

from __future__ import annotations

from vilbert.pipeline.browse.opened import OpenedDataset
from vilbert.pipeline.browse.site import Site
from vilbert.pipeline.browse.statistics import charts
from vilbert.pipeline.pages.templates import render


def statistics_page(site: Site, dataset: OpenedDataset) -> str:
    """Return the page."""
    info, totals = dataset.info, dataset.totals
    failed = sum(totals.failures.values())
    state = "complete" if info.complete else "incomplete: run the command that wrote it again"
    each = round(totals.bytes / totals.samples) if totals.samples else 0
    facts = {
        "data set": f"{dataset.directory}: {state}",
        "shards": f"{len(dataset.records):,} of {info.shards:,}, {info.storage}",
        "images": f"{len(dataset.index.shown):,} of {info.rows:,} rows, {failed:,} failed",
        "regions": f"{dataset.index.regions:,}, {info.feature_dim:,} feature channels",
        "size": f"{totals.bytes:,} bytes, {each:,} an image",
        "manifest": info.manifest,
    }
    return render("statistics.html", site=site, dataset=dataset, facts=facts, found=charts(dataset), title="Statistics")
