"""RUN/sessions.jsonl: the commands, machines and times of a run's training sessions.

A run that is interrupted and resumed has several sessions. They are kept apart from run.json and from the checkpoints:
nothing here decides what is learnt, so a run resumes on another machine, and two same runs have the same checkpoints.
Each session is two lines, one at its start and one at its end; a session that was killed has no second line.
"""

from __future__ import annotations

import os
import platform
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vilbert.pipeline.command_line import command_line
from vilbert.pipeline.doctor import GIB, memory_limit
from vilbert.pipeline.pages.html_page import table
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.train.run.disk import explain_disk_errors
from vilbert.pipeline.train.run.folder import PACKAGES
from vilbert.untrusted.documents import DocumentError, parse_json

SESSIONS_FILE = "sessions.jsonl"


def machine_facts(gpus: Sequence[str] = ()) -> dict[str, Any]:
    """Return the hardware and the software of this machine; gpus: names of the GPUs that are used."""
    facts: dict[str, Any] = {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": f"{memory_limit() / GIB:.1f} GiB",
        "system": platform.platform(),
        "software": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }
    return facts | ({"gpus": list(gpus)} if gpus else {})


def cpu_name() -> str:
    """Return the name of the processor."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def used_gpus(device_type: str, index: int | None, world: int) -> list[str]:
    """Return the names of the GPUs of a run: that of this process, once per process."""
    if device_type != "cuda":
        return []
    import torch

    device = torch.cuda.get_device_properties(index or 0)
    return [f"{device.name}, {device.total_memory / GIB:.0f} GiB"] * world


def begin_session(run: Path, *, step: int, processes: int, gpus: Sequence[str]) -> None:
    """Record that training starts, or resumes after `step`, on this machine."""
    command = command_line()
    entry = {"event": "start", "time": _now(), "step": step, "processes": processes, **machine_facts(gpus)}
    _append(run, entry | ({"command": command} if command else {}))


def end_session(run: Path, *, step: int, finished: bool) -> None:
    """Record that training ends after `step`."""
    _append(run, {"event": "end", "time": _now(), "step": step, "finished": finished})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _append(run: Path, entry: Mapping[str, Any]) -> None:
    path = run / SESSIONS_FILE
    with explain_disk_errors(path):
        cut_short = path.is_file() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
        with path.open("ab") as file:  # a line that a kill cut short is ended first
            file.write((b"\n" if cut_short else b"") + encode_json(dict(entry)) + b"\n")


def read_sessions(run: Path) -> list[dict[str, Any]]:
    """Return a run's sessions in order, each its start with `ended` where that is known.

    None where the run has no such file, as runs of earlier versions. Lines that are damaged are left out: the sessions
    are for people and nothing is computed from them.
    """
    path = run / SESSIONS_FILE
    sessions: list[dict[str, Any]] = []
    for raw in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            entry = parse_json(raw)
        except DocumentError:
            continue
        if not isinstance(entry, dict) or _time(entry.get("time")) is None:
            continue
        if entry.get("event") == "start":
            sessions.append({name: value for name, value in entry.items() if name != "ended"})
        elif sessions and "ended" not in sessions[-1]:
            sessions[-1]["ended"] = entry
    return sessions


def sessions_table(sessions: Sequence[Mapping[str, Any]]) -> str:
    """Return an HTML table of command, hardware, software and times; nothing where there are no sessions."""
    rows = [row for number, session in enumerate(sessions, 1) for row in _rows(session, number, len(sessions))]
    known = [seconds for session in sessions if (seconds := _seconds(session)) is not None]
    if len(sessions) > 1 and known:
        rows.append(("total duration", duration(sum(known)) + " in sessions whose end was recorded"))
    return table(("what", "value"), rows)


def _rows(session: Mapping[str, Any], number: int, count: int) -> list[tuple[object, ...]]:
    prefix = f"session {number}: " if count > 1 else ""
    ended: Any = session.get("ended")
    rows: list[tuple[str, object]] = []
    if "command" in session:
        rows.append(("command", str(session["command"])))
    rows.append(("started", f"{_clock(session['time'])}, at step {session.get('step', 0)}"))
    if ended is None:
        rows.append(("ended", "not recorded: the process was stopped or failed, or is still running"))
    else:
        how = "" if ended.get("finished") else " (interrupted)"
        rows.append(("ended", f"{_clock(ended['time'])}, at step {ended.get('step', 0)}{how}"))
        rows.append(("duration", duration(_seconds(session) or 0)))
    rows += machine_rows(session)
    if session.get("processes", 1) != 1:
        rows.append(("processes", str(session["processes"])))
    return [(prefix + name, value) for name, value in rows]


def machine_rows(facts: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Return the result of `machine_facts` as rows of a table."""
    cores = facts.get("cores")
    rows: list[tuple[str, object]] = [("CPU", f"{facts.get('cpu', 'unknown')}, {cores} cores usable")]
    gpus, software = facts.get("gpus"), facts.get("software")
    counted = Counter(map(str, gpus if isinstance(gpus, list) else ()))
    rows += [("GPU", name if count == 1 else f"{count} x {name}") for name, count in counted.items()]
    rows += [("memory", str(facts.get("memory", ""))), ("system", str(facts.get("system", "")))]
    versions = software.items() if isinstance(software, Mapping) else ()
    return [*rows, ("software", ", ".join(f"{name} {found}" for name, found in versions))]


def duration(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _seconds(session: Mapping[str, Any]) -> float | None:
    start, end = _time(session["time"]), _time(session.get("ended", {}).get("time"))
    return None if start is None or end is None else (end - start).total_seconds()


def _clock(text: str) -> str:
    found = _time(text)
    return text if found is None else f"{found:%Y-%m-%d %H:%M:%S} UTC"


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text)).astimezone(UTC)
    except (ValueError, OverflowError):  # no time, or one beyond the years of datetime in UTC
        return None
