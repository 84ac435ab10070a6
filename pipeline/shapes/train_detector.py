"""Train the `shapes` detector on scenes that are generated during training, and evaluate it on held-out scenes.

    python -m vilbert.pipeline.shapes.train_detector --output shapes_frcnn.safetensors

Scenes come from `make_scene(seed, index)`: training scenes and held-out scenes have different seeds, every scene is
shown once, and nothing is stored. The losses are torchvision's own, of proposals and of boxes, and one more: each
sampled region of an object says its size, colour and texture, each linearly from the feature, so that whoever learns
from the features finds them there.

Everything random follows from the seed: on one machine, the same seed on as many threads gives the same weights.
It takes about twenty minutes on two cores: one learns, one draws.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection.roi_heads import fastrcnn_loss

from vilbert.extractors.detectors.shapes_frcnn import ShapesDetector, build
from vilbert.extractors.extractor import DetectorSettings
from vilbert.extractors.selection import SelectionSettings
from vilbert.pipeline.shapes.measure_detector import Measures, measure
from vilbert.pipeline.shapes.render import paint
from vilbert.pipeline.shapes.scene import CANVASES, CLASS_NAMES, COLOURS, SIZES, TEXTURES, make_scene
from vilbert.settings import PositiveInt, validated

logger = logging.getLogger(__name__)

ATTRIBUTES = {"size": SIZES, "colour": COLOURS, "texture": TEXTURES}


@validated
class TrainSettings:
    """Training of the shapes detector."""

    output: Path
    """File for the weights, NAME.safetensors; NAME.json with their facts is written beside it."""
    steps: PositiveInt = 5000
    """Number of optimizer steps."""
    batch_size: PositiveInt = 4
    """Scenes per step."""
    learning_rate: float = 5e-4
    """Peak learning rate, after a tenth of the steps; it then decays to 0."""
    seed: int = 1
    """Seed of the initial weights, the sampling of regions, and the training scenes."""
    held_out_seed: int = 2
    """Seed of the scenes to evaluate on."""
    held_out_scenes: PositiveInt = 200
    """Number of scenes to evaluate on."""
    threads: PositiveInt = 1
    """PyTorch threads; a separate process draws the scenes."""

    def __post_init__(self) -> None:
        if self.output.suffix != ".safetensors":
            raise ValueError(f"--output {self.output}: give a file name that ends in .safetensors")
        if self.seed == self.held_out_seed:
            raise ValueError(f"--held-out-seed {self.seed}: must differ from --seed, or nothing is held out")


Target = dict[str, Tensor]
"""boxes float32 [N, 4] xyxy; labels int64 [N] from 1; attributes int64 [N, 3], in the order of ATTRIBUTES."""
Example = tuple[Tensor, Target]
"""Pixels float32 [3, H, W] from 0 to 1, and what is to be found there."""


class Scenes(Dataset[Example]):
    """Scenes of one seed by index."""

    def __init__(self, seed: int, count: int) -> None:
        self.seed, self.count = seed, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        scene = make_scene(self.seed, index)
        objects = scene.objects
        attributes = [[names.index(getattr(item, kind)) for kind, names in ATTRIBUTES.items()] for item in objects]
        return torch.from_numpy(paint(scene)).permute(2, 0, 1).float() / 255, {
            "boxes": torch.tensor([item.box_xyxy for item in objects], dtype=torch.float32),
            "labels": torch.tensor([item.class_id for item in objects]),
            "attributes": torch.tensor(attributes),
        }


def batches(seed: int, batch_size: int, steps: int) -> Iterator[list[Example]]:
    """Yield `steps` batches of scenes of one shape, so that no padding enters the batch norms' statistics."""
    spare = len(CANVASES) * batch_size  # more than can be waiting in unfinished batches at the end
    loader = DataLoader(Scenes(seed, steps * batch_size + spare), batch_size=None, num_workers=1)
    waiting: dict[torch.Size, list[Example]] = defaultdict(list)
    for example in loader:
        batch = waiting[example[0].shape]
        batch.append(example)
        if len(batch) == batch_size:
            yield waiting.pop(example[0].shape)
            steps -= 1
            if not steps:
                return


def losses(model: ShapesDetector, examples: list[Example]) -> dict[str, Tensor]:
    """Return by name torchvision's four losses of a Faster R-CNN, and its sampled regions' losses of the attributes."""
    detector, heads = model.detector, model.detector.roi_heads
    batch, targets = detector.transform([image for image, _ in examples], [target for _, target in examples])
    maps = {"0": detector.backbone(batch.tensors)}
    result: dict[str, Tensor]
    proposals, result = detector.rpn(batch, maps, targets)
    proposals, matched, labels, deltas = heads.select_training_samples(proposals, targets)
    features = heads.box_head(heads.box_roi_pool(maps, proposals, batch.image_sizes))
    class_loss, box_loss = fastrcnn_loss(*heads.box_predictor(features), labels, deltas)
    result |= {"loss_classifier": class_loss, "loss_box_reg": box_loss}
    objects = features[torch.cat(labels) > 0]
    attributes = torch.cat(
        [target["attributes"][rows[of > 0]] for target, rows, of in zip(targets, matched, labels, strict=True)]
    )
    for name, kind, truth in zip(ATTRIBUTES, model.attributes.kinds, attributes.unbind(1), strict=True):
        result[f"loss_{name}"] = F.cross_entropy(kind(objects), truth)
    return result


def train(settings: TrainSettings) -> ShapesDetector:
    """Return a detector trained from nothing, in evaluation mode; log its losses as it learns.

    torchvision samples regions with torch's global generator, which is put back as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = ShapesDetector(len(CLASS_NAMES) + 1, [len(names) for names in ATTRIBUTES.values()]).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, settings.learning_rate, total_steps=settings.steps, pct_start=0.1
        )
        recent: dict[str, list[float]] = defaultdict(list)
        start = time.monotonic()
        for step, examples in enumerate(batches(settings.seed, settings.batch_size, settings.steps), 1):
            by_name = losses(model, examples)
            optimizer.zero_grad()
            torch.autograd.backward(list(by_name.values()))  # of their sum
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            schedule.step()
            for name, loss in by_name.items():
                recent[name].append(loss.item())
            if step % 50 == 0 or step == settings.steps:
                means = " ".join(f"{name.removeprefix('loss_')} {sum(v) / len(v):.3f}" for name, v in recent.items())
                left = (time.monotonic() - start) / step * (settings.steps - step)
                logger.info("step %d of %d, %.0f s left: %s", step, settings.steps, left, means)
                recent.clear()
    return model.eval()


def save(model: ShapesDetector, settings: TrainSettings) -> Measures:
    """Write the weights and their card, measure them through the extractor that reads them, and complete the card."""
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    weights = safetensors.torch.save({name: tensor.contiguous() for name, tensor in model.state_dict().items()})
    settings.output.write_bytes(weights)
    card: dict[str, object] = {
        "class_names": CLASS_NAMES,
        "attributes": ATTRIBUTES,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "trained": {name: value for name, value in asdict(settings).items() if name != "output"},
    }
    _write_card(settings.output, card)
    extractor = build(
        DetectorSettings(detector="shapes", weights=str(settings.output), device="cpu"),
        SelectionSettings(boxes="1-100", confidence=0.05, saved_box="regressed"),
    )
    measures = measure(
        extractor, [make_scene(settings.held_out_seed, index) for index in range(settings.held_out_scenes)]
    )
    _write_card(settings.output, card | {"held_out": {name: round(x, 4) for name, x in asdict(measures).items()}})
    return measures


def _write_card(weights: Path, card: dict[str, object]) -> None:
    weights.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")


def main() -> int:
    """Train, save and measure as the command line says; return 0."""
    import tyro

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    settings = tyro.cli(TrainSettings, prog="python -m vilbert.pipeline.shapes.train_detector")
    torch.set_num_threads(settings.threads)
    measures = save(train(settings), settings)
    print(json.dumps(asdict(measures)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
