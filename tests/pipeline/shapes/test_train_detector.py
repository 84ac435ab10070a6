"""Training learns, follows its seed, and leaves behind what the extractor reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from vilbert.extractors.detectors.shapes_frcnn import ShapesDetector, build
from vilbert.extractors.extractor import DetectorSettings
from vilbert.extractors.selection import SelectionSettings
from vilbert.pipeline.shapes.scene import CANVASES, make_scene
from vilbert.pipeline.shapes.train_detector import Scenes, TrainSettings, batches, losses, save, train

OUTPUT = Path("shapes.safetensors")


def losses_on_held_out(model: ShapesDetector) -> dict[str, float]:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        batch = next(batches(seed=77, batch_size=4, steps=1))
        return {name: loss.item() for name, loss in losses(model.train(), batch).items()}


@pytest.mark.slow
def test_a_few_steps_reduce_the_losses_on_scenes_not_trained_on() -> None:
    start, later = (
        losses_on_held_out(train(TrainSettings(output=OUTPUT, steps=steps, batch_size=2))) for steps in (1, 30)
    )
    assert set(start) == {
        *("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"),
        *("loss_size", "loss_colour", "loss_texture"),
    }
    # The first to fall. That of the boxes rises at first: better proposals are more to refine.
    first = ("loss_objectness", "loss_classifier")
    assert sum(later[name] for name in first) < 0.8 * sum(start[name] for name in first)


def test_weights_follow_the_seed_and_the_global_generator_stays_put() -> None:
    before = torch.get_rng_state()
    first, again, other = (
        train(TrainSettings(output=OUTPUT, steps=2, batch_size=2, seed=seed)).state_dict() for seed in (1, 1, 3)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["detector.backbone.smooth.0.weight"], other["detector.backbone.smooth.0.weight"])


def test_batches_hold_scenes_of_one_shape_each_seen_once() -> None:
    seen = list(batches(seed=4, batch_size=3, steps=9))
    assert [len(batch) for batch in seen] == [3] * 9
    assert all(len({image.shape for image, _ in batch}) == 1 for batch in seen)
    assert len({batch[0][0].shape for batch in seen}) > 1
    pictures = {image.numpy().tobytes() for batch in seen for image, _ in batch}
    assert len(pictures) == 27


def test_targets_are_the_scene() -> None:
    scene = make_scene(4, 2)
    image, target = Scenes(4, 3)[2]
    assert image.shape == (3, scene.height, scene.width)
    assert (scene.width, scene.height) in CANVASES
    assert 0 <= image.min() < image.max() <= 1
    assert target["boxes"].tolist() == [list(item.box_xyxy) for item in scene.objects]
    assert target["labels"].tolist() == [item.class_id for item in scene.objects]
    assert len(target["attributes"]) == len(scene.objects)


def test_what_it_saves_is_what_the_extractor_builds(tmp_path: Path) -> None:
    settings = TrainSettings(output=tmp_path / "new" / "tiny.safetensors", steps=1, batch_size=1, held_out_scenes=2)
    model = train(settings)
    measures = save(model, settings)
    card = json.loads((tmp_path / "new" / "tiny.json").read_text())
    assert card["held_out"]["map50"] == pytest.approx(measures.map50, abs=1e-4)
    assert card["trained"]["steps"] == 1
    built = build(DetectorSettings(detector="shapes", weights=str(settings.output), device="cpu"), SelectionSettings())
    assert built.fingerprint()["weights_sha256"] == card["sha256"]


@pytest.mark.parametrize(
    ("bad", "option"),
    [
        ({"output": Path("weights.pth")}, "--output"),
        ({"steps": 0}, "--steps"),
        ({"batch_size": 0}, "--batch-size"),
        ({"held_out_scenes": 0}, "--held-out-scenes"),
        ({"threads": 0}, "--threads"),
        ({"seed": 2}, "--held-out-seed"),
    ],
)
def test_bad_settings_name_their_option(bad: dict[str, object], option: str) -> None:
    with pytest.raises(ValueError, match=option):
        TrainSettings(**{"output": OUTPUT, **bad})
