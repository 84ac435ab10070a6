"""A cluster that grows and shrinks under a run."""

import os
import time
from pathlib import Path

import pytest

from pipeline.cli import main

from .conftest import FAULTS, SCENES, Harm, contents


@pytest.mark.ray
@pytest.mark.slow
def test_a_node_that_joins_late_is_used_and_one_that_is_lost_is_done_without(
    harm: Harm, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    for scene in range(SCENES):
        if (manifest.parent / f"scene{scene:02d}.png").exists():
            harm.by(scene, "decode", "wait")
    # The nodes' environment is that of their workers.
    monkeypatch.setenv("PYTHONPATH", f"{FAULTS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep))
    monkeypatch.setenv("FAULTS", str(harm.file))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        output, undisturbed = tmp_path / "features", tmp_path / "undisturbed"
        options = ["--detector", "shapes", "--shard-size", "2"]
        child = harm.start(manifest, "--output", output, *options, "--ray-address", cluster.address, "--workers", "3")
        workers = wait_for_workers(harm, 1)
        late = cluster.add_node(num_cpus=1)
        workers |= wait_for_workers(harm, 2)
        assert len(workers) == 2
        cluster.remove_node(late, allow_graceful=False)
        harm.release()
        status, messages = child.wait()
        assert status == 0, messages
    finally:
        cluster.shutdown()
    assert main(["extract", str(manifest), "--output", str(undisturbed), *options, "--backend", "local"]) == 0
    assert contents(output) == contents(undisturbed)


def wait_for_workers(harm: Harm, number: int) -> set[str]:
    """Return the processes that decoded images, once there are so many."""
    deadline = time.monotonic() + 180
    while len(found := {line.split()[-1] for line in harm.done()}) < number:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found
