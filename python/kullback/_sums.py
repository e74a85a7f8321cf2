"""Exact sums of columns, over all rows and per group, and the variances that follow from them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback import _core

__all__ = ["Groups", "Moments", "covariance", "exact", "exp", "quotient", "root"]

_UNIT = Fraction(2) ** -2176
"""What the integer in the state of an `_core.ExactSum` counts."""


class Moments:
    """Exact sum and sum of squares of a column, and its extremes."""

    __slots__ = ("high", "low", "squares", "total")

    def __init__(self) -> None:
        self.total = _core.ExactSum()
        self.squares = _core.ExactSum()
        self.low = math.inf
        self.high = -math.inf

    def add(self, values: NDArray[Any]) -> None:
        """Add at least one value."""
        self.total.add(values)
        self.squares.add_product(values, values)
        # Adding 0 makes -0.0 to 0.0: which of the two a minimum is depends on the order of the values.
        self.low = min(self.low, float(values.min()) + 0.0)
        self.high = max(self.high, float(values.max()) + 0.0)

    def merge(self, other: Moments) -> None:
        """Add what another one holds."""
        self.total.merge(other.total)
        self.squares.merge(other.squares)
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)


class Groups:
    """Sums of columns per group of rows.

    Parameters
    ----------
    columns : iterable of str
        What is summed.
    """

    def __init__(self, columns: Iterable[str]) -> None:
        self.sums = {name: _core.GroupSums() for name in columns}
        self._slots: dict[Hashable, int] = {}
        self._counts: NDArray[np.int64] = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._slots)

    def add(self, columns: Mapping[str, NDArray[Any]], ids: NDArray[Any]) -> None:
        """Add rows.

        Parameters
        ----------
        columns : mapping of str to ndarray
            At least those that are summed, float32 or float64.
        ids : ndarray
            The group of each row.
        """
        # Rows of one group usually follow each other: the mapping is looked up once a run.
        starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]])) if ids.size else np.zeros(0, np.intp)
        slots = self._slots_of(ids[starts].tolist())
        lengths = np.diff(starts, append=ids.size)
        np.add.at(self._counts, slots, lengths)
        index = np.repeat(slots, lengths)
        for name, sums in self.sums.items():
            sums.add(columns[name], index)

    def merge(self, other: Groups) -> None:
        """Add what another one holds of the same columns; equal groups become one."""
        slots = self._slots_of(other._slots)
        np.add.at(self._counts, slots, other._counts)
        for name, sums in self.sums.items():
            sums.merge(other.sums[name], slots)

    def covariance(self, a: str, b: str) -> Fraction | None:
        """Estimate the cluster-robust covariance of the means of two columns; None where undefined.

        With S the sum of a group, c its number of rows, n that of all rows and T the sum of all, it is
        G/(G - 1) Σ (n Sₐ - c Tₐ)(n S_b - c T_b) / n⁴.
        """
        of_a = self._deviations(a)
        of_b = of_a if a == b else self._deviations(b)
        groups, rows = len(self), int(self._counts.sum())
        if groups < 2 or of_a is None or of_b is None:
            return None
        total = sum(x * y for x, y in zip(of_a, of_b, strict=True))
        return Fraction(groups * total, (groups - 1) * rows**4) / (1 << 160)

    def _deviations(self, name: str) -> list[int] | None:
        """Give n S - c T of each group, in units of 2⁻⁸⁰, or None if a group's sum is too large or infinite."""
        sums = [total for total in self.sums[name].sums() if total is not None]
        counts = self._counts.tolist()
        if len(sums) < len(counts):
            return None
        rows, total = sum(counts), sum(sums)
        return [rows * of_group - count * total for of_group, count in zip(sums, counts, strict=True)]

    def _slots_of(self, ids: Iterable[Hashable]) -> NDArray[np.uint32]:
        slots = np.fromiter((self._slots.setdefault(id_, len(self._slots)) for id_ in ids), np.uint32)
        new = len(self._slots) - self._counts.size
        if new:
            self._counts = np.concatenate([self._counts, np.zeros(new, np.int64)])
        return slots


def covariance(n: int, a: _core.ExactSum, b: _core.ExactSum, products: _core.ExactSum) -> Fraction | None:
    """Estimate the covariance of the means of two columns of independent rows; None where undefined.

    Parameters
    ----------
    n : int
        How many rows.
    a, b, products : ExactSum
        Sums of the two columns and of their products, row by row.
    """
    sum_a, sum_b, sum_ab = exact(a), exact(b), exact(products)
    if n < 2 or sum_a is None or sum_b is None or sum_ab is None:
        return None
    return (n * sum_ab - sum_a * sum_b) / (n * n * (n - 1))


def exact(total: _core.ExactSum) -> Fraction | None:
    """Give the sum without rounding; None if it is not finite."""
    *counts, last = total.__getstate__()
    non_finite, digits = counts[:3], counts[3:]
    if any(non_finite):
        return None
    low = int.from_bytes(np.array(digits, "<u4").tobytes(), "little")
    return (low + (last << 32 * len(digits))) * _UNIT


def quotient(numerator: Fraction | int, denominator: int) -> float:
    """Divide, rounding once; NaN over 0."""
    if denominator == 0:
        return math.nan
    try:
        return float(Fraction(numerator) / denominator)
    except OverflowError:
        return math.copysign(math.inf, numerator)


def root(square: Fraction) -> float:
    """Take the square root of a non-negative number that may itself be beyond the range of floating point."""
    half = (square.numerator.bit_length() - square.denominator.bit_length()) // 2
    try:
        return math.ldexp(math.sqrt(square / Fraction(4) ** half), half)
    except OverflowError:
        return math.inf


def exp(x: float) -> float:
    """Raise e to a power, +inf where it overflows."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf
