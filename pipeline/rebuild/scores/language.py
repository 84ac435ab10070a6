"""Language of the captions of an image, by py3langid."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.rebuild.scores.score import Scored

DIGITS = 6


class LanguageScore:
    """The most probable language of all captions of a sample together, as ISO 639 code, and its probability.

    Longer texts are identified better than single captions of a few words. The model is part of the package py3langid
    (a naive Bayes classifier over byte n-grams: Lui and Baldwin, "langid.py: an off-the-shelf language identification
    tool", ACL 2012); the same text always gives the same language.
    """

    needs_images = False
    uses_model = False
    fields = ("language", "language_probability")

    def __init__(self, settings: object) -> None:
        """Load the model.

        Raises:
            RefusedError: py3langid is not installed.
        """
        try:
            from py3langid.langid import MODEL_FILE, LanguageIdentifier
        except ImportError as error:
            raise RefusedError(
                "--scores language needs py3langid, which is not installed: pip install 'vilbert-pipeline[language]'"
            ) from error
        self._identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def fingerprint(self) -> dict[str, Any]:
        """Return the version of the package."""
        return {"py3langid": version("py3langid")}

    def score(self, samples: Sequence[Scored]) -> list[dict[str, Any]]:
        """Return the fields of each sample; none for captions without letters."""
        return [self._fields("\n".join(sample.captions)) for sample in samples]

    def _fields(self, text: str) -> dict[str, Any]:
        if not any(character.isalpha() for character in text):
            return {}
        language, probability = self._identifier.classify(text)
        return {"language": str(language), "language_probability": round(float(probability), DIGITS)}
