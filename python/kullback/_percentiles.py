"""Percentiles of a column that arrives in pieces: exact up to a limit, beyond it from a mergeable histogram.

Up to the limit every value is kept, in sorted chunks that are never joined: an order statistic is found by bisection
over the bit patterns of floating-point numbers, so reading percentiles copies nothing.

Beyond the limit values are counted in bins that cut each power of two into 4096 equal parts (the idea of HDR
histograms and of DDSketch), 2.4e-4 wide relative to the value. Counts add, so unlike the randomised sketches (KLL, REQ)
this one gives the same bits for any order, chunks and merges; the error in rank is not a matter of probability but is
read off the bin that holds the percentile. On ten million values it takes 6 ns a value against 50 to 110 for
Apache DataSketches' KLL.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["PERCENTS", "Percentiles"]

PERCENTS = (0.1, 1.0, 5.0, 10.0, 50.0, 90.0, 95.0, 99.0, 99.9)
"""The percentiles that summaries report."""

_CHUNK = 1 << 18
"""Values sorted, or counted, at a time: 1 MiB of float32 stays in cache, and 10⁷ rows are 39 chunks to bisect."""

_DROPPED_BITS = 11
"""Low bits of a float32 that a bin does not look at: 12 of the 23 bits of its fraction remain."""


class Percentiles:
    """Order statistics of the values added so far.

    Parameters
    ----------
    limit : int
        How many values are kept; with more, they are counted in bins.
    binned : bool
        Count in bins from the first value on, because more than `limit` will come.

    Examples
    --------
    >>> import numpy as np
    >>> seen = Percentiles(limit=1000)
    >>> seen.add(np.arange(101.0))
    >>> values, rank_error = seen.at([1.0, 50.0, 99.9])
    >>> values.tolist(), rank_error
    ([1.0, 50.0, 99.9], 0.0)
    """

    def __init__(self, limit: int, *, binned: bool = False) -> None:
        self.limit = limit
        self.count = 0
        self._open: NDArray[Any] = np.empty(0, np.float32)
        self._used = 0
        self._sorted: list[NDArray[Any]] = []
        self._bins: _Bins | None = _Bins() if binned else None

    @property
    def exact(self) -> bool:
        """Whether every value is kept."""
        return self._bins is None

    def add(self, values: NDArray[Any]) -> None:
        """Add a 1-D array of float32 or float64 without NaN."""
        self.count += values.size
        self._respect_limit()
        self._fill(values)

    def merge(self, other: Percentiles) -> None:
        """Add what another one holds."""
        self.limit = min(self.limit, other.limit)
        self.count += other.count
        self._respect_limit()
        if other._bins is not None:
            self._count_in_bins().merge(other._bins)
        for chunk in other._sorted:
            self._take(chunk)
        self._fill(other._open[: other._used])

    def at(self, percents: Sequence[float]) -> tuple[NDArray[np.float64], float]:
        """Percentiles, interpolated linearly between order statistics as ``numpy.percentile`` does.

        Returns
        -------
        values : ndarray
            One for each percent, NaN without values. Infinities sort first and last.
        rank_error : float
            How far the rank of any of them can be from the one asked for, as a share of all values: 0.0 while every
            value is kept, then the largest share of a bin among those that hold them.
        """
        if self.count == 0:
            return np.full(len(percents), np.nan), 0.0
        place = (self.count - 1) * (np.asarray(percents, np.float64) / 100)
        lower = np.floor(place).astype(np.int64)
        ranks = np.stack([lower, np.minimum(lower + 1, self.count - 1)])
        (below, above), rank_error = self._order_statistics(ranks)
        return _between(below, above, place - lower), rank_error

    def _fill(self, values: NDArray[Any]) -> None:
        if values.dtype.itemsize > self._open.dtype.itemsize:
            self._open = self._open.astype(values.dtype)
        while values.size:
            if self._used == self._open.size:
                self._make_room(values.size)
            taken = min(values.size, self._open.size - self._used)
            self._open[self._used : self._used + taken] = values[:taken]
            self._used += taken
            values = values[taken:]

    def _make_room(self, wanted: int) -> None:
        if self._used == _CHUNK:
            self._close_chunk()
            return
        larger = np.empty(min(_CHUNK, max(2 * self._used, wanted)), self._open.dtype)
        larger[: self._used] = self._open
        self._open = larger

    def _close_chunk(self) -> None:
        chunk = self._open[: self._used]
        if self._bins is None:
            self._open = np.empty(self._open.size, self._open.dtype)
            chunk.sort()
        self._used = 0
        self._take(chunk)

    def _take(self, chunk: NDArray[Any]) -> None:
        """Keep a sorted chunk that will not change, or count it."""
        if self._bins is None:
            self._sorted.append(chunk)
        else:
            self._bins.add(chunk)

    def _respect_limit(self) -> None:
        if self.count > self.limit:
            self._count_in_bins()

    def _count_in_bins(self) -> _Bins:
        if self._bins is None:
            self._bins = _Bins()
            while self._sorted:
                self._bins.add(self._sorted.pop())
        return self._bins

    def _order_statistics(self, ranks: NDArray[np.int64]) -> tuple[NDArray[np.float64], float]:
        if self._bins is not None:
            self._close_chunk()
            return self._bins.order_statistics(ranks)
        # The order of the values kept is nobody's business, so they can be sorted where they are.
        last = self._open[: self._used]
        last.sort()
        return _order_statistics([*self._sorted, last], ranks), 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": self._open[: self._used].copy()}


class _Bins:
    """Counts of float32 values in bins of equal relative width; the bins in use are a window of one array."""

    def __init__(self) -> None:
        self._first = 0
        self._counts: NDArray[np.int64] = np.zeros(0, np.int64)

    def add(self, values: NDArray[Any]) -> None:
        """Count values; float64 is rounded to float32, far inside a bin's width."""
        for start in range(0, values.size, _CHUNK):
            bins = _ordered(_single(values[start : start + _CHUNK])) >> _DROPPED_BITS
            first = int(bins.min())
            self._add_counts(first, np.bincount(bins - np.int32(first)))

    def merge(self, other: _Bins) -> None:
        """Add the counts of another histogram."""
        if other._counts.size:
            self._add_counts(other._first, other._counts)

    def order_statistics(self, ranks: NDArray[np.int64]) -> tuple[NDArray[np.float64], float]:
        """Give the values of these ranks, supposing even spacing within a bin, and the largest error in rank."""
        through = np.cumsum(self._counts)
        at = np.searchsorted(through, ranks, side="right")
        counts = self._counts[at]
        bins = at + self._first
        share = (ranks - (through[at] - counts) + 0.5) / counts
        # Beside an infinity lie NaN, signalling ones among them.
        with np.errstate(invalid="ignore"):
            lowest = _unordered(bins << _DROPPED_BITS)
            highest = _unordered((bins << _DROPPED_BITS) + (1 << _DROPPED_BITS) - 1)
            values = lowest + (highest - lowest) * share
        # The two bins around 0 hold zeros and nothing larger than 3e-42; those of the infinities hold nothing else.
        zero = (bins == 0) | (bins == -1)
        infinite = ~np.isfinite(values)
        values[zero] = 0.0
        values[infinite] = np.copysign(np.inf, bins[infinite])
        uncertain = np.where(zero | infinite, 0, counts - 1)
        return values, float(uncertain.max() / through[-1])

    def _add_counts(self, first: int, counts: NDArray[np.int64]) -> None:
        if not self._counts.size:
            self._first = first
        low = min(first, self._first)
        high = max(first + counts.size, self._first + self._counts.size)
        if high - low > self._counts.size:
            wider = np.zeros(high - low, np.int64)
            wider[self._first - low :][: self._counts.size] = self._counts
            self._first, self._counts = low, wider
        self._counts[first - low :][: counts.size] += counts


def _single(values: NDArray[Any]) -> NDArray[np.float32]:
    if values.dtype == np.float32:
        return values
    largest = np.finfo(np.float32).max
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    overflowed = np.isinf(single) & np.isfinite(values)
    single[overflowed] = np.copysign(largest, single[overflowed])
    return single


def _ordered(values: NDArray[np.float32]) -> NDArray[np.int32]:
    """Integers in the order of the numbers: bit patterns, those of negative numbers turned round."""
    bits = values.view(np.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _unordered(integers: NDArray[Any]) -> NDArray[np.float64]:
    bits = integers.astype(np.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(np.float32).astype(np.float64)


def _order_statistics(chunks: Sequence[NDArray[Any]], ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Find the values of these ranks in sorted chunks: the smallest that more than `rank` values do not exceed."""
    dtype = np.result_type(*chunks)
    unsigned = np.dtype(f"u{dtype.itemsize}")
    sign = unsigned.type(1 << (8 * dtype.itemsize - 1))

    def number(key: NDArray[Any]) -> NDArray[Any]:
        """Give the number at a place in the order of all bit patterns, negative NaN first."""
        return np.where(key & sign, key ^ sign, ~key).view(dtype)

    def place(value: float) -> Any:
        bits = np.asarray(value, dtype).view(unsigned)
        return np.where(bits & sign, ~bits, bits | sign)

    low, high = np.full(ranks.shape, place(-np.inf)), np.full(ranks.shape, place(np.inf))
    while (low < high).any():
        middle = low + ((high - low) >> unsigned.type(1))
        numbers = number(middle)
        at_most = sum(np.searchsorted(chunk, numbers, side="right") for chunk in chunks)
        enough = at_most > ranks
        high = np.where(enough, middle, high)
        low = np.where(enough | (low == high), low, middle + unsigned.type(1))
    # Adding 0 turns the -0.0 that the order of patterns puts before 0.0 into 0.0.
    return number(low).astype(np.float64) + 0.0


def _between(below: NDArray[np.float64], above: NDArray[np.float64], share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interpolate as numpy does, from the nearer end; equal ends and infinities are taken as they are."""
    with np.errstate(invalid="ignore", over="ignore"):
        gap = above - below
        values = np.where(share < 0.5, below + gap * share, above - gap * (1 - share))
        values = np.where(np.isfinite(gap), values, below * (1 - share) + above * share)
    return np.where((share == 0) | (below == above), below, values)
