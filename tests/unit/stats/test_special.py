"""Distribution functions, held against SciPy's, which the operator does not carry."""

import time

import hypothesis.strategies as st
import pytest
from hypothesis import assume, given, settings
from scipy import special as reference
from scipy import stats

from holdfast.stats import special

SMALLEST = 1e-12  # probabilities below this decide nothing


@settings(deadline=None)
@given(st.floats(0.01, 1), st.floats(1, 1e6), st.floats(0.1, 1.5))
def test_binomial_tails_are_scipys(share: float, total: float, near: float) -> None:
    bad = share**3 * total
    rate = min(0.999, share**3 * near)
    expected = reference.betainc(bad, total - bad + 1, rate)
    assume(expected > SMALLEST)
    assert special.binomial_tail(bad, total, rate) == pytest.approx(expected, rel=1e-6)


@settings(deadline=None)
@given(st.floats(0.5, 1e4), st.floats(0.01, 3))
def test_gamma_tails_are_scipys(a: float, near: float) -> None:
    expected = reference.gammaincc(a, a * near)
    assume(expected > SMALLEST)
    assert special.gamma_tail(a, a * near) == pytest.approx(expected, rel=1e-8)


@settings(deadline=None)
@given(st.integers(1, 40), st.floats(0, 3e4), st.floats(1e-7, 0.5))
def test_noncentral_chi_square_quantiles_are_scipys(degrees: int, noncentrality: float, alpha: float) -> None:
    expected = stats.ncx2.isf(alpha, degrees, noncentrality)
    assert special.noncentral_chi_square_quantile(alpha, degrees, noncentrality) == pytest.approx(expected, rel=1e-6)


def test_what_is_certain_is_one_and_what_cannot_be_is_zero() -> None:
    assert special.binomial_tail(0, 10, 0.1) == 1
    assert special.binomial_tail(3, 10, 0) == 0
    assert special.beta(1, 2, 3) == 1
    assert special.gamma_tail(2, 0) == 1
    assert special.noncentral_chi_square_tail(0, 9, 10) == 1


def test_large_counts_take_no_longer_than_a_moment() -> None:
    begin = time.process_time()
    special.binomial_tail(1.44e7 + 4000, 1e9, 0.0144)
    special.noncentral_chi_square_quantile(0.001, 9, 1e5)
    assert time.process_time() - begin < 1
