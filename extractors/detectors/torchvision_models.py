"""torchvision's Faster R-CNN models with weights: its own download, a user's file, or random ones for a trial."""

from __future__ import annotations

import http.client
import logging
import math
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models import get_model_builder, get_model_weights
from torchvision.models.detection import FasterRCNN
from torchvision.models.mobilenetv3 import InvertedResidual
from torchvision.models.resnet import Bottleneck
from torchvision.ops import SqueezeExcitation

from vilbert.extractors.extractor import DetectorSettings, ExtractorError
from vilbert.extractors.weights import hash_tensors, load_weights, require_finite

logger = logging.getLogger(__name__)


class LoadedModel(NamedTuple):
    """A model with its weights, and what a fingerprint must say of them."""

    model: FasterRCNN
    class_names: tuple[str, ...]
    facts: dict[str, object]


def load_model(settings: DetectorSettings) -> LoadedModel:
    """Build the model that the settings name and give it its weights.

    Raises ExtractorError where the weights are not there or are another model's.
    """
    name = f"fasterrcnn_{settings.torchvision_model}"
    published = get_model_weights(name).DEFAULT
    categories = tuple(published.meta["categories"])
    # Layers draw their first values from torch's global generator, which is not ours to move on.
    with torch.random.fork_rng(devices=[]):
        model = get_model_builder(name)(weights=None, weights_backbone=None, num_classes=len(categories))
    # torchvision runs two kinds of batch norm with one meaning in inference. The frozen kind does its arithmetic in
    # float32 under autocast, so the plain one is kept for all weights, with the epsilon that they were trained with.
    epsilon = 0.0 if settings.torchvision_model == "resnet50_fpn" else None
    if settings.weights == "random":
        logger.warning("--weights random: %s is untrained (seed %d); its regions are meaningless", name, settings.seed)
        randomise(model, settings.seed)
        sha256 = hash_tensors(model.state_dict())
    else:
        path = (
            Path(settings.weights)
            if settings.weights
            else published_file(published.url, f"--torchvision-model {settings.torchvision_model}")
        )
        state, sha256 = load_weights(path)
        if not settings.weights and not sha256.startswith(path.stem.rpartition("-")[2]):
            raise ExtractorError(
                f"{path}: damaged: its sha256 is not the one in its name; delete it to download it again"
            )
        load_state(model, state, path)
        if epsilon is not None:
            _set_batch_norm_epsilon(model, epsilon)
    facts: dict[str, object] = {"extractor": "torchvision", "model": name, "weights_sha256": sha256}
    return LoadedModel(model, categories, facts)


def published_file(url: str, option: str) -> Path:
    """Return torchvision's own weights as a file in torch.hub's cache, downloading them where they are not there.

    option: what named the model, for the message.
    """
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if path.exists():
        return path
    logger.info("downloading %s to %s", url, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = path.stem.rpartition("-")[2]
        torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix, progress=sys.stderr.isatty())
    except (OSError, http.client.HTTPException, RuntimeError) as error:  # RuntimeError: the hash differs
        raise ExtractorError(
            f"no weights for {option}: {path} is not there and {url} cannot be "
            f"downloaded ({error}). Download {path.name} elsewhere and put it there (TORCH_HOME moves the folder), or "
            f"give --weights FILE, or --weights random for a trial"
        ) from error
    return path


def load_state(model: nn.Module, state: dict[str, Tensor], source: Path) -> None:
    """Copy tensors by name into a model; raise ExtractorError where one is missing, unknown, or of another shape."""
    require_finite(state, source)
    try:
        mismatch = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # how torch reports shapes that differ
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise ExtractorError(f"{source}: the weights belong to another model: {_first(lines)}") from error
    for kind, keys in (("it lacks", mismatch.missing_keys), ("the model has no", mismatch.unexpected_keys)):
        if keys:
            raise ExtractorError(f"{source}: the weights belong to another model: {kind} {_first(keys)}")


def _first(items: list[str], count: int = 3) -> str:
    more = f", and {len(items) - count} more" if len(items) > count else ""
    return ", ".join(items[:count]) + more


def _set_batch_norm_epsilon(model: nn.Module, epsilon: float) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = epsilon


def randomise(model: FasterRCNN, seed: int) -> None:
    """Give every layer random weights under which activations neither vanish nor explode, and regions differ.

    torchvision's own first values are meant for training with batch statistics. In inference batch norm is the
    identity under them: the residual sums of a ResNet double at each block, and MobileNet's signal fades away.
    """
    generator = torch.Generator().manual_seed(seed)
    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    with torch.no_grad():
        for layer in layers:
            fan_in = layer.weight[0].numel()
            layer.weight.normal_(std=math.sqrt(2 / fan_in), generator=generator)
            if layer.bias is not None:
                layer.bias.zero_()
        for module in model.modules():
            _damp(module)
        head, predictor = model.rpn.head, model.roi_heads.box_predictor
        for layer in (head.bbox_pred, predictor.bbox_pred):
            layer.weight *= 0.05  # small refinements: proposals stay near their anchors, of every size
        for layer in (head.cls_logits, predictor.cls_score):
            layer.weight *= 0.3  # softmax and sigmoid short of saturation


def _damp(module: nn.Module) -> None:
    """Let the identity prevail over the branch beside it, and channel gates stand open."""
    match module:
        case Bottleneck():
            module.bn3.weight *= 0.1
        case InvertedResidual() if module.use_res_connect:
            module.block[-1][1].weight *= 0.1
        case SqueezeExcitation():
            module.fc2.bias += 3  # where the hard sigmoid reaches 1
