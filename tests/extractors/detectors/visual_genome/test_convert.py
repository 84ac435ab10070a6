"""convert-detector: what it accounts for, and what it refuses, with a message and with nothing written."""

from __future__ import annotations

import errno
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.extractors.detectors.visual_genome.converted import build, checkpoint, converted, names
from tests.extractors.detectors.visual_genome.random_checkpoints import random_state, read_golden
from vilbert.extractors.detectors.visual_genome.detector_file import KEY
from vilbert.extractors.detectors.visual_genome.names import bottom_up_names, read_names
from vilbert.extractors.detectors.visual_genome.presets import PRESETS
from vilbert.extractors.extractor import ExtractorError
from vilbert.pipeline.cli import main

CLS = "roi_heads.box_predictor.cls_score"
ANCHORS = "proposal_generator.anchor_generator.cell_anchors.0"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted(tmp_path_factory.mktemp("weights"))


def convert(source: Path, *options: str) -> int:
    return main(["convert-detector", str(source), "--output", str(source.with_name("out.safetensors")), *options])


@pytest.mark.parametrize(
    ("layout", "suffix", "changes", "message"),
    [
        ("airsplay", ".pkl", {"extra.weight": torch.zeros(2)}, "1 tensors have no place in layout airsplay"),
        ("airsplay", ".pkl", {f"{CLS}.bias": None}, "1 tensors missing (predictor.cls_score.bias)"),
        ("airsplay", ".pkl", {f"{CLS}.weight": None}, "it has no predictor.cls_score.weight"),
        ("airsplay", ".pkl", {f"{CLS}.bias": torch.zeros(22)}, "predictor.cls_score.bias [22], not [21]"),
        ("airsplay", ".pkl", {f"{CLS}.bias": torch.full((21,), torch.nan)}, "hold NaN or infinity in"),
        ("airsplay", ".pkl", {ANCHORS: torch.zeros(15, 4)}, "its anchors of level 0 have the shape [15, 4]"),
        ("vmb", ".pth", {"rpn.anchor_generator.cell_anchors.4": None}, "anchors of 4 levels, the preset of 5"),
        ("milvlg", ".pth", {f"{CLS}.weight": torch.zeros(21)}, "expected 2 dimensions"),
        (
            "vinvl",
            ".pth",
            {"attribute.feature_extractor.head.layer4.0.bn1.bias": torch.ones(32)},
            "must be the same tensor and differ",
        ),
        (
            "airsplay",
            ".pkl",
            {"backbone.res2.0.conv2.weight": torch.zeros(4, 0, 3, 3)},
            "which does not match a grouped convolution",
        ),
        ("airsplay", ".pkl", {"backbone.res2.900.conv2.weight": torch.zeros(4, 4, 3, 3)}, "blocks"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    layout: str, suffix: str, changes: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = checkpoint(tmp_path, layout, suffix, changes)
    assert convert(source, *names(tmp_path, attributes=0 if layout == "vmb" else 8)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()


def test_another_layout_or_preset_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = checkpoint(tmp_path, "airsplay", ".pkl")
    assert convert(source, "--layout", "vmb", *names(tmp_path)) == 1
    assert "have no place in layout vmb (vilbert-multi-task, MMF and Pythia (.pth))" in capsys.readouterr().err
    assert convert(source, "--preset", "caffe", *names(tmp_path)) == 1
    assert "does not fit layout airsplay with preset caffe" in capsys.readouterr().err


def test_other_classes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = checkpoint(tmp_path, "airsplay", ".pkl")
    assert convert(source) == 1
    assert "it has 20 objects, Bottom-Up Attention names 1600: a detector of other classes" in capsys.readouterr().err
    assert convert(source, *names(tmp_path, attributes=9)) == 1
    assert "it has 8 attributes" in capsys.readouterr().err
    (tmp_path / "classes.txt").write_bytes(b"\xff\xfe")
    assert convert(source, "--classes", str(tmp_path / "classes.txt")) == 1
    assert "not UTF-8 text" in capsys.readouterr().err
    vmb = checkpoint(tmp_path, "vmb", ".pth")
    assert convert(vmb) == 1
    assert "give --classes FILE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"backbone.bottom_up.res2.0.conv1.weight": torch.zeros(1)}, "give --detector detectron2"),
        ({"roi_heads.attribute_predictor.obj_embed.weight": torch.zeros(1)}, "MILVLG's detectron2 mode"),
        ({"encoder.layer.0.weight": torch.zeros(1)}, "match no known layout"),
    ],
)
def test_other_models_are_refused(state: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(state, tmp_path / "model.pth")
    assert convert(tmp_path / "model.pth") == 1
    assert message in capsys.readouterr().err


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("/").joinpath, ("tmp",))


def test_nothing_but_arrays_is_unpickled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix in (".pkl", ".pth", ".bin"):
        source = tmp_path / f"evil{suffix}"
        source.write_bytes(pickle.dumps({"model": {"weight": _Evil()}}, protocol=2))
        assert convert(source) == 1
        assert "Traceback" not in capsys.readouterr().err
    damaged = checkpoint(tmp_path, "airsplay", ".pkl")
    damaged.write_bytes(damaged.read_bytes()[:5000])
    assert convert(damaged) == 1
    assert "damaged" in capsys.readouterr().err


def test_anchors_of_the_file_are_kept_and_a_difference_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    anchors = torch.from_numpy(read_golden("milvlg")[1][f"fixed:{ANCHORS}"].copy()).flip(0)
    source = checkpoint(tmp_path, "milvlg", ".pth", {ANCHORS: anchors})
    assert convert(source, *names(tmp_path)) == 0
    assert "anchors: those of the file, which differ from the preset's" in capsys.readouterr().out
    assert torch.equal(safetensors.torch.load_file(tmp_path / "out.safetensors")["anchors.0"], anchors)


def test_every_tensor_is_in_the_converted_file(tmp_path: Path) -> None:
    shapes, golden = read_golden("vmb")
    fixed = {key.removeprefix("fixed:"): values for key, values in golden.items() if key.startswith("fixed:")}
    state = random_state(shapes, fixed)
    kept = safetensors.torch.load_file(converted(tmp_path, "vmb", ".pth"))
    assert len(kept) == len(state)
    assert sorted(float(it.double().sum()) for it in kept.values()) == sorted(
        float(it.double().sum()) for it in state.values()
    )


def test_unused_heads_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = "roi_heads.box.predictor.attr_linear1.bias"
    source = checkpoint(tmp_path, "vmb", ".pth", {head: torch.zeros(512)})
    assert convert(source, *names(tmp_path, attributes=0), "--json") == 0
    assert json.loads(capsys.readouterr().out)["unused"] == [head]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("input: {min_size_test: 0}", "min-size"),
        ("roi_box_head: {cls_agnostic_bbox_reg: true}\nrpn: {nms_thresh: 0.7}", "only False is supported"),
        ("anchor_generator: {sizes: 5}", "anchor_generator.sizes is 5"),
        ("anchor_generator: {sizes: [[32], [64]]}", "2 levels, expected 1"),
        ("nothing: of_interest", "none of the keys"),
        ("input: [", "not valid YAML"),
    ],
)
def test_a_configuration_that_is_wrong_is_refused(
    config: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = checkpoint(tmp_path, "hf", ".bin")
    (tmp_path / "config.yaml").write_text(config)
    assert convert(source, *names(tmp_path)) == 1
    assert message in capsys.readouterr().err


def test_a_converted_file_that_was_changed_is_refused(tmp_path: Path) -> None:
    path = converted(tmp_path)
    state = safetensors.torch.load_file(path)
    with safetensors.safe_open(str(path), framework="pt") as opened:
        text = opened.metadata()[KEY]
    state["rpn.conv.bias"] += 1
    safetensors.torch.save_file(state, path, metadata={KEY: text})
    with pytest.raises(ExtractorError, match="not those that were converted"):
        build(path)
    for wrong in ("{", "[]", text.replace('"stem_pool":"ceil"', '"stem_pool":"floor"'), text[:100]):
        safetensors.torch.save_file(state, path, metadata={KEY: wrong})
        with pytest.raises(ExtractorError, match=KEY):
            build(path)
    safetensors.torch.save_file(state, path)
    with pytest.raises(ExtractorError, match="is not a converted detector"):
        build(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ExtractorError, match="is damaged or is not safetensors"):
        build(path)


@pytest.mark.parametrize(
    ("group", "change", "said"),
    [
        (None, {"class_names": ["cat"]}, "class_names: 1 names, the network has 20"),
        (None, {"attribute_names": []}, "attribute_names: 0 names, the network has 8"),
        (None, {"class_names": ["a\x1b[31m"] * 20}, "control characters"),
        ("conventions", {"pixel_std": [0, 1, 1]}, "pixel_std"),
        ("conventions", {"min_size": 10**12}, "min_size"),
        ("conventions", {"rpn_post_nms": 10**12}, "rpn_post_nms"),
        ("conventions", {"pool_size": 10**6}, "pool_size"),
    ],
)
def test_a_configuration_that_fits_no_network_is_refused(
    group: str | None, change: dict[str, Any], said: str, weights: Path, tmp_path: Path
) -> None:
    state = safetensors.torch.load_file(weights)
    with safetensors.safe_open(str(weights), framework="pt") as opened:
        content = json.loads(opened.metadata()[KEY])
    (content if group is None else content[group]).update(change)
    path = tmp_path / "changed.safetensors"
    safetensors.torch.save_file(state, path, metadata={KEY: json.dumps(content)})
    with pytest.raises(ExtractorError, match=said):
        build(path)


def test_names_come_from_text_and_json(tmp_path: Path) -> None:
    from vilbert.extractors.detectors.visual_genome.names import read_names

    categories = {"categories": [{"id": 1, "name": "b"}, {"id": 0, "name": "a"}]}
    (tmp_path / "categories.json").write_text(json.dumps(categories))
    assert read_names(tmp_path / "categories.json", "objects") == ("a", "b")
    indexed = {"label_to_idx": {"a": 1, "b": 2}, "attribute_to_idx": {"none": 0, "c": 1}}
    (tmp_path / "dicts.json").write_text(json.dumps(indexed))
    assert read_names(tmp_path / "dicts.json", "objects") == ("a", "b")
    assert read_names(tmp_path / "dicts.json", "attributes") == ("c",)
    with pytest.raises(ExtractorError, match="holds no names"):
        read_names(tmp_path / "categories.json", "attributes")
    assert bottom_up_names("objects")[:2] == ("yolk", "goal")
    assert [len(bottom_up_names(kind)) for kind in ("objects", "attributes")] == [1600, 400]


def test_presets_differ_where_the_ports_do() -> None:
    assert PRESETS["caffe"].anchor_sizes == PRESETS["airsplay"].anchor_sizes
    assert np.allclose(PRESETS["vmb"].pixel_mean, PRESETS["hf"].pixel_mean)
    differing = {
        name for name in vars(PRESETS["hf"]) if getattr(PRESETS["hf"], name) != getattr(PRESETS["airsplay"], name)
    }
    assert differing == {"resize"}


def test_an_existing_output_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = checkpoint(tmp_path, "airsplay", ".pkl")
    (tmp_path / "out.safetensors").write_text("mine")
    assert convert(source, *names(tmp_path)) in (1, 2)
    assert "or --overwrite" in capsys.readouterr().err
    assert (tmp_path / "out.safetensors").read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "said"),
    [(b"\xff\n", "not UTF-8 text"), (b"\n \n", "holds no names"), (b"a\x1b[31m\n", "control characters")],
)
def test_a_list_of_names_that_cannot_be_used_is_refused(text: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(text)
    with pytest.raises(ExtractorError, match=said):
        read_names(path, "objects")


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("cat,kitten\ndog\n", encoding="utf-8-sig")
    assert read_names(path, "objects") == ("cat", "dog")


def test_a_converted_file_is_not_converted_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = converted(tmp_path)
    assert convert(path, *names(tmp_path)) == 1
    assert "this is a converted detector; give it to --weights" in capsys.readouterr().err


def test_the_file_has_the_usual_mode(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        assert converted(tmp_path).stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


def test_a_full_disk_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    source = checkpoint(tmp_path, "airsplay", ".pkl")
    before = set(tmp_path.iterdir())
    assert convert(source, *(options := names(tmp_path))) == 2
    assert "out.safetensors: cannot write it: No space left" in capsys.readouterr().err
    assert set(tmp_path.iterdir()) - before <= {Path(option) for option in options}
