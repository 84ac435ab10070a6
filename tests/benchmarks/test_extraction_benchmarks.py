"""Short forms of what extraction is measured by: each script runs to its end, and what it counts is right.

Ratios of speeds mean nothing on so little, and are not looked at.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(script: str, *options: str) -> tuple[int, list[list[str]]]:
    """Run a benchmark; return its exit status and the cells of its table, without the head."""
    command = [sys.executable, "-m", f"benchmarks.{script}", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, cwd=ROOT)
    table = [line.strip("|").split("|") for line in done.stdout.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in row] for row in table]
    assert len(rows) > 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, rows[2:]


@pytest.mark.slow
def test_shards_hold_a_fraction_of_the_published_bytes() -> None:
    _, rows = run("shards", "--samples", "64", "--shard-size", "32", "--rounds", "1")
    of_the_published = {row[0]: float(row[2]) for row in rows}
    assert len(of_the_published) == 5
    assert max(share for name, share in of_the_published.items() if name.startswith("ours")) < 0.3


@pytest.mark.slow
def test_the_command_is_compared_with_the_bare_detector() -> None:
    few = ("--images", "8", "--batch-size", "4", "--model", "mobilenet_v3_large_320_fpn")
    _, rows = run("extraction", *few, "--ways", "local")
    assert [row[0].partition(",")[0].replace("`", "") for row in rows] == [
        "bare detector's forward",
        "the same",
        "vilbert extract",
    ]
    assert all(float(row[1]) > 0 for row in rows)


@pytest.mark.ray
@pytest.mark.slow
def test_killed_and_resumed_the_bytes_are_the_same() -> None:
    status, rows = run("chaos", "--images", "60", "--shard-size", "5", "--runs", "2", "--kills", "2", "--seed", "3")
    assert status == 0
    assert [row[-1] for row in rows] == ["yes", "yes"]
    assert all(int(row[1]) + int(row[2]) > 0 for row in rows)


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_that_loses_a_node_and_gains_one_makes_every_shard_once() -> None:
    _, rows = run("scale", "--nodes", "2", "--workers-a-node", "2", "--seconds", "6", "--shards", "4")
    assert [int(row[7]) for row in rows[1:]] == [4, 16, 16]
    lost, late = rows[-1][8:]
    assert int(lost) == 2
    assert int(late) > 0
