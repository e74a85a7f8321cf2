"""Rows of which some classes are known only together: llama.cpp's clamped entries as one class, the tail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import kullback
from kullback import _core
from kullback._files import Codes, FileError, Packed
from kullback.cli.checks import Space
from kullback.cli.inputs import Block, Part

__all__ = [
    "TAIL_COLUMNS",
    "Merged",
    "Tail",
    "bucketed",
    "check_labels",
    "has_tail",
    "known_columns",
    "label_nll",
    "labels_in_tail",
    "spaces_of",
]

TAIL_COLUMNS = {"tail": np.dtype(np.float64), "label_in_tail": np.dtype(bool)}
"""What a row says of the tail: its mass in the base, and whether the label is in it."""


_UNCERTAIN = 1e-4
"""What the 16-bit steps leave unknown of the mass of all that is not clamped."""


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
    """How much probability the base's clamped entries have, row by row."""

    def __init__(self) -> None:
        self._labels = 0
        self._rows = 0
        self._sum = 0.0
        self._most = 0.0

    def update(self, columns: Mapping[str, NDArray[Any]], scored: NDArray[np.bool_]) -> None:
        """Add the scored rows of a block.

        Parameters
        ----------
        columns : mapping of str to ndarray
            Among others `TAIL_COLUMNS`.
        scored : ndarray of bool
            Which rows count.
        """
        masses = columns["tail"][scored]
        self._labels += int(np.count_nonzero(columns["label_in_tail"][scored]))
        self._rows += len(masses)
        self._sum += float(masses.sum())
        self._most = max(self._most, float(masses.max(initial=0.0)))

    def summary(self) -> dict[str, float]:
        """Give mean and largest mass, and the rows whose label is in the tail."""
        mean = self._sum / self._rows if self._rows else float("nan")
        return {"mean": mean, "max": self._most if self._rows else float("nan"), "labels": self._labels}


class Merged(NamedTuple):
    """What `bucketed` gives.

    Attributes
    ----------
    matrices : list of ndarray
        Of shape (rows, classes + 1).
    mass : ndarray of float64
        Of the last class, in the first matrix.
    tops : list of ndarray of int
        The first of the largest classes of each row of each matrix, as it was.
    """

    matrices: list[NDArray[Any]]
    mass: NDArray[np.float64]
    tops: list[NDArray[np.int64]]


def bucketed(block: Block, spaces: Sequence[Space], threads: int | None) -> Merged:
    """Make one class of all that is clamped in any of the matrices: the last of one class more.

    A divergence of the rows that come out is at most that of the rows themselves (the data-processing inequality). The
    mass of a row's own clamped entries is what the others leave of 1, as far as the entries' number times the bound
    allows: the 16-bit steps make the sum of the others uncertain by about 1e-4.

    Parameters
    ----------
    block : Block
        Rows.
    spaces : sequence of str
        What the matrices hold.
    threads : int or None
        How many threads to use.
    """
    classes = next(held.classes for held in block.held if isinstance(held, Codes))
    given = [
        (held.packed, "codes") if isinstance(held, Codes) else (_plain(held), space)
        for held, space in zip(block.held, spaces, strict=True)
    ]
    merged = _core.merge_clamped(given, classes, threads)
    for k, held in enumerate(block.held):
        if isinstance(held, Codes) and len(merged) > 1:
            _leave_something(held, merged[k][0], merged[k][1], merged[1 - k][1])
    return Merged([rows for rows, _, _ in merged], merged[0][1], [top for _, _, top in merged])


def _leave_something(held: Codes, matrix: NDArray[Any], mass: NDArray[np.float64], others: NDArray[np.float64]) -> None:
    """Give a tail of which rounding left nothing what makes divergences smallest, so that they stay bounds."""
    rows = np.flatnonzero((mass == 0) & (others > 0))
    if rows.size:
        most = np.minimum(held.clamped_mass(rows), _UNCERTAIN)
        with np.errstate(divide="ignore"):
            matrix[rows, -1] = np.log(np.minimum(others[rows], most))


def _plain(rows: NDArray[Any]) -> NDArray[Any]:
    """Give rows one after another, in single or double precision."""
    native = rows.dtype in (np.float32, np.float64) and rows.dtype.isnative
    return np.ascontiguousarray(rows, None if native else np.float64 if rows.itemsize > 2 else np.float32)


def known_columns(
    block: Block,
    tops: Sequence[NDArray[np.int64]],
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
    tops : sequence of ndarray of int
        The largest class of each row of each matrix.
    spaces : sequence of str
        What they hold.
    labels : ndarray of int or None
        The label of each row.
    columns : dict of str to ndarray
        Of the bucketed rows; changed in place.
    scored : ndarray of bool
        Which rows to put right.
    """
    columns["same_top"][scored] = (tops[0] == tops[1])[scored]
    if labels is None:
        return
    dtype = columns["nll_base"].dtype
    for name, held, space in zip(("nll_base", "nll_other"), block.held, spaces, strict=True):
        columns[name][scored] = label_nll(held, labels, scored, space).astype(dtype)
    nll_base, nll_other = (columns[name][scored].astype(np.float64) for name in ("nll_base", "nll_other"))
    columns["delta_p"][scored] = np.exp(-nll_other) - np.exp(-nll_base)


def check_labels(block: Block, labels: NDArray[Any] | None, counted: NDArray[np.bool_]) -> None:
    """Refuse labels that are none of the classes: among the bucketed ones, the number of the tail would pass."""
    if labels is None:
        return
    classes = next(held.classes for held in block.held if isinstance(held, Codes))
    wrong = np.flatnonzero(((labels < 0) | (labels >= classes)) & counted)
    if wrong.size:
        row = int(wrong[0])
        raise IndexError(f"label {labels[row]} of row {row} is out of range for {classes} classes")


def label_nll(
    held: NDArray[Any] | Codes, labels: NDArray[Any], scored: NDArray[np.bool_], space: Space
) -> NDArray[Any]:
    """Give -ln p of the labels of the scored rows; of a clamped entry, what the file says."""
    if isinstance(held, Codes):
        rows = np.flatnonzero(scored)
        return -held.at(rows, labels[rows].astype(np.int64))
    nll: NDArray[Any] = kullback.nll(held, labels, given=space, rows=scored)
    return nll[scored]


def labels_in_tail(block: Block, labels: NDArray[Any] | None, scored: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Tell which rows are scored and have a label that is a clamped entry of one of the matrices."""
    found = np.zeros(len(scored), bool)
    if labels is None:
        return found
    rows = np.flatnonzero(scored)
    for held in block.held:
        if isinstance(held, Codes):
            found[rows] |= held.clamped_at(rows, labels[rows].astype(np.int64))
    return found
