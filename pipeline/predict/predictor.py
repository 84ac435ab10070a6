"""Ask a fine-tuned model about photographs: detector, tokenizer and model together, in one call.

    predictor = Predictor.load("runs/vqa")
    predictor.answer(["photo.jpg"], ["what colour is the cat?"])[0][0].answer

Every method takes any number of photographs and texts and works through them in batches, so that memory is bounded by
a batch and not by the lists. What a photograph gets does not depend on those beside it, up to rounding.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vilbert.extractors.extractor import DetectorSettings
from vilbert.extractors.regions import Regions
from vilbert.extractors.selection import SelectionSettings
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.extract.fetching.settings import FetchSettings
from vilbert.pipeline.predict import captions as captions_of
from vilbert.pipeline.predict import text_predictions
from vilbert.pipeline.predict.asking import Text, as_texts
from vilbert.pipeline.predict.attention import Attention
from vilbert.pipeline.predict.loading import load_reader
from vilbert.pipeline.predict.photographs import (
    Detected,
    Photograph,
    as_photograph,
    as_photographs,
    name_of_photograph,
)
from vilbert.pipeline.predict.reader import Reader
from vilbert.pipeline.predict.text_predictions import Answer, Pointed
from vilbert.pipeline.tasks.captioning.generation_settings import GenerationSettings
from vilbert.pipeline.tasks.registry import prediction_of
from vilbert.pipeline.tasks.task_card import TaskCard

__all__ = ["Answer", "Attention", "Pointed", "Predictor"]


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
        reader = load_reader(
            checkpoint,
            task=task,
            detector=detector,
            selection=selection,
            device=device,
            batch_size=batch_size,
            fetching=fetching or FetchSettings(),
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
        return text_predictions.answer(self.reader, images, questions, top=top)

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
        return text_predictions.point(self.reader, images, phrases)

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
        return text_predictions.choose(self.reader, images, questions, options, answers=answers)

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
        return text_predictions.judge(self.reader, pairs, statements)

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
        return captions_of.rank(self.reader, images, captions)

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
        return captions_of.describe(self.reader, images, generation)

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
