"""The server's life: ports first, then the model, then requests, then a drain without a lost answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast_bundle import termination
from holdfast_bundle.errors import BundleError
from holdfast_serving import cgroup, management, outcome
from holdfast_serving.connection import Port
from holdfast_serving.control import MAX_LEASE_BYTES
from holdfast_serving.limits import Limits
from holdfast_serving.process import Process, grpc_codec
from holdfast_serving.served import Served
from holdfast_serving.settings import Settings

if TYPE_CHECKING:
    from holdfast_serving.grpc.codec import GrpcCodec
    from holdfast_serving.load import Fetched, Loaded
    from holdfast_serving.siblings import Siblings

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_QUIET_SECONDS = 1.0  # a request may be on its way on a connection that has just been made or answered
_STILL_SECONDS = 2.0  # without a new connection: then nobody is sent here any more
_LAST_CALL_SECONDS = 30.0  # after SIGTERM; the kubelet's patience is twice that, for what is in work by then


async def serve(settings: Settings) -> int:
    """Run until SIGTERM; return the exit code."""
    started = time.monotonic()
    try:
        process = Process(settings)
    except BundleError as error:
        return _failed(error, "", settings)
    served = process.served
    stopping = _stop_signal()
    admin = Port(management.routes(served, process.control), Limits(body_bytes=MAX_LEASE_BYTES))
    numbers = (settings.port, settings.management_port, settings.grpc_port)
    sockets = [listener(settings.host, number) for number in numbers]
    numbers = tuple(sock.getsockname()[1] for sock in sockets)
    await admin.listen(sockets[1])
    await process.http.listen(sockets[0], process.certificates)
    await process.rpc.listen(sockets[2], process.certificates)
    log.info("listening: http %d, management %d, grpc %d", *numbers)
    siblings: Siblings | None = None
    try:
        with tempfile.TemporaryDirectory(dir=settings.scratch, prefix="model-") as folder:
            loading = asyncio.create_task(asyncio.to_thread(_load, settings, Path(folder), served))
            if not await _unless(stopping, loading):
                log.info("told to stop before the model was loaded")
                _leave(folder)
            try:
                fetched, loaded, codec = loading.result()
            except BundleError as error:
                return _failed(error, settings.model_uri, settings)
            process.metrics.phases = fetched.seconds | loaded.seconds
            info = _info(settings, fetched, loaded)
            if loaded.topology.processes > 1:
                siblings = await _siblings(process, fetched, loaded, info, stopping)
                if siblings.lost.is_set():
                    return await _lost(siblings, settings)
                if stopping.is_set():
                    return outcome.DONE
            process.open(loaded, codec, info)
            if siblings is not None:
                siblings.open()
            process.metrics.load_seconds = time.monotonic() - started
            log.info("ready after %.1f s", process.metrics.load_seconds)
            if siblings is None:
                await stopping.wait()
            elif await _unless(stopping, asyncio.create_task(siblings.lost.wait())):
                served.reachable = False  # other pods have all their processes
                await _drain(process, siblings, settings.drain_seconds)
                return await _lost(siblings, settings)
            await _drain(process, siblings, settings.drain_seconds)
            return outcome.DONE
    finally:
        if siblings is not None:
            await siblings.stop()
        process.stop()
        admin.stop()


async def _unless(stopping: asyncio.Event, task: asyncio.Task[Any]) -> bool:
    """Wait for a task, unless the pod is to stop before. Returns whether it is done."""
    stop = asyncio.create_task(stopping.wait())
    await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    return task.done()


def _load(settings: Settings, folder: Path, served: Served) -> tuple[Fetched, Loaded, GrpcCodec]:
    from holdfast_serving import load, topology

    fetched = load.fetch(
        settings.model_uri,
        folder,
        settings.digest,
        claims=settings.claims,
        credentials=settings.credentials,
        cache=settings.cache,
        tell=served.tell,
    )
    served.tell("fetched, loads")
    cpus = settings.cpus or cgroup.threads()
    loaded = load.load(fetched, settings.model_name, settings.revision, cpus, settings.max_batch_rows)
    codec = grpc_codec(loaded, settings)
    wanted = loaded.topology.processes
    if wanted > 1:
        limit = settings.memory or cgroup.memory_limit()
        processes = 1 if settings.grpcio else topology.affordable(wanted, limit)
        if processes < wanted:
            log.warning("%d CPUs, but %d process(es): grpcio, or the memory limit, allows no more", wanted, processes)
        loaded = replace(loaded, topology=replace(loaded.topology, processes=processes))
    return fetched, loaded, codec


def _info(settings: Settings, fetched: Fetched, loaded: Loaded) -> dict[str, str]:
    """Labels of the info metric."""
    return {
        "uri": settings.model_uri.partition("?")[0],
        "digest": fetched.digest,
        "format": "Bundle" if fetched.bundle else "ONNX",
        "batching": str(loaded.apart is None).lower(),
        "profile": loaded.profile.state if loaded.profile else "none",
        "threads": str(loaded.topology.threads),
        "parallel_runs": str(loaded.topology.runs),
        "processes": str(loaded.topology.processes),
    }


async def _siblings(
    process: Process, fetched: Fetched, loaded: Loaded, info: dict[str, str], stopping: asyncio.Event
) -> Siblings:
    """Start the pod's other processes; returns when they have the model, or when there is no hope of that."""
    from holdfast_serving.siblings import Siblings

    process.served.tell("loaded, starts more processes")
    siblings = Siblings(process)
    model = {
        "folder": str(fetched.folder),
        "file": str(fetched.model),
        "is_bundle": fetched.bundle is not None,
        "cost": loaded.cost,
        "topology": loaded.topology,
        "apart": loaded.apart,
        "example": loaded.example,
        "info": info,
    }
    began = time.monotonic()
    await _unless(stopping, asyncio.create_task(siblings.start(loaded.topology.processes - 1, model)))
    process.metrics.phases["processes"] = time.monotonic() - began
    return siblings


async def _drain(process: Process, siblings: Siblings | None, seconds: float) -> None:
    """End without losing an answer.

    Nobody can know when the last balancer has heard that this pod is going; and where it is the only one, clients have
    nowhere else to go until another is ready. So each answer says that its connection closes, but new connections are
    taken for some seconds, and on as long as they come. What is in work ends, however long it takes: the kubelet has a
    clock of its own.

    The kubelet is told until then that the pod is reachable. Being deleted, it is out of the Service anyway; but
    kube-proxy sends to a pod that is going when there is no other, as long as that one says so.
    """
    log.info("draining: new connections for %g s at least", seconds)
    process.go()
    if siblings is not None:
        siblings.go()
    ports = (process.http, process.rpc)
    end = time.monotonic() + _LAST_CALL_SECONDS
    await asyncio.sleep(seconds)
    while time.monotonic() < end and any(port.is_sought(_STILL_SECONDS) for port in ports):  # noqa: ASYNC110
        await asyncio.sleep(_POLL_SECONDS)
    process.served.reachable = False
    for port in ports:
        port.stop_listening()
    if siblings is not None:
        await siblings.finish()
    while left := sum(port.close_idle(_QUIET_SECONDS) for port in ports):
        log.debug("%d connections left", left)
        await asyncio.sleep(_POLL_SECONDS)
    log.info("drained")


async def _lost(siblings: Siblings, settings: Settings) -> int:
    termination.write({"reason": "ProcessEnded", "message": await siblings.why_lost()}, settings.termination_log)
    return outcome.MAY_PASS


def _failed(error: BundleError, uri: str, settings: Settings) -> int:
    code, message = outcome.of_error(error, uri)
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


def listener(host: str, port: int) -> socket.socket:
    """A bound socket; without a host for IPv6 and IPv4, or IPv4 alone where there is no IPv6."""
    if host:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    with contextlib.suppress(OSError):
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))
