"""The README's commands are run as they stand, in a folder where the files they name exist."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vilbert.pipeline.shapes.render import jpeg
from vilbert.pipeline.shapes.scene import make_scene

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SCENES = 3


def block(language: str, containing: str) -> str:
    blocks = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    (found,) = (text for text in blocks if containing in text)
    return found


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """A folder with captions in the COCO format and their images."""
    (tmp_path / "coco").mkdir()
    images, annotations = [], []
    for index in range(SCENES):
        name = f"COCO_train2014_{index:012d}.jpg"
        (tmp_path / "coco" / name).write_bytes(jpeg(make_scene(0, index)))
        images.append({"id": index, "file_name": name})
        annotations.append({"id": index, "image_id": index, "caption": f"scene {index}"})
    document = {"info": {}, "licenses": [], "images": images, "annotations": annotations}
    (tmp_path / "captions_train2014.json").write_text(json.dumps(document))
    return tmp_path


@pytest.mark.ray
@pytest.mark.slow
def test_the_four_commands_and_the_reader(coco: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # The published weights would have to be downloaded.
    commands = block("bash", "vilbert verify").replace("--boxes 36", "--boxes 36 --weights random")
    commands = re.sub(r"^vilbert browse .*\n", "", commands, flags=re.MULTILINE)  # it serves until it is stopped
    assert commands.count("\nvilbert ") == 5
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=coco,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"{SCENES} samples + 0 failed rows = {SCENES} rows" in done.stdout
    assert (coco / "first.png").read_bytes().startswith(b"\x89PNG")
    program = (
        block("python", "import webdataset").replace('    sample["features', '    print(sample["features').rstrip()
        + ")"
    )
    read = subprocess.run([sys.executable, "-c", program], cwd=coco, check=True, capture_output=True, text=True)
    assert [f"['scene {index}']" in read.stdout for index in range(SCENES)] == [True] * SCENES


def test_every_option_in_the_readme_exists(capsys: pytest.CaptureFixture[str]) -> None:
    from vilbert.pipeline.cli import COMMANDS, main, parse

    options = set(re.findall(r"(?<![\w-])--([a-z][a-z-]+)", README)) - {"config", "nproc-per-node"}  # torchrun's
    for name, command in COMMANDS.items():
        with pytest.raises(SystemExit, match="0"):
            main([*name.split(), *(["vqa"] if command.of_a_task else []), "--help"])
    known = set(re.findall(r"--([a-z][a-z-]+)", capsys.readouterr().out))
    assert options <= known, options - known
    assert parse("extract", ["m.parquet", "--output", "out", "--boxes", "10-100"]).selection.max_boxes == 100


def test_files_that_the_readme_names_exist() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README) + re.findall(r"docs/[\w/-]+\.md", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
