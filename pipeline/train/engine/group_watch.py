"""A group of processes ends together: one that fails says so to the others, which then do not wait for it.

A process that waits for others in a collective operation is in native code, where no signal and no exception reaches
it. Where the other one died, gloo and nccl often notice by their connections, but not always, and not where it still
leaves. So each process looks into the group's store from a thread, and leaves for good when another has failed and it
could not leave by itself.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from vilbert.pipeline.errors import LostPeerError, first_line
from vilbert.pipeline.signals import leave_now

logger = logging.getLogger(__name__)

FAILED = f"vilbert/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
"""Entry of the first process that failed, in this start of the group."""
LOOK_SECONDS = 0.5
GRACE_SECONDS = 5.0
"""For a process to leave by itself once another has failed."""


class Store(Protocol):
    """What is needed of torch.distributed.Store."""

    def set(self, key: str, value: str) -> None:
        """Write an entry that all processes see."""

    def get(self, key: str) -> bytes:
        """Return an entry that is there."""

    def check(self, keys: list[str]) -> bool:
        """Say whether all entries are there."""


@contextmanager
def ending_together(store: Store, rank: int) -> Iterator[None]:
    """Let the block end in all processes when it fails in one.

    store: a connection of this group that nothing else uses, as a wait on a shared one would block the thread. Raises
    LostPeerError, with the reason of the first that failed, where this process was stopped by the failure of another.
    """
    watch = _Watch(store, rank)
    watch.start()
    try:
        yield
    except BaseException as error:
        if not _is_of_the_connection(error):
            watch.tell(error)
            raise
        # The connection may break before the other has said why.
        watch.failed.wait(LOOK_SECONDS * 4)
        if watch.reason is None:
            lost = "the connection to another training process is lost: it was killed, or its machine failed"
            watch.tell(error := LostPeerError(f"{lost}; run the same command again to resume"))
            raise error from None
        raise LostPeerError(watch.reason) from error
    finally:
        watch.done.set()


def _is_of_the_connection(error: BaseException) -> bool:
    """Say whether an error is what torch.distributed makes of a connection that broke."""
    from torch.distributed import DistError

    is_native = isinstance(error, RuntimeError) and any(name in str(error) for name in ("gloo", "NCCL"))
    return is_native or isinstance(error, DistError)


class _Watch(threading.Thread):
    """Looks whether another process has failed; ends this one where it does not by itself."""

    def __init__(self, store: Store, rank: int) -> None:
        super().__init__(name="group-watch", daemon=True)
        self._store, self._rank = store, rank
        self.done, self.failed = threading.Event(), threading.Event()
        self.reason: str | None = None
        """Which process failed first, and why; None while none is known to have."""

    def tell(self, error: BaseException) -> None:
        """Say to the others that this process fails, unless another has said so before."""
        with suppress(RuntimeError):  # the store ended with its process
            if not self._store.check([FAILED]):
                self._store.set(FAILED, f"{self._rank} {first_line(error)}")
                time.sleep(LOOK_SECONDS * 2)  # the store may be this process's: let the others read it

    def run(self) -> None:
        """Look until the block ends."""
        while not self.done.wait(LOOK_SECONDS):
            try:
                if self._store.check([FAILED]):
                    who, _, said = self._store.get(FAILED).decode(errors="replace").partition(" ")
                    self.reason = f"training process {who} failed: {said}"
                    break
            except RuntimeError:  # the process with the store has ended, and the group with it
                break
        self.failed.set()
        if self.done.wait(GRACE_SECONDS):
            return
        reason = self.reason or "the process that started the group has ended"
        logger.error("%s; this process (rank %d) ends too. Run the same command again to resume", reason, self._rank)
        leave_now(1)
