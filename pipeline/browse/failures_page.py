"""The pages of failed rows: by reason, and one row with a preview of its bytes."""

from __future__ import annotations

from collections.abc import Mapping

from vilbert.manifests.uri import mask_credentials
from vilbert.pipeline.browse.filters import FilterError
from vilbert.pipeline.browse.images import Preview
from vilbert.pipeline.browse.opened import OpenedDataset
from vilbert.pipeline.browse.site import Site
from vilbert.pipeline.browse.statistics import failures
from vilbert.pipeline.pages.templates import render
from vilbert.pipeline.shards.failures import FailureRow

PAGE = 100
MAX_ROW = 2**53


def failures_page(site: Site, dataset: OpenedDataset, query: Mapping[str, str]) -> str:
    """Return the page of failed rows."""
    reason = query.get("reason") or None
    text = query.get("after", "-1")
    if not text.removeprefix("-").isdecimal() or abs(int(text)) > MAX_ROW:
        raise FilterError(f"after: is {text!r:.40}; follow the links to other pages")
    rows = dataset.index.failures(reason=reason, after=int(text), count=PAGE + 1)
    return render(
        "failures.html",
        site=site,
        dataset=dataset,
        chart=failures(dataset),
        reason=reason,
        rows=rows[:PAGE],
        masked=mask_credentials,
        later=rows[PAGE - 1].row if len(rows) > PAGE else None,
        first=int(text) < 0,
        title="Failures",
    )


def failure_page(site: Site, dataset: OpenedDataset, row: FailureRow) -> str:
    """Return the page of one failed row."""
    preview = site.photographs.preview(row.uri)
    return render(
        "failure.html",
        site=site,
        dataset=dataset,
        row=row,
        uri=mask_credentials(row.uri),
        preview=preview if isinstance(preview, Preview) else None,
        why=preview if isinstance(preview, str) else "",
        title=f"Failed row {row.row}",
    )
