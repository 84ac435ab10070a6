"""The settings of the optimizer; no torch here, so that `vilbert --help` stays fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """AdamW in groups of parameters (Loshchilov and Hutter, ICLR 2019)."""

    learning_rate: float = 1e-4
    """Rate at the height of the schedule."""
    text_learning_rate_factor: float = 0.1
    """Share of the rate for parameters that came from BERT (embeddings and layers of the text stream)."""
    head_learning_rate: float | None = None
    """Rate of new task heads (names with `vil_`), in place of --learning-rate."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    decay: Literal["weights", "biases_and_norms"] = "weights"
    """What decays: all but biases, norms and gains; or, as the code of vilbert_beta had it, only these."""
    beta1: float = 0.9
    """Decay of the running mean of gradients."""
    beta2: float = 0.999
    """Decay of the running mean of squared gradients."""
    epsilon: float = 1e-8
    """Added to the root of the running mean of squared gradients."""
    epsilon_hat: bool = False
    """Add epsilon before bias correction, which makes it larger in early steps: the form of pytorch_transformers."""
    bias_correction: bool = True
    """Correct the running means for their start at zero; BERT's own optimizer did not."""
    clip: float = 1.0
    """Longest gradient; a longer one is shortened to it. 0: never."""
    clip_by: Literal["global", "parameter"] = "global"
    """Whose length counts: that of all gradients together, or of each parameter's own."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "epsilon"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)}: give a number above 0")
        if self.head_learning_rate is not None and not 0 < self.head_learning_rate < float("inf"):
            raise ValueError(f"--head-learning-rate {self.head_learning_rate}: give a number above 0")
        for name in ("text_learning_rate_factor", "weight_decay", "clip"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)}: give 0 or more")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"--{name} {getattr(self, name)}: give a number from 0 to below 1, such as 0.9")
