"""A cluster that grows and shrinks under a run."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vilbert.pipeline.cli import main

from .conftest import FAULTS, SCENES, Harm, contents
from .s3_server import objects

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster


@pytest.fixture
def cluster(harm: Harm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head with room for one worker, which meets the images that do harm."""
    from ray.cluster_utils import Cluster

    # The nodes' environment is that of their workers.
    monkeypatch.setenv("PYTHONPATH", f"{FAULTS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep))
    monkeypatch.setenv("FAULTS", str(harm.file))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    yield cluster
    cluster.shutdown()


def arguments(manifest: Path, output: Path) -> list[str]:
    return [str(manifest), "--output", str(output), "--detector", "shapes", "--shard-size", "2"]


@pytest.fixture(scope="module")
def undisturbed(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set that one worker in one process makes, without Ray."""
    output = tmp_path_factory.mktemp("undisturbed") / "features"
    assert main(["extract", *arguments(manifest, output), "--backend", "local"]) == 0
    return output


@pytest.mark.ray
@pytest.mark.slow
def test_a_node_that_joins_late_is_used_and_one_that_is_lost_is_done_without(
    cluster: Cluster, harm: Harm, manifest: Path, undisturbed: Path, tmp_path: Path
) -> None:
    for scene in range(SCENES):
        if (manifest.parent / f"scene{scene:02d}.png").exists():
            harm.by(scene, "decode", "wait")
    output = tmp_path / "features"
    child = harm.start(*arguments(manifest, output), "--ray-address", cluster.address, "--workers", "3")
    workers = wait_for_workers(harm, 1)
    late = cluster.add_node(num_cpus=1)
    workers |= wait_for_workers(harm, 2)
    assert len(workers) == 2
    cluster.remove_node(late, allow_graceful=False)
    harm.release()
    status, messages = child.wait()
    assert status == 0, messages
    assert contents(output) == contents(undisturbed)


@pytest.mark.ray
@pytest.mark.slow
def test_after_the_head_was_lost_the_run_goes_on(
    cluster: Cluster, harm: Harm, manifest: Path, undisturbed: Path, tmp_path: Path
) -> None:
    harm.by(12, "decode", "wait")
    output = tmp_path / "features"
    child = harm.start(*arguments(manifest, output), "--ray-address", cluster.address)
    wait_for_workers(harm, 1)
    cluster.head_node.kill_gcs_server()
    cluster.head_node.kill_raylet()
    status, messages = child.wait(180)
    assert status not in (0, -signal.SIGKILL), messages  # it notices, and need not be killed
    assert "Traceback" not in messages
    harm.release()
    done = len(list((output / "shards").glob("*.json")))
    assert 0 < done < SCENES / 2
    assert main(["extract", *arguments(manifest, output), "--backend", "local"]) == 0
    assert contents(output) == contents(undisturbed)


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_waits_for_the_first_node_with_a_gpu(
    cluster: Cluster, harm: Harm, manifest: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """The GPU is one that the node says it has; the detector is at work on its processor."""
    output = tmp_path / "features"
    options = ["--ray-address", cluster.address, "--gpus-per-worker", "1"]
    child = harm.start(*arguments(manifest, output), *options)
    time.sleep(15)
    assert not (output / "dataset.json").exists()  # which the first worker's detector decides
    cluster.add_node(num_cpus=1, num_gpus=1)
    status, messages = child.wait(180)
    assert status == 0, messages
    assert contents(output) == contents(undisturbed)


@pytest.mark.ray
@pytest.mark.slow
def test_an_image_that_takes_its_node_down_is_found_behind_a_url(
    harm: Harm, manifest: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left of a node; each has temporary files of its own."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", f"{FAULTS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep))
    monkeypatch.setenv("FAULTS", str(harm.file))
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")  # its sockets' paths have to be short
    harm.by(7, "decode", "take down the node")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for name in ("one", "two", "three", "four", "five"):
            (tmp_path / name).mkdir()
            cluster.add_node(num_cpus=1, env_vars={"TMPDIR": str(tmp_path / name)})
        monkeypatch.delenv("FAULTS")
        options = ["--ray-address", cluster.address, "--shard-size", "11", "--workers", "1"]
        assert main(["extract", *arguments(manifest, f"{bucket}/features")[:-2], *options]) == 0
    finally:
        cluster.shutdown()
    assert harm.done() == ["decode take down the node"] * 4
    found = objects(f"{bucket}/features")
    rows = [json.loads(line) for line in found["failures/000000.jsonl"].splitlines()]
    assert {row["row"]: row["reason"] for row in rows} == {3: "empty", 7: "crash"}
    assert not [name for name in found if "journal" in name]


def wait_for_workers(harm: Harm, number: int) -> set[str]:
    """Return the processes that decoded images, once there are so many."""
    deadline = time.monotonic() + 180
    while len(found := {line.split()[-1] for line in harm.done()}) < number:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found
