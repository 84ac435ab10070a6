"""`vilbert demo`: the whole way from nothing to checked region features, as commands that anyone can run again."""

from __future__ import annotations

import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """Make a small data set, extract its region features with Ray, prove them complete and look at them."""

    output: Path = Path("demo")
    """The folder for everything that the demo makes; a demo that is there already is replaced."""
    scenes: int = 400
    """How many scenes to draw."""

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
    print(
        f"\nDone. {settings.scenes} scenes were drawn, a Faster R-CNN described 36 regions of each, and the shards in\n"
        f"{output}/features were proved complete and undamaged. Look at {output}/regions.png: the detector's\n"
        f"boxes and labels on one scene. {output}/features/dataset.json says what the features are and how they\n"
        "were made. Run the commands above on your own images: the README says how."
    )
    return 0


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
        ["extract", str(manifest), "--output", str(features), "--detector", "shapes", "--shard-size", "100"],
        ["verify", str(features), "--deep"],
        ["stats", str(features)],
        ["inspect", f"{features}:0", "--image", str(output / "regions.png"), "--max-boxes", "8"],
    ]
