"""What the report of a model that was fine-tuned on VQA shows, read from files and asked of the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.predict import Predictor
from pipeline.shards.dataset import DatasetInfo, read_dataset
from pipeline.shards.errors import RefusedError
from pipeline.shards.inspect import Place, read_photograph, read_sample
from pipeline.shards.keys import sample_key
from pipeline.shards.layout import data_path
from pipeline.shards.record import read_records
from pipeline.shards.store import open_shard
from pipeline.tasks.attention_page import attention_page, photograph_uri
from pipeline.tasks.predict import draw_found
from pipeline.tasks.report import ReportSettings
from pipeline.tasks.report_page import Asked, Content, Picture, Ranked, Score
from pipeline.tasks.vqa_accuracy import accuracy, question_accuracy
from pipeline.tasks.vqa_answers import strip
from pipeline.tasks.vqa_files import Id, Question, id_field, read_questions
from pipeline.train.journal import read_journal
from vilbert.untrusted.documents import read_json

TYPES = {"accuracy": "all", "accuracy_yes_no": "yes or no", "accuracy_number": "a number", "accuracy_other": "other"}
"""Figures and which questions they are of."""


def read_content(settings: ReportSettings) -> Content:
    """Read results, ask the model about some photographs, and return what the page shows.

    Raises RefusedError where the results are not those of the split, or the model is not one of VQA; ShardError where
    a photograph cannot be read.
    """
    questions = read_questions(settings.annotations, settings.split)
    if not questions[0].answers:
        raise RefusedError(f"--split {settings.split}: its answers are secret; name a split that has them")
    answers = read_results(settings.results, questions)
    blind = None if settings.blind_results is None else read_results(settings.blind_results, questions)
    answered = [question for question in questions if question.question_id in answers]
    info = read_dataset(settings.data)
    places = find_samples(settings.data, info, {question.image_id for question in answered})
    there = [image for image in dict.fromkeys(question.image_id for question in answered) if image in places]
    shown = evenly(there, settings.images)
    if not shown:
        raise RefusedError(f"{settings.data}: has none of the images that {settings.results} is about")
    predictor = Predictor.load(
        settings.checkpoint,
        task="vqa",
        detector=settings.detector,
        selection=settings.selection,
        device=settings.detector.device,
    )
    pictures = []
    for image in shown:
        about = [question for question in answered if question.image_id == image][: settings.questions]
        pictures.append(ask(predictor, info, settings, places[image], about, blind))
    at, asked = telling(pictures)
    pixels = read_photograph(read_sample(settings.data, info, places[shown[at]]))
    return Content(
        split=settings.split,
        images=len({question.image_id for question in answered}),
        scores=scores(answered, answers, blind),
        pictures=tuple(pictures),
        attention=attention_page(
            predictor.attend(pixels, (asked.question,)),
            pixels,
            title=asked.question,
            answer=f"The model says {asked.ranked[0].answer} ({asked.ranked[0].probability:.2f}); "
            f"people say {asked.truths[0][0]}.",
        ),
        finetuning=read_journal(settings.checkpoint),
        pretraining=[] if settings.pretrained is None else read_journal(settings.pretrained),
        sources={name: str(path) for name, path in sources(settings).items() if path is not None},
    )


def sources(settings: ReportSettings) -> dict[str, Path | None]:
    """Return what the page is made from."""
    return {
        "model": settings.checkpoint,
        "pre-training": settings.pretrained,
        "region features": settings.data,
        "annotations": settings.annotations,
        "answers": settings.results,
        "answers when shown another picture": settings.blind_results,
    }


def read_results(path: Path, questions: Sequence[Question]) -> dict[Id, str]:
    """Return the answers of a file of results by question; RefusedError where it has none of these questions."""
    try:
        found = {id_field(row, "question_id", str(path)): str(row["answer"]) for row in read_json(path)}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RefusedError(
            f"{path}: cannot be read as what `vilbert evaluate vqa --output` writes ({error}); evaluate again"
        ) from error
    if not any(question.question_id in found for question in questions):
        raise RefusedError(f"{path}: answers no question of this split; evaluate it with the same --split")
    return found


def find_samples(directory: Path, info: DatasetInfo, image_ids: Iterable[str]) -> dict[str, Place]:
    """Return where the samples of images lie, those that are there; each shard is opened once."""
    wanted = {sample_key(image_id): image_id for image_id in image_ids}
    found: dict[str, Place] = {}
    first = 0
    for shard, record in read_records(directory).items():
        with open_shard(data_path(directory, shard, info.storage), verify=False) as reader:
            for at, key in enumerate(reader.keys()):
                if key in wanted:
                    found[wanted[key]] = Place(first + at, shard, at)
        first += record.samples
    return found


def evenly(images: Sequence[str], count: int) -> list[str]:
    """Return `count` of the images, or all where there are fewer, at equal distances."""
    count = min(count, len(images))
    return [images[(2 * at + 1) * len(images) // (2 * count)] for at in range(count)]


def ask(
    predictor: Predictor,
    info: DatasetInfo,
    settings: ReportSettings,
    place: Place,
    questions: Sequence[Question],
    blind: Mapping[Id, str] | None,
) -> Picture:
    """Ask all questions about one photograph, and draw on it the regions that the data set has of it."""
    sample = read_sample(settings.data, info, place)
    pixels = read_photograph(sample)
    ranked = predictor.answer([pixels], [question.text for question in questions], top=settings.top)
    asked = []
    for question, answers in zip(questions, ranked, strict=True):
        other = None if blind is None else blind.get(question.question_id)
        asked.append(
            Asked(
                question=question.text,
                truths=tuple(Counter(strip(answer) for answer in question.answers).most_common()),
                ranked=tuple(Ranked(*found) for found in answers),
                right=question_accuracy(answers[0].answer, question.answers),
                blind=other,
                blind_right=None if other is None else question_accuracy(other, question.answers),
            )
        )
    return Picture(
        name=questions[0].image_id,
        uri=photograph_uri(np.asarray(draw_found(pixels, sample.regions, info.class_names))),
        regions=len(sample.regions),
        asked=tuple(asked),
    )


def telling(pictures: Sequence[Picture]) -> tuple[int, Asked]:
    """Return the picture and question to show attention of: the surest right answer that blindness gets wrong."""
    everything = [(at, asked) for at, picture in enumerate(pictures) for asked in picture.asked]
    return max(
        everything,
        key=lambda it: (
            it[1].right,
            -(it[1].blind_right or 0),
            it[1].ranked[0].answer not in ("yes", "no"),
            it[1].ranked[0].probability,
        ),
    )


def scores(
    questions: Sequence[Question], answers: Mapping[Id, str], blind: Mapping[Id, str] | None
) -> tuple[Score, ...]:
    """Return the official accuracy of all questions and of each type."""
    seeing, unseeing = accuracy(questions, answers), accuracy(questions, blind or {})
    kinds = Counter(f"accuracy_{question.answer_type.replace('/', '_')}" for question in questions)
    kinds["accuracy"] = len(questions)
    return tuple(
        Score(questions=name, count=kinds[figure], accuracy=seeing[figure], blind=unseeing.get(figure))
        for figure, name in TYPES.items()
        if figure in seeing
    )
