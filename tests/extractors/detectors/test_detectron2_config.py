"""detectron2's config files: what is taken, what is refused, and what of them a fingerprint says."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from vilbert.extractors.extractor import DetectorSettings, ExtractorError, ExtractorSettings, build_extractor
from vilbert.extractors.selection import SelectionSettings

from ..tiny_detectron2 import MARKS, extractor, make, write_configs

pytestmark = MARKS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_configs(tmp_path_factory.mktemp("detectron2"))


def test_fingerprint_says_all_that_matters_and_no_more(folder: Path, tmp_path: Path) -> None:
    base = make(folder, "FPN").fingerprint()
    assert str(folder) not in json.dumps(base)
    differing = [
        make(folder, "FPN", **change).fingerprint()
        for change in (
            {"feature_layer": "fc6"},
            {"precision": "bf16"},
            {"top_classes": 5},
            {"selection": SelectionSettings(boxes="100")},
            {"seed": 3},
            {"opts": ("INPUT.MIN_SIZE_TEST", "97")},
            {"opts": ("MODEL.RPN.NMS_THRESH", "0.6")},
            {"opts": ("DATASETS.TRAIN", "('elsewhere',)")},
        )
    ]
    assert len({json.dumps(fingerprint, sort_keys=True) for fingerprint in [base, *differing]}) == 1 + len(differing)
    (tmp_path / "FPN.yaml").write_text((folder / "FPN.yaml").read_text())
    irrelevant = ("SOLVER.BASE_LR", "0.5", "INPUT.MIN_SIZE_TRAIN", "(64,)", "OUTPUT_DIR", "elsewhere")
    assert make(tmp_path, "FPN", opts=irrelevant).fingerprint() == base


def test_class_names(folder: Path) -> None:
    assert extractor(folder, "C4").class_names == ("__background__", *(f"class_{i}" for i in range(1, 21)))
    coco = ("DATASETS.TRAIN", "('coco_2017_train',)")
    names = make(folder, "C4", opts=(*coco, "MODEL.ROI_HEADS.NUM_CLASSES", "80")).class_names
    assert len(names) == 81
    assert names[:4] == ("__background__", "person", "bicycle", "car")
    assert make(folder, "C4", opts=coco).class_names[1] == "class_1"  # 20 classes are not COCO's 80


@pytest.mark.parametrize(
    ("opts", "reason"),
    [
        (
            ("MODEL.META_ARCHITECTURE", "RetinaNet"),
            r"is 'RetinaNet'; .*'GeneralizedRCNN'.*pools no regions.*faster_rcnn",
        ),
        (("MODEL.META_ARCHITECTURE", "PanopticFPN"), "use the Mask R-CNN config of the same backbone"),
        (("MODEL.META_ARCHITECTURE", "Mystery"), "META_ARCHITECTURE is 'Mystery'"),
        (("MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"), "PROPOSAL_GENERATOR.NAME is"),
        (("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"), "ROI_HEADS.NAME is 'CascadeROIHeads'"),
        (("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlignRotated"), "POOLER_TYPE is"),
        (("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", "True"), "USE_SIGMOID_CE is True"),
        (("MODEL.BACKBONE.NAME", "build_nothing"), "cannot build its model: .*build_nothing"),
        (("MODEL.NO_SUCH_KEY", "3"), "--opts MODEL.NO_SUCH_KEY 3: .*[Nn]on-existent"),
        (("MODEL.RPN.NMS_THRESH", "abc"), "--opts MODEL.RPN.NMS_THRESH abc: "),
        (("INPUT.FORMAT", "L"), "INPUT.FORMAT is 'L'"),
    ],
)
def test_model_that_it_does_not_know(folder: Path, opts: tuple[str, ...], reason: str) -> None:
    with pytest.raises(ExtractorError, match=reason):
        make(folder, "C4", opts=opts)


def test_heads_that_are_left_out_are_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    make(folder, "FPN", opts=("MODEL.MASK_ON", "True", "MODEL.KEYPOINT_ON", "True"))
    assert "its mask head is left out" in caplog.text
    assert "its keypoint head is left out" in caplog.text
    caplog.clear()
    make(folder, "FPN", opts=("MODEL.MASK_ON", "False"))
    assert "left out" not in caplog.text


def test_a_config_in_python_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "lazy.py").write_text("raise SystemExit('ran')")
    (tmp_path / "based.yaml").write_text("_BASE_: lazy.py")
    for name in ("lazy.py", "based.yaml"):
        detector = DetectorSettings(detector="detectron2", config_file=tmp_path / name, weights="random", device="cpu")
        with pytest.raises(ExtractorError, match="Python configs are not executed"):
            build_extractor(ExtractorSettings(detector=detector))


def test_feature_layer_that_the_head_has_not(folder: Path) -> None:
    opts = ("MODEL.ROI_BOX_HEAD.NUM_FC", "1")
    with pytest.raises(ExtractorError, match=r"--feature-layer fc7: the box head of this config has fc6 .*NUM_FC is 1"):
        make(folder, "FPN", opts=opts)
    assert make(folder, "FPN", opts=opts, feature_layer="fc6").feature_dim == 48


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_that_is_not_there(folder: Path) -> None:
    with pytest.raises(ExtractorError, match="--device cuda"):
        make(folder, "C4", device="cuda")


def test_config_files_that_are_refused(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    files = {
        "unsafe": f"MODEL: !!python/object/apply:os.system ['touch {canary}']",
        "unsafe_base": "_BASE_: unsafe.yaml",
        "remote": "_BASE_: https://example.org/Base.yaml",
        "lost": "_BASE_: nowhere.yaml",
        "circle": "_BASE_: circle2.yaml",
        "circle2": "_BASE_: [circle.yaml]",
        "broken": "MODEL: [",
        "list": "- MODEL",
        "unknown": "VERSION: 2\nMODEL: {NO_SUCH_KEY: 1}",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    reasons = {
        "unsafe": "unsafe.yaml: not plain YAML",
        "unsafe_base": "unsafe.yaml: not plain YAML",
        "remote": "remote.yaml: _BASE_ https://example.org/Base.yaml: is not a local file",
        "lost": r"nowhere.yaml \(the _BASE_ of .*lost.yaml\): cannot read it: No such file",
        "circle": "circle.yaml: is based on itself",
        "broken": "broken.yaml: not plain YAML",
        "list": "list.yaml: not a config file",
        "unknown": "unknown.yaml: .*NO_SUCH_KEY",
        "absent": "--config-file .*absent.yaml: cannot read it: No such file",
    }
    for name, reason in reasons.items():
        with pytest.raises(ExtractorError, match=reason):
            make(tmp_path, name)
    assert not canary.exists()


def test_config_based_on_another(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "base.yaml").write_text((folder / "C4.yaml").read_text())
    (tmp_path / "sub" / "top.yaml").write_text("_BASE_: ../base.yaml\nINPUT: {MIN_SIZE_TEST: 48}")
    assert make(tmp_path / "sub", "top").resized_shape(60, 80) == (48, 64)


@pytest.mark.parametrize(
    ("name", "channels"), [("faster_rcnn_R_50_C4_1x", 2048), ("faster_rcnn_R_50_FPN_1x", 1024)]
)  # fmt: skip
def test_configs_of_the_zoo_build(name: str, channels: int) -> None:
    spec = importlib.util.find_spec("detectron2")
    assert spec is not None
    assert spec.origin is not None
    config = Path(spec.origin).parents[1] / "configs" / "COCO-Detection" / f"{name}.yaml"
    if not config.exists():
        pytest.skip(f"{config.name} is not beside the installed detectron2")
    settings = DetectorSettings(detector="detectron2", config_file=str(config), weights="random", device="cpu")
    detector = build_extractor(ExtractorSettings(detector=settings))
    assert detector.feature_dim == channels
    assert detector.class_names[1] == "person"
    assert detector.resized_shape(480, 640) == (800, 1067)
