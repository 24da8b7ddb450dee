"""The operator as a router sees it: writes leases, and reads what was counted."""

from __future__ import annotations

import base64
import itertools
import json
import time
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.unit.serving.server import Server

TYPE = "application/vnd.holdfast.router-lease+json"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
TARGET = "c0ffee0001"


def public(key: Ed25519PrivateKey) -> str:
    """As the server's settings take it."""
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def envelope(document: Any, *keys: Ed25519PrivateKey) -> bytes:
    """A signed DSSE envelope around JSON, or around bytes as they are."""
    payload = document if isinstance(document, bytes) else json.dumps(document).encode()
    message = b" ".join([b"DSSEv1", b"%d" % len(TYPE), TYPE.encode(), b"%d" % len(payload), payload])
    return json.dumps(
        {
            "payloadType": TYPE,
            "payload": base64.b64encode(payload).decode(),
            "signatures": [{"keyid": "", "sig": base64.b64encode(key.sign(message)).decode()} for key in keys],
        }
    ).encode()


class Operator:
    """Leases for one server, to one address. What was counted before is forgotten."""

    def __init__(self, server: Server, address: str, target: str = TARGET) -> None:
        self.server = server
        self.target = {"revision": target, "address": address, "tlsName": None, "readySeconds": 3600}
        self._sequence = itertools.count(int(time.time() * 1000))
        found = self.read()
        self._addressee = {name: found[name] for name in ("model", "revision", "instance")}
        self.grant(weight=0, target=self.target | {"revision": "nobody"})
        self.grant(weight=0)

    def read(self) -> Any:
        """The document of counters."""
        return self.server.manage("/router").json()

    def arm(self, name: str, phase: str = "steady") -> Any:
        """What was counted in one arm."""
        return self.read()["arms"][phase][name]

    def outcomes(self, name: str = "target", phase: str = "steady") -> dict[str, int]:
        """Of one arm, those that are not 0."""
        return {outcome: count for outcome, count in self.arm(name, phase)["outcomes"].items() if count}

    def document(self, mode: str = "share", **changes: Any) -> dict[str, Any]:
        """A lease that is in order, but for what `changes` make of it."""
        own = {
            "share": {"weight": 1.0, "syntheticPerSecond": 0},
            "all": {"closeConnections": False},
            "shadow": {"weight": 1.0, "tolerance": {"relative": 1e-4, "absolute": 1e-5}},
            "golden": {"tolerance": {"relative": 1e-4, "absolute": 1e-5}},
        }
        return {
            "sequence": next(self._sequence),
            "issuedAt": time.time(),
            "seconds": 15,
            **self._addressee,
            "mode": mode,
            "target": self.target,
            "hedgeMilliseconds": 10_000,
            **own.get(mode, {}),
            **changes,
        }

    def put(self, body: bytes) -> httpx.Response:
        """Send an envelope."""
        return httpx.put(f"{self.server.management_url}/router/lease", content=body, timeout=60)

    def grant(self, mode: str = "share", **changes: Any) -> Any:
        """Send a lease that is taken; the document of counters."""
        answer = self.put(envelope(self.document(mode, **changes), KEY))
        assert answer.status_code == 200, answer.text
        return answer.json()
