"""Entropies and divergences of counted values: which group of rows has which value how often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kullback
from kullback import _core
from kullback._ragged import padded, similar

__all__ = ["Numbers", "group_divergence", "group_entropy"]

_DENSE = 4
"""A table of groups by values may have this many cells a row, or a quarter of a million, and is then filled as such;
beyond that, the cells that occur are found by sorting, which takes ten times as long a row."""

_FEW = 1 << 18

_MEASURES = ("kl_divergence", "js_divergence", "js_distance")


@dataclass(frozen=True)
class Numbers:
    """Distinct things numbered through, and which of them each row has.

    Attributes
    ----------
    codes : ndarray of int
        One a row: thing i has the code ``first + i``, and ``first - 1`` stands for a missing one.
    first : int
        The code of thing 0.
    count : int
        How many things there are; some may not occur.
    """

    codes: NDArray[Any]
    first: int
    count: int

    @property
    def _span(self) -> tuple[int, int]:
        return self.first - 1, self.count + 1

    def from_zero(self) -> NDArray[np.int64]:
        """Give the rows' things as numbers from 0; -1 is a missing one."""
        codes = self.codes.astype(np.int64)
        return codes - self.first if self.first else codes

    def counted(self) -> NDArray[np.int64]:
        """Count the rows of each thing."""
        whole = _core.count_values(np.zeros(len(self.codes), np.uint8), (0, 1), self._contiguous(), self._span)
        return whole[1:]

    def table(self, values: Numbers) -> NDArray[np.int64]:
        """Count the rows of each of these with each value; the first row and column are of missing ones."""
        counts = _core.count_values(self._contiguous(), self._span, values._contiguous(), values._span)
        return counts.reshape(self.count + 1, values.count + 1)

    def _contiguous(self) -> NDArray[Any]:
        return np.ascontiguousarray(self.codes)


def group_entropy(groups: Numbers, values: Numbers, *, base: float | None) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Entropy of the values of each group.

    Parameters
    ----------
    groups, values : Numbers
        Of the same rows.
    base : float or None
        Base of the logarithms.

    Returns
    -------
    entropies : ndarray of float64
        One for every group that occurs; NaN for one without values.
    present : ndarray of bool
        Which groups occur.

    Examples
    --------
    >>> import numpy as np
    >>> from kullback._values import Numbers, group_entropy
    >>> groups, values = Numbers(np.array([7, 7, 9]), 7, 3), Numbers(np.array([0, 1, 1]), 0, 2)
    >>> group_entropy(groups, values, base=2)
    (array([1., 0.]), array([ True, False,  True]))
    """
    if _is_dense(groups, values):
        table = groups.table(values)[1:]
        present = np.asarray(table.any(axis=1))
        return kullback.entropy(table[present, 1:], given="counts", base=base), present
    pairs = _Pairs(groups, values)
    result = np.full(groups.count, np.nan)
    for chosen, cells in similar(pairs.lengths):
        result[chosen] = kullback.entropy(padded(pairs.counts, cells, 0), given="counts", base=base)
    return result[pairs.present], pairs.present


def group_divergence(
    groups: Numbers, values: Numbers, *, against: int | None, measure: str, base: float | None
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Divergence of the values of each group from those of all groups, or of one.

    Parameters
    ----------
    groups, values : Numbers
        Of the same rows.
    against : int or None
        The group to compare with, or all of them.
    measure : str
        One of ``kl_divergence``, ``js_divergence``, ``js_distance``.
    base : float or None
        Base of the logarithms.

    Returns
    -------
    divergences : ndarray of float64
        One for every group that occurs; NaN for one without values.
    present : ndarray of bool
        Which groups occur.

    Examples
    --------
    >>> import numpy as np
    >>> from kullback._values import Numbers, group_divergence
    >>> groups, values = Numbers(np.array([0, 0, 1]), 0, 2), Numbers(np.array([0, 1, 1]), 0, 2)
    >>> divergences, _ = group_divergence(groups, values, against=1, measure="js_distance", base=None)
    >>> divergences.round(4)
    array([0.4645, 0.    ])
    """
    if measure not in _MEASURES:
        raise ValueError(f"unknown measure {measure!r}; the measures are {', '.join(_MEASURES)}")
    kernel = getattr(kullback, measure)
    if _is_dense(groups, values):
        table = groups.table(values)[1:]
        present = np.asarray(table.any(axis=1))
        reference = table[:, 1:].sum(axis=0) if against is None else table[against, 1:]
        return kernel(table[present, 1:], reference, given="counts", base=base), present
    pairs = _Pairs(groups, values)
    member = pairs.groups >= 0 if against is None else pairs.groups == against
    reference = np.zeros(values.count)
    np.add.at(reference, pairs.values[member], pairs.counts[member])
    theirs, whole = reference[pairs.values], reference.sum()
    result = np.full(groups.count, np.nan)
    for chosen, cells in similar(pairs.lengths):
        # Values that a group lacks enter KL not at all and JS by their mass alone: they are one class together.
        p = np.pad(padded(pairs.counts, cells, 0), ((0, 0), (0, 1)))
        q = np.pad(padded(theirs, cells, 0), ((0, 0), (0, 1)))
        q[:, -1] = whole - q.sum(axis=1)
        result[chosen] = kernel(p, q, given="counts", base=base)
    return result[pairs.present], pairs.present


def _is_dense(groups: Numbers, values: Numbers) -> bool:
    return (groups.count + 1) * (values.count + 1) <= max(_DENSE * len(groups.codes), _FEW)


class _Pairs:
    """The pairs of group and value that occur, in order of group, and how often each does."""

    def __init__(self, groups: Numbers, values: Numbers) -> None:
        of_group, of_value = groups.from_zero(), values.from_zero()
        self.present = groups.counted() > 0
        both = (of_group >= 0) & (of_value >= 0)
        keys, counts = np.unique(of_group[both] * values.count + of_value[both], return_counts=True)
        self.groups, self.values = np.divmod(keys, max(values.count, 1))
        self.counts = counts.astype(np.float64)
        self.lengths = np.bincount(self.groups, minlength=groups.count)
