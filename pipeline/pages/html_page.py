"""A page in one file that needs nothing else and no network: its frame, its style, and tables.

The colours of the style are CSS variables, which curves use too, so that a page is readable on light and on dark.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape

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
  max-width: 1200px; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }}
*, *::before {{ box-sizing: border-box; }}
h1 {{ font-size: 1.5rem; margin-bottom: 0; }} h2 {{ font-size: 1.15rem; margin-top: 2.5rem; }}
p {{ color: var(--quiet); margin-top: .3rem; }}
svg {{ max-width: 100%; height: auto; }}
.panels {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 310px), 1fr)); gap: 1rem; }}
.panels svg {{ width: 100%; }} svg text {{ font-family: system-ui, sans-serif !important; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; }}
th, td {{ text-align: left; vertical-align: top; padding: .25rem 1.5rem .25rem 0; border-bottom: 1px solid var(--grid);
  overflow-wrap: anywhere; min-width: 4.5rem; }}
th:last-child, td:last-child {{ padding-right: 0; }}
th {{ font-weight: 600; overflow-wrap: normal; }} td.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
@media (max-width: 600px) {{ th, td {{ padding-right: .8rem; min-width: 3.5rem; }} }}
code {{ font-size: .85em; }}
{style}</style>
</head>
<body>
<h1>{title}</h1>
<p>{summary}</p>
{sections}
</body>
</html>
"""


def html_page(title: str, summary: str, sections: Iterable[tuple[str, str]], *, style: str = "") -> str:
    """Return the page.

    title, summary: shown as they are, whatever they hold. sections: of a heading and its HTML each; those without HTML
    are left out. style: CSS behind the page's own.
    """
    return _PAGE.format(
        title=escape(title),
        summary=escape(summary),
        sections="\n".join(f"<h2>{escape(heading)}</h2>\n{body}" for heading, body in sections if body),
        style=style,
    )


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
