"""HTTP GET for URIs that anybody may have written.

A CR can name any host, so a fetch must not become a way to reach what only the pod can reach. Every host is
resolved once, every address of it is checked, and the connection goes to a checked address: a second DNS
answer has no say. The same holds for each hop of a redirect. Credentials go to the host that was asked, never
along a redirect; no proxy is used.
"""

from __future__ import annotations

import contextlib
import http.client
import queue
import re
import socket
import ssl
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import BinaryIO, Literal
from urllib.parse import urldefrag, urljoin

from holdfast_bundle.addresses import Address, Policy, Reach, reach_of
from holdfast_bundle.errors import BundleError, FinalError
from holdfast_bundle.uris import Uri, parse

MAX_REDIRECTS = 5

_MAX_REDIRECT_LENGTH = 8192  # signed URLs of object stores are long
Method = Literal["GET", "HEAD", "POST", "PUT"]

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {"User-Agent": "holdfast", "Accept-Encoding": "identity"}
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})")


@dataclass(frozen=True, slots=True)
class Web:
    """How to reach the network. The defaults are production's.

    Attributes:
        policy: which addresses may be connected to.
        tls: None for the system's trust store.
        connect_seconds, idle_seconds: for one connection attempt or DNS answer, and for one read.
        total_seconds: for one file, everything included.
        connections: at most so many at a time, for one model.
        part_bytes: what is longer is fetched in parts of this size, several at a time, where the server can do that.
    """

    policy: Policy = reach_of
    tls: ssl.SSLContext | None = None
    connect_seconds: float = 10
    idle_seconds: float = 30
    total_seconds: float = 3600
    connections: int = 8
    part_bytes: int = 8 << 20


class Body:
    """The body of an answer, to be read once.

    Attributes:
        status: of the answer.
        length: bytes that the server promised; None when it did not say.
        start, size: where in the file these bytes begin, and how long the file is (None: not known).
        version: a strong ETag, if parts of this very content can be asked for.
        stamp: an ETag of any kind, else when the file was changed last; empty where the server says neither.
    """

    def __init__(self, uri: Uri, response: http.client.HTTPResponse, deadline: Deadline) -> None:
        self.status = response.status
        self.length = response.length
        self.start, self.size = 0, response.length
        if response.status == 206 and (match := _CONTENT_RANGE.fullmatch(self._header(response, "Content-Range"))):
            self.start, self.size = int(match[1]), int(match[2])
        etag = self._header(response, "ETag")
        self.stamp = etag or self._header(response, "Last-Modified")
        if response.status == 200 and (promised := self._header(response, "Content-Length")).isdigit():
            self.size = int(promised)  # http.client takes an answer to HEAD for an empty one
        self.ranged = response.status == 206 or self._header(response, "Accept-Ranges").lower() == "bytes"
        self.version = etag if self.ranged and etag.startswith('"') else None
        self.challenge = self._header(response, "WWW-Authenticate")
        self._uri, self._response, self._deadline = uri, response, deadline
        self._left = self.length  # http.client does not count what read1 gives

    def read(self, amount: int, /) -> bytes:
        """What has come, at most `amount` bytes; empty at the end. Raises BundleError `Unreachable`."""
        if self._left is not None:
            amount = min(amount, self._left)
        with _translated(self._uri, self._deadline):
            data = self._response.read1(amount) if amount else b""
        if self._left is not None:
            self._left -= len(data)
        if not data:
            self._deadline.left(self._uri)  # the watchdog's cut looks like an end
        return data

    def all(self, limit: int) -> bytes:
        """Everything, if it is not more than `limit` bytes: `Invalid` then."""
        whole = bytearray()
        while data := self.read(limit + 1 - len(whole)):
            whole += data
            if len(whole) > limit:
                raise BundleError("Invalid", f"{self._uri}: the answer has more than {limit} bytes")
        if self.length is not None and len(whole) != self.length:
            raise BundleError("Unreachable", f"{self._uri}: the answer was cut short")
        return bytes(whole)

    @staticmethod
    def _header(response: http.client.HTTPResponse, name: str) -> str:
        return (response.headers.get(name) or "").strip()


@contextlib.contextmanager
def get(
    uri: Uri,
    web: Web,
    *,
    headers: Mapping[str, str] | None = None,
    authorization: str | None = None,
    statuses: Collection[int] = (200,),
    method: Method = "GET",
    content: bytes | BinaryIO | None = None,
    deadline: Deadline | None = None,
    from_public: bool = False,
) -> Iterator[Body]:
    """Ask, by GET and HEAD through at most `MAX_REDIRECTS` redirects.

    Args:
        headers: sent on every hop.
        authorization: sent to the host of `uri` alone.
        content: the body of a POST or PUT, sent to the host of `uri` alone: redirects are not followed then.
        statuses: that are given to the caller; all others are errors.
        from_public: a public host named this URI, so that it must not be a private one.

    Raises:
        BundleError: `NotFound`, `AccessDenied`, `Unreachable`, `AddressRefused`, or `Invalid` for an encoding
            that was not asked for.
    """
    deadline = deadline or Deadline(web.total_seconds)
    asked, came_from = uri, Reach.PUBLIC if from_public else Reach.PRIVATE
    sent = {**_HEADERS, **(headers or {})}
    for _ in range(1 + MAX_REDIRECTS):
        addresses, reach = addresses_of(uri, web, deadline)
        if came_from is Reach.PUBLIC and reach is Reach.PRIVATE:
            raise BundleError("AddressRefused", f"{asked} redirects to {uri.host}, a private host")
        secret = {"Authorization": authorization} if authorization and uri is asked else {}
        with _connection(uri, addresses, web, deadline) as connection:
            with _translated(uri, deadline):
                connection.request(method, uri.target, content, {**sent, **secret})
                response = connection.getresponse()
            if response.status in _REDIRECTS and method in ("GET", "HEAD"):
                uri, came_from = _redirected(asked, uri, response.headers.get("Location")), reach
                continue
            if response.status not in statuses:
                raise refusal(uri, response.status)
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise BundleError("Invalid", f"{uri}: the server sent it encoded, which was not asked for")
            yield Body(uri, response, deadline)
            return
    raise BundleError("Unreachable", f"{asked} redirects more than {MAX_REDIRECTS} times")


def read(
    uri: Uri,
    web: Web,
    limit: int,
    *,
    headers: Mapping[str, str] | None = None,
    authorization: str | None = None,
    form: bytes | None = None,
    from_public: bool = False,
) -> bytes:
    """What `get` gets, or what a POST of a form is answered with, in one piece of at most `limit` bytes.

    Raises BundleError as `get` and `Body.read` do.
    """
    method: Method = "GET" if form is None else "POST"
    with get(
        uri,
        web,
        headers=headers,
        authorization=authorization,
        method=method,
        content=form,
        from_public=from_public,
    ) as body:
        return body.all(limit)


def refusal(uri: Uri, status: int) -> BundleError:
    """What an answer without content means."""
    if status in (404, 410):
        return BundleError("NotFound", f"{uri}: the server answered {status}")
    if status in (401, 403, 407):
        return BundleError("AccessDenied", f"{uri}: the server answered {status}")
    return BundleError("Unreachable", f"{uri}: the server answered {status}")


def _redirected(asked: Uri, uri: Uri, location: str | None) -> Uri:
    if location is None:
        raise BundleError("Unreachable", f"{uri}: the server answered a redirect without Location")
    host = f"[{uri.host}]" if ":" in uri.host else uri.host
    try:
        absolute = urljoin(f"{uri.scheme}://{host}:{uri.port}{uri.target}", location.strip())
        target = parse(urldefrag(absolute).url, max_length=_MAX_REDIRECT_LENGTH)
    except (BundleError, ValueError) as error:
        raise BundleError("AddressRefused", f"{asked} redirects to what is not an http(s) URI") from error
    if target.scheme not in ("http", "https"):
        raise BundleError("AddressRefused", f"{asked} redirects to what is not an http(s) URI")
    if uri.scheme == "https" and target.scheme == "http":
        raise BundleError("AddressRefused", f"{asked} redirects from https to http ({target.host})")
    return target


class Deadline:
    """The time that is left for one file."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self, uri: Uri) -> float:
        """Seconds, more than 0. Raises BundleError `Unreachable` when there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise FinalError("Unreachable", f"{uri}: not finished after {self._seconds:g} s")
        return left


def addresses_of(uri: Uri, web: Web, deadline: Deadline) -> tuple[list[Address], Reach]:
    """All addresses of a host and their reach; one refused address refuses the host.

    Raises:
        BundleError: `AddressRefused`, `Unreachable`.
    """
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
    uri: Uri, addresses: list[Address], web: Web, deadline: Deadline
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


def _connect(uri: Uri, addresses: list[Address], web: Web, deadline: Deadline) -> socket.socket:
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
def _translated(uri: Uri, deadline: Deadline) -> Iterator[None]:
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
