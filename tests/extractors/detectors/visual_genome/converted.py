"""A converted detector with random weights, for tests of what it does with images and files."""

from __future__ import annotations

from pathlib import Path

from tests.extractors.detectors.visual_genome.random_checkpoints import random_state, read_golden, write_checkpoint
from vilbert.extractors.detectors.visual_genome.extractor import VisualGenomeExtractor
from vilbert.extractors.extractor import DetectorSettings, ExtractorSettings, build_extractor
from vilbert.extractors.selection import SelectionSettings
from vilbert.pipeline.cli import main

SMALL = ("min_size", "96", "max_size", "160", "proposals", "40")


def checkpoint(folder: Path, layout: str, suffix: str, changes: dict[str, object] | None = None) -> Path:
    """Write a random checkpoint of a layout, with tensors replaced, added, or left out where None; return its path."""
    shapes, golden = read_golden(layout)
    fixed = {key.removeprefix("fixed:"): values for key, values in golden.items() if key.startswith("fixed:")}
    state = {**random_state(shapes, fixed), **(changes or {})}
    return write_checkpoint(
        folder / f"checkpoint{suffix}", {name: tensor for name, tensor in state.items() if tensor is not None}
    )


def names(folder: Path, classes: int = 20, attributes: int = 8) -> list[str]:
    """Write lists of names; return the options that give them."""
    options = []
    for kind, count in {"classes": classes, "attributes": attributes}.items():
        if count:
            path = folder / f"{kind}.txt"
            path.write_text("\n".join(f"{kind}{index},synonym" for index in range(count)))
            options += [f"--{kind}", str(path)]
    return options


def converted(folder: Path, layout: str = "airsplay", suffix: str = ".pkl") -> Path:
    """Convert a random checkpoint; return the converted file."""
    output = folder / f"{layout}.safetensors"
    attributes = 0 if layout == "vmb" else 8
    source = checkpoint(folder, layout, suffix)
    options = names(folder, attributes=attributes)
    assert main(["convert-detector", str(source), "--output", str(output), "--overwrite", *options]) == 0
    return output


def build(
    weights: Path, detector: str = "butd-r101", selection: SelectionSettings | None = None, **settings: object
) -> VisualGenomeExtractor:
    """Build the extractor of a converted file on the CPU."""
    chosen = {"opts": SMALL, "device": "cpu", **settings}
    extractor = build_extractor(
        ExtractorSettings(
            detector=DetectorSettings(detector=detector, weights=weights, **chosen),  # type: ignore[arg-type]
            selection=selection or SelectionSettings(boxes="5-10"),
        )
    )
    assert isinstance(extractor, VisualGenomeExtractor)
    return extractor
