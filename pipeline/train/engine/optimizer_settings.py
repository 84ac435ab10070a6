"""The settings of the optimizer; no torch here, so that `vilbert --help` stays fast."""

from __future__ import annotations

from typing import Literal

from vilbert.settings import NonNegativeFloat, PositiveFloat, ShareBelowOne, validated


@validated
class OptimizerSettings:
    """AdamW in groups of parameters (Loshchilov and Hutter, ICLR 2019)."""

    learning_rate: PositiveFloat = 1e-4
    """Rate at the height of the schedule."""
    text_learning_rate_factor: NonNegativeFloat = 0.1
    """Share of the rate for parameters that came from BERT (embeddings and layers of the text stream)."""
    head_learning_rate: PositiveFloat | None = None
    """Rate of new task heads (names with `vil_`), in place of --learning-rate."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay."""
    decay: Literal["weights", "biases_and_norms"] = "weights"
    """What decays: all but biases, norms and gains; or, as the code of vilbert_beta had it, only these."""
    beta1: ShareBelowOne = 0.9
    """Decay of the running mean of gradients."""
    beta2: ShareBelowOne = 0.999
    """Decay of the running mean of squared gradients."""
    epsilon: PositiveFloat = 1e-8
    """Added to the root of the running mean of squared gradients."""
    epsilon_hat: bool = False
    """Add epsilon before bias correction, which makes it larger in early steps: the form of pytorch_transformers."""
    bias_correction: bool = True
    """Correct the running means for their start at zero; BERT's own optimizer did not."""
    clip: NonNegativeFloat = 1.0
    """Longest gradient; a longer one is shortened to it. 0: never."""
    clip_by: Literal["global", "parameter"] = "global"
    """Whose length counts: that of all gradients together, or of each parameter's own."""
