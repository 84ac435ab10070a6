"""Watch Ray's node on this machine while its workers train.

The driver is blocked in a call of Ray when the node dies. Some 15 seconds later Ray ends the driver's process from
native code, without a message and without cleaning up. So a thread looks for the node's process (the raylet), and when
the node is lost reports it and exits.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from vilbert.pipeline.signals import leave_now

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.5


@contextmanager
def watching_node(at_death: Callable[[], int]) -> Iterator[None]:
    """End this process when the Ray node that it is connected to dies within the block.

    Args:
        at_death: Called then, in another thread; returns the exit status.
    """
    raylet = _raylet()
    done = threading.Event()
    if raylet is None:
        logger.debug("the process of Ray's node is not found; its death is not watched for")
    else:
        threading.Thread(target=_watch, args=(raylet, done, at_death), name="node-watch", daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _watch(raylet: Any, done: threading.Event, at_death: Callable[[], int]) -> None:
    while not done.wait(LOOK_SECONDS):
        if not _is_alive(raylet):
            leave_now(at_death())


def _raylet() -> Any | None:
    """Return the process of the node that this one is connected to: its own, or one of a cluster that was joined."""
    import ray

    psutil = importlib.import_module("psutil")  # Ray brings it along
    node = ray._private.worker.global_worker.node  # Ray has no public function for it
    socket = getattr(node, "raylet_socket_name", None)
    if not socket:
        return None
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] == "raylet" and f"--raylet_socket_name={socket}" in (process.info["cmdline"] or []):
            return process
    return None


def _is_alive(process: Any) -> bool:
    """Return whether a process runs; an ended one remains a zombie until its parent reads its status."""
    psutil = importlib.import_module("psutil")
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
