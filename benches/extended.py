"""Reference values in extended precision, written for independence and accuracy, not for speed.

Nothing here is shared with the package: the formulas are evaluated in ``numpy.longdouble`` (64-bit significand on
x86-64, 113-bit on Linux/aarch64) from the stored inputs, which convert without rounding. A divergence is summed from
its generator in ``d = ln q - ln p``, whose terms are all of one sign, and ``d`` itself is formed from differences of
the inputs, so that rows one ulp apart keep their digits. ``EPSILON`` says what the platform's type resolves.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Rows: TypeAlias = NDArray[Any]
Exact: TypeAlias = NDArray[np.longdouble]

Long = np.longdouble
EPSILON = float(np.finfo(Long).eps)
LN2 = np.log(Long(2))


def widen(x: Rows) -> Exact:
    """Convert exactly; the 16-bit types go through float32, which holds them."""
    return (x.astype(np.float32) if x.dtype.itemsize == 2 else x).astype(Long)


def kl_generator(d: Exact) -> Exact:
    """exp(d) - 1 - d, by its series where the difference would cancel.

    The first term left out is d^13/13! against d^2/2: below 1e-20 of the value for abs(d) < 1/16.
    """
    small = np.abs(d) < 1 / 16
    x = np.where(small, d, 0)
    factor = np.ones_like(x)
    for n in range(12, 2, -1):
        factor = 1 + factor * x / n
    return np.where(small, x * x / 2 * factor, np.expm1(d) - d)


# JS is the sum of (p + q)/2 times ln 2 - log1p(t) - a t/(1 + t), a = abs(d), t = exp(-a). The derivative of that is
# (a/4) sech^2(a/2): these are the coefficients of a^2, a^4, ... in the integral of its series.
JS_SERIES = (
    Long(1) / 8,
    Long(-1) / 64,
    Long(1) / 576,
    Long(-17) / 92160,
    Long(31) / 1612800,
    Long(-691) / 348364800,
    Long(5461) / 26824089600,
)


def js_generator(d: Exact) -> Exact:
    """Return the JS term per unit of (p + q)/2, ln 2 where d is infinite.

    The first term left out of the series is below 1e-20 of the value for abs(d) < 1/16; above, the plain form loses at
    most four digits to cancellation.
    """
    a = np.abs(d)
    y = np.where(a < 1 / 16, a, 0) ** 2
    series = np.zeros_like(y)
    for coefficient in reversed(JS_SERIES):
        series = series * y + coefficient
    t = np.exp(-a)
    finite = np.where(np.isinf(a), 0, a)
    return np.asarray(np.where(a < 1 / 16, y * series, LN2 - np.log1p(t) - finite * t / (1 + t)))


def _exp_weights(x: Rows) -> tuple[Exact, Exact]:
    """exp(x - max) and x - max, row by row."""
    wide = widen(x)
    shifted = wide - wide.max(axis=-1, keepdims=True)
    return np.exp(shifted), shifted


def _log_total(mass: Exact) -> Exact:
    """Logarithm of the sum of a row whose largest entry is 1, kept out of the sum: a peaked row's is tiny."""
    rest = mass.copy()
    np.put_along_axis(rest, rest.argmax(axis=-1)[..., None], Long(0), axis=-1)
    return np.asarray(np.log1p(rest.sum(axis=-1, keepdims=True)))


def _cross_entropy(p: Exact, q: Exact, log_q: Exact) -> Exact:
    """-sum p ln q of rows given as mass, and mass with largest entry 1 and its logarithm; p > 0 needs q > 0."""
    surprise = _log_total(q) - np.where(p > 0, log_q, 0)
    return np.asarray((p * surprise).sum(axis=-1) / p.sum(axis=-1))


def cross_entropy_of_probs(p: Rows, q: Rows) -> Exact:
    """Cross entropy in nats of rows of probabilities or counts, which are divided by their sums."""
    mass = widen(q)
    largest = mass.max(axis=-1, keepdims=True)
    near = mass > largest / 2
    with np.errstate(divide="ignore"):
        log_q = np.where(near, np.log1p((np.where(near, mass, largest) - largest) / largest), np.log(mass / largest))
    return _cross_entropy(widen(p), mass / largest, log_q)


def cross_entropy_of_logits(x: Rows, y: Rows) -> Exact:
    """Cross entropy in nats of softmax(x) and softmax(y)."""
    return _cross_entropy(_exp_weights(x)[0], *_exp_weights(y))


def entropy_of_probs(p: Rows) -> Exact:
    """Entropy in nats of rows of probabilities or counts, which are divided by their sum."""
    return cross_entropy_of_probs(p, p)


def entropy_of_logits(x: Rows) -> Exact:
    """Entropy in nats of softmax(x)."""
    return cross_entropy_of_logits(x, x)


def nll_of_logits(x: Rows, labels: NDArray[np.integer]) -> Exact:
    """-ln softmax(x)[label]."""
    mass, shifted = _exp_weights(x)
    chosen = np.take_along_axis(shifted, labels[..., None].astype(np.intp), axis=-1)[..., 0]
    return np.asarray(_log_total(mass)[..., 0] - chosen)


def _ratio_of_probs(p: Rows, q: Rows) -> tuple[Exact, Exact, Exact]:
    """Normalised p and q, and d = ln q - ln p of them (+inf where p = 0, -inf where q = 0, 0 where both are)."""
    a, b = widen(p), widen(q)
    total = a.sum(axis=-1, keepdims=True)
    other = b.sum(axis=-1, keepdims=True)
    near = np.abs(b - a) < a / 2
    both = (a > 0) & (b > 0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        d = np.where(near, np.log1p(np.where(near, (b - a) / a, 0)), np.log(b) - np.log(a))
        scale = (b - a).sum(axis=-1, keepdims=True) / total
        offset = np.where(np.abs(scale) < 0.5, np.log1p(scale), np.log(other) - np.log(total))
    d = np.where(both, d - offset, np.where(a > 0, -np.inf, np.where(b > 0, np.inf, 0)))
    return a / total, b / other, d


def _difference(a: Exact, b: Exact) -> tuple[Exact, Exact]:
    """Subtract exactly: the rounded difference and its error."""
    head = a - b
    t = head - a
    return head, (a - (head - t)) - (b + t)


def _ratio_of_logits(a: Rows, b: Rows) -> tuple[Exact, Exact, Exact]:
    """softmax(a), softmax(b) and the difference of their logarithms.

    With w = b - a centred on the largest class of a, d = w - ln sum p exp(w); log1p and expm1 keep that logarithm's
    digits when the rows are close. What w is before it is centred is kept in two parts: of rows an offset of 2.5 apart
    with a KL of 1e-12 one part alone is off by 1e-13 of the KL.
    """
    x, y = widen(a), widen(b)
    p, _ = _exp_weights(a)
    q, _ = _exp_weights(b)
    p, q = p / p.sum(axis=-1, keepdims=True), q / q.sum(axis=-1, keepdims=True)
    in_a, in_b = np.isfinite(x), np.isfinite(y)
    both = in_a & in_b
    gap, lost = _difference(np.where(both, y, 0), np.where(both, x, 0))
    top = np.where(both, x, -np.inf).argmax(axis=-1)[..., None]
    centre = np.take_along_axis(gap, top, axis=-1)
    beside = np.take_along_axis(lost, top, axis=-1)
    w, more = _difference(gap, centre)
    w = np.where(both, w + (more + (lost - beside)), 0)
    same_support = (in_a == in_b).all(axis=-1, keepdims=True)
    close = same_support & (np.abs(w).max(axis=-1, keepdims=True) < 1)
    near = np.log1p((p * np.expm1(np.where(close, w, 0))).sum(axis=-1, keepdims=True))

    def log_sum(z: Exact) -> Exact:
        return np.asarray(_log_total(_exp_weights(z)[0]) + z.max(axis=-1, keepdims=True))

    far = log_sum(y) - log_sum(x) - centre - beside
    d = np.where(both, w - np.where(close, near, far), np.where(in_a, -np.inf, np.where(in_b, np.inf, 0)))
    return p, q, d


def _kl(p: Exact, q: Exact, d: Exact) -> Exact:
    # For d > 1 the generator's mass is q itself: p exp(d) would overflow when q is far larger than p.
    with np.errstate(invalid="ignore", over="ignore"):
        inner = np.where(d < 1, p * kl_generator(np.where(np.isfinite(d) & (d < 1), d, 0)), 0)
        outer = np.where(np.isfinite(d) & (d >= 1), q - p - p * np.where(np.isfinite(d), d, 0), 0)
    terms = np.where(d == np.inf, q, np.where(d == -np.inf, np.inf, inner + outer))
    return np.asarray(terms.sum(axis=-1))


def _js(p: Exact, q: Exact, d: Exact) -> Exact:
    return np.asarray(((p + q) / 2 * js_generator(d)).sum(axis=-1))


def kl_of_probs(p: Rows, q: Rows) -> Exact:
    """KL(p || q) in nats of rows of probabilities or counts."""
    return _kl(*_ratio_of_probs(p, q))


def kl_of_logits(a: Rows, b: Rows) -> Exact:
    """KL(softmax(a) || softmax(b)) in nats."""
    return _kl(*_ratio_of_logits(a, b))


def js_of_probs(p: Rows, q: Rows) -> Exact:
    """JS(p, q) in nats of rows of probabilities or counts."""
    return _js(*_ratio_of_probs(p, q))


def js_of_logits(a: Rows, b: Rows) -> Exact:
    """JS(softmax(a), softmax(b)) in nats."""
    return _js(*_ratio_of_logits(a, b))


def js_distance_of_probs(p: Rows, q: Rows) -> Exact:
    """Square root of JS(p, q)."""
    return np.asarray(np.sqrt(js_of_probs(p, q)))
