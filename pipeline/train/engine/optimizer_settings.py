"""The settings of the optimizer; no torch here, so that `vilbert --help` stays fast."""

from __future__ import annotations

from typing import Literal

from vilbert.settings import NonNegativeFloat, PositiveFloat, ShareBelowOne, validated


@validated
class OptimizerSettings:
    """AdamW in groups of parameters (Loshchilov and Hutter, ICLR 2019), or Muon for the matrices of the layers."""

    optim: Literal["adamw", "muon"] = "adamw"
    """Optimizer. muon: Muon (Jordan et al., 2024) for the matrices of the encoder's layers, AdamW for the others."""
    learning_rate: PositiveFloat = 1e-4
    """Peak learning rate."""
    text_learning_rate_factor: NonNegativeFloat = 0.1
    """Learning rate factor for parameters that come from BERT (embeddings and layers of the text stream)."""
    head_learning_rate: PositiveFloat | None = None
    """Learning rate of new task heads (names with `vil_`); default: --learning-rate."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay."""
    decay: Literal["weights", "biases_and_norms"] = "weights"
    """Parameters with weight decay: all but biases, norms and gains; or only these, as in the code of vilbert_beta."""
    beta1: ShareBelowOne = 0.9
    """Coefficient of the running average of gradients."""
    beta2: ShareBelowOne = 0.999
    """Coefficient of the running average of squared gradients."""
    epsilon: PositiveFloat = 1e-8
    """Added to the root of the running mean of squared gradients."""
    epsilon_hat: bool = False
    """Add epsilon before bias correction, which makes it larger in early steps: the form of pytorch_transformers."""
    bias_correction: bool = True
    """Bias correction of the running means; BERT's original optimizer has none."""
    muon_learning_rate: PositiveFloat = 0.02
    """Peak learning rate of Muon."""
    muon_momentum: ShareBelowOne = 0.95
    """Decay of Muon's running mean of gradients."""
    clip: NonNegativeFloat = 1.0
    """Maximum gradient norm; 0: no clipping."""
    clip_by: Literal["global", "parameter"] = "global"
    """Norm to clip by: of all gradients together, or of each parameter."""
