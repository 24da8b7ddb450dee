"""Resource quantities in the form in which the API server stores them.

A child is compared with what is wanted; `0.5` that comes back as `500m` would look like a change made by others.
The rules are those of k8s.io/apimachinery/pkg/api/resource, and of containers: they get no less than a thousandth.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import ROUND_UP, Context, Decimal
from functools import lru_cache

_PATTERN = re.compile(r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][-+]?[0-9]+)?$")
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_MOST = 2**63 - 1
"""What is more is cut to this."""
_EXACT = Context(prec=100)


@lru_cache(maxsize=1024)
def canonical(quantity: int | str) -> str:
    """The canonical form of one quantity that is not negative (-0 is none). Raises ValueError for what is not one."""
    match = _PATTERN.match(str(quantity))
    if match is None:
        raise ValueError(f"{quantity!r} is not a quantity")
    number, suffix = Decimal(match[1]), match[2] or ""
    if suffix in _BINARY:
        value = _EXACT.multiply(number, 1024 ** _BINARY[suffix])
    else:
        exponent = _DECIMAL[suffix] if suffix in _DECIMAL else int(suffix[1:])
        value = number.scaleb(max(-50, min(50, exponent)), _EXACT)  # far beyond both bounds
    thousandths = int(_EXACT.multiply(value, 1000).to_integral_value(ROUND_UP))
    if thousandths >= _MOST * 1000:
        return str(_MOST)
    if suffix in _BINARY and thousandths % 1000 == 0 and thousandths >= 1024_000:
        return _in_largest(thousandths // 1000, [(name, 1024**power) for name, power in _BINARY.items()])
    units = [(name, 10 ** (power + 3)) for name, power in _DECIMAL.items() if power >= -3]
    return _in_largest(thousandths, units) if thousandths else "0"


def resources(given: Mapping[str, Mapping[str, int | str]]) -> dict[str, dict[str, str]]:
    """Requests and limits of a container, canonical, without what is empty."""
    return {
        part: {name: canonical(value) for name, value in values.items()} for part, values in given.items() if values
    }


def _in_largest(value: int, units: list[tuple[str, int]]) -> str:
    """The value in the largest unit that makes it a whole number."""
    for name, size in reversed(units):
        if value % size == 0:
            return f"{value // size}{name}"
    return str(value)
