"""Which detector a model was trained on the regions of. With another one's it answers at random, and says nothing.

A run knows its data sets by a hash, and each data set, in dataset.json, what its regions depend on. Where the data set
is no longer at its place, the hash is compared with those that this detector gives at the usual settings.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from extractors.decode import DecodeSettings
from extractors.extractor import DetectorSettings, ExtractorSettings
from extractors.selection import SelectionSettings
from pipeline.extract.plan import differences
from pipeline.shards.dataset import fingerprint_digest, read_dataset
from pipeline.shards.errors import RefusedError, ShardError
from pipeline.shards.sample import FORMAT
from pipeline.tasks.photographs import DETECTOR_BATCH
from pipeline.train.run_folder import read_run

logger = logging.getLogger(__name__)

MOST_THREADS = 16


def given(
    detector: DetectorSettings, selection: SelectionSettings
) -> tuple[DetectorSettings | None, SelectionSettings | None]:
    """Return a command's settings of a detector; None for those that nobody chose, whose --device may be chosen yet."""
    chosen = replace(detector, device="auto", seed=0) != DetectorSettings()
    return detector if chosen else None, selection if selection != SelectionSettings() else None


def choose_extractor(
    run: Path, detector: DetectorSettings | None, selection: SelectionSettings | None, *, device: Any
) -> ExtractorSettings:
    """Return settings of a detector: given ones, else those of the run in this folder, else the usual ones.

    A run has them of the first of its data sets that is still where it was; of weights that are not the detector's own
    it knows the hash alone, and `warn_of_another_detector` says so. device: of a detector that is not given. Raises
    RefusedError for a run on regions of detectron2, whose config file nobody but the caller has.
    """
    made_by: Mapping[str, Any] = {}
    for data in (read_run(run) or {}).get("data", []):
        path = str(data.get("path"))
        if found := extractor_of(path, str(data.get("fingerprint"))):
            made_by = found
            break
    if selection is None:
        selection = SelectionSettings(**made_by.get("selection", {}))
    if detector is None and made_by.get("extractor") == "detectron2":
        raise RefusedError(
            f"{path}, which the model was trained on, was extracted with detectron2; give --detector detectron2 and "
            "its --config-file and --weights"
        )
    if detector is None:
        same = ("feature_layer", "precision", "top_classes")
        detector = DetectorSettings(
            detector=made_by.get("extractor", DetectorSettings().detector),
            device=device,
            **{name: made_by[name] for name in same if name in made_by},
            **({"torchvision_model": made_by["model"].removeprefix("fasterrcnn_")} if "model" in made_by else {}),
        )
        if made_by:
            logger.info("detector as for %s: %s, boxes %s", path, detector.detector, selection.boxes)
    return ExtractorSettings(detector=detector, selection=selection)


def warn_of_another_detector(run: Path, facts: Mapping[str, Any]) -> None:
    """Warn where the run in this folder was trained on regions of another detector; silent where it is no run.

    facts: `Extractor.fingerprint()` of the detector that is used.
    """
    described = read_run(run)
    for data in (described or {}).get("data", []):
        for line in other_detector(data, facts):
            logger.warning("%s; the model knows the features of the detector it was trained on alone", line)


def other_detector(data: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line where a data set, as run.json names it, was made by another detector, or nobody can tell."""
    path, fingerprint = str(data.get("path")), data.get("fingerprint")
    made_by = extractor_of(path, str(fingerprint))
    if made_by is not None:
        # A GPU's features are a CPU's but for rounding.
        found = list(differences({**made_by, "device": None}, {**facts, "device": None}))
        if found:
            yield f"the regions of {path} were made otherwise: {'; '.join(found)}"
    elif fingerprint not in usual_fingerprints(facts):
        yield (
            f"{path}, which the model was trained on, is not there to compare, and its fingerprint "
            f"{str(fingerprint)[:16]} is not that of this detector at the usual settings"
        )


def extractor_of(path: str, fingerprint: str) -> dict[str, Any] | None:
    """Return what made the data set at `path`; None where it is not there, or not the one of this fingerprint."""
    try:
        info = read_dataset(Path(path))
    except (ShardError, OSError):
        return None
    made_by = info.fingerprint_fields.get("extractor")
    return dict(made_by) if info.fingerprint == fingerprint and isinstance(made_by, Mapping) else None


def usual_fingerprints(facts: Mapping[str, Any]) -> set[str]:
    """Return the fingerprints of data sets that this detector makes when nothing else is chosen."""
    usual = {"format": FORMAT, "decoding": asdict(DecodeSettings()), "batch_size": DETECTOR_BATCH}
    on_cpu = {**usual, "extractor": {**facts, "device": "cpu"}}
    found = {fingerprint_digest({**on_cpu, "cpus_per_worker": threads}) for threads in range(1, MOST_THREADS + 1)}
    return found | {fingerprint_digest({**usual, "extractor": {**facts, "device": "cuda"}})}
