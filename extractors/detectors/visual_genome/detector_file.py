"""The file of a converted detector: safetensors, with `DetectorFile` as JSON in its metadata."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import safetensors
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from vilbert.extractors.detectors.visual_genome.conventions import Architecture, Conventions, DetectorFile
from vilbert.extractors.detectors.visual_genome.network import Network
from vilbert.extractors.extractor import ExtractorError
from vilbert.extractors.weights import hash_tensors, require_finite
from vilbert.interrupts import delayed_interrupts
from vilbert.settings import SettingsError, reason
from vilbert.untrusted.documents import DocumentError, parse_json

KEY = "vilbert_detector"
"""Of the metadata."""
MAX_PARAMETERS = 2_000_000_000
"""Refuses an architecture that no published detector comes near, before memory is taken for it."""


def metadata(file: DetectorFile) -> dict[str, str]:
    """Return the metadata of a file."""
    return {KEY: TypeAdapter(DetectorFile).dump_json(file).decode(), "format": "pt"}


def build_network(architecture: Architecture, conventions: Conventions) -> Network:
    """Return a network without weights, on the meta device; raise ExtractorError where it would be too large."""
    with torch.device("meta"):
        network = Network(architecture, conventions)
    if sum(tensor.numel() for tensor in network.state_dict().values()) > MAX_PARAMETERS:
        raise ExtractorError(f"an architecture of more than {MAX_PARAMETERS:,} parameters: {asdict(architecture)}")
    return network


def read_detector_file(
    path: str | Path, detector: str, adapt: Callable[[Conventions], Conventions] = lambda conventions: conventions
) -> tuple[DetectorFile, Network]:
    """Return what a converted file says and its network.

    Args:
        path: The file.
        detector: Name that it must have.
        adapt: Changes of its conventions for this run.

    Raises:
        ExtractorError: The file is damaged, was not converted, or is of another detector.
    """
    path = Path(path)
    file, state = _read(path)
    if file.detector != detector:
        raise ExtractorError(f"{path}: holds {file.detector}, not {detector}; give --detector {file.detector}")
    if hash_tensors(state) != file.tensors_sha256:
        raise ExtractorError(f"{path}: its tensors are not those that were converted; convert the checkpoint again")
    require_finite(state, path)
    try:
        network = build_network(file.architecture, adapt(file.conventions))
    except (ValueError, RuntimeError) as error:
        raise ExtractorError(f"{path}: its configuration does not describe a network: {error}") from error
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if found != expected:
        names = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise ExtractorError(f"{path}: its tensors do not match its configuration: {', '.join(names[:5])}")
    network.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    return file, network


def _read(path: Path) -> tuple[DetectorFile, dict[str, Tensor]]:
    try:
        if not path.is_file():
            raise ExtractorError(f"{path}: no such file; create it with `vilbert convert-detector`")
        with delayed_interrupts(), safetensors.safe_open(str(path), framework="pt") as opened:
            text = (opened.metadata() or {}).get(KEY)
            if text is None:
                raise ExtractorError(
                    f"{path}: is not a converted detector; run `vilbert convert-detector {path} --output FILE` first"
                )
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
    except safetensors.SafetensorError as error:
        raise ExtractorError(
            f"{path}: is damaged or is not safetensors ({error}); --weights expects a file that `vilbert "
            "convert-detector` wrote"
        ) from error
    except OSError as error:
        raise ExtractorError(f"{path}: cannot read the weights: {error.strerror}") from error
    try:
        return TypeAdapter(DetectorFile).validate_python(parse_json(text)), state
    except SettingsError as error:
        raise ExtractorError(f"{path}: {KEY} in its metadata is wrong: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ExtractorError(f"{path}: {KEY} in its metadata is wrong: {where}: {reason(first)}") from error
    except DocumentError as error:
        raise ExtractorError(f"{path}: {KEY} in its metadata is {error}") from error
