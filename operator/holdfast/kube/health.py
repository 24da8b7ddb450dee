"""Is this process alive, is it ready, and what does it measure: a small HTTP server beside the work.

It runs in the event loop that it judges: a loop that hangs does not answer, and an unanswered probe fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from prometheus_client import generate_latest

from holdfast.kube import metrics

TICK = 1.0
MAX_LAG = 10.0


@dataclass(frozen=True, slots=True)
class Health:
    """A judgement of the process."""

    fatal: tuple[str, ...]
    """What only a new process can mend: liveness fails."""
    problems: tuple[str, ...]
    """What somebody should look at: readiness fails."""
    details: Mapping[str, Any]


class Ticker:
    """Measures by how much the event loop runs late."""

    def __init__(self) -> None:
        self.lag = 0.0

    async def run(self) -> None:
        """For ever."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK
            await asyncio.sleep(TICK)
            self.lag = max(0.0, loop.time() - due)
            metrics.LOOP_LAG.set(self.lag)


class HealthServer:
    """Serves /livez, /readyz, /healthz (both, with details) and /metrics."""

    def __init__(self, port: int, judge: Callable[[], Health]) -> None:
        self._port = port
        self._judge = judge
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Raises OSError when the port is taken."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/livez", self._livez),
                web.get("/readyz", self._readyz),
                web.get("/healthz", self._healthz),
                web.get("/metrics", self._metrics),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, port=self._port).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _livez(self, request: web.Request) -> web.Response:
        return _answer(self._judge().fatal)

    async def _readyz(self, request: web.Request) -> web.Response:
        health = self._judge()
        return _answer(health.fatal + health.problems)

    async def _healthz(self, request: web.Request) -> web.Response:
        health = self._judge()
        wrong = health.fatal + health.problems
        return web.json_response({**health.details, "problems": list(wrong)}, status=503 if wrong else 200)

    async def _metrics(self, request: web.Request) -> web.Response:
        self._judge()  # sets the gauges
        return web.Response(
            body=generate_latest(metrics.REGISTRY), headers={"Content-Type": "text/plain; version=0.0.4"}
        )


def _answer(wrong: tuple[str, ...]) -> web.Response:
    return web.Response(text="".join(f"{problem}\n" for problem in wrong) or "ok\n", status=503 if wrong else 200)
