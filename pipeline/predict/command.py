"""`vilbert predict TASK`: ask a fine-tuned model about photographs, print what it says, draw it, show why."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vilbert.extractors.regions import Regions
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.extract.fetching.settings import FetchSettings
from vilbert.pipeline.predict.asking import Text, paired
from vilbert.pipeline.predict.attention_page import attention_page
from vilbert.pipeline.predict.image_arguments import expand_images
from vilbert.pipeline.predict.photographs import Detected
from vilbert.pipeline.predict.predictor import Predictor
from vilbert.pipeline.predict.settings import (
    AnswerSettings,
    ChooseSettings,
    DescribeSettings,
    JudgeSettings,
    PointSettings,
    PredictSettings,
    RankSettings,
)
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.shards.storage.atomic import write_atomic
from vilbert.pipeline.shards.viewing.describe import best_boxes, box_labels, labelled_boxes
from vilbert.pipeline.shards.viewing.draw import draw_regions
from vilbert.pipeline.tasks.registry import prediction_of
from vilbert.pipeline.tasks.task_card import read_task_card
from vilbert.pipeline.tasks.trained_folder import trained_folder
from vilbert.pipeline.terminal import print_lines
from vilbert.pipeline.train.run.disk import require_folder_of

logger = logging.getLogger(__name__)

AT_A_TIME = 64
"""Pairs of a photograph and a text, or photographs, whose regions are held at a time."""
MOST_DRAWN = 36
"""Boxes drawn of what the detector found."""

Row = dict[str, Any]
"""What is said of one photograph and text, as JSON values."""


def predict(settings: PredictSettings) -> int:
    """Ask, print, draw; return 0, or 1 where a photograph could not be used."""
    images = expand_images(settings.image, in_pairs=settings.images_of_a_text == 2)
    try:
        settings.require_images(len(images))
    except ValueError as error:
        raise RefusedError(str(error)) from error
    read_task_card(trained_folder(settings.checkpoint).card, settings.task)  # refuses a model of other tasks
    require_folder_of("--output", settings.output)
    for page in settings.attention:
        require_folder_of("--attention", page)
    predictor = Predictor.load(
        settings.checkpoint,
        task=settings.task,
        detector=settings.detector,
        selection=settings.selection,
        device=settings.detector.device,
        fetching=FetchSettings(allow_private_addresses=settings.allow_private_addresses),
    )
    rows = ASK[prediction_of(settings.task) or ""](predictor, settings, images)
    failed, good = ([row for row in rows if ("error" in row) is of_kind] for of_kind in (True, False))
    for message in dict.fromkeys(row["error"] for row in failed):
        print(f"vilbert predict: {message}", file=sys.stderr)
    if settings.json:
        print(encode_json(rows).decode())
    elif good:
        print_lines(line for row in good for line in lines(row))
    if settings.output is not None and good:
        draw(predictor, good, settings.output)
        logger.info("%s: drawn", settings.output)
    if settings.attention and good:
        for photograph, page in zip(subjects(good[0]), settings.attention, strict=True):
            write_attention(predictor, good[0], photograph, page)
            logger.info("%s: attention page; open it in a browser", page)
    return 1 if failed else 0


Ask = Callable[[list[Detected], list[int]], list[Row]]
"""Asks about photographs that can be used, each with the number of its text."""


def ask_each(
    predictor: Predictor,
    images: Sequence[str],
    pairs: Sequence[tuple[int, int]],
    ask: Ask,
    told: Callable[[int, int], Row],
) -> list[Row]:
    """Return the row of each pair of an image and a text, in order; one whose image cannot be used has its error.

    told: returns what a row says of an image and a text before any answer. `AT_A_TIME` images are held at a time.
    """
    rows: list[Row] = []
    held: dict[int, Detected | RefusedError] = {}
    for start in range(0, len(pairs), AT_A_TIME):
        group = pairs[start : start + AT_A_TIME]
        held = {image: held[image] for image, _ in group if image in held}
        missing = sorted({image for image, _ in group} - held.keys())
        held.update(zip(missing, predictor.detect_each([images[image] for image in missing]), strict=True))
        usable = [(seen, text) for image, text in group if isinstance(seen := held[image], Detected)]
        answers = iter(ask([seen for seen, _ in usable], [text for _, text in usable]) if usable else ())
        for image, text in group:
            seen = held[image]
            more = {"error": str(seen)} if isinstance(seen, RefusedError) else next(answers)
            rows.append({**told(image, text), **more})
    return rows


def ask_answers(predictor: Predictor, settings: AnswerSettings, images: Sequence[str]) -> list[Row]:
    """Return each question with its answers, most probable first."""

    def ask(seen: list[Detected], texts: list[int]) -> list[Row]:
        found = predictor.answer(seen, [settings.question[text] for text in texts], top=settings.top)
        return [{"ranked": [{"answer": it.answer, "probability": it.probability} for it in best]} for best in found]

    pairs = paired(len(images), len(settings.question), "questions")
    return ask_each(
        predictor, images, pairs, ask, lambda image, text: {"image": images[image], "question": settings.question[text]}
    )


def ask_choices(predictor: Predictor, settings: ChooseSettings, images: Sequence[str]) -> list[Row]:
    """Return each question with its options, most probable first."""

    def told(image: int, text: int) -> Row:
        answer = {"answer": settings.answers[text]} if settings.answers else {}
        return {"image": images[image], "question": settings.question[text], **answer}

    def ask(seen: list[Detected], texts: list[int]) -> list[Row]:
        found = predictor.choose(
            seen,
            [settings.question[text] for text in texts],
            [settings.option] * len(texts),
            answers=[settings.answers[text] for text in texts] if settings.answers else (),
        )
        return [
            {
                "ranked": [
                    {"option": settings.option[at], "probability": chances[at]}
                    for at in sorted(range(len(chances)), key=lambda at: -chances[at])
                ]
            }
            for chances in found
        ]

    return ask_each(predictor, images, paired(len(images), len(settings.question), "questions"), ask, told)


def ask_places(predictor: Predictor, settings: PointSettings, images: Sequence[str]) -> list[Row]:
    """Return each phrase with the region that it means."""

    def ask(seen: list[Detected], texts: list[int]) -> list[Row]:
        found = predictor.point(seen, [settings.phrase[text] for text in texts])
        return [dict(pointed._asdict()) for pointed in found]

    pairs = paired(len(images), len(settings.phrase), "phrases")
    return ask_each(
        predictor, images, pairs, ask, lambda image, text: {"image": images[image], "phrase": settings.phrase[text]}
    )


def ask_ranks(predictor: Predictor, settings: RankSettings, images: Sequence[str]) -> list[Row]:
    """Return each caption with the photographs, best first; or one photograph with several captions, best first.

    A photograph that cannot be used has a row of its own behind them.
    """
    names: list[str] = []
    failed: list[Row] = []
    parts: list[NDArray[np.float32]] = []
    for start in range(0, len(images), AT_A_TIME):
        some = images[start : start + AT_A_TIME]
        looked = predictor.detect_each(some)
        usable = [seen for seen in looked if isinstance(seen, Detected)]
        names += [seen.name for seen in usable]
        failed += [
            {"image": image, "error": str(error)}
            for image, error in zip(some, looked, strict=True)
            if isinstance(error, RefusedError)
        ]
        if usable:
            parts.append(predictor.rank(usable, settings.caption))
    if not parts:
        return failed
    scores = np.concatenate(parts, axis=1)
    if len(images) == 1 < len(settings.caption):
        best = np.argsort(-scores[:, 0], kind="stable")[: settings.top].tolist()
        ranked = [{"caption": settings.caption[at], "score": float(scores[at, 0])} for at in best]
        return [{"image": names[0], "ranked": ranked}]
    order = np.argsort(-scores, axis=1, kind="stable")[:, : settings.top]
    rows = [
        {"caption": caption, "ranked": [{"image": names[at], "score": float(scores[row, at])} for at in best]}
        for row, (caption, best) in enumerate(zip(settings.caption, order.tolist(), strict=True))
    ]
    return [*rows, *failed]


def ask_judgements(predictor: Predictor, settings: JudgeSettings, images: Sequence[str]) -> list[Row]:
    """Return each statement with its two photographs, and whether it is true of them."""
    couples = list(zip(images[::2], images[1::2], strict=True))
    pairs = paired(len(couples), len(settings.statement), "statements", called="pairs of images")
    rows: list[Row] = []
    for start in range(0, len(pairs), AT_A_TIME):
        group = pairs[start : start + AT_A_TIME]
        names = list(dict.fromkeys(name for couple, _ in group for name in couples[couple]))
        seen = dict(zip(names, predictor.detect_each(names), strict=True))
        usable = [
            ((left, right), settings.statement[text])
            for couple, text in group
            if isinstance(left := seen[couples[couple][0]], Detected)
            and isinstance(right := seen[couples[couple][1]], Detected)
        ]
        chances = iter(predictor.judge([it for it, _ in usable], [it for _, it in usable]) if usable else ())
        for couple, text in group:
            told: Row = {"images": list(couples[couple]), "statement": settings.statement[text]}
            errors = [str(it) for name in couples[couple] if isinstance(it := seen[name], RefusedError)]
            rows.append({**told, **({"error": "; ".join(errors)} if errors else _judged(next(chances)))})
    return rows


def _judged(chance: float) -> Row:
    """Return the probabilities of true and false, the higher first."""
    ranked = sorted([("true", chance), ("false", 1 - chance)], key=lambda it: -it[1])
    return {"ranked": [{"answer": answer, "probability": it} for answer, it in ranked]}


def ask_captions(predictor: Predictor, settings: DescribeSettings, images: Sequence[str]) -> list[Row]:
    """Return each photograph with a caption."""
    generation = replace(settings.generation, seed=settings.detector.seed)

    def ask(seen: list[Detected], _texts: list[int]) -> list[Row]:
        return [{"caption": caption} for caption in predictor.describe(seen, generation)]

    pairs = [(image, 0) for image in range(len(images))]
    return ask_each(predictor, images, pairs, ask, lambda image, _text: {"image": images[image]})


ASK: dict[str, Callable[[Predictor, Any, Sequence[str]], list[Row]]] = {
    "answer": ask_answers,
    "choose": ask_choices,
    "point": ask_places,
    "rank": ask_ranks,
    "describe": ask_captions,
    "judge": ask_judgements,
}


def lines(row: Row) -> Iterator[str]:
    """Yield a row as a person reads it: what was asked, and below it each answer with its figure before it."""
    if "ranked" in row:
        texts = [row[name] for name in ("image", "question", "answer", "caption", "statement") if name in row]
        yield "  ".join([*row.get("images", ()), *texts])
        for found in row["ranked"]:
            figure, name = (next(v for v in found.values() if isinstance(v, kind)) for kind in (float, str))
            yield f"  {figure:8.4f}  {name}"
    elif "phrase" in row:
        box = ", ".join(f"{side:.1f}" for side in row["box_xyxy"])
        yield f"{row['image']}  {row['phrase']}"
        yield f"  {row['score']:8.4f}  region {row['region']}, x1, y1, x2, y2 = {box}"
    else:
        yield f"{row['image']}  {row['caption']}"


def subjects(row: Row) -> list[str]:
    """Return the photographs that a row is about; of a ranking the best one."""
    if "images" in row:
        return list(row["images"])
    return [row["image"] if "image" in row else row["ranked"][0]["image"]]


def draw(predictor: Predictor, rows: list[Row], picture: Path) -> None:
    """Draw on the first row's photographs, side by side, what the phrases mean, or what the detector found."""
    photographs = subjects(rows[0])
    pixels = [predictor.reader.pixels(it) for it in photographs]
    if "box_xyxy" in rows[0]:
        boxes = np.array([row["box_xyxy"] for row in rows], dtype=np.float32)
        image = draw_regions(pixels[0], boxes, [f"{row['phrase']} {row['score']:.2f}" for row in rows])
    else:
        names = predictor.reader.extractor.class_names
        found = zip(pixels, predictor.detect(photographs), strict=True)
        image = side_by_side([draw_found(of_one, regions, names) for of_one, regions in found])
    file = io.BytesIO()
    image.save(file, "PNG" if picture.suffix.lower() == ".png" else "JPEG", quality=95, subsampling=0)
    write_atomic(picture, file.getvalue())


def draw_found(pixels: Any, regions: Regions, class_names: tuple[str, ...]) -> Image.Image:
    """Return the photograph with the detector's best boxes."""
    best = best_boxes(regions, MOST_DRAWN)
    return draw_regions(pixels, labelled_boxes(regions)[best], box_labels(regions, class_names, best))


def side_by_side(images: list[Image.Image]) -> Image.Image:
    """Return images as one, from left to right."""
    whole = Image.new("RGB", (sum(image.width for image in images), max(image.height for image in images)), "white")
    left = 0
    for image in images:
        whole.paste(image, (left, 0))
        left += image.width
    return whole


def write_attention(predictor: Predictor, row: Row, photograph: str, page: Path) -> None:
    """Write the page of a row: its text, with the best option where there are some, before its photograph."""
    asked = ("question", "answer", "phrase", "caption", "statement")
    text: Text = tuple(str(row[name]) for name in asked if name in row) or ("",)
    said = next(lines({**row, "ranked": []}), "")
    if "ranked" in row and "option" in row["ranked"][0]:
        text = (*text, row["ranked"][0]["option"])
    said = "; ".join(line.strip() for line in [*lines(row)][1:]) or said
    shown = attention_page(
        predictor.attend(photograph, text),
        predictor.reader.pixels(photograph),
        title=" / ".join(text) or predictor.card.task,
        answer=f"{predictor.card.task}, {PurePosixPath(photograph).name}: {said}",
    )
    write_atomic(page, shown.encode())
