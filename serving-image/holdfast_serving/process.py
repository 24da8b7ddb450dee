"""One process of a pod: ports that speak the protocols, and the model behind them once it is loaded."""

from __future__ import annotations

import gc
import logging
import ssl
import sys
from functools import partial
from typing import TYPE_CHECKING, Protocol

from holdfast_serving.api import Api
from holdfast_serving.certificates import Certificates
from holdfast_serving.connection import Port
from holdfast_serving.control import Control
from holdfast_serving.feedback import Feedback
from holdfast_serving.grpc import connection as grpc
from holdfast_serving.grpc.service import Service
from holdfast_serving.metrics import Metrics, families
from holdfast_serving.receipts import Keys, Receipts, Sealer
from holdfast_serving.served import Served
from holdfast_serving.settings import Settings

if TYPE_CHECKING:
    import socket

    from holdfast_serving.batching import Batcher
    from holdfast_serving.grpc.codec import GrpcCodec
    from holdfast_serving.lease import Lease
    from holdfast_serving.load import Loaded
    from holdfast_serving.router import Router

log = logging.getLogger(__name__)

_LEAST_RUN_SECONDS = 5.0  # before a run is stopped, however little time requests have
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


class AnyPort(Protocol):
    """A port for requests, whatever its protocol."""

    draining: bool

    async def listen(self, sock: socket.socket, certificates: Certificates | None = None) -> None: ...

    def is_sought(self, seconds: float) -> bool: ...

    def stop_listening(self) -> None: ...

    def close_idle(self, seconds: float) -> int: ...

    def stop(self) -> None: ...


class Process:
    """What every process of the pod has.

    Attributes:
        going: whether the pod is on its way out: then clients are asked to go elsewhere, whatever a lease says.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises BundleError SecretNotFound or SecretInvalid."""
        self.settings = settings
        self.metrics = Metrics(settings.model_name, settings.revision)
        self.served = Served(settings.model_name, settings.revision, self.metrics, settings.request_timeout_seconds)
        self.certificates = _certificates(settings)
        _take_feedback(self.served, settings)
        self.api = Api(self.served)
        self.service = Service(self.served)
        self.http = Port(self.api.routes, settings.limits)
        self.rpc = _grpc_port(self.service, self.http, settings)
        self.control = Control(self.served, settings.router_keys, secured=self.certificates is not None)
        self.served.tells["metrics"] = lambda _: families(*self.served.collectors, self.control, *self._others)
        self.going = False

    @property
    def _others(self) -> list[Certificates]:
        return [self.certificates] if self.certificates else []

    def open(self, loaded: Loaded, codec: GrpcCodec, info: dict[str, str]) -> None:
        """Let requests in.

        Args:
            info: labels of the info metric.
        """
        served = self.served
        receipts = served.feedback.receipts if served.feedback else None
        codec.sealer = loaded.codec.sealer = Sealer(receipts, loaded.model.signature, served.revision)
        self.service.open(codec)
        self.metrics.info = info
        if loaded.topology.processes > 1:
            self._share(loaded.topology.processes)
        batcher = self._batcher(loaded)
        self.api.open(loaded.codec, loaded.example)
        metadata = loaded.metadata(served.name, served.revision, batcher.max_rows)
        served.open(loaded.model.signature, metadata, batcher.admit, batcher.submit)
        self.control.open(partial(self._router, loaded, batcher), batcher.oldest_seconds, len(loaded.golden))
        # A thread that comes back from the runtime waits for the GIL at most this long, not 5 ms.
        sys.setswitchinterval(0.0005)
        _give_back_large_blocks()
        gc.collect()
        gc.freeze()  # what is there now stays: no need to walk it again and again

    def turn_away(self, away: bool) -> None:
        """Whether clients are to close their connections with their next answer."""
        self.http.draining = self.rpc.draining = away or self.going

    def go(self) -> None:
        """The pod is on its way out."""
        self.going = True
        self.served.ready = False
        self.turn_away(True)

    def stop(self) -> None:
        """Drop everything at once."""
        for port in (self.http, self.rpc):
            port.stop()
        if self.certificates:
            self.certificates.stop()

    def _share(self, processes: int) -> None:
        """Take no more than this process's part of what the pod may take."""
        assert isinstance(self.rpc, grpc.Port)
        self.http.limits = self.rpc.limits = limits = self.settings.limits.shared(processes)
        self.http.unread.limit = limits.unread_bytes

    def _batcher(self, loaded: Loaded) -> Batcher:
        from holdfast_serving.batching import MAX_QUEUED_BYTES, Batcher
        from holdfast_serving.drift import Drift

        drift = None
        if loaded.profile:
            drift = Drift(loaded.profile, loaded.model.signature, self.metrics.labels)
            self.served.collectors.append(drift)
            if self.served.feedback:
                self.served.feedback.errors = drift.errors
        return Batcher(
            loaded.model,
            self.metrics,
            loaded.cost,
            joins=loaded.apart is None,
            runs=loaded.topology.runs,
            max_rows=self.settings.max_batch_rows,
            queued_bytes=MAX_QUEUED_BYTES // loaded.topology.processes,
            drift=drift,
            most_seconds=max(2 * self.settings.request_timeout_seconds, _LEAST_RUN_SECONDS),
        )

    def _router(self, loaded: Loaded, batcher: Batcher, lease: Lease) -> Router:
        from holdfast_serving.router import Router

        certificates = self.certificates
        return Router(
            self.served,
            loaded.model.signature,
            batcher.submit,
            self.turn_away,
            lease,
            rows=loaded.apart is None,
            golden=loaded.golden,
            prediction=loaded.profile.prediction if loaded.profile else None,
            tls=(lambda: certificates.outgoing) if certificates else None,
            processes=loaded.topology.processes,
        )


def grpc_codec(loaded: Loaded, settings: Settings) -> GrpcCodec:
    """Imports protobuf: for a thread."""
    from holdfast_serving.grpc.codec import GrpcCodec

    codec = GrpcCodec(loaded.model.signature, settings.model_name, settings.revision)
    codec.same_rows = loaded.codec.same_rows
    return codec


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
