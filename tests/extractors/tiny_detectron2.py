"""Tiny detectron2 models: their configs, random weights, and pictures for them. Only detectron2's code is needed."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from vilbert.extractors.detectors.detectron2_frcnn import Detectron2Extractor, build
from vilbert.extractors.extractor import DetectorSettings
from vilbert.extractors.regions import Regions
from vilbert.extractors.selection import SelectionSettings

MARKS = [
    pytest.mark.detectron2,
    pytest.mark.skipif(
        importlib.util.find_spec("detectron2") is None,
        reason="detectron2 is not importable: put its source folder on PYTHONPATH (docs/extractors.md)",
    ),
]

EVERY_PROPOSAL = SelectionSettings(boxes="1-1000", selection="butd", confidence=0.0, nms=1.0)
"""All of them, in the RPN's order."""

C4 = {
    "VERSION": 2,
    "MODEL": {
        "META_ARCHITECTURE": "GeneralizedRCNN",
        "MASK_ON": True,  # as in many a published config; the extractor turns it off
        "RESNETS": {"DEPTH": 50, "STEM_OUT_CHANNELS": 8, "RES2_OUT_CHANNELS": 32, "WIDTH_PER_GROUP": 8},
        "ANCHOR_GENERATOR": {"SIZES": [[16, 32, 64]]},
        "RPN": {"CONV_DIMS": [16], "PRE_NMS_TOPK_TEST": 600, "POST_NMS_TOPK_TEST": 60},
        "ROI_HEADS": {"NAME": "Res5ROIHeads", "NUM_CLASSES": 20},
    },
    "INPUT": {"MIN_SIZE_TEST": 96, "MAX_SIZE_TEST": 160},
    "DATASETS": {"TRAIN": ["nobody_knows_train"]},
}
LEVELS = ["p2", "p3", "p4", "p5"]
FPN = {
    **C4,
    "MODEL": {
        **C4["MODEL"],
        "BACKBONE": {"NAME": "build_resnet_fpn_backbone"},
        "RESNETS": {**C4["MODEL"]["RESNETS"], "OUT_FEATURES": ["res2", "res3", "res4", "res5"]},
        "FPN": {"IN_FEATURES": ["res2", "res3", "res4", "res5"], "OUT_CHANNELS": 16},
        "ANCHOR_GENERATOR": {"SIZES": [[8], [16], [32], [64], [128]]},
        "RPN": {"CONV_DIMS": [16], "PRE_NMS_TOPK_TEST": 20, "POST_NMS_TOPK_TEST": 80, "IN_FEATURES": [*LEVELS, "p6"]},
        "ROI_HEADS": {"NAME": "StandardROIHeads", "NUM_CLASSES": 20, "IN_FEATURES": LEVELS},
        "ROI_BOX_HEAD": {"NAME": "FastRCNNConvFCHead", "NUM_FC": 2, "FC_DIM": 48, "POOLER_RESOLUTION": 7},
    },
}
CONFIGS = {"C4": C4, "FPN": FPN}


def write_configs(folder: Path) -> Path:
    for name, config in CONFIGS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    return folder


@functools.cache
def weights_file(folder: Path, name: str) -> Path:
    """Write random weights whose class scores are far from even."""
    path = folder / f"{name}.pth"
    # Copies: a state dict's tensors are the model's own.
    state = {key: tensor.clone() for key, tensor in extractor(folder, name)._model.state_dict().items()}
    state["roi_heads.box_predictor.cls_score.weight"] *= 5 if name == "C4" else 3
    state["roi_heads.box_predictor.bbox_pred.weight"] *= 20
    torch.save({"model": state}, path)
    return path


def make(folder: Path, name: str, selection: SelectionSettings = EVERY_PROPOSAL, **changes: Any) -> Detectron2Extractor:
    defaults = {"weights": "random", "device": "cpu", "config_file": str(folder / f"{name}.yaml"), "top_classes": 21}
    return build(DetectorSettings(detector="detectron2", **{**defaults, **changes}), selection)


extractor = functools.cache(make)


def picture(seed: int, height: int = 60, width: int = 80) -> np.ndarray:
    """Coloured blocks with noise, uint8 [height, width, 3]."""
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 200, (6, 8, 3)).repeat(-(-height // 6), 0).repeat(-(-width // 8), 1)
    return (blocks[:height, :width] + generator.integers(0, 56, (height, width, 3))).astype(np.uint8)


def assert_same(one: Regions, other: Regions) -> None:
    assert len(one) == len(other) > 0
    np.testing.assert_allclose(one.boxes, other.boxes, atol=0.02)
    np.testing.assert_allclose(one.features.astype(float), other.features.astype(float), rtol=0.01, atol=0.02)
    np.testing.assert_allclose(one.object_scores, other.object_scores, atol=2e-3)
    np.testing.assert_array_equal(one.object_ids, other.object_ids)


def relative_error(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one.astype(float) - other.astype(float)) / np.linalg.norm(other.astype(float)))
