"""Forward and backward passes of a GPU as CUDA graphs: recorded once for each shape of a micro-batch, then replayed.

A step of the 6-layer model launches 2,300 kernels, which takes a CPU longer than a GPU needs for them. A CUDA graph
holds them all, and one call launches it. What a graph requires:

- Fixed shapes: the loader rounds sizes up (`pipeline.train.examples.buckets`), so most batches have one of a few
  shapes. A shape is computed kernel by kernel the first time, which also prepares libraries for it, recorded the
  second time, and replayed from then on. Both ways run the same kernels on the same numbers.
- Fixed addresses: a micro-batch is copied to tensors that the graph reads; losses and gradients are copied to tensors
  that outlive it. All else lies in a memory pool that the graphs share, since one runs at a time and nothing in the
  pool is read after its graph has ended.
- Random numbers: PyTorch registers the device's generator with a graph and passes seed and offset at each replay, so
  `torch.manual_seed` before a replay decides dropout's masks as it does without a graph.
- No waiting for the device while a graph is recorded. Other threads, such as the one that copies batches, may go on
  (`capture_error_mode="thread_local"`).

Clipping, which has the same gradients whatever the batch, is one more graph. The optimizer's step is not in
a graph: it takes few launches, and its settings change with the step.
Source: "CUDA Graphs" in the CUDA semantics of PyTorch's documentation.
"""

from __future__ import annotations

import gc
import logging
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from vilbert.pipeline.train.engine.distributed import Group
from vilbert.pipeline.train.engine.objective import MicroBatch, Objective
from vilbert.pipeline.train.engine.optimizer import clip_gradients
from vilbert.pipeline.train.engine.optimizer_settings import OptimizerSettings
from vilbert.pipeline.train.engine.working_weights import WorkingWeights
from vilbert.pipeline.train.run.settings import RunSettings

logger = logging.getLogger(__name__)

MOST_GRAPHS = 64
"""Shapes that are recorded; rarer ones come later and are launched kernel by kernel. A graph of the 6-layer model takes
some 20 MB of the GPU's memory beside the shared pool (2,300 nodes), and recording it takes as long as a few steps."""

Key = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class _Recorded:
    """A graph, and the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: dict[str, Tensor]
    """Tensors of the micro-batch."""
    counts: Tensor
    """[P] int64, what the losses are divided by."""
    sums: Tensor
    """[P] float32, the losses."""
    gradients: list[tuple[nn.Parameter, Tensor]]
    """What the parameters' gradients are."""


class StepGraphs:
    """The recorded passes of a model, by the shapes of a micro-batch."""

    def __init__(
        self, model: nn.Module, objective: Objective, device: torch.device, working: WorkingWeights | None
    ) -> None:
        """Begin without graphs.

        Args:
            model: Lies on the device; its parameters stay where they are.
            objective: Whose losses are computed; `capturable`.
            device: A GPU.
            working: Weights in bfloat16, where the model reads those.
        """
        self._model, self._objective, self._device, self._working = model, objective, device, working
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._met: set[Key] = set()
        self._recorded: dict[Key, _Recorded] = {}
        self._buffers: dict[tuple[str, torch.dtype], Tensor] = {}
        self._gradients: dict[nn.Parameter, Tensor] = {}
        self._refused = False
        self._clipping: tuple[list[int], torch.cuda.CUDAGraph, Tensor] | None = None

    def run(self, part: MicroBatch, counts: Tensor, *, first: bool) -> Tensor | None:
        """Replay the pass of a micro-batch, recording it before if need be.

        Args:
            part: The micro-batch, in page-locked memory or on the GPU.
            counts: [P] int64, what the losses of the global batch are divided by.
            first: Whether gradients begin here; those of other parts are added to what is there.

        Returns:
            [P] float32 sums of the losses, which the next replay overwrites. None where the caller has to compute the
            pass: no such shape was met before, too many others were, or the model cannot be recorded.
        """
        if self._refused:
            return None
        tensors = tensors_of(part)
        key = (first, *((name, tensor.shape, tensor.dtype) for name, tensor in tensors.items()))
        if key not in self._met:
            self._met.add(key)
            return None
        found = self._recorded.get(key)
        if found is None and len(self._recorded) < MOST_GRAPHS:
            found = self._record(part, tensors, counts, first=first)
        if found is None:
            return None
        self._recorded[key] = found
        if not first:
            self._adopt()
        copy_all(found.inputs, tensors)
        found.counts.copy_(counts, non_blocking=True)
        found.graph.replay()
        for parameter, gradient in found.gradients:
            parameter.grad = gradient
        return found.sums

    def clip(self, settings: OptimizerSettings) -> Tensor:
        """Clip the gradients as `clip_gradients`, by a graph where they lie where replayed passes put them."""
        clipped = [parameter for parameter in self._parameters if parameter.grad is not None]
        if self._refused or any(parameter.grad is not self._gradients.get(parameter) for parameter in clipped):
            return clip_gradients(clipped, settings)
        names = [id(parameter) for parameter in clipped]
        if self._clipping is None or self._clipping[0] != names:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                self._clipping = names, graph, clip_gradients(clipped, settings)
        _, graph, length = self._clipping
        graph.replay()
        return length.clone()

    def _record(self, part: MicroBatch, tensors: dict[str, Tensor], counts: Tensor, *, first: bool) -> _Recorded | None:
        """Return the recorded pass; None, after a warning, where the device refuses to record it."""
        before = [parameter.grad for parameter in self._parameters]
        inputs = {name: self._static(name, tensor) for name, tensor in tensors.items()}
        static = with_tensors(part, inputs)
        graph = torch.cuda.CUDAGraph()
        recorded = _Recorded(
            graph=graph,
            inputs=inputs,
            counts=torch.ones_like(counts, device=self._device),
            sums=torch.zeros(len(counts), device=self._device),
            gradients=[],
        )
        for parameter in self._parameters:
            # What the passes before did not use has none, such as co-attention in a model without it.
            parameter.grad = None if first or parameter.grad is None else self._buffer(parameter)
        gc.collect()  # A pass that a reference cycle keeps alive has nodes of the parameters on another stream.
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                self._pass(static, recorded)
        except RuntimeError as error:
            self._refused = True
            logger.warning(
                "--cuda-graphs: the pass of a micro-batch cannot be recorded (%s); steps are launched kernel by kernel",
                str(error).strip().split("\n", 1)[0],
            )
            return None
        finally:
            recorded.gradients.extend((p, p.grad) for p in self._parameters if p.grad is not None)
            for parameter, gradient in zip(self._parameters, before, strict=True):
                parameter.grad = gradient
        return recorded

    def _pass(self, part: MicroBatch, recorded: _Recorded) -> None:
        """Compute losses and gradients; what is left of them lies in the tensors of `recorded` and `_gradients`."""
        sums = self._objective.sums(self._model, part, self._device, 0)
        (sums / recorded.counts.clamp(min=1)).sum().backward()  # type: ignore[no-untyped-call]
        recorded.sums.copy_(sums.detach())
        if self._working is not None:
            self._working.collect()
        self._adopt()

    def _adopt(self) -> None:
        """Move gradients that lie elsewhere to the tensors that outlive graphs."""
        moved: list[tuple[Tensor, Tensor]] = []
        for parameter in self._parameters:
            if parameter.grad is not None and parameter.grad is not (buffer := self._buffer(parameter)):
                moved.append((buffer, parameter.grad))
                parameter.grad = buffer
        if moved:
            torch._foreach_copy_([buffer for buffer, _ in moved], [gradient for _, gradient in moved])

    def _buffer(self, parameter: nn.Parameter) -> Tensor:
        """Return the tensor of a parameter's gradient, that of the working weights where it is one of theirs."""
        found = self._gradients.get(parameter)
        if found is None:
            own = None if self._working is None else self._working.gradients.get(parameter)
            found = self._gradients[parameter] = torch.empty_like(parameter).detach() if own is None else own
        return found

    def _static(self, name: str, tensor: Tensor) -> Tensor:
        """Return a tensor of the GPU that graphs read a part of the micro-batch from; all shapes share its memory."""
        size, place = tensor.numel(), (name, tensor.dtype)
        if place not in self._buffers or self._buffers[place].numel() < size:
            self._buffers[place] = torch.empty(size, dtype=tensor.dtype, device=self._device)
        return self._buffers[place][:size].view(tensor.shape)


def step_graphs(
    settings: RunSettings, group: Group, model: nn.Module, objective: Objective, working: WorkingWeights | None
) -> StepGraphs | None:
    """Return the graphs of a run, or None where its steps are launched kernel by kernel."""
    if not uses_graphs(settings, group):
        return None
    if not objective.capturable:
        logger.info("--cuda-graphs: not for %s; steps are launched kernel by kernel", objective.stage)
        return None
    return StepGraphs(model, objective, group.device, working)


def uses_graphs(settings: RunSettings, group: Group) -> bool:
    """Say whether steps may be recorded: of one process on a GPU, without torch.compile."""
    return settings.cuda_graphs and group.device.type == "cuda" and group.world == 1 and not settings.compile


def copy_all(targets: dict[str, Tensor], sources: dict[str, Tensor]) -> None:
    """Copy tensors by name, in one launch for those of a dtype where they lie on the GPU."""
    by_dtype: dict[torch.dtype, list[str]] = {}
    for name, target in targets.items():
        by_dtype.setdefault(target.dtype, []).append(name)
    for names in by_dtype.values():
        torch._foreach_copy_([targets[name] for name in names], [sources[name] for name in names], non_blocking=True)


def tensors_of(part: MicroBatch) -> dict[str, Tensor]:
    """Return the tensors of a micro-batch by field, those of a dictionary as FIELD.NAME."""
    found: dict[str, Tensor] = {}
    for field in fields(part):  # type: ignore[arg-type]
        value = getattr(part, field.name)
        if isinstance(value, Tensor):
            found[field.name] = value
        elif isinstance(value, dict):
            found |= {f"{field.name}.{name}": tensor for name, tensor in value.items()}
    return found


def with_tensors(part: Any, tensors: dict[str, Tensor]) -> Any:
    """Return the micro-batch with other tensors, named as `tensors_of` does."""
    changed: dict[str, Any] = {}
    for name, tensor in tensors.items():
        field, _, inner = name.partition(".")
        if inner:
            changed.setdefault(field, {})[inner] = tensor
        else:
            changed[field] = tensor
    return replace(part, **changed)
