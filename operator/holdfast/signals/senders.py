"""Who may say that there are new data: whoever has a key of the model's namespace, once per event and not too often.

Keys are files by the namespace's name, of a Secret that is mounted; they are read for each event, so a new one counts
at once. A file may hold several, one a line: the old and the new while senders change over.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from datetime import datetime, timedelta
from pathlib import Path

from holdfast.signals.cloudevents import Event, Refused

WINDOW = timedelta(minutes=5)
"""How far an event's time may be from ours."""

RATE, BURST = 1.0, 30
"""Genuine events of a namespace: per second, and at once."""

MIN_KEY_BYTES = 16
_MAX_FILE_BYTES = 4096
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,50}[a-z0-9])?")
_SCHEME = "sha256="

log = logging.getLogger(__name__)


class Senders:
    """Judges events; remembers those that were genuine for as long as they could be sent again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[str, dict[bytes, datetime]] = {}
        """By namespace: digests of source and id, and until when they are remembered; oldest first."""
        self._full_at: dict[str, datetime] = {}
        """By namespace: when its allowance is whole again."""

    def genuine(self, event: Event, content: bytes, signature: str, now: datetime) -> tuple[str, str]:
        """The namespace and the name of the model that the event is about.

        Args:
            content: that was signed.
            signature: `sha256=` and the HMAC-SHA256 of the content in hex.

        Raises:
            Refused: it is about no model, nobody with a key has sent it, or not now.
        """
        namespace, _, name = event.subject.partition("/")
        if not _NAMESPACE.fullmatch(namespace) or not _NAME.fullmatch(name):
            raise Refused(400, "subject must be NAMESPACE/NAME of a ModelDeployment")
        given = signature.removeprefix(_SCHEME).lower().encode("ascii", "replace")
        right = False
        for key in self._keys(namespace) or (b"",):
            made = hmac.new(key, content, hashlib.sha256).hexdigest().encode()
            right |= hmac.compare_digest(made, given) and bool(key)
        if not right or not signature.startswith(_SCHEME):
            raise Refused(401, "the signature is not one by a key of this namespace")
        if abs(event.time - now) > WINDOW:
            minutes = int(WINDOW.total_seconds() // 60)
            raise Refused(400, f"time is more than {minutes} minutes from now: send the event anew, or set the clock")
        return namespace, name

    def is_new(self, namespace: str, event: Event, now: datetime) -> bool:
        """Whether this genuine event has not been taken before.

        Raises:
            Refused: there are too many of this namespace.
        """
        seen = self._seen.setdefault(namespace, {})
        for old in [digest for digest, until in seen.items() if until <= now]:
            del seen[old]
        if _digest(event) in seen:
            return False
        full_at = max(self._full_at.get(namespace, now), now) + timedelta(seconds=1 / RATE)
        if full_at - now > timedelta(seconds=BURST / RATE):
            raise Refused(429, "too many events of this namespace: wait, and send one for many changes")
        self._full_at[namespace] = full_at
        return True

    def remember(self, namespace: str, event: Event, now: datetime) -> None:
        """This new event has been taken; one that was refused may come again."""
        self._seen.setdefault(namespace, {})[_digest(event)] = now + 2 * WINDOW

    def _keys(self, namespace: str) -> list[bytes]:
        try:
            with open(self._folder / namespace, "rb") as file:
                lines = [line.strip() for line in file.read(_MAX_FILE_BYTES).splitlines()]
        except OSError:
            return []
        keys = [line for line in lines if len(line) >= MIN_KEY_BYTES]
        if len(keys) < len([line for line in lines if line]):
            log.warning("keys of namespace %s with less than %d bytes are passed over", namespace, MIN_KEY_BYTES)
        return keys


def _digest(event: Event) -> bytes:
    return hashlib.sha256(f"{event.source}\0{event.id}".encode("utf-8", "surrogatepass")).digest()
