"""The regularised incomplete beta function and its inverse, for exact intervals of rates and Student's t.

Written here because the control server does not import scipy (45 MB and a third of a second for two functions). Tests
compare it with scipy.
"""

import math

_ITERATIONS_MAX = 10_000
"""Terms of the continued fraction; about sqrt(max(a, b)) are needed, so this covers counts up to some ten million."""

_TINY = 1e-300  # keeps Lentz's denominators away from zero


def beta_cdf(x: float, a: float, b: float) -> float:
    """P(X ≤ x) for X ~ Beta(a, b), by Lentz's continued fraction (DLMF 8.17.22), to about 1e-13."""
    if a <= 0 or b <= 0:
        raise ValueError(f"beta parameters must be positive, got {a} and {b}")
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    if x > (a + 1.0) / (a + b + 2.0):  # the fraction converges fast only below the mean
        return 1.0 - beta_cdf(1.0 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) * _continued_fraction(x, a, b) / a


def beta_quantile(p: float, a: float, b: float) -> float:
    """The x with P(X ≤ x) = p for X ~ Beta(a, b), by bisection."""
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"p must lie within 0..1, got {p}")
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2.0
        if middle in (low, high):
            break
        low, high = (middle, high) if beta_cdf(middle, a, b) < p else (low, middle)
    return (low + high) / 2.0


def student_quantile(p: float, dof: int) -> float:
    """The t with P(T ≤ t) = p for Student's distribution: t² / (dof + t²) is Beta(1/2, dof/2)."""
    if dof < 1:
        raise ValueError(f"degrees of freedom must be at least 1, got {dof}")
    if not 0.0 < p < 1.0:
        raise ValueError(f"p must lie strictly within 0..1, got {p}")
    if p < 0.5:
        return -student_quantile(1.0 - p, dof)
    rest = beta_quantile(2.0 * (1.0 - p), dof / 2.0, 0.5)  # dof / (dof + t²): keeps its precision in the tails
    return math.sqrt(dof * (1.0 - rest) / rest) if rest > 0.0 else math.inf


def _continued_fraction(x: float, a: float, b: float) -> float:
    c = 1.0
    d = 1.0 / _nonzero(1.0 - (a + b) * x / (a + 1.0))
    value = d
    for m in range(1, _ITERATIONS_MAX):
        even = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        d = 1.0 / _nonzero(1.0 + even * d)
        c = _nonzero(1.0 + even / c)
        value *= d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        d = 1.0 / _nonzero(1.0 + odd * d)
        c = _nonzero(1.0 + odd / c)
        step = d * c
        value *= step
        if abs(step - 1.0) < 1e-15:
            return value
    raise ArithmeticError(f"incomplete beta did not converge at x={x}, a={a}, b={b}")


def _nonzero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
