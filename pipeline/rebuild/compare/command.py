"""`vilbert compare`: compare two feature sets of the same images region by region."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Any, NamedTuple

from vilbert.pipeline.errors import OutputError
from vilbert.pipeline.rebuild.compare.across_images import AnotherImage, Padding
from vilbert.pipeline.rebuild.compare.causes import Finding
from vilbert.pipeline.rebuild.compare.diagnosis import MAX_CASES, diagnose
from vilbert.pipeline.rebuild.compare.document import check_bounds, describe, text_lines
from vilbert.pipeline.rebuild.compare.images import Images
from vilbert.pipeline.rebuild.compare.marks import Sightings
from vilbert.pipeline.rebuild.compare.pair import ImagePair
from vilbert.pipeline.rebuild.compare.pairing import Coverage, pair_images
from vilbert.pipeline.rebuild.compare.settings import CompareSettings
from vilbert.pipeline.rebuild.compare.sides import Side, describe_side, open_sides
from vilbert.pipeline.rebuild.compare.statistics import Totals, differs
from vilbert.pipeline.terminal import print_lines


def compare(settings: CompareSettings) -> int:
    """Print how two feature sets differ and why; return 1 if a bound is exceeded or a problem is named, else 0."""
    if settings.report is not None and not settings.report.parent.is_dir():
        raise OutputError(f"--report {settings.report}: the folder {settings.report.parent} does not exist")
    with ExitStack() as stack:
        found = compare_sets(settings, stack)
        document = found.document
        if settings.report is not None:
            from vilbert.pipeline.rebuild.compare.page import write_page
            from vilbert.pipeline.rebuild.compare.pictures import draw_worst

            pictures = [*draw_worst(found.totals, found.sides, found.images, settings)]
            write_page(settings.report, document, found.totals, pictures)
    if settings.json:
        print(json.dumps(document, indent=2))
    else:
        print_lines(text_lines(document))
    return 1 if document["verdict"] == "different" else 0


class Compared(NamedTuple):
    """Two feature sets that were compared."""

    document: dict[str, Any]
    """Output of `--json`."""
    totals: Totals
    sides: tuple[Side, Side]
    images: Images


def compare_sets(settings: CompareSettings, stack: ExitStack) -> Compared:
    """Compare two feature sets, which stay open until the stack is closed."""
    images = stack.enter_context(Images(settings.manifest))
    sides = open_sides(settings, stack)
    coverage = Coverage()
    totals = Totals(min_cosine=settings.min_cosine, keep=settings.worst)
    sightings = Sightings()
    across = (AnotherImage(), Padding())
    cases: list[ImagePair] = []
    for pair in pair_images(*sides, images, settings, coverage):
        totals.add(pair)
        explained = sightings.add(pair)
        for looking in across:
            looking.add(pair)
        if len(cases) < MAX_CASES and not explained and differs(pair, settings.min_cosine):
            cases.append(pair)
    findings = [*sightings.findings(), *(finding for looking in across for finding in looking.findings())]
    diagnosis = None
    if settings.diagnose and cases and needs_diagnosis(settings, totals, findings):
        diagnosis = diagnose(settings, sides, images, cases)
    names = (settings.a, settings.b)
    counts = (coverage.images_a, coverage.images_b)
    described = [describe_side(*side) for side in zip(names, sides, counts, strict=True)]
    return Compared(describe(settings, described, coverage, totals, findings, diagnosis), totals, sides, images)


def needs_diagnosis(settings: CompareSettings, totals: Totals, findings: list[Finding]) -> bool:
    """Return whether a bound is exceeded although no cause was found in most of the differing images."""
    explained = any(finding.problem and finding.images >= 0.5 * totals.differing for finding in findings)
    return not explained and not all(bound["holds"] for bound in check_bounds(settings, totals))
