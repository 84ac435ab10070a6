"""CUDA graphs on the emulated GPU: operators that a stream captures are recorded, and a replay computes them again.

As on a real device, nothing is computed while a stream captures, a replay reads and writes the addresses of the
capture, whatever lies there by then, and waiting for the device ends the capture with an error (`emulated_graphs.c`).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map

SOURCE = Path(__file__).with_suffix(".c")
LIBRARY = "libfakegraphs.so"


def build_graphs(folder: Path) -> Path:
    """Compile the part in C into a folder, and return the library, to be preloaded before the emulator's."""
    library = folder / LIBRARY
    command = ["gcc", "-O1", "-w", "-fPIC", "-shared", "-o", str(library), str(SOURCE), "-ldl"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode != 0:
        sys.exit(built.stderr)
    return library


def install_graphs(emulate: Any) -> None:
    """Make the emulator record what is captured; before its own `install`."""
    nodes: dict[int, list[Callable[[], None]]] = {}
    """What each graph computes, by its id."""
    recording: list[list[Callable[[], None]]] = []
    """Of the graph that is being captured; empty outside a capture."""

    class Recording(emulate.Emulate):  # type: ignore[misc, name-defined]
        """The emulated device, whose operators are computed at replay where a stream captures them."""

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if not (recording and is_kernel(emulate, func, args, kwargs)):
                return super().__torch_dispatch__(func, types, args, kwargs)
            made = func(*args, **kwargs)  # PyTorch's real code: it allocates, and is refused what a capture forbids
            recording[-1].append(node(emulate, func, args, kwargs, made))
            return made

    class Graph(torch.cuda.CUDAGraph):
        """A graph that computes when it is replayed."""

        def capture_begin(self, *args: Any, **kwargs: Any) -> None:
            super().capture_begin(*args, **kwargs)
            recording.append(nodes.setdefault(id(self), []))

        def capture_end(self) -> None:
            recording.pop()
            super().capture_end()

        def replay(self) -> None:
            super().replay()
            with torch.no_grad():
                for compute in nodes[id(self)]:
                    compute()

    emulate.Emulate = Recording
    torch.cuda.CUDAGraph = Graph  # type: ignore[misc]


def is_kernel(emulate: Any, func: Any, args: Any, kwargs: Any) -> bool:
    """Say whether an operator launches something on the stream that captures."""
    name = func._schema.name.split("::")[-1]
    values, _ = tree_flatten((args, kwargs))
    on_gpu = any(isinstance(value, torch.Tensor) and value.is_cuda for value in values)
    device = kwargs.get("device")
    if not on_gpu and (device is None or torch.device(device).type != "cuda"):
        return False
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")
    passed = name in emulate.PASS or func.is_view or name in ("detach", "alias", "set_", "resize_", "lift_fresh")
    return not composite and not passed and torch.cuda.is_current_stream_capturing()


def node(emulate: Any, func: Any, args: Any, kwargs: Any, made: Any) -> Callable[[], None]:
    """Return what computes an operator again, on the addresses of its tensors and not on the tensors themselves."""
    name = func._schema.name.split("::")[-1]
    taken, named = tree_map(emulate.to_cpu, (args, kwargs))
    named.pop("pin_memory", None)
    results = [emulate.alias(value) if isinstance(value, torch.Tensor) else None for value in tree_flatten(made)[0]]
    attention = "scaled_dot_product" in name

    def compute() -> None:
        if attention:
            run = emulate.sdpa_backward if "backward" in name else emulate.sdpa_forward
            values = run(func, taken, named)
        elif func._schema.is_mutable:
            func(*taken, **named)  # on the device's own memory
            return
        else:
            values = func(*taken, **named)
        for place, (result, value) in enumerate(zip(results, tree_flatten(values)[0], strict=False)):
            kept = isinstance(value, torch.Tensor) and result is not None and value.numel() == result.numel()
            if kept and (not attention or "backward" in name or place == 0 or value.numel() == 1):
                result.copy_(value.view(result.shape) if value.shape != result.shape else value)

    return compute
