"""A small data set of drawn scenes, its manifest, and the settings that extract it."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vilbert.extractors.extractor import DetectorSettings
from vilbert.manifests.build import ManifestSettings, build_manifest
from vilbert.pipeline.extract.settings import ExtractSettings
from vilbert.pipeline.jobs.run_log import LOG_FILE
from vilbert.pipeline.jobs.run_state import RUN_FILE
from vilbert.pipeline.shapes.render import render
from vilbert.pipeline.shapes.scene import make_scene

from .s3_server import bucket, proxy, s3_port  # noqa: F401  fixtures

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


OF_RUNS = (".lock", RUN_FILE, LOG_FILE)
"""Files of a data set's folder that tell of runs."""


def contents(directory: Path) -> dict[str, bytes]:
    """Return every file of a data set but those that tell of runs, by its path inside."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in OF_RUNS
    }


FAULTS = Path(__file__).parent / "faults"

NURSERY = """
import json, os, resource, sys
import torch, torchvision, numpy, PIL.Image, pyarrow.parquet, lmdb
from vilbert.pipeline import cli
import vilbert.pipeline.extract.run, vilbert.pipeline.jobs.local_backend
import vilbert.pipeline.shards.storage.tar_store, vilbert.extractors.detectors.shapes_frcnn
for line in sys.stdin:
    order = json.loads(line)
    if (child := os.fork()) == 0:
        os.setsid()
        os.environ["FAULTS"] = order["faults"]
        if order["file_bytes"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_bytes"], order["file_bytes"]))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(order["messages"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        sys.exit(cli.main(order["arguments"]))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""A process that has imported everything, and becomes the command in no time, as often as it is asked to."""


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """The process of that name. Its children meet images that do harm, see faults/sitecustomize.py."""
    faults = tmp_path_factory.mktemp("faults") / "none.json"
    faults.write_text("{}")
    path = os.pathsep.join([str(FAULTS), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    process = subprocess.Popen(
        [sys.executable, "-c", NURSERY],
        # local:// is then a store behind a URL, whose folders are there when something is written to them.
        env=os.environ | {"PYTHONPATH": path, "FAULTS": str(faults), "FSSPEC_FILE": '{"auto_mkdir": true}'},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.stdin.close()
    process.wait(timeout=30)


class Child:
    """A command at work. One at a time."""

    def __init__(
        self, nursery: subprocess.Popen[str], arguments: list[str], faults: Path, messages: Path, file_bytes: int
    ) -> None:
        self._nursery = nursery
        self._messages = messages
        order = {
            "arguments": arguments,
            "faults": str(faults),
            "messages": str(messages),
            "file_bytes": file_bytes,
        }
        print(json.dumps(order), file=nursery.stdin, flush=True)
        self.pid = int(nursery.stdout.readline())

    def wait(self, seconds: float = 120.0) -> tuple[int, str]:
        """Return its exit status and what it said; kill it where it takes longer than so many seconds."""
        timer = threading.Timer(seconds, os.kill, (self.pid, signal.SIGKILL))
        timer.start()
        try:
            status = int(self._nursery.stdout.readline())
        finally:
            timer.cancel()
        return status, self._messages.read_text()


class Harm:
    """Images that do harm in the processes of the command."""

    def __init__(self, nursery: subprocess.Popen[str], images: Path, folder: Path) -> None:
        self._nursery = nursery
        self._images = images
        self.file = folder / "faults.json"
        self.file.write_text("{}")
        self._faults: dict[str, list[str]] = {}

    def by(self, scene: int, place: str, deed: str) -> None:
        """Let the decoder or the detector do the deed when it meets the scene."""
        self.by_bytes((self._images / f"scene{scene:02d}.png").read_bytes(), place, deed)

    def by_bytes(self, data: bytes, place: str, deed: str) -> None:
        """Let the decoder or the detector do the deed when it meets an image of these bytes."""
        self._faults[hashlib.sha256(data).hexdigest()] = [place, deed]
        self.file.write_text(json.dumps(self._faults))

    def done(self) -> list[str]:
        """What was done so far, a line each."""
        log = Path(f"{self.file}.log")
        return log.read_text().splitlines() if log.exists() else []

    def release(self) -> None:
        """Let those go on that wait."""
        Path(f"{self.file}.released").touch()

    def start(self, *arguments: object, file_bytes: int = 0) -> Child:
        """Start `vilbert extract` with these arguments. file_bytes: a limit to the size of its files."""
        words = ["extract", *map(str, arguments)]
        return Child(self._nursery, words, self.file, self.file.with_name("messages.txt"), file_bytes)

    def run(self, *arguments: object, file_bytes: int = 0) -> tuple[int, str]:
        """Run `vilbert extract` to its end; return its exit status and what it said."""
        return self.start(*arguments, file_bytes=file_bytes).wait()


@pytest.fixture
def harm(nursery: subprocess.Popen[str], images: Path, tmp_path: Path) -> Harm:
    """Images that do harm."""
    return Harm(nursery, images, tmp_path)
