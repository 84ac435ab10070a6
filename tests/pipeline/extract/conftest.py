"""A small data set of drawn scenes, its manifest, and the settings that extract it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from extractors.extractor import DetectorSettings
from manifests.build import ManifestSettings, build_manifest
from pipeline.extract.settings import ExtractSettings
from pipeline.shapes.render import render
from pipeline.shapes.scene import make_scene

SCENES = 22
BROKEN = {3: b"", 11: b"<html>not found</html>", 21: None}
"""Scene number -> what stands in its file instead; None: there is no file."""


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images, three of which cannot be read."""
    folder = tmp_path_factory.mktemp("images")
    for index in range(SCENES):
        path = folder / f"scene{index:02d}.png"
        if index not in BROKEN:
            render(make_scene(0, index)).save(path)
        elif (content := BROKEN[index]) is not None:
            path.write_bytes(content)
    return folder


@pytest.fixture(scope="session")
def manifest(images: Path) -> Path:
    """A manifest of the images, the missing one included."""
    lines = ["image_id,path,caption,split", *(f"scene{i:02d},scene{i:02d}.png,scene {i},train" for i in range(SCENES))]
    (images / "list.csv").write_text("\n".join(lines) + "\n")
    path = images / "manifest.parquet"
    assert build_manifest(ManifestSettings(sources=(images / "list.csv",), images=images, output=path)) == 0
    return path


@pytest.fixture
def settings_for(manifest: Path, tmp_path: Path) -> Callable[..., ExtractSettings]:
    """A function that returns settings for an output folder of this name, with changes."""

    def make(name: str, **changes: object) -> ExtractSettings:
        standard = {
            "manifest": manifest,
            "output": tmp_path / name,
            "detector": DetectorSettings(detector="shapes"),
            "backend": "local",
            "shard_size": 5,
            "batch_size": 4,
        }
        return ExtractSettings(**(standard | changes))

    return make


def contents(directory: Path) -> dict[str, bytes]:
    """Return every file of a data set but the lock, by its path inside."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }
