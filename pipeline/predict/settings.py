"""The settings of `vilbert predict`: what all tasks share, and a class for each way of asking."""

from __future__ import annotations

import glob
import os
from dataclasses import field
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import Suppress

from vilbert.extractors.settings import DetectorSettings, SelectionSettings
from vilbert.pipeline.tasks.captioning.generation_settings import GenerationSettings
from vilbert.pipeline.tasks.registry import require_prediction
from vilbert.pipeline.terminal import text_argument
from vilbert.settings import PositiveInt, Validator, validated

PICTURES = (".png", ".jpg", ".jpeg")


@validated
class CaptionSettings(GenerationSettings):
    """Settings of generated captions; for captioning."""

    seed: Suppress[int] = 0
    """Shared with the detector's --seed."""


@validated
class PredictSettings:
    """Run a fine-tuned ViLBERT on images: detector, tokenizer and model in one call.

    Texts and photographs are paired in order; a single one is paired with all of the other. By default, detector and
    selection are those of the training features.
    """

    task: Suppress[str]
    """The task; the first argument of the command line."""
    checkpoint: Path
    """A run of `vilbert finetune`, its final/, or one of its checkpoints/."""
    image: tuple[str, ...]
    """Images: files, URLs, folders, or quoted patterns such as 'photos/*.jpg'. NLVR2: the left and the right image of
    each pair."""
    output: Path | None = None
    """Write the image with the predicted region, or with the detected regions, to this .png or .jpg file."""
    attention: tuple[Path, ...] = ()
    """Write a page (.html) with the attention of every layer and head over the image. NLVR2: two pages, for the left
    and the right image."""
    allow_private_addresses: bool = False
    """Allow downloads from hosts with private, loopback or link-local addresses."""
    json: bool = False
    """Print one JSON list instead of text."""
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    selection: SelectionSettings = field(default_factory=SelectionSettings)

    text_option: ClassVar[str | None] = None
    """Name of the field with the texts; None for a task without texts."""
    images_of_a_text: ClassVar[int] = 1
    """Number of photographs per text."""
    ranks: ClassVar[bool] = False
    """Whether photographs are ranked; --output then draws the best one."""
    remedies: ClassVar[dict[str, str]] = {}
    """Recommendation in the message about an option that only other tasks have, by its name."""

    def __post_init__(self) -> None:
        require_prediction(self.task)
        if not self.image:
            raise ValueError("--image: give at least one photograph")
        if self.text_option is not None and not self.texts:
            raise ValueError(f"--{self.text_option}: {self.task} needs at least one")
        if self.output is not None and self.output.suffix.lower() not in PICTURES:
            raise ValueError(f"--output {self.output}: give a file name that ends in {' or '.join(PICTURES)}")
        if len(self.attention) not in (0, self.images_of_a_text):
            raise ValueError(
                f"--attention: takes one file per photograph of a text in {self.task}, "
                f"{self.images_of_a_text}; got {len(self.attention)}"
            )
        if not any(map(_is_expanded, self.image)):  # otherwise the command checks again when the number is known
            self.require_images(len(self.image))

    def require_images(self, count: int) -> None:
        """Raise ValueError where the options do not go with so many photographs."""
        if self.images_of_a_text == 2 and count % 2:
            raise ValueError(f"--image: {self.task} takes photographs in pairs, left and right; got {count}")
        several_images, several_texts = count > self.images_of_a_text, len(self.texts) > 1
        shown = "two photographs" if self.images_of_a_text == 2 else "one photograph"
        # Retrieval shows the photograph that a caption ranks first, so several photographs are allowed there.
        if self.output is not None and several_images and (several_texts or not self.ranks):
            raise ValueError(f"--output: draws {shown}; give no more --image, or for retrieval one --caption")
        if self.attention and (several_texts or (several_images and not self.ranks)):
            raise ValueError(f"--attention: shows one text with {shown}; give no more of either")

    @property
    def texts(self) -> tuple[str, ...]:
        """What is asked; nothing for captioning."""
        found: tuple[str, ...] = getattr(self, self.text_option) if self.text_option else ()
        return found


def _is_expanded(image: str) -> bool:
    """Say whether an --image is a pattern or a folder, which stands for any number of photographs."""
    return "://" not in image and (glob.has_magic(image) or os.path.isdir(image))


Text = Annotated[str, Validator("after", text_argument)]
"""A text of the command line, whatever its encoding."""


@validated
class AnswerSettings(PredictSettings):
    """Questions with a list of answers."""

    question: tuple[Text, ...] = ()
    """Questions. SNLI-VE: hypotheses."""
    top: PositiveInt = 5
    """Number of answers, ranked images or ranked captions to print."""
    text_option: ClassVar[str | None] = "question"


@validated
class ChooseSettings(PredictSettings):
    """Questions with options to choose from."""

    question: tuple[Text, ...] = ()
    """Questions."""
    option: tuple[Text, ...] = ()
    """Options to choose from, the same for every question."""
    text_option: ClassVar[str | None] = "question"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.option:
            raise ValueError(f"--option: {self.task} needs at least one")

    @property
    def answers(self) -> tuple[str, ...]:
        """Return what was answered to each question, for which a reason is wanted; nothing where an answer is."""
        return ()


@validated
class PointSettings(PredictSettings):
    """Phrases that describe a region."""

    phrase: tuple[Text, ...] = ()
    """Phrases to locate."""
    text_option: ClassVar[str | None] = "phrase"


@validated
class RankSettings(PredictSettings):
    """Captions for which photographs are ranked."""

    caption: tuple[Text, ...] = ()
    """Captions; the images are ranked for each. With one image and several captions, the captions are ranked."""
    top: PositiveInt = 5
    """Number of answers, ranked images or ranked captions to print."""
    text_option: ClassVar[str | None] = "caption"
    ranks: ClassVar[bool] = True


@validated
class DescribeSettings(PredictSettings):
    """Generated captions."""

    generation: CaptionSettings = field(default_factory=CaptionSettings)


@validated
class JudgeSettings(PredictSettings):
    """Statements about pairs of photographs."""

    statement: tuple[Text, ...] = ()
    """Statements about the two images."""
    text_option: ClassVar[str | None] = "statement"
    images_of_a_text: ClassVar[int] = 2


@validated
class ChooseReasonSettings(ChooseSettings):
    """Questions and their answers, with reasons to choose from."""

    answer: tuple[Text, ...] = ()
    """The answer to each question, to choose a reason for."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.answer) != len(self.question):
            raise ValueError(f"--answer: give one for each --question, {len(self.question)}; got {len(self.answer)}")

    @property
    def answers(self) -> tuple[str, ...]:
        """Return what was answered to each question."""
        return self.answer
