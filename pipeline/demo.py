"""`vilbert demo`: from nothing to a model that answers questions, as commands that anyone can run again.

Each stage is a command. demo.json records which are finished, so the same command resumes an interrupted demo: finished
stages are skipped, and the interrupted one resumes as its command does.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from annotated_types import Ge

from vilbert.pipeline.demo_progress import Stopwatch, clock, remaining_seconds
from vilbert.pipeline.demo_state import DemoState, is_demo, open_demo
from vilbert.pipeline.errors import RefusedError
from vilbert.settings import validated
from vilbert.untrusted.documents import read_json

MEASURED_SCENES = 4000
"""Scenes of the demo whose stages were measured (`Stage.seconds`)."""
MASKED_IMAGE = ("masked_image_accuracy", "masked_image_majority")
MASKED_WORD = ("masked_lm_accuracy",)
INTERRUPTED = 130
"""Exit status of a command that Ctrl-C ended."""


@validated
class DemoSettings:
    """Generate a small data set, extract its features with Ray, verify and show them, pre-train, and fine-tune.

    The result is report.html, a page about the trained model. Run the same command again after any interruption:
    finished stages are skipped, the interrupted one resumes.
    """

    output: Path = Path("demo")
    """Output folder of all stages."""
    scenes: Annotated[int, Ge(10)] = MEASURED_SCENES
    """Number of scenes to draw; with fewer the model learns less."""
    overwrite: bool = False
    """Delete an existing demo and start again."""


class Stage(NamedTuple):
    """One command of the demo."""

    name: str
    """Unique in the demo."""
    command: list[str]
    """The command line, without the leading `vilbert`."""
    seconds: float
    """What it took on two quiet cores, to estimate the remaining time."""


def demo(settings: DemoSettings) -> int:
    """Run the stages that are not finished and say what they made; return the first exit status that is not 0."""
    from vilbert.pipeline import __version__
    from vilbert.pipeline.shards.location.lock import LOCK_FILE, exclusive_writer

    output = settings.output
    again = settings.overwrite and is_demo(output)
    if not again:
        open_demo(output, __version__, settings.scenes)  # nothing is written to a folder that is refused
    output.mkdir(parents=True, exist_ok=True)
    with exclusive_writer(output):
        remove(path for path in output.iterdir() if again and path.name != LOCK_FILE)
        remove(output.glob(".shapes.unfinished-*"))  # of a demo that was killed while it drew
        state = open_demo(output, __version__, settings.scenes)
        state.write(output)
        if status := run_stages(output, state):
            return status
    print(summary(output, settings.scenes))
    return 0


def remove(paths: Iterable[Path]) -> None:
    """Delete files and folders."""
    for path in list(paths):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def run_stages(output: Path, state: DemoState) -> int:
    """Run the stages that are not finished; return the first exit status that is not 0."""
    planned = stages(output, state.scenes)
    shares = {stage.name: stage.seconds for stage in planned}
    before = sum(state.seconds.values())
    watch = Stopwatch()
    if state.seconds.keys() >= shares.keys():
        print(f"The demo in {output} is finished: every stage is skipped. --overwrite runs it again.", flush=True)
        return 0
    for number, stage in enumerate(planned, start=1):
        place = f"[{number}/{len(planned)}] {stage.name}"
        if stage.name in state.seconds:
            print(f"{place}: finished before, skipped", flush=True)
            continue
        left = remaining_seconds(shares, state.seconds, list(shares), state.scenes / MEASURED_SCENES)
        print(f"\n{place}: elapsed {clock(before + watch.seconds)}, about {clock(left)} remaining")
        begun = watch.seconds
        if status := run(stage):
            ended = "was interrupted" if status == INTERRUPTED else f"ended with status {status}"
            print(f"vilbert demo: {place} {ended}; run the same command again to resume", file=sys.stderr)
            return status
        state.seconds[stage.name] = round(watch.seconds - begun, 1)
        state.write(output)
    return 0


def run(stage: Stage) -> int:
    """Run a stage and return its exit status; where Ray does not start, run it again with the local backend."""
    from vilbert.pipeline.cli import main
    from vilbert.pipeline.ray_session import RayStartError

    print(f"$ vilbert {shlex.join(stage.command)}", flush=True)
    try:
        return main(stage.command, passing=(RayStartError,))
    except RayStartError as error:
        local = [*stage.command, "--backend", "local"]
        print(f"vilbert demo: {error}", file=sys.stderr)
        print("The demo continues with the local backend: the shards will be the same, one worker writes them.")
        print(f"\n$ vilbert {shlex.join(local)}", flush=True)
        return main(local)


def summary(output: Path, scenes: int) -> str:
    """Return what the demo says last: what was made, what the models have learnt, where to look and what to do next."""

    def figures(name: str, *inside: str, names: tuple[str, ...]) -> list[float]:
        found = read_part(output / name, *inside, kind=dict)
        if not all(type(found.get(one)) in (int, float) and 0 <= found[one] <= 1 for one in names):
            raise _damaged(output / name, f"expected numbers from 0 to 1 under each of {', '.join(names)}")
        return [found[one] for one in names]

    evaluation = ("pretrained/evaluation.json", "figures")
    measured = read_part(output / evaluation[0], evaluation[1], kind=dict)
    (alignment,) = figures(*evaluation, names=("alignment_accuracy",))
    learnt = [f"tells whether a caption belongs to a picture in {alignment:.0%} (guessing: 50%)"]
    if MASKED_IMAGE[0] in measured:  # with few scenes to evaluate on, nothing may have been hidden
        accuracy, majority = figures(*evaluation, names=MASKED_IMAGE)
        learnt.append(f"names the class of a hidden region in {accuracy:.0%} (always the commonest: {majority:.0%})")
    if MASKED_WORD[0] in measured:
        (accuracy,) = figures(*evaluation, names=MASKED_WORD)
        learnt.append(f"fills in a hidden word in {accuracy:.0%}")
    right, blind = (figures(f"{name}.figures.json", names=("accuracy",))[0] for name in ("vqa-val", "vqa-val-blind"))
    return (
        f"\nDone. {scenes} scenes were drawn, a Faster R-CNN described up to 20 regions of each, and the shards in\n"
        f"{output}/features were proved complete and undamaged. A small ViLBERT was pre-trained on the regions and\n"
        "captions of four scenes in five. On scenes that it has never seen, it\n"
        + ",\n".join(f"  {fact}" for fact in learnt)
        + ".\n"
        "Then it was fine-tuned on questions (VQA). Of those about scenes that it has never seen, it\n"
        f"  answers {right:.0%} rightly, and {blind:.0%} when shown another scene: the difference is what it sees.\n"
        f"\nOpen {output}/report.html in a browser: scenes with the detector's boxes, questions and answers, where\n"
        f"the model looks, curves. The models are {output}/pretrained/final and {output}/vqa/final.\n"
        "Ask it yourself:\n"
        f"  vilbert {shlex.join(question(output))}\n"
        "Run the commands above on your own images: the README says how, and docs/tasks.md has the other tasks."
    )


def read_part(path: Path, *inside: str | int, kind: type) -> Any:
    """Return a part of a JSON file that a stage wrote; RefusedError where the file is damaged or has no such part."""
    try:
        found = read_json(path)
        for name in inside:
            found = found[name]
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    except (LookupError, TypeError) as error:
        raise _damaged(path, f"it has no {'/'.join(map(str, inside))}") from error
    if not isinstance(found, kind):
        raise _damaged(path, f"it is not the number that the demo wrote, but a {type(found).__name__}")
    return found


def _damaged(path: Path, problem: str) -> RefusedError:
    return RefusedError(f"{path}: cannot be read: {problem}; give --overwrite to delete the demo and start again")


def question(output: Path) -> list[str]:
    """Return a command line, without the leading `vilbert`, that asks about a scene that the model has not seen."""
    shapes = output / "shapes"
    path = shapes / "vqa" / "v2_OpenEnded_mscoco_val2014_questions.json"
    asked = read_part(path, "questions", 0, kind=dict)
    if type(asked.get("image_id")) is not int or not isinstance(asked.get("question"), str):
        raise _damaged(path, "its first question has no image_id or no question")
    photograph = shapes / "val2014" / f"COCO_val2014_{asked['image_id']:012}.jpg"
    return [
        *("predict", "vqa", "--checkpoint", str(output / "vqa"), "--image", str(photograph)),
        *("--question", asked["question"]),
    ]


DETECTOR = ("--detector", "shapes", "--boxes", "2-20", "--confidence", "0.5", "--nms", "0.3")
"""What finds the regions; later commands know it from the data set and from the model."""


def stages(output: Path, scenes: int) -> list[Stage]:
    """Return the demo's stages in order."""
    shapes, manifest, features = output / "shapes", output / "shapes.parquet", output / "features"
    pretrained, vqa, results, blind = (
        str(output / name) for name in ("pretrained", "vqa", "vqa-val.json", "vqa-val-blind.json")
    )
    questions = (str(features), "--annotations", str(shapes / "vqa"))
    evaluate = ("evaluate", "vqa", *questions, "--checkpoint", vqa)
    return [
        # What is there already is whole, but not recorded as finished: the demo was killed between the two.
        Stage("draw", ["shapes", str(shapes), "--scenes", str(scenes), "--seed", "0", "--overwrite"], 23),
        Stage(
            "manifest",
            [
                *("manifest", str(shapes / "karpathy" / "dataset_coco.json"), "--images", str(shapes)),
                *("--output", str(manifest), "--overwrite"),
            ],
            2,
        ),
        Stage(
            "extract",
            ["extract", str(manifest), "--output", str(features), *DETECTOR, "--shard-size", "250"],
            77,
        ),
        Stage("verify", ["verify", str(features), "--deep"], 3),
        Stage("stats", ["stats", str(features)], 1),
        Stage("inspect", ["inspect", f"{features}:0", "--image", str(output / "regions.png"), "--max-boxes", "8"], 1),
        Stage(
            "pretrain",
            ["pretrain", str(features), "--output", pretrained, "--config", "shapes"],
            144,
        ),
        Stage(
            "finetune",
            [
                *("finetune", "vqa", *questions, "--init-from", f"{pretrained}/final", "--config", "shapes"),
                *("--output", vqa),
            ],
            100,
        ),
        Stage("evaluate", [*evaluate, "--output", results], 5),
        Stage("evaluate blind", [*evaluate, "--blind", "--output", blind], 5),
        Stage(
            "report",
            [
                *("report", *questions, "--checkpoint", vqa, "--results", results, "--blind-results", blind),
                *("--pretrained", pretrained, "--output", str(output / "report.html")),
            ],
            3,
        ),
    ]
