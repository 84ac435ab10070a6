"""How captions are written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationSettings:
    """Write captions word by word."""

    method: Literal["greedy", "beam", "nucleus"] = "beam"
    """greedy: the most probable word each time. beam: the best of some captions kept side by side. nucleus: draw."""
    beams: int = 5
    """Captions of an image kept side by side; beam only. With 1 it is greedy."""
    length_penalty: float = 0.0
    """Captions compare by log-probability over (words + 1) to this power: 0 favours short ones, 1 is the mean a word,
    more favours long ones; beam only."""
    top_p: float = 0.9
    """Draw among the most probable words that together have this probability; nucleus only."""
    temperature: float = 1.0
    """Divides log-probabilities before words are drawn: below 1 nearer to greedy; nucleus only."""
    max_words: int = 20
    """Word pieces of a caption at most; one that gets there ends there."""
    no_repeat: int = 0
    """No run of this many word pieces comes twice in a caption; 0: any may."""
    seed: int = 0
    """Of what is drawn; nucleus only."""

    def __post_init__(self) -> None:
        for name, least in (("beams", 1), ("max_words", 1), ("no_repeat", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)}: give {least} or more")
        if not (math.isfinite(self.length_penalty) and self.length_penalty >= 0):
            raise ValueError(f"--length-penalty {self.length_penalty}: give 0 or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"--top-p {self.top_p}: give more than 0 and at most 1")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"--temperature {self.temperature}: give more than 0")
