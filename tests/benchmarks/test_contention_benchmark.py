"""The contention benchmark: its short form runs to its end (its figures mean nothing), and how ratios are averaged."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.contention import mean_ratio

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_each_part_is_measured_quiet_and_beside_a_busy_process() -> None:
    command = [sys.executable, "-m", "benchmarks.contention", "--short"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False, cwd=ROOT)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if "|" in line]
    assert [row[0] for row in rows[2:]] == ["train", "extract", "predict", "frcnn", "base"], done.stdout + done.stderr
    assert all(float(cell.split()[0]) > 0 for row in rows[2:] for cell in row[1:])


def test_the_mean_of_ratios_is_geometric_and_has_twice_its_standard_error() -> None:
    mean, error = mean_ratio([0.5, 2.0])
    assert mean == pytest.approx(1.0)
    assert error == pytest.approx(
        2 * math.log(2)
    )  # the standard deviation of ±log 2 is log 2 * sqrt 2, over sqrt 2 rounds
    assert mean_ratio([0.9, 0.9, 0.9]) == (pytest.approx(0.9), pytest.approx(0.0, abs=1e-9))
    assert mean_ratio([0.9]) == (pytest.approx(0.9), math.inf)
