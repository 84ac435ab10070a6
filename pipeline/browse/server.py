"""The pages of `vilbert browse` as a Starlette application. Each page is a function of its URL alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from vilbert.pipeline.browse.beside import beside_page
from vilbert.pipeline.browse.failures_page import MAX_ROW, failure_page, failures_page
from vilbert.pipeline.browse.filters import FilterError
from vilbert.pipeline.browse.grid import grid_page
from vilbert.pipeline.browse.images import SIDES, crop, encode_jpeg
from vilbert.pipeline.browse.index import IndexedSample
from vilbert.pipeline.browse.opened import OpenedDataset
from vilbert.pipeline.browse.sample_page import sample_page
from vilbert.pipeline.browse.security import OnlyOwnPages
from vilbert.pipeline.browse.similar_page import similar_page
from vilbert.pipeline.browse.site import Site
from vilbert.pipeline.browse.statistics_page import statistics_page
from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.pages.templates import STATIC_FILES, render
from vilbert.pipeline.shards.failures import FailureRow

MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
KEEP_IMAGE = {"Cache-Control": "private, max-age=86400"}
"""URLs of images name the content of the index, so a browser may keep them."""


def make_app(site: Site) -> OnlyOwnPages:
    """Return the application."""
    handlers: dict[str, Callable[[Site, Request], Response]] = {
        "/": start,
        "/static/{name}": static,
        "/beside/": beside,
        "/{dataset:int}/": grid,
        "/{dataset:int}/sample/{key}": sample,
        "/{dataset:int}/similar/{key}/{region:int}": similar,
        "/{dataset:int}/similar/{key}/{region:int}/found": similar_found,
        "/{dataset:int}/attention/{key}": attention,
        "/{dataset:int}/statistics": statistics,
        "/{dataset:int}/failures": failures,
        "/{dataset:int}/failure/{row:int}": failure,
        "/{dataset:int}/failure/{row:int}/image": failure_image,
        "/{dataset:int}/names": names,
        "/{dataset:int}/image/{number:int}": image,
        "/{dataset:int}/crop/{number:int}/{region:int}": region_crop,
    }
    routes = [Route(path, partial(handler, site), methods=["GET"]) for path, handler in handlers.items()]
    app = Starlette(
        routes=routes,
        exception_handlers={
            HTTPException: partial(problem, site),
            FilterError: partial(problem, site),
            ShardError: partial(problem, site),
        },
    )
    return OnlyOwnPages(app)


def start(site: Site, request: Request) -> Response:
    """Show the data sets, or the only one."""
    if len(site.datasets) == 1:
        return RedirectResponse("/0/")
    return HTMLResponse(render("start.html", site=site, dataset=None))


def static(site: Site, request: Request) -> Response:
    """Send the style sheet or a script."""
    path = STATIC_FILES.get(request.path_params["name"])
    if path is None:
        raise HTTPException(404, "no such file")
    return Response(path.read_bytes(), media_type=MEDIA_TYPES[path.suffix])


def beside(site: Site, request: Request) -> Response:
    """Show two data sets side by side."""
    return HTMLResponse(beside_page(site, request.query_params))


def grid(site: Site, request: Request) -> Response:
    """Show photographs by filters."""
    dataset = of_request(site, request)
    return HTMLResponse(grid_page(site, dataset, request.query_params))


def sample(site: Site, request: Request) -> Response:
    """Show one sample."""
    dataset = of_request(site, request)
    found = dataset.index.find(request.path_params["key"])
    if found is None:
        raise HTTPException(404, "no sample has this key or image id")
    if found.key != request.path_params["key"]:
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"/{dataset.number}/sample/{found.key}{query}")
    return HTMLResponse(sample_page(site, dataset, found, request.query_params))


def similar(site: Site, request: Request) -> Response:
    """Show a region at once, and have the page ask for the regions that are similar."""
    dataset, found = sample_of(site, request)
    return HTMLResponse(similar_page(site, dataset, found, request.path_params["region"]))


def similar_found(site: Site, request: Request) -> Response:
    """Show the regions that are similar to a region: a search that reads the features of all regions."""
    (dataset, found), region = sample_of(site, request), request.path_params["region"]
    return HTMLResponse(similar_page(site, dataset, found, region, site.similar[dataset.number].find(found, region)))


def sample_of(site: Site, request: Request) -> tuple[OpenedDataset, IndexedSample]:
    """Return the data set and the sample that a URL names."""
    dataset = of_request(site, request)
    found = dataset.index.find(request.path_params["key"])
    if found is None:
        raise HTTPException(404, "no sample has this key or image id")
    return dataset, found


def attention(site: Site, request: Request) -> Response:
    """Show the attention of every layer and head for a question about a sample."""
    dataset = of_request(site, request)
    found = dataset.index.find(request.path_params["key"])
    if site.asking is None or found is None:
        raise HTTPException(404, "no model was given with --checkpoint, or no sample has this key")
    from vilbert.pipeline.browse.attention_view import attention_response

    return attention_response(site, site.asking, dataset, found, request.query_params)


def statistics(site: Site, request: Request) -> Response:
    """Show charts of a data set."""
    return HTMLResponse(statistics_page(site, of_request(site, request)))


def failures(site: Site, request: Request) -> Response:
    """Show failed rows by reason."""
    return HTMLResponse(failures_page(site, of_request(site, request), request.query_params))


def failure(site: Site, request: Request) -> Response:
    """Show one failed row."""
    return HTMLResponse(failure_page(site, of_request(site, request), failed_row(site, request), request.query_params))


def failure_image(site: Site, request: Request) -> Response:
    """Send what can be decoded of the bytes of a failed row."""
    row, side = failed_row(site, request), side_of(request)

    def make() -> bytes:
        preview = site.photographs.preview(row.uri)
        if isinstance(preview, str):
            raise ShardError(preview)
        if preview.picture is None:
            raise ShardError(preview.problem)
        return encode_jpeg(preview.picture, side)

    return jpeg(site, (request.path_params["dataset"], "failure", row.row, side), make)


def failed_row(site: Site, request: Request) -> FailureRow:
    """Return the failed row that a URL names."""
    row = request.path_params["row"]
    found = of_request(site, request).index.failure(row) if row < MAX_ROW else None
    if found is None:
        raise HTTPException(404, "no such failed row")
    return found


def names(site: Site, request: Request) -> Response:
    """Send the names of classes and attributes, which the filters suggest."""
    info = of_request(site, request).info
    document = {"object": list(dict.fromkeys(info.class_names)), "attribute": list(dict.fromkeys(info.attribute_names))}
    return JSONResponse(document, headers=KEEP_IMAGE)


def image(site: Site, request: Request) -> Response:
    """Send a sample's photograph, or an error message as text."""
    dataset, found, side = of_request(site, request), numbered(site, request), side_of(request)

    def make() -> bytes:
        return encode_jpeg(site.photographs.pixels(dataset.read(found)), side)

    return jpeg(site, (dataset.number, found.number, side), make)


def region_crop(site: Site, request: Request) -> Response:
    """Send the part of a sample's photograph inside a region, or an error message as text."""
    dataset, found, side = of_request(site, request), numbered(site, request), side_of(request)
    region = request.path_params["region"]

    def make() -> bytes:
        whole = dataset.read(found)
        if region >= len(whole.regions):
            raise HTTPException(404, f"there are {len(whole.regions)} regions, numbered from 0")
        return encode_jpeg(crop(site.photographs.pixels(whole), whole.regions.boxes[region]), side)

    return jpeg(site, (dataset.number, found.number, region, side), make)


def jpeg(site: Site, key: tuple[object, ...], make: Callable[[], bytes]) -> Response:
    """Send a JPEG that was kept or is made now; where it cannot be made, the reason as text."""
    data = site.photographs.kept(key)
    if data is None:
        try:
            data = site.photographs.keep(key, make())
        except ShardError as error:
            return PlainTextResponse(str(error), 404)
    return Response(data, media_type="image/jpeg", headers=KEEP_IMAGE)


def of_request(site: Site, request: Request) -> OpenedDataset:
    """Return the data set that a URL names."""
    number: int = request.path_params["dataset"]
    if number >= len(site.datasets):
        raise HTTPException(404, f"there are {len(site.datasets)} data sets, numbered from 0")
    return site.datasets[number]


def numbered(site: Site, request: Request) -> IndexedSample:
    """Return the sample whose number a URL names."""
    dataset, number = of_request(site, request), request.path_params["number"]
    found = dataset.index.at([number]) if number < dataset.index.samples else []
    if not found:
        raise HTTPException(404, f"there are {dataset.index.samples:,} samples, numbered from 0")
    return found[0]


def side_of(request: Request) -> int:
    """Return the longer side, in pixels, that a URL asks for."""
    text = request.query_params.get("side", str(SIDES[-1]))
    if text not in map(str, SIDES):
        raise HTTPException(400, f"side: give one of {', '.join(map(str, SIDES))}")
    return int(text)


def problem(site: Site, request: Request, error: Exception) -> Response:
    """Show what is wrong with a request."""
    status = error.status_code if isinstance(error, HTTPException) else 400 if isinstance(error, FilterError) else 500
    text = str(error.detail) if isinstance(error, HTTPException) else str(error)
    number = request.path_params.get("dataset") if "path_params" in request.scope else None
    dataset = site.datasets[number] if isinstance(number, int) and number < len(site.datasets) else None
    page: Any = render("problem.html", site=site, dataset=dataset, text=text, status=status, title="Problem")
    return HTMLResponse(page, status)
