"""docs/extending/detector.md: its package outside the repository is a detector of `vilbert extract`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from vilbert.extractors.detectors.registry import DETECTORS, find_detector
from vilbert.extractors.extractor import DetectorSettings, ExtractorSettings, build_extractor
from vilbert.extractors.recorded_settings import detector_values
from vilbert.pipeline.cli import main
from vilbert.pipeline.doctor import check_entry_points
from vilbert.pipeline.shapes.render import render
from vilbert.pipeline.shapes.scene import make_scene
from vilbert.pipeline.shards.open_dataset import open_dataset
from vilbert.plugins import PluginError, all_entry_points

from .extending_pages import install_page, vilbert

SIZE = ("--shard-size", "2", "--batch-size", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder outside the repository with the package of the page, and a manifest of four images."""
    folder = tmp_path_factory.mktemp("outside")
    install_page("detector.md", folder / "packages")
    (folder / "images").mkdir()
    for index in range(4):
        render(make_scene(0, index)).save(folder / "images" / f"{index}.png")
    assert run(folder, "manifest", "images", "--output", "images.parquet") == ""
    return folder


def run(folder: Path, *arguments: str, status: int = 0) -> str:
    """Run a command that ends with `status`; return what it says where that is not 0."""
    done = vilbert(*arguments, packages=folder / "packages", cwd=folder)
    assert done.returncode == status, done.stderr
    return done.stderr if status else ""


def fingerprint(folder: Path, output: str) -> dict[str, object]:
    document = json.loads((folder / output / "dataset.json").read_text())
    return dict(document["fingerprint_fields"]["extractor"])


def test_a_detector_is_found_by_its_entry_point(folder: Path) -> None:
    options = ("--detector", "toy", "--opts", "cells", "3", "--backend", "local", *SIZE)
    run(folder, "extract", "images.parquet", "--output", "named", *options)
    run(folder, "verify", "named")
    samples = list(open_dataset(folder / "named"))
    assert [sample.regions.features.shape for sample in samples] == [(9, 16)] * 4
    facts = fingerprint(folder, "named")
    assert facts["source"] == {"distribution": "toy-detector", "version": "1.2"}
    assert (facts["extractor"], facts["cells"], facts["opts"]) == ("toy", 3, ["cells", "3"])


@pytest.mark.slow
def test_a_detector_is_found_by_its_module(folder: Path) -> None:
    options = ("--detector", "toy_detector:build", "--backend", "local", *SIZE)
    run(folder, "extract", "images.parquet", "--output", "referenced", *options)
    run(folder, "verify", "referenced")
    assert [len(sample.regions) for sample in open_dataset(folder / "referenced")] == [4] * 4
    assert fingerprint(folder, "referenced")["source"] == {"distribution": "toy-detector", "version": "1.2"}


@pytest.mark.slow
@pytest.mark.ray
def test_ray_workers_find_the_detector_too(folder: Path) -> None:
    run(folder, "extract", "images.parquet", "--output", "ray", "--detector", "toy", "--workers", "1", *SIZE)
    assert len(list(open_dataset(folder / "ray"))) == 4


@pytest.mark.slow
def test_another_version_of_the_package_does_not_resume_a_run(folder: Path) -> None:
    options = ("--detector", "toy", "--backend", "local", *SIZE)
    run(folder, "extract", "images.parquet", "--output", "versions", *options)
    dataset = folder / "versions" / "dataset.json"
    text = dataset.read_text()
    assert '"version": "1.2"' in text or '"version":"1.2"' in text
    (metadata,) = (folder / "packages").glob("*.dist-info")
    original = (metadata / "METADATA").read_text()
    (metadata / "METADATA").write_text(original.replace("Version: 1.2", "Version: 1.3"))
    try:
        message = run(folder, "extract", "images.parquet", "--output", "versions", *options, status=2)
    finally:
        (metadata / "METADATA").write_text(original)
    assert 'source.version: "1.2" in the data set, "1.3" asked for' in message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--detector", "tory"), "did you mean toy?"),
        (("--detector", "torchvison"), "did you mean torchvision?"),
        (("--detector", "toy", "--opts", "cell", "3"), "--opts cell: no such setting; there are cells, bins"),
        (("--detector", "toy", "--opts", "cells", "many"), "--opts cells many: "),
        (("--detector", "toy", "--torchvision-model", "resnet50_fpn_v2"), "is an option of --detector torchvision"),
        (("--detector", "toy_detector:bild"), "toy_detector:bild cannot be imported"),
        (("--detector", "absent.module:build"), "No module named 'absent'"),
        (("--detector", "broken"), "detector 'broken' of package broken-detector 0.1: broken_detector:build"),
    ],
)
def test_a_mistake_is_a_usage_error(
    folder: Path,
    options: tuple[str, ...],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken = folder / "packages" / "broken_detector-0.1.dist-info"
    broken.mkdir(exist_ok=True)
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-detector\nVersion: 0.1\n")
    (broken / "entry_points.txt").write_text("[vilbert.detectors]\nbroken = broken_detector:build\n")
    (folder / "packages" / "broken_detector.py").write_text("import package_that_is_not_installed\n")
    monkeypatch.syspath_prepend(folder / "packages")
    all_entry_points.cache_clear()
    try:
        with pytest.raises(SystemExit) as stopped:
            sys.exit(main(["extract", "images.parquet", "--output", "none", *options]))
    finally:
        monkeypatch.undo()
        all_entry_points.cache_clear()
    message = capsys.readouterr().err
    assert stopped.value.code == 2
    assert expected in " ".join(message.replace("│", " ").split())
    assert "Traceback" not in message


def test_doctor_says_which_packages_cannot_be_imported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = folder / "packages" / "worse_detector-0.2.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: worse-detector\nVersion: 0.2\n")
    (broken / "entry_points.txt").write_text("[vilbert.detectors]\nworse = worse_detector:build\n")
    monkeypatch.syspath_prepend(folder / "packages")
    all_entry_points.cache_clear()
    try:
        found = {check.name: check for check in check_entry_points()}
    finally:
        monkeypatch.undo()
        all_entry_points.cache_clear()
    assert (found["toy"].ok, found["toy"].what) == (True, "detector of toy-detector 1.2")
    assert (found["worse"].ok, found["worse"].essential) == (False, False)
    assert "worse-detector 0.2" in found["worse"].what


def test_help_lists_detectors_without_importing_them(folder: Path) -> None:
    done = vilbert("extract", "--help", packages=folder / "packages", cwd=folder)
    shown = " ".join(done.stdout.replace("│", " ").split())
    assert "shapes: the small detector of the shapes data set" in shown
    assert re.search(r"installed: [a-z, ]*\btoy\b", shown)


def test_a_trained_model_finds_its_detector_by_its_installed_name_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(folder / "packages")
    all_entry_points.cache_clear()
    try:
        known = detector_values({"extractor": "toy", "top_classes": 2, "opts": ["cells", "3"]})
        for facts in ({"extractor": "toy_detector:build"}, {"extractor": "toy", "opts": ["--output", "x"]}):
            with pytest.raises(ValueError, match=r"extractor is|opts is"):
                detector_values(facts)
        extractor = build_extractor(ExtractorSettings(detector=DetectorSettings(**known)))
    finally:
        monkeypatch.undo()
        all_entry_points.cache_clear()
    assert (extractor.fingerprint()["cells"], extractor.fingerprint()["top_classes"]) == (3, 2)


def test_a_module_outside_any_distribution_is_known_by_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loose_detector.py").write_text("def build(detector, selection): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    source = DETECTORS.source("loose_detector:build")
    assert source is not None
    assert source["module"] == "loose_detector"
    assert len(source["module_sha256"]) == 64
    sys.modules.pop("loose_detector", None)


def test_a_reference_must_name_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("vilbert:__doc__", "nothing:", ":build"):
        with pytest.raises(PluginError):
            find_detector(name)


def test_built_in_detectors_have_the_same_fingerprint_as_before() -> None:
    from vilbert.extractors.detectors.registry import describe_extractor

    extractor = build_extractor(ExtractorSettings(detector=DetectorSettings(detector="shapes", device="cpu")))
    assert describe_extractor(extractor, "shapes") == extractor.fingerprint()
