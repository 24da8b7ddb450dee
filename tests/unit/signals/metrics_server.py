"""A real Prometheus on loopback, with a history that a test makes up."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
from tests.unit.stores.servers import free_port, running

from holdfast_devcluster import binaries

Series = Mapping[str, Callable[[float], float | None]]
"""Text of a series, such as `up{job="a"}`, to its value by the seconds before now; None where it has no sample."""


def promtool(*arguments: str) -> str:
    """What it prints. Raises AssertionError with its words when it fails."""
    program = binaries.find("promtool")["promtool"].path
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def history(folder: Path, series: Series, seconds: int, step: int = 60, ahead: int = 0) -> Path:
    """A data folder with these series over the last seconds, the newest sample five seconds ago; or, where they are to
    go on while they are asked about, so many seconds `ahead`."""
    newest = int(time.time()) - 5
    times = range(seconds - seconds % step, -ahead - 1, -step)
    lines = [
        f"{text} {found} {newest - before}"
        for text, value in sorted(series.items(), key=lambda pair: pair[0].partition("{")[0])
        for before in times
        if (found := value(before)) is not None
    ]
    source, data = folder / "history.txt", folder / "data"
    source.write_text("\n".join([*lines, "# EOF"]) + "\n")
    promtool("tsdb", "create-blocks-from", "openmetrics", "--quiet", str(source), str(data))
    return data


@contextlib.contextmanager
def prometheus(
    folder: Path, data: Path | None = None, configuration: Mapping[str, Any] | None = None, port: int = 0
) -> Iterator[str]:
    """The URL of one that is ready; port 0 for any."""
    port = port or free_port()
    file = folder / "prometheus.yml"
    file.write_text(json.dumps(configuration or {}))
    command = [
        str(binaries.find("prometheus")["prometheus"].path), f"--config.file={file}",
        f"--storage.tsdb.path={data or folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--storage.tsdb.retention.time=100d",
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with running(command, port, folder / "prometheus.log"):
        end = time.monotonic() + 60
        while httpx.get(f"{url}/-/ready", timeout=60).status_code != 200:
            assert time.monotonic() < end, (folder / "prometheus.log").read_text()
            time.sleep(0.05)
        yield url


def value(url: str, query: str) -> list[dict[str, Any]]:
    """What Prometheus says to a query."""
    answer = httpx.get(f"{url}/api/v1/query", params={"query": query}, timeout=60).json()
    assert answer["status"] == "success", answer
    result: list[dict[str, Any]] = answer["data"]["result"]
    return result
