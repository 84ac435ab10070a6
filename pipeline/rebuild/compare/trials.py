"""Try the variants of `suspects` on a few images and find the one that reproduces the other set's features."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vilbert.extractors.agreement import cosines
from vilbert.extractors.extractor import ExtractorError
from vilbert.pipeline.rebuild.compare.causes import Finding
from vilbert.pipeline.rebuild.compare.detector import RunningDetector
from vilbert.pipeline.rebuild.compare.matching import relative_errors
from vilbert.pipeline.rebuild.compare.suspects import SUBTLE, SUSPECTS, Case, Variant, unchanged

REPRODUCED_COSINE = 0.999
REPRODUCED_ERROR = 0.03
"""Mean cosine and relative error of reproduced features; other kernels and devices are within these limits."""
EXACT_ERROR = 2e-3
"""Mean relative error that remains due to boxes stored in float32 and features stored in float16."""
NEAR_COSINE = 0.98
"""Mean cosine of an image below which a variant is not tried on further images."""
FOUND = 0.9
"""Fraction of an image's regions that a variant must find; with fewer, it has no result."""
GAIN = 0.3
"""Maximum error of a variant that explains the difference, as a fraction of the unchanged detector's error."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How close one variant of the detector is to the other set."""

    cause: str
    """Name in `CAUSES`; empty for the unchanged detector."""
    label: str
    cosines: tuple[float | None, ...]
    """Mean cosine over the regions of each case; None if it was not run or changes nothing."""
    errors: tuple[float | None, ...]
    """Mean relative error; errors above 1 count as 1."""

    @property
    def images(self) -> int:
        """Number of cases on which it was run."""
        return sum(error is not None for error in self.errors)

    @property
    def cosine(self) -> float:
        """Mean over the cases that it was run on."""
        return _mean(self.cosines)

    @property
    def error(self) -> float:
        """Mean over the cases that it was run on."""
        return _mean(self.errors)

    @property
    def reproduces(self) -> bool:
        """Whether the features are equal except for small errors."""
        return self.cosine >= REPRODUCED_COSINE and self.error <= REPRODUCED_ERROR

    def on_cases_of(self, other: Trial) -> Trial:
        """Return the trial restricted to the cases on which another was run."""
        both = [error is not None for error in other.errors]
        cosines, errors = (
            tuple(value if kept else None for value, kept in zip(values, both, strict=True))
            for values in (self.cosines, self.errors)
        )
        return replace(self, cosines=cosines, errors=errors)


def _mean(values: Sequence[float | None]) -> float:
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else float("nan")


def try_variant(cause: str, variant: Variant, cases: Sequence[Case], *, all_cases: bool = False) -> Trial | None:
    """Run a variant on cases up to the first one where it is not close; None if it returns no features.

    all_cases: run it on all cases.
    """
    found: list[tuple[float, float] | None] = []
    for case in cases:
        features = variant.run(case)
        if features is None or features.shape != case.features.shape:
            found.append(None)
            continue
        there = np.isnan(features).sum(axis=1) < features.shape[1]
        if there.mean() < FOUND:
            there = np.ones(len(features), bool)  # the others count as wholly different
        errors = np.minimum(relative_errors(case.features[there], features[there]), 1)
        cosine = float(cosines(case.features[there], features[there]).mean())
        found.append((cosine, float(errors.mean())))
        if not all_cases and cosine < NEAR_COSINE:
            break
    found += [None] * (len(cases) - len(found))
    if not any(found):
        return None
    return Trial(
        cause=cause,
        label=variant.label,
        cosines=tuple(one and one[0] for one in found),
        errors=tuple(one and one[1] for one in found),
    )


def try_suspects(detector: RunningDetector, cases: Sequence[Case]) -> list[Trial]:
    """Return the trials of the unchanged detector and all variants, the closest first."""
    first = try_variant("", unchanged(detector), cases, all_cases=True)
    trials = [first]
    for cause, makers in SUSPECTS.items():
        if cause in SUBTLE and (first is None or first.cosine < NEAR_COSINE):
            continue
        for variant in (variant for make in makers for variant in make(detector)):
            with contextlib.suppress(ExtractorError):  # it failed on image after image: not a way to run this detector
                trials.append(try_variant(cause, variant, cases))
    return sorted((trial for trial in trials if trial is not None), key=lambda trial: trial.error)


def judge(trials: Sequence[Trial], *, suspect: str, image_ids: Sequence[str], features_equal: bool) -> Finding | None:
    """Return the cause shown by the trials: the closest one, if it is much better than the unchanged detector.

    features_equal: whether matched regions have equal features, so that only the selection of regions can differ.
    """
    own = next((trial for trial in trials if not trial.cause), None)
    selection = None
    if own is not None and own.reproduces and features_equal:
        detail = f"the detector reproduces the features of {suspect} at its boxes"
        selection = _finding("other-selection", detail, own, image_ids)
        if own.error <= EXACT_ERROR:
            return selection
    likely = sorted((trial for trial in trials if trial.cause and _explains(trial, own)), key=lambda it: it.error)
    if not likely:
        return selection
    best, *others = likely
    alike = [it.label for it in others if it.cause != best.cause and it.error <= 1.5 * best.error]
    also = f"; {', '.join(alike)} would explain it as well" if alike else ""
    before = "" if own is None else f", {own.on_cases_of(best).error:.2g} without it"
    detail = f"{best.label} reproduces {suspect}, relative error {best.error:.2g}{before}{also}"
    return _finding(best.cause, detail, best, image_ids)


def _explains(trial: Trial, own: Trial | None) -> bool:
    """Return whether a trial reproduces at least half of the cases that the unchanged detector does not."""
    if not trial.reproduces:
        return False
    if own is None:
        return True
    unexplained = sum(error is not None and error > EXACT_ERROR for error in own.errors)
    return trial.error <= GAIN * own.on_cases_of(trial).error and 2 * trial.images >= unexplained


def _finding(cause: str, detail: str, trial: Trial, image_ids: Sequence[str]) -> Finding:
    return Finding(cause=cause, detail=detail, images=trial.images, of=len(image_ids), image_ids=tuple(image_ids))
