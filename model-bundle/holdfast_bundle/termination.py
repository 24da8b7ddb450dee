"""The termination message: how a pod without API access says what happened."""

from __future__ import annotations

import contextlib
import copy
import json
import os
from pathlib import Path
from typing import Any

PATH = Path("/dev/termination-log")
LIMIT = 4095
"""Bytes. The kubelet takes 4096 per container; a message at the limit may already be cut."""


def write(payload: dict[str, Any], path: Path = PATH) -> None:
    """Leave `payload` as the last word of this container, cut to `LIMIT` bytes.

    The kubelet makes the file before the container starts. Where there is none (a run by hand) nothing is
    written. Never raises on I/O: whatever led here must reach the exit code.
    """
    data = encode(payload)
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)


def encode(payload: dict[str, Any], limit: int = LIMIT) -> bytes:
    """`payload` as compact JSON of at most `limit` bytes.

    What is too long is cut where it is longest: lists (findings, packages) lose items from the end, strings
    called `message` lose their end. Everything else (digests, URIs, counts) stays whole.

    Raises:
        ValueError: what may not be cut is longer than `limit`.
    """
    data = _dump(payload)
    if len(data) <= limit:
        return data
    payload = copy.deepcopy(payload)
    while len(data := _dump(payload)) > limit:
        candidates = list(_cuttable(payload))
        if not candidates:
            raise ValueError(f"a termination message of {len(data)} bytes cannot be cut to {limit}")
        _, holder, key = max(candidates, key=lambda candidate: candidate[0])
        value = holder[key]
        if isinstance(value, list):
            value.pop()
        else:
            # A character takes at most 6 bytes of JSON, so this comes close from above, in a few rounds.
            keep = max(len(value) - 1 - (len(data) - limit + 5) // 6, len(value) // 2)
            holder[key] = value[:keep].removesuffix("…") + "…" if keep > 1 else ""
    return data


def _dump(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _cuttable(value: Any) -> Any:
    """(size in bytes, holder, key) of everything below `value` that may be cut."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if (isinstance(item, list) or (key == "message" and isinstance(item, str))) and item:
            yield len(_dump(item)), value, key
        if isinstance(item, dict | list):
            yield from _cuttable(item)
