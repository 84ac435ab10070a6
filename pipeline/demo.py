"""`vilbert demo`: generate data, extract features, pre-train and fine-tune a model, all with ordinary commands.

Each stage is a command. demo.json records the finished stages, so the same command resumes an interrupted demo:
finished stages are skipped, and the interrupted stage resumes if its command supports it.
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
"""Number of scenes of the demo in which `Stage.seconds` was measured."""
MASKED_IMAGE = ("masked_image_accuracy", "masked_image_majority")
MASKED_WORD = ("masked_lm_accuracy",)
INTERRUPTED = 130
"""Exit status of an interrupted command."""


@validated
class DemoSettings:
    """Generate a small data set, extract its features with Ray, verify and show them, pre-train, and fine-tune.

    The result is report.html, a page about the trained model. Run the same command again after any interruption:
    finished stages are skipped, the interrupted one resumes.
    """

    output: Path = Path("demo")
    """Output folder of all stages."""
    scenes: Annotated[int, Ge(10)] = MEASURED_SCENES
    """Number of scenes to draw; the model learns less from fewer scenes."""
    overwrite: bool = False
    """Delete an existing demo and start again."""


class Stage(NamedTuple):
    """One command of the demo."""

    name: str
    """Unique in the demo."""
    command: list[str]
    """The command line, without the leading `vilbert`."""
    seconds: float
    """Duration on two idle cores, used to estimate the remaining time."""


def demo(settings: DemoSettings) -> int:
    """Run the unfinished stages and print a summary; return the first non-zero exit status."""
    from vilbert.pipeline import __version__
    from vilbert.pipeline.shards.location.lock import LOCK_FILE, exclusive_writer

    output = settings.output
    again = settings.overwrite and is_demo(output)
    if not again:
        open_demo(output, __version__, settings.scenes)  # raises before anything is written
    output.mkdir(parents=True, exist_ok=True)
    with exclusive_writer(output):
        remove(path for path in output.iterdir() if again and path.name != LOCK_FILE)
        remove(output.glob(".shapes.unfinished-*"))  # left by a demo that was killed in the draw stage
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
    """Run the unfinished stages; return the first non-zero exit status."""
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
            print(f"{place}: already finished, skipped", flush=True)
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
    """Run a stage and return its exit status; if Ray does not start, run it again with the local backend."""
    from vilbert.pipeline.cli import main
    from vilbert.pipeline.ray_session import RayStartError

    print(f"$ vilbert {shlex.join(stage.command)}", flush=True)
    try:
        return main(stage.command, passing=(RayStartError,))
    except RayStartError as error:
        local = [*stage.command, "--backend", "local"]
        print(f"vilbert demo: {error}", file=sys.stderr)
        print("The demo continues with the local backend: one worker writes the same shards.")
        print(f"\n$ vilbert {shlex.join(local)}", flush=True)
        return main(local)


def summary(output: Path, scenes: int) -> str:
    """Return the final summary: what was created, what the models have learned, and what to do next."""

    def figures(name: str, *inside: str, names: tuple[str, ...]) -> list[float]:
        found = read_part(output / name, *inside, kind=dict)
        if not all(type(found.get(one)) in (int, float) and 0 <= found[one] <= 1 for one in names):
            raise _damaged(output / name, f"expected numbers from 0 to 1 under each of {', '.join(names)}")
        return [found[one] for one in names]

    evaluation = ("pretrained/evaluation.json", "figures")
    measured = read_part(output / evaluation[0], evaluation[1], kind=dict)
    (alignment,) = figures(*evaluation, names=("alignment_accuracy",))
    learnt = [f"decides whether a caption matches an image with {alignment:.0%} accuracy (chance: 50%)"]
    if MASKED_IMAGE[0] in measured:  # with few evaluation scenes, no region may be masked
        accuracy, majority = figures(*evaluation, names=MASKED_IMAGE)
        learnt.append(f"predicts the class of a masked region in {accuracy:.0%} (most frequent class: {majority:.0%})")
    if MASKED_WORD[0] in measured:
        (accuracy,) = figures(*evaluation, names=MASKED_WORD)
        learnt.append(f"predicts a masked word in {accuracy:.0%}")
    right, blind = (figures(f"{name}.figures.json", names=("accuracy",))[0] for name in ("vqa-val", "vqa-val-blind"))
    return (
        f"\nDone. {scenes} scenes were drawn, a Faster R-CNN described up to 20 regions of each, and the shards in\n"
        f"{output}/features were verified as complete and undamaged. A small ViLBERT was pre-trained on the regions\n"
        "and captions of 80% of the scenes. On the held-out scenes, it\n"
        + ",\n".join(f"  {fact}" for fact in learnt)
        + ".\n"
        "Then it was fine-tuned on questions (VQA). On questions about held-out scenes, it\n"
        f"  answers {right:.0%} correctly, and {blind:.0%} with the image of another scene (blind baseline).\n"
        f"\nOpen {output}/report.html in a browser: scenes with the detector's boxes, questions and answers,\n"
        f"attention maps and curves. The models are {output}/pretrained/final and {output}/vqa/final.\n"
        "Ask the model a question:\n"
        f"  vilbert {shlex.join(question(output))}\n"
        "To run the commands above on your own images, see the README; docs/tasks.md describes the other tasks."
    )


def read_part(path: Path, *inside: str | int, kind: type) -> Any:
    """Return a value from a JSON file that a stage wrote.

    Args:
        path: The file.
        inside: Keys and indices that lead to the value.
        kind: Expected type of the value.

    Raises:
        RefusedError: The file is damaged, or the value is missing or has another type.
    """
    try:
        found = read_json(path)
        for name in inside:
            found = found[name]
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    except (LookupError, TypeError) as error:
        raise _damaged(path, f"it has no {'/'.join(map(str, inside))}") from error
    if not isinstance(found, kind):
        raise _damaged(path, f"expected {kind.__name__} at {'/'.join(map(str, inside))}, found {type(found).__name__}")
    return found


def _damaged(path: Path, problem: str) -> RefusedError:
    return RefusedError(f"{path}: cannot be read: {problem}; give --overwrite to delete the demo and start again")


def question(output: Path) -> list[str]:
    """Return a command line, without the leading `vilbert`, that asks a question about a held-out scene."""
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
"""Options of the detector; later commands read them from the data set and the model."""


def stages(output: Path, scenes: int) -> list[Stage]:
    """Return the demo's stages in order."""
    shapes, manifest, features = output / "shapes", output / "shapes.parquet", output / "features"
    pretrained, vqa, results, blind = (
        str(output / name) for name in ("pretrained", "vqa", "vqa-val.json", "vqa-val-blind.json")
    )
    questions = (str(features), "--annotations", str(shapes / "vqa"))
    evaluate = ("evaluate", "vqa", *questions, "--checkpoint", vqa)
    return [
        # A folder of scenes is complete but not recorded as finished if the demo was killed in between.
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
