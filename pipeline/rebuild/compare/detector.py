"""A detector as one side of a comparison: its settings (from a name, a YAML file or a data set) and its runs."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vilbert.extractors.detectors.registry import DETECTORS, describe_extractor, find_detector
from vilbert.extractors.extractor import (
    DetectorSettings,
    Extractor,
    ExtractorError,
    ExtractorSettings,
    build_extractor,
)
from vilbert.extractors.recorded_settings import detector_values, selection_values
from vilbert.extractors.selection import SelectionSettings
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.extract.batches import in_row_order
from vilbert.pipeline.extract.detection import Detection
from vilbert.pipeline.extract.prepare import Prepared
from vilbert.pipeline.extract.turns import Turns
from vilbert.pipeline.jobs.journal import Journal
from vilbert.pipeline.rebuild.compare.settings import PREFIX
from vilbert.pipeline.shards.failures import FailureRow
from vilbert.pipeline.shards.sample import Sample
from vilbert.settings import SettingsError, file_value, options_of
from vilbert.untrusted.documents import DocumentError, read_yaml


def detector_settings(text: str, recorded: Mapping[str, Any], device: str) -> ExtractorSettings:
    """Return the settings that an argument names.

    Args:
        text: detector:NAME, or a YAML file with options of detector and selection.
        recorded: The other set's record of its extractor. With detector:NAME, if NAME is that detector, its settings
            are the defaults, so that the same regions are expected.
        device: `DetectorSettings.device`.

    Raises:
        RefusedError: The detector, the file or an option does not exist, or a value is invalid.
    """
    try:
        if not text.startswith(PREFIX):
            values = read_detector_file(Path(text))
            return _settings(values, device)
        name = text.removeprefix(PREFIX)
        values = selection_values(recorded)
        if recorded.get("extractor") == name and DETECTORS.is_known(name):
            values |= detector_values(recorded)
        if find_detector(name).needs_files:
            raise ValueError("needs your own files; write its options (detector, weights, ...) to a .yaml file")
        return _settings({**values, "detector": name}, device)
    except ValueError as error:
        raise RefusedError(f"{text}: {error}") from error


def recorded_settings(recorded: Mapping[str, Any], device: str) -> ExtractorSettings:
    """Return the settings with which a set's detector can be built again.

    Raises:
        ValueError: The set's record is not sufficient.
    """
    values = detector_values(recorded)
    if "detector" not in values:
        raise ValueError("it does not record its detector")
    # An encoder and the models of transformers are recorded by their hash alone.
    if find_detector(values["detector"]).needs_files or "encoder" in recorded or "model_type" in recorded:
        raise ValueError(f"the detector {values['detector']} needs your own files")
    return _settings({**selection_values(recorded), **values}, device)


def read_detector_file(path: Path) -> dict[str, Any]:
    """Return the options of a YAML file by name, in underscores.

    Raises:
        ValueError: It cannot be read, or a name or value is not a valid option of a detector.
    """
    try:
        found = read_yaml(path)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from error
    except DocumentError as error:
        raise ValueError(f"is not YAML: {error}") from error
    if not isinstance(found, dict):
        raise ValueError("expected a mapping of a detector's options to values")
    options = options_of(ExtractorSettings)
    values = {}
    for key, value in found.items():
        name = str(key).replace("-", "_")
        if name not in options:
            raise ValueError(f"{key!r:.60} is not an option of a detector; `vilbert extract --help` lists them")
        try:
            values[name] = file_value(options[name].type, value)
        except SettingsError as error:
            raise ValueError(f"{key}: {error}") from None
    return values


def _settings(values: Mapping[str, Any], device: str) -> ExtractorSettings:
    groups: dict[str, dict[str, Any]] = {"detector": {}, "selection": {}}
    options = options_of(ExtractorSettings)
    for name, value in values.items():
        groups[options[name].path[0]][name] = value
    groups["detector"].setdefault("device", device)
    return ExtractorSettings(
        detector=DetectorSettings(**groups["detector"]), selection=SelectionSettings(**groups["selection"])
    )


class RunningDetector:
    """A built detector. Images on which it fails become `FailureRow`s, as in `vilbert extract`."""

    def __init__(self, settings: ExtractorSettings, batch_size: int) -> None:
        self.settings = settings
        self.batch_size = batch_size
        extractor = build_extractor(settings)
        self.facts = describe_extractor(extractor, settings.detector.detector, settings.detector.opts)
        self._use(extractor)

    def _use(self, extractor: Extractor) -> None:
        self.extractor = extractor
        self._detection = Detection(extractor, self.batch_size, Turns(str(self.facts["device"])))

    def with_extractor(self, extractor: Extractor) -> RunningDetector:
        """Return the detector with another extractor that differs in its preprocessing only."""
        other = copy.copy(self)
        other._use(extractor)
        return other

    def run(self, images: Iterable[Prepared | FailureRow]) -> Iterator[Sample | FailureRow]:
        """Yield the results for images in order; their row numbers must be consecutive."""
        images = list(images)
        if images:
            yield from in_row_order(self._detection.outcomes(images, Journal()), {}, first_row=images[0].row)

    def require_weights(self, recorded: Mapping[str, Any]) -> None:
        """Raise ExtractorError if the weights differ from those that a set records."""
        wanted, found = recorded.get("weights_sha256"), self.facts.get("weights_sha256")
        if wanted is not None and wanted != found:
            raise ExtractorError(f"its weights have the SHA-256 {wanted!s:.12}, the detector's here {found!s:.12}")

    def changed(self, **values: Any) -> RunningDetector:
        """Return a new detector whose settings differ in some fields of `DetectorSettings`."""
        settings = replace(self.settings, detector=replace(self.settings.detector, **values))
        return RunningDetector(settings, self.batch_size)
