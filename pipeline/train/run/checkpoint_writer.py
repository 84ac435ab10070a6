"""Write checkpoints in a thread during training.

At a checkpoint the training thread copies parameters and optimizer state, from a GPU to pinned memory without waiting.
A thread then hashes and writes them, one checkpoint at a time. Until it is written, the copies need as much memory as
the checkpoint, three times the parameters, and the previous checkpoint remains the newest, from which a killed run
resumes.
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
    """Writes the checkpoints of a run and deletes old ones; leaving the block waits for the last one."""

    def __init__(self, run: Path, *, keep: int, is_async: bool) -> None:
        """Create the writer.

        Args:
            run: The run's folder.
            keep: Number of newest checkpoints to keep, in addition to the best one.
            is_async: Whether to write in a thread; otherwise `save` returns when the checkpoint is complete.
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
        """Save a checkpoint of the tensors' current values; first wait for the previous one to be complete.

        Raises the errors of `save_checkpoint`, for this checkpoint or the previous one.

        Args:
            step: Number of steps.
            model: Parameters and buffers by name.
            optimizer: State of the optimizer by name.
            info: JSON values to store.
            best: Step of the best evaluation, whose checkpoint is kept.
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
        """Raise the error of a failed checkpoint, if there is one; does not wait."""
        if self._error is not None:
            self.wait()

    def wait(self) -> None:
        """Wait for the checkpoint in progress; raise its error."""
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
    """Copy the current values of tensors; return the copies and a function that waits for those of a GPU.

    The copies are made on the GPU's current stream, so later steps on it do not change them.
    """
    copied = [{name: _copy(tensor.detach()) for name, tensor in group.items()} for group in groups]
    on_gpu = any(tensor.is_cuda for group in groups for tensor in group.values())
    return copied, torch.cuda.current_stream().record_event().synchronize if on_gpu else lambda: None


def _copy(tensor: Tensor) -> Tensor:
    if not tensor.is_cuda:
        return tensor.clone()
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
