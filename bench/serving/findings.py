"""What was measured, and what could not be."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.serving.questions import WrongAnswerError
from bench.serving.running import ServerError

from holdfast_devcluster.errors import ClusterError

_BROKEN = (ServerError, WrongAnswerError, ClusterError, OSError)
_started = time.monotonic()

Row = dict[str, dict[str, float]]
"""By measure: median, min and max."""


def say(text: str) -> None:
    """A progress line, on standard error."""
    print(f"[{time.monotonic() - _started:5.0f} s] {text}", file=sys.stderr, flush=True)


@dataclass
class Findings:
    """Figures by measure and server.

    Attributes:
        failures: why a server, or a part of the benchmark, has no figures.
    """

    samples: dict[str, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, server: str, **figures: float) -> None:
        for measure, figure in figures.items():
            self.samples[measure][server].append(figure)

    @contextmanager
    def guarded(self, name: str) -> Iterator[None]:
        """What goes wrong inside is a failure of this server or part, and does not stop the rest."""
        try:
            yield
        except subprocess.CalledProcessError as error:
            program = Path(error.cmd[0]).name if error.cmd[0] != "taskset" else error.cmd[3]
            said = (error.stderr or error.stdout or "").strip().splitlines()[-5:]
            self.failures[name] = " | ".join([f"{program} ended with {error.returncode}", *said])
            say(f"{name} failed: {self.failures[name]}")
        except _BROKEN as error:
            self.failures[name] = str(error)
            say(f"{name} failed: {self.failures[name]}")

    def medians(self, measure: str) -> dict[str, float]:
        """By server, without those that failed at any time."""
        return {
            name: _short(statistics.median(taken))
            for name, taken in self.samples[measure].items()
            if name not in self.failures
        }

    def rows(self) -> dict[str, Row]:
        """Everything, by server."""
        made: dict[str, Row] = {}
        for measure, by_server in self.samples.items():
            for name, taken in by_server.items():
                row = {"median": statistics.median(taken), "min": min(taken), "max": max(taken)}
                made.setdefault(name, {})[measure] = {key: _short(value) for key, value in row.items()}
        return made


def _short(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")
