"""HTTP GET for URIs that anybody may have written.

A CR can name any host, so a fetch must not become a way to reach what only the pod can reach. Every host is
resolved once, every address of it is checked, and the connection goes to a checked address: a second DNS
answer has no say. The same holds for each hop of a redirect. No credentials travel, no proxy is used.
"""

from __future__ import annotations

import contextlib
import http.client
import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urldefrag, urljoin

from holdfast_bundle.addresses import Address, Policy, Reach, reach_of
from holdfast_bundle.errors import BundleError
from holdfast_bundle.uris import Uri, parse

MAX_REDIRECTS = 5

_MAX_REDIRECT_LENGTH = 8192  # signed URLs of object stores are long
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {"User-Agent": "holdfast", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Web:
    """How to reach the network. The defaults are production's.

    Attributes:
        policy: which addresses may be connected to.
        tls: None for the system's trust store.
        connect_seconds, idle_seconds: for one connection attempt or DNS answer, and for one read.
        total_seconds: for one file, everything included.
    """

    policy: Policy = reach_of
    tls: ssl.SSLContext | None = None
    connect_seconds: float = 10
    idle_seconds: float = 30
    total_seconds: float = 3600


class Body:
    """The body of an answer, to be read once.

    Attributes:
        length: bytes that the server promised; None when it did not say.
    """

    def __init__(self, uri: Uri, response: http.client.HTTPResponse, deadline: _Deadline) -> None:
        self.length = response.length
        self._uri, self._response, self._deadline = uri, response, deadline

    def read(self, amount: int, /) -> bytes:
        """At most `amount` bytes, empty at the end. Raises BundleError `Unreachable`."""
        with _translated(self._uri, self._deadline):
            data = self._response.read(amount)
        if not data:
            self._deadline.left(self._uri)  # the watchdog's cut looks like an end
        return data


@contextlib.contextmanager
def get(uri: Uri, web: Web) -> Iterator[Body]:
    """GET, through at most `MAX_REDIRECTS` redirects.

    Raises:
        BundleError: `NotFound`, `AccessDenied`, `Unreachable`, `AddressRefused`, or `Invalid` for an encoding
            that was not asked for.
    """
    deadline = _Deadline(web.total_seconds)
    asked, came_from = uri, Reach.PRIVATE
    for _ in range(1 + MAX_REDIRECTS):
        addresses, reach = _allowed_addresses(uri, web, deadline)
        if came_from is Reach.PUBLIC and reach is Reach.PRIVATE:
            raise BundleError("AddressRefused", f"{asked} redirects to {uri.host}, a private host")
        with _connection(uri, addresses, web, deadline) as connection:
            with _translated(uri, deadline):
                connection.request("GET", uri.target, headers=_HEADERS)
                response = connection.getresponse()
            if response.status in _REDIRECTS:
                uri, came_from = _redirected(asked, uri, response.headers.get("Location")), reach
                continue
            _check_answer(uri, response)
            yield Body(uri, response, deadline)
            return
    raise BundleError("Unreachable", f"{asked} redirects more than {MAX_REDIRECTS} times")


def _check_answer(uri: Uri, response: http.client.HTTPResponse) -> None:
    status = response.status
    if status in (404, 410):
        raise BundleError("NotFound", f"{uri}: the server answered {status}")
    if status in (401, 403, 407):
        raise BundleError("AccessDenied", f"{uri}: the server answered {status}")
    if status != 200:
        raise BundleError("Unreachable", f"{uri}: the server answered {status}")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise BundleError("Invalid", f"{uri}: the server sent it encoded, which was not asked for")


def _redirected(asked: Uri, uri: Uri, location: str | None) -> Uri:
    if location is None:
        raise BundleError("Unreachable", f"{uri}: the server answered a redirect without Location")
    host = f"[{uri.host}]" if ":" in uri.host else uri.host
    try:
        absolute = urljoin(f"{uri.scheme}://{host}:{uri.port}{uri.target}", location.strip())
        target = parse(urldefrag(absolute).url, max_length=_MAX_REDIRECT_LENGTH)
    except (BundleError, ValueError) as error:
        raise BundleError("AddressRefused", f"{asked} redirects to what is not an http(s) URI") from error
    if target.scheme == "pvc":
        raise BundleError("AddressRefused", f"{asked} redirects to what is not an http(s) URI")
    if uri.scheme == "https" and target.scheme == "http":
        raise BundleError("AddressRefused", f"{asked} redirects from https to http ({target.host})")
    return target


class _Deadline:
    """The time that is left for one file."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self, uri: Uri) -> float:
        """Seconds, more than 0. Raises BundleError `Unreachable` when there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise BundleError("Unreachable", f"{uri}: not finished after {self._seconds:g} s")
        return left


def _allowed_addresses(uri: Uri, web: Web, deadline: _Deadline) -> tuple[list[Address], Reach]:
    """All addresses of a host and their reach; one refused address refuses the host."""
    addresses = _resolve(uri, min(web.connect_seconds, deadline.left(uri)))
    reaches = {web.policy(address) for address in addresses}
    if Reach.REFUSED in reaches:
        raise BundleError(
            "AddressRefused",
            f"{uri}: {uri.host} is a loopback, link-local, multicast or metadata address, "
            "from which nothing may be fetched",
        )
    return addresses, Reach.PRIVATE if Reach.PRIVATE in reaches else Reach.PUBLIC


def _resolve(uri: Uri, seconds: float) -> list[Address]:
    """getaddrinfo with a deadline: it has none of its own, so a thread is left behind when it hangs."""
    answers: queue.SimpleQueue[list[Address]] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(uri.host, uri.port, type=socket.SOCK_STREAM)
            answers.put(list(dict.fromkeys(ip_address(entry[4][0]) for entry in found)))
        except (OSError, ValueError):  # UnicodeError for a label of more than 63 characters
            answers.put([])

    threading.Thread(target=ask, daemon=True).start()
    try:
        addresses = answers.get(timeout=seconds)
    except queue.Empty:
        raise BundleError("Unreachable", f"{uri}: no answer from DNS for {uri.host}") from None
    if not addresses:
        raise BundleError("Unreachable", f"{uri}: the host name {uri.host} cannot be resolved")
    return addresses


@contextlib.contextmanager
def _connection(
    uri: Uri, addresses: list[Address], web: Web, deadline: _Deadline
) -> Iterator[http.client.HTTPConnection]:
    """A connection to one of `addresses`, cut off when the deadline passes.

    A read timeout alone would let a server that sends one byte now and then hold the pod for ever.
    """
    raw = _connect(uri, addresses, web, deadline)
    guard = raw.dup()
    watchdog = threading.Timer(deadline.left(uri) + 0.05, _shut, (guard,))
    watchdog.daemon = True
    watchdog.start()
    connection = http.client.HTTPConnection(uri.host, uri.port)
    try:
        connection.sock = raw
        if uri.scheme == "https":
            connection.default_port = http.client.HTTPS_PORT
            tls = web.tls or ssl.create_default_context()
            with _translated(uri, deadline):
                connection.sock = tls.wrap_socket(raw, server_hostname=uri.host)
        connection.sock.settimeout(web.idle_seconds)
        yield connection
    finally:
        watchdog.cancel()
        connection.close()
        raw.close()
        guard.close()


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _connect(uri: Uri, addresses: list[Address], web: Web, deadline: _Deadline) -> socket.socket:
    failure: OSError = OSError("no address")
    for address in addresses:
        seconds = min(web.connect_seconds, deadline.left(uri))
        try:
            return socket.create_connection((str(address), uri.port), timeout=seconds)
        except OSError as error:
            failure = error
    why = "no answer" if isinstance(failure, TimeoutError) else failure.strerror
    raise BundleError("Unreachable", f"{uri}: cannot connect to {uri.host}:{uri.port} ({why})") from failure


@contextlib.contextmanager
def _translated(uri: Uri, deadline: _Deadline) -> Iterator[None]:
    """Failures of the network as BundleError."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        why = f"the server's certificate is not trusted ({error.verify_message})"
        raise BundleError("Unreachable", f"{uri}: {why}") from error
    except (OSError, http.client.HTTPException) as error:
        deadline.left(uri)
        why = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
        raise BundleError("Unreachable", f"{uri}: the connection failed ({why})") from error
