"""Receipts: what a model said, sealed, so that whoever learns the truth later can tell it to any replica.

A receipt is `PAYLOAD.SEAL`, both base64url. The payload is JSON that anybody may read: `revision`, `time` (seconds
since the epoch), `nonce`, and `said`, a prediction per row. The seal is an HMAC of it and of the model's name, with a
key that all replicas and revisions of the model share: without it nobody can make a receipt for another revision,
prediction or model. It is in a Secret, and not in a server's memory, since labels come days later, to other pods.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import orjson

from holdfast_bundle.errors import BundleError
from holdfast_serving.problems import Problem

if TYPE_CHECKING:
    from holdfast_serving.inference import Outputs
    from holdfast_serving.signature import Signature

log = logging.getLogger(__name__)

RECEIPT = "receipt"
"""Request parameter, true, and answer parameter, the receipt."""

KEY = "key"
"""In the Secret: lines of at least 32 characters. The first one seals; all of them are good for reading."""

MAX_ROWS = 1000
"""Of one receipt."""

MAX_AGE_SECONDS = 90 * 86400

_LEAST_KEY, _MOST_KEY_BYTES = 32, 16 << 10
_SEAL_BYTES = 16
_LOOK_SECONDS = 5.0
_MOST_CHARACTERS = 1 << 20

Said: TypeAlias = "bool | int | float | str | None"
"""What a model said of a row, or what is true of it; None: nothing that can be compared."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """An authentic receipt."""

    revision: str
    time: int
    nonce: int
    said: list[Said]


class ReceiptError(Exception):
    """The receipt cannot be used; `reason` is `forged` or `expired`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Keys:
    """The keys in a mounted Secret, read again when its files change: the kubelet swaps them in running pods."""

    def __init__(self, folder: Path) -> None:
        """Read `folder`, which bears the Secret's name. Raises BundleError SecretNotFound, SecretInvalid."""
        self._path = folder / KEY
        self._looked = time.monotonic()
        self._seen = self._stamp()
        self._keys = _keys(self._path)

    def now(self) -> Sequence[bytes]:
        """The key that seals, and those that did before."""
        clock = time.monotonic()
        if clock - self._looked > _LOOK_SECONDS:
            self._looked = clock
            seen = self._stamp()
            if seen != self._seen:
                self._seen = seen
                try:
                    self._keys = _keys(self._path)
                except BundleError as error:
                    log.error("the changed keys for receipts are not used, those before them stay: %s", error.message)
                else:
                    log.info("the keys for receipts have changed")
        return self._keys

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns


def _keys(path: Path) -> list[bytes]:
    secret = f"Secret {path.parent.name}"
    if not path.is_file():
        raise BundleError(
            "SecretNotFound", f"{secret} does not exist in this namespace, or has no key {KEY}; create it"
        )
    with open(path, "rb") as file:
        lines = [line.strip() for line in file.read(_MOST_KEY_BYTES).splitlines()]
    keys = [line for line in lines if line]
    if not keys or any(len(key) < _LEAST_KEY for key in keys):
        raise BundleError(
            "SecretInvalid",
            f"{secret}: {KEY} must hold lines of at least {_LEAST_KEY} characters: openssl rand -hex 32",
        )
    return keys


class Receipts:
    """Makes and reads the receipts of one model, whatever its revision."""

    def __init__(self, keys: Keys, model: str) -> None:
        self._keys = keys
        self._context = b"holdfast receipt\0" + model.encode() + b"\0"

    def issue(self, revision: str, said: Sequence[Said]) -> str:
        """A receipt for what a revision has said just now."""
        payload = orjson.dumps(
            {"revision": revision, "time": int(time.time()), "nonce": secrets.randbits(63), "said": said}
        )
        seal = self._seal(self._keys.now()[0], payload)
        return f"{_text(payload)}.{_text(seal)}"

    def read(self, text: str) -> Receipt:
        """What a receipt says. Raises ReceiptError."""
        payload_text, _, seal_text = text.partition(".")
        if len(text) > _MOST_CHARACTERS or not text.isascii():
            raise ReceiptError("forged")
        try:
            payload, seal = _bytes(payload_text), _bytes(seal_text)
        except ValueError:
            raise ReceiptError("forged") from None
        if not any(hmac.compare_digest(seal, self._seal(key, payload)) for key in self._keys.now()):
            raise ReceiptError("forged")
        receipt = Receipt(**orjson.loads(payload))
        if receipt.time < time.time() - MAX_AGE_SECONDS:
            raise ReceiptError("expired")
        return receipt

    def _seal(self, key: bytes, payload: bytes) -> bytes:
        return hmac.digest(key, self._context + payload, hashlib.sha256)[:_SEAL_BYTES]


class Sealer:
    """Issues receipts for answers, if that is possible."""

    def __init__(self, receipts: Receipts | None, signature: Signature, revision: str) -> None:
        """`receipts`: None where there is no key."""
        self._receipts = receipts
        self._revision = revision
        self._output = predicted(signature)

    def check(self, rows: int) -> None:
        """Raises Problem 400 if there can be no receipt for a request of so many rows."""
        if self._receipts is None:
            raise Problem(400, "there are no receipts here: feedback is off, since the server has no key for them")
        if self._output is None:
            raise Problem(400, "there are no receipts for this model: it does not have one prediction per row")
        if rows > MAX_ROWS:
            raise Problem(400, f"there are no receipts for more than {MAX_ROWS} rows")

    def receipt(self, outputs: Outputs, first: int, last: int) -> str:
        """For rows `first` to `last` (not included) of a run, which have been checked."""
        assert self._receipts is not None
        assert self._output is not None
        said = outputs.arrays[self._output]
        rows = said[first:last] if outputs.has_rows else said
        return self._receipts.issue(outputs.revision or self._revision, rows.ravel().tolist())


def predicted(signature: Signature) -> int | None:
    """The index of the output that says one thing per row: by its name, or as the only one."""
    names = [tensor.name for tensor in signature.outputs]
    for name in ("label", "prediction"):
        if name in names:
            index = names.index(name)
            break
    else:
        if len(names) != 1:
            return None
        index = 0
    shape = signature.outputs[index].shape
    return index if len(shape) == 1 or (len(shape) == 2 and shape[1] == 1) else None


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    """Raises ValueError, also for a second way to write the same bytes."""
    data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if _text(data) != text:
        raise ValueError
    return data
