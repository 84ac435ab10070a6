"""The shapes detector that ships with the package really detects, and its regions are the documented ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from vilbert.extractors.agreement import box_iou
from vilbert.extractors.detectors.shapes_frcnn import FEATURE_DIM, WEIGHTS, build, read_card
from vilbert.extractors.detectors.torchvision_frcnn import TorchvisionExtractor
from vilbert.extractors.extractor import DetectorSettings, ExtractorError, ExtractorSettings, build_extractor
from vilbert.extractors.selection import SelectionSettings
from vilbert.pipeline.shapes.measure_detector import measure
from vilbert.pipeline.shapes.render import paint
from vilbert.pipeline.shapes.scene import CANVASES, CLASS_NAMES, COLOURS, SIZES, TEXTURES, make_scene

SHAPES = DetectorSettings(detector="shapes", device="cpu")
TEST_SEED = 20_26  # neither the training scenes' nor those that the training script measures on


@pytest.fixture(scope="module")
def extractor() -> TorchvisionExtractor:
    return build(SHAPES, SelectionSettings())


@pytest.mark.slow
def test_finds_and_describes_the_objects_of_scenes_it_never_saw() -> None:
    trained = json.loads(WEIGHTS.with_suffix(".json").read_text())["trained"]
    assert TEST_SEED not in (trained["seed"], trained["held_out_seed"])
    detections = SelectionSettings(boxes="1-100", confidence=0.05, saved_box="regressed")
    measures = measure(build(SHAPES, detections), [make_scene(TEST_SEED, index) for index in range(120)])
    assert measures.map50 >= 0.9
    assert measures.recall >= 0.95
    assert measures.attributes >= 0.9


def test_regions_of_the_default_selection_cover_the_objects(extractor: TorchvisionExtractor) -> None:
    covered = []
    for index in range(40):
        scene = make_scene(TEST_SEED, index)
        regions = extractor.extract([paint(scene)], [None])[0]
        assert len(regions) == 36
        covered += [box_iou(regions.boxes, np.array([item.box_xyxy])).max() >= 0.5 for item in scene.objects]
    assert np.mean(covered) >= 0.95


def test_given_boxes_are_named_and_kept_as_they_are(extractor: TorchvisionExtractor) -> None:
    right = []
    for index in range(30):
        scene = make_scene(TEST_SEED, index)
        boxes = np.array([item.box_xyxy for item in scene.objects], dtype=np.float32)
        regions = extractor.extract([paint(scene)], [boxes])[0]
        np.testing.assert_array_equal(regions.boxes, boxes)
        right += (regions.object_ids == [item.class_id for item in scene.objects]).tolist()
    assert np.mean(right) >= 0.95


def test_names_are_those_of_the_scenes(extractor: TorchvisionExtractor) -> None:
    assert extractor.class_names == ("background", *CLASS_NAMES)
    names = [f"{size} {colour} {texture}" for size in SIZES for colour in COLOURS for texture in TEXTURES]
    assert list(extractor.attribute_names) == names


def test_attribute_of_a_region_is_the_most_probable_of_each_kind(extractor: TorchvisionExtractor) -> None:
    head = extractor._attribute_head  # the arithmetic behind the names, which no stored field shows
    features = torch.randn(50, FEATURE_DIM, generator=torch.Generator().manual_seed(3))
    sizes, colours, textures = (kind(features).softmax(1) for kind in head.kinds)
    product = torch.einsum("na,nb,nc->nabc", sizes, colours, textures).flatten(1)
    torch.testing.assert_close(head(features).softmax(1), product)


def test_an_image_alone_and_among_others_has_the_same_regions(extractor: TorchvisionExtractor) -> None:
    scenes = [
        scene for scene in (make_scene(TEST_SEED, i) for i in range(60)) if (scene.width, scene.height) == (240, 180)
    ]
    images = [paint(scene) for scene in scenes[:4]]
    together = extractor.extract(images, [None] * len(images))
    for image, beside in zip(images, together, strict=True):
        alone = extractor.extract([image], [None])[0]
        np.testing.assert_allclose(alone.boxes, beside.boxes, atol=1e-2)
        np.testing.assert_allclose(alone.features, beside.features, rtol=1e-2, atol=1e-2)
        np.testing.assert_array_equal(alone.object_ids, beside.object_ids)


def test_an_image_among_many_has_the_regions_that_it_has_alone(extractor: TorchvisionExtractor) -> None:
    """Wherever it is in the batch, beside scenes, black images and images with given boxes."""
    scenes = (make_scene(TEST_SEED, index) for index in range(100))
    image, *others = [paint(scene) for scene in scenes if (scene.width, scene.height) == (240, 180)][:8]
    (alone,) = extractor.extract([image], [None])
    boxes = np.tile(np.array([[5, 5, 40, 50]], np.float32), (100, 1))
    for before in (0, 7):
        images = [other if i % 2 else np.zeros_like(image) for i, other in enumerate(others)]
        given = [boxes if i % 3 == 0 else None for i in range(len(others))]
        images.insert(before, image)
        given.insert(before, None)
        beside = extractor.extract(images, given)[before]
        np.testing.assert_allclose(beside.boxes, alone.boxes, atol=1e-2)
        np.testing.assert_allclose(beside.features, alone.features, rtol=1e-2, atol=1e-2)
        np.testing.assert_array_equal(beside.object_ids, alone.object_ids)


@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (400, 1), (30, 900), (900, 30), (37, 41)])
def test_images_of_extreme_shapes_give_regions_within_the_image(
    extractor: TorchvisionExtractor, shape: tuple[int, int]
) -> None:
    height, width = shape
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    (regions,) = extractor.extract([image], [None])
    assert (regions.height, regions.width) == shape
    assert len(regions)
    assert np.isfinite(regions.boxes).all()
    assert np.isfinite(regions.features.astype(float)).all()
    assert (regions.boxes >= 0).all()
    assert (regions.boxes <= [width, height, width, height]).all()


def test_attributes_are_read_from_fc7_whichever_layer_is_the_feature(extractor: TorchvisionExtractor) -> None:
    settings = DetectorSettings(detector="shapes", device="cpu", feature_layer="fc6")
    image = paint(make_scene(TEST_SEED, 0))
    fc7, fc6 = (any_.extract([image], [None])[0] for any_ in (extractor, build(settings, SelectionSettings())))
    np.testing.assert_array_equal(fc6.attribute_ids, fc7.attribute_ids)
    assert np.abs(fc6.features.astype(np.float32) - fc7.features).max() > 0.1


def test_building_it_twice_gives_the_same_and_moves_no_global_generator() -> None:
    before = torch.get_rng_state()
    first, second = (build_extractor(ExtractorSettings(detector=SHAPES)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.fingerprint() == second.fingerprint()
    image = paint(make_scene(TEST_SEED, 1))
    one, other = (any_.extract([image], [None])[0].arrays() for any_ in (first, second))
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_fingerprint_names_the_weights_and_the_selection(extractor: TorchvisionExtractor) -> None:
    fingerprint = extractor.fingerprint()
    assert json.loads(json.dumps(fingerprint)) == fingerprint
    assert fingerprint["weights_sha256"] == read_card(WEIGHTS).sha256
    assert fingerprint != build(SHAPES, SelectionSettings(boxes="10-100")).fingerprint()


def test_weights_are_small_enough_to_ship() -> None:
    assert WEIGHTS.stat().st_size <= 8_000_000


@pytest.mark.parametrize(("width", "height"), CANVASES)
def test_scenes_are_never_enlarged(extractor: TorchvisionExtractor, width: int, height: int) -> None:
    resized = extractor.resized_shape(height, width)
    assert resized <= (height, width)
    assert resized[0] >= 0.93 * height


def test_random_weights_follow_the_seed() -> None:
    image = paint(make_scene(TEST_SEED, 2))
    features = [
        build(DetectorSettings(detector="shapes", device="cpu", weights="random", seed=seed), SelectionSettings())
        .extract([image], [None])[0]
        .features.tobytes()
        for seed in (0, 0, 1)
    ]
    assert features[0] == features[1] != features[2]


def test_weights_without_their_card_are_refused(tmp_path: Path) -> None:
    weights = shutil.copy(WEIGHTS, tmp_path / "mine.safetensors")
    with pytest.raises(ExtractorError, match=r"mine\.json: cannot read the class names"):
        build(DetectorSettings(detector="shapes", weights=str(weights)), SelectionSettings())


def test_a_card_that_is_no_card_is_refused(tmp_path: Path) -> None:
    weights = shutil.copy(WEIGHTS, tmp_path / "mine.safetensors")
    for text in ("", "[]", '{"class_names": ["circle"]}', '{"class_names": [], "attributes": [], "sha256": ""}'):
        (tmp_path / "mine.json").write_text(text)
        with pytest.raises(ExtractorError, match=r"mine\.json: not the class names"):
            build(DetectorSettings(detector="shapes", weights=str(weights)), SelectionSettings())


def test_weights_with_one_byte_changed_are_refused(tmp_path: Path) -> None:
    data = bytearray(WEIGHTS.read_bytes())
    data[-1000] ^= 1
    (tmp_path / "mine.safetensors").write_bytes(data)
    shutil.copy(WEIGHTS.with_suffix(".json"), tmp_path / "mine.json")
    with pytest.raises(ExtractorError, match=r"mine\.safetensors: its sha256 is"):
        build(DetectorSettings(detector="shapes", weights=str(tmp_path / "mine.safetensors")), SelectionSettings())
