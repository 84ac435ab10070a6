"""The short form of the contention benchmark runs to its end; ratios of speeds mean nothing on so little."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_each_part_is_measured_quiet_and_beside_a_busy_process() -> None:
    command = [sys.executable, "-m", "benchmarks.contention", "--short"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False, cwd=ROOT)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if "|" in line]
    assert [row[0] for row in rows[2:]] == ["train", "extract", "predict"], done.stdout + done.stderr
    assert all(float(cell) > 0 for row in rows[2:] for cell in row[1:])
