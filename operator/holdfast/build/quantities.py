"""Resource quantities in the form in which the API server stores them.

A child is compared with what is wanted; `0.5` that comes back as `500m` would look like a change made by others.
The rules are those of k8s.io/apimachinery/pkg/api/resource.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import ROUND_UP, Decimal
from functools import lru_cache

_PATTERN = re.compile(r"^\+?([0-9]+\.?[0-9]*|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][-+]?[0-9]+)?$")
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_NANO = Decimal("1e-9")


@lru_cache(maxsize=1024)
def canonical(quantity: int | str) -> str:
    """The canonical form of one quantity. Raises ValueError for what is not a quantity."""
    match = _PATTERN.match(str(quantity))
    if match is None:
        raise ValueError(f"{quantity!r} is not a quantity")
    number, suffix = Decimal(match[1]), match[2] or ""
    if suffix in _BINARY:
        value = number * 1024 ** _BINARY[suffix]
        if value >= 1024:
            return _binary(int(value.to_integral_value(ROUND_UP)))
        return _decimal(value, _suffixes())
    if suffix in _DECIMAL:
        return _decimal(number.scaleb(_DECIMAL[suffix]), _suffixes())
    return _decimal(number.scaleb(int(suffix[1:])), _exponents())


def resources(given: Mapping[str, Mapping[str, int | str]]) -> dict[str, dict[str, str]]:
    """Requests and limits of a container, canonical."""
    return {part: {name: canonical(value) for name, value in values.items()} for part, values in given.items()}


def _suffixes() -> dict[int, str]:
    return {exponent: suffix for suffix, exponent in _DECIMAL.items()}


def _exponents() -> dict[int, str]:
    return {exponent: f"e{exponent}" if exponent else "" for exponent in _DECIMAL.values()}


def _binary(value: int) -> str:
    for suffix, power in reversed(_BINARY.items()):
        if value % 1024**power == 0:
            return f"{value // 1024**power}{suffix}"
    return str(value)


def _decimal(value: Decimal, suffixes: dict[int, str]) -> str:
    value = value.quantize(_NANO, rounding=ROUND_UP)
    if not value:
        return "0"
    for exponent in sorted(suffixes, reverse=True):
        mantissa = value.scaleb(-exponent)
        if mantissa == mantissa.to_integral_value():
            return f"{int(mantissa)}{suffixes[exponent]}"
    raise AssertionError("a multiple of a nano has a suffix")
