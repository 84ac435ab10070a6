"""Commands on a GPU that is emulated: PyTorch's real CUDA code, counted, whose numbers the CPU computes.

The emulator is no part of the project: it is looked for beside it, in `../shared/emulated_gpu`, or where the
environment variable EMULATED_GPU says. It wants gcc and a CUDA build of torch. This file is also the program that runs
the commands: an emulated device has to be there when torch is loaded.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

if __name__ == "__main__":
    from emulated_graphs import LIBRARY, build_graphs, install_graphs
else:
    from .emulated_graphs import LIBRARY, build_graphs, install_graphs

ROOT = Path(__file__).parents[3]
SOURCE = Path(os.environ.get("EMULATED_GPU", ROOT.parent / "shared" / "emulated_gpu"))


def build_emulator(folder: Path) -> Path:
    """Build the emulator in a new folder and return that; skip the test where it cannot be."""
    if not (SOURCE / "build.sh").is_file():
        pytest.skip(f"there is no emulated GPU in {SOURCE}")
    if shutil.which("gcc") is None:
        pytest.skip("the emulated GPU wants gcc")
    if torch.version.cuda is None or torch.cuda.is_available():
        pytest.skip("the emulated GPU wants a CUDA build of torch, and no real GPU")
    folder.mkdir()
    for path in SOURCE.iterdir():
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    built = subprocess.run(
        ["bash", "build.sh"], cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    build_graphs(folder)
    return folder


def run_emulated(emulator: Path, commands: Sequence[Sequence[str]], folder: Path, *, gpus: int = 1) -> dict[str, Any]:
    """Run commands of `vilbert` one after the other in a process that has the emulated GPU, or in several by torchrun.

    Returns:
        What happened in the steps of trainings of three steps or more, of the first process, as `runs` (see
        `Steps.runs`), and what was printed, as `said`.
    """
    (folder / "commands.json").write_text(json.dumps([list(map(str, command)) for command in commands]))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(gpus)] if gpus > 1 else []
    said = run_program(emulator, [*launcher, __file__, str(folder)], gpus=gpus)
    return {"runs": json.loads((folder / "facts.json").read_text()), "said": said}


def run_program(emulator: Path, arguments: Sequence[str], *, gpus: int = 1) -> str:
    """Run Python with the emulated GPU, and return what it printed."""
    libraries = os.pathsep.join(filter(None, (str(emulator), os.environ.get("LD_LIBRARY_PATH"))))
    environment = {
        **os.environ,
        "LD_PRELOAD": os.pathsep.join(str(emulator / name) for name in (LIBRARY, "libfakecudart.so")),
        "LD_LIBRARY_PATH": libraries,
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(emulator), str(Path(__file__).parent))),
        "FAKECUDA_DEVICES": str(gpus),
        "OMP_NUM_THREADS": "1",
    }
    ended = subprocess.run(
        [sys.executable, *arguments],
        env=environment, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-8000:]
    return ended.stdout


class Steps:
    """Looks at what the emulator counts from the beginning of a run's second step to that of its last.

    By then the optimizer has its state. What the loop does between steps is part of it.
    """

    def __init__(self, emulate: Any) -> None:
        self._emulate = emulate
        self.runs: list[dict[str, Any]] = []
        """Of each run: launches a step, by operator; syncs and pageable copies by place; what PyTorch's CUDA code
        refused; launches of CUDA graphs."""

    def watch(self) -> None:
        """Stand before `train_step`."""
        from vilbert.pipeline.train.engine import loop

        step, stats, graphs = loop.train_step, self._emulate.STATS, ctypes.CDLL(None).fakegraphs_launches
        before = 0

        def watched(training: Any, *parts: Any) -> Any:
            nonlocal before
            if training.step == 1:
                stats.reset()
                before = graphs()
            if training.step == training.total_steps - 1 and training.step > 1:
                steps = training.step - 1
                facts = {
                    "launches": {name: count / steps for name, count in stats.launch.items() if count},
                    "syncs": dict(stats.syncs),
                    "pageable": dict(stats.pageable),
                    "refused": dict(stats.real_failed),
                    "graphs": graphs() - before,
                }
                self.runs.append(facts)
            return step(training, *parts)

        loop.train_step = watched


def main(folder: Path) -> None:
    """Run the commands of a folder and write the facts."""
    import emulate

    install_graphs(emulate)
    emulate.install()
    from vilbert.pipeline import cli

    steps = Steps(emulate)
    steps.watch()
    for command in json.loads((folder / "commands.json").read_text()):
        status = cli.main(command)
        if status != 0:
            sys.exit(f"{' '.join(command)}: exit status {status}")
    if os.environ.get("RANK", "0") == "0":
        (folder / "facts.json").write_text(json.dumps(steps.runs))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
