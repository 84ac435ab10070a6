"""Each port's detector computes what its original code does: `golden/` holds the outputs of that code."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.extractors.detectors.visual_genome.random_checkpoints import (
    picture,
    random_state,
    read_golden,
    sample,
    write_checkpoint,
)
from vilbert.extractors.detectors.visual_genome.extractor import VisualGenomeExtractor
from vilbert.extractors.detectors.visual_genome.geometry import decode, grid_anchors
from vilbert.extractors.detectors.visual_genome.heads import Res5Head
from vilbert.extractors.detectors.visual_genome.preprocessing import bgr_pixels, network_input, resizing
from vilbert.extractors.detectors.visual_genome.presets import PRESETS
from vilbert.extractors.extractor import DetectorSettings, ExtractorSettings, build_extractor
from vilbert.extractors.selection import SelectionSettings
from vilbert.pipeline.cli import main

SIZE = ("min_size", "160", "max_size", "260")
HF_CONFIG = """
input: {min_size_test: 160, max_size_test: 260, format: BGR}
anchor_generator: {sizes: [[16, 32, 64, 128]], aspect_ratios: [[0.5, 1.0, 2.0]], offset: 0.0}
rpn: {pre_nms_topk_test: 600, post_nms_topk_test: 60, nms_thresh: 0.7}
"""


class Port(NamedTuple):
    suffix: str
    detector: str
    selection: SelectionSettings
    opts: tuple[str, ...] = SIZE
    attributes: int = 8


MAX_NMS = SelectionSettings(boxes="12", selection="maxnms", saved_box="regressed")
BUTD = SelectionSettings(boxes="10-20")
SIXTY = (*SIZE, "proposals", "60")
PORTS = {
    "hf": Port(".bin", "butd-r101", MAX_NMS, opts=()),
    "airsplay": Port(".pkl", "butd-r101", MAX_NMS, SIXTY),
    "milvlg": Port(".pth", "butd-r101", BUTD, SIXTY),
    "milvlg-r152": Port(".pth", "butd-r101", BUTD, SIXTY),
    "vmb": Port(".pth", "vmb-x101", SelectionSettings(boxes="20", selection="topk", nms=0.5), SIXTY, attributes=0),
    "vinvl": Port(".pth", "vinvl-x152c4", SelectionSettings(boxes="40-50", selection="vinvl"), SIXTY),
}


@pytest.fixture(scope="module", params=PORTS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Any]:
    """Return a port's name, its extractor on a random checkpoint, and the outputs of the original code."""
    name: str = request.param
    folder = tmp_path_factory.mktemp(name)
    shapes, golden = read_golden(name)
    return name, convert_and_build(name, folder, shapes, golden), golden


def convert_and_build(
    name: str,
    folder: Path,
    shapes: Any,
    golden: Any,
    selection: SelectionSettings | None = None,
    preset: str | None = None,
) -> VisualGenomeExtractor:
    port = PORTS[name]
    fixed = {key.removeprefix("fixed:"): values for key, values in golden.items() if key.startswith("fixed:")}
    source = write_checkpoint(folder / f"checkpoint{port.suffix}", random_state(shapes, fixed))
    names = {"classes": 20, "attributes": port.attributes}
    options = [] if preset is None else ["--preset", preset]
    for kind, count in names.items():
        if count:
            (folder / f"{kind}.txt").write_text("\n".join(f"{kind}{index}" for index in range(count)))
            options += [f"--{kind}", str(folder / f"{kind}.txt")]
    if name == "hf":
        (folder / "config.yaml").write_text(HF_CONFIG)
    output = folder / "detector.safetensors"
    assert main(["convert-detector", str(source), "--output", str(output), *options]) == 0
    detector = DetectorSettings(
        detector=port.detector, weights=output, device="cpu", opts=port.opts, feature_layer="fc6"
    )
    extractor = build_extractor(ExtractorSettings(detector=detector, selection=selection or port.selection))
    assert isinstance(extractor, VisualGenomeExtractor)
    return extractor


def close(found: Any, expected: NDArray[Any], relative: float = 1e-4) -> None:
    """Assert that values differ by at most a share of themselves, or of their root mean square where that is more."""
    found = np.asarray(found, dtype=np.float32)
    assert found.shape == expected.shape
    scale = float(np.sqrt(np.mean(np.square(expected, dtype=np.float64))))
    assert float((np.abs(found - expected) / np.maximum(np.abs(expected), scale)).max()) <= relative


@torch.inference_mode()
def test_every_step_is_that_of_the_original_code(case: Any) -> None:
    _, extractor, golden = case
    network, conventions = extractor.network, extractor.network.conventions
    image = picture(200, 270)
    size = resizing(200, 270, conventions)
    pixels = torch.zeros(1, 3, *[-(-side // conventions.pad_to) * conventions.pad_to for side in size[:2]])
    pixels[0, :, : size.height, : size.width] = network_input(
        bgr_pixels(image, conventions), (image.shape[0], image.shape[1]), conventions
    )
    close(sample(pixels), golden["input"])

    maps = network.backbone(pixels)
    close(sample(maps["stem"]), golden["stem"])
    if isinstance(network.head, Res5Head):
        close(sample(network.head.activate(maps["res4"])), golden["res4"])
    levels = network.levels(pixels)
    for index, level in enumerate(levels if network.pyramid else ()):
        close(sample(level), golden[f"p{2 + index}"])

    hidden = [network.rpn.hidden(level) for level in levels]
    scores, _ = network.rpn.scores_and_deltas(hidden[0])
    close(sample(scores.unflatten(1, (*levels[0].shape[2:], -1)).permute(0, 3, 1, 2)), golden["objectness"])
    close(sample(grid_anchors(network.anchors[0], tuple(levels[0].shape[2:]), network.strides[0])), golden["grid"])
    (proposals,) = network.proposals(hidden, [size[:2]], tuple(pixels.shape[2:]), [size.scale])
    close(proposals, golden["proposals"])

    pooled = network.pool(levels, torch.cat([torch.zeros(len(proposals), 1), proposals], dim=1))
    close(sample(pooled), golden["pooled"])
    features, last = network.describe(pooled, "fc6")
    close(sample(network.head(pooled) if isinstance(network.head, Res5Head) else features), golden["res5"])
    outputs = network.predict(features, last)
    close(sample(outputs.logits), golden["logits"])
    close(sample(outputs.deltas.flatten(1)), golden["deltas"])
    if network.attributes is not None and "attribute_probs" in golden:
        close(sample(network.attributes(outputs.last, outputs.logits.argmax(dim=1))), golden["attribute_probs"])


def test_kept_regions_are_those_of_the_original_code(case: Any) -> None:
    _, extractor, golden = case
    (regions,) = extractor.extract([picture(200, 270)], [None])
    close(regions.boxes, golden["kept_boxes"])
    assert regions.object_ids is not None
    assert regions.object_ids.tolist() == golden["kept_classes"].tolist()
    close(regions.object_scores, golden["kept_scores"])
    close(sample(regions.features), golden["features"], relative=1e-3)  # float16
    if "kept_attributes" in golden:
        assert regions.attribute_ids is not None
        assert regions.attribute_ids.tolist() == golden["kept_attributes"].tolist()
        close(regions.attribute_scores, golden["kept_attribute_scores"])


@pytest.mark.parametrize("name", ["milvlg", "milvlg-r152", "vmb"])
def test_regressed_boxes_are_those_of_the_original_code(name: str, tmp_path: Path) -> None:
    shapes, golden = read_golden(name)
    selection = replace(PORTS[name].selection, saved_box="regressed")
    extractor = convert_and_build(name, tmp_path, shapes, golden, selection)
    (regions,) = extractor.extract([picture(200, 270)], [None])
    close(regions.boxes, golden["regressed_boxes"])


def test_the_preset_caffe_is_milvlg_without_a_clamp(tmp_path: Path) -> None:
    """MILVLG's port of the Caffe network clamps the boxes' growth, which no delta of a usual image reaches."""
    facts, other = asdict(PRESETS["caffe"]), asdict(PRESETS["milvlg"])
    assert {name for name in facts if facts[name] != other[name]} == {"clamp_deltas"}
    shapes, golden = read_golden("milvlg")
    extractor = convert_and_build("milvlg", tmp_path, shapes, golden, preset="caffe")
    assert not extractor.network.conventions.clamp_deltas
    (regions,) = extractor.extract([picture(200, 270)], [None])
    close(regions.boxes, golden["kept_boxes"])
    assert regions.object_ids is not None
    assert regions.object_ids.tolist() == golden["kept_classes"].tolist()
    close(sample(regions.features), golden["features"], relative=1e-3)  # float16


def test_caffe_lets_a_box_grow_as_its_delta_says() -> None:
    delta, box = torch.tensor([[0.0, 0.0, 5.0, 5.0]]), torch.tensor([[0.0, 0.0, 9.0, 9.0]])
    sides = {
        name: float((found := decode(delta, box, PRESETS[name], (1, 1, 1, 1)))[0, 2] - found[0, 0])
        for name in ("caffe", "milvlg")
    }
    assert sides["caffe"] == pytest.approx(10 * np.exp(5), rel=1e-5)  # bbox_transform_inv of py-faster-rcnn
    assert sides["milvlg"] == pytest.approx(10 * 1000 / 16, rel=1e-5)
