"""A self-contained HTML page that needs no network: its frame, its style, and tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from vilbert.pipeline.pages.templates import render


def html_page(title: str, summary: str, sections: Iterable[tuple[str, str]], *, style: str = "") -> str:
    """Return the page.

    title, summary: shown as they are, whatever they hold. sections: of a heading and its HTML each; those without HTML
    are left out. style: CSS behind the page's own.
    """
    shown = [(heading, Markup(body)) for heading, body in sections if body]  # noqa: S704  # HTML by contract
    return render("document.html", title=title, summary=summary, sections=shown, style=Markup(style))  # noqa: S704


def text_of(value: object) -> str:
    """Return a value of run.json as text: strings as they are, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def curves_section(legend: str, drawings: str) -> str:
    """Return curves with a legend in words; drawings: what `curves.svg` returns."""
    return render("curves.html", legend=legend, drawings=Markup(drawings))  # noqa: S704  # drawn by matplotlib


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return an HTML table, nothing if there are no rows; numbers stand right."""
    return render("table.html", head=head, rows=[list(map(_cell, row)) for row in rows]) if rows else ""


def _cell(value: object) -> tuple[str, bool]:
    """Return a value as text, and whether it is a number."""
    match value:
        case bool() | str():
            return str(value), False
        case int():
            return f"{value:,}", True
        case float():
            return f"{value:.4g}", True
        case _:
            return text_of(value), False
