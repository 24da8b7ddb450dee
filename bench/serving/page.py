"""`python -m bench.serving.page RESULT.json`: docs/benchmarks.md and its charts from what the benchmark printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

DOCS = Path(__file__).parents[2] / "docs"
CHARTS = {
    "iris_json_c32": ("requests-json", "Iris, JSON, 32 connections: requests per second (more is better)"),
    "grpc_c32": ("requests-grpc", "Iris, gRPC, 32 concurrent calls: requests per second (more is better)"),
    "iris_json_c1_p50_us": ("latency", "Iris, JSON, one connection: median latency in µs (less is better)"),
    "iris_json_c32_cpu_us": ("cpu", "Iris, JSON, 32 connections: CPU time per request in µs (less is better)"),
    "ready_ms": ("start", "From exec to the first right answer, in ms (less is better)"),
    "pss_mb": ("memory", "Memory after the first answer, in MB of PSS (less is better)"),
}
"""By measure: the file, and what it says above."""

FROM_ELSEWHERE = ("rollouts_failed_requests", "rollouts_requests", "router_hop_us")
"""Keys that other benchmarks measure."""

_NOT_MEASURED = "not measured"
_WIDTH, _LABEL, _BAR, _STEP = 720, 110, 20, 30


def page(result: Mapping[str, Any]) -> str:
    """The whole page."""
    run, rows = result["run"], result["rows"]
    loaders = "wrk, h2load for gRPC" if result["grpc_c32"] else "wrk"
    charts = "\n".join(
        f"![{title}](benchmarks/{name}.svg)\n" for measure, (name, title) in CHARTS.items() if _by_server(rows, measure)
    )
    return f"""# The model server beside others

Made by `python -m bench.serving.page` from what `make bench-serving` printed: {run["rounds"]} rounds of
{run["seconds"]} s per load on a machine with {run["cores"]} cores (load average {run["load_average"]:.1f}), Python
{run["python"]}. The server has one core, the load ({loaders}) another; the servers take turns, and all have
the same model, the same ONNX Runtime with one thread, and the same requests. Every answer's status and the answers'
size are checked, twenty answers a second down to the last number. Absolute figures depend on the machine: look at the
ratios. Everything is on in `holdfast`: validation, limits, metrics and drift counters.

The object itself: [result.json](benchmarks/result.json).

`null` is our own protocol stack with a constant behind it, `raw` is `session.run` in a loop: the limits.

Neighbours on the machine change rates and latencies, and CPU time per request hardly: where a server has less than its
core, the last column says what the rates would be.

| measure | goal | measured | by CPU time |
|---|---|---|---|
{_table(_goals(result))}
{_failures(result)}
{charts}
## All figures

Median (smallest to largest).

{_all_figures(rows)}
## How the peers are set

One worker each, for one core; ONNX Runtime with one thread; logging of requests off. The files are in
`bench/serving/peers`, the exact versions in `requirements/bench-*.txt`.

* **fastapi**: a checked pydantic body, an `async` handler, orjson for the answer; uvicorn with uvloop and httptools.
  **fastapi_def**: the same with a handler as in FastAPI's tutorial, a plain function that returns a dictionary.
* **mlserver**: a custom runtime, `parallel_workers=0` as its documentation advises for light models.
* **kserve**: a custom model, latency logging off.
* **bentoml**: an `async` API; metrics and the access log off.
* **litserve**: one API process and one worker.
"""


def chart(title: str, values: Mapping[str, float]) -> str:
    """Horizontal bars as SVG, ours in another colour."""
    largest = max(values.values())
    height = 44 + _STEP * len(values)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}"'
        f' role="img" aria-label="{escape(title)}" font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="8" y="22" font-weight="600" fill="#1f2328">{escape(title)}</text>',
    ]
    for index, (name, value) in enumerate(values.items()):
        top = 38 + _STEP * index
        width = max(1.0, value / largest * (_WIDTH - _LABEL - 80))
        colour = {"holdfast": "#0b6e4f", "null": "#b8c4bf"}.get(name, "#6b7f94")
        parts += [
            f'<text x="{_LABEL - 8}" y="{top + 15}" text-anchor="end" fill="#1f2328">{escape(name)}</text>',
            f'<rect x="{_LABEL}" y="{top}" width="{width:.1f}" height="{_BAR}" rx="2" fill="{colour}"/>',
            f'<text x="{_LABEL + width + 6:.1f}" y="{top + 15}" fill="#1f2328">{value:,g}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def _goals(result: Mapping[str, Any]) -> Iterable[tuple[str, str, str, str]]:
    """(measure, goal, measured in words, the same by the server's CPU time)."""
    rates, calls, latency = (result[key] for key in ("iris_json_c32", "grpc_c32", "iris_json_c1_p50_us"))
    cpu, call_cpu = (_by_server(result["rows"], f"{key}_cpu_us") for key in ("iris_json_c32", "grpc_c32"))
    for goal, peer in ((15, "fastapi"), (15, "fastapi_def"), (28, "mlserver"), (30, "kserve"), (60, "bentoml")):
        yield (
            "iris, JSON, 32 connections: requests/s",
            f"≥ {goal} × {peer}",
            _times(rates, "holdfast", peer),
            _times(cpu, peer, "holdfast"),
        )
    yield (
        "iris, JSON, 32 connections: requests/s",
        "≥ 0.5 × null",
        _times(rates, "holdfast", "null"),
        _times(cpu, "null", "holdfast"),
    )
    for peer in ("mlserver", "kserve"):
        yield (
            "iris, gRPC, 32 at once: requests/s",
            f"≥ 10 × {peer}",
            _times(calls, "holdfast", peer),
            _times(call_cpu, peer, "holdfast"),
        )
    more = f"null + {latency['holdfast'] - latency['null']:.0f} µs" if {"holdfast", "null"} <= latency.keys() else None
    yield "iris, JSON, one connection: p50", "≤ null + 70 µs", more or _NOT_MEASURED, ""
    for peer in ("fastapi", "fastapi_def"):
        yield "iris, JSON, one connection: p50", f"≤ 0.45 × {peer}", _times(latency, "holdfast", peer), ""
    for name, key, goal in (
        ("MLP 64-256-256-10, 64 connections, 32 rows per request", "mlp_c64_of_raw", "≥ 0.6 of raw at batch 32"),
        ("CNN 3×224×224 (ResNet-18 of PyTorch)", "cnn_of_raw", "≥ 0.95 of raw"),
        ("throughput lost to metrics and drift counters", "counters_cost", "≤ 0.1"),
        ("exec to first right answer, in ms", "ready_ms", "≤ 500"),
        ("idle memory (PSS), in MB", "pss_mb", "≤ 80"),
        ("image, unpacked, without the base, in MB", "image_mb", "≤ 150"),
        ("requests lost in rollouts", "rollouts_failed_requests", "0"),
        ("requests in rollouts", "rollouts_requests", "≥ 100,000"),
        ("way to another revision through the router, in µs", "router_hop_us", ""),
    ):
        yield name, goal, _NOT_MEASURED if result[key] is None else f"{result[key]:,g}", ""


def _times(by_server: Mapping[str, float], one: str, other: str) -> str:
    if one not in by_server or other not in by_server:
        return _NOT_MEASURED
    return f"{by_server[one] / by_server[other]:.2f} ×"


def _table(lines: Iterable[Iterable[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _failures(result: Mapping[str, Any]) -> str:
    return "".join(f"* `{name}` failed: {why}\n" for name, why in result["failures"].items())


def _all_figures(rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    measures = sorted({measure for row in rows.values() for measure in row})
    lines = [["", *rows], ["---"] * (len(rows) + 1)]
    for measure in measures:
        cells = [_cell(row.get(measure)) for row in rows.values()]
        lines.append([f"`{measure}`", *cells])
    return _table(lines)


def _cell(figure: Mapping[str, float] | None) -> str:
    return "" if figure is None else f"{figure['median']:,g} ({figure['min']:,g} to {figure['max']:,g})"


def _by_server(rows: Mapping[str, Mapping[str, Mapping[str, float]]], measure: str) -> dict[str, float]:
    return {name: row[measure]["median"] for name, row in rows.items() if measure in row}


def main(file: Path) -> None:
    """Write the page, the charts and the object that they are made from."""
    text = file.read_text().splitlines()[-1]
    result = json.loads(text)
    (DOCS / "benchmarks").mkdir(exist_ok=True)
    (DOCS / "benchmarks" / "result.json").write_text(text + "\n")
    for measure, (name, title) in CHARTS.items():
        if values := _by_server(result["rows"], measure):
            (DOCS / "benchmarks" / f"{name}.svg").write_text(chart(title, values))
    (DOCS / "benchmarks.md").write_text(page(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
