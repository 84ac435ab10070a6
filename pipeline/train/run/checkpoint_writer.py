"""Checkpoints written by a thread during training.

At a checkpoint the training thread copies parameters and the optimizer's state to other memory: page-locked memory for
those of a GPU, which it does not wait for. A thread then hashes them and writes them to the disk, one checkpoint at a
time. The copies take as much of the machine's memory as the checkpoint has bytes, three times the parameters, until it
is written. Until then the previous checkpoint is the newest, from which a killed run resumes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from vilbert.pipeline.signals import abandon
from vilbert.pipeline.train.run.checkpoints import prune, save_checkpoint

logger = logging.getLogger(__name__)


class CheckpointWriter:
    """Writes the checkpoints of a run and deletes those no longer wanted; leaving it waits for the last one."""

    def __init__(self, run: Path, *, keep: int, is_async: bool) -> None:
        """Begin without a thread.

        Args:
            run: The run's folder.
            keep: Newest checkpoints to keep, beside the best evaluated one.
            is_async: Whether to write in a thread; else `save` returns when the checkpoint is whole.
        """
        self._run, self._keep, self._is_async = run, keep, is_async
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        """Set when the thread has written its checkpoint."""
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.wait()
            elif not issubclass(kind, KeyboardInterrupt):  # a second Ctrl-C ends the run at once
                try:
                    self.wait()
                except Exception as failure:  # the block's own error is the one to report
                    logger.warning("%s", failure)
        finally:
            if self._thread is not None:
                abandon(self._ended)  # the next run deletes what it has written

    def save(
        self,
        step: int,
        *,
        model: Mapping[str, Tensor],
        optimizer: Mapping[str, Tensor],
        info: Mapping[str, Any],
        best: int | None,
    ) -> None:
        """Save the checkpoint of a step as the tensors are now; wait for the one before to be whole.

        best: step of the best evaluation, whose checkpoint is kept. Raises what `save_checkpoint` raises, for this one
        or the one before.
        """
        self.wait()
        if not self._is_async:
            self._write(step, model, optimizer, info, best)
            return
        (copied_model, copied_optimizer), finish = copy_of(model, optimizer)

        def write() -> None:
            try:
                finish()
                self._write(step, copied_model, copied_optimizer, info, best)
            except BaseException as error:  # it is raised in the training thread
                self._error = error
            finally:
                ended.set()

        self._ended = ended = threading.Event()
        self._thread = threading.Thread(target=write, name=f"checkpoint-{step}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise the error of a checkpoint that could not be written, if that is known; waits for nothing."""
        if self._error is not None:
            self.wait()

    def wait(self) -> None:
        """Wait for the checkpoint that is being written; raise what went wrong."""
        if self._thread is not None:
            self._ended.wait()
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _write(
        self,
        step: int,
        model: Mapping[str, Tensor],
        optimizer: Mapping[str, Tensor],
        info: Mapping[str, Any],
        best: int | None,
    ) -> None:
        save_checkpoint(self._run, step, model=model, optimizer=optimizer, info=info)
        prune(self._run, keep=self._keep, best=best)


def copy_of(*groups: Mapping[str, Tensor]) -> tuple[list[dict[str, Tensor]], Callable[[], object]]:
    """Return copies of tensors as they are now, and what waits until those of a GPU are whole.

    A GPU's current stream does the copying, so steps that follow on it change nothing of the copies.
    """
    copied = [{name: _copy(tensor.detach()) for name, tensor in group.items()} for group in groups]
    on_gpu = any(tensor.is_cuda for group in groups for tensor in group.values())
    return copied, torch.cuda.current_stream().record_event().synchronize if on_gpu else lambda: None


def _copy(tensor: Tensor) -> Tensor:
    if not tensor.is_cuda:
        return tensor.clone()
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
