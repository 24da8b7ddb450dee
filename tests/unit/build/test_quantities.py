"""Quantities, held against what an API server 1.35 stores for a container."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.build.quantities import canonical

STORED = {
    "0": "0", "-0": "0", "0.0": "0", "0m": "0", "0Ki": "0", "0e5": "0",
    "1": "1", "1.0": "1", "1.5": "1500m", "0.5": "500m", ".5": "500m", "0.1": "100m",
    "100u": "1m", "0.0001": "1m", "1n": "1m", "0.5n": "1m", "0.0000000001": "1m",
    "1000": "1k", "1500": "1500", "1000k": "1M", "1000m": "1", "1500m": "1500m",
    "1.5M": "1500k", "1G": "1G", "1E": "1E",
    "1024": "1024", "1048576": "1048576", "1024Ki": "1Mi", "1025Ki": "1025Ki", "1.5Mi": "1536Ki", "1.5Gi": "1536Mi",
    "0.5Ki": "512", "0.1Ki": "102400m", "0.0001Ki": "103m", "1.1Ki": "1126400m", "1.0000001Mi": "1048576105m",
    "7.5Ei": "7680Pi", "8Ei": "9223372036854775807", "100Ei": "9223372036854775807",
    "1.5e3": "1500",
    "123456789.123456789": "123456789124m", "12345678901234567890m": "12345678901234567890m",
}  # fmt: skip
OTHERWISE = {
    "+1": "1", "01": "1", "5.": "5", "1e0": "1", "1e3": "1k", "1E3": "1k", "1e+3": "1k", "12e-1": "1200m", "1e-9": "1m",
    "10E": "9223372036854775807", "1e30": "9223372036854775807", "1e999999999": "9223372036854775807",
    "1e-999999999": "1m", "99999999999999999999999999999": "9223372036854775807",
}  # fmt: skip
"""Stored as they are given, or in another notation; sent in ours they are stored in ours."""


@pytest.mark.parametrize(("given", "stored"), [*STORED.items(), *OTHERWISE.items()])
def test_a_quantity_is_sent_in_a_form_that_is_stored_as_it_is(given: str, stored: str) -> None:
    assert canonical(given) == stored


def test_numbers_are_quantities() -> None:
    assert canonical(2000) == "2k"


@pytest.mark.parametrize("given", ["", "x", "1 Gi", "1gi", "1e", "1..5", "0x10", "NaN", "."])
def test_what_is_no_quantity_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        canonical(given)


@given(st.integers(0, 10**22), st.sampled_from(["", "m", "u", "k", "M", "Ki", "Mi", "Gi", "Ei", "e3", "e-2"]))
def test_the_canonical_form_is_its_own_canonical_form(number: int, suffix: str) -> None:
    once = canonical(f"{number}{suffix}")
    assert canonical(once) == once
