"""What Prometheus reads of a run: the exporter of the driver's node, asked as Prometheus asks it."""

import importlib.util
import os
import re
import time
import urllib.request
from pathlib import Path

import pytest

from ..extract.conftest import FAULTS, SCENES, Harm

SHARD = 8
DONE = 2
"""Shards that get done: a worker has so many in hand and begins with either, so that a third is the last."""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("aiohttp_cors") is None, reason="exporting metrics needs ray[default]")
def test_a_run_at_work_is_in_the_nodes_metrics(
    harm: Harm, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harm.by(DONE * SHARD + 1, "decode", "wait")
    monkeypatch.setenv("PYTHONPATH", f"{FAULTS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep))
    monkeypatch.setenv("FAULTS", str(harm.file))
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 1})
    try:
        (node,) = ray.nodes()
        exporter = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        output = tmp_path / "features"
        options = ["--detector", "shapes", "--shard-size", SHARD, "--ray-address", cluster.address]
        child = harm.start(manifest, "--output", output, *options)
        expected = {
            "rows": SCENES,
            "workers": 1,
            "samples_total": DONE * SHARD - 2,
            "failures_total empty": 1,
            "failures_total not_an_image": 1,
        }
        deadline = time.monotonic() + 120
        while not expected.items() <= (found := scraped(exporter, output)).items():
            assert time.monotonic() < deadline, found
            time.sleep(1)
        assert DONE * SHARD <= found["rows_done"] < SCENES
        assert found["bytes_total"] > 1000
        assert 0 <= found["detector_waited_ratio"] <= 1
        harm.release()
        status, messages = child.wait()
        assert status == 0, messages
    finally:
        ray.shutdown()
        cluster.shutdown()


def scraped(exporter: str, dataset: Path) -> dict[str, float]:
    """Return an exporter's metrics of a data set, in Prometheus' text format, by name and reason."""
    with urllib.request.urlopen(exporter, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = {}
    for line in lines:
        if match := re.fullmatch(r"ray_vilbert_extract_(\w+)\{(.*)\} (\S+)", line):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', match[2]))
            assert labels["dataset"] == str(dataset)
            found[" ".join(filter(None, (match[1], labels.get("reason"))))] = float(match[3])
    return found
