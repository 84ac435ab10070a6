"""What `pip install` puts on a machine: one package, with its data files, and the command."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from .installation import Installation, environment

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("extractors", "manifests", "model", "pipeline")


def test_the_wheel_holds_one_package(installation: Installation) -> None:
    with zipfile.ZipFile(installation.wheel) as wheel:
        tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"vilbert"}
    assert len(tops) == 2


def test_the_wheel_holds_every_source_and_data_file(installation: Installation) -> None:
    sources = {
        f"vilbert/{path.relative_to(ROOT)}": path
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    with zipfile.ZipFile(installation.wheel) as wheel:
        names = set(wheel.namelist())
        assert not sources.keys() - names
        assert all(wheel.read(name) == path.read_bytes() for name, path in sources.items())
    assert {
        "vilbert/py.typed",
        "vilbert/pipeline/shards/FORMAT.md",
        "vilbert/pipeline/recipes/pretrain/paper.yaml",
    } <= names


@pytest.mark.slow
def test_the_installed_command_and_api_work_from_any_folder(installation: Installation, tmp_path: Path) -> None:
    programs = [
        [sys.executable, str(installation.command), "--help"],
        [sys.executable, "-c", "import vilbert; print(vilbert.__file__, vilbert.Predictor.__module__)"],
    ]
    helped, named = (
        subprocess.run(
            program, cwd=tmp_path, env=environment(installation), capture_output=True, text=True, check=True
        ).stdout
        for program in programs
    )
    assert "vilbert COMMAND [OPTIONS]" in helped
    assert named.split() == [
        f"{installation.folder}{os.sep}vilbert{os.sep}__init__.py",
        "vilbert.pipeline.predict.predictor",
    ]
