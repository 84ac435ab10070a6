"""What the Visual Genome detectors do with images: extreme shapes, batches, given boxes, precision, shards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.extractors.detectors.visual_genome.converted import SMALL, build, converted
from tests.extractors.detectors.visual_genome.random_checkpoints import picture
from vilbert.extractors.detectors.visual_genome.extractor import VisualGenomeExtractor
from vilbert.extractors.extractor import ExtractorError
from vilbert.extractors.recorded_settings import detector_values
from vilbert.extractors.regions import Regions
from vilbert.extractors.selection import SelectionSettings
from vilbert.pipeline.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("detectors")


@pytest.fixture(scope="module")
def weights(folder: Path) -> Path:
    return converted(folder)


@pytest.fixture(scope="module")
def butd(weights: Path) -> VisualGenomeExtractor:
    return build(weights)


def same(left: Regions, right: Regions) -> bool:
    other = right.arrays()
    return all(np.array_equal(array, other[name]) for name, array in left.arrays().items())


def test_alone_or_in_a_batch_the_regions_are_the_same(butd: VisualGenomeExtractor) -> None:
    images = [picture(100, 130, seed) for seed in range(3)]
    together = butd.extract(images, [None] * 3)
    for image, regions in zip(images, together, strict=True):
        (alone,) = butd.extract([image], [None])
        np.testing.assert_allclose(regions.boxes, alone.boxes, rtol=0, atol=1e-3)
        np.testing.assert_allclose(regions.features.astype(float), alone.features.astype(float), rtol=2e-3, atol=2e-3)
        assert np.array_equal(regions.object_ids, alone.object_ids)
        assert np.array_equal(regions.attribute_ids, alone.attribute_ids)
    assert not same(*together[:2])


def test_images_that_were_resized_before_give_the_same_regions(butd: VisualGenomeExtractor) -> None:
    images = [picture(100, 130, seed) for seed in range(2)]
    resized = [butd.resize(image) for image in images]
    assert [image.stored for image in resized] == [(100, 130)] * 2
    for before, after in zip(butd.extract(images, [None] * 2), butd.extract(resized, [None] * 2), strict=True):
        assert same(before, after)


@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (400, 1), (30, 900), (900, 30), (37, 41)])
def test_images_of_extreme_shapes_give_regions_within_the_image(
    butd: VisualGenomeExtractor, shape: tuple[int, int]
) -> None:
    height, width = shape
    (regions,) = butd.extract([picture(height, width)], [None])
    assert (regions.height, regions.width) == shape
    assert np.isfinite(regions.boxes).all()
    assert (regions.boxes >= 0).all()
    assert (regions.boxes <= [width, height, width, height]).all()


def test_given_boxes_are_all_kept_in_their_order(butd: VisualGenomeExtractor) -> None:
    boxes = np.array([[10, 10, 60, 50], [0, 0, 130, 100], [10, 10, 60, 50]], np.float32)
    image = picture(100, 130)
    given, found = butd.extract([image, image], [boxes, None])
    assert np.array_equal(given.boxes, boxes)
    assert np.array_equal(given.features[0], given.features[2])
    assert not np.array_equal(given.features[0], given.features[1])
    (alone,) = butd.extract([image], [None])
    assert np.array_equal(found.object_ids, alone.object_ids)
    (none,) = butd.extract([image], [np.zeros((0, 4), np.float32)])
    assert len(none) == 0


def test_chunks_of_regions_do_not_change_features(weights: Path, butd: VisualGenomeExtractor) -> None:
    chunked = build(weights, opts=(*SMALL, "rois_at_once", "7"))
    (left,), (right,) = (it.extract([picture(100, 130)], [None]) for it in (butd, chunked))
    np.testing.assert_allclose(left.features.astype(float), right.features.astype(float), rtol=2e-3, atol=2e-3)
    assert left.boxes.tolist() == right.boxes.tolist()


def test_soft_labels_have_the_background_first(butd: VisualGenomeExtractor) -> None:
    (regions,) = butd.extract([picture(100, 130)], [None])
    assert butd.class_names[:2] == ("background", "classes0")
    assert butd.attribute_names[0] == "attributes0"
    assert regions.class_ids is not None
    assert regions.class_probs is not None
    assert regions.object_ids is not None
    # the best class of a region is the first of its soft labels that is not the background
    best = [next(row for row in ids if row) for ids in regions.class_ids]
    assert best == regions.object_ids.tolist()
    assert regions.class_ids.shape[1] == 20
    assert (regions.class_probs.sum(axis=1) <= 1.001).all()


def test_reduced_precision_keeps_features(weights: Path, butd: VisualGenomeExtractor) -> None:
    boxes = np.array([[10, 10, 60, 50], [0, 0, 130, 100]], np.float32)
    reduced = build(weights, precision="bf16")
    (left,), (right,) = (it.extract([picture(100, 130)], [boxes]) for it in (butd, reduced))
    cosine = torch.cosine_similarity(*(torch.from_numpy(it.features.astype(np.float32)) for it in (left, right)))
    assert float(cosine.min()) >= 0.999


def test_the_fingerprint_names_every_convention(weights: Path, butd: VisualGenomeExtractor) -> None:
    facts = butd.fingerprint()
    assert facts == json.loads(json.dumps(facts))  # compared with what a data set records
    assert facts["extractor"] == "butd-r101"
    assert facts["conventions"]["stem_pool"] == "ceil"  # type: ignore[index]
    changed = build(weights, opts=(*SMALL[:4], "proposals", "39")).fingerprint()
    assert {key for key in facts if facts[key] != changed[key]} == {"conventions", "opts"}
    assert build(weights, opts=(*SMALL, "rois_at_once", "7")).fingerprint() == facts  # bounds memory alone


def test_settings_are_known_from_the_fingerprint(butd: VisualGenomeExtractor) -> None:
    known = detector_values(butd.fingerprint())
    assert known["detector"] == "butd-r101"
    assert known["opts"] == SMALL
    assert "feature_layer" not in known  # a C4 head has one


def test_a_file_of_another_detector_is_refused_by_name(weights: Path, folder: Path) -> None:
    with pytest.raises(ExtractorError, match=r"holds butd-r101, not vmb-x152; give --detector butd-r101"):
        build(weights, "vmb-x152")
    with pytest.raises(ExtractorError, match="convert-detector"):
        build(folder / "absent.safetensors")


def test_max_nms_needs_refined_boxes_and_gives_them(weights: Path) -> None:
    extractor = build(weights, selection=SelectionSettings(boxes="8", selection="maxnms", saved_box="regressed"))
    (regions,) = extractor.extract([picture(100, 130)], [None])
    assert len(regions) == 8
    assert regions.object_scores is not None
    assert (np.diff(regions.object_scores) <= 0).all()


def test_extract_writes_verified_shards_with_attributes(folder: Path, weights: Path) -> None:
    from PIL import Image

    (folder / "images").mkdir()
    for index in range(3):
        Image.fromarray(picture(90 + index, 120, index)).save(folder / "images" / f"{index}.png")
    manifest, output = str(folder / "images.parquet"), str(folder / "features")
    assert main(["manifest", str(folder / "images"), "--output", manifest]) == 0
    options = ["--detector", "butd-r101", "--weights", str(weights), "--opts", *SMALL, "--boxes", "5-10"]
    assert main(["extract", manifest, "--output", output, *options, "--backend", "local", "--device", "cpu"]) == 0
    assert main(["verify", output]) == 0
    dataset = (folder / "features" / "dataset.json").read_text()
    assert "attributes7" in dataset
