"""`vilbert predict TASK`: ask a fine-tuned model about photographs, print what it says, draw it, show why."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from extractors.regions import Regions
from pipeline.predict import Predictor
from pipeline.shards.atomic import write_atomic
from pipeline.shards.canonical import encode_json
from pipeline.shards.describe import best_boxes, name_of
from pipeline.shards.draw import draw_regions
from pipeline.tasks.asking import Text, paired
from pipeline.tasks.attention_page import attention_page
from pipeline.tasks.photographs import read_pixels
from pipeline.tasks.predict_settings import METHODS, PredictSettings
from pipeline.tasks.task_card import read_task_card
from pipeline.tasks.trained_folder import trained_folder
from pipeline.terminal import print_lines
from pipeline.train.disk import require_folder_of

logger = logging.getLogger(__name__)

MOST_DRAWN = 36
"""Boxes drawn of what the detector found."""

Row = dict[str, Any]
"""What is said of one photograph and text, as JSON values."""


def predict(settings: PredictSettings) -> int:
    """Ask, print, draw; return 0."""
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
    )
    rows = ASK[METHODS[settings.task]](predictor, settings)
    if settings.json:
        print(encode_json(rows).decode())
    else:
        print_lines(line for row in rows for line in lines(row))
    if settings.output is not None:
        draw(predictor, rows, settings.output)
        logger.info("%s: drawn", settings.output)
    if settings.attention:
        for photograph, page in zip(subjects(rows[0]), settings.attention, strict=True):
            write_attention(predictor, rows[0], photograph, page)
            logger.info("%s: who looks at whom; open it in a browser", page)
    return 0


def ask_answers(predictor: Predictor, settings: PredictSettings) -> list[Row]:
    """Return each question with its answers, most probable first."""
    pairs = paired(len(settings.image), len(settings.question), "questions")
    found = predictor.answer(settings.image, settings.question, top=settings.top)
    return [
        {
            "image": str(settings.image[image]),
            "question": settings.question[text],
            "ranked": [{"answer": it.answer, "probability": it.probability} for it in answers],
        }
        for (image, text), answers in zip(pairs, found, strict=True)
    ]


def ask_choices(predictor: Predictor, settings: PredictSettings) -> list[Row]:
    """Return each question with its options, most probable first."""
    pairs = paired(len(settings.image), len(settings.question), "questions")
    options = [settings.option] * len(settings.question)
    found = predictor.choose(settings.image, settings.question, options, answers=settings.answer)
    return [
        {
            "image": str(settings.image[image]),
            "question": settings.question[text],
            **({"answer": settings.answer[text]} if settings.answer else {}),
            "ranked": [
                {"option": settings.option[at], "probability": chances[at]}
                for at in sorted(range(len(chances)), key=lambda at: -chances[at])
            ],
        }
        for (image, text), chances in zip(pairs, found, strict=True)
    ]


def ask_places(predictor: Predictor, settings: PredictSettings) -> list[Row]:
    """Return each phrase with the region that it means."""
    pairs = paired(len(settings.image), len(settings.phrase), "phrases")
    found = predictor.point(settings.image, settings.phrase)
    return [
        {"image": str(settings.image[image]), "phrase": settings.phrase[text], **pointed._asdict()}
        for (image, text), pointed in zip(pairs, found, strict=True)
    ]


def ask_ranks(predictor: Predictor, settings: PredictSettings) -> list[Row]:
    """Return each caption with the photographs, best first; or one photograph with several captions, best first."""
    scores = predictor.rank(settings.image, settings.caption)
    if len(settings.image) == 1 < len(settings.caption):
        best = np.argsort(-scores[:, 0], kind="stable")[: settings.top].tolist()
        ranked = [{"caption": settings.caption[at], "score": float(scores[at, 0])} for at in best]
        return [{"image": str(settings.image[0]), "ranked": ranked}]
    order = np.argsort(-scores, axis=1, kind="stable")[:, : settings.top]
    return [
        {
            "caption": caption,
            "ranked": [{"image": str(settings.image[at]), "score": float(scores[row, at])} for at in best],
        }
        for row, (caption, best) in enumerate(zip(settings.caption, order.tolist(), strict=True))
    ]


def ask_judgements(predictor: Predictor, settings: PredictSettings) -> list[Row]:
    """Return each statement with its two photographs, and whether it is true of them."""
    couples = list(zip(settings.image[::2], settings.image[1::2], strict=True))
    pairs = paired(len(couples), len(settings.statement), "statements", called="pairs of images")
    rows: list[Row] = []
    for (couple, text), chance in zip(pairs, predictor.judge(couples, settings.statement), strict=True):
        ranked = sorted([("true", chance), ("false", 1 - chance)], key=lambda it: -it[1])
        rows.append(
            {
                "images": [str(image) for image in couples[couple]],
                "statement": settings.statement[text],
                "ranked": [{"answer": answer, "probability": it} for answer, it in ranked],
            }
        )
    return rows


def ask_captions(predictor: Predictor, settings: PredictSettings) -> list[Row]:
    """Return each photograph with a caption."""
    generation = replace(settings.generation, seed=settings.detector.seed)
    written = predictor.describe(settings.image, generation)
    return [{"image": str(image), "caption": caption} for image, caption in zip(settings.image, written, strict=True)]


ASK: dict[str, Callable[[Predictor, PredictSettings], list[Row]]] = {
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


def subjects(row: Row) -> list[Path]:
    """Return the photographs that a row is about; of a ranking the best one."""
    if "images" in row:
        return [Path(image) for image in row["images"]]
    return [Path(row["image"] if "image" in row else row["ranked"][0]["image"])]


def draw(predictor: Predictor, rows: list[Row], picture: Path) -> None:
    """Draw on the first row's photographs, side by side, what the phrases mean, or what the detector found."""
    photographs = subjects(rows[0])
    pixels = [read_pixels(it, str(it), predictor.reader.decoding) for it in photographs]
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
    labels = [f"{name_of(class_names, int(regions.object_ids[at]))} {regions.object_scores[at]:.2f}" for at in best]
    return draw_regions(pixels, regions.boxes[best], labels)


def side_by_side(images: list[Image.Image]) -> Image.Image:
    """Return images as one, from left to right."""
    whole = Image.new("RGB", (sum(image.width for image in images), max(image.height for image in images)), "white")
    left = 0
    for image in images:
        whole.paste(image, (left, 0))
        left += image.width
    return whole


def write_attention(predictor: Predictor, row: Row, photograph: Path, page: Path) -> None:
    """Write the page of a row: its text, with the best option where there are some, before its photograph."""
    asked = ("question", "answer", "phrase", "caption", "statement")
    text: Text = tuple(str(row[name]) for name in asked if name in row) or ("",)
    said = next(lines({**row, "ranked": []}), "")
    if "ranked" in row and "option" in row["ranked"][0]:
        text = (*text, row["ranked"][0]["option"])
    said = "; ".join(line.strip() for line in [*lines(row)][1:]) or said
    shown = attention_page(
        predictor.attend(photograph, text),
        read_pixels(photograph, str(photograph), predictor.reader.decoding),
        title=" / ".join(text) or predictor.card.task,
        answer=f"{predictor.card.task}, {photograph.name}: {said}",
    )
    write_atomic(page, shown.encode())
