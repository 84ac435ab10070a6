"""Ask a fine-tuned model about photographs: detector, tokenizer and model together, in one call.

    predictor = Predictor.load("runs/vqa")
    predictor.answer(["photo.jpg"], ["what colour is the cat?"])[0][0].answer

Every method takes any number of photographs and texts and works through them in batches, so that memory is bounded by
a batch and not by the lists. What a photograph gets does not depend on those beside it, up to rounding.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from vilbert.extractors.detectors.registry import describe_extractor
from vilbert.extractors.extractor import DetectorSettings, build_extractor
from vilbert.extractors.regions import Regions
from vilbert.extractors.selection import SelectionSettings
from vilbert.model.tasks import ViLBertForTasks
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.evaluate.evaluation import Trained
from vilbert.pipeline.extract.fetching.settings import FetchSettings
from vilbert.pipeline.predict.asking import Row, Text, as_texts, paired, text_ids
from vilbert.pipeline.predict.attention import Attention
from vilbert.pipeline.predict.photographs import (
    ArgumentError,
    Detected,
    Photograph,
    as_photograph,
    as_photographs,
    name_of_photograph,
)
from vilbert.pipeline.predict.reader import IMAGE_INPUTS, ImageBatch, Reader
from vilbert.pipeline.predict.trained_detector import choose_extractor, warn_of_another_detector
from vilbert.pipeline.tasks.captioning.generation import generate
from vilbert.pipeline.tasks.captioning.generation_settings import GenerationSettings
from vilbert.pipeline.tasks.registry import find_task, prediction_of
from vilbert.pipeline.tasks.retrieval.score_plan import ScoreSettings
from vilbert.pipeline.tasks.retrieval.scores import ImagePool, ImageTensors, score_pairs
from vilbert.pipeline.tasks.task_card import TaskCard, read_task_card, require_card
from vilbert.pipeline.tasks.trained_folder import trained_folder
from vilbert.pipeline.tasks.trained_model import load_its_tokenizer, load_model
from vilbert.pipeline.train.engine.distributed import own_device

logger = logging.getLogger(__name__)

__all__ = ["Answer", "Attention", "Pointed", "Predictor"]


class Answer(NamedTuple):
    """An answer and its probability; see `Predictor.answer`."""

    answer: str
    """The text of the answer's class."""
    probability: float
    """From 0 to 1, independent of the other answers."""


class Pointed(NamedTuple):
    """The region that a phrase describes; see `Predictor.point`."""

    box_xyxy: tuple[float, float, float, float]
    """In pixels of the photograph."""
    score: float
    """Predicted IoU with the described object, from 0 to 1; independent of the other regions."""
    region: int
    """Index among the detector's regions, from 1; 0 is the whole image."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictor:
    """A fine-tuned model with its detector and tokenizer.

    Create one with `Predictor.load`. Every method processes photographs and texts in batches, so memory depends on the
    batch size only. The result for a photograph does not depend on the others, up to rounding.

    A photograph is a path, a URL, a PIL image, an RGB array uint8 [H, W, 3], or an element of the list that
    `detect_each` returned. Photographs and texts are paired in order; a single photograph is paired with every text,
    and a single text with every photograph. Only the method of the model's task can be used; the others raise
    RefusedError, which names it.
    """

    reader: Reader
    """Detector, tokenizer and model."""

    @classmethod
    def load(
        cls,
        checkpoint: str | os.PathLike[str],
        *,
        task: str | None = None,
        detector: DetectorSettings | None = None,
        selection: SelectionSettings | None = None,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        batch_size: int = 32,
        fetching: FetchSettings | None = None,
    ) -> Predictor:
        """Load a model and build its detector.

        Args:
            checkpoint: A run of `vilbert finetune`, its final/, or one of its checkpoints/.
            task: The task to use, for a model that was trained for several.
            detector: Settings of the detector; by default those of the training features, which are recorded in
                task.json. Differences are logged as warnings.
            selection: Settings of the box selection; same defaults as `detector`.
            device: Device of the model, and of the detector unless `detector` is given.
            batch_size: Maximum number of texts, or of photographs, that are processed together.
            fetching: How photographs behind URLs are fetched; private addresses are refused by default.

        Returns:
            The predictor.

        Raises:
            RefusedError: The model does not exist, or the detector's features have another number of channels.
            ExtractorError: The detector cannot be built.
        """
        folder = trained_folder(Path(checkpoint))
        card = read_task_card(folder.card, task)
        on = own_device(device)
        chosen = choose_extractor(card, detector, selection, device=device)
        extractor = build_extractor(chosen)
        model = load_model(ViLBertForTasks, folder, on)
        tokenizer = load_its_tokenizer(folder, model.config)
        require_card(card, model.config, folder.card)
        if extractor.feature_dim != model.config.v_feature_size:
            raise RefusedError(
                f"{folder.model}: takes features of {model.config.v_feature_size} channels and --detector "
                f"{chosen.detector.detector} gives {extractor.feature_dim}; give the detector that it was trained with"
            )
        if card.given_boxes:
            logger.warning(
                "%s: was trained with regions at given boxes in addition to the detector's; none are given here",
                checkpoint,
            )
        described = describe_extractor(extractor, chosen.detector.detector, chosen.detector.opts)
        warn_of_another_detector(card, described, where=folder.card)
        trained = Trained(model, tokenizer, card, folder.model, on)
        reader = Reader(
            trained=trained, extractor=extractor, batch_size=batch_size, fetching=fetching or FetchSettings()
        )
        return cls(reader=reader)

    @property
    def card(self) -> TaskCard:
        """The task of the model, its classes and its limits, from task.json."""
        return self.reader.trained.card

    def detect(self, images: Iterable[Photograph]) -> list[Regions]:
        """Detect the regions of photographs.

        Args:
            images: Photographs.

        Returns:
            Regions of each photograph; the model uses at most as many as in training.

        Raises:
            RefusedError: A photograph cannot be used.
        """
        photographs = as_photographs(images)
        return self.reader.detect(photographs, range(len(photographs)))

    def detect_each(self, images: Iterable[Photograph]) -> list[Detected | RefusedError]:
        """Detect the regions of photographs; a photograph that cannot be used does not stop the others.

        Args:
            images: Photographs.

        Returns:
            For each photograph its regions, or the error if it cannot be used. Every method accepts the regions instead
            of the photograph and does not detect again.
        """
        photographs = as_photographs(images)
        names = [name_of_photograph(image, at) for at, image in enumerate(photographs)]
        found = self.reader.detect_each(photographs, range(len(photographs)))
        return [
            of_one if isinstance(of_one, RefusedError) else Detected(name, of_one)
            for name, of_one in zip(names, found, strict=True)
        ]

    def answer(self, images: Iterable[Photograph], questions: Iterable[str], *, top: int = 5) -> list[list[Answer]]:
        """Answer questions; for vqa, gqa and snli-ve.

        Args:
            images: Photographs; a single one is used for all questions.
            questions: Questions, or hypotheses for snli-ve; a single one is asked about all photographs.
            top: Number of answers to return.

        Returns:
            For each question its `top` most probable answers, best first. Classes have independent sigmoids, because
            several answers may be correct: a probability is the expected agreement of annotators with that answer, and
            the probabilities of all answers do not sum to 1.

        Raises:
            RefusedError: The model has another task, or a photograph cannot be used.
        """
        self._require("answer")
        if top < 1:
            raise RefusedError(f"--top {top}: give at least 1")
        images, questions = as_photographs(images), as_texts(questions, "questions")
        spec = find_task(self.card.task)
        head, labels = spec.head, spec.labels or self.card.labels
        found: list[list[Answer]] = []
        for batch in self.reader.batches(images, _alone(images, questions, "questions"), head):
            logits, classes = getattr(batch.output, head).float().sort(descending=True, stable=True)
            for chances, best in zip(logits[:, :top].sigmoid().tolist(), classes[:, :top].tolist(), strict=True):
                found.append([Answer(labels[number], chance) for number, chance in zip(best, chances, strict=True)])
        return found

    def point(self, images: Iterable[Photograph], phrases: Iterable[str]) -> list[Pointed]:
        """Find the region that each phrase describes; for refcoco, refcoco+ and refcocog.

        Args:
            images: Photographs; a single one is used for all phrases.
            phrases: Referring expressions; a single one is used for all photographs.

        Returns:
            For each phrase the region with the highest score.

        Raises:
            RefusedError: The model has another task, or a photograph cannot be used.
        """
        self._require("point")
        images, phrases = as_photographs(images), as_texts(phrases, "phrases")
        found: list[Pointed] = []
        for batch in self.reader.batches(images, _alone(images, phrases, "phrases"), "vision_logit"):
            assert batch.output.vision_logit is not None
            logits, best = batch.output.vision_logit[..., 0].float().max(1)
            for score, region, regions in zip(logits.sigmoid().tolist(), best.tolist(), batch.regions, strict=True):
                box = regions.boxes[region - 1].tolist() if region else [0.0, 0.0, regions.width, regions.height]
                found.append(Pointed((box[0], box[1], box[2], box[3]), score, region))
        return found

    def choose(
        self,
        images: Iterable[Photograph],
        questions: Iterable[str],
        options: Iterable[Iterable[str]],
        *,
        answers: Iterable[str] = (),
    ) -> list[list[float]]:
        """Choose among options; for vcr-qa and vcr-qar.

        Args:
            images: Photographs; a single one is used for all questions.
            questions: Questions. Refer to objects by the names of their classes (`the dog`).
            options: For each question its options: answers, or reasons for vcr-qar.
            answers: For each question its answer; for vcr-qar only.

        Returns:
            For each question the probability of each option; they sum to 1.

        Raises:
            RefusedError: The model has another task, the numbers of questions, options and answers differ, or a
                photograph cannot be used.
        """
        self._require("choose")
        images, questions = as_photographs(images), as_texts(questions, "questions")
        answers, options = as_texts(answers, "answers"), _as_lists(options)
        if len(options) != len(questions) or not all(options):
            raise RefusedError(
                f"{len(questions)} questions and options for {len(options)}: give at least one option per question"
            )
        wanted = len(questions) if find_task(self.card.task).takes_answers else 0
        if len(answers) != wanted:
            raise RefusedError(
                f"{len(answers)} answers: {self.card.task} takes {wanted} for {len(questions)} questions; only "
                "vcr-qar takes answers"
            )
        asked_about = zip(questions, answers, strict=True) if answers else ((question,) for question in questions)
        texts = [[(*before, option) for option in of_one] for before, of_one in zip(asked_about, options, strict=True)]
        items = [
            [Row(image, text) for text in texts[question]]
            for image, question in paired(len(images), len(questions), "questions")
        ]
        scores: list[float] = []
        for batch in self.reader.batches(images, items, "vil_logit"):
            assert batch.output.vil_logit is not None
            scores += batch.output.vil_logit[:, 0].float().tolist()
        ends = np.cumsum([0, *map(len, items)])
        return [torch.tensor(scores[start:end]).softmax(0).tolist() for start, end in pairwise(ends.tolist())]

    def judge(self, pairs: Iterable[tuple[Photograph, Photograph]], statements: Iterable[str]) -> list[float]:
        """Judge statements about two photographs; for nlvr2.

        Args:
            pairs: The left and the right photograph of each pair; a single pair is used for all statements.
            statements: Statements; a single one is judged for all pairs.

        Returns:
            For each statement the probability that it is true; `vilbert evaluate` predicts true above 0.5. True and
            false have independent sigmoids, so the logit of true is half of the difference of their logits.

        Raises:
            RefusedError: The model has another task, or a photograph cannot be used.
        """
        self._require("judge")
        statements, pairs = as_texts(statements, "statements"), _as_pairs(pairs)
        items = [
            [Row(2 * pair + side, (statements[statement],)) for side in (0, 1)]
            for pair, statement in paired(len(pairs), len(statements), "statements", called="pairs of images")
        ]
        chances: list[float] = []
        for batch in self.reader.batches([image for pair in pairs for image in pair], items, "vil_binary_prediction"):
            assert batch.output.vil_binary_prediction is not None
            false, true = batch.output.vil_binary_prediction.float().unbind(1)
            chances += ((true - false) / 2).sigmoid().tolist()
        return chances

    def rank(self, images: Iterable[Photograph], captions: Iterable[str]) -> NDArray[np.float32]:
        """Score every caption with every image; for retrieval.

        Args:
            images: Photographs.
            captions: Captions.

        Returns:
            float32 [captions, images]; higher is better. Scores are logits, comparable within a caption and within an
            image.

        Raises:
            RefusedError: The model has another task, or a photograph cannot be used.
        """
        self._require("rank")
        images, captions = as_photographs(images), as_texts(captions, "captions")
        if not images or not captions:
            paired(len(images), len(captions), "captions")
        trained = self.reader.trained
        ids = text_ids(trained.tokenizer, [(caption,) for caption in captions], max_words=self.card.max_words)
        parts = [
            score_pairs(trained.model, ids, _pool(seen), settings=ScoreSettings(), task_id=trained.task_token)
            for seen in self.reader.image_batches(images)
        ]
        return np.concatenate(parts, axis=1)

    def describe(self, images: Iterable[Photograph], generation: GenerationSettings | None = None) -> list[str]:
        """Generate a caption for each image; for captioning.

        Args:
            images: Photographs.
            generation: Decoding method and its settings; by default beam search with 5 beams.

        Returns:
            Captions, none longer than the maximum length of training.

        Raises:
            RefusedError: The model has another task, or a photograph cannot be used.
        """
        self._require("describe")
        photographs = as_photographs(images)
        trained = self.reader.trained
        tokenizer = trained.tokenizer
        chosen = generation or GenerationSettings()
        settings = replace(chosen, max_tokens=min(chosen.max_tokens, self.card.max_words - 2))
        written: list[str] = []
        for seen in self.reader.image_batches(photographs):
            found = generate(
                trained.model,
                seen.inputs,
                cls_id=tokenizer.cls_token_id,
                sep_id=tokenizer.sep_token_id,
                pad_id=tokenizer.pad_token_id,
                never=tokenizer.all_special_ids,
                settings=settings,
                keys=seen.names,
                task_token=trained.task_token,
            )
            written += [str(tokenizer.decode(list(it.ids), clean_up_tokenization_spaces=True)) for it in found]
        return written

    def attend(self, image: Photograph, text: str | Text) -> Attention:
        """Compute the attention maps of every layer and head for a text and an image.

        Args:
            image: Photograph.
            text: One sentence, or two or three for vcr. In captioning a token attends only to earlier ones.

        Returns:
            Tokens, regions and attention maps.

        Raises:
            RefusedError: The photograph cannot be used.
        """
        sentences = (text,) if isinstance(text, str) else tuple(as_texts(text, "text"))
        return self.reader.attend(as_photograph(image, "image"), sentences)

    def _require(self, method: str) -> None:
        """Raise RefusedError where this is not the method of the task that the model was trained for."""
        right = prediction_of(self.card.task)
        if right != method:
            remedy = f"use Predictor.{right}" if right else "use `vilbert evaluate` on files"
            task, folder = self.card.task, self.reader.trained.folder
            raise RefusedError(f"{folder}: was trained for {task}, which Predictor.{method} does not support; {remedy}")


def _alone(images: Sequence[Photograph], texts: Sequence[str], what: str) -> list[tuple[Row]]:
    """Return each text as an item of its own about its photograph. what: the texts, for messages."""
    return [(Row(image, (texts[text],)),) for image, text in paired(len(images), len(texts), what)]


def _as_lists(options: Iterable[Iterable[str]]) -> list[list[str]]:
    """Return the options of each question; ArgumentError where they are no list of lists of texts."""
    if isinstance(options, str | bytes) or not isinstance(options, Iterable):
        raise ArgumentError("options: give a list of texts for each question, such as [[text, text]]")
    return [as_texts(of_one, f"options[{number}]") for number, of_one in enumerate(options)]


def _as_pairs(pairs: Iterable[tuple[Photograph, Photograph]]) -> list[tuple[Photograph, Photograph]]:
    """Return pairs of photographs; ArgumentError where they are no list of (left, right)."""
    if isinstance(pairs, str | bytes | os.PathLike) or not isinstance(pairs, Iterable):
        raise ArgumentError("pairs: give a list of pairs of photographs, such as [(left, right)]")
    found = []
    for number, pair in enumerate(pairs):
        sides = as_photographs(pair, f"pairs[{number}]")
        if len(sides) != 2:
            raise ArgumentError(f"pairs[{number}]: has {len(sides)} photographs; give two, (left, right)")
        found.append((sides[0], sides[1]))
    return found


def _pool(seen: ImageBatch) -> ImagePool:
    """Return images that lie in memory as those to rank."""
    tensors = ImageTensors(*(seen.inputs[name] for name in IMAGE_INPUTS))
    return ImagePool(
        regions=tensors.mask.sum(1).cpu().numpy(),
        read=lambda numbers: ImageTensors(*(whole[torch.from_numpy(numbers)] for whole in tensors)),
        fingerprint="",
    )
