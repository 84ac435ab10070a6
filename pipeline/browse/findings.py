"""The findings of `vilbert compare` for two data sets that are browsed, computed once for each pair in the background.

Images are chosen as the command chooses them; no detector is run, so the causes are those that the features show.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import Any, NamedTuple

from vilbert.pipeline.browse.opened import OpenedDataset
from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.compare.command import compare_sets
from vilbert.pipeline.rebuild.compare.document import advice, percent, summary_rows, verdict_text
from vilbert.pipeline.rebuild.compare.settings import CompareSettings

IMAGES = 200
"""Images of a pair of data sets that are compared."""
PATIENCE = 1.0
"""Seconds that a page waits for a comparison; a longer comparison is shown after reloading the page."""


class Findings(NamedTuple):
    """The comparison of two data sets, as shown on the page."""

    verdict: str
    """identical, equal or different."""
    sentence: str
    """The verdict in words."""
    figures: list[tuple[str, str]]
    """Titles and texts."""
    causes: list[dict[str, Any]]
    """As in the JSON document of `vilbert compare`."""
    advice: list[str]
    worst: list[tuple[str, str]]
    """Image id of the most different images, and how they differ."""


class Comparisons:
    """Comparisons of pairs of data sets, each started once."""

    def __init__(self) -> None:
        self._started: dict[tuple[int, int], _Comparison] = {}
        self._lock = threading.Lock()

    def find(self, first: OpenedDataset, second: OpenedDataset) -> Findings | str | None:
        """Return the findings, or why the sets cannot be compared; None while they are being compared."""
        with self._lock:
            pair = (first.number, second.number)
            if pair not in self._started:
                self._started[pair] = _Comparison(first, second)
        return self._started[pair].result()


class _Comparison:
    """One comparison in a thread of its own, which does not keep the process alive."""

    def __init__(self, first: OpenedDataset, second: OpenedDataset) -> None:
        self._names = tuple(str(dataset.directory.resolve()) for dataset in (first, second))
        self._done = threading.Event()
        self._found: Findings | str = "the comparison ended with an error; see the terminal"
        threading.Thread(target=self._run, daemon=True).start()

    def result(self) -> Findings | str | None:
        return self._found if self._done.wait(PATIENCE) else None

    def _run(self) -> None:
        try:
            self._found = compare_directories(*self._names)
        except (ShardError, OSError, ValueError) as error:
            self._found = str(error)
        finally:
            self._done.set()


def compare_directories(first: str, second: str) -> Findings:
    """Return the findings for two data sets. ShardError if one is damaged, ValueError if both are the same."""
    if first == second:
        raise ValueError("choose two different data sets to compare their features")
    settings = CompareSettings(a=first, b=second, limit=IMAGES, diagnose=False)
    with ExitStack() as stack:
        document = compare_sets(settings, stack).document
    worst = [
        (
            image["image_id"],
            f"{percent(image['matched'])} of regions matched"
            + ("" if image["cosine"] is None else f", mean cosine {image['cosine']:.5f}"),
        )
        for image in document["worst_images"]
    ]
    figures = [(title, text) for title, text in summary_rows(document) if title != "drift"]
    causes, missing = document["causes"], list(advice(document))
    return Findings(document["verdict"], verdict_text(document), figures, causes, missing, worst)
