"""`vilbert demo`: the whole way from nothing to a model that answers questions, as commands anyone can run again."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """Make a small data set, extract its region features with Ray, prove them complete, look, pre-train, fine-tune.

    The last of it is report.html, a page that shows what the model has learnt.
    """

    output: Path = Path("demo")
    """The folder for everything that the demo makes; a demo that is there already is replaced."""
    scenes: int = 4000
    """How many scenes to draw; with fewer the model learns less."""

    def __post_init__(self) -> None:
        if self.scenes < 10:
            raise ValueError(f"--scenes {self.scenes}: give at least 10")


def demo(settings: DemoSettings) -> int:
    """Run the stages one after another and say what they made; return the first exit status that is not 0."""
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
        if status := run(command):
            return status
    print(summary(output, settings.scenes))
    return 0


def run(command: list[str]) -> int:
    """Run a command and return its exit status; where Ray does not start, run it again with the local backend."""
    from pipeline.cli import main
    from pipeline.ray_session import RayStartError

    try:
        return main(command, passing=(RayStartError,))
    except RayStartError as error:
        local = [*command, "--backend", "local"]
        print(f"vilbert demo: {error}", file=sys.stderr)
        print("The demo continues with the local backend: the shards will be the same, one worker writes them.")
        print(f"\n$ vilbert {shlex.join(local)}", flush=True)
        return main(local)


def summary(output: Path, scenes: int) -> str:
    """Return what the demo says last: what was made, what the models have learnt, where to look and what to do next."""

    def figures(name: str) -> Any:
        return json.loads((output / name).read_text(encoding="utf-8"))

    learnt = figures("pretrained/evaluation.json")["figures"]
    right, blind = (figures(f"{name}.figures.json")["accuracy"] for name in ("vqa-val", "vqa-val-blind"))
    return (
        f"\nDone. {scenes} scenes were drawn, a Faster R-CNN described up to 20 regions of each, and the shards in\n"
        f"{output}/features were proved complete and undamaged. A small ViLBERT was pre-trained on the regions and\n"
        "captions of four scenes in five. On scenes that it has never seen, it\n"
        f"  tells whether a caption belongs to a picture in {learnt['alignment_accuracy']:.0%} (guessing: 50%),\n"
        f"  names the class of a hidden region in {learnt['masked_image_accuracy']:.0%} "
        f"(always the commonest: {learnt['masked_image_majority']:.0%}),\n"
        f"  fills in a hidden word in {learnt['masked_lm_accuracy']:.0%}.\n"
        "Then it was fine-tuned on questions (VQA). Of those about scenes that it has never seen, it\n"
        f"  answers {right:.0%} rightly, and {blind:.0%} when shown another scene: the difference is what it sees.\n"
        f"\nOpen {output}/report.html in a browser: scenes with the detector's boxes, questions and answers, where\n"
        f"the model looks, curves. The models are {output}/pretrained/final and {output}/vqa/final.\n"
        "Ask it yourself:\n"
        f"  vilbert {shlex.join(question(output))}\n"
        "Run the commands above on your own images: the README says how, and docs/tasks.md has the other tasks."
    )


def question(output: Path) -> list[str]:
    """Return a command line, without the leading `vilbert`, that asks about a scene that the model has not seen."""
    shapes = output / "shapes"
    document = json.loads((shapes / "vqa" / "v2_OpenEnded_mscoco_val2014_questions.json").read_text(encoding="utf-8"))
    asked = document["questions"][0]
    photograph = shapes / "val2014" / f"COCO_val2014_{asked['image_id']:012}.jpg"
    return [
        *("predict", "vqa", "--checkpoint", str(output / "vqa"), "--image", str(photograph)),
        *("--question", asked["question"]),
    ]


DETECTOR = ("--detector", "shapes", "--boxes", "2-20", "--confidence", "0.5", "--nms", "0.3")
"""What finds the regions; later commands know it from the data set and from the model."""


def commands(output: Path, scenes: int) -> list[list[str]]:
    """Return the demo's command lines, without the leading `vilbert`."""
    shapes, manifest, features = output / "shapes", output / "shapes.parquet", output / "features"
    pretrained, vqa, results, blind = (
        str(output / name) for name in ("pretrained", "vqa", "vqa-val.json", "vqa-val-blind.json")
    )
    questions = (str(features), "--annotations", str(shapes / "vqa"))
    return [
        ["shapes", str(shapes), "--scenes", str(scenes), "--seed", "0"],
        [
            *("manifest", str(shapes / "karpathy" / "dataset_coco.json"), "--images", str(shapes)),
            *("--output", str(manifest)),
        ],
        ["extract", str(manifest), "--output", str(features), *DETECTOR, "--shard-size", "250"],
        ["verify", str(features), "--deep"],
        ["stats", str(features)],
        ["inspect", f"{features}:0", "--image", str(output / "regions.png"), "--max-boxes", "8"],
        ["pretrain", str(features), "--output", pretrained, "--config", "shapes"],
        [
            *("finetune", "vqa", *questions, "--init-from", f"{pretrained}/final", "--config", "shapes"),
            *("--output", vqa),
        ],
        ["evaluate", "vqa", *questions, "--checkpoint", vqa, "--output", results],
        ["evaluate", "vqa", *questions, "--checkpoint", vqa, "--blind", "--output", blind],
        [
            *("report", *questions, "--checkpoint", vqa, "--results", results, "--blind-results", blind),
            *("--pretrained", pretrained, "--output", str(output / "report.html")),
        ],
    ]
