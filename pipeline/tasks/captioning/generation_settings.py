"""Settings of caption generation."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Interval

from vilbert.settings import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, validated


@validated
class GenerationSettings:
    """Generate captions token by token."""

    method: Literal["greedy", "beam", "nucleus"] = "beam"
    """Decoding method: greedy, beam search, or nucleus sampling."""
    beams: PositiveInt = 5
    """Number of beams; beam only."""
    length_penalty: NonNegativeFloat = 0.0
    """Exponent of the length by which log-probabilities are divided: 0 favours short captions, larger values longer
    ones; beam only."""
    top_p: Annotated[float, Interval(gt=0, le=1)] = 0.9
    """Probability mass of the tokens to sample from; nucleus only."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature; nucleus only."""
    max_tokens: PositiveInt = 20
    """Maximum number of tokens of a caption, at most that of training; longer captions are truncated."""
    no_repeat: NonNegativeInt = 0
    """Size of n-grams that may not repeat in a caption; 0: no restriction."""
    seed: int = 0
    """Random seed; nucleus only."""
