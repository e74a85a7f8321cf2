"""Rows of which some classes are known only together: llama.cpp's clamped entries as one class, the tail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kullback
from kullback._files import FileError, Packed, tail_mass
from kullback.cli.checks import Space
from kullback.cli.inputs import Block, Part

__all__ = ["Tail", "bucketed", "has_tail", "known_columns", "labels_in_tail", "spaces_of"]


def has_tail(every: Sequence[Part]) -> bool:
    """Whether a matrix has entries that stand for "at most this"."""
    return any(isinstance(tensor.place, Packed) for part in every for tensor in part.tensors)


def spaces_of(part: Part, given: Sequence[Space], temperature: float) -> tuple[Space, ...]:
    """Give the space of each matrix of a part: what the user said, and log-probabilities where the file says so.

    Raises
    ------
    FileError
        If log-probabilities are to be divided by a temperature.
    """
    packed = [isinstance(tensor.place, Packed) for tensor in part.tensors]
    if temperature != 1.0 and any(packed):
        label = part.tensors[packed.index(True)].label
        raise FileError(f"{label}: holds log-probabilities, which --temperature cannot divide")
    return tuple("log_probs" if is_packed else space for is_packed, space in zip(packed, given, strict=True))


class Tail:
    """How much probability the base's clamped entries have, row by row.

    Attributes
    ----------
    labels : int
        Rows whose label is among the clamped entries: their -ln p is at least what it is given as.
    """

    def __init__(self) -> None:
        self.labels = 0
        self._rows = 0
        self._sum = 0.0
        self._most = 0.0

    def update(self, masses: NDArray[np.float64], labels_in_it: int) -> None:
        """Add rows."""
        self.labels += labels_in_it
        self._rows += len(masses)
        self._sum += float(masses.sum())
        self._most = max(self._most, float(masses.max(initial=0.0)))

    def summary(self) -> dict[str, float]:
        """Give mean and largest mass, and the rows whose label is in the tail."""
        mean = self._sum / self._rows if self._rows else float("nan")
        return {"mean": mean, "max": self._most if self._rows else float("nan"), "labels": self.labels}


def bucketed(block: Block, spaces: Sequence[Space]) -> tuple[list[NDArray[Any]], NDArray[np.float64]]:
    """Make one class of all that is clamped in any of the matrices: the last of one class more.

    A divergence of the rows that come out is at most that of the rows themselves (the data-processing inequality).

    Parameters
    ----------
    block : Block
        Rows.
    spaces : sequence of str
        What the matrices hold.

    Returns
    -------
    matrices : list of ndarray
        Of shape (rows, classes + 1).
    mass : ndarray of float64
        Of the last class, in the first matrix.
    """
    unknown = np.logical_or.reduce([mask for mask in block.clamped if mask is not None])
    matrices, masses = [], []
    for rows, clamped, space in zip(block.matrices, block.clamped, spaces, strict=True):
        logarithmic = space in ("log_probs", "logits")
        values = rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.float32)
        out = np.empty((len(rows), rows.shape[1] + 1), values.dtype)
        out[:, :-1] = np.where(unknown, -np.inf if logarithmic else 0, values)
        with np.errstate(divide="ignore", invalid="ignore"):
            if clamped is not None:
                mass = tail_mass(rows, clamped)
                mass += np.where(unknown & ~clamped, np.exp(values, dtype=np.float64), 0.0).sum(axis=1)
                out[:, -1] = np.log(mass)
            elif logarithmic:
                highest = values.max(axis=1, keepdims=True).astype(np.float64)
                weights = np.exp(values - highest)
                tail = np.where(unknown, weights, 0.0).sum(axis=1)
                out[:, -1] = highest[:, 0] + np.log(tail)
                mass = tail / weights.sum(axis=1)
            else:
                mass = np.where(unknown, values, 0.0).sum(axis=1, dtype=np.float64)
                out[:, -1] = mass
        matrices.append(out)
        masses.append(mass)
    return matrices, masses[0]


def known_columns(
    block: Block,
    spaces: Sequence[Space],
    labels: NDArray[Any] | None,
    columns: dict[str, NDArray[Any]],
    scored: NDArray[np.bool_],
) -> None:
    """Put right what needs no tail: which class is the largest, and what the label's probability is.

    Parameters
    ----------
    block : Block
        Rows of two matrices.
    spaces : sequence of str
        What they hold.
    labels : ndarray of int or None
        The label of each row.
    columns : dict of str to ndarray
        Of the bucketed rows; changed in place.
    scored : ndarray of bool
        Which rows to put right.
    """
    base, other = block.matrices
    columns["same_top"][scored] = base[scored].argmax(axis=1) == other[scored].argmax(axis=1)
    if labels is None:
        return
    at = labels[scored].astype(np.int64)
    dtype = columns["nll_base"].dtype
    for name, rows, clamped, space in zip(
        ("nll_base", "nll_other"), block.matrices, block.clamped, spaces, strict=True
    ):
        if clamped is not None:
            columns[name][scored] = -np.take_along_axis(rows[scored], at[:, None], 1)[:, 0]
        else:
            columns[name][scored] = kullback.nll(rows[scored], at, given=space).astype(dtype)
    nll_base, nll_other = (columns[name][scored].astype(np.float64) for name in ("nll_base", "nll_other"))
    columns["delta_p"][scored] = np.exp(-nll_other) - np.exp(-nll_base)


def labels_in_tail(block: Block, labels: NDArray[Any] | None, scored: NDArray[np.bool_]) -> int:
    """Count the scored rows whose label is a clamped entry of one of the matrices."""
    if labels is None:
        return 0
    at = labels[scored].astype(np.int64)[:, None]
    found = [np.take_along_axis(mask[scored], at, 1)[:, 0] for mask in block.clamped if mask is not None]
    return int(np.count_nonzero(np.logical_or.reduce(found)))
