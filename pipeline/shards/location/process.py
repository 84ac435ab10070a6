"""Identify a process in a file, and determine whether it is known to be dead."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """Return JSON values that identify this process uniquely; `holder` is for messages."""
    return {
        "holder": f"process {os.getpid()} on {socket.gethostname()}",
        "process": os.getpid(),
        "machine": machine(),
    }


def is_dead(document: Mapping[str, Any]) -> bool:
    """Return whether the process that `this_process` described was one of this machine that has ended.

    False if that is unknown, as for another machine or an incomplete document.
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
    """Return an identifier of this machine, boot and process id namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None
