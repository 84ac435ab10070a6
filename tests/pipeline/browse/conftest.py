"""Small data sets to browse, one of them hostile, and the site that shows them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from vilbert.pipeline.browse.command import BrowseSettings
from vilbert.pipeline.browse.server import make_app
from vilbert.pipeline.browse.site import Site
from vilbert.pipeline.shards.sample import Sample

from ..shards.conftest import SmallDataset, write_small_dataset

HOSTILE = (
    '<script>document.title="hacked"</script>',
    '"><img src=x onerror="document.title=\'hacked\'">',
    "javascript:alert(1)",
    "{{ 7 * 7 }} {% raw %} ${7*7}",
    "' OR 1=1; DROP TABLE samples; --",
    "../../../../etc/passwd",
    "‮evil\u0000 \u2028 line",
)
"""Texts that would do something where one of them is not escaped."""

Browse = Callable[..., Site]


def hostile_sample(row: int, sample: Sample) -> Sample:
    """Return the sample of a row with hostile texts wherever a text may stand."""
    text = HOSTILE[row % len(HOSTILE)]
    meta: dict[str, Any] = {**sample.meta, "captions": [text, f"photograph {row}"], "split": HOSTILE[0], text: text}
    if row == 4:
        meta["uri"] = "/etc/passwd"
        del meta["sha256"]
    return dataclasses.replace(sample, meta=meta)


def hostile_dataset(folder: Path) -> SmallDataset:
    """Write a data set of hostile captions, ids, class names, splits and file names; row 2 has no file any more."""
    made = write_small_dataset(
        folder,
        failed={6: "corrupt"},
        change=hostile_sample,
        image_id=lambda row: f"{HOSTILE[row % len(HOSTILE)]} {row}",
    )
    (folder / "images" / "2.png").unlink()
    (folder / "images" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (folder / "images" / "6.png").write_bytes(b"<html><script>alert(1)</script>")
    return made


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep indexes out of the user's cache, and do not wait for the disk."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def browse() -> Iterator[Browse]:
    """Return a function that opens data sets; they are closed at the end of the test."""
    with ExitStack() as stack:
        yield lambda *directories, **settings: stack.enter_context(
            Site.open(BrowseSettings(directories=directories, **settings))
        )


@pytest.fixture
def client_of() -> Callable[[Site], TestClient]:
    """Return a function that makes a client of a site, which the server takes for a browser on this machine."""
    return lambda site: TestClient(make_app(site), base_url="http://127.0.0.1:8000", follow_redirects=False)


@pytest.fixture(params=["tar", "lmdb"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> SmallDataset:
    """A small valid data set in either storage: 10 rows, 3 of them failed, in 3 shards."""
    return write_small_dataset(tmp_path, storage=request.param)
