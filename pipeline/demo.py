"""`vilbert demo`: the whole way from nothing to a pre-trained model, as commands that anyone can run again."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """Make a small data set, extract its region features with Ray, prove them complete, look, and train on them."""

    output: Path = Path("demo")
    """The folder for everything that the demo makes; a demo that is there already is replaced."""
    scenes: int = 4000
    """How many scenes to draw; with fewer the model learns less."""

    def __post_init__(self) -> None:
        if self.scenes < 10:
            raise ValueError(f"--scenes {self.scenes}: give at least 10")


def demo(settings: DemoSettings) -> int:
    """Run the stages one after another and say what they made; return the first exit status that is not 0."""
    from pipeline.cli import main

    output = settings.output
    marker = output / ".vilbert-demo"
    if output.exists():
        if not marker.exists() and any(output.iterdir()):
            print(f"vilbert demo: {output} holds something else; choose another --output", file=sys.stderr)
            return 2
        shutil.rmtree(output)
    output.mkdir(parents=True)
    marker.touch()
    for command in commands(output, settings.scenes):
        print(f"\n$ vilbert {shlex.join(command)}", flush=True)
        if status := main(command):
            return status
    print(summary(output, settings.scenes))
    return 0


def summary(output: Path, scenes: int) -> str:
    """Return what the demo says last: what was made, and what the model has learnt."""
    figures = json.loads((output / "pretrained" / "evaluation.json").read_text(encoding="utf-8"))["figures"]
    return (
        f"\nDone. {scenes} scenes were drawn, a Faster R-CNN described up to 20 regions of each, and the shards in\n"
        f"{output}/features were proved complete and undamaged. {output}/regions.png has the detector's boxes and\n"
        "labels on one scene. A small ViLBERT was trained on the regions and captions of four scenes in five. On\n"
        "scenes that it has never seen, it\n"
        f"  tells whether a caption belongs to a picture in {figures['alignment_accuracy']:.0%} (guessing: 50%),\n"
        f"  names the class of a hidden region in {figures['masked_image_accuracy']:.0%} "
        f"(always the commonest: {figures['masked_image_majority']:.0%}),\n"
        f"  fills in a hidden word in {figures['masked_lm_accuracy']:.0%}.\n"
        f"{output}/pretrained/report.html has the curves, {output}/pretrained/final the model. Run the commands above\n"
        "on your own images: the README says how."
    )


def commands(output: Path, scenes: int) -> list[list[str]]:
    """Return the demo's command lines, without the leading `vilbert`."""
    shapes, manifest, features = output / "shapes", output / "shapes.parquet", output / "features"
    return [
        ["shapes", str(shapes), "--scenes", str(scenes), "--seed", "0"],
        [
            "manifest",
            str(shapes / "karpathy" / "dataset_coco.json"),
            "--images",
            str(shapes),
            "--output",
            str(manifest),
        ],
        [
            *("extract", str(manifest), "--output", str(features), "--detector", "shapes", "--shard-size", "250"),
            *("--boxes", "2-20", "--confidence", "0.5", "--nms", "0.5"),
        ],
        ["verify", str(features), "--deep"],
        ["stats", str(features)],
        ["inspect", f"{features}:0", "--image", str(output / "regions.png"), "--max-boxes", "8"],
        ["pretrain", str(features), "--output", str(output / "pretrained"), "--config", "shapes"],
    ]
