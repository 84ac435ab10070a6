"""Data sets that must not be trained on together: regions of different detectors, and the same images twice."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vilbert.pipeline.errors import RefusedError

if TYPE_CHECKING:
    from vilbert.pipeline.train.data.selection import Source

logger = logging.getLogger(__name__)

OF_THE_MACHINE = ("device",)
"""Facts of an extractor that change features by rounding alone."""
OF_THE_CHOICE = ("selection", "precision", "top_classes", "converted")
"""Facts of an extractor that say which regions are kept, and how exactly: the features mean the same."""
OF_THE_DETECTOR_ALONE = (*OF_THE_MACHINE, *OF_THE_CHOICE)
"""What may differ between the regions that a detector proposes and those at given boxes."""
SHOWN = 4
OPTION = "--allow-mixed-features"


def refuse_mixed_features(sources: Sequence[Source], *, apart_from: Sequence[str] = OF_THE_MACHINE) -> None:
    """Raise RefusedError, naming what differs, where the regions of data sets were extracted in different ways.

    apart_from: facts that may differ.
    """
    first = sources[0]
    for other in sources[1:]:
        found = list(differences(first.extractor, other.extractor, apart_from=apart_from))
        if found:
            raise RefusedError(
                f"{first.name} and {other.name} have regions that were extracted in different ways: "
                f"{_listed(found, first.name, other.name)}. Extract both with the same settings, or "
                f"give {OPTION} to train on the mixture"
            )


def refuse_repeated(sources: Sequence[Source], *, weighted: bool = False) -> None:
    """Raise RefusedError where two data sets hold the same samples, as far as their records tell.

    weighted: whether the command has --weights, which the message then names.
    """
    for at, second in enumerate(sources):
        for first in sources[:at]:
            if how := _repeats(first, second):
                instead = " (--weights 2 shows a data set twice an epoch)" if weighted else ""
                raise RefusedError(
                    f"{first.name} and {second.name}: {how}. Each sample would count twice: leave one of them "
                    f"out{instead}"
                )


def _repeats(first: Source, second: Source) -> str | None:
    """Return in which way two data sets are the same; None where they are not."""
    if first.folder.resolve() == second.folder.resolve():
        return "are the same data set"
    if first.records_sha256 == second.records_sha256 and any(shard.samples for shard in first.shards):
        return "are copies of one data set"
    shards = {shard.sha256: number for number, shard in enumerate(first.shards) if shard.samples}
    for number, shard in enumerate(second.shards):
        if shard.samples and shard.sha256 in shards:
            return f"shard {shards[shard.sha256]} of the one is shard {number} of the other"
    if first.manifest_hash == second.manifest_hash and not any(
        differences(first.extractor, second.extractor, apart_from=OF_THE_MACHINE)
    ):
        return "were extracted from the same manifest with the same detector"
    return None


def differences(
    first: Mapping[str, Any], second: Mapping[str, Any], *, apart_from: Sequence[str] = (), prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yield name and both values of each fact that differs; names of inner facts follow a dot."""
    for name in sorted(first.keys() | second.keys()):
        one, other = first.get(name), second.get(name)
        if name in apart_from:
            continue
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from differences(one, other, prefix=f"{prefix}{name}.")
        elif one != other:
            yield f"{prefix}{name}", one, other


def check_known_features(
    known: Sequence[Mapping[str, Any]],
    sources: Sequence[Source],
    *,
    model: str,
    allow_mixed: bool,
    apart_from: Sequence[str] = (),
) -> None:
    """Compare the features that a model was trained on with those of data sets.

    Args:
        known: The distinct settings that the model's features depended on; empty if unknown.
        sources: The data sets.
        model: What the message calls the model.
        allow_mixed: Take features of another detector, with a warning.
        apart_from: Facts that are expected to differ.

    Raises:
        RefusedError: Features of another detector than all that the model knows. Another choice of regions or precision
            of the same detector is warned of.
    """
    for source in sources if known else ():
        found = [list(differences(way, source.extractor, apart_from=OF_THE_MACHINE)) for way in known]
        found = [[it for it in way if it[0].partition(".")[0] not in apart_from] for way in found]
        if not source.extractor or not all(found):
            continue
        closest = min(found, key=lambda way: (any(_is_of_the_detector(it) for it in way), len(way)))
        message = f"{model} was trained on regions that were extracted in another way than those of {source.name}: "
        message += _listed(closest, "model", source.name)
        if not any(map(_is_of_the_detector, closest)):
            logger.warning("%s", message)
        elif allow_mixed:
            logger.warning("%s; the model works only with features of the other detector (%s)", message, OPTION)
        else:
            raise RefusedError(
                f"{message}. The model works only with features of that detector: give its data sets, or {OPTION}"
            )


def _is_of_the_detector(difference: tuple[str, Any, Any]) -> bool:
    return difference[0].partition(".")[0] not in OF_THE_CHOICE


def _listed(found: Sequence[tuple[str, Any, Any]], first: str, second: str) -> str:
    """Return the first few differences, as text."""
    shown = "; ".join(
        f"{name} is {_short(one)} ({Path(first).name}) and {_short(other)} ({Path(second).name})"
        for name, one, other in found[:SHOWN]
    )
    return f"{shown}{f'; and {len(found) - SHOWN} more' if len(found) > SHOWN else ''}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
