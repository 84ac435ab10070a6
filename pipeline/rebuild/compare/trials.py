"""Try the suspects of `suspects` on a few images and name the one that reproduces the other set's features."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vilbert.extractors.extractor import ExtractorError
from vilbert.pipeline.rebuild.compare.causes import Finding
from vilbert.pipeline.rebuild.compare.detector import RunningDetector
from vilbert.pipeline.rebuild.compare.matching import cosines, relative_errors
from vilbert.pipeline.rebuild.compare.suspects import SUBTLE, SUSPECTS, Case, Variant, unchanged

REPRODUCED_COSINE = 0.999
REPRODUCED_ERROR = 0.03
"""Mean cosine and relative error at which features count as reproduced: other kernels and devices stay within it."""
EXACT_ERROR = 2e-3
"""Mean relative error that other boxes, stored in float32, and features, stored in float16, leave."""
NEAR_COSINE = 0.98
"""Mean cosine of an image below which a variant is not tried on further images."""
GAIN = 0.3
"""Fraction of the unchanged detector's error that a suspect may leave."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How near one way to run the detector comes to the other set."""

    cause: str
    """Name in `CAUSES`; empty for the unchanged detector."""
    label: str
    cosine: float
    """Mean over all regions of all cases."""
    error: float
    """Mean relative error; errors above 1 count as 1."""
    images: int
    """Cases that it changed or could be run on."""

    @property
    def reproduces(self) -> bool:
        """Whether the features are the same apart from small errors."""
        return self.cosine >= REPRODUCED_COSINE and self.error <= REPRODUCED_ERROR


def try_variant(cause: str, variant: Variant, cases: Sequence[Case]) -> Trial | None:
    """Run a variant on the first case, and if it comes near on all; None where it gives no features of this width."""
    found_cosines, found_errors = [], []
    for case in cases:
        features = variant.run(case)
        if features is not None and features.shape == case.features.shape:
            found_cosines.append(cosines(case.features, features))
            found_errors.append(relative_errors(case.features, features))
            if found_cosines[-1].mean() < NEAR_COSINE:
                break
    if not found_cosines:
        return None
    return Trial(
        cause=cause,
        label=variant.label,
        cosine=float(np.concatenate(found_cosines).mean()),
        error=float(np.minimum(np.concatenate(found_errors), 1).mean()),
        images=len(found_cosines),
    )


def try_suspects(detector: RunningDetector, cases: Sequence[Case]) -> list[Trial]:
    """Return the trials of the unchanged detector and all suspects, the nearest first."""
    first = try_variant("", unchanged(detector), cases)
    trials = [first]
    for cause, makers in SUSPECTS.items():
        if cause in SUBTLE and (first is None or first.cosine < NEAR_COSINE):
            continue
        for variant in (variant for make in makers for variant in make(detector)):
            with contextlib.suppress(ExtractorError):  # it failed on image after image: not a way to run this detector
                trials.append(try_variant(cause, variant, cases))
    return sorted((trial for trial in trials if trial is not None), key=lambda trial: trial.error)


def judge(trials: Sequence[Trial], *, suspect: str, image_ids: Sequence[str], features_equal: bool) -> Finding | None:
    """Return the cause that the trials show: the nearest one, if it reproduces the features much better than none.

    features_equal: whether matched regions have equal features, so that only the choice of regions can differ.
    """
    own = next((trial for trial in trials if not trial.cause), None)
    others = sorted((trial for trial in trials if trial.cause), key=lambda trial: (trial.error, -trial.cosine))
    selection = None
    if own is not None and own.reproduces and features_equal:
        detail = f"the detector reproduces the features of {suspect} at its boxes"
        selection = _finding("other-selection", detail, own, image_ids)
        if own.error <= EXACT_ERROR:
            return selection
    if not others or not others[0].reproduces or (own is not None and others[0].error > GAIN * own.error):
        return selection
    best = others[0]
    alike = [it.label for it in others[1:] if it.cause != best.cause and it.error <= 1.5 * best.error]
    also = f"; {', '.join(alike)} would explain it as well" if alike else ""
    before = "" if own is None else f", {own.error:.2g} without it"
    detail = f"{best.label} reproduces {suspect}, relative error {best.error:.2g}{before}{also}"
    return _finding(best.cause, detail, best, image_ids)


def _finding(cause: str, detail: str, trial: Trial, image_ids: Sequence[str]) -> Finding:
    return Finding(cause=cause, detail=detail, images=trial.images, of=len(image_ids), image_ids=tuple(image_ids))
