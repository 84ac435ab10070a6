"""How captions are written."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Interval

from vilbert.settings import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, validated


@validated
class GenerationSettings:
    """Write captions word by word."""

    method: Literal["greedy", "beam", "nucleus"] = "beam"
    """greedy: the most probable word each time. beam: the best of some captions kept side by side. nucleus: draw."""
    beams: PositiveInt = 5
    """Captions of an image kept side by side; beam only. With 1 it is greedy."""
    length_penalty: NonNegativeFloat = 0.0
    """Captions compare by log-probability over (words + 1) to this power: 0 favours short ones, 1 is the mean a word,
    more favours long ones; beam only."""
    top_p: Annotated[float, Interval(gt=0, le=1)] = 0.9
    """Draw among the most probable words that together have this probability; nucleus only."""
    temperature: PositiveFloat = 1.0
    """Divides log-probabilities before words are drawn: below 1 nearer to greedy; nucleus only."""
    max_tokens: PositiveInt = 20
    """Maximum number of tokens of a caption, and never more than in training; longer captions end there."""
    no_repeat: NonNegativeInt = 0
    """No run of this many word pieces comes twice in a caption; 0: any may."""
    seed: int = 0
    """Of what is drawn; nucleus only."""
