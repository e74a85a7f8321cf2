"""Rows of different lengths as a few matrices: padding with classes of no mass changes no bit of a result."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["padded", "similar"]


def similar(lengths: NDArray[np.integer[Any]]) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Group rows whose lengths are within a factor of two.

    Parameters
    ----------
    lengths : ndarray of int
        Of rows that lie one after another.

    Yields
    ------
    rows : ndarray of int
        The rows of a group; rows of length 0 are in none.
    places : ndarray of int
        Where the elements of each lie, in as many columns as the longest has; -1 beyond the last.

    Examples
    --------
    >>> import numpy as np
    >>> for rows, places in similar(np.array([2, 0, 4, 3])):
    ...     print(rows, places.tolist())
    [0] [[0, 1]]
    [2 3] [[2, 3, 4, 5], [6, 7, 8, -1]]
    """
    starts = np.cumsum(lengths) - lengths
    most = int(lengths.max(initial=0))
    width = 1
    while width < 2 * most:
        rows = np.flatnonzero((lengths > width // 2) & (lengths <= width))
        if rows.size:
            within = np.arange(int(lengths[rows].max()))
            yield rows, np.where(within < lengths[rows, None], starts[rows, None] + within, -1)
        width *= 2


def padded(elements: NDArray[Any], places: NDArray[np.intp], nothing: float) -> NDArray[Any]:
    """Lay elements in rows.

    Parameters
    ----------
    elements : ndarray
        Of all rows, one after another.
    places : ndarray of int
        What `similar` gives.
    nothing : float
        What stands where a row has ended: an element without mass.
    """
    return np.where(places >= 0, elements[places], np.array(nothing, elements.dtype))
