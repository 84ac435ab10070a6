"""A detectron2 model's weights: every format, the traps that its own checkpointer passes over, and random ones."""

from __future__ import annotations

import hashlib
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from vilbert.extractors.extractor import ExtractorError

from ..tiny_detectron2 import MARKS, assert_same, extractor, make, picture, relative_error, weights_file, write_configs

ANCHORS = "proposal_generator.anchor_generator.cell_anchors."

pytestmark = MARKS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_configs(tmp_path_factory.mktemp("detectron2"))


def test_weights_in_every_format_give_the_same_regions(folder: Path, tmp_path: Path) -> None:
    source = weights_file(folder, "C4")
    state = torch.load(source, weights_only=True)["model"]
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    mask_head = {"roi_heads.mask_head.predictor.weight": np.zeros((20, 8, 1, 1), np.float32)}
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps({"model": {**arrays, **mask_head}, "__author__": "Zoo"}))
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    expected = extractor(folder, "C4", weights=str(source)).extract([picture(1)], [None])[0]
    for path in (tmp_path / "zoo.pkl", tmp_path / "w.safetensors"):
        detector = make(folder, "C4", weights=str(path))
        assert detector.fingerprint()["weights_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        for name, array in detector.extract([picture(1)], [None])[0].arrays().items():
            np.testing.assert_array_equal(array, expected.arrays()[name])


def test_weights_named_in_the_config(folder: Path) -> None:
    path = str(weights_file(folder, "C4"))
    detector = make(folder, "C4", weights=None, opts=("MODEL.WEIGHTS", path))
    assert detector.fingerprint() == extractor(folder, "C4", weights=path).fingerprint()
    with pytest.raises(ExtractorError, match=r"needs --weights, a file of trained weights, or `random`$"):
        make(folder, "C4", weights=None)
    with pytest.raises(ExtractorError, match=r"the config names detectron2://R-50\.pkl: download it"):
        make(folder, "C4", weights=None, opts=("MODEL.WEIGHTS", "detectron2://R-50.pkl"))


def cell_anchors(sizes: list[float]) -> torch.Tensor:
    """Boxes of each size and ratio about the origin, as detectron2 counts them (height over width .5, 1, 2)."""
    halves = [(size / ratio**0.5 / 2, size * ratio**0.5 / 2) for size in sizes for ratio in (0.5, 1, 2)]
    return torch.tensor([[-w, -h, w, h] for w, h in halves])


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({}, None),
        ({f"{ANCHORS}0": cell_anchors([16, 32, 64])}, None),
        (
            {f"{ANCHORS}0": cell_anchors([4, 8, 16])},
            r"other anchors than the config's: .*cell_anchors\.0 has 9 of sizes 4, 8, 16, the first \(-2\.8, -1\.4, "
            r"2\.8, 1\.4\), the config 9 of sizes 16, 32, 64, .*SIZES",
        ),
        ({f"{ANCHORS}0": cell_anchors([16, 32, 64]) + 7.5}, r"the first \(-3.8, 1.8"),
        ({f"{ANCHORS}0": cell_anchors([16, 32])}, "has 6 of sizes 16, 32, .*the config 9"),
        ({f"{ANCHORS}{level}": cell_anchors([16, 32, 64]) for level in range(2)}, "of 2 levels, the config of 1"),
        ({"pixel_mean": torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1)}, None),
        ({"pixel_mean": torch.tensor([102.9801, 115.9465, 122.7717]).view(3, 1, 1)}, "is .*MODEL.PIXEL_MEAN"),
        ({"pixel_std": torch.full((3, 1, 1), 57.0)}, r"pixel_std is \[57.*MODEL.PIXEL_STD"),
        ({"backbone.stem.conv1.norm.num_batches_tracked": torch.tensor(7)}, None),
        ({"roi_heads.box_predictor.fc_attr.weight": torch.zeros(3, 3)}, r"1 unexpected \(roi_heads.*fc_attr"),
        ({"roi_heads.box_predictor.cls_score.weight": torch.zeros(81, 256)}, r"\[81, 256\], not \[21, 256\]"),
        ({"backbone.stem.conv1.weight": None}, r"1 missing \(backbone\.stem\.conv1\.weight\)"),
    ],
)  # fmt: skip
def test_weights_must_be_the_models(folder: Path, tmp_path: Path, extra: dict[str, Any], reason: str | None) -> None:
    state = {**torch.load(weights_file(folder, "C4"), weights_only=True)["model"], **extra}
    path = tmp_path / "w.pth"
    torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, path)
    if reason is None:
        regions = make(folder, "C4", weights=str(path)).extract([picture(1)], [None])[0]
        assert_same(
            regions, extractor(folder, "C4", weights=str(weights_file(folder, "C4"))).extract([picture(1)], [None])[0]
        )
        return
    with pytest.raises(ExtractorError, match=f"w.pth: .*{reason}"):
        make(folder, "C4", weights=str(path))


def test_backbone_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "R-50.pkl"
    path.write_bytes(
        pickle.dumps({"model": {"conv1_w": np.zeros(3)}, "__author__": "Caffe2", "matching_heuristics": True})
    )
    with pytest.raises(ExtractorError, match="this is a backbone, not a detector"):
        make(folder, "C4", weights=str(path))


def test_random_weights_come_from_their_seed_alone(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with caplog.at_level(logging.WARNING):
        one = make(folder, "C4", seed=1)
    assert "untrained (seed 1)" in caplog.text
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again, other = make(folder, "C4", seed=1), make(folder, "C4", seed=2)
    assert one.fingerprint() == again.fingerprint() != other.fingerprint()
    a, b, c = (detector.extract([picture(1)], [None])[0] for detector in (one, again, other))
    np.testing.assert_array_equal(a.features, b.features)
    assert relative_error(c.features[:10], a.features[:10]) > 0.1
