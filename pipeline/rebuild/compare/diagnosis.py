"""Run a detector again on a few differing images, to find a cause that features and boxes do not show."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial

import numpy as np

from vilbert.extractors.extractor import ExtractorError
from vilbert.pipeline.extract.prepare import Prepared
from vilbert.pipeline.rebuild.compare.causes import Finding
from vilbert.pipeline.rebuild.compare.detector import RunningDetector, detector_settings, recorded_settings
from vilbert.pipeline.rebuild.compare.images import Images
from vilbert.pipeline.rebuild.compare.pair import ImagePair
from vilbert.pipeline.rebuild.compare.settings import CompareSettings
from vilbert.pipeline.rebuild.compare.sides import Side, recorded_extractor
from vilbert.pipeline.rebuild.compare.suspects import Case, unchanged
from vilbert.pipeline.rebuild.compare.trials import Trial, judge, try_suspects, try_variant
from vilbert.pipeline.shards.sample import Sample

logger = logging.getLogger(__name__)

MAX_CASES = 4
"""Number of images on which possible causes are tested."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Result of the trials."""

    suspect: str
    """A or B, the side whose features the trials try to reproduce."""
    reason: str = ""
    """Reason without trials, as text; empty if there were trials."""
    detector: str = ""
    """Name of the detector that was run."""
    trials: tuple[Trial, ...] = ()
    """Trials, the closest first."""
    findings: tuple[Finding, ...] = ()
    images: tuple[str, ...] = ()
    """Image ids of the cases."""


def diagnose(settings: CompareSettings, sides: tuple[Side, Side], images: Images, pairs: list[ImagePair]) -> Diagnosis:
    """Run a detector with each possible cause on some differing images, and return which one reproduces a side."""
    reference, detector, reason = find_detector(settings, sides)
    if detector is None:
        return Diagnosis(suspect="B", reason=reason)
    cases = {name: build_cases(name, sides, images, pairs) for name in "AB"}
    if not cases["A"]:
        return Diagnosis(suspect="B", reason="the images of the sets are not at hand: give --manifest")
    other = {"A": "B", "B": "A"}[reference]
    reproduced = {name: _reproduces(detector, cases[name]) for name in "AB"}
    if reproduced[other] and not reproduced[reference]:
        reference, other = other, reference
    trials = try_suspects(detector, cases[other])
    ids = [case.prepared.record.image_id for case in cases[other]]
    features_equal = all(pair.equal(settings.min_cosine) >= settings.min_equal for pair in pairs)
    finding = judge(trials, suspect=other, image_ids=ids, features_equal=features_equal)
    if not reproduced[reference]:
        logger.warning("the detector that was run does not reproduce the features of %s either", reference)
    return Diagnosis(
        suspect=other,
        detector=str(detector.facts.get("extractor", detector.settings.detector.detector)),
        trials=tuple(trials),
        findings=() if finding is None else (finding,),
        images=tuple(ids),
    )


def _reproduces(detector: RunningDetector, cases: list[Case]) -> bool:
    trial = try_variant("", unchanged(detector), cases)
    return trial is not None and trial.reproduces


def find_detector(settings: CompareSettings, sides: tuple[Side, Side]) -> tuple[str, RunningDetector | None, str]:
    """Return the side that a detector produced and the detector, or the reason why it cannot be built."""
    recorded = {
        name: recorded_extractor(it)
        for name, it in zip("AB", sides, strict=True)
        if not isinstance(it, RunningDetector)
    }
    if settings.detector is not None:
        facts = recorded.get("A", recorded.get("B", {}))
        wanted = detector_settings(settings.detector, facts, settings.device)
        return "A", RunningDetector(wanted, settings.batch_size), ""
    reasons = []
    for name, side in zip("AB", sides, strict=True):
        if isinstance(side, RunningDetector):
            return name, side, ""
    for name, facts in recorded.items():
        try:
            detector = RunningDetector(recorded_settings(facts, settings.device), settings.batch_size)
            detector.require_weights(facts)
            return name, detector, ""
        except (ExtractorError, ValueError) as error:
            reasons.append(f"{name}: {error}")
    return "A", None, f"give --detector ({'; '.join(reasons)})"


def build_cases(name: str, sides: tuple[Side, Side], images: Images, pairs: list[ImagePair]) -> list[Case]:
    """Return the available differing images, with the boxes and features of a side."""
    cases = []
    for pair in pairs:
        prepared = prepare_pair((pair.row_a, pair.row_b), sides, images)
        if prepared is None:
            continue
        regions = pair.a if name == "A" else pair.b
        side, row = (sides[0], pair.row_a) if name == "A" else (sides[1], pair.row_b)
        cases.append(
            Case(
                prepared=prepared,
                boxes_xyxy=regions.boxes,
                features=regions.features.astype(np.float32),
                batch_sizes=partial(batch_sizes, side, row),
            )
        )
    return cases


def prepare_pair(rows: tuple[int, int], sides: tuple[Side, Side], images: Images) -> Prepared | None:
    """Return the decoded image of rows of A and B; None if neither side knows its location."""
    for side, row in zip(sides, rows, strict=True):
        if isinstance(side, RunningDetector):
            continue
        sample = side.sample(row)
        if isinstance(sample, Sample) and isinstance(found := images.prepare(0, sample), Prepared):
            return found
    if images.manifest is not None and all(isinstance(side, RunningDetector) for side in sides):
        found = images.prepare_record(0, images.manifest.read(rows[0], rows[0] + 1)[0])
        return found if isinstance(found, Prepared) else None
    return None


def batch_sizes(side: Side, row: int, size: int) -> list[tuple[int, int]]:
    """Return the (height, width) of the images of a batch of a stored side; empty for a detector."""
    if isinstance(side, RunningDetector):
        return []
    first = row // size * size
    samples = (side.sample(at) for at in range(first, min(first + size, side.rows)))
    return [(it.regions.height, it.regions.width) for it in samples if isinstance(it, Sample)]
