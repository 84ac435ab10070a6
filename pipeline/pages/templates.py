"""The Jinja2 templates of all pages. Every value is escaped; undefined names in a template are errors."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

FOLDER = Path(__file__).parent
STATIC_FILES = {
    path.name: path for path in sorted((FOLDER / "static").iterdir()) if path.suffix in (".css", ".js", ".svg")
}
"""Style sheet and JavaScript modules by name."""


def render(template: str, **values: Any) -> str:
    """Return a page, HTML."""
    return environment().get_template(template).render(**values)


@cache
def environment() -> Environment:
    """Return the templates, with the filters and functions that they share."""
    made = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["count"] = "{:,}".format
    made.filters["json"] = as_json
    made.globals["static_text"] = static_text
    return made


def static_text(name: str) -> Markup:
    """Return a style sheet or a script, for a page that carries it in itself."""
    return Markup(STATIC_FILES[name].read_text(encoding="utf-8"))  # noqa: S704  # a file of this package


def as_json(value: Any) -> Markup:
    """Return a value as JSON for a `<script type="application/json">` element, whatever its texts hold."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704  # without any character that HTML reads
