"""How many of the k best classes two models share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._accumulate import Accumulator

__all__ = ["Overlap", "best_classes"]


def best_classes(rows: NDArray[Any], k: int) -> NDArray[np.intp]:
    """Give the k largest classes of each row, the largest first; of equal ones, the lower number first.

    Parameters
    ----------
    rows : ndarray, shape (rows, classes)
    k : int
        At most the number of classes.

    Examples
    --------
    >>> import numpy as np
    >>> best_classes(np.array([[0.1, 0.4, 0.4, 0.1]]), 3)
    array([[1, 2, 0]])
    """
    values = rows if rows.dtype.kind == "f" and rows.itemsize > 2 else rows.astype(np.float64)
    kth = np.partition(values, -k, axis=1)[:, -k, None]
    # All that is above the k-th largest, then as many of its equals as there is room for, in order.
    above, equal = values > kth, values == kth
    room = k - above.sum(axis=1, keepdims=True)
    chosen = above | (equal & (np.cumsum(equal, axis=1) <= room))
    # A row with a NaN has no order: whatever is chosen there is not counted.
    chosen[chosen.sum(axis=1) != k] = np.arange(values.shape[1]) < k
    classes = np.nonzero(chosen)[1].reshape(-1, k)
    order = np.argsort(-np.take_along_axis(values, classes, 1), axis=1, kind="stable")
    return np.take_along_axis(classes, order, 1)


class Overlap:
    """The share of the k best classes that both models have, for several k.

    Parameters
    ----------
    ks : sequence of int
        How many of the best.
    rows : int
        How many rows will come.
    """

    def __init__(self, ks: Sequence[int], rows: int) -> None:
        self._ks = tuple(ks)
        # A share of each row, as total variation is one: means and errors are made the same way.
        self._shares = {k: Accumulator(("tv",), expected_rows=rows) for k in ks}

    @property
    def columns(self) -> dict[str, np.dtype[Any]]:
        """What `shares` gives."""
        return {f"top_{k}": np.dtype(np.float64) for k in self._ks}

    def shares(self, base: NDArray[Any], other: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
        """Give the share of the k best classes of each row that both have.

        Parameters
        ----------
        base, other : ndarray, shape (rows, classes)
        """
        most = max(self._ks)
        best = [best_classes(rows, most) for rows in (base, other)]
        found = {}
        for k in self._ks:
            first, second = (np.sort(classes[:, :k], axis=1) for classes in best)
            both = np.sort(np.concatenate([first, second], axis=1), axis=1)
            found[f"top_{k}"] = np.count_nonzero(both[:, 1:] == both[:, :-1], axis=1) / k
        return found

    def update(
        self, columns: Mapping[str, NDArray[Any]], status: NDArray[np.uint8], groups: NDArray[Any] | None
    ) -> None:
        """Add the rows of a block.

        Parameters
        ----------
        columns : mapping of str to ndarray
            Among others what `shares` gave.
        status, groups
            As for `kullback.Accumulator.update`.
        """
        for k, shares in self._shares.items():
            shares.update({"tv": columns[f"top_{k}"]}, status, groups)

    def summary(self) -> dict[str, dict[str, Any]]:
        """Give mean share and its error for each k."""
        found = {}
        for k, shares in self._shares.items():
            values = shares.summary()["tv"]
            found[str(k)] = {"share": values["mean"], "se": values["se"], "groups": values["groups"]}
        return found
