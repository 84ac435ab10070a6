"""Provenance of a model and its report: settings, commands, hardware and time, as tables of a page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vilbert.pipeline.command_line import command_line
from vilbert.pipeline.pages.html_page import table
from vilbert.pipeline.pages.templates import render
from vilbert.pipeline.report.settings import ReportSettings
from vilbert.pipeline.train.run.folder import RUN_FILE, read_run
from vilbert.pipeline.train.run.journal import METRICS_FILE
from vilbert.pipeline.train.run.report import flat
from vilbert.pipeline.train.run.sessions import machine_facts, machine_rows, read_sessions, sessions_table


def run_of(model: Path) -> Path:
    """Return the run folder of a model, given the run, its final/ or one of its checkpoints/."""
    folder = model.resolve()
    for run in (folder, *folder.parents[:2]):
        if (run / RUN_FILE).is_file() or (run / METRICS_FILE).is_file():
            return run
    return model


def how_it_was_made(settings: ReportSettings) -> dict[str, str]:
    """Return tables by heading; facts that runs of earlier versions did not record are left out."""
    runs = {"fine-tuning": settings.checkpoint}
    if settings.pretrained is not None:
        runs["pre-training"] = settings.pretrained
    made: dict[str, str] = {}
    for name, model in runs.items():
        run = run_of(model)
        facts: Mapping[str, Any] = read_run(run) or {}
        made[f"Command, hardware and time of the {name}"] = sessions_table(read_sessions(run))
        made[f"Settings of the {name}"] = _folded(table(("setting", "value"), flat(facts.get("settings", {}))))
        software = flat(facts.get("software", {}))
        made[f"Software of the {name}"] = _folded(table(("package", "version"), software))
    rows = machine_rows(machine_facts())
    command = command_line()
    made["Command and hardware of this page"] = table(
        ("what", "value"), [*([("command", command)] if command else []), *rows]
    )
    return made


def _folded(html: str) -> str:
    return render("folded.html", body=Markup(html)) if html else ""  # noqa: S704  # of a template
