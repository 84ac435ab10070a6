"""Collect the content of a report from files and from the model; the same for every task."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.predict.attention_page import attention_page
from vilbert.pipeline.predict.predictor import Predictor
from vilbert.pipeline.report.answers import read_answers
from vilbert.pipeline.report.choice import choose
from vilbert.pipeline.report.examples import Example, ask, asked, boxes_of
from vilbert.pipeline.report.page import Asked, Content, Group, Metric, Picture
from vilbert.pipeline.report.photographs import BOXES, Photographs
from vilbert.pipeline.report.provenance import how_it_was_made, run_of
from vilbert.pipeline.report.settings import ReportSettings
from vilbert.pipeline.tasks.registry import TaskFiles, find_task, open_task, prediction_of
from vilbert.pipeline.tasks.task_card import read_task_card
from vilbert.pipeline.tasks.trained_folder import trained_folder
from vilbert.pipeline.train.run.journal import read_journal
from vilbert.untrusted.documents import DocumentError, read_json

SIDE, SIDE_OF_PAIR = 720, 480
"""Longer side of images in pixels; it keeps a page below three megabytes."""
LAST = ("loss", "left_out", "unread", "ptb_tokenizer")
DETECTED = f"On the photographs are the detector's {BOXES} best boxes, each with its class and score. "
BY_ITSELF = "Each of the model's answers is judged by itself, so its probabilities do not sum to 1."
ABOUT_PICTURES = {
    "answer": DETECTED + BY_ITSELF,
    "choose": DETECTED + "The model's probabilities of the four options sum to 1.",
    "judge": DETECTED + "The left and the right photograph of the statement.",
    "point": "On each photograph are two boxes: people's, and the one that the model chose.",
    "rank": "Below each caption are the photographs that the model ranks first; the true one has a frame and a label.",
    "describe": DETECTED + "The model's caption is beside those that people wrote.",
}


class Evaluation(NamedTuple):
    """Answers and metrics that `vilbert evaluate --output` wrote."""

    answers: dict[int, Any]
    """Answers by item index."""
    metrics: dict[str, float]


def read_content(settings: ReportSettings) -> Content:
    """Read results, run the model on some images, and return the content of the page.

    Raises:
        RefusedError: The results do not match the split or the model's task.
        ShardError: An image cannot be read.
    """
    card = read_task_card(trained_folder(settings.checkpoint).card, settings.task)
    files = TaskFiles(folder=settings.annotations, seed=card.seed, names=card.names, labels=card.labels)
    task: Any = open_task(card.task, files, settings.split, like=None)
    if not task.reports:
        raise RefusedError(f"{card.task}: `vilbert report` does not support its results; see docs/tasks.md")
    if not any(task.has_truth(number) for number in range(len(task.items))):
        raise RefusedError(f"--split {settings.split}: its answers are not public; choose a split with public answers")
    seeing = read_evaluation(settings.results, task)
    blind = None if settings.blind_results is None else read_evaluation(settings.blind_results, task)
    photographs = Photographs(settings.data, task, seeing.answers)
    shown = choose(task, seeing.answers, photographs.places, settings)
    predictor = Predictor.load(
        settings.checkpoint,
        task=card.task,
        detector=settings.detector,
        selection=settings.selection,
        device=settings.detector.device,
    )
    made: dict[str, list[tuple[list[Example], Group]]] = {
        heading: [
            group_of(
                [
                    Example(task=task, number=it, answer=seeing.answers[it], blind=blind and blind.answers.get(it))
                    for it in numbers
                ],
                predictor, photographs, settings.top,
            )
            for numbers in groups
        ]
        for heading, groups in shown.items()
    }  # fmt: skip
    run = run_of(settings.checkpoint)
    images = {image for number in seeing.answers for image in task.images(task.items[number])}
    return Content(
        title=f"What the model has learnt: {card.task}",
        summary=summary(task, seeing, blind, images=len(images), split=settings.split),
        metrics=in_order(task, seeing, blind),
        compared=blind is not None,
        about_metrics=find_task(card.task).about_metrics,
        about_pictures=ABOUT_PICTURES.get(prediction_of(card.task) or "", DETECTED),
        examples={heading: [group for _, group in groups] for heading, groups in made.items()},
        attention=attention(predictor, photographs, [of_one for groups in made.values() for of_one in groups]),
        finetuning=read_journal(run),
        pretraining=[] if settings.pretrained is None else read_journal(run_of(settings.pretrained)),
        made=how_it_was_made(settings),
        sources={name: str(path) for name, path in sources(settings).items() if path is not None},
    )


def sources(settings: ReportSettings) -> dict[str, Path | None]:
    """Return the sources of the page."""
    return {
        "model": settings.checkpoint,
        "pre-training": settings.pretrained,
        "region features": settings.data,
        "annotations": settings.annotations,
        "results": settings.results,
        "results when shown another image": settings.blind_results,
    }


def read_evaluation(path: Path, task: Any) -> Evaluation:
    """Read answers and metrics; without a .figures.json the metrics are computed from the answers."""
    answers = read_answers(path, task)
    file = path.with_suffix(".figures.json")
    if not file.is_file():
        of_items = prediction_of(task.name) not in ("rank", "describe")
        return Evaluation(answers, task.figures(answers) if of_items else {})
    try:
        metrics = read_json(file)
        if not isinstance(metrics, dict) or not all(type(it) in (int, float) for it in metrics.values()):
            raise DocumentError("is not an object of numbers")
    except (OSError, DocumentError) as error:
        raise RefusedError(
            f"{file}: is not what `vilbert evaluate --output` writes ({error}); evaluate again"
        ) from error
    return Evaluation(answers, metrics)


def in_order(task: Any, seeing: Evaluation, blind: Evaluation | None) -> tuple[Metric, ...]:
    """Return the metrics: the main one first, counts and the loss last, numbers in natural order."""
    main = find_task(task.name).main_metric

    def place(name: str) -> tuple[bool, bool, list[str | int]]:
        parts = [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
        return name != main, name in LAST, parts

    names = sorted(seeing.metrics, key=place)
    return tuple(Metric(name, seeing.metrics[name], blind and blind.metrics.get(name)) for name in names)


def summary(task: Any, seeing: Evaluation, blind: Evaluation | None, *, images: int, split: str) -> str:
    """Return the first sentence of the page."""
    about = f"{len(seeing.answers):,} items about {images:,} images of the {split} split"
    name = find_task(task.name).main_metric
    if name not in seeing.metrics:
        return f"{about}."
    form = "{:.2f}" if name == "cider" else "{:.1%}"
    said = f"{about}: {name.replace('_', ' ')} {form.format(seeing.metrics[name])}"
    if blind is not None and name in blind.metrics:
        said += f"; {form.format(blind.metrics[name])} when it is shown another image"
    return f"{said}."


def group_of(
    examples: list[Example], predictor: Predictor, photographs: Photographs, top: int
) -> tuple[list[Example], Group]:
    """Return examples about the same images, and their group on the page."""
    task = examples[0].task
    images = task.images(examples[0].item)
    boxes = boxes_of(examples[0])
    pictures: list[Picture] = []
    if prediction_of(task.name) != "rank":
        side = SIDE if len(images) == 1 else SIDE_OF_PAIR
        for image, which in zip(images, ("left: ", "right: ") if len(images) == 2 else ("",), strict=True):
            uri = photographs.draw_boxes(image, boxes, side) if boxes else photographs.draw_detected(image, side)
            pictures.append(Picture(uri=uri, caption=f"{which}image {image}"))
    ranked = ask(predictor, [photographs.read(image)[0] for image in images], examples, top)
    shown = [asked(it, of_one, photographs.draw, top) for it, of_one in zip(examples, ranked, strict=True)]
    return examples, Group(pictures=tuple(pictures), asked=tuple(shown))


def attention(predictor: Predictor, photographs: Photographs, groups: Sequence[tuple[list[Example], Group]]) -> str:
    """Return the attention page of one example: a correct answer, if possible one that the blind model gets wrong."""
    pairs = [pair for examples, group in groups for pair in zip(examples, group.asked, strict=True)]

    def telling(pair: tuple[Example, Asked]) -> tuple[float, float, bool, float]:
        example, shown = pair
        blind = 0.0 if example.blind is None else example.task.score(example.number, example.blind)
        probability = shown.ranked[0].probability if shown.ranked else 0.0
        return example.right, -blind, shown.model not in ("yes", "no"), probability

    example, shown = max(pairs, key=telling)
    image = example.task.images(example.item)[0]
    pixels = photographs.read(image)[0]
    texts = example.texts()
    return attention_page(
        predictor.attend(pixels, texts),
        pixels,
        title=" / ".join(texts),
        answer=f"Image {image}. The model's answer: {shown.model} ({shown.verdict}).",
    )
