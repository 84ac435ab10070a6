"""The pages of failed rows: a table by reason, and one row with a preview of its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vilbert.manifests.uri import mask_credentials
from vilbert.pipeline.browse.filters import ANY, FilterError, Filters
from vilbert.pipeline.browse.grid import page_of
from vilbert.pipeline.browse.images import Preview
from vilbert.pipeline.browse.opened import OpenedDataset
from vilbert.pipeline.browse.site import Site
from vilbert.pipeline.browse.statistics import failures
from vilbert.pipeline.pages.templates import render
from vilbert.pipeline.shards.failures import FailureRow

PAGE = 100
MAX_ROW = 2**53


def failures_page(site: Site, dataset: OpenedDataset, query: Mapping[str, str]) -> str:
    """Return the table of failed rows, of all reasons or that of the query."""
    filters = Filters(failure=Filters.parse(query).failure or ANY)
    page = page_of(dataset, filters, query, PAGE)
    path, more = f"/{dataset.number}/failures", page.before + len(page.numbers) < page.matches
    return render(
        "failures.html",
        site=site,
        dataset=dataset,
        chart=failures(dataset, path),
        reason=None if filters.failure == ANY else filters.failure,
        rows=dataset.index.failures_at(page.numbers),
        masked=mask_credentials,
        count=page.matches,
        first=page.before + 1,
        last=page.before + len(page.numbers),
        tiles=f"/{dataset.number}/{filters.query()}",
        query=filters.query(),
        previous=f"{path}{filters.query(until=page.ranks[0])}" if page.before else None,
        next=f"{path}{filters.query(after=page.ranks[-1])}" if more else None,
        title="Failures",
    )


def failure_page(site: Site, dataset: OpenedDataset, row: FailureRow, query: Mapping[str, str]) -> str:
    """Return the page of one failed row within those of a query."""
    preview = site.photographs.preview(row.uri)
    filters = Filters(failure=Filters.parse(query).failure or ANY)
    return render(
        "failure.html",
        site=site,
        dataset=dataset,
        row=row,
        uri=mask_credentials(row.uri),
        preview=preview if isinstance(preview, Preview) else None,
        why=preview if isinstance(preview, str) else "",
        back=f"/{dataset.number}/{filters.query()}",
        neighbours=beside(dataset, filters, row.row),
        title=f"Failed row {row.row}",
    )


def beside(dataset: OpenedDataset, filters: Filters, row: int) -> dict[str, Any]:
    """Return the position of a failed row among those of a filter, and the URLs of the rows beside it."""
    try:
        following = dataset.search.page(filters, after=row, size=1)
        preceding = dataset.search.page(filters, until=row, size=1)
    except FilterError:
        return {}
    urls: dict[str, Any] = {"position": preceding.before + len(preceding.numbers) + 1, "count": following.matches}
    for name, page in (("next", following), ("previous", preceding)):
        if page.numbers:
            urls[name] = f"/{dataset.number}/failure/{page.numbers[0]}{filters.query()}"
    return urls
