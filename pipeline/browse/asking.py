"""Ask a fine-tuned model about a sample. Its regions are those of the data set, so no detector is needed."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vilbert.extractors.regions import Regions
from vilbert.model.tasks import ViLBertForTasks
from vilbert.pipeline.browse.filters import MAX_TEXT, FilterError
from vilbert.pipeline.browse.index import IndexedSample
from vilbert.pipeline.browse.opened import OpenedDataset
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.evaluate.evaluation import Trained
from vilbert.pipeline.predict.attention import Attention
from vilbert.pipeline.predict.photographs import Detected
from vilbert.pipeline.predict.predictor import Predictor
from vilbert.pipeline.predict.reader import Reader
from vilbert.pipeline.tasks.registry import Prediction, find_task, prediction_of
from vilbert.pipeline.tasks.task_card import TaskCard, read_task_card, require_card
from vilbert.pipeline.tasks.trained_folder import trained_folder
from vilbert.pipeline.tasks.trained_model import load_its_tokenizer, load_model
from vilbert.pipeline.train.engine.distributed import own_device

TOP = 5
MAX_LINES = 50
KEPT_ANSWERS = 64


class FormField(NamedTuple):
    """One field of the question form."""

    name: str
    """Of the URL's query."""
    label: str
    lines: int = 1
    """Number of lines; if more than one, each line is a separate value."""


FORMS: dict[Prediction, tuple[FormField, ...]] = {
    "answer": (FormField("question", "Question"),),
    "choose": (FormField("question", "Question"), FormField("options", "Options, one on each line", 4)),
    "point": (FormField("phrase", "Phrase that describes a region"),),
    "rank": (FormField("captions", "Captions, one on each line", 4),),
    "describe": (),
    "judge": (
        FormField("statement", "Statement about two photographs"),
        FormField("right", "Key of the right photograph"),
    ),
}
"""What is asked, by the method of `Predictor` that asks it."""
ANSWER = FormField("answer", "Answer whose reason is to be chosen")
ASKED = "asked"
"""Name in the URL's query that is there where the form was sent."""


class Ranked(NamedTuple):
    """One answer."""

    text: str
    figure: float
    share: float | None
    """Length of its bar, 0 to 1; None if the value is not a probability."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """The output of the model."""

    ranked: tuple[Ranked, ...]
    """Best first."""
    region: int | None = None
    """Index of the selected region in the sample's arrays."""
    text: tuple[str, ...]
    """The text input of the model, for the attention page."""


@dataclass(frozen=True, kw_only=True)
class KnownRegions:
    """An extractor that detects nothing: the regions of every photograph that it is asked about are known."""

    feature_dim: int
    class_names: tuple[str, ...]
    attribute_names: tuple[str, ...] = ()

    def fingerprint(self) -> dict[str, object]:
        """Return nothing: regions do not depend on it."""
        return {}

    def resized_shape(self, height: int, width: int) -> tuple[int, int]:
        """Return the shape as it is."""
        return height, width

    def extract(
        self, images: Sequence[NDArray[np.uint8]], given_boxes: Sequence[NDArray[np.float32] | None]
    ) -> list[Regions]:
        """Raise RefusedError: photographs are asked about with regions of the data set."""
        raise RefusedError("`vilbert browse` has no detector; ask about samples of the data set")


class Asking:
    """A model that answers questions about samples, one at a time."""

    def __init__(self, checkpoint: Path, *, task: str | None, device: Literal["auto", "cpu", "cuda"]) -> None:
        """Load a model; RefusedError if it does not exist or its task has no method of `Predictor`."""
        folder = trained_folder(checkpoint)
        self.card: TaskCard = read_task_card(folder.card, task)
        kind = prediction_of(self.card.task)
        if kind is None:
            raise RefusedError(f"{checkpoint}: is a model of {self.card.task}, which reads its items from files only")
        self.kind: Prediction = kind
        self.takes_answers = find_task(self.card.task).takes_answers
        on = own_device(device)
        model = load_model(ViLBertForTasks, folder, on)
        tokenizer = load_its_tokenizer(folder, model.config)
        require_card(self.card, model.config, folder.card)
        self._trained = Trained(model, tokenizer, self.card, folder.model, on)
        self._lock = threading.Lock()
        self.answer = lru_cache(maxsize=KEPT_ANSWERS)(self._answer)

    @property
    def fields(self) -> tuple[FormField, ...]:
        """Fields of the task's form."""
        return (*FORMS[self.kind], *((ANSWER,) if self.takes_answers else ()))

    def typed(self, query: Mapping[str, str]) -> tuple[str, ...]:
        """Return what a URL's query has for the fields; FilterError if one is missing or too long."""
        values = []
        for field in self.fields:
            value = query.get(field.name, "").strip()
            if not value:
                raise FilterError(f"{field.label}: is empty")
            if len(value) > MAX_TEXT * (8 if field.lines > 1 else 1):
                raise FilterError(f"{field.label}: has {len(value)} characters; shorten it")
            values.append(value)
        return tuple(values)

    def _answer(self, dataset: OpenedDataset, found: IndexedSample, typed: tuple[str, ...]) -> Answered:
        """Return what the model says of a sample; RefusedError if it cannot be asked about it."""
        seen = self._seen(dataset, found)
        predictor = self._predictor(dataset)
        given = dict(zip((field.name for field in self.fields), typed, strict=True))
        with self._lock:
            match self.kind:
                case "answer":
                    best = predictor.answer([seen], [given["question"]], top=TOP)[0]
                    ranked = tuple(Ranked(it.answer, it.probability, it.probability) for it in best)
                    return Answered(ranked=ranked, text=(given["question"],))
                case "choose":
                    return self._choose(predictor, seen, given)
                case "point":
                    pointed = predictor.point([seen], [given["phrase"]])[0]
                    region = pointed.region - 1 if pointed.region else None
                    name = "the whole image" if region is None else f"region {region}"
                    ranked = (Ranked(name, pointed.score, pointed.score),)
                    return Answered(ranked=ranked, region=region, text=(given["phrase"],))
                case "rank":
                    captions = lines_of(given["captions"])
                    scores = predictor.rank([seen], captions)[:, 0]
                    order = np.argsort(-scores, kind="stable").tolist()
                    ranked = tuple(Ranked(captions[at], float(scores[at]), None) for at in order)
                    return Answered(ranked=ranked, text=(captions[order[0]],))
                case "describe":
                    (caption,) = predictor.describe([seen])
                    return Answered(ranked=(Ranked(caption, 0.0, None),), text=(caption,))
                case "judge":
                    other = dataset.index.find(given["right"])
                    if other is None:
                        raise RefusedError(f"no sample has the key {given['right']!r:.60}")
                    (chance,) = predictor.judge([(seen, self._seen(dataset, other))], [given["statement"]])
                    both = sorted((("true", chance), ("false", 1 - chance)), key=lambda it: -it[1])
                    ranked = tuple(Ranked(text, figure, figure) for text, figure in both)
                    return Answered(ranked=ranked, text=(given["statement"],))

    def _choose(self, predictor: Predictor, seen: Detected, given: Mapping[str, str]) -> Answered:
        options = lines_of(given["options"])
        answers = [given["answer"]] if self.takes_answers else []
        (chances,) = predictor.choose([seen], [given["question"]], [options], answers=answers)
        order = sorted(range(len(options)), key=lambda at: -chances[at])
        ranked = tuple(Ranked(options[at], chances[at], chances[at]) for at in order)
        return Answered(ranked=ranked, text=(given["question"], *answers, options[order[0]]))

    def attend(self, dataset: OpenedDataset, found: IndexedSample, text: tuple[str, ...]) -> Attention:
        """Return the attention of every layer and head while the model reads a text before a sample."""
        seen = self._seen(dataset, found)
        with self._lock:
            return self._predictor(dataset).attend(seen, text)

    def _seen(self, dataset: OpenedDataset, found: IndexedSample) -> Detected:
        wanted = self._trained.model.config.v_feature_size
        if dataset.info.feature_dim != wanted:
            raise RefusedError(
                f"the model takes features of {wanted:,} channels and this data set has {dataset.info.feature_dim:,}: "
                "give a data set of the detector that it was trained with"
            )
        return Detected(found.key, dataset.read(found).regions)

    def _predictor(self, dataset: OpenedDataset) -> Predictor:
        info = dataset.info
        known = KnownRegions(
            feature_dim=info.feature_dim, class_names=info.class_names, attribute_names=info.attribute_names
        )
        return Predictor(reader=Reader(trained=self._trained, extractor=known))


def lines_of(text: str) -> list[str]:
    """Return the lines of a text that are not empty; FilterError if there are too many."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > MAX_LINES:
        raise FilterError(f"{len(lines)} lines: give at most {MAX_LINES}")
    return lines


def said(answered: Answered) -> str:
    """Return the answers in a line."""
    return "; ".join(it.text if it.share is None else f"{it.figure:.3f} {it.text}" for it in answered.ranked)


def ask_values(asking: Asking, query: Mapping[str, str]) -> dict[str, Any]:
    """Return what the form shows: its fields with what was typed."""
    return {
        "task": asking.card.task,
        "kind": asking.kind,
        "fields": [(field, query.get(field.name, "")) for field in asking.fields],
    }
