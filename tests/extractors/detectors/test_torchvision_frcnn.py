"""torchvision's detectors as extractors: against torchvision's own forward, and against themselves in other company.

Weights are random (there may be no network); images are small noise and blocks, of sizes that share a resized shape.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision.models import get_model_builder, get_model_weights
from torchvision.models._api import WeightsEnum
from torchvision.models.detection import FasterRCNN
from torchvision.ops import box_iou

from vilbert.extractors.detectors import torchvision_models
from vilbert.extractors.detectors.torchvision_frcnn import TorchvisionExtractor
from vilbert.extractors.detectors.torchvision_models import LoadedModel, load_model
from vilbert.extractors.extractor import DetectorSettings, Extractor, ExtractorError, ExtractorSettings, build_extractor
from vilbert.extractors.regions import Regions
from vilbert.extractors.selection import SelectionSettings
from vilbert.extractors.weights import hash_tensors

SMALL = DetectorSettings(torchvision_model="mobilenet_v3_large_320_fpn", weights="random", device="cpu")
ALL_PROPOSALS = SelectionSettings(boxes="1000", selection="topk", nms=1.0)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    loaded = load_model(SMALL)
    loaded.model.transform.min_size, loaded.model.transform.max_size = (160,), 320  # a quarter of the work
    loaded.model.eval()  # as the extractor does, for a test of torchvision's own forward that runs first
    return loaded


def extractor(loaded: LoadedModel, selection: SelectionSettings | None = None, **changes: Any) -> TorchvisionExtractor:
    return TorchvisionExtractor(
        model=loaded.model,
        class_names=loaded.class_names,
        facts=loaded.facts,
        detector=dataclasses.replace(SMALL, **changes),
        selection=selection or SelectionSettings(boxes="10-100"),
    )


def picture(seed: int, height: int = 60, width: int = 80) -> np.ndarray:
    """Coloured blocks with noise, uint8 [height, width, 3]."""
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 200, (6, 6, 3)).repeat(-(-height // 6), 0).repeat(-(-width // 6), 1)
    return (blocks[:height, :width] + generator.integers(0, 56, (height, width, 3))).astype(np.uint8)


def assert_same(one: Regions, other: Regions) -> None:
    np.testing.assert_allclose(one.boxes, other.boxes, atol=0.01)
    np.testing.assert_allclose(one.features.astype(float), other.features.astype(float), atol=0.02, rtol=0.002)
    np.testing.assert_array_equal(one.object_ids, other.object_ids)
    np.testing.assert_allclose(one.object_scores, other.object_scores, atol=1e-3)


def cosines(one: Regions, other: Regions) -> np.ndarray:
    a, b = one.features.astype(float), other.features.astype(float)
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_regions_keep_the_contract(loaded: LoadedModel) -> None:
    detector: Extractor = extractor(loaded)
    image = picture(1)
    image.setflags(write=False)  # as PIL's are
    (regions,) = detector.extract([image], [None])
    assert 10 <= len(regions) <= 100
    assert (regions.width, regions.height) == (80, 60)
    assert regions.features.shape[1] == detector.feature_dim == 1024
    assert regions.class_ids.shape[1] == SMALL.top_classes
    assert (regions.boxes >= 0).all()
    assert (regions.boxes <= [80, 60, 80, 60]).all()
    assert (regions.boxes[:, 2:] > regions.boxes[:, :2]).all()
    assert all(np.isfinite(array).all() for array in regions.arrays().values())
    assert regions.object_ids.min() >= 1
    assert regions.object_ids.max() < len(detector.class_names)
    # random weights must not make the other tests vacuous: regions differ, in place and in feature
    assert len(np.unique(regions.boxes.round(), axis=0)) == len(regions)
    assert len(np.unique(regions.object_ids)) > 1
    assert regions.features.astype(float).std(axis=0).mean() > 0.1


def test_names_are_those_of_coco(loaded: LoadedModel) -> None:
    names = extractor(loaded).class_names
    assert (len(names), names[0], names[1], names[90]) == (91, "__background__", "person", "toothbrush")


def stock_forward(model: FasterRCNN, image: np.ndarray) -> dict[str, torch.Tensor]:
    """Run torchvision's own forward, writing down what passes through its box head."""
    seen: dict[str, Any] = {}
    heads = model.roi_heads
    hooks = [
        heads.box_roi_pool.register_forward_pre_hook(lambda _, inputs: seen.update(proposals=inputs[1][0])),
        heads.box_head.register_forward_hook(lambda _, inputs, output: seen.update(fc7=output)),
        heads.box_predictor.register_forward_hook(lambda _, inputs, output: seen.update(logits=output[0])),
    ]
    if hasattr(heads.box_head, "fc6"):
        hooks.append(heads.box_head.fc6.register_forward_hook(lambda _, i, output: seen.update(fc6=output.relu())))
    with torch.inference_mode():
        (detections,) = model([torch.from_numpy(image.copy()).permute(2, 0, 1) / 255])
    for hook in hooks:
        hook.remove()
    return {**seen, **detections}


@pytest.mark.parametrize("layer", ["fc6", "fc7"])
def test_equals_torchvisions_own_forward(loaded: LoadedModel, layer: str) -> None:
    image = picture(2)
    stock = stock_forward(loaded.model, image)
    (ours,) = extractor(loaded, ALL_PROPOSALS, feature_layer=layer).extract([image], [None])

    proposals = stock["proposals"] * torch.tensor([80 / 213, 60 / 160, 80 / 213, 60 / 160])
    assert len(ours) == len(proposals) > 50
    overlap, row = box_iou(torch.from_numpy(ours.boxes), proposals).max(dim=1)
    assert overlap.min() > 0.999
    assert len(row.unique()) == len(row)
    np.testing.assert_allclose(ours.features.astype(float), stock[layer][row].numpy(), atol=0.05, rtol=0.002)
    probs = stock["logits"].softmax(dim=1)[row]
    np.testing.assert_allclose(ours.object_scores, probs[:, 1:].max(dim=1).values.numpy(), atol=1e-4)
    np.testing.assert_array_equal(ours.class_ids[:, 0], probs.argmax(dim=1).numpy())


def test_regressed_boxes_are_torchvisions_detections(loaded: LoadedModel) -> None:
    image = picture(2)
    stock = stock_forward(loaded.model, image)
    (ours,) = extractor(loaded, dataclasses.replace(ALL_PROPOSALS, saved_box="regressed")).extract([image], [None])
    found = [
        label in ours.object_ids[(np.abs(ours.boxes - box.numpy()).max(axis=1) < 0.01)]
        for box, label, score in zip(stock["boxes"], stock["labels"].tolist(), stock["scores"], strict=True)
        if score > 0.5  # surely the most probable class of its proposal
    ]
    assert len(found) > 5
    assert all(found)


def test_alone_or_in_a_batch_the_same(loaded: LoadedModel) -> None:
    detector = extractor(loaded, SelectionSettings(boxes="36"))
    images = [picture(3), picture(4, 120, 160), picture(5, 90, 120)]
    assert len({detector.resized_shape(*image.shape[:2]) for image in images}) == 1
    together = detector.extract(images, [None] * 3)
    for image, regions in zip(images, together, strict=True):
        (alone,) = detector.extract([image], [None])
        assert len(alone) == 36
        assert_same(alone, regions)
        assert (regions.height, regions.width) == image.shape[:2]
    assert not np.array_equal(together[0].features, together[1].features)


def test_what_came_before_makes_no_difference(loaded: LoadedModel) -> None:
    detector, image = extractor(loaded), picture(6)
    (expected,) = detector.extract([image], [None])
    pool = loaded.model.roi_heads.box_roi_pool
    pool.scales = pool.map_levels = None  # as in a new process
    # from this shape, 6x320 resized, torchvision's own forward infers a stride of 8 for maps of stride 32, and keeps it
    thin = picture(7, 4, 200)
    stock_forward(loaded.model, thin)
    assert pool.scales == [1 / 8, 1 / 8]
    assert_same(expected, *detector.extract([image], [None]))
    assert pool.scales == [1 / 8, 1 / 8]  # what a call of ours infers, it keeps to itself


def test_given_boxes_have_the_features_of_the_same_proposals(loaded: LoadedModel) -> None:
    detector, image = extractor(loaded, SelectionSettings(boxes="36")), picture(8, 61, 83)
    (proposed,) = detector.extract([image], [None])
    backwards = proposed.boxes[::-1].copy()
    (regions,) = detector.extract([image], [backwards])
    np.testing.assert_array_equal(regions.boxes, backwards)
    reordered = dataclasses.replace(proposed, **{name: array[::-1] for name, array in proposed.arrays().items()})
    assert_same(regions, reordered)


def test_given_and_not_given_in_one_batch(loaded: LoadedModel) -> None:
    detector = extractor(loaded, SelectionSettings(boxes="36"))
    images = [picture(9), picture(10), picture(11)]
    boxes = np.array([[10, 10, 50, 40], [10, 10, 50, 40], [-5, 20, 90, 70]], np.float32)
    mixed = detector.extract(images, [None, boxes, np.zeros((0, 4), np.float32)])
    assert [len(regions) for regions in mixed] == [36, 3, 0]
    assert mixed[1].boxes.tolist() == [[10, 10, 50, 40], [10, 10, 50, 40], [0, 20, 80, 60]]
    assert_same(mixed[0], *detector.extract(images[:1], [None]))
    assert_same(mixed[1], *detector.extract(images[1:2], [boxes]))


def test_given_boxes_that_are_not_finite_harm_no_other_image(loaded: LoadedModel) -> None:
    broken = np.array([[0, 0, np.nan, 10], [0, 0, np.inf, 10]], np.float32)
    sound = np.array([[0, 0, 20, 10]], np.float32)
    regions = extractor(loaded).extract([picture(12), picture(13)], [broken, sound])
    assert [len(image) for image in regions] == [0, 1]


def test_different_resized_shapes_are_refused(loaded: LoadedModel) -> None:
    with pytest.raises(ValueError, match=r"different resized shapes in one call: \[\(160, 160\), \(160, 213\)\]"):
        extractor(loaded).extract([picture(1), picture(1, 60, 60)], [None, None])


@given(height=st.integers(1, 700), width=st.integers(1, 700))
def test_resized_shape_is_what_the_transform_yields(loaded: LoadedModel, height: int, width: int) -> None:
    shape = extractor(loaded).resized_shape(height, width)
    if max(height, width) <= 320 * min(height, width):  # beyond that torchvision's resize fails
        images, _ = loaded.model.transform([torch.zeros(3, height, width)])
        assert images.image_sizes == [shape]
    else:
        assert min(shape) == 1


def test_a_thread_like_image(loaded: LoadedModel) -> None:
    (regions,) = extractor(loaded).extract([picture(14, 1, 900)], [None])
    assert len(regions) > 0


def test_bf16_is_close_to_fp32(loaded: LoadedModel) -> None:
    image = picture(15)
    boxes = extractor(loaded).extract([image], [None])[0].boxes
    (full,) = extractor(loaded).extract([image], [boxes])
    (reduced,) = extractor(loaded, precision="bf16").extract([image], [boxes])
    assert cosines(full, reduced).min() > 0.99
    assert not np.array_equal(full.features, reduced.features)


def test_reduced_precision_leaves_coordinates_alone(loaded: LoadedModel) -> None:
    seen: list[torch.Tensor] = []
    hooks = [
        loaded.model.roi_heads.box_roi_pool.register_forward_pre_hook(
            lambda _, inputs: seen.extend([*inputs[0].values(), *inputs[1]])
        ),
        loaded.model.rpn.anchor_generator.register_forward_hook(lambda _, inputs, anchors: seen.extend(anchors)),
    ]
    extractor(loaded, precision="bf16").extract([picture(15)], [None])
    for hook in hooks:
        hook.remove()
    assert len(seen) == 5  # two maps and "pool", proposals, anchors
    assert {tensor.dtype for tensor in seen} == {torch.float32}


def test_attributes_come_from_the_head_given(loaded: LoadedModel) -> None:
    head = nn.Linear(1024, 3)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([0.0, 2.0, 1.0]))
    detector = TorchvisionExtractor(
        model=loaded.model,
        class_names=loaded.class_names,
        facts=loaded.facts,
        detector=SMALL,
        selection=SelectionSettings(),
        attribute_head=head,
        attribute_names=("red", "green", "blue"),
    )
    (regions,) = detector.extract([picture(16)], [None])
    assert regions.attribute_ids is not None
    assert {detector.attribute_names[i] for i in regions.attribute_ids} == {"green"}
    np.testing.assert_allclose(regions.attribute_scores, 0.6652, atol=1e-3)


def test_fingerprint_is_json_and_changes_with_every_setting(loaded: LoadedModel) -> None:
    base = extractor(loaded).fingerprint()
    assert json.loads(json.dumps(base)) == base
    detectors = [{"feature_layer": "fc6"}, {"precision": "bf16"}, {"top_classes": 5}]
    selections = [{"boxes": "36"}, {"selection": "topk"}, {"confidence": 0.3}, {"nms": 0.5}, {"saved_box": "regressed"}]
    others = [extractor(loaded, **change) for change in detectors]
    others += [extractor(loaded, SelectionSettings(**{"boxes": "10-100", **change})) for change in selections]
    prints = [json.dumps(other.fingerprint(), sort_keys=True) for other in others]
    assert len({json.dumps(base, sort_keys=True), *prints}) == 1 + len(others)
    # A data set in reduced precision of an older version has other proposals and is not resumed; one in float32 is.
    assert "rpn_predictor_precision" not in base
    assert others[1].fingerprint()["rpn_predictor_precision"] == "fp32"


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("transform", "min_size", (300,)),
        ("transform", "max_size", 300),
        ("transform", "image_mean", [0.5, 0.5, 0.5]),
        ("transform", "image_std", [1.0, 1.0, 1.0]),
        ("rpn", "nms_thresh", 0.6),
        ("rpn", "score_thresh", 0.0),
        ("rpn", "_post_nms_top_n", {"training": 9, "testing": 9}),
    ],
)
def test_fingerprint_tells_the_models_own_settings(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, part: str, name: str, value: Any
) -> None:
    before = extractor(loaded).fingerprint()
    monkeypatch.setattr(getattr(loaded.model, part), name, value)
    assert extractor(loaded).fingerprint() != before


def test_random_weights_are_named_by_their_seed_and_leave_global_state_alone(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with caplog.at_level(logging.WARNING):
        again, other = load_model(SMALL), load_model(dataclasses.replace(SMALL, seed=1))
    assert torch.equal(torch.rand(3), expected)
    assert "untrained (seed 0)" in caplog.text
    assert again.facts["weights_sha256"] == hash_tensors(load_model(SMALL).model.state_dict())
    assert again.facts["weights_sha256"] != other.facts["weights_sha256"]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_from_a_file(loaded: LoadedModel, tmp_path: Path, suffix: str) -> None:
    state = loaded.model.state_dict()
    # as torchvision's published files name it
    state = {name.replace("rpn.head.conv.0.0.", "rpn.head.conv."): tensor for name, tensor in state.items()}
    path = tmp_path / f"weights{suffix}"
    safetensors.torch.save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    wanted = dataclasses.replace(SMALL, weights=str(path))
    built = build_extractor(ExtractorSettings(detector=wanted, selection=SelectionSettings(boxes="36")))
    assert built.fingerprint()["weights_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    fresh = load_model(SMALL)  # the fixture's resizes to less than torchvision's
    image = picture(17)
    (expected,) = extractor(fresh, SelectionSettings(boxes="36")).extract([image], [None])
    assert_same(expected, *built.extract([image], [None]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: state.pop("rpn.head.bbox_pred.bias"), "it lacks rpn.head.bbox_pred.bias"),
        (lambda state: state.update(extra=torch.zeros(1)), "the model has no extra"),
        (
            lambda state: state.update({"roi_heads.box_predictor.cls_score.bias": torch.zeros(21)}),
            "roi_heads.box_predictor.cls_score.bias",
        ),
    ],
)
def test_weights_of_another_model_are_refused(loaded: LoadedModel, tmp_path: Path, damage: Any, message: str) -> None:
    state = dict(loaded.model.state_dict())
    damage(state)
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file(state, path)
    with pytest.raises(ExtractorError, match=message) as caught:
        load_model(dataclasses.replace(SMALL, weights=str(path)))
    assert str(path) in str(caught.value)


def test_no_weights_and_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*args: object, **kwargs: object) -> None:
        raise URLError("name not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    name = "fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth"
    with pytest.raises(ExtractorError, match="--weights random") as caught:
        load_model(dataclasses.replace(SMALL, weights=None))
    assert str(tmp_path / "hub" / "checkpoints" / name) in str(caught.value)
    assert f"https://download.pytorch.org/models/{name}" in str(caught.value)

    (tmp_path / "hub/checkpoints").mkdir(exist_ok=True)
    torch.save({"not": torch.zeros(1)}, tmp_path / "hub" / "checkpoints" / name)
    with pytest.raises(ExtractorError, match="damaged: its sha256 is not the one in its name"):
        load_model(dataclasses.replace(SMALL, weights=None))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(ExtractorError, match="--device cuda: torch sees no GPU"):
        build_extractor(ExtractorSettings(detector=dataclasses.replace(SMALL, device="cuda")))


@pytest.mark.parametrize("name", ["resnet50_fpn", pytest.param("resnet50_fpn_v2", marks=pytest.mark.slow)])
def test_weights_mean_what_they_mean_to_torchvision(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published weights of resnet50_fpn want a batch norm without epsilon: tiny variances tell."""
    wanted = DetectorSettings(torchvision_model=name, weights="random", device="cpu")  # type: ignore[arg-type]
    state = load_model(wanted).model.state_dict()
    for key in [key for key in state if key.endswith("running_var")]:
        state[key] *= 3e-5
        state[key.replace("running_var", "weight")] *= 3e-5**0.5
    monkeypatch.setattr(torchvision_models, "load_weights", lambda path: (state, "0" * 64))
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, **_: state)
    published = get_model_weights(f"fasterrcnn_{name}").DEFAULT
    stock = get_model_builder(f"fasterrcnn_{name}")(weights=published, min_size=64, max_size=96).eval()
    ours = load_model(dataclasses.replace(wanted, weights="published.pth"))
    ours.model.transform.min_size, ours.model.transform.max_size = (64,), 96

    detector = TorchvisionExtractor(
        model=ours.model, class_names=ours.class_names, facts={}, detector=wanted, selection=SelectionSettings()
    )
    image = picture(18)
    seen = stock_forward(stock, image)
    stored = (seen["proposals"] * torch.tensor([80 / 85, 60 / 64, 80 / 85, 60 / 64])).numpy()
    (regions,) = detector.extract([image], [stored])
    scale = float(seen["fc7"].abs().max())
    np.testing.assert_allclose(regions.features.astype(float), seen["fc7"].numpy(), atol=scale * 2e-3)


def test_two_threads_at_once_get_what_each_gets_alone(loaded: LoadedModel) -> None:
    detector = extractor(loaded)
    batches = [[picture(seed)] for seed in range(3)] + [[picture(seed, 40, 90)] for seed in range(3)]
    alone = [detector.extract(batch, [None])[0] for batch in batches]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(lambda batch: detector.extract(batch, [None])[0], batches * 2))
    for got, expected in zip(together, alone * 2, strict=True):
        assert_same(got, expected)
