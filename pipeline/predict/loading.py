"""Load a fine-tuned model with the detector of its training features."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Literal

from vilbert.extractors.detectors.registry import describe_extractor
from vilbert.extractors.extractor import DetectorSettings, build_extractor
from vilbert.extractors.selection import SelectionSettings
from vilbert.model.tasks import ViLBertForTasks
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.evaluate.evaluation import Trained
from vilbert.pipeline.extract.fetching.settings import FetchSettings
from vilbert.pipeline.predict.reader import Reader
from vilbert.pipeline.predict.trained_detector import choose_extractor, warn_of_another_detector
from vilbert.pipeline.tasks.task_card import read_task_card, require_card
from vilbert.pipeline.tasks.trained_folder import trained_folder
from vilbert.pipeline.tasks.trained_model import load_its_tokenizer, load_model
from vilbert.pipeline.train.engine.distributed import own_device

logger = logging.getLogger(__name__)


def load_reader(
    checkpoint: str | os.PathLike[str],
    *,
    task: str | None,
    detector: DetectorSettings | None,
    selection: SelectionSettings | None,
    device: Literal["auto", "cpu", "cuda"],
    batch_size: int,
    fetching: FetchSettings,
) -> Reader:
    """Load detector, tokenizer and model; arguments and errors are those of `Predictor.load`."""
    folder = trained_folder(Path(checkpoint))
    card = read_task_card(folder.card, task)
    on = own_device(device)
    chosen = choose_extractor(card, detector, selection, device=device)
    extractor = build_extractor(chosen)
    model = load_model(ViLBertForTasks, folder, on)
    tokenizer = load_its_tokenizer(folder, model.config)
    require_card(card, model.config, folder.card)
    if extractor.feature_dim != model.config.v_feature_size:
        raise RefusedError(
            f"{folder.model}: takes features of {model.config.v_feature_size} channels and --detector "
            f"{chosen.detector.detector} gives {extractor.feature_dim}; give the detector that it was trained with"
        )
    if card.given_boxes:
        logger.warning(
            "%s: was trained with regions at given boxes in addition to the detector's; none are given here", checkpoint
        )
    described = describe_extractor(extractor, chosen.detector.detector, chosen.detector.opts)
    warn_of_another_detector(card, described, where=folder.card)
    trained = Trained(model, tokenizer, card, folder.model, on)
    return Reader(trained=trained, extractor=extractor, batch_size=batch_size, fetching=fetching)
