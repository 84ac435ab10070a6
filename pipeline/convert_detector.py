"""`vilbert convert-detector`: convert a published Visual Genome detector to one file for `--weights`."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from vilbert.pipeline.errors import OutputError, RefusedError
from vilbert.pipeline.shards.storage.atomic import write_atomic
from vilbert.settings import validated

if TYPE_CHECKING:
    from vilbert.extractors.detectors.visual_genome.convert import Converted


@validated
class ConvertDetectorSettings:
    """Convert a published Faster R-CNN trained on Visual Genome to one safetensors file with its configuration inside.

    No code in the file is executed, and every tensor is accounted for. docs/detectors.md lists the published files.
    """

    source: Positional[Path]
    """The checkpoint: .pkl, .pth, .bin or .safetensors."""
    output: Path
    """File to write, *.safetensors; replaces an existing converted detector only with --overwrite."""
    layout: Literal["auto", "airsplay", "hf", "milvlg", "vmb", "vinvl"] = "auto"
    """Layout of the parameter names; auto: detected."""
    preset: Literal["airsplay", "hf", "milvlg", "milvlg-r152", "caffe", "vmb", "vinvl"] | None = None
    """Conventions of the port to reproduce; default: that of the layout."""
    config_file: Path | None = None
    """config.yaml of frcnn-vg-finetuned; default: the one next to the checkpoint, if it exists."""
    classes: Path | None = None
    """File with the names of the object classes; default: the 1600 of Bottom-Up Attention."""
    attributes: Path | None = None
    """File with the names of the attributes; default: the 400 of Bottom-Up Attention."""
    overwrite: bool = False
    """Replace the output file."""
    json: bool = False
    """Print one JSON object instead of text."""

    def __post_init__(self) -> None:
        """Reject an output that is the source or has another suffix, and a configuration for another layout."""
        if self.output.suffix != ".safetensors":
            raise ValueError(f"--output {self.output}: name a file that ends in .safetensors")
        if self.output.resolve() == self.source.resolve():
            raise ValueError(f"--output {self.output} is the source: give another file")
        if self.config_file is not None and self.layout not in ("auto", "hf"):
            raise ValueError(f"--config-file has no effect with --layout {self.layout}; leave it out")


def convert_detector(settings: ConvertDetectorSettings) -> int:
    """Convert a checkpoint, print the report and return the exit status.

    The status is 1, and nothing is written, if the checkpoint is damaged or does not match the layout.

    Raises:
        RefusedError: The source does not exist.
        OutputError: The output exists or cannot be written.
    """
    if not settings.source.is_file():
        raise RefusedError(f"{settings.source}: no such file")
    if settings.output.exists() and (not settings.output.is_file() or not settings.overwrite):
        raise OutputError(f"--output {settings.output}: exists; give another file, or --overwrite")
    if not settings.output.parent.is_dir():
        raise OutputError(f"--output {settings.output}: the folder {settings.output.parent} does not exist")

    from vilbert.extractors.detectors.visual_genome.convert import convert
    from vilbert.extractors.extractor import ExtractorError

    try:
        converted = convert(
            settings.source,
            layout=None if settings.layout == "auto" else settings.layout,
            preset=settings.preset,
            config_file=settings.config_file,
            classes=settings.classes,
            attributes=settings.attributes,
        )
    except ExtractorError as error:
        print(f"vilbert convert-detector: {error}", file=sys.stderr)
        return 1
    facts = {**_facts(converted), "output": str(settings.output), "sha256": _write(converted, settings.output)}
    print(json.dumps(facts, indent=2) if settings.json else "\n".join(_report(facts)))
    return 0


def _write(converted: Converted, output: Path) -> str:
    """Write the file atomically and return its SHA-256."""
    from safetensors.torch import save

    from vilbert.extractors.detectors.visual_genome.detector_file import metadata

    data = save(converted.state, metadata=metadata(converted.file))
    try:
        write_atomic(output, data)
    except OSError as error:
        raise OutputError(f"--output {output}: cannot write it: {error.strerror or error}") from error
    return hashlib.sha256(data).hexdigest()


def _facts(converted: Converted) -> dict[str, object]:
    file = converted.file
    return {
        "detector": file.detector,
        "layout": file.layout,
        "preset": file.preset,
        "classes": len(file.class_names),
        "attributes": len(file.attribute_names),
        "tensors": len(converted.state),
        "parameters": sum(tensor.numel() for tensor in converted.state.values()),
        "anchors": converted.anchors,
        "unused": list(converted.unused),
        "source_sha256": file.source_sha256,
    }


def _report(facts: dict[str, object]) -> Iterable[str]:
    yield (
        f"{facts['detector']} in layout {facts['layout']}, preset {facts['preset']}: {facts['classes']} classes, "
        f"{facts['attributes']} attributes"
    )
    yield f"tensors: {facts['tensors']} used, {facts['parameters']:,} parameters"
    unused = facts["unused"]
    assert isinstance(unused, list)
    counters = [name for name in unused if name.endswith(".num_batches_tracked")]
    if counters:
        yield f"not used: {len(counters)} counters of training steps (num_batches_tracked)"
    if others := [name for name in unused if name not in counters]:
        yield f"not used: {', '.join(others)}"
    yield f"anchors: {facts['anchors']}"
    yield f"source sha256: {facts['source_sha256']}"
    yield f"wrote {facts['output']}, sha256 {facts['sha256']}"
    yield f"next: vilbert extract ... --detector {facts['detector']} --weights {facts['output']}"
