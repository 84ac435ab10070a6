"""The software runs in a folder whose own modules have the names of its folders: `model`, `pipeline` and the others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.ray_session import require_own_package

from ..installation import Installation, environment


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with packages and modules of these names, none of which can be imported."""
    folder = tmp_path_factory.mktemp("own")
    for name in ("model/__init__.py", "pipeline/__init__.py", "manifests.py", "extractors.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"raise SystemExit('imported {name} of the current folder')\n")
    return folder


DEMO = """
import sys
from pathlib import Path
from vilbert.pipeline.cli import main
from vilbert.pipeline.demo import stages

for stage in stages(Path("demo"), scenes=20):
    print("$ vilbert", *stage.command, flush=True)
    if status := main(stage.command):
        sys.exit(status)
"""


@pytest.fixture(scope="module")
def demo(folder: Path, installation: Installation) -> Path:
    """Run the stages of the demo in `folder`, extraction with Ray included; return the folder that they write."""
    run(installation, folder, "-c", DEMO)
    return folder / "demo"


def run(installation: Installation, folder: Path, *arguments: str) -> str:
    """Run Python in `folder` with the installed software; return what it prints."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment(installation),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
@pytest.mark.ray
def test_the_stages_of_the_demo_run_to_the_report(demo: Path) -> None:
    assert (demo / "report.html").stat().st_size > 0


@pytest.mark.slow
@pytest.mark.ray
def test_the_python_api_reads_what_the_demo_wrote(demo: Path, folder: Path, installation: Installation) -> None:
    program = (
        "import vilbert; from transformers import AutoModel; model = AutoModel.from_pretrained('demo/vqa/final'); "
    )
    program += "print(len(vilbert.open_dataset('demo/features')), type(model).__module__)"
    assert run(installation, folder, "-c", program).splitlines()[-1] == "20 vilbert.model.vilbert"


@pytest.mark.ray
@pytest.mark.slow
def test_torchrun_and_ray_train_there(demo: Path, folder: Path, installation: Installation) -> None:
    options = ["pretrain", "demo/features", "--config", "shapes", "--max-steps", "2", "--device", "cpu"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    run(installation, folder, *torchrun, str(installation.command), *options, "--output", "by-torchrun")
    run(installation, folder, str(installation.command), *options, "--output", "by-ray", "--workers", "2")
    assert all((folder / name / "final" / "model.safetensors").is_file() for name in ("by-torchrun", "by-ray"))


@pytest.mark.parametrize("name", ["vilbert.py", "vilbert/__init__.py"])
def test_another_vilbert_in_the_current_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "vilbert").mkdir()
    monkeypatch.chdir(tmp_path)
    require_own_package("use --backend local")  # a folder without modules, as a clone of this project
    (tmp_path / name).write_text("")
    with pytest.raises(
        RefusedError, match=rf"^{tmp_path / name}: Ray's workers would import this file .* or use --back"
    ):
        require_own_package("use --backend local")


def test_the_checkout_is_no_other_vilbert(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    require_own_package("use --backend local")
