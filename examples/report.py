"""A demo's story as one HTML file: what was decided when, and curves beside it. It asks no network for anything."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

WIDTH, HEIGHT, LEFT, BELOW = 860, 150, 46, 18
COLOURS = ("#2563a8", "#b4541a", "#2b8a5d", "#8a3b8f", "#6b6b6b")
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 900px; margin: 2em auto; padding: 0 1em; color: #222 }
h1 { font-size: 1.5em } h2 { font-size: 1.1em; margin: 1.6em 0 .2em }
svg { width: 100%; height: auto; background: #fafafa; border: 1px solid #ddd }
text { font: 11px system-ui, sans-serif; fill: #555 } .mark { stroke: #999; stroke-dasharray: 3 3 }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; vertical-align: top; padding: .25em .6em .25em 0; border-bottom: 1px solid #eee }
td:first-child { white-space: nowrap; font-variant-numeric: tabular-nums }
.key span { display: inline-block; margin-right: 1.2em } .key i { display: inline-block; width: 1em; height: .2em;
margin-right: .4em; vertical-align: middle }
"""


@dataclass(frozen=True)
class Chart:
    """Curves over time.

    Attributes:
        curves: by name, points of (seconds since 1970, value), in order of time.
        limit: a level that is drawn across; None for none.
    """

    title: str
    text: str
    curves: Mapping[str, Sequence[tuple[float, float]]]
    limit: float | None = None


def page(
    title: str, text: str, charts: Iterable[Chart], marks: Sequence[tuple[float, str]], decisions: Iterable[Any]
) -> str:
    """The whole file.

    Args:
        marks: moments of the story, as (seconds since 1970, name); drawn into every chart.
        decisions: `status.decisions`, newest first.
    """
    drawn = list(charts)
    times = [time for chart in drawn for curve in chart.curves.values() for time, _ in curve]
    span = (min(times), max(times)) if times else (0.0, 1.0)
    parts = [_chart(chart, span, marks) for chart in drawn]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_text(title)}</title><style>{_STYLE}</style>'
        f"<h1>{_text(title)}</h1><p>{_text(text)}</p>{''.join(parts)}{_table(decisions)}</html>\n"
    )


def smoothed(points: Sequence[tuple[float, float, float]], seconds: float) -> list[tuple[float, float]]:
    """Shares over time from (time, part, whole): each of all that ended in so many seconds."""
    made: list[tuple[float, float]] = []
    for index, (time, _, _) in enumerate(points):
        recent = [(part, whole) for at, part, whole in points[max(0, index - 600) : index + 1] if at > time - seconds]
        whole = sum(each for _, each in recent)
        if whole:
            made.append((time, sum(part for part, _ in recent) / whole))
    return made


def _chart(chart: Chart, span: tuple[float, float], marks: Sequence[tuple[float, str]]) -> str:
    values = [value for curve in chart.curves.values() for _, value in curve]
    if not values:
        return f"<h2>{_text(chart.title)}</h2><p>{_text(chart.text)} There are no numbers.</p>"
    low, high = min(values), max([*values, *([chart.limit] if chart.limit is not None else [])])
    low, high = (low - 0.05 * (high - low), high + 0.05 * (high - low)) if high > low else (low - 0.5, high + 0.5)

    def place(time: float, value: float) -> tuple[float, float]:
        across = (time - span[0]) / ((span[1] - span[0]) or 1.0)
        return LEFT + across * (WIDTH - LEFT), HEIGHT - (value - low) / (high - low) * HEIGHT

    lines = [f'<text x="0" y="{y:.0f}">{value:.3g}</text>' for value, y in ((high, 10), (low, HEIGHT))]
    for time, name in marks:
        if span[0] <= time <= span[1]:
            x = place(time, low)[0]
            lines.append(f'<line class="mark" x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{HEIGHT}"/>')
            lines.append(f'<text x="{x + 3:.1f}" y="{HEIGHT + 13}">{_text(name)}</text>')
    if chart.limit is not None:
        y = place(span[0], chart.limit)[1]
        lines.append(f'<line class="mark" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH}" y2="{y:.1f}"/>')
    key = []
    for number, (name, curve) in enumerate(chart.curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join("{:.1f},{:.1f}".format(*place(time, value)) for time, value in curve)
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        key.append(f'<span><i style="background:{colour}"></i>{_text(name)}</span>')
    return (
        f"<h2>{_text(chart.title)}</h2><p>{_text(chart.text)}</p>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT + BELOW}" role="img" aria-label="{_text(chart.title)}">'
        f"{''.join(lines)}</svg>"
        f'<p class="key">{"".join(key)}</p>'
    )


def _table(decisions: Iterable[Any]) -> str:
    rows = [
        f"<tr><td>{_text(datetime.fromisoformat(each['time']).strftime('%H:%M:%S'))}</td>"
        f"<td>{_text(each['action'])}</td><td>{_text(each['reason'])}</td>"
        f"<td>{_text(each['message'])}<br><small>{_text(each.get('evidence', ''))}</small></td></tr>"
        for each in reversed(list(decisions))
    ]
    head = "<tr><th>Time (UTC)</th><th>Decision</th><th>Reason</th><th>In words</th></tr>"
    return f"<h2>Decisions</h2><table>{head}{''.join(rows)}</table>"


def _text(text: object) -> str:
    return html.escape(str(text))
