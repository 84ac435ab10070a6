"""Is this the detector whose regions a model was trained on? With another one's it answers at random, and says nothing.

A run knows its data sets by a hash, and each data set, in dataset.json, what its regions depend on. Where the data set
is no longer at its place, the hash is compared with those that this detector gives at the usual settings.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from extractors.decode import DecodeSettings
from pipeline.extract.plan import differences
from pipeline.shards.dataset import fingerprint_digest, read_dataset
from pipeline.shards.errors import ShardError
from pipeline.shards.sample import FORMAT
from pipeline.tasks.photographs import DETECTOR_BATCH
from pipeline.train.run_folder import read_run

logger = logging.getLogger(__name__)

MOST_THREADS = 16


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
