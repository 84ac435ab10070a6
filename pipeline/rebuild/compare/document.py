"""The result of a comparison as JSON values and as lines of text: pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from vilbert.pipeline.rebuild.compare.causes import CAUSES, Finding
from vilbert.pipeline.rebuild.compare.diagnosis import Diagnosis
from vilbert.pipeline.rebuild.compare.pairing import Coverage
from vilbert.pipeline.rebuild.compare.settings import CompareSettings
from vilbert.pipeline.rebuild.compare.statistics import Drift, Totals, drift
from vilbert.pipeline.rebuild.compare.suspects import SUSPECTS
from vilbert.pipeline.terminal import counted

DRIFTING_CHANNELS = 5
"""Maximum number of channels in the list."""
QUANTILES = (0.5, 0.9, 0.99)
TRIALS = 6
"""Maximum number of trials in the text, the closest first."""
SETTINGS_LISTED = 8
"""Maximum number of differing settings in the text."""


def describe(
    settings: CompareSettings,
    sides: Sequence[Mapping[str, Any]],
    coverage: Coverage,
    totals: Totals,
    findings: Sequence[Finding],
    diagnosis: Diagnosis | None,
) -> dict[str, Any]:
    """Return the result as JSON values.

    sides: descriptions of A and B, JSON values; `facts` is a side's record of how it was made.
    """
    bounds = check_bounds(settings, totals)
    recorded = [side["facts"] for side in sides]
    named = [*findings, *(diagnosis.findings if diagnosis else ())]
    return {
        "verdict": verdict(totals, bounds, named),
        "a": {key: value for key, value in sides[0].items() if key != "facts"},
        "b": {key: value for key, value in sides[1].items() if key != "facts"},
        "images": {
            "compared": totals.images,
            "differing": totals.differing,
            "only_in_a": coverage.only_a,
            "only_in_b": coverage.only_b,
            "sampled": coverage.sampled,
            "skipped": dict(coverage.skipped),
            "first_skipped": coverage.first_skipped,
            "other_size": totals.other_size,
            "other_number_of_regions": totals.other_count,
        },
        "regions": {
            "a": totals.regions_a,
            "b": totals.regions_b,
            "matched": totals.matched,
            "matched_fraction": totals.share("matched"),
            "min_iou": settings.min_iou,
            "mean_iou": _finite(totals.iou_sum / totals.matched) if totals.matched else None,
        },
        "features": _features(settings, totals),
        "objects": {"compared": totals.objects, "agreement": totals.share("objects")} if totals.objects else None,
        "drift": _drift(drift(totals.moments_a, totals.moments_b)),
        "bounds": bounds,
        "causes": [_cause(finding) for finding in named],
        "recorded_settings": recorded_differences(*recorded) if all(recorded) else [],
        "diagnosis": None if diagnosis is None else _diagnosis(diagnosis),
        "worst_images": [asdict(image) for image in totals.worst_images()],
    }


def check_bounds(settings: CompareSettings, totals: Totals) -> list[dict[str, Any]]:
    """Return the bounds that apply, with the measured values."""
    bounds = [("matched", settings.min_matched), ("equal", settings.min_equal)]
    if totals.objects:
        bounds.append(("objects", settings.min_objects))
    # Features without a common number of channels cannot be equal.
    values = {name: totals.share(name) for name, _ in bounds}
    if totals.images and not totals.compared and totals.matched:
        values["equal"] = 0.0
    return [
        {"name": name, "option": f"--min-{name}", "value": values[name], "bound": bound, "holds": values[name] >= bound}
        for name, bound in bounds
    ]


def verdict(totals: Totals, bounds: Sequence[Mapping[str, Any]], findings: Sequence[Finding]) -> str:
    """Return identical, equal (within the bounds) or different."""
    if not all(bound["holds"] for bound in bounds) or any(finding.problem for finding in findings):
        return "different"
    exact = totals.matched == totals.regions_a == totals.regions_b and not totals.errors.counts[1:].any()
    return "identical" if exact and totals.iou_sum >= totals.matched else "equal"


def _features(settings: CompareSettings, totals: Totals) -> dict[str, Any]:
    gaps = {f"{share:.0%}": _finite(totals.cosine_gaps.quantile(share)) for share in QUANTILES}
    return {
        "channels": [[a, b, images] for (a, b), images in totals.dims.most_common(SETTINGS_LISTED)],
        "compared": totals.compared,
        "min_cosine": settings.min_cosine,
        "equal_fraction": totals.share("equal"),
        "mean_cosine": _finite(totals.cosine_sum / totals.compared) if totals.compared else None,
        "one_minus_cosine": gaps,
        "relative_error": {f"{share:.0%}": _finite(totals.errors.quantile(share)) for share in QUANTILES},
        "not_finite": {"a": totals.not_finite_a, "b": totals.not_finite_b},
    }


def _drift(found: Drift | None) -> dict[str, Any] | None:
    if found is None:
        return None
    order = np.argsort(-np.abs(found.mean_shift), kind="stable")[:DRIFTING_CHANNELS]
    return {
        "rms_mean_shift": float(np.sqrt((found.mean_shift**2).mean())),
        "live_channels": {"a": found.live_a, "b": found.live_b},
        "std_ratio": {"min": float(found.std_ratio.min()), "max": float(found.std_ratio.max())},
        "channels": [
            {"channel": int(at), "mean_shift": float(found.mean_shift[at]), "std_ratio": float(found.std_ratio[at])}
            for at in order
        ],
    }


def _cause(finding: Finding) -> dict[str, Any]:
    cause = CAUSES[finding.cause]
    return {
        **asdict(finding),
        "title": cause.title,
        "advice": cause.advice,
        "problem": cause.problem,
        "sentence": finding.sentence(),
    }


def _diagnosis(diagnosis: Diagnosis) -> dict[str, Any]:
    trials = [
        {"cause": it.cause, "label": it.label, "cosine": it.cosine, "error": it.error, "images": it.images}
        for it in diagnosis.trials
    ]
    return {**asdict(diagnosis), "findings": [finding.cause for finding in diagnosis.findings], "trials": trials}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def recorded_differences(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> list[list[Any]]:
    """Return [name, value of A, value of B] of recorded settings that differ.

    Only groups of settings that both sides record are compared: a detector that runs here has no shards.
    """
    found: list[list[Any]] = []
    for name in sorted(a.keys() | b.keys() if prefix else a.keys() & b.keys()):
        one, other = a.get(name), b.get(name)
        if name == "extractor" and not prefix and _kind(one) != _kind(other):
            found.append([name, _kind(one), _kind(other)])  # their other settings have nothing in common
        elif isinstance(one, Mapping) and isinstance(other, Mapping):
            found += recorded_differences(one, other, f"{prefix}{name}.")
        elif one != other:
            found.append([f"{prefix}{name}", one, other])
    return found


def _kind(extractor: Any) -> str:
    if not isinstance(extractor, Mapping):
        return str(extractor)
    return str(extractor.get("extractor", extractor.get("detector", "not recorded")))


def untold_causes() -> str:
    """Return the causes that only a detector can distinguish, as text."""
    return ", ".join(CAUSES[cause].title for cause in SUSPECTS)


def text_lines(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield the result as lines of text."""
    for side in ("a", "b"):
        yield f"{side.upper()}  {side_text(document[side])}"
    yield ""
    yield from (f"{title:<10}{text}" for title, text in summary_rows(document))
    if document["causes"]:
        yield ""
        yield "likely causes"
        for cause in document["causes"]:
            yield f"  {cause['sentence']}"
            yield f"    {cause['advice']}"
    yield from (f"  {line}" for line in advice(document))
    if trials := (document["diagnosis"] or {}).get("trials"):
        yield ""
        yield f"features of {document['diagnosis']['suspect']} against those of {document['diagnosis']['detector']}"
        for trial in trials[:TRIALS]:
            yield f"  {trial['error']:<9.2g} relative error, cosine {trial['cosine']:.5f}: {trial['label']}"
    if document["recorded_settings"]:
        yield ""
        yield "recorded settings that differ"
        for name, a, b in document["recorded_settings"][:SETTINGS_LISTED]:
            yield f"  {name}: {a!s:.60} in A, {b!s:.60} in B"
    if document["worst_images"]:
        yield ""
        yield "most different images"
        for image in document["worst_images"]:
            cosine = "" if image["cosine"] is None else f", mean cosine {image['cosine']:.5f}"
            yield f"  {image['image_id']}: {image['matched']:.1%} of regions matched{cosine}"
    yield ""
    yield verdict_text(document)


def side_text(side: Mapping[str, Any]) -> str:
    """Return a description of a side, as text."""
    images = "" if side["images"] is None else f", {counted(side['images'], 'image')}"
    return f"{side['name']} ({side['format']}{images})"


def summary_rows(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return titles and texts of the metrics."""
    images, regions, features = document["images"], document["regions"], document["features"]
    looked = " of a sample" if images["sampled"] else ""
    parts = [f"{images['compared']:,} compared{looked}, {images['differing']:,} differ"]
    parts += [f"{images[f'only_in_{side}']:,} only in {side.upper()}" for side in "ab" if images[f"only_in_{side}"]]
    parts += [f"{count:,} skipped ({reason})" for reason, count in images["skipped"].items()]
    if images["other_size"]:
        parts.append(f"{images['other_size']:,} of another size")
    iou = "" if regions["mean_iou"] is None else f", mean IoU {regions['mean_iou']:.4f}"
    rows = [
        ("images", ", ".join(parts)),
        (
            "regions",
            f"{regions['a']:,} in A, {regions['b']:,} in B, {percent(regions['matched_fraction'])} matched "
            f"(mutual best, IoU at least {regions['min_iou']:g}){iou}",
        ),
        ("features", _features_text(features)),
    ]
    if document["objects"]:
        rows.append(("objects", f"{percent(document['objects']['agreement'])} of matched regions agree"))
    if document["drift"]:
        first, ratio = document["drift"]["channels"][0], document["drift"]["std_ratio"]
        live = document["drift"]["live_channels"]
        rows.append(
            (
                "drift",
                f"means of channels by {document['drift']['rms_mean_shift']:.2g} standard deviations (RMS), at most "
                f"{abs(first['mean_shift']):.2g} (channel {first['channel']}); standard deviations of B "
                f"{ratio['min']:.3g} to {ratio['max']:.3g} times those of A; channels that vary: {live['a']:,} in A, "
                f"{live['b']:,} in B",
            )
        )
    return [*rows, ("bounds", "; ".join(map(bound_text, document["bounds"])))]


def _features_text(features: Mapping[str, Any]) -> str:
    channels = " / ".join(f"{a}" if a == b else f"{a} in A, {b} in B" for a, b, _ in features["channels"])
    if not features["compared"]:
        return f"{channels} channels, nothing to compare"
    gap, error = features["one_minus_cosine"], features["relative_error"]
    bad = "".join(
        f", {counted(count, 'region')} of {side.upper()} not finite"
        for side, count in features["not_finite"].items()
        if count
    )
    return (
        f"{channels} channels, {percent(features['equal_fraction'])} equal (cosine at least "
        f"{features['min_cosine']:g}), mean cosine {features['mean_cosine']:.6f}, 1 % below "
        f"{1 - (gap['99%'] or 0):.6f}; relative error {_short(error['50%'])} (median), "
        f"{_short(error['99%'])} (99 %){bad}"
    )


def _short(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.2g}"


def percent(value: float) -> str:
    """Return a fraction in percent, never rounded up to 100 %."""
    return f"{100 if value >= 1 else min(math.floor(value * 1e4 + 1e-6) / 1e2, 99.99):.4g} %"


def bound_text(bound: Mapping[str, Any]) -> str:
    """Return a bound and whether it holds, as text."""
    state = "holds" if bound["holds"] else "EXCEEDED"
    return f"{bound['name']} {percent(bound['value'])} ({bound['option']} {bound['bound']:g}: {state})"


def advice(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield what else is needed to name the cause, if it is unknown."""
    diagnosis = document["diagnosis"]
    if diagnosis is None or document["verdict"] != "different":
        return
    if diagnosis["reason"]:
        yield (
            f"Not told apart: {untold_causes()}. A detector would have to be run again, which is not possible here: "
            f"{diagnosis['reason']}."
        )
    elif not any(cause["problem"] for cause in document["causes"]):
        yield f"None of the suspects reproduces {diagnosis['suspect']}: {untold_causes()}."


def verdict_text(document: Mapping[str, Any]) -> str:
    """Return the verdict as a sentence."""
    match document["verdict"]:
        case "identical":
            return "identical: all regions match and all features are the same"
        case "equal":
            return "equal within the bounds"
        case _:
            exceeded = [
                f"{bound['name']} {percent(bound['value'])} is below {percent(bound['bound'])}"
                for bound in document["bounds"]
                if not bound["holds"]
            ]
            named = [cause["title"] for cause in document["causes"] if cause["problem"]]
            return f"different: {'; '.join([*exceeded, *named])}"
