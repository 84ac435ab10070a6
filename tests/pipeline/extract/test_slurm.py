"""The Slurm scripts of docs/cluster.md, with commands of its name that only pretend."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[3] / "docs" / "cluster.md"
COMMANDS = {
    "scontrol": 'if [ "$1" = show ]; then echo node1; else echo "$@" >> "$NOTES"; fi',
    "srun": "exec /bin/sleep 1",
    "sleep": "exit 0",
    "vilbert": """
if [ "$ENDS" = well ]; then exit 0; fi
if [ "$ENDS" = badly ]; then exit 1; fi
trap 'echo interrupted >> "$NOTES"; exit 130' TERM
echo "at work" >> "$NOTES"
while true; do /bin/sleep 0.05; done
""",
}


@pytest.mark.parametrize("number", [0, 1], ids=["Ray", "array"])
@pytest.mark.parametrize(
    ("ends", "status", "notes"),
    [("well", 0, []), ("badly", 1, []), ("by Slurm", 130, ["at work", "interrupted", "requeue 42"])],
)
def test_the_warning_reaches_the_driver_and_the_job_goes_back_into_the_queue(
    tmp_path: Path, number: int, ends: str, status: int, notes: list[str]
) -> None:
    script = re.findall(r"```bash\n(#!/bin/bash\n#SBATCH.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)[number]
    (tmp_path / "script").write_text(script)
    for name, text in COMMANDS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    noted = tmp_path / "notes"
    noted.touch()
    slurm = {"SLURM_JOB_ID": "42", "SLURM_NNODES": "8", "SLURM_JOB_NODELIST": "node[1-8]"}
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    job = subprocess.Popen(
        ["bash", str(tmp_path / "script")], env=os.environ | slurm | {"PATH": path, "NOTES": str(noted), "ENDS": ends}
    )
    if ends == "by Slurm":
        deadline = time.monotonic() + 30
        while "at work" not in noted.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        job.send_signal(signal.SIGTERM)
    assert job.wait(30) == status
    assert noted.read_text().splitlines() == notes
