"""Which detector a model was trained on the regions of. With another one's it answers at random, and says nothing.

A run says in run.json what the regions of each of its data sets depend on, as their dataset.json has it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from extractors.extractor import DetectorSettings, ExtractorSettings
from extractors.selection import SelectionSettings
from pipeline.extract.plan import differences
from pipeline.shards.errors import RefusedError
from pipeline.train.run_folder import RUN_FILE, read_run

logger = logging.getLogger(__name__)

BY_NAME = ("torchvision", "shapes")
"""Detectors that need no file of their user's."""
SAME = ("feature_layer", "precision", "top_classes")
"""Facts of a detector that are settings under the same names."""


def given(
    detector: DetectorSettings, selection: SelectionSettings
) -> tuple[DetectorSettings | None, SelectionSettings | None]:
    """Return a command's settings of a detector; None for those that nobody chose, whatever its --device and --seed."""
    chosen = replace(detector, device="auto", seed=0) != DetectorSettings()
    return detector if chosen else None, selection if selection != SelectionSettings() else None


def choose_extractor(
    run: Path, detector: DetectorSettings | None, selection: SelectionSettings | None, *, device: Any
) -> ExtractorSettings:
    """Return settings of a detector: given ones, else those of the run in this folder, else the usual ones.

    Of weights that are not the detector's own a run knows the hash alone; where they are missing,
    `warn_of_another_detector` says so. device: of a detector that is not given. Raises RefusedError for a run on
    regions of detectron2, whose config file its user has, and for one that is damaged.
    """
    path, facts = next(iter(_known(run)), ("", {}))
    name = facts.get("extractor", DetectorSettings().detector)
    if detector is None and name not in BY_NAME:
        raise RefusedError(
            f"{path}, which the model was trained on, was extracted with {name}; give --detector and what it needs, as "
            "--config-file and --weights of detectron2"
        )
    try:
        selection = selection or SelectionSettings(**facts.get("selection", {}))
        detector = detector or DetectorSettings(
            detector=name,
            device=device,
            **{name: facts[name] for name in SAME if name in facts},
            **({"torchvision_model": facts["model"].removeprefix("fasterrcnn_")} if "model" in facts else {}),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise RefusedError(
            f"{run / RUN_FILE}: does not say how {path} was extracted ({error}); is it whole?"
        ) from error
    return ExtractorSettings(detector=detector, selection=selection)


def warn_of_another_detector(run: Path, facts: Mapping[str, Any]) -> None:
    """Warn where the run in this folder was trained on regions of another detector; silent where it is no run.

    facts: `Extractor.fingerprint()` of the detector that is used.
    """
    for path, made_by in _known(run):
        # A GPU's features are a CPU's but for rounding.
        if found := list(differences({**made_by, "device": None}, {**facts, "device": None})):
            logger.warning(
                "the regions of %s were made otherwise: %s; the model knows the features of the detector that it was "
                "trained on alone",
                path, "; ".join(found),
            )  # fmt: skip


def _known(run: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return, of each data set of the run, its path and what its regions depend on."""
    data = (read_run(run) or {}).get("data", [])
    return [(str(it.get("path")), it["extractor"]) for it in data if isinstance(it.get("extractor"), dict)]
