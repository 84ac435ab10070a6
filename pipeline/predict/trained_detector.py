"""Which detector's regions a model was trained on: with another one's it answers at random.

Its task.json says what they depend on, as the dataset.json of the features did.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vilbert.extractors.detectors.registry import find_detector
from vilbert.extractors.recorded_settings import detector_values, selection_values
from vilbert.extractors.settings import DetectorSettings, ExtractorSettings, SelectionSettings
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.tasks.task_card import TaskCard, read_task_cards
from vilbert.pipeline.tasks.trained_folder import trained_folder

logger = logging.getLogger(__name__)


def trained_values(arguments: Sequence[str], config: Mapping[str, Any], task: str | None) -> dict[str, Any]:
    """Return the values of detector and selection that a model was trained with, by option; empty if unknown.

    What is wrong with the model is left to the command to say.

    Args:
        arguments: Of a command line, or the config file, names the model as --checkpoint. Where --detector is another
            one than the model's, only the selection is returned.
        config: The values of a config file by option.
        task: Which of the model's tasks, if it has several.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--checkpoint", type=Path, default=config.get("checkpoint"))
    parser.add_argument("--detector", default=config.get("detector"))
    parser.add_argument("--task", default=config.get("task"))
    try:
        given = parser.parse_known_args(arguments)[0]
        checkpoint, task = given.checkpoint, task or given.task
        cards = [] if checkpoint is None else read_task_cards(trained_folder(checkpoint).card)
        facts = next((card.extractors[0] for card in cards if card.extractors and task in (card.task, None)), {})
        its_own = given.detector in (None, facts.get("extractor"))
        return {**(detector_values(facts) if its_own else {}), **selection_values(facts)}
    except (argparse.ArgumentError, RefusedError, OSError, ValueError):
        return {}


def choose_extractor(
    card: TaskCard, detector: DetectorSettings | None, selection: SelectionSettings | None, *, device: Any
) -> ExtractorSettings:
    """Return settings of a detector: given ones, else those that the model was trained with.

    device: of a detector that is not given. Raises RefusedError where that one needs files that its user has, as
    detectron2 does, or the card does not say which it was.
    """
    facts = card.extractors[0] if card.extractors else {}
    try:
        if detector is None:
            known = detector_values(facts)
            if "detector" not in known or _needs_files(known["detector"], facts):
                raise ValueError(f"give the settings of its detector, {known.get('detector', 'which is not known')}")
            detector = DetectorSettings(**known, device=device)
        selection = selection or SelectionSettings(**selection_values(facts))
    except (TypeError, ValueError) as error:
        raise RefusedError(f"cannot tell how the regions of the model's training were extracted: {error}") from error
    return ExtractorSettings(detector=detector, selection=selection)


def _needs_files(name: str, facts: Mapping[str, Any]) -> bool:
    """Say whether a detector has files that its user gives: always, or an encoder of transformers this time."""
    return find_detector(name).needs_files or "encoder" in facts or "model_type" in facts


def warn_of_another_detector(card: TaskCard, facts: Mapping[str, Any], *, where: Path) -> None:
    """Warn where the model of a card was trained on regions of another detector, or that cannot be told.

    facts: `Extractor.fingerprint()` of the detector that is used. where: the card's folder, for the message.
    """
    from vilbert.pipeline.jobs.plan import differences  # imports what options are read without

    if not card.extractors:
        logger.warning("%s: does not record the detector of the training features; check that it is this one", where)
    for made_by in card.extractors:
        # A GPU's features are a CPU's but for rounding.
        if found := list(differences({**made_by, "device": None}, {**facts, "device": None})):
            logger.warning(
                "%s: was trained on regions of other detector settings: %s; the model works only with features of that "
                "detector alone",
                where, "; ".join(found),
            )  # fmt: skip
