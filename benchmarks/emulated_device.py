"""The emulated GPU of `../shared/emulated_gpu`, for benchmarks of host time: kernels take no time and are not run.

Build it first: `bash build.sh` in a copy of that folder. gcc adds CUDA graphs to it.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import torch

GRAPHS = Path(__file__).parents[1] / "tests" / "pipeline" / "train" / "emulated_graphs.c"
COUNTERS = (
    "launch", "gemm", "h2d_pinned", "h2d_pageable", "d2h", "d2d", "memset", "stream_sync", "device_sync",
    "event_record", "event_sync", "malloc", "free", "hostalloc", "sync_memcpy", "event_query", "bytes_h2d",
    "bytes_h2d_pageable", "bytes_d2h", "bytes_malloc", "bytes_hostalloc", "wait_event",
)  # fmt: skip
"""What the emulated device counts, in its order."""


def require_device(module: str, emulator: Path | None) -> None:
    """Restart this process with the emulated device, unless it has it; exit where there is no GPU then.

    Args:
        module: The benchmark, as after `python -m`.
        emulator: Folder of the built emulator; None: use the GPU of this machine.
    """
    if emulator is not None and "libfakecudart" not in os.environ.get("LD_PRELOAD", ""):
        folder = emulator.resolve()
        library = folder / "libfakecudart.so"
        if not library.is_file():
            sys.exit(f"--emulator {emulator}: {library} is missing; run `bash build.sh` there")
        path = os.pathsep.join(filter(None, (str(folder), os.environ.get("LD_LIBRARY_PATH"))))
        preloaded = os.pathsep.join((str(_built_graphs(folder)), str(library)))
        environment = {**os.environ, "LD_PRELOAD": preloaded, "LD_LIBRARY_PATH": path, "FAKECUDA_LAZY": "1"}
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], environment)
    if not torch.cuda.is_available():
        sys.exit("PyTorch sees no GPU; give --emulator")


def _built_graphs(folder: Path) -> Path:
    """Compile the emulator's CUDA graphs, which the tests have, into its folder; return the library."""
    library = folder / "libfakegraphs.so"
    subprocess.run(["gcc", "-O1", "-w", "-fPIC", "-shared", "-o", library, GRAPHS, "-ldl"], check=True)
    return library


def device_counts() -> dict[str, int]:
    """Return what the emulated device counted so far; nothing on a real one."""
    library = ctypes.CDLL(None)
    function = getattr(library, "fakecuda_counts", None)
    values = (ctypes.c_long * len(COUNTERS))()
    if function is not None:
        function(values)
    graphs = getattr(library, "fakegraphs_launches", None)
    return {**dict(zip(COUNTERS, values, strict=True)), "graphs": 0 if graphs is None else graphs()}


def launches(counted: dict[str, int]) -> int:
    """Return kernels, products, fills, copies on the device and graphs."""
    return sum(counted[name] for name in ("launch", "gemm", "memset", "d2d", "graphs"))


def waits(counted: dict[str, int]) -> int:
    """Return how often the host waited for the device."""
    return sum(counted[name] for name in ("stream_sync", "device_sync", "event_sync", "sync_memcpy", "d2h"))
