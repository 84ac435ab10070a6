"""Identify the process that a file refers to, and check whether it is dead."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """Return JSON values that identify this process; `holder` is for messages."""
    return {
        "holder": f"process {os.getpid()} on {socket.gethostname()}",
        "process": os.getpid(),
        "machine": machine(),
    }


def is_dead(document: Mapping[str, Any]) -> bool:
    """Return whether the process described by `this_process` ran on this machine and has ended.

    Returns False if this is unknown: for processes of other machines, or if the document has no information.
    """
    process = document.get("process")
    if document.get("machine") is None or document["machine"] != machine() or type(process) is not int:
        return False
    if not 0 < process < 1 << 31:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def machine() -> str | None:
    """Return an identifier of this boot of this machine and of its PID namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None
