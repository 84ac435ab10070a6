"""What a command writes can be read by whom the umask lets read it, however a library wrote it."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vilbert.pipeline.cli import main

from .train.conftest import write_dataset_folder
from .train.tiny_runs import MODEL, pretrain_arguments


@pytest.fixture(params=[0o022, 0o027])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the drawing of curves out, which takes longer than the runs here."""
    monkeypatch.setattr("vilbert.pipeline.pages.curves.svg", lambda entries: "<svg/>")


def modes(folder: Path) -> dict[str, int]:
    """Return the mode of a folder and of all in it."""
    paths = [folder, *folder.rglob("*")]
    return {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in paths}


def assert_as_the_umask_says(folder: Path, umask: int) -> None:
    found = modes(folder)
    wanted = {name: (0o777 if (folder / name).is_dir() else 0o666) & ~umask for name in found}
    wanted |= {name: 0o644 & ~umask for name in found if Path(name).name == ".lock"}
    assert found == wanted
    assert len(found) > 2


def test_all_files_of_a_run_and_of_a_converted_model(tmp_path: Path, umask: int) -> None:
    write_dataset_folder(
        tmp_path / "data", samples=9, shard_size=5, splits=lambda row: "val" if row % 3 == 2 else "train"
    )
    (tmp_path / "model.json").write_text(json.dumps(MODEL))
    sizes = {"steps": 2, "batch_size": 4, "eval_every": 1, "save_every": 1}
    command = pretrain_arguments([tmp_path / "data"], tmp_path / "run", tmp_path / "model.json", **sizes)
    assert main([*command, "--tracker", "tensorboard"]) == 0
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()
    assert_as_the_umask_says(tmp_path / "run", umask)
    converted = [(str(tmp_path / to), to) for to in ("ours", "reference")]
    for output, to in converted:
        assert main(["convert-checkpoint", str(tmp_path / "run" / "final"), "--output", output, "--to", to]) == 0
        assert_as_the_umask_says(Path(output), umask)


def test_all_files_of_a_data_set(tmp_path: Path, umask: int, draw_scenes: Callable[[Path], Path]) -> None:
    manifest = draw_scenes(tmp_path / "scenes")
    features = ["--detector", "shapes", "--backend", "local", "--boxes", "4", "--shard-size", "2"]
    assert main(["extract", str(manifest), "--output", str(tmp_path / "features"), *features]) == 0
    for folder in (tmp_path / "scenes", tmp_path / "features"):
        assert_as_the_umask_says(folder, umask)


@pytest.fixture
def draw_scenes() -> Callable[[Path], Path]:
    """Return what draws a few scenes into a folder and lists them in a manifest there, whose path it returns."""

    def draw(folder: Path) -> Path:
        assert main(["shapes", str(folder), "--scenes", "10", "--seed", "3"]) == 0
        captions, manifest = folder / "karpathy" / "dataset_coco.json", folder / "manifest.parquet"
        assert main(["manifest", str(captions), "--images", str(folder), "--output", str(manifest)]) == 0
        return manifest

    return draw
