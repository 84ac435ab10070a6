"""RUN/report.html: what a run was made of and how it went, in one file that needs nothing else and no network."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from pipeline.shards.atomic import write_atomic
from pipeline.train.disk import explain_disk_errors
from pipeline.train.journal import read_journal
from pipeline.train.run_folder import read_run

REPORT_FILE = "report.html"
DATA_HEAD = ("path", "samples", "fingerprint", "records (SHA-256)")

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{ --page: #ffffff; --ink: #1b1f24; --quiet: #59636e; --grid: #d0d5db;
  --first: #1f6fb5; --second: #c2571a; --third: #2e7d4f; --fourth: #8a4fa3; }}
@media (prefers-color-scheme: dark) {{ :root {{ --page: #14171a; --ink: #e6e9ec; --quiet: #9aa4ae; --grid: #353b42;
  --first: #62aef0; --second: #f0955a; --third: #6cc593; --fourth: #c792dd; }} }}
body {{ background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
  max-width: 1200px; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; margin-bottom: 0; }} h2 {{ font-size: 1.15rem; margin-top: 2.5rem; }}
p {{ color: var(--quiet); margin-top: .3rem; }}
svg {{ width: 100%; height: auto; }} svg text {{ font-family: system-ui, sans-serif !important; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; }}
th, td {{ text-align: left; vertical-align: top; padding: .25rem 1.5rem .25rem 0; border-bottom: 1px solid var(--grid);
  overflow-wrap: anywhere; }}
th {{ font-weight: 600; }} td.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
code {{ font-size: .85em; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{summary}</p>
{sections}
</body>
</html>
"""


def write_report(run: Path) -> Path:
    """Write the report of the run in the folder `run`, finished or not, and return its path.

    Reads metrics.jsonl and run.json (`settings`, `model`, `data`, `eval_data`, `software`); what is missing is left
    out.
    Raises ShardError where the journal is damaged, RefusedError where run.json is no run's, OSError naming the file
    where the disk refuses.
    """
    path = run / REPORT_FILE
    content = page(run.resolve().name, read_journal(run), read_run(run) or {}).encode()
    with explain_disk_errors(path):
        write_atomic(path, content)
    return path


def page(name: str, entries: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    """Return the page as HTML, every text in it escaped."""
    sections = [
        ("Curves", _curves(entries)),
        ("Last values", table(("value", "training", "held out"), last_values(entries))),
        ("Data sets", table(DATA_HEAD, data_rows(facts.get("data", [])))),
        ("Held-out data sets", table(DATA_HEAD, data_rows(facts.get("eval_data", [])))),
        ("Settings", table(("setting", "value"), flat(facts.get("settings", {})))),
        ("Model", table(("setting", "value"), flat(facts.get("model", {})))),
        ("Software", table(("package", "version"), flat(facts.get("software", {})))),
    ]
    return _PAGE.format(
        title=escape(f"Training run {name}"),
        summary=escape(_summary(entries)),
        sections="\n".join(f"<h2>{title}</h2>\n{body}" for title, body in sections if body),
    )


def _summary(entries: Sequence[Mapping[str, Any]]) -> str:
    if not entries:
        return "Nothing is measured yet."
    not_finite = sum("not_finite" in entry for entry in entries)
    return f"{len(entries)} entries up to step {entries[-1]['step']}." + (
        f" {not_finite} of them with values that are not finite, left out of the curves." if not_finite else ""
    )


def _curves(entries: Sequence[Mapping[str, Any]]) -> str:
    from pipeline.train.curves import svg

    legend = "Faint: as measured; strong: averaged over neighbours; dots: evaluations on held-out samples."
    return f'<p>{legend}</p>\n<div class="wide">{svg(entries)}</div>' if entries else ""


def last_values(entries: Sequence[Mapping[str, Any]]) -> list[tuple[object, ...]]:
    """Return (name, last training value, last held-out value) of all that was measured, and the steps of both."""
    last = {kind: _last(entries, kind) for kind in ("train", "eval")}
    names = dict.fromkeys([*last["train"], *last["eval"]])
    return [(name, last["train"].get(name, ""), last["eval"].get(name, "")) for name in names]


def _last(entries: Sequence[Mapping[str, Any]], kind: str) -> dict[str, Any]:
    empty: Mapping[str, Any] = {}
    entry = next((entry for entry in reversed(entries) if entry["kind"] == kind), empty)
    values = {name: value for name, value in entry.items() if name not in ("kind", "not_finite")}
    return values | dict(text.split("=") for text in entry.get("not_finite", []))


def data_rows(data: Iterable[Mapping[str, Any]]) -> list[tuple[object, ...]]:
    """Return a row for each data set: path, samples used, fingerprint, hash of its records."""
    columns = ("path", "samples", "fingerprint", "records_sha256")
    return [tuple(text_of(part.get(column, "")) if column != "samples" else part.get(column, "") for column in columns)
            for part in data]  # fmt: skip


def flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[object, ...]]:
    """Return nested settings as rows (dotted name, value as text)."""
    rows: list[tuple[object, ...]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            rows += flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", text_of(value)))
    return rows


def text_of(value: object) -> str:
    """Return a value of run.json as text: strings as they are, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return an HTML table, nothing where there are no rows; numbers stand right."""
    if not rows:
        return ""
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    lines = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f'<div class="wide"><table>\n<tr>{titles}</tr>\n{lines}\n</table></div>'


def _cell(value: object) -> str:
    match value:
        case bool() | str():
            return f"<td>{escape(str(value))}</td>"
        case int():
            return f'<td class="number">{value:,}</td>'
        case float():
            return f'<td class="number">{value:.4g}</td>'
        case _:
            return f"<td>{escape(text_of(value))}</td>"
