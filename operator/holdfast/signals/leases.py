"""Signs what the routers of pods may do.

A lease is JSON in a DSSE envelope with Ed25519 signatures. It is made out to one process, for one use within seconds;
`holdfast_serving.lease` is the other end.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from nacl.signing import SigningKey

from holdfast.plan.observed import Route
from holdfast.plan.traffic import Report

PAYLOAD_TYPE = "application/vnd.holdfast.router-lease+json"
SECONDS = 15
"""That a lease lives: what the pods allow at most."""

SEED_BYTES = 32


class Signer:
    """Makes envelopes.

    Attributes:
        public_key: what new pods check leases by, in base64.
    """

    def __init__(self, seeds: Sequence[bytes], clock: Callable[[], float] = time.time) -> None:
        """
        Args:
            seeds: of the key in use and, while keys are changed, of the one before, which older pods know.
            clock: seconds since the epoch.
        """
        self._keys = [SigningKey(seed) for seed in seeds]
        self.public_key = base64.b64encode(bytes(self._keys[0].verify_key)).decode()
        self._clock = clock
        self._sequence = 0

    def envelope(self, route: Route, model: str, report: Report) -> bytes:
        """The lease for the process that gave this report."""
        now = self._clock()
        # Milliseconds, so that numbers grow over restarts and leaders without being kept anywhere. What a pod has seen
        # counts too, for clocks are set back; only for that pod, for it could say anything.
        self._sequence = max(int(now * 1000), self._sequence + 1)
        return self._signed(
            {
                "sequence": max(self._sequence, report.sequence + 1),
                "issuedAt": now,
                "seconds": SECONDS,
                "model": model,
                "revision": route.revision,
                "instance": report.instance,
                "mode": route.mode,
                "hedgeMilliseconds": route.hedge_milliseconds,
                "target": {
                    "revision": route.target,
                    "address": route.address,
                    "tlsName": route.tls_name,
                    "readySeconds": max(0.0, route.ready_seconds),
                },
                **_own(route),
            }
        )

    def _signed(self, lease: dict[str, Any]) -> bytes:
        payload = json.dumps(lease, allow_nan=False).encode()
        message = b"DSSEv1 %d %b %d %b" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)
        signatures = [{"sig": base64.b64encode(key.sign(message).signature).decode()} for key in self._keys]
        envelope = {
            "payloadType": PAYLOAD_TYPE,
            "payload": base64.b64encode(payload).decode(),
            "signatures": signatures,
        }
        return json.dumps(envelope).encode()


def _own(route: Route) -> dict[str, Any]:
    """The members that only leases of this mode have."""
    tolerance = {"relative": route.relative, "absolute": route.absolute}
    match route.mode:
        case "share":
            return {"weight": route.weight, "syntheticPerSecond": route.synthetic_per_second}
        case "all":
            return {"closeConnections": route.close}
        case "shadow":
            return {"weight": route.weight, "tolerance": tolerance}
        case "golden":
            return {"tolerance": tolerance}
