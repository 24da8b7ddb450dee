"""Distribution functions that the standard library lacks.

Tests hold them against SciPy's. They take counts up to a thousand million.
"""

from __future__ import annotations

import math

_PRECISE = 1e-15
_TINY = 1e-300
_MOST_STEPS = 1_000_000


def beta(x: float, a: float, b: float) -> float:
    """Regularized incomplete beta function: the probability below `x` of a Beta(a, b), both above 0."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    front = math.exp(a * math.log(x) + b * math.log1p(-x) - log_beta(a, b))
    if x < (a + 1) / (a + b + 2):
        return front * _beta_fraction(x, a, b) / a
    return 1 - front * _beta_fraction(1 - x, b, a) / b


def log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def binomial_tail(bad: float, total: float, rate: float) -> float:
    """Probability of so many bad ones of `total`, or more. No whole numbers are needed."""
    return beta(rate, bad, total - bad + 1) if bad > 0 else 1.0


def gamma_tail(a: float, x: float) -> float:
    """Regularized upper incomplete gamma function: the probability above `x` of a Gamma(a)."""
    if x <= 0:
        return 1.0
    front = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1:
        term = total = 1 / a
        n = a
        while term > total * _PRECISE:
            n += 1
            term *= x / n
            total += term
        return 1 - front * total
    return front * _gamma_fraction(a, x)


def noncentral_chi_square_tail(x: float, degrees: float, noncentrality: float) -> float:
    """Probability above `x`: central ones, mixed by a Poisson distribution."""
    if x <= 0:
        return 1.0
    mean, half = noncentrality / 2, x / 2
    if not mean:
        return gamma_tail(degrees / 2, half)
    spread = _REACH * math.sqrt(mean) + _REACH**2
    first, last = max(0, math.floor(mean - spread)), math.ceil(mean + spread)
    weight = math.exp(first * math.log(mean) - mean - math.lgamma(first + 1))
    shape = degrees / 2 + first
    tail = gamma_tail(shape, half)
    step = math.exp(shape * math.log(half) - half - math.lgamma(shape + 1))  # tail of shape + 1, minus this one's
    total = 0.0
    for j in range(first, last + 1):
        total += weight * tail
        weight *= mean / (j + 1)
        tail += step
        shape += 1
        step *= half / shape
    return min(total, 1.0)


_REACH = 9  # standard deviations: what lies beyond is less than 1e-18


def noncentral_chi_square_quantile(alpha: float, degrees: float, noncentrality: float) -> float:
    """What is exceeded with probability `alpha`."""
    low, high = 0.0, degrees + noncentrality
    while noncentral_chi_square_tail(high, degrees, noncentrality) > alpha:
        low, high = high, high + 4 * math.sqrt(2 * (degrees + 2 * noncentrality)) + 8
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        if noncentral_chi_square_tail(middle, degrees, noncentrality) > alpha:
            low = middle
        else:
            high = middle
    return high


def _beta_fraction(x: float, a: float, b: float) -> float:
    """Continued fraction (DLMF 8.17.22) by Lentz's method."""
    c = 1.0
    d = 1 / _away(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _MOST_STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d, c = 1 / _away(1 + even * d), _away(1 + even / c)
        value *= d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d, c = 1 / _away(1 + odd * d), _away(1 + odd / c)
        value *= d * c
        if abs(d * c - 1) < _PRECISE:
            break
    return value


def _gamma_fraction(a: float, x: float) -> float:
    """Continued fraction (DLMF 8.9.2) by Lentz's method."""
    b = x + 1 - a
    c = 1 / _TINY
    d = 1 / _away(b)
    value = d
    for n in range(1, _MOST_STEPS):
        b += 2
        step = -n * (n - a)
        d, c = 1 / _away(step * d + b), _away(b + step / c)
        value *= d * c
        if abs(d * c - 1) < _PRECISE:
            break
    return value


def _away(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
