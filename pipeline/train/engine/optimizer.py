"""AdamW or Muon over groups of parameters, the settings at each step, and the clipping of gradients.

torch's AdamW does the arithmetic. What the published optimizers did otherwise is a change of its settings that depends
on the step alone. With b1 and b2 the betas and t the update's number from 1, torch computes

    p <- p (1 - lr wd) - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)

BertAdam of pytorch-pretrained-bert 0.6.2 has neither correction:

    p <- p (1 - lr wd) - lr * m / (sqrt(v) + eps)

which is torch's with lr' = lr (1 - b1^t) / sqrt(1 - b2^t), eps' = eps / sqrt(1 - b2^t) and wd' = wd lr / lr'.
AdamW of pytorch_transformers 1.0 corrects both but adds eps to the uncorrected root, which is torch's with that eps'.
It decays after the update, not before, and so differs by lr wd times the update itself: below 1e-10 a step with the
published settings. That is not imitated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from vilbert.pipeline.train.engine.muon import Muon
from vilbert.pipeline.train.engine.optimizer_settings import OptimizerSettings

_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")
# The task embeddings of 12-in-1 lie among BERT's but begin at random.
_FROM_BERT = re.compile(r"^(?:bert\.)?(?:embeddings\.(?!task_embeddings\.)|encoder\.layer\.)")
_MATRIX_OF_A_LAYER = re.compile(r"^(?:bert\.)?encoder\.(?:layer|v_layer|c_layer)\..*\.weight$")


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that require a gradient by name, tied ones once, under the first of their names.

    Names are those of the bare model, whatever DistributedDataParallel or torch.compile put before them.
    """
    return {
        _WRAPPERS.sub("", name): parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }


def biases_and_norms(model: nn.Module) -> set[nn.Parameter]:
    """Return biases, parameters of LayerNorms, gains of weight norms and whatever else has fewer than two axes."""
    norms = {parameter for part in model.modules() if isinstance(part, nn.LayerNorm) for parameter in part.parameters()}
    small = {
        parameter
        for name, parameter in model.named_parameters()
        if parameter.ndim < 2 or name.rpartition(".")[2] in ("bias", "weight_g")
    }
    return norms | small


def parameter_groups(model: nn.Module, settings: OptimizerSettings, *, from_bert: bool) -> list[dict[str, Any]]:
    """Return groups for torch's optimizers: of BERT, of a task's head or of neither, decayed or not, of Muon or not.

    Each parameter is in exactly one; no group is empty.

    from_bert: whether the text stream began as a BERT, so that `text_learning_rate_factor` holds for it. Each group has
    "names" beside "params", and "base_lr" and "base_weight_decay", which `set_step` reads; those of Muon have
    "muon", which is true, and "momentum". Raises ValueError where
    nothing requires a gradient, or from_bert finds no parameter of BERT: in vilbert-multi-task that went unnoticed.
    """
    small = biases_and_norms(model)
    found: dict[tuple[float, float, bool], list[tuple[str, nn.Parameter]]] = {}
    parameters = trained_parameters(model)
    if not parameters:
        raise ValueError("the model has no parameter that requires a gradient")
    if from_bert and not any(_FROM_BERT.match(_WRAPPERS.sub("", name)) for name, _ in model.named_parameters()):
        raise ValueError("no parameter is named as those of BERT are (bert.embeddings., bert.encoder.layer.)")
    for name, parameter in parameters.items():
        slow = from_bert and _FROM_BERT.match(name)
        decayed = (parameter in small) == (settings.decay == "biases_and_norms")
        muon = settings.optim == "muon" and parameter.ndim == 2 and bool(_MATRIX_OF_A_LAYER.match(name))
        peak = settings.muon_learning_rate if muon else settings.learning_rate
        rate = peak * (settings.text_learning_rate_factor if slow else 1.0)
        if settings.head_learning_rate is not None and "vil_" in name:
            rate = settings.head_learning_rate
        key = (rate, settings.weight_decay if decayed else 0.0, muon)
        found.setdefault(key, []).append((name, parameter))
    return [
        {
            "params": [parameter for _, parameter in members],
            "names": [name for name, _ in members],
            "lr": rate,
            "weight_decay": decay,
            "base_lr": rate,
            "base_weight_decay": decay,
            **({"muon": True, "momentum": settings.muon_momentum} if muon else {}),
        }
        for (rate, decay, muon), members in found.items()
    ]


def build_optimizer(model: nn.Module, settings: OptimizerSettings, *, from_bert: bool) -> torch.optim.AdamW:
    """Return the optimizer of a model that lies on its device already: torch's fused AdamW, or Muon beside it.

    Call `set_step` before each of its steps.
    """
    groups = parameter_groups(model, settings, from_bert=from_bert)
    betas = (settings.beta1, settings.beta2)
    algorithm = Muon if settings.optim == "muon" else torch.optim.AdamW
    return algorithm(groups, betas=betas, eps=settings.epsilon, fused=True)


def set_step(optimizer: torch.optim.Optimizer, settings: OptimizerSettings, *, factor: float, step: int) -> None:
    """Set learning rates, and what depends on the step beside them, for the next update.

    factor: of the learning rate, from `factor_at`. step: how many updates the optimizer made before; steps of the run
    that were skipped are not among them, for torch's own count stands still at those.
    """
    correction1 = 1 - settings.beta1 ** (step + 1)
    root2 = (1 - settings.beta2 ** (step + 1)) ** 0.5
    scale = 1.0 if settings.bias_correction else correction1 / root2
    epsilon_hat = settings.epsilon_hat or not settings.bias_correction
    for group in optimizer.param_groups:
        if group.get("muon"):
            group["lr"] = group["base_lr"] * factor
            continue
        group["lr"] = group["base_lr"] * factor * scale
        group["weight_decay"] = group["base_weight_decay"] / scale
        group["eps"] = settings.epsilon / root2 if epsilon_hat else settings.epsilon


def level_counts(optimizer: torch.optim.Optimizer, step: int) -> None:
    """Set the count of updates of every parameter that had one to `step`, the one that `set_step` reckons with.

    Steps pass over the classifiers of other tasks, and torch counts for each parameter what it corrects the bias by.
    Without bias correction `set_step` takes that out again, which it can do for one count alone.
    """
    for state in optimizer.state.values():
        state["step"].fill_(step)


def clip_gradients(parameters: Iterable[nn.Parameter], settings: OptimizerSettings) -> Tensor:
    """Shorten gradients in place, and return the length [] of all of them together from before.

    A length that is no finite number leaves gradients of no use: look at it before the optimizer's step.
    """
    with_gradients = [parameter for parameter in parameters if parameter.grad is not None]
    gradients = [parameter.grad for parameter in with_gradients if parameter.grad is not None]
    length = nn.utils.get_total_norm(gradients)
    if settings.clip and settings.clip_by == "global":
        nn.utils.clip_grads_with_norm_(with_gradients, settings.clip, length)
    elif settings.clip and gradients and gradients[0].device.type == "cuda":
        # As `clip_grad_norm_` of each, in a few launches for all.
        lengths = torch._foreach_norm(gradients)
        factors = torch._foreach_reciprocal(torch._foreach_add(lengths, 1e-6))
        torch._foreach_mul_(factors, settings.clip)
        torch._foreach_clamp_max_(factors, 1.0)
        torch._foreach_mul_(gradients, factors)
    elif settings.clip:
        for parameter in with_gradients:
            nn.utils.clip_grad_norm_(parameter, settings.clip)
    return length
