"""The oracle: every quantity as a rigorous enclosure (Arb ball arithmetic) of the exact values stored in the input.

Conventions are those of docs/numerics.md: 0 ln 0 = 0, a class without mass in ``p`` contributes nothing, ``p > 0``
where ``q = 0`` is +inf, every row is renormalised, a row that holds a NaN or no mass is NaN. Nothing is rounded before
the last step: precision is raised until at least `ACCURATE_BITS` bits of the value are certain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import flint
import numpy as np
from flint import arb

ACCURATE_BITS = 90
PRECISIONS = (128, 320, 1280)
INF = float("inf")
NAN = float("nan")

LINEAR = ("probs", "counts")
LOGARITHMIC = ("log_probs", "logits")
SPACES = LINEAR + LOGARITHMIC


@dataclass(frozen=True, eq=False)
class Distribution:
    """A normalised row: the mass of every class, and its logarithm (None where it has none). Hashed by identity."""

    mass: list[Any]
    log: list[Any]


@dataclass(frozen=True)
class Exact:
    """Values as the unevaluated sum of two doubles, good to about 100 bits."""

    hi: np.ndarray
    lo: np.ndarray

    def error(self, got: np.ndarray) -> np.ndarray:
        """Absolute error of finite results (the difference of close doubles is exact)."""
        return np.abs((np.asarray(got, np.float64) - self.hi) - self.lo)

    def __getitem__(self, index: Any) -> Exact:
        return Exact(self.hi[index], self.lo[index])


def ulp(value: np.ndarray, dtype: Any) -> np.ndarray:
    """The unit in the last place of `dtype` at `value`; the smallest subnormal at 0."""
    info = np.finfo(dtype)
    exponent = np.frexp(np.abs(np.asarray(value, np.float64)))[1] - 1
    exponent = np.where(np.asarray(value) == 0, info.minexp, np.maximum(exponent, info.minexp))
    return np.ldexp(1.0, exponent - info.nmant)


@contextmanager
def precision(bits: int) -> Iterator[None]:
    """Evaluate balls with `bits` bits."""
    before = flint.ctx.prec
    flint.ctx.prec = bits
    try:
        yield
    finally:
        flint.ctx.prec = before


# ----------------------------------------------------------------------------------------------------------------- rows


def distribution(
    row: np.ndarray, given: str, temperature: float = 1.0, where: np.ndarray | None = None
) -> Distribution | None:
    """Normalise one row at the present precision; None if it holds a NaN or no mass."""
    mask = None if where is None else np.asarray(where, bool).tobytes()
    exact = row if row.dtype.kind in "iub" else row.astype(np.float64)
    return _distribution(exact.tobytes(), exact.dtype.str, given, float(temperature), mask, flint.ctx.prec)


@lru_cache(maxsize=128)
def _distribution(
    data: bytes, dtype: str, given: str, temperature: float, mask: bytes | None, _precision: int
) -> Distribution | None:
    values = np.frombuffer(data, dtype).tolist()
    if mask is not None:
        absent = 0.0 if given in LINEAR else -INF
        values = [x if keep else absent for x, keep in zip(values, mask, strict=True)]
    if any(math.isnan(x) for x in values):
        return None
    zero = arb(0)
    if given in LINEAR:
        weights = [arb(x) for x in values]
        total = sum(weights, zero)
        if not total > 0:
            return None
        log_total = total.log()
        logs = [w.log() - log_total if x else None for w, x in zip(weights, values, strict=True)]
        return Distribution([w / total for w in weights], logs)
    top = max(values, default=-INF)
    if top == -INF:
        return None
    scale = 1 / arb(temperature if given == "logits" else 1.0)
    high = arb(top)
    shifted = [None if x == -INF else (arb(x) - high) * scale for x in values]
    weights = [zero if z is None else z.exp() for z in shifted]
    total = sum(weights, zero)
    log_total = total.log()
    return Distribution([w / total for w in weights], [None if z is None else z - log_total for z in shifted])


# ------------------------------------------------------------------------------------------------------------- measures
# Each takes normalised rows and gives a ball, or a float for ±inf.


def entropy(p: Distribution) -> Any:
    """-Σ p ln p."""
    return -sum((m * u for m, u in zip(p.mass, p.log, strict=True) if u is not None), arb(0))


def cross_entropy(p: Distribution, q: Distribution) -> Any:
    """-Σ p ln q."""
    total = arb(0)
    for m, u, v in zip(p.mass, p.log, q.log, strict=True):
        if u is None:
            continue
        if v is None:
            return INF
        total -= m * v
    return total


def kl_divergence(p: Distribution, q: Distribution) -> Any:
    """Σ p (ln p - ln q)."""
    total = arb(0)
    for m, u, v in zip(p.mass, p.log, q.log, strict=True):
        if u is None:
            continue
        if v is None:
            return INF
        total += m * (u - v)
    return total


@lru_cache(maxsize=256)
def js_divergence(p: Distribution, q: Distribution) -> Any:
    """½ Σ p ln(p/m) + ½ Σ q ln(q/m), m = (p + q)/2."""
    total = arb(0)
    ln2 = arb.const_log2()
    for m, n, u, v in zip(p.mass, q.mass, p.log, q.log, strict=True):
        if u is None and v is None:
            continue
        middle = (m + n).log() - ln2
        if u is not None:
            total += m * (u - middle)
        if v is not None:
            total += n * (v - middle)
    return total / 2


def js_distance(p: Distribution, q: Distribution) -> Any:
    """√JS."""
    return js_divergence(p, q).nonnegative_part().sqrt()


def nll(q: Distribution, label: int) -> Any:
    """-ln q[label]."""
    log = q.log[label]
    return INF if log is None else -log


# ----------------------------------------------------------------------------------------------------------- evaluation


def certain(evaluate: Callable[[], Any]) -> tuple[float, float]:
    """Raise the precision until the value is certain; its two leading doubles."""
    for bits in PRECISIONS:
        with precision(bits):
            value = evaluate()
            if isinstance(value, float):
                return value, 0.0
            if value.is_zero():
                return 0.0, 0.0
            if value.is_finite() and value.rel_accuracy_bits() >= ACCURATE_BITS:
                high = float(value.mid())
                return high, 0.0 if abs(high) == INF else float((value - arb(high)).mid())
    # Below the smallest double whatever its digits, or not to be told from 0.
    if value.abs_upper() < arb("1e-330") or (value.contains(0) and value.abs_upper() < arb("1e-150")):
        return 0.0, 0.0
    raise ArithmeticError(f"no certain value at {PRECISIONS[-1]} bits: {value}")


def pair(value: Any) -> tuple[Any, Any]:
    """One setting for both rows, or a setting for each."""
    return tuple(value) if isinstance(value, tuple) else (value, value)


def exact(
    measure: Callable[..., Any],
    *inputs: np.ndarray,
    given: str | tuple[str, str] = "probs",
    temperature: float | tuple[float, float] = 1.0,
    labels: Sequence[int] | np.ndarray | None = None,
    where: np.ndarray | None = None,
) -> Exact:
    """Evaluate `measure` on every row of matrices of the same shape (rows along the last axis).

    Parameters
    ----------
    measure
        One of the measures above.
    *inputs
        One or two matrices, in any dtype: their stored values are taken as they are.
    given, temperature
        The space and the temperature of the rows, or a pair of them.
    labels
        One class per row, handed to the measure.
    where
        The classes that count, for all rows or per row.
    """
    shape = inputs[0].shape
    mask = None if where is None else np.broadcast_to(where, shape).reshape(-1, shape[-1])
    matrices = [x.reshape(-1, shape[-1]) for x in inputs]
    classes = None if labels is None else np.asarray(labels).reshape(-1).tolist()
    pairs = []
    for i in range(len(matrices[0])):

        def evaluate(i: int = i) -> Any:
            keep = None if mask is None else mask[i]
            rows = [
                distribution(x[i], space, t, keep)
                for x, space, t in zip(matrices, pair(given), pair(temperature), strict=False)
            ]
            if any(row is None for row in rows):
                return NAN
            return measure(*rows) if classes is None else measure(*rows, classes[i])

        pairs.append(certain(evaluate))
    values = np.array(pairs, np.float64).reshape(*shape[:-1], 2)
    return Exact(values[..., 0], values[..., 1])


def exact_elements(part: str, logits: np.ndarray, temperature: float = 1.0) -> Exact:
    """Softmax (`part` = "mass") or log-softmax (`part` = "log") of every row of a matrix."""

    def one(row: np.ndarray, j: int) -> Any:
        found = distribution(row, "logits", temperature)
        if found is None:
            return NAN
        value = getattr(found, part)[j]
        return -INF if value is None else value

    pairs = [[certain(lambda row=row, j=j: one(row, j)) for j in range(len(row))] for row in logits]
    values = np.array(pairs, np.float64).reshape(*logits.shape, 2)
    return Exact(values[..., 0], values[..., 1])


def exact_sum(values: Exact) -> tuple[float, float]:
    """The sum of all values, as two doubles."""
    with precision(256):
        total = sum((arb(float(x)) for part in (values.hi, values.lo) for x in part.reshape(-1)), arb(0))
        high = float(total.mid())
        return high, float((total - arb(high)).mid())


def kl_div_terms(log_q: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Torch's pointwise KL, xlogy(t, t) - t·input, of finite arrays of one shape, and the largest of its two parts."""
    out, size = np.empty(target.shape), np.empty(target.shape)
    with precision(256):
        for i in np.ndindex(*target.shape):
            t, u = arb(float(target[i])), arb(float(log_q[i]))
            first = t * t.log() if target[i] > 0 else arb(0)
            out[i] = float((first - t * u).mid())
            size[i] = max(abs(float(first.mid())), abs(float((t * u).mid())))
    return out, size


# ---------------------------------------------------------------------------------------------- a fast reference for KL


def kl_vectorised(p: np.ndarray, q: np.ndarray, given: str, work: Any = np.float64) -> np.ndarray:
    """KL of millions of rows of one space, all |ln q - ln p| below 300 and no zeros, in a wider dtype than theirs.

    The relative error is of the order of ε_work / |ln q - ln p|: about 1e-8 for f32 rows one ulp apart in f64. Classes
    enter as non-negative terms; what the first moment leaves behind is of second order only.
    """
    a, b = p.astype(work), q.astype(work)
    if given in LINEAR:
        total_p, total_q = a.sum(-1, keepdims=True), b.sum(-1, keepdims=True)
        x = (b * total_p - a * total_q) / (a * total_q)
        far = np.abs(x) > 0.5
        log_ratio = np.log(np.where(far, b * total_p / (a * total_q), 1))
        return (a * np.where(far, x - log_ratio, _x_minus_log1p(np.where(far, 0, x)))).sum(-1) / total_p[..., 0]
    w = np.exp(a - a.max(-1, keepdims=True))
    w /= w.sum(-1, keepdims=True)
    d = b - a
    d -= (w * d).sum(-1, keepdims=True)
    d -= (w * d).sum(-1, keepdims=True)
    grown = (w * _expm1_minus_x(d)).sum(-1)
    return np.log1p(grown)


def _x_minus_log1p(x: np.ndarray) -> np.ndarray:
    """X - ln(1 + x): its series below 1e-2, where twelve terms leave less than 1e-25 of the value."""
    series = np.zeros_like(x)
    for k in range(13, 1, -1):
        series = series * -x + x.dtype.type(1) / k
    return np.where(np.abs(x) < 1e-2, x * x * series, x - np.log1p(x))


def _expm1_minus_x(x: np.ndarray) -> np.ndarray:
    """Exp(x) - 1 - x: its series below 1e-1, where fourteen terms leave less than 1e-25 of the value."""
    series = np.zeros_like(x)
    for k in range(15, 1, -1):
        series = (series * x + 1) / k
    return np.where(np.abs(x) < 1e-1, x * x * series, np.expm1(x) - x)
