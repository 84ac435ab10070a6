"""Short folders for Unix sockets: the kernel limits a socket's path to 107 bytes (103 on macOS).

multiprocessing and Ray create their sockets under TMPDIR. Slurm and other schedulers set it to the folder of a job,
whose path is often too long: `connect` then fails in another process, and a process that waits for it blocks for ever.
Only sockets are created in the short folder; all other temporary files stay in TMPDIR.
"""

from __future__ import annotations

import multiprocessing.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vilbert.pipeline.errors import RefusedError

LONGEST_PATH = 103
MULTIPROCESSING_SOCKET = "/pymp-xxxxxxxx/listener-xxxxxxxx"
RAY_SOCKET = "/session_2026-11-30_15-24-35_827982_1234567/sockets/plasma_store"
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108  folders of our own are made in them, mode 0700


def shorten_multiprocessing_sockets() -> None:
    """Make this process and its children create multiprocessing sockets in a short folder if TMPDIR is too long.

    The folder is deleted when the process exits.

    Raises:
        RefusedError: No short folder can be written to.
    """
    if _fits(tempfile.gettempdir(), MULTIPROCESSING_SOCKET):
        return
    before = tempfile.tempdir
    tempfile.tempdir = _short_parent(MULTIPROCESSING_SOCKET)
    try:
        multiprocessing.util.get_temp_dir()  # makes the folder once; child processes inherit it
    finally:
        tempfile.tempdir = before


@contextmanager
def ray_folder(default: str) -> Iterator[str | None]:
    """Yield a short folder for a private Ray, deleted afterwards; None where Ray's `default` is short enough.

    Raises:
        RefusedError: No short folder can be written to.
    """
    if _fits(default, RAY_SOCKET):
        yield None
        return
    folder = tempfile.mkdtemp(prefix="vilbert-ray-", dir=_short_parent("/vilbert-ray-xxxxxxxx" + RAY_SOCKET))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fits(folder: str, socket: str) -> bool:
    return len(os.fsencode(folder + socket)) <= LONGEST_PATH


def _short_parent(socket: str) -> str:
    """Return a folder of this machine in which a socket's path is short enough."""
    candidates = [*SHORT_FOLDERS, os.environ.get("XDG_RUNTIME_DIR", "")]
    for folder in candidates:
        if folder and _fits(folder, socket) and Path(folder).is_dir() and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise RefusedError(
        f"TMPDIR ({tempfile.gettempdir()}) is too long for Unix sockets ({LONGEST_PATH} bytes with their names), and "
        f"none of {', '.join(filter(None, candidates))} can be written to; set TMPDIR to a shorter path"
    )
