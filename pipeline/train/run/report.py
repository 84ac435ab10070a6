"""RUN/report.html: data, settings and curves of a run, in one file that needs no network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vilbert.pipeline.pages.html_page import curves_section, html_page, table, text_of
from vilbert.pipeline.shards.storage.atomic import write_atomic
from vilbert.pipeline.train.run.disk import explain_disk_errors
from vilbert.pipeline.train.run.folder import read_run
from vilbert.pipeline.train.run.journal import read_journal
from vilbert.pipeline.train.run.sessions import read_sessions, sessions_table

REPORT_FILE = "report.html"
COUNTS_OF_TROUBLE = ("unread", "skipped_steps")
"""Values that are shown only if they are not 0."""
CURVES_LEGEND = "Faint: as measured; strong: moving average; dots: evaluations on held-out samples."
DATA_HEAD = ("path", "samples", "fingerprint", "records (SHA-256)")


def write_report(run: Path) -> Path:
    """Write the report of the run in the folder `run`, finished or not, and return its path.

    Reads metrics.jsonl, run.json (`settings`, `model`, `data`, `eval_data`, `software`) and sessions.jsonl (command,
    hardware, times); what is missing is left out.
    Raises ShardError where the journal is damaged, RefusedError where run.json is not a run's, OSError naming the file
    where the disk refuses.
    """
    path = run / REPORT_FILE
    content = page(run.resolve().name, read_journal(run), read_run(run) or {}, read_sessions(run)).encode()
    with explain_disk_errors(path):
        write_atomic(path, content)
    return path


def page(
    name: str,
    entries: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
    sessions: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return the page as HTML with escaped texts."""
    sections = [
        ("Curves", _curves(entries)),
        ("Last values", table(("value", "training", "held out"), last_values(entries))),
        ("Command, hardware and time", sessions_table(sessions)),
        ("Data sets", table(DATA_HEAD, data_rows(facts.get("data", [])))),
        ("Held-out data sets", table(DATA_HEAD, data_rows(facts.get("eval_data", [])))),
        ("Settings", table(("setting", "value"), flat(facts.get("settings", {})))),
        ("Model", table(("setting", "value"), flat(facts.get("model", {})))),
        ("Software", table(("package", "version"), flat(facts.get("software", {})))),
    ]
    return html_page(f"Training run {name}", _summary(entries), sections)


def _summary(entries: Sequence[Mapping[str, Any]]) -> str:
    if not entries:
        return "Nothing is measured yet."
    not_finite = sum("not_finite" in entry for entry in entries)
    return f"{len(entries)} entries up to step {entries[-1]['step']}." + (
        f" {not_finite} of them with values that are not finite, left out of the curves." if not_finite else ""
    )


def _curves(entries: Sequence[Mapping[str, Any]]) -> str:
    from vilbert.pipeline.pages.curves import svg

    return curves_section(CURVES_LEGEND, svg(entries)) if entries else ""


def last_values(entries: Sequence[Mapping[str, Any]]) -> list[tuple[object, ...]]:
    """Return (name, last training value, last held-out value) of all that was measured, and the steps of both."""
    last = {kind: _last(entries, kind) for kind in ("train", "eval")}
    names = dict.fromkeys([*last["train"], *last["eval"]])
    rows = [(name, last["train"].get(name, ""), last["eval"].get(name, "")) for name in names]
    return [row for row in rows if row[0] not in COUNTS_OF_TROUBLE or any(row[1:])]


def _last(entries: Sequence[Mapping[str, Any]], kind: str) -> dict[str, Any]:
    empty: Mapping[str, Any] = {}
    entry = next((entry for entry in reversed(entries) if entry["kind"] == kind), empty)
    values = {name: value for name, value in entry.items() if name not in ("kind", "not_finite")}
    return values | dict(text.split("=") for text in entry.get("not_finite", []))


def data_rows(data: Iterable[Mapping[str, Any]]) -> list[tuple[object, ...]]:
    """Return a row for each data set: path, samples used, fingerprint, hash of its records.

    The held-out questions of a task are data without a path; they are left out.
    """
    columns = ("path", "samples", "fingerprint", "records_sha256")
    return [tuple(text_of(part.get(column, "")) if column != "samples" else part.get(column, "") for column in columns)
            for part in data if any(column in part for column in columns)]  # fmt: skip


def flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[object, ...]]:
    """Return nested settings as rows (dotted name, value as text)."""
    rows: list[tuple[object, ...]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            rows += flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", text_of(value)))
    return rows
