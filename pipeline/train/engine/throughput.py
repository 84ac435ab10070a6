"""How fast a run trains: samples, tokens, the share of the chip's peak that it uses (MFU), and memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PretrainedConfig

from vilbert.model.config import ViLBertConfig
from vilbert.pipeline.train.engine.flops import Shape, forward_flops
from vilbert.pipeline.train.engine.objective import MicroBatch

PEAK_TFLOPS = {
    "V100": {"fp32": 15.7, "bf16": 125.0},
    "A10": {"fp32": 62.5, "bf16": 125.0},
    "L4": {"fp32": 60.5, "bf16": 121.0},
    "L40": {"fp32": 90.5, "bf16": 181.0},
    "L40S": {"fp32": 183.0, "bf16": 362.1},
    "A100": {"fp32": 156.0, "bf16": 312.0},
    "H100": {"fp32": 494.7, "bf16": 989.4},
    "H100 PCIe": {"fp32": 378.0, "bf16": 756.0},
    "H100 NVL": {"fp32": 417.5, "bf16": 835.0},
    "H200": {"fp32": 494.7, "bf16": 989.4},
    "H200 NVL": {"fp32": 417.5, "bf16": 835.0},
    "B200": {"fp32": 1125.0, "bf16": 2250.0},
    "MI300X": {"fp32": 653.7, "bf16": 1307.4},
}
"""Dense peak of a GPU in TFLOPS, by the words of its name that tell it from others: H100 is the SXM module, whose name
has only its memory beside; an A100 has the same peak in both forms. fp32 is TF32 where the chip has it. Source: the
data sheets of NVIDIA and AMD, sparsity left out."""
BACKWARD = 2
"""Operations of a backward pass, in forward passes."""


def peak_tflops(device: torch.device, precision: str) -> float | None:
    """Return the peak of a known GPU in a precision, fp32 or bf16; None for another device."""
    if device.type != "cuda":
        return None
    words = set(torch.cuda.get_device_name(device).replace("-", " ").split())
    known = [name for name in PEAK_TFLOPS if words.issuperset(name.split())]
    return PEAK_TFLOPS[max(known, key=len)][precision] if known else None


def step_flops(config: PretrainedConfig, part: MicroBatch) -> int:
    """Return the operations of a training step on a micro-batch: every position that is not padding, forward and
    backward. 0 for a model of another kind than ViLBERT's two streams."""
    if not isinstance(config, ViLBertConfig):
        return 0
    rows, words = part.input_ids.shape
    tokens, regions = positions(part)
    predicted_words = getattr(part, "masked_lm_labels", None)
    predicted_regions = getattr(part, "image_label", None)
    shape = Shape(
        rows=rows,
        words=words,
        regions=part.region_mask.shape[1] + 1,
        words_computed=tokens,
        words_read=tokens,
        regions_read=regions,
        words_predicted=0 if predicted_words is None else int((predicted_words >= 0).sum()),
        regions_predicted=0 if predicted_regions is None else int((predicted_regions > 0).sum()),
    )
    return (1 + BACKWARD) * sum(forward_flops(config, shape).values())


def positions(part: MicroBatch) -> tuple[int, int]:
    """Return the word pieces and the regions of a micro-batch that are not padding, with a global region an image."""
    return int(part.attention_mask.sum()), int(part.region_mask.sum()) + len(part.region_mask)


class Throughput:
    """Times the loop of one process, and counts what it works on."""

    def __init__(
        self, samples: int, *, config: PretrainedConfig, device: torch.device, world: int, peak: float | None
    ) -> None:
        """Begin to count.

        Args:
            samples: Samples that the run took before, over all processes.
            config: Of the model.
            device: Of this process.
            world: Number of processes.
            peak: TFLOPS that the device reaches at most; None where it is not known.
        """
        self._config, self._device, self._world, self._peak = config, device, world, peak
        self._begun = time.perf_counter()
        self._waited = 0.0
        self._begin_lap(samples)

    def _begin_lap(self, samples: int) -> None:
        self._lap_begun = time.perf_counter()
        self._lap_waited = 0.0
        self._lap_samples = samples
        self._lap_tokens = self._lap_flops = 0

    def fetch(self, batches: Iterator[list[Any]]) -> list[Any]:
        """Return the next batch."""
        started = time.perf_counter()
        parts = next(batches)
        waited = time.perf_counter() - started
        self._waited += waited
        self._lap_waited += waited
        for part in parts:
            self._lap_tokens += sum(positions(part))
            if self._peak is not None:
                self._lap_flops += step_flops(self._config, part)
        return parts

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of the block out of all figures: an evaluation, or a checkpoint."""
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            self._begun += seconds
            self._lap_begun += seconds

    @property
    def waiting(self) -> float:
        """The share of all time so far that was spent waiting for data."""
        return self._waited / max(time.perf_counter() - self._begun, 1e-9)

    def lap(self, samples: int) -> dict[str, float]:
        """Return the figures since the last lap but for what was `paused`, and begin another.

        Args:
            samples: Samples done so far, over all processes.

        Returns:
            `samples_per_second` of all processes and `samples_per_second_per_device`; `tokens_per_second_per_device`,
            word pieces and regions of this process; `waiting`, the share of time spent waiting for data;
            `memory_bytes`, the peak of what this process took of its GPU, or of the machine's memory on a CPU; `mfu`,
            the share of the device's peak, where that is known.
        """
        seconds = max(time.perf_counter() - self._lap_begun, 1e-9)
        rate = (samples - self._lap_samples) / seconds
        figures = {
            "samples_per_second": rate,
            "samples_per_second_per_device": rate / self._world,
            "tokens_per_second_per_device": self._lap_tokens / seconds,
            "waiting": self._lap_waited / seconds,
            "memory_bytes": float(peak_memory(self._device)),
        }
        if self._peak is not None and self._lap_flops:
            figures["mfu"] = self._lap_flops / seconds / (self._peak * 1e12)
        self._begin_lap(samples)
        return figures


def peak_memory(device: torch.device) -> int:
    """Return the bytes that this process took at most: of its GPU, or of the machine's memory on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
