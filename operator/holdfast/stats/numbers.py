"""Reads numbers of documents that somebody may have changed."""

from __future__ import annotations


def finite(document: object) -> tuple[float, ...]:
    """Raises ValueError unless this is a list of finite numbers."""
    if not isinstance(document, list):
        raise ValueError("numbers come as a list")
    for value in document:
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _MOST:
            raise ValueError("a number is missing, infinite or out of bounds")
    return tuple(map(float, document))


_MOST = 1e300  # an int may be larger than any float
