"""A web server on loopback that answers as a table says, byte for byte."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from holdfast_bundle.addresses import Address, Reach, reach_of
from holdfast_bundle.web import Web


def answer(body: bytes, status: str = "200 OK", *headers: str, length: int | None = None) -> bytes:
    """A whole HTTP answer; `length` lies about the body where it is given."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def redirect(location: str, status: str = "302 Found") -> bytes:
    return answer(b"", status, f"Location: {location}")


def loopback_policy(address: Address) -> Reach:
    """127.0.0.1 stands for a host in the cluster, 127.0.0.2 for one on the internet."""
    known = {"127.0.0.1": Reach.PRIVATE, "127.0.0.2": Reach.PUBLIC}
    return known.get(str(address), Reach.REFUSED if address.is_loopback else reach_of(address))


LOOPBACK = Web(policy=loopback_policy, connect_seconds=20, idle_seconds=20, total_seconds=60)


@dataclass
class Origin:
    """Serves `pages` by request target on both addresses; remembers what it was asked.

    A page that is an Event holds the connection, in silence, until it is set.
    """

    port: int
    pages: dict[str, bytes | threading.Event] = field(default_factory=dict)
    seen: list[bytes] = field(default_factory=list)

    def url(self, target: str, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{target}"

    def handle(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(60)
            head = b""
            while b"\r\n\r\n" not in head:
                chunk = connection.recv(65536)
                if not chunk:
                    return
                head += chunk
            self.seen.append(head)
            page = self.pages.get(head.split(b" ")[1].decode(), answer(b"no such page", "404 Not Found"))
            if isinstance(page, threading.Event):
                page.wait(60)
            else:
                connection.sendall(page)


@contextlib.contextmanager
def serve(tls: ssl.SSLContext | None = None) -> Iterator[Origin]:
    listeners = [socket.create_server(("127.0.0.1", 0), backlog=64)]
    origin = Origin(listeners[0].getsockname()[1])
    listeners.append(socket.create_server(("127.0.0.2", origin.port), backlog=64))

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=greet, args=(connection,), daemon=True).start()

    def greet(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.settimeout(60)
            origin.handle(tls.wrap_socket(connection, server_side=True) if tls else connection)

    threads = [threading.Thread(target=accept, args=(listener,), daemon=True) for listener in listeners]
    for thread in threads:
        thread.start()
    try:
        yield origin
    finally:
        for listener, thread in zip(listeners, threads, strict=True):
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            thread.join(5)


def make_certificate(host: str) -> tuple[bytes, bytes]:
    """(key and certificate, certificate) of a self-signed host, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    try:
        subject: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        subject = x509.DNSName(host)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([subject]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate, certificate
