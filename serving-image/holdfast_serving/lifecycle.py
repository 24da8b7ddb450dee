"""The server's life: ports first, then the model, then requests, then a drain without a lost answer."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from holdfast_bundle import termination
from holdfast_bundle.errors import BundleError
from holdfast_serving import cgroup, management, outcome
from holdfast_serving.api import Api
from holdfast_serving.certificates import Certificates
from holdfast_serving.connection import Port
from holdfast_serving.control import MAX_LEASE_BYTES, Control
from holdfast_serving.feedback import Feedback
from holdfast_serving.grpc import connection as grpc
from holdfast_serving.grpc.service import Service
from holdfast_serving.limits import Limits
from holdfast_serving.metrics import Metrics
from holdfast_serving.receipts import Keys, Receipts, Sealer
from holdfast_serving.served import Served, Submit
from holdfast_serving.settings import Settings

if TYPE_CHECKING:
    from holdfast_serving.batching import Batcher
    from holdfast_serving.grpc.codec import GrpcCodec
    from holdfast_serving.lease import Lease
    from holdfast_serving.load import Fetched, Loaded
    from holdfast_serving.router import Router

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_LEAST_RUN_SECONDS = 5.0  # before a run is stopped, however little time requests have
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_QUIET_SECONDS = 1.0  # a request may be on its way on a connection that has just been made or answered
_STILL_SECONDS = 2.0  # without a new connection: then nobody is sent here any more
_LAST_CALL_SECONDS = 30.0  # after SIGTERM; the kubelet's patience is twice that, for what is in work by then


class AnyPort(Protocol):
    """A port for requests, whatever its protocol."""

    draining: bool

    async def listen(self, sock: socket.socket, certificates: Certificates | None = None) -> None: ...

    def is_sought(self, seconds: float) -> bool: ...

    def stop_listening(self) -> None: ...

    def close_idle(self, seconds: float) -> int: ...

    def stop(self) -> None: ...


async def serve(settings: Settings) -> int:
    """Run until SIGTERM; return the exit code."""
    started = time.monotonic()
    metrics = Metrics(settings.model_name, settings.revision)
    served = Served(settings.model_name, settings.revision, metrics, settings.request_timeout_seconds)
    try:
        certificates = _certificates(settings)
        _take_feedback(served, settings)
    except BundleError as error:
        return _failed(error, "", settings)
    api = Api(served)
    service = Service(served)
    http = Port(api.routes, settings.limits)
    rpc = _grpc_port(service, http, settings)
    stopping = _stop_signal()

    control = Control(served, settings.router_keys, secured=certificates is not None)
    collectors = [certificates] if certificates else []
    admin = Port(management.routes(served, control, *collectors), Limits(body_bytes=MAX_LEASE_BYTES))
    numbers = (settings.port, settings.management_port, settings.grpc_port)
    sockets = [listener(settings.host, number) for number in numbers]
    numbers = tuple(sock.getsockname()[1] for sock in sockets)
    await admin.listen(sockets[1])
    await http.listen(sockets[0], certificates)
    await rpc.listen(sockets[2], certificates)
    log.info("listening: http %d, management %d, grpc %d", *numbers)
    try:
        with tempfile.TemporaryDirectory(dir=settings.scratch, prefix="model-") as folder:
            loading = asyncio.create_task(asyncio.to_thread(_load, settings, Path(folder), served))
            await asyncio.wait({loading, asyncio.create_task(stopping.wait())}, return_when="FIRST_COMPLETED")
            if not loading.done():
                log.info("told to stop before the model was loaded")
                _leave(folder)
            try:
                fetched, loaded, codec = loading.result()
            except BundleError as error:
                return _failed(error, settings.model_uri, settings)
            receipts = served.feedback.receipts if served.feedback else None
            codec.sealer = loaded.codec.sealer = Sealer(receipts, loaded.model.signature, served.revision)
            service.open(codec)
            batcher = _open(served, api, settings, fetched, loaded)

            def turn_away(away: bool) -> None:
                http.draining = rpc.draining = away or stopping.is_set()

            make_router = partial(_router, served, loaded, batcher.submit, turn_away, certificates)
            control.open(make_router, batcher.oldest_seconds, len(loaded.golden))
            metrics.load_seconds = time.monotonic() - started
            log.info("ready after %.1f s", metrics.load_seconds)
            await stopping.wait()
            await _drain(served, [http, rpc], settings.drain_seconds)
            return outcome.DONE
    finally:
        for port in (http, rpc, admin):
            port.stop()
        if certificates:
            certificates.stop()


def _certificates(settings: Settings) -> Certificates | None:
    if not settings.tls_secret:
        return None
    # Who must show a certificate for feedback alone may also come without one.
    asked = ssl.CERT_OPTIONAL if settings.feedback_client_auth else ssl.CERT_NONE
    client_auth = ssl.CERT_REQUIRED if settings.client_auth else asked
    certificates = Certificates(settings.tls / settings.tls_secret, client_auth=client_auth)
    certificates.watch()
    return certificates


def _take_feedback(served: Served, settings: Settings) -> None:
    if not settings.feedback_secret:
        return
    receipts = Receipts(Keys(settings.feedback / settings.feedback_secret), served.name)
    served.feedback = Feedback(
        receipts,
        served.name,
        served.revision,
        settings.feedback_rows_per_minute,
        certified=settings.feedback_client_auth,
    )
    served.collectors.append(served.feedback)


def _grpc_port(service: Service, http: Port, settings: Settings) -> AnyPort:
    if settings.grpcio:
        from holdfast_serving.grpc import fallback

        return fallback.Port(service)
    return grpc.Port(service, http.reserve, settings.limits, http.unread)


def _load(settings: Settings, folder: Path, served: Served) -> tuple[Fetched, Loaded, GrpcCodec]:
    from holdfast_serving import load
    from holdfast_serving.grpc.codec import GrpcCodec

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
    codec = GrpcCodec(loaded.model.signature, settings.model_name, settings.revision)
    codec.same_rows = loaded.codec.same_rows
    return fetched, loaded, codec


def _open(served: Served, api: Api, settings: Settings, fetched: Fetched, loaded: Loaded) -> Batcher:
    """Let requests in."""
    from holdfast_serving.batching import Batcher
    from holdfast_serving.drift import Drift

    served.metrics.phases = fetched.seconds | loaded.seconds
    served.metrics.info = {
        "uri": settings.model_uri.partition("?")[0],
        "digest": fetched.digest,
        "format": "Bundle" if fetched.bundle else "ONNX",
        "batching": str(loaded.apart is None).lower(),
        "profile": loaded.profile.state if loaded.profile else "none",
        "threads": str(loaded.topology.threads),
        "parallel_runs": str(loaded.topology.runs),
    }
    drift = None
    if loaded.profile:
        drift = Drift(loaded.profile, loaded.model.signature, served.metrics.labels)
        served.collectors.append(drift)
    # A thread that comes back from the runtime waits for the GIL at most this long, not 5 ms.
    sys.setswitchinterval(0.0005)
    _give_back_large_blocks()
    gc.collect()
    gc.freeze()  # what is there now stays: no need to walk it again and again
    batcher = Batcher(
        loaded.model,
        served.metrics,
        loaded.cost,
        joins=loaded.apart is None,
        runs=loaded.topology.runs,
        max_rows=settings.max_batch_rows,
        drift=drift,
        most_seconds=max(2 * settings.request_timeout_seconds, _LEAST_RUN_SECONDS),
    )
    api.open(loaded.codec, loaded.example)
    metadata = loaded.metadata(served.name, served.revision, batcher.max_rows)
    served.open(loaded.model.signature, metadata, batcher.admit, batcher.submit)
    return batcher


def _router(
    served: Served,
    loaded: Loaded,
    run: Submit,
    turn_away: Callable[[bool], None],
    certificates: Certificates | None,
    lease: Lease,
) -> Router:
    from holdfast_serving.router import Router

    return Router(
        served,
        loaded.model.signature,
        run,
        turn_away,
        lease,
        rows=loaded.apart is None,
        golden=loaded.golden,
        prediction=loaded.profile.prediction if loaded.profile else None,
        tls=(lambda: certificates.outgoing) if certificates else None,
    )


def _give_back_large_blocks() -> None:
    """Let glibc return blocks of more than four mebibytes at once, and keep smaller ones.

    By default it keeps more and more of them, once one was freed, for each thread by itself: a few large requests would
    be in memory for ever. What comes from the kernel comes page by page: that takes 4 ms of CPU for a body of 3 MB.
    """
    import ctypes

    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 4 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 16 << 20)


async def _drain(served: Served, ports: Sequence[AnyPort], seconds: float) -> None:
    """End without losing an answer.

    Nobody can know when the last balancer has heard that this pod is going; and where it is the only one, clients have
    nowhere else to go until another is ready. So each answer says that its connection closes, but new connections are
    taken for some seconds, and on as long as they come. What is in work ends, however long it takes: the kubelet has a
    clock of its own.

    The kubelet is told until then that the pod is reachable. Being deleted, it is out of the Service anyway; but
    kube-proxy sends to a pod that is going when there is no other, as long as that one says so.
    """
    log.info("draining: new connections for %g s at least", seconds)
    served.ready = False
    for port in ports:
        port.draining = True
    end = time.monotonic() + _LAST_CALL_SECONDS
    await asyncio.sleep(seconds)
    while time.monotonic() < end and any(port.is_sought(_STILL_SECONDS) for port in ports):  # noqa: ASYNC110
        await asyncio.sleep(_POLL_SECONDS)
    served.reachable = False
    for port in ports:
        port.stop_listening()
    while left := sum(port.close_idle(_QUIET_SECONDS) for port in ports):
        log.debug("%d connections left", left)
        await asyncio.sleep(_POLL_SECONDS)
    log.info("drained")


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
