"""The server's certificate from a mounted Secret of type kubernetes.io/tls, read again when its files change.

A context in use is never changed. Changed files make new contexts, for connections that come from then on; files that
are no good leave those that are in use.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from holdfast_bundle.errors import BundleError

if TYPE_CHECKING:
    from prometheus_client.core import Metric

log = logging.getLogger(__name__)

HTTP, GRPC = "http/1.1", "h2"
"""Protocols by their names in ALPN."""

HANDSHAKES = ("ok", "plain_http", "no_certificate", "bad_certificate", "refused_by_client", "abandoned", "failed")
"""How a handshake ended. `no_certificate` and `bad_certificate` are about the client's, `refused_by_client` about ours;
some clients refuse it without a word, and are `abandoned`."""

CHAIN, KEY, AUTHORITIES = "tls.crt", "tls.key", "ca.crt"
_LOOK_SECONDS = 1.0
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2; those of 1.3 are all good
_PEM = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class _Pair:
    """Certificate and key as contexts, by protocol and for what is asked of other pods, and when the chain ends."""

    contexts: dict[str, ssl.SSLContext]
    outgoing: ssl.SSLContext
    ends: float


class Certificates:
    """What connections are secured with now.

    Attributes:
        handshakes: by index in `HANDSHAKES`.
    """

    def __init__(self, folder: Path, *, client_auth: ssl.VerifyMode) -> None:
        """Read `folder`, which bears the Secret's name; `client_auth`: whether clients need a certificate of `ca.crt`.

        Raises:
            BundleError: SecretNotFound (the Secret, or a key of it), SecretInvalid.
        """
        self.handshakes = [0] * len(HANDSHAKES)
        self._folder = folder
        self._client_auth = client_auth
        self._seen = self._stamp()
        self._pair = _read(folder, client_auth)
        self._loaded = self._refused = 0
        self._current = True
        self._timer: asyncio.TimerHandle | None = None
        _tell(self._pair)

    def context(self, protocol: str) -> ssl.SSLContext:
        """For a new connection that speaks `HTTP` or `GRPC`."""
        return self._pair.contexts[protocol]

    @property
    def outgoing(self) -> ssl.SSLContext:
        """For a new connection to another pod of the model: it must show a certificate of the same origin as ours."""
        return self._pair.outgoing

    def watch(self) -> None:
        """Look for changed files from now on."""
        self._look()

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
            self._reload()

    def _reload(self) -> None:
        try:
            pair = _read(self._folder, self._client_auth)
            if pair.ends < time.time() < self._pair.ends:
                raise BundleError("SecretInvalid", f"{self._name}: the certificate in {CHAIN} has expired")
        except BundleError as error:
            if self._stamp() != self._seen:
                return  # read while it was being changed: the next look sees all of it
            self._refused += 1
            self._current = False
            log.error("the changed certificate is not used, the one before it stays: %s", error.message)
            return
        self._pair = pair
        self._loaded += 1
        self._current = True
        _tell(pair)

    @property
    def _name(self) -> str:
        return f"Secret {self._folder.name}"

    def _stamp(self) -> Stamp:
        return tuple(_stamp_of(self._folder / name) for name in (CHAIN, KEY, AUTHORITIES))

    def collect(self) -> Iterator[Metric]:
        """For a prometheus_client registry."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        yield GaugeMetricFamily(
            "holdfast_tls_certificate_expiry_timestamp_seconds",
            "When the first certificate of the chain in use ceases to be valid.",
            self._pair.ends,
        )
        yield GaugeMetricFamily(
            "holdfast_tls_last_reload_successful",
            "0 while the files hold something else than what is in use, because it is no good.",
            float(self._current),
        )
        reloads = CounterMetricFamily("holdfast_tls_reloads", "Changes of the files.", labels=["outcome"])
        reloads.add_metric(["loaded"], self._loaded)
        reloads.add_metric(["refused"], self._refused)
        yield reloads
        handshakes = CounterMetricFamily("holdfast_tls_handshakes", "By how they ended.", labels=["outcome"])
        for outcome, count in zip(HANDSHAKES, self.handshakes, strict=True):
            handshakes.add_metric([outcome], count)
        yield handshakes


def _stamp_of(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _tell(pair: _Pair) -> None:
    end = datetime.fromtimestamp(pair.ends, UTC).isoformat()
    if pair.ends < time.time():
        log.warning("the certificate has expired (%s): clients will refuse it", end)
    else:
        log.info("certificate in use until %s", end)


def _read(folder: Path, client_auth: ssl.VerifyMode) -> _Pair:
    """Raises BundleError SecretNotFound or SecretInvalid."""
    secret = f"Secret {folder.name}"
    if not any(folder.glob("[!.]*")):  # the kubelet's own files begin with dots
        raise BundleError("SecretNotFound", f"{secret} does not exist in this namespace; create it")
    for name in (CHAIN, KEY, AUTHORITIES) if client_auth else (CHAIN, KEY):
        if not (folder / name).is_file():
            why = ", which clientAuth Required needs" if name == AUTHORITIES else ""
            raise BundleError("SecretNotFound", f"{secret} has no key {name}{why}; add it")
    try:
        ends = _first_end((folder / CHAIN).read_text("ascii"))
    except (OSError, ValueError, IndexError):
        raise BundleError("SecretInvalid", f"{secret}: {CHAIN} holds no PEM certificate that can be read") from None
    contexts = {protocol: _context(folder, client_auth, protocol) for protocol in (HTTP, GRPC)}
    try:
        outgoing = _outgoing(folder, client_auth)
    except OSError as error:  # they were good a moment ago: somebody changes them right now
        raise BundleError("SecretInvalid", f"{secret}: {CHAIN} or {KEY} is no good ({_words(error)})") from None
    return _Pair(contexts, outgoing, ends)


def _outgoing(folder: Path, client_auth: ssl.VerifyMode) -> ssl.SSLContext:
    """Trusts the authorities there are, and the certificates of our own chain: without `ca.crt` there is no other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([HTTP])
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(folder / CHAIN)
    with suppress(OSError):  # issuers leave it out, or empty; where clients need it, it has been refused before
        context.load_verify_locations(folder / AUTHORITIES)
    if client_auth != ssl.CERT_NONE:
        context.load_cert_chain(folder / CHAIN, folder / KEY)
    return context


def _context(folder: Path, client_auth: ssl.VerifyMode, protocol: str) -> ssl.SSLContext:
    secret = f"Secret {folder.name}"

    def no_password() -> NoReturn:
        raise BundleError("SecretInvalid", f"{secret}: {KEY} is encrypted; store it without a password")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols([protocol])
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(folder / CHAIN, folder / KEY, no_password)
    except OSError as error:  # ssl.SSLError is one
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            raise BundleError(
                "SecretInvalid", f"{secret}: {KEY} is not the key of the certificate in {CHAIN}"
            ) from None
        raise BundleError("SecretInvalid", f"{secret}: {CHAIN} or {KEY} is no good ({_words(error)})") from None
    if client_auth:
        context.verify_mode = client_auth
        try:
            context.load_verify_locations(folder / AUTHORITIES)
        except OSError as error:
            raise BundleError("SecretInvalid", f"{secret}: {AUTHORITIES} is no good ({_words(error)})") from None
    return context


def _words(error: OSError) -> str:
    """What OpenSSL or the system says, without paths and positions in their source."""
    reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
    return str(reason).partition(" (_ssl.c")[0].replace("_", " ").lower()


# --- When a certificate ends: the one thing that `ssl` does not tell about a certificate of one's own ---------------


def _first_end(chain: str) -> float:
    """When the first of the PEM certificates ceases to be valid, in seconds since the epoch."""
    return min(_not_after(ssl.PEM_cert_to_DER_cert(certificate)) for certificate in _PEM.findall(chain))


def _not_after(certificate: bytes) -> float:
    """Certificate, TBSCertificate: version (which may be left out), serial number, signature, issuer, validity."""
    _, content, _ = _element(certificate)
    _, rest, _ = _element(content)
    if rest[0] == 0xA0:
        _, _, rest = _element(rest)
    for _ in range(3):
        _, _, rest = _element(rest)
    _, validity, _ = _element(rest)
    _, _, rest = _element(validity)
    kind, text, _ = _element(rest)
    form = "%y%m%d%H%M%SZ" if kind == 0x17 else "%Y%m%d%H%M%SZ"  # UTCTime, GeneralizedTime
    return datetime.strptime(text.decode("ascii"), form).replace(tzinfo=UTC).timestamp()


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """(tag, content, what comes behind it) of the first element of DER."""
    tag, size, start = data[0], data[1], 2
    if size & 0x80:
        start += size & 0x7F
        size = int.from_bytes(data[2:start])
    return tag, data[start : start + size], data[start + size :]
