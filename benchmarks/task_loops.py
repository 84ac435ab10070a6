"""Measure the overhead of the training loop task by task, as `benchmarks/training.py` does for pre-training.

The rate is that of `run_steps`, as `vilbert finetune TASK --config shapes` runs it with one loader worker, in items per
second. It is divided by the rate of the bare step (forward, backward, clip, optimizer) on the same batches; both take
turns in one run. An item is a question, a phrase, a caption, a statement, or all four choices of a question. The shapes
data set has no files of GQA, SNLI-VE and NLVR2: they are made from its questions and captions, because whether they are
true does not affect the speed. RefCOCO and RefCOCO+ have the loop of RefCOCOg, `retrieval-coco` that of `retrieval`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import tyro

from benchmarks.loader import conditions
from benchmarks.tasks import PROOFS
from benchmarks.training import NEVER, compare, show, take_turns
from vilbert.pipeline.cli import main as vilbert
from vilbert.pipeline.cli import parse
from vilbert.pipeline.config_file import RECIPES
from vilbert.pipeline.demo import DETECTOR
from vilbert.pipeline.finetune.run import begin
from vilbert.pipeline.train.engine.distributed import process_group
from vilbert.pipeline.train.run.folder import make_run_folder

PAIRS = 400
"""Of images, for NLVR2."""
FOR_ANY_TASK = str(RECIPES / "finetune" / "refcocog" / "shapes.yaml")


class Files(NamedTuple):
    """What a task reads."""

    data: Path
    annotations: Path
    config: str = FOR_ANY_TASK


def gqa(data: Path, shapes: Path, folder: Path) -> Files:
    """Write VQA's questions as GQA's."""
    document = json.loads((shapes / "vqa" / "v2_OpenEnded_mscoco_train2014_questions.json").read_bytes())
    answers = json.loads((shapes / "vqa" / "v2_mscoco_train2014_annotations.json").read_bytes())
    said = {row["question_id"]: row["multiple_choice_answer"] for row in answers["annotations"]}
    rows = {
        str(row["question_id"]): {
            "question": row["question"],
            "imageId": str(row["image_id"]),
            "answer": said[row["question_id"]],
        }
        for row in document["questions"]
    }
    (folder / "train_balanced_questions.json").write_text(json.dumps(rows))
    return Files(data, folder)


def captions_of(shapes: Path) -> list[tuple[str, str]]:
    """Return the number and the first caption of each training image."""
    document = json.loads((shapes / "karpathy" / "dataset_coco.json").read_bytes())
    train = [image for image in document["images"] if image["split"] == "train"]
    return [(str(image["cocoid"]), image["sentences"][0]["raw"]) for image in train]


def snli_ve(data: Path, shapes: Path, folder: Path) -> Files:
    """Write captions as hypotheses."""
    rows = [
        {"pairID": number, "Flikr30kID": f"{number}.jpg", "sentence2": caption, "gold_label": "entailment"}
        for number, caption in captions_of(shapes)
    ]
    (folder / "snli_ve_train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Files(data, folder)


def nlvr2(data: Path, shapes: Path, folder: Path) -> Files:
    """Write captions as statements about pairs of images, and extract these under the names that NLVR2 gives them."""
    found = captions_of(shapes)[: 2 * PAIRS]
    statements, images = [], []
    for pair, (left, right) in enumerate(zip(found[::2], found[1::2], strict=False)):
        statements.append({"identifier": f"train-{pair}-0-0", "sentence": left[1], "label": "True"})
        for side, (number, _) in enumerate((left, right)):
            uri = f"train2014/COCO_train2014_{int(number):012}.jpg"
            images.append({"image_id": f"train-{pair}-0-img{side}", "uri": uri})
    for name, rows in (("train.json", statements), ("images.jsonl", images)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest, features = folder / "images.parquet", folder / "features"
    for command in (
        ["manifest", str(folder / "images.jsonl"), "--images", str(shapes), "--output", str(manifest)],
        ["extract", str(manifest), "--output", str(features), *DETECTOR, "--backend", "local"],
    ):
        if vilbert(command):
            raise SystemExit(f"vilbert {' '.join(command)} failed")
    return Files(features, folder)


WRITTEN: dict[str, Callable[[Path, Path, Path], Files]] = {"gqa": gqa, "snli-ve": snli_ve, "nlvr2": nlvr2}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    data: tyro.conf.Positional[Path]
    """Features of a shapes data set, as `vilbert demo` extracts them."""
    shapes: Path
    """The shapes data set, with its annotations."""
    pretrained: Path
    """The final/ of a run of `vilbert pretrain --config shapes`."""
    tasks: tuple[str, ...] = (*PROOFS, *WRITTEN)
    """Tasks to measure."""
    threads: int = 1
    """CPU threads of the model."""
    turns: int = 7
    """Number of turns of loop and bare step; one more is not timed."""
    steps: int = 12
    """Steps per turn; the first three are not timed."""
    json: bool = False
    """Print one JSON object instead of the table."""


def measure(settings: Settings, task: str, folder: Path) -> dict[str, Any]:
    """Return items a second of the loop and of the bare step, and the median ratio."""
    turns = settings.turns + 1
    if task in WRITTEN:
        files = WRITTEN[task](settings.data, settings.shapes, folder)
    else:
        files = Files(settings.data, settings.shapes / PROOFS[task].annotations, "shapes")
    with process_group("cpu") as group:
        stages = []
        for name in ("loop", "bare"):
            wanted = parse(
                "finetune",
                [
                    *(task, str(files.data), "--annotations", str(files.annotations), "--config", files.config),
                    *("--init-from", str(settings.pretrained), "--output", str(folder / name)),
                    *("--max-steps", str(turns * settings.steps + 1), "--eval-split", "none"),
                    *("--eval-every", str(NEVER), "--checkpoint-every", str(NEVER), "--tracker", "none"),
                ],
            )
            make_run_folder(wanted.output)
            stages.append(begin(wanted, group))
            stages[-1].load_start()
        loop, bare = (stage.training for stage in stages)
        taken = take_turns(loop, bare, turns=turns, steps=settings.steps)
    size = loop.settings.batch_size
    return {"figure": f"{task}, batch {size}: loop over bare step, items/s", **compare(taken, size)}


def main(settings: Settings) -> int:
    """Print the table; return 0."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # no threads before the workers fork
    torch.set_num_threads(settings.threads)
    facts = {**conditions(), "threads": str(settings.threads)}
    rows = []
    for task in settings.tasks:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(settings, task, Path(folder)))
    return show(facts, rows, as_json=settings.json)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
