"""`vilbert doctor` finds what is broken, and tells the essential from the optional."""

import json
import re
import sys
import types

import pytest

from vilbert.pipeline import doctor as module
from vilbert.pipeline.doctor import Check, DoctorSettings, check_import, check_nms, check_packages, check_python, doctor


def test_this_machine_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(DoctorSettings()) == 0
    text = capsys.readouterr().out
    assert "everything essential works" in text
    for word in (
        *(needed.name for needed in module.requirements()),
        "cpu",
        "memory",
        "/dev/shm",
        "disk here",
        "nms works",
        "detectron2",
    ):
        assert word in text


def test_json_is_one_object_with_the_same_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(DoctorSettings(json=True)) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert report["versions"]["torch"]
    assert report["versions"]["ray"]
    assert {check["name"] for check in report["checks"] if check["essential"]} >= {"python", "torch", "ray", "lmdb"}


@pytest.mark.parametrize(("essential", "status"), [(True, 1), (False, 0)])
def test_only_what_is_essential_decides_the_exit(
    essential: bool, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Check(name="widget", ok=False, essential=essential, what="is bent", remedy="straighten it")
    monkeypatch.setattr(module, "examine", lambda: [broken])
    assert doctor(DoctorSettings()) == status
    text = capsys.readouterr().out
    assert "is bent" in text
    assert "straighten it" in text
    assert ("broken: widget" in text) == essential


def test_missing_and_old_packages_are_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_packages().ok
    versions, installed = {"webdataset": None, "torch": "2.0"}, module.version_of
    monkeypatch.setattr(
        module, "version_of", lambda package: versions[package] if package in versions else installed(package)
    )
    check = check_packages()
    assert (check.ok, check.essential) == (False, True)
    assert "torch is 2.0" in check.what
    assert "webdataset is missing" in check.what
    assert re.fullmatch(r"pip install 'torch>=[\d.]+' 'webdataset(<2,)?>=[\d.]+'", check.remedy)


def test_the_verdict_agrees_with_the_checks(capsys: pytest.CaptureFixture[str]) -> None:
    doctor(DoctorSettings(json=True))
    found = json.loads(capsys.readouterr().out)
    for check in found["checks"]:
        name = check["name"]
        if check["ok"] and name in found["versions"]:  # what can be imported is not listed as missing
            assert found["versions"][name] is not None
    assert {needed.name for needed in module.requirements()} <= found["versions"].keys()


def test_a_package_that_is_not_there_is_told_from_one_that_is_broken(
    tmp_path: types.SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bent_library.py").write_text("raise OSError('libbent.so: undefined symbol')\n")
    monkeypatch.syspath_prepend(tmp_path)
    missing = check_import("no_such_library", essential=False, remedy="get it")
    broken = check_import("bent_library", essential=True, remedy="get it anew")
    assert (missing.ok, missing.what, missing.remedy) == (False, "not installed", "get it")
    assert not broken.ok
    assert "undefined symbol" in broken.what
    assert broken.remedy == "get it anew"
    assert check_import("lmdb", essential=True, remedy="").ok


@pytest.mark.parametrize("version", [(3, 10, 9), (3, 14, 0)])
def test_other_pythons_are_refused(version: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_python().ok
    monkeypatch.setattr(sys, "version_info", version)
    assert not check_python().ok
    assert "3.11 to 3.13" in check_python().remedy


def test_wrong_operators_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    import torchvision.ops

    assert check_nms("cpu", essential=True).ok
    monkeypatch.setattr(torchvision.ops, "nms", lambda *_: torch.tensor([0]))
    wrong = check_nms("cpu", essential=True)
    assert not wrong.ok
    assert "expected [1, 2]" in wrong.what

    def missing(*_: object) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(torchvision.ops, "nms", missing)
    absent = check_nms("cpu", essential=True)
    assert not absent.ok
    assert "does not exist" in absent.what
    assert "torchvision" in absent.remedy
