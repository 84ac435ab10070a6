"""The report of a comparison: one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.pages.html_page import html_page, table
from vilbert.pipeline.rebuild.compare.charts import drift_svg, histogram_svg
from vilbert.pipeline.rebuild.compare.document import advice, percent, side_text, summary_rows, verdict_text
from vilbert.pipeline.rebuild.compare.statistics import Totals
from vilbert.pipeline.shards.storage.atomic import write_atomic

STYLE = """
.verdict { border-left: 6px solid var(--third); color: var(--ink); font-size: 1.15rem; font-weight: 600;
  margin: 1.25rem 0; padding: .5rem .9rem; }
.verdict.different { border-color: var(--second); }
dl.sides { display: grid; grid-template-columns: auto 1fr; gap: .15rem .8rem; margin: 1rem 0; }
dl.sides dt { font-weight: 700; } dl.sides dd { margin: 0; min-width: 0; }
.bounds { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 260px), 1fr)); gap: 1rem; }
.bound-card { border: 1px solid var(--grid); border-radius: 6px; padding: .7rem .9rem; }
.bound-card strong { display: block; font-size: 1.4rem; font-variant-numeric: tabular-nums; }
.bound-card.exceeded { border-color: var(--second); } .bound-card.exceeded strong { color: var(--second); }
.bound-card p { margin: .2rem 0 0; }
.meter { background: var(--grid); height: 6px; margin: .5rem 0 .3rem; position: relative; }
.meter i { background: var(--third); display: block; height: 6px; width: calc(var(--w) * 100%); }
.exceeded .meter i { background: var(--second); }
.meter b { background: var(--ink); height: 12px; left: calc(var(--bound) * 100% - 1px); position: absolute; top: -3px;
  width: 2px; }
.cause { border-left: 4px solid var(--grid); margin: .8rem 0; padding: .1rem 0 .1rem .9rem; }
.cause.problem { border-color: var(--second); }
.cause h3 { font-size: 1rem; margin: 0; } .cause p { margin: .2rem 0; } .cause p.detail { color: var(--ink); }
.tag { border: 1px solid currentColor; border-radius: 3px; color: var(--quiet); font-size: .75rem; font-weight: 400;
  margin-left: .4rem; padding: 0 .35em; white-space: nowrap; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); gap: 1.25rem; }
.chart { margin: 0; } .chart figcaption { font-weight: 600; } .chart svg { width: 100%; }
.chart text { fill: var(--quiet); font-size: 12px; } .rule { stroke: var(--grid); }
.bin { fill: var(--first); } .bound { stroke: var(--second); stroke-dasharray: 4 3; stroke-width: 1.5; }
.points { fill: none; stroke: var(--first); stroke-linecap: round; stroke-opacity: .55; stroke-width: 4; }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; margin: .5rem 0 1rem; }
.legend svg { height: 14px; margin-right: .35rem; vertical-align: -2px; width: 30px; }
.legend rect { stroke-opacity: 1; stroke-width: 2; }
.image { border-top: 1px solid var(--grid); padding: 1.1rem 0; }
.image h3 { font-size: 1rem; margin: 0; }
.pictures { display: grid; gap: .8rem; grid-template-columns: repeat(2, minmax(0, 1fr)); margin-top: .5rem; }
.pictures figure { margin: 0; } .pictures svg { display: block; height: auto; max-height: 70vh; width: 100%; }
.pictures figcaption { color: var(--quiet); }
.pictures .paper { fill: var(--grid); fill-opacity: .4; }
.equal, .other, .alone { fill: none; vector-effect: non-scaling-stroke; }
.equal { stroke: #4bd08a; stroke-opacity: .8; stroke-width: 1; } .other { stroke: #ff9a3c; stroke-width: 2; }
.alone { stroke: #ff4fa3; stroke-dasharray: 6 3; stroke-width: 2; }
.figures th { padding-right: 1.2rem; } .figures td { min-width: 0; }
@media (max-width: 560px) { .pictures { grid-template-columns: minmax(0, 1fr); } .figures th { min-width: 0; } }
"""
TRIALS = 12
"""Ways to run the detector that are listed."""
BOUND_TITLES = {
    "matched": "of all regions have a match",
    "equal": "of matched features are equal",
    "objects": "of matched regions have the same object",
}


def write_page(path: Path, document: Mapping[str, Any], totals: Totals, pictures: Sequence[str]) -> None:
    """Write the page. pictures: HTML of the most different images, see `pictures`.

    Raises:
        ShardError: The file cannot be written.
    """
    try:
        write_atomic(path, build_page(document, totals, pictures).encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise ShardError(f"--report {path}: cannot be written ({error.strerror or error})") from error


def build_page(document: Mapping[str, Any], totals: Totals, pictures: Sequence[str]) -> str:
    """Return the page, HTML; names and ids are shown as they are, whatever they hold."""
    diagnosis = document["diagnosis"] or {}
    return html_page(
        f"Comparison of {_name(document['a'])} and {_name(document['b'])}",
        "Two feature sets of the same images, compared region by region.",
        [
            ("Verdict", "".join(_verdict(document))),
            ("Likely causes", "".join(_causes(document))),
            ("Figures", _figures(document)),
            ("Distributions", "".join(_charts(document, totals))),
            ("The detector, run again", _trials(diagnosis)),
            (
                "Recorded settings that differ",
                table(
                    ("setting", "A", "B"),
                    [(name, _short(a), _short(b)) for name, a, b in document["recorded_settings"]],
                ),
            ),
            ("Most different images", _pictures(pictures)),
        ],
        style=STYLE,
    )


def _name(side: Mapping[str, Any]) -> str:
    name = str(side["name"]).rstrip("/")
    return name.rpartition("/")[2] or name


def _short(value: object) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= 120 else f"{text[:119]}…"


def _verdict(document: Mapping[str, Any]) -> Iterator[str]:
    yield f'<p class="verdict {escape(document["verdict"])}">{escape(_capital(verdict_text(document)))}</p>'
    yield '<dl class="sides">'
    for side in "ab":
        yield f"<dt>{side.upper()}</dt><dd>{escape(side_text(document[side]))}</dd>"
    yield '</dl><div class="bounds">'
    for bound in document["bounds"]:
        state = "" if bound["holds"] else " exceeded"
        yield (
            f'<div class="bound-card{state}"><strong>{percent(bound["value"])}</strong>{BOUND_TITLES[bound["name"]]}'
            f'<div class="meter" style="--w:{bound["value"]:.4f};--bound:{bound["bound"]:.4f}"><i></i><b></b></div>'
            f"<p>bound {percent(bound['bound'])} ({escape(bound['option'])})</p></div>"
        )
    yield "</div>"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _causes(document: Mapping[str, Any]) -> Iterator[str]:
    for cause in document["causes"]:
        kind, tag = (" problem", "") if cause["problem"] else ("", '<span class="tag">harmless</span>')
        examples = f" For example {', '.join(cause['image_ids'][:3])}." if cause["image_ids"] else ""
        detail = f"{_capital(cause['detail'])}. " if cause["detail"] else ""
        yield (
            f'<div class="cause{kind}"><h3>{escape(_capital(cause["title"]))}{tag}</h3>'
            f'<p class="detail">{escape(detail)}Seen in {cause["images"]:,} of {cause["of"]:,} images.'
            f"{escape(examples)}</p><p>{escape(cause['advice'])}</p></div>"
        )
    yield from (f"<p>{escape(line)}</p>" for line in advice(document))


def _figures(document: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{escape(title)}</th><td>{escape(text)}</td></tr>"
        for title, text in summary_rows(document)
        if title != "bounds"  # those have a picture of their own
    )
    return f'<div class="wide"><table class="figures">{rows}</table></div>'


def _charts(document: Mapping[str, Any], totals: Totals) -> Iterator[str]:
    charts = (
        histogram_svg(
            totals.cosine_gaps, "Matched features: 1 - cosine", "1 - cosine", 1 - document["features"]["min_cosine"]
        ),
        histogram_svg(totals.errors, "Matched features: relative error", "|a - b| / |a|"),
        drift_svg(totals.moments_a, totals.moments_b, "Mean of each channel"),
    )
    if any(charts):
        yield f'<div class="charts">{"".join(charts)}</div>'
        yield "<p>Dashed: the bound of equal features, and the line on which means do not differ.</p>"


def _trials(diagnosis: Mapping[str, Any]) -> str:
    rows = [
        (trial["label"], round(trial["cosine"], 5), float(f"{trial['error']:.2g}"), trial["images"])
        for trial in diagnosis.get("trials", ())[:TRIALS]
    ]
    about = (
        f"<p>Features of the detector {escape(diagnosis.get('detector', ''))} at the boxes of {diagnosis['suspect']}, "
        f"against the features that {diagnosis['suspect']} has there; means over the regions of a few images, the "
        "nearest first.</p>"
        if rows
        else ""
    )
    return about + table(("how it was run", "cosine", "relative error", "images"), rows)


def _pictures(pictures: Sequence[str]) -> str:
    if not pictures:
        return ""
    legend = "".join(
        f'<span><svg viewBox="0 0 30 14" aria-hidden="true"><rect class="{kind}" x="2" y="2" width="26" height="10"/>'
        f"</svg>{text}</span>"
        for kind, text in (
            ("equal", "matched, features equal"),
            ("other", "matched, features differ"),
            ("alone", "no match"),
        )
    )
    return f'<p class="legend">{legend}</p>' + "".join(pictures)
