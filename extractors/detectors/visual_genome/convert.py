"""A published checkpoint as one file of weights and conventions, with every tensor accounted for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vilbert.extractors.detectors.visual_genome.conventions import (
    Architecture,
    Conventions,
    DetectorFile,
    named_attributes,
)
from vilbert.extractors.detectors.visual_genome.detector_file import build_network
from vilbert.extractors.detectors.visual_genome.geometry import cell_anchors
from vilbert.extractors.detectors.visual_genome.heads import level_strides
from vilbert.extractors.detectors.visual_genome.hf_config import with_hf_config
from vilbert.extractors.detectors.visual_genome.layouts import (
    LAYOUTS,
    detect_layout,
    detector_name,
    infer_architecture,
    is_unused,
    rename,
)
from vilbert.extractors.detectors.visual_genome.names import Kind, bottom_up_names, read_names
from vilbert.extractors.detectors.visual_genome.presets import PRESETS
from vilbert.extractors.extractor import ExtractorError
from vilbert.extractors.weights import hash_tensors, load_weights, require_finite
from vilbert.settings import SettingsError

_SAME_ANCHOR = 5e-4
"""Pixels by which an anchor of the file may differ from the preset's: the same one, computed in another order."""


@dataclass(frozen=True)
class Converted:
    """A converted detector in memory."""

    file: DetectorFile
    state: dict[str, Tensor]
    """By the names of `network.py`, float32."""
    unused: tuple[str, ...]
    """Names in the checkpoint that take no part in extraction."""
    anchors: str
    """Where the anchors come from."""


def convert(
    path: Path,
    *,
    layout: str | None = None,
    preset: str | None = None,
    config_file: Path | None = None,
    classes: Path | None = None,
    attributes: Path | None = None,
) -> Converted:
    """Read a published checkpoint.

    Args:
        path: .pkl, .pth, .bin or .safetensors.
        layout: One of `LAYOUTS`; None: detected.
        preset: One of `PRESETS`; None: that of the layout.
        config_file: Hugging Face's config.yaml; None: the one beside the file, if there is one.
        classes: Names of the object classes; None: those of Bottom-Up Attention.
        attributes: Names of the attributes; likewise.

    Raises:
        ExtractorError: The file is damaged, of another layout, or of other classes.
    """
    state, source_sha256 = load_weights(path)
    require_finite(state, path)
    try:
        layout = layout or detect_layout(set(state))
        renamed = {name: tensor.float().contiguous() for name, tensor in rename(state, layout).items()}
        architecture = infer_architecture(renamed)
        preset = preset or ("milvlg-r152" if "backbone.stem.norm.weight" in renamed else LAYOUTS[layout].preset)
        conventions = PRESETS[preset]
        if layout == "hf":
            beside = path.with_name("config.yaml")
            config_file = config_file or (beside if beside.is_file() else None)
        if config_file is not None:
            conventions = with_hf_config(conventions, config_file)
        anchors = _settle_anchors(renamed, conventions, architecture)
        _check_shapes(renamed, architecture, conventions, f"layout {layout} with preset {preset}")
        detector = detector_name(layout, architecture)
        file = DetectorFile(
            detector=detector,
            layout=layout,
            preset=preset,
            architecture=architecture,
            conventions=conventions,
            class_names=_names(classes, "objects", architecture.classes, detector),
            attribute_names=_names(attributes, "attributes", named_attributes(architecture, conventions), detector),
            source_sha256=source_sha256,
            tensors_sha256=hash_tensors(renamed),
        )
    except ExtractorError as error:
        raise error if str(error).startswith(str(path)) else ExtractorError(f"{path}: {error}") from error
    except SettingsError as error:
        raise ExtractorError(f"{path}: {error}") from error
    unused = tuple(sorted(name for name in state if is_unused(name, layout)))
    return Converted(file=file, state=renamed, unused=unused, anchors=anchors)


def _settle_anchors(state: dict[str, Tensor], conventions: Conventions, architecture: Architecture) -> str:
    """Add the preset's anchors where the file has none; return where the anchors come from.

    The file's own ones stay: the original code computes with them, whatever its configuration says.
    """
    expected = cell_anchors(conventions, level_strides(architecture.pyramid_channels is not None))
    found = sorted(name for name in state if name.startswith("anchors."))
    if not found:
        state |= {f"anchors.{index}": anchors for index, anchors in enumerate(expected)}
        return "those of the preset; the file has none"
    if found != sorted(f"anchors.{index}" for index in range(len(expected))):
        raise ExtractorError(f"it has anchors of {len(found)} levels, the preset of {len(expected)}")
    for index, anchors in enumerate(expected):
        if state[f"anchors.{index}"].shape != anchors.shape:
            raise ExtractorError(
                f"its anchors of level {index} have the shape {list(state[f'anchors.{index}'].shape)}, those of the "
                f"preset {list(anchors.shape)}"
            )
    same = all(
        torch.allclose(state[f"anchors.{index}"], anchors, rtol=0, atol=_SAME_ANCHOR)
        for index, anchors in enumerate(expected)
    )
    return "those of the file, equal to the preset's" if same else "those of the file, which differ from the preset's"


def _check_shapes(state: dict[str, Tensor], architecture: Architecture, conventions: Conventions, what: str) -> None:
    try:
        expected = {
            name: list(tensor.shape) for name, tensor in build_network(architecture, conventions).state_dict().items()
        }
    except (RuntimeError, ValueError) as error:
        raise ExtractorError(f"its shapes do not match a network of {what}: {error}") from error
    found = {name: list(tensor.shape) for name, tensor in state.items()}
    problems = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "of another shape": [
            f"{name} {found[name]}, not {expected[name]}"
            for name in expected
            if name in found and found[name] != expected[name]
        ],
    }
    listed = [
        f"{len(names)} tensors {kind} ({', '.join(sorted(names)[:5])}{', ...' if len(names) > 5 else ''})"
        for kind, names in problems.items()
        if names
    ]
    if listed:
        raise ExtractorError(f"does not fit {what}: {'; '.join(listed)}")


def _names(path: Path | None, kind: Kind, count: int, detector: str) -> tuple[str, ...]:
    option = "--classes" if kind == "objects" else "--attributes"
    if count == 0:
        if path is not None:
            raise ExtractorError(f"{option} {path}: the checkpoint has no {kind}")
        return ()
    if path is None and detector != "butd-r101":
        raise ExtractorError(
            f"it has {count} {kind}, whose names are not part of this package; give {option} FILE (docs/detectors.md)"
        )
    names = bottom_up_names(kind) if path is None else read_names(path, kind)
    if len(names) != count:
        source = path or "Bottom-Up Attention"
        raise ExtractorError(
            f"it has {count} {kind}, {source} names {len(names)}: a detector of other classes; give {option} FILE "
            "with its own names"
        )
    return names
