"""The detectron2 extractor: against detectron2's own predictor, and against itself in other company and other forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from vilbert.extractors.detectors import detectron2_frcnn
from vilbert.extractors.selection import SelectionSettings

from ..tiny_detectron2 import MARKS, assert_same, extractor, make, picture, relative_error, weights_file, write_configs

pytestmark = MARKS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_configs(tmp_path_factory.mktemp("detectron2"))


# --- what it returns ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "channels"), [("C4", 256), ("FPN", 48)])
def test_regions_say_something_of_the_image(folder: Path, name: str, channels: int) -> None:
    detector = extractor(folder, name, SelectionSettings(boxes="10-30"), weights=str(weights_file(folder, name)))
    image = picture(1)
    image.setflags(write=False)  # as PIL's are
    regions, other = (detector.extract([image], [None])[0] for image in (image, picture(2)))
    assert 10 <= len(regions) <= 30
    assert regions.features.shape[1] == detector.feature_dim == channels
    assert (regions.width, regions.height) == (80, 60)
    assert detector.attribute_names == ()
    assert not any("mask_head" in part for part, _ in detector._model.named_modules())
    assert regions.attribute_ids is None
    assert len(np.unique(regions.boxes, axis=0)) == len(regions)
    areas = np.prod(regions.boxes[:, 2:] - regions.boxes[:, :2], axis=1)
    assert areas.min() > 0
    assert areas.max() > 3 * areas.min()
    assert np.ptp(regions.object_scores) > 0.05
    assert (regions.features.astype(float).std(axis=0) > 1e-3).mean() > 0.2
    assert relative_error(regions.features[:10], other.features[:10]) > 0.02
    np.testing.assert_allclose(regions.class_probs.astype(float).sum(axis=1), 1, atol=0.01)


@pytest.mark.parametrize("name", ["C4", "FPN"])
def test_alone_or_in_a_batch(folder: Path, name: str) -> None:
    detector = extractor(folder, name, weights=str(weights_file(folder, name)))
    images = [picture(1, 60, 80), picture(2, 120, 160), picture(3, 72, 96)]
    assert {detector.resized_shape(*image.shape[:2]) for image in images} == {(96, 128)}
    together = detector.extract(images, [None] * 3)
    for image, regions in zip(images, together, strict=True):
        assert_same(detector.extract([image], [None])[0], regions)
        assert (regions.height, regions.width) == image.shape[:2]


@pytest.mark.parametrize("name", ["C4", "FPN"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (400, 1), (30, 900), (900, 30)])
def test_images_of_extreme_shapes_give_regions_within_the_image(
    folder: Path, name: str, shape: tuple[int, int]
) -> None:
    detector = extractor(folder, name, weights=str(weights_file(folder, name)))
    height, width = shape
    (regions,) = detector.extract([picture(1, height, width)], [None])
    assert (regions.height, regions.width) == shape
    assert len(regions) or 1 in shape  # detectron2 keeps no proposal without an area
    assert np.isfinite(regions.boxes).all()
    assert np.isfinite(regions.features.astype(float)).all()
    assert (regions.boxes >= 0).all()
    assert (regions.boxes <= [width, height, width, height]).all()


@pytest.mark.parametrize("name", ["C4", "FPN"])
def test_an_image_among_many_has_the_regions_that_it_has_alone(folder: Path, name: str) -> None:
    """Also those between images of another kind: black ones, and with many and without given boxes."""
    detector = extractor(folder, name, weights=str(weights_file(folder, name)))
    image, black = picture(1), np.zeros_like(picture(1))
    boxes = np.tile(np.array([[5, 5, 40, 50]], np.float32), (100, 1))
    (alone,) = detector.extract([image], [None])
    for before, after in ((0, 7), (7, 0)):
        images = [picture(seed + 2) if seed % 2 else black for seed in range(before + after)]
        given: list[np.ndarray | None] = [boxes if seed % 3 == 0 else None for seed in range(before + after)]
        images.insert(before, image)
        given.insert(before, None)
        assert_same(detector.extract(images, given)[before], alone)


def test_chunks_of_regions_change_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("C4", "FPN"):
        images = [picture(1), picture(2)]
        whole = extractor(folder, name).extract(images, [None, None])
        monkeypatch.setattr(detectron2_frcnn, "ROIS_AT_ONCE", 7)
        for one, other in zip(whole, extractor(folder, name).extract(images, [None, None]), strict=True):
            assert_same(one, other)
        monkeypatch.undo()


def test_images_that_do_not_go_together(folder: Path) -> None:
    detector = extractor(folder, "C4")
    with pytest.raises(ValueError, match=r"different resized shapes in one call: \[\(96, 128\), \(128, 96\)\]"):
        detector.extract([picture(1, 60, 80), picture(1, 80, 60)], [None, None])
    with pytest.raises(ValueError, match="1 images with 2 entries"):
        detector.extract([picture(1)], [None, None])
    with pytest.raises(ValueError, match=r"given boxes of shape \[4\]"):
        detector.extract([picture(1)], [np.zeros(4, np.float32)])
    assert detector.extract([], []) == []


def test_no_proposal_is_no_region(folder: Path) -> None:
    for name in ("C4", "FPN"):
        opts = ("MODEL.PROPOSAL_GENERATOR.MIN_SIZE", "9999")
        selection = SelectionSettings(boxes="10-30", saved_box="regressed")
        (regions,) = extractor(folder, name, selection, opts=opts).extract([picture(1)], [None])
        assert regions.features.shape == (0, extractor(folder, name).feature_dim)


# --- given boxes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["C4", "FPN"])
def test_given_boxes_take_the_place_of_proposals_and_selection(folder: Path, name: str) -> None:
    detector = extractor(folder, name)
    image = picture(1)
    (found,) = detector.extract([image], [None])
    boxes = found.boxes[::-1].copy()
    (given_regions,) = extractor(folder, name, SelectionSettings(boxes="2", saved_box="regressed")).extract(
        [image], [boxes]
    )
    np.testing.assert_array_equal(given_regions.boxes, boxes)
    np.testing.assert_allclose(
        given_regions.features.astype(float), found.features[::-1].astype(float), rtol=0.01, atol=0.02
    )
    np.testing.assert_array_equal(given_regions.object_ids, found.object_ids[::-1])


@pytest.mark.parametrize("name", ["C4", "FPN"])
def test_given_boxes_beside_images_without(folder: Path, name: str) -> None:
    detector = extractor(folder, name)
    images = [picture(1), picture(2), picture(3), picture(4)]
    boxes = np.array([[5, 5, 40, 50], [10.25, 0, 80, 33]], np.float32)
    given_boxes = [boxes, None, np.zeros((0, 4), np.float32), None]
    first, second, third, fourth = detector.extract(images, given_boxes)
    assert_same(first, detector.extract(images[:1], [boxes])[0])
    assert_same(second, detector.extract(images[1:2], [None])[0])
    assert_same(fourth, detector.extract(images[3:], [None])[0])
    assert len(third) == 0


def test_given_boxes_outside_the_image_or_not_finite(folder: Path) -> None:
    detector = extractor(folder, "C4")
    outside, inside = (
        np.array([box], np.float32)
        for box in ([-30, -10, 60, 999], [0, 0, 60, 60])  # of an image of 80x60
    )
    (clipped,) = detector.extract([picture(1)], [outside])
    assert clipped.boxes.tolist() == inside.tolist()
    assert_same(clipped, detector.extract([picture(1)], [inside])[0])
    pooled = []
    (level,) = detector._pooler.level_poolers
    hook = level.register_forward_pre_hook(lambda module, args: pooled.append(args[1]))
    (refused,) = detector.extract([picture(1)], [np.array([[0, 0, np.nan, 9], [0, 0, 9, 9]], np.float32)])
    hook.remove()
    assert len(refused) == 0
    assert torch.cat(pooled).isfinite().all()


# --- against detectron2 itself ------------------------------------------------------------------------------------


def predictor(folder: Path, name: str, *opts: str) -> Any:
    from detectron2.config import get_cfg
    from detectron2.engine import DefaultPredictor

    config = get_cfg()
    config.merge_from_file(str(folder / f"{name}.yaml"))
    config.merge_from_list(
        ["MODEL.MASK_ON", "False", "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", str(weights_file(folder, name)), *opts]
    )
    return DefaultPredictor(config)


def pooled_features(model: Any, image_bgr: np.ndarray, layer: str) -> torch.Tensor:
    """Every proposal's feature, by detectron2's own parts."""
    from detectron2.data.transforms import ResizeShortestEdge

    resized = ResizeShortestEdge([96, 96], 160).get_transform(image_bgr).apply_image(image_bgr)
    images = model.preprocess_image([{"image": torch.as_tensor(resized.astype("float32").transpose(2, 0, 1))}])
    maps = model.backbone(images.tensor)
    proposals, _ = model.proposal_generator(images, maps, None)
    heads = model.roi_heads
    levels, boxes = [maps[name] for name in heads.in_features], [proposals[0].proposal_boxes]
    if layer == "res5":
        return heads._shared_roi_transform(levels, boxes).mean(dim=[2, 3])
    fc6 = heads.box_head.fc1(heads.box_pooler(levels, boxes).flatten(1)).relu()
    return fc6 if layer == "fc6" else heads.box_head.fc2(fc6).relu()


@pytest.mark.parametrize(("name", "layer"), [("C4", "res5"), ("FPN", "fc6"), ("FPN", "fc7")])
def test_features_are_those_of_detectron2s_parts(folder: Path, name: str, layer: str) -> None:
    image = picture(5, 75, 101)
    choice = {} if layer == "res5" else {"feature_layer": layer}
    (ours,) = extractor(folder, name, weights=str(weights_file(folder, name)), **choice).extract([image], [None])
    with torch.no_grad():
        theirs = pooled_features(predictor(folder, name).model, image[:, :, ::-1], layer).numpy()
    assert len(ours) == len(theirs) > 20
    np.testing.assert_allclose(ours.features.astype(float), theirs, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("opts", [(), ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"), ("INPUT.FORMAT", "RGB")])
@pytest.mark.parametrize("name", ["C4", "FPN"])
def test_detections_are_those_of_detectron2s_predictor(folder: Path, name: str, opts: tuple[str, ...]) -> None:
    image = picture(6, 75, 101)
    selection = SelectionSettings(boxes="1-1000", confidence=0.0, nms=1.0, saved_box="regressed")
    weights = weights_file(folder, name)
    if opts[:1] == ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG",):
        state = torch.load(weights, weights_only=True)
        for part in ("weight", "bias"):
            state["model"][f"roi_heads.box_predictor.bbox_pred.{part}"] = state["model"][
                f"roi_heads.box_predictor.bbox_pred.{part}"
            ][:4].clone()
        weights = folder / f"{name}_agnostic.pth"
        torch.save(state, weights)
    (ours,) = extractor(folder, name, selection, weights=str(weights), opts=opts).extract([image], [None])
    loose = ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "MODEL.ROI_HEADS.NMS_THRESH_TEST", "1.0")
    many = ("TEST.DETECTIONS_PER_IMAGE", "2000", "MODEL.WEIGHTS", str(weights))
    theirs = predictor(folder, name, *opts, *loose, *many)(image[:, :, ::-1])["instances"]
    # All classes of all proposals but for boxes with no area; ours keep the best class of each.
    boxes, scores, classes = theirs.pred_boxes.tensor.numpy(), theirs.scores.numpy(), theirs.pred_classes.numpy()
    assert len(ours) > 20
    for box, score, name_id in zip(ours.boxes, ours.object_scores, ours.object_ids, strict=True):
        same = (np.abs(boxes - box).max(axis=1) < 0.02) & (np.abs(scores - score) < 1e-4) & (classes == name_id - 1)
        assert same.any(), (box, score, name_id)


@given(height=st.integers(1, 500), width=st.integers(1, 500), short=st.sampled_from([0, 96, 600]))
def test_resized_shape_is_detectron2s(folder: Path, height: int, width: int, short: int) -> None:
    from detectron2.data.transforms import ResizeShortestEdge

    detector = extractor(folder, "C4", opts=("INPUT.MIN_SIZE_TEST", str(short), "INPUT.MAX_SIZE_TEST", "1000"))
    resized = detector.resized_shape(height, width)
    image = picture(7, height, width)
    assert tuple(detector.resize(image).pixels.shape[1:]) == resized
    assume(max(height, width) < 500 * min(height, width))  # beyond, detectron2 asks PIL for a side of 0 and fails
    theirs = ResizeShortestEdge([short, short], 1000).get_transform(image).apply_image(image)
    assert theirs.shape[:2] == resized
    np.testing.assert_array_equal(detector.resize(image).pixels.numpy(), theirs[:, :, ::-1].transpose(2, 0, 1))


# --- precision ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", ["C4", "FPN"])
def test_reduced_precision_pools_in_float32(folder: Path, name: str, precision: str) -> None:
    opts = ("INPUT.MIN_SIZE_TEST", "0")
    detector, exact = (make(folder, name, precision=p, opts=opts) for p in (precision, "fp32"))
    seen = []
    for level in detector._pooler.level_poolers:
        level.register_forward_pre_hook(lambda module, args: seen.append(args))
    image = picture(8, 64, 1280)
    box = np.array([[1001.7, 8.3, 1033.9, 45.1]], np.float32)
    (reduced,), (full,) = (model.extract([image], [box]) for model in (detector, exact))
    assert {maps.dtype for maps, _ in seen} == {torch.float32}
    np.testing.assert_array_equal(np.concatenate([rois.numpy()[:, 1:] for _, rois in seen]), box)
    # Not nothing: the convolutions did run in reduced precision.
    assert 0 < relative_error(reduced.features, full.features) < 0.02


@pytest.mark.parametrize("name", ["C4", "FPN"])
def test_proposals_of_reduced_precision_are_nearly_the_same(folder: Path, name: str) -> None:
    weights = str(weights_file(folder, name))
    (reduced,), (full,) = (
        extractor(folder, name, weights=weights, precision=precision).extract([picture(1)], [None])
        for precision in ("bf16", "fp32")
    )
    distances = np.abs(reduced.boxes[:, None] - full.boxes[None]).max(axis=2)
    assert (distances.min(axis=1) < 1).mean() > 0.6
    assert len(np.unique(reduced.boxes, axis=0)) == len(reduced)
