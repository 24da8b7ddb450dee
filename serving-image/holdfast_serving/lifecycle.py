"""The server's life: ports first, then the model, then requests, then a drain without a lost answer."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast_bundle import termination
from holdfast_bundle.errors import BundleError
from holdfast_serving import cgroup, management, outcome
from holdfast_serving.api import Api
from holdfast_serving.connection import Port
from holdfast_serving.metrics import Metrics
from holdfast_serving.served import Served
from holdfast_serving.settings import Settings

if TYPE_CHECKING:
    from holdfast_serving.load import Fetched, Loaded

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_QUIET_SECONDS = 1.0  # a request may be on its way on a connection that has just been made or answered


async def serve(settings: Settings) -> int:
    """Run until SIGTERM; return the exit code."""
    started = time.monotonic()
    metrics = Metrics(settings.model_name, settings.revision)
    served = Served(settings.model_name, settings.revision, metrics)
    api = Api(served)
    http = Port(api.routes)
    admin = Port(management.routes(served))
    stopping = _stop_signal()
    sockets = [_listener(settings.host, port) for port in (settings.port, settings.management_port)]
    await admin.listen(sockets[1])
    await http.listen(sockets[0])
    log.info("listening: http %d, management %d", *(sock.getsockname()[1] for sock in sockets))
    try:
        with tempfile.TemporaryDirectory(dir=settings.scratch, prefix="model-") as folder:
            loading = asyncio.create_task(asyncio.to_thread(_load, settings, Path(folder)))
            await asyncio.wait({loading, asyncio.create_task(stopping.wait())}, return_when="FIRST_COMPLETED")
            if not loading.done():
                log.info("told to stop before the model was loaded")
                _leave(folder)
            try:
                fetched, loaded = loading.result()
            except BundleError as error:
                return _failed(error, settings)
            _open(served, api, settings, fetched, loaded)
            metrics.load_seconds = time.monotonic() - started
            log.info("ready after %.1f s", metrics.load_seconds)
            await stopping.wait()
            served.ready = False
            await _drain(http, settings.drain_seconds)
            return outcome.DONE
    finally:
        http.stop()
        admin.stop()


def _load(settings: Settings, folder: Path) -> tuple[Fetched, Loaded]:
    from holdfast_serving import load

    fetched = load.fetch(settings.model_uri, folder, settings.digest, claims=settings.claims)
    loaded = load.load(fetched, settings.model_name, settings.revision, cgroup.threads())
    return fetched, loaded


def _open(served: Served, api: Api, settings: Settings, fetched: Fetched, loaded: Loaded) -> None:
    from holdfast_serving.batching import Batcher

    served.metrics.info = {
        "uri": settings.model_uri.partition("?")[0],
        "digest": fetched.digest,
        "format": "Bundle" if fetched.bundle else "ONNX",
        "batching": str(loaded.apart is None).lower(),
    }
    # A thread that comes back from the runtime waits for the GIL at most this long, not 5 ms.
    sys.setswitchinterval(0.0005)
    gc.collect()
    gc.freeze()  # what is there now stays: no need to walk it again and again
    batcher = Batcher(loaded.model, served.metrics, loaded.cost, joins=loaded.apart is None)
    api.open(loaded.codec)
    served.open(loaded.model.signature, loaded.metadata(served.name, served.revision), batcher.submit)


async def _drain(port: Port, seconds: float) -> None:
    """End without losing an answer.

    Nobody can know when the last balancer has heard that this pod is going. So new connections are taken for
    some seconds more, each answer says that its connection closes, and what is in work ends, however long it
    takes: the kubelet has a clock of its own.
    """
    log.info("draining: new connections for %g s more", seconds)
    port.draining = True
    await asyncio.sleep(seconds)
    port.stop_listening()
    while (left := port.close_idle(_QUIET_SECONDS)) > 0:
        log.debug("%d connections left", left)
        await asyncio.sleep(_POLL_SECONDS)
    log.info("drained")


def _failed(error: BundleError, settings: Settings) -> int:
    code, message = outcome.of_error(error, settings.model_uri)
    log.error("%(reason)s: %(message)s", message)
    termination.write(message, settings.termination_log)
    return code


def _stop_signal() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT; the second ends the process at once."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if stopping.is_set():
            os._exit(1)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    return stopping


def _leave(folder: str) -> None:
    """The loading thread cannot be stopped; the pod's disk goes with the pod."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    os._exit(outcome.DONE)


def _listener(host: str, port: int) -> socket.socket:
    """A bound socket; without a host for IPv6 and IPv4, or IPv4 alone where there is no IPv6."""
    if host:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    with contextlib.suppress(OSError):
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))
