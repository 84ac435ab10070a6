"""The attention page of a question about a sample, which the sample's page frames."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping

from starlette.responses import HTMLResponse

from vilbert.pipeline.browse.asking import Asking, said
from vilbert.pipeline.browse.index import IndexedSample
from vilbert.pipeline.browse.opened import OpenedDataset
from vilbert.pipeline.browse.site import Site
from vilbert.pipeline.pages.templates import static_text
from vilbert.pipeline.predict.attention_page import attention_page


def attention_response(
    site: Site, asking: Asking, dataset: OpenedDataset, found: IndexedSample, query: Mapping[str, str]
) -> HTMLResponse:
    """Return the page: one file with its own script, which its policy names by hash and which reaches nothing."""
    answered = asking.answer(dataset, found, asking.typed(query))
    html = attention_page(
        asking.attend(dataset, found, answered.text),
        site.photographs.pixels(dataset.read(found)),
        title=" / ".join(answered.text) or asking.card.task,
        answer=f"{asking.card.task}, image {found.image_id}: {said(answered)}",
    )
    digest = base64.b64encode(hashlib.sha256(str(static_text("attention.js")).encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "frame-ancestors 'self'; base-uri 'none'; form-action 'none'; sandbox allow-scripts"
    )
    return HTMLResponse(html, headers={"Content-Security-Policy": policy})
