"""The settings of `vilbert predict`, the same for every task."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import Suppress

from vilbert.extractors.extractor import DetectorSettings
from vilbert.extractors.selection import SelectionSettings
from vilbert.pipeline.tasks.generation_settings import GenerationSettings
from vilbert.pipeline.tasks.options import only_for, require_own_values
from vilbert.pipeline.tasks.registry import TaskSpec, find_task, prediction_of
from vilbert.pipeline.terminal import text_argument

PICTURES = (".png", ".jpg", ".jpeg")

TEXTS: dict[str, str | None] = {
    "answer": "question",
    "choose": "question",
    "point": "phrase",
    "rank": "caption",
    "describe": None,
    "judge": "statement",
}
"""The option that has the texts, by method."""


TEXT_OPTIONS = ("question", "answer", "option", "phrase", "caption", "statement")


def asked_by(*methods: str) -> Callable[[TaskSpec], bool]:
    """Return whether one of these methods asks a model of a task."""
    return lambda task: task.prediction is None or task.prediction in methods


@dataclass(frozen=True, kw_only=True)
class CaptionSettings(GenerationSettings):
    """Write captions word by word; for captioning."""

    seed: Suppress[int] = 0
    """The detector's --seed serves here, too."""


@dataclass(frozen=True, kw_only=True)
class PredictSettings:
    """Ask a fine-tuned ViLBERT about photographs: the detector, the tokenizer and the model in one call.

    Texts and photographs go together in order; one text goes with all photographs, and one photograph with all texts.
    Detector and selection are by default those that the features of the model's training were extracted with.
    """

    task: str
    """The task, which the command line names first."""
    checkpoint: Path
    """A run of `vilbert finetune`, its final/, or one of its checkpoints/."""
    image: tuple[str, ...]
    """Photographs: files, URLs, folders of images, or quoted patterns such as 'photos/*.jpg'. NLVR2: the left and the
    right one of each pair."""
    question: tuple[str, ...] = field(default=(), metadata=only_for(asked_by("answer", "choose")))
    """Questions. SNLI-VE: hypotheses."""
    answer: tuple[str, ...] = field(default=(), metadata=only_for(lambda task: task.takes_answers))
    """The answer to each question, for which a reason is wanted."""
    option: tuple[str, ...] = field(default=(), metadata=only_for(asked_by("choose")))
    """What to choose from, the same for every question."""
    phrase: tuple[str, ...] = field(default=(), metadata=only_for(asked_by("point")))
    """What to point at."""
    caption: tuple[str, ...] = field(default=(), metadata=only_for(asked_by("rank")))
    """Captions, for each of which the photographs are ranked. With one photograph, several captions are."""
    statement: tuple[str, ...] = field(default=(), metadata=only_for(asked_by("judge")))
    """What may be true of two photographs."""
    top: int = field(default=5, metadata=only_for(asked_by("answer", "rank")))
    """How many answers, or ranked photographs or captions, to list."""
    output: Path | None = None
    """Draw on the photograph, into this .png or .jpg file, what a phrase means, or else what the detector found."""
    attention: tuple[Path, ...] = ()
    """Write a page (.html) that shows, on the photograph, the attention of every layer and head.
    NLVR2: two, the left photograph's and the right one's."""
    allow_private_addresses: bool = False
    """Fetch photographs from hosts with private, loopback or link-local addresses too."""
    json: bool = False
    """Print one JSON list in place of the text."""
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    selection: SelectionSettings = field(default_factory=SelectionSettings)
    generation: CaptionSettings = field(default_factory=CaptionSettings, metadata=only_for(asked_by("describe")))

    def __post_init__(self) -> None:
        for name in TEXT_OPTIONS:
            object.__setattr__(self, name, tuple(map(text_argument, getattr(self, name))))
        if self.method is None:
            raise ValueError(f"predict {self.task}: takes its items from files; use `vilbert evaluate {self.task}`")
        require_own_values(self)
        if not self.image:
            raise ValueError("--image: give at least one photograph")
        if self.top < 1:
            raise ValueError(f"--top {self.top}: give at least 1")
        wanted = TEXTS[self.method or ""]
        if wanted is not None and not self.texts:
            raise ValueError(f"--{wanted}: {self.task} needs at least one")
        if self.method == "choose" and not self.option:
            raise ValueError(f"--option: {self.task} needs some to choose from")
        if find_task(self.task).takes_answers and len(self.answer) != len(self.question):
            raise ValueError(f"--answer: give one for each --question, {len(self.question)}; got {len(self.answer)}")
        if self.output is not None and self.output.suffix.lower() not in PICTURES:
            raise ValueError(f"--output {self.output}: give a file name that ends in {' or '.join(PICTURES)}")
        if len(self.attention) not in (0, self.images_of_a_text):
            raise ValueError(
                f"--attention: takes a page for each photograph that {self.task} reads a text with, "
                f"{self.images_of_a_text}; got {len(self.attention)}"
            )
        if not any("://" not in it and (glob.has_magic(it) or os.path.isdir(it)) for it in self.image):
            self.require_images(len(self.image))  # else when folders and patterns are expanded

    def require_images(self, count: int) -> None:
        """Raise ValueError where the options do not go with so many photographs."""
        if self.method == "judge" and count % 2:
            raise ValueError(f"--image: {self.task} takes photographs in pairs, left and right; got {count}")
        # Retrieval shows the photograph that a caption ranks first.
        ranks = self.method == "rank"
        several = count > self.images_of_a_text and not ranks
        shown = "two photographs" if self.images_of_a_text == 2 else "one photograph"
        if self.output is not None and (several or (ranks and count > 1 and len(self.texts) > 1)):
            raise ValueError(f"--output: draws {shown}; give no more --image, or for retrieval one --caption")
        if self.attention and (several or len(self.texts) > 1):
            raise ValueError(f"--attention: shows one text with {shown}; give no more of either")

    @property
    def method(self) -> str | None:
        """The method of `Predictor` that asks a model of the task; None where none does."""
        return prediction_of(self.task)

    @property
    def images_of_a_text(self) -> int:
        """How many photographs a text is about."""
        return 2 if self.method == "judge" else 1

    @property
    def texts(self) -> tuple[str, ...]:
        """What is asked; nothing for captioning."""
        wanted = TEXTS[self.method or ""]
        found: tuple[str, ...] = getattr(self, wanted) if wanted else ()
        return found
