"""Leases: what the operator lets a pod's router do, and for how many seconds.

A lease is JSON in a DSSE envelope, signed with Ed25519 over its exact bytes and the type of what they are. It is made
out to one process of one pod, by the name that only this process shows; it is good for one use, soon after it was
written; and it ends by itself. So nobody gains anything from a lease that was recorded, held back or sent elsewhere.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import orjson

from holdfast_serving.problems import Problem

if TYPE_CHECKING:
    from nacl.signing import VerifyKey

SHARE, ALL, SHADOW, GOLDEN = "share", "all", "shadow", "golden"
"""Modes: some requests go to the other revision; all do; it gets copies and its answers are only compared; it gets the
pod's golden requests, once."""

PAYLOAD_TYPE = b"application/vnd.holdfast.router-lease+json"
MAX_SECONDS = 15
"""A lease's longest life."""

MAX_SYNTHETIC = 100
"""Golden requests per second that a pod draws of its own."""

MAX_AGE_SECONDS = 30
"""Between a lease's writing and its arrival, on two clocks that may be this far apart."""

OUTCOMES = ("accepted", "no_key", "garbled", "unsigned", "foreign", "expired", "older", "replayed", "not_ready")
"""What became of a lease; all but the first are refusals."""

ACCEPTED, NO_KEY, GARBLED, UNSIGNED, FOREIGN, EXPIRED, OLDER, REPLAYED, NOT_READY = range(len(OUTCOMES))

_MAX_SIGNATURES = 2  # by the old and by the new key; each costs a verification per key
_SIGNATURE_BYTES = 64
_STATUS = {NO_KEY: 403, GARBLED: 400, UNSIGNED: 403, FOREIGN: 403, EXPIRED: 403, OLDER: 409, REPLAYED: 409}
_COMMON = frozenset(
    {"sequence", "issuedAt", "seconds", "model", "revision", "instance", "mode", "target", "hedgeMilliseconds"}
)
_OWN = {
    SHARE: {"weight", "syntheticPerSecond"},
    ALL: {"closeConnections"},
    SHADOW: {"weight", "tolerance"},
    GOLDEN: {"tolerance"},
}
_TARGET = {"revision", "address", "tlsName", "readySeconds"}
_TOLERANCE = {"relative", "absolute"}
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}")
_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9][A-Za-z0-9.-]{0,252})):([0-9]{1,5})")


class Refused(Problem):
    """A lease is not taken.

    Attributes:
        outcome: index in `OUTCOMES`.
    """

    def __init__(self, outcome: int, message: str) -> None:
        super().__init__(_STATUS[outcome], f"the lease is refused: {message}")
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class Target:
    """The other revision.

    Attributes:
        tls_name: that its certificate must be for; None where it speaks plain HTTP.
        ready_seconds: for how long its youngest pod had been ready when the lease was written.
    """

    revision: str
    host: str
    port: int
    tls_name: str | None
    ready_seconds: float

    @property
    def place(self) -> tuple[str, str, int, str | None]:
        """Where it is: targets of one place share connections."""
        return self.revision, self.host, self.port, self.tls_name

    @property
    def address(self) -> str:
        """For a Host field."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Lease:
    """What the router may do.

    Attributes:
        seconds: from its arrival to its end.
        weight: the probability with which a request goes to the target, or is copied to it; 0 in `GOLDEN`.
        hedge: seconds that the target gets for an answer.
        relative, absolute: how far the target's numbers may be from the local ones where answers are compared.
        close: whether every client is told to close its connection after its next answer.
        synthetic: golden requests per second that the pod draws of its own.
    """

    sequence: int
    seconds: float
    mode: str
    target: Target
    weight: float
    hedge: float
    relative: float = 0.0
    absolute: float = 0.0
    close: bool = False
    synthetic: float = 0.0


class Reader:
    """Opens the envelopes that come to one process.

    Attributes:
        sequence: of the last lease that was taken; 0 before any.

    Args:
        keys: public keys, 32 bytes each; a lease signed with any of them is good.
        instance: the name of this process.
        secured: whether it has certificates to check a target's by.
    """

    def __init__(self, keys: Sequence[bytes], model: str, revision: str, instance: str, *, secured: bool) -> None:
        self._keys = keys
        self._secured = secured
        self._verifiers: list[VerifyKey] = []
        self._addressee = {"model": model, "revision": revision, "instance": instance}
        self.sequence = 0

    def read(self, envelope: bytes, now: float) -> Lease:
        """The lease in an envelope, which will not be taken again. Raises Refused.

        Args:
            now: seconds since the epoch.
        """
        if not self._keys:
            raise Refused(NO_KEY, "this pod has no public key to check it with (HOLDFAST_ROUTER_PUBLIC_KEYS)")
        payload, signatures = _unwrap(envelope)
        if not self._is_signed(payload, signatures):
            raise Refused(UNSIGNED, "no signature in it was made with a key that this pod knows")
        document = _object(payload, "the payload")
        for name, ours in self._addressee.items():
            if document.get(name) != ours:
                raise Refused(FOREIGN, f"it is made out to another {name}")
        lease = _lease(document)
        age = now - _number(document, "issuedAt", 0)
        if abs(age) > MAX_AGE_SECONDS:
            raise Refused(
                EXPIRED,
                f"it was written {abs(age):.0f} s {'ago' if age > 0 else 'ahead'} by this pod's clock, and "
                f"{MAX_AGE_SECONDS} s are allowed; compare the clocks if it is new",
            )
        if lease.sequence <= self.sequence:
            outcome = REPLAYED if lease.sequence == self.sequence else OLDER
            raise Refused(outcome, f"its sequence number is {lease.sequence}, and {self.sequence} has been here")
        if lease.target.revision == self._addressee["revision"]:
            _garbled("its target is this pod's own revision")
        if lease.target.tls_name is not None and not self._secured:
            _garbled("its target speaks TLS, and this pod has no certificates to check it by")
        self.sequence = lease.sequence
        return lease

    def _is_signed(self, payload: bytes, signatures: Sequence[bytes]) -> bool:
        from nacl.exceptions import BadSignatureError
        from nacl.signing import VerifyKey

        if not self._verifiers:
            self._verifiers = [VerifyKey(key) for key in self._keys]
        message = pre_authentication_encoding(payload)
        for signature in signatures:
            for verifier in self._verifiers:
                try:
                    verifier.verify(message, signature)
                except BadSignatureError:
                    continue
                return True
        return False


def pre_authentication_encoding(payload: bytes) -> bytes:
    """What DSSE signs for a payload of our type."""
    return b"DSSEv1 %d %b %d %b" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE, len(payload), payload)


def _unwrap(envelope: bytes) -> tuple[bytes, list[bytes]]:
    """(payload, signatures of the right size)."""
    document = _object(envelope, "the body")
    if document.get("payloadType") != PAYLOAD_TYPE.decode():
        _garbled(f"payloadType must be {PAYLOAD_TYPE.decode()}")
    items = document.get("signatures")
    if type(items) is not list or len(items) > _MAX_SIGNATURES:
        _garbled(f"signatures must be a list of at most {_MAX_SIGNATURES}")
    signatures = [_decoded(item.get("sig") if type(item) is dict else None, "sig") for item in items]
    return _decoded(document.get("payload"), "payload"), [made for made in signatures if len(made) == _SIGNATURE_BYTES]


def _decoded(text: Any, name: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        _garbled(f"{name} must be base64")


def _object(text: bytes, what: str) -> dict[str, Any]:
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        document = None
    if type(document) is not dict:
        _garbled(f"{what} is not a JSON object")
    return document


def of_document(document: dict[str, Any]) -> Lease:
    """A lease that another process of this pod has checked, from the JSON of its fields."""
    return Lease(**document | {"target": Target(**document["target"])})


def _lease(document: dict[str, Any]) -> Lease:
    mode = document.get("mode")
    if type(mode) is not str or mode not in _OWN:
        _garbled(f"mode must be one of {', '.join(_OWN)}")
    _check_members(document, _COMMON | _OWN[mode], f"a lease of mode {mode}")
    sequence = document["sequence"]
    if type(sequence) is not int or sequence < 1:
        _garbled("sequence must be a whole number, 1 or more")
    tolerance = document.get("tolerance", {"relative": 0, "absolute": 0})
    _check_members(tolerance, _TOLERANCE, "tolerance")
    close = document.get("closeConnections", False)
    if type(close) is not bool:
        _garbled("closeConnections must be true or false")
    return Lease(
        sequence=sequence,
        seconds=_number(document, "seconds", 0, MAX_SECONDS),
        mode=mode,
        target=_target(document["target"]),
        weight=_number(document, "weight", 0, 1) if "weight" in document else float(mode == ALL),
        hedge=_number(document, "hedgeMilliseconds", 1, 600_000) / 1000,
        relative=_number(tolerance, "relative", 0),
        absolute=_number(tolerance, "absolute", 0),
        close=close,
        synthetic=_number(document, "syntheticPerSecond", 0, MAX_SYNTHETIC) if mode == SHARE else 0.0,
    )


def _target(document: Any) -> Target:
    _check_members(document, _TARGET, "target")
    revision, address = document["revision"], document["address"]
    if type(revision) is not str or not _REVISION.fullmatch(revision):
        _garbled("target.revision is not the name of a revision")
    match = _ADDRESS.fullmatch(address) if type(address) is str else None
    if match is None or not 0 < int(match[3]) < 65536:
        _garbled("target.address must be host:port")
    tls_name = document["tlsName"]
    if tls_name is not None and (type(tls_name) is not str or not _NAME.fullmatch(tls_name)):
        _garbled("target.tlsName must be the name of a host, or null")
    return Target(revision, match[1] or match[2], int(match[3]), tls_name, _number(document, "readySeconds", 0))


def _check_members(document: Any, names: set[str] | frozenset[str], what: str) -> None:
    """Members that this version does not know could be restrictions, so they are no more legal than missing ones."""
    if type(document) is not dict or document.keys() != names:
        _garbled(f"{what} has exactly these members: {', '.join(sorted(names))}")


def _number(document: dict[str, Any], name: str, least: float, most: float = math.inf) -> float:
    value: Any = document.get(name)
    if type(value) not in (int, float) or not least <= value <= most:
        _garbled(f"{name} must be a number from {least} {'on' if most == math.inf else f'to {most}'}")
    return float(value)


def _garbled(message: str) -> NoReturn:
    raise Refused(GARBLED, message)
