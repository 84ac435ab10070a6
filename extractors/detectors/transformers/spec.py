"""The detectors of transformers: facts that are known without importing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from vilbert.extractors.detectors.registry import DetectorSpec
from vilbert.settings import Validator


def _one_place(prompt: str) -> str:
    if prompt.count("{}") != 1 or prompt.count("{") != 1 or prompt.count("}") != 1:
        raise ValueError("give a text with {} in place of the name")
    return prompt


@dataclass(frozen=True)
class TransformersSettings:
    """Settings of open-vocabulary detectors, as --opts KEY VALUE."""

    prompt: Annotated[str, Validator("after", _one_place)] = "{}"
    """The text for a name of the vocabulary, such as "a photo of a {}"."""


SPEC = DetectorSpec(
    build="vilbert.extractors.detectors.transformers.query_extractor:build",
    summary="DETR, RT-DETR, D-FINE, RF-DETR, Grounding DINO, OWLv2 and others, by --weights FOLDER_OR_HUB_NAME.",
    options=("vocabulary",),
    ignores=("feature_layer",),
    required=("weights",),
    settings=TransformersSettings,
    needs_files=True,
)
