"""Whether an array looks like what the user says it is; and what it looks like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

import kullback
from kullback._files import FileError, Tensor
from kullback.cli.inputs import in_terms_of_options, sample

__all__ = ["SPACES", "Look", "Space", "check_space", "look"]

Space = Literal["probs", "counts", "log_probs", "logits"]

SPACES: tuple[Space, ...] = get_args(Space)
"""What rows may hold, as `kullback.entropy` explains it."""


@dataclass(frozen=True)
class Look:
    """What a sample of an array shows.

    Attributes
    ----------
    kind : str
        One of `SPACES`, ``"labels"``, ``"mask"`` or ``"unclear"``.
    why : str
        What speaks for it.
    rows : int
        Rows looked at.
    values, sums : tuple of float
        The extremes of the finite values, and of the sums of rows without NaN or infinity.
    nans, infinities : int
        Values that are NaN, and infinite.
    """

    kind: str
    why: str
    rows: int
    values: tuple[float, float]
    sums: tuple[float, float]
    nans: int
    infinities: int


def look(tensor: Tensor) -> Look:
    """Look at a sample of an array, its classes along the last axis."""
    matrix = len(tensor.shape) > 1
    rows = sample(tensor, -1 if matrix else None)
    values = _doubles(rows)
    finite = np.isfinite(values)
    sums = values[finite.all(axis=1)].sum(axis=1) if matrix else values[:0]
    kind, why = _space(rows) if matrix else _single(tensor)
    nans = int(np.isnan(values).sum())
    infinities = int(np.isinf(values).sum())
    return Look(kind, why, len(values), _range(values[finite]), _range(sums), nans, infinities)


def _range(values: NDArray[np.float64]) -> tuple[float, float]:
    return (float(values.min()), float(values.max())) if values.size else (np.nan, np.nan)


def _single(tensor: Tensor) -> tuple[str, str]:
    if tensor.dtype.kind == "b":
        return "mask", "booleans, one a row"
    return ("labels", "integers, one a row") if tensor.is_integer else ("unclear", "no axis of classes")


def _space(rows: NDArray[Any]) -> tuple[str, str]:
    """Name the first space in which every row that tells anything is valid, and the reason."""
    if not len(rows):
        return "unclear", "there are no rows"
    rows = _telling(rows)
    if not rows.size:
        return "unclear", "every row has a NaN or is all 0"
    values = _doubles(rows)
    whole = bool((values == np.rint(values)).all())
    if _valid(rows, "probs").all():
        return "probs", "rows are ≥ 0 and sum to 1"
    if _valid(rows, "counts").all():
        if whole:
            return "counts", "whole numbers ≥ 0 (as labels and tokens are)"
        return "unclear", "≥ 0 with different sums: counts or logits"
    if _valid(rows, "log_probs").all():
        return "log_probs", "rows are ≤ 0 and their exponentials sum to 1"
    if _valid(rows, "logits").all():
        return "logits", "finite values or -inf, with no sign or sum in common"
    return "unclear", "there are rows that are valid in no space"


def _doubles(rows: NDArray[Any]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # a signalling NaN, as damaged files have them
        return rows.astype(np.float64)


def _telling(rows: NDArray[Any]) -> NDArray[Any]:
    """Leave out rows with a NaN, and rows of zeros, which are padding or not yet counted."""
    values = _doubles(rows)
    return rows[~np.isnan(values).any(axis=1) & values.any(axis=1)]


def _valid(rows: NDArray[Any], space: Space) -> NDArray[np.bool_]:
    valid: NDArray[np.bool_] = ~np.isnan(kullback.entropy(rows, given=space, on_invalid="nan"))
    return valid


def check_space(tensor: Tensor, axis: int, given: Space, classes: int | None) -> None:
    """Refuse an array that is plainly not in the space the user says.

    Parameters
    ----------
    tensor : Tensor
        The array.
    axis : int
        The axis of the classes.
    given : str
        One of `SPACES`.
    classes : int or None
        Look only at this many classes.

    Raises
    ------
    FileError
        If "logits" are uint16, as the bits of bfloat16 are, sampled ones are probabilities, or no sampled row is valid.
    """
    if given == "logits" and tensor.dtype == np.uint16:
        raise FileError(
            f"{tensor.label}: --given logits, but they are uint16: use --dtype bfloat16 if these are its bits, "
            "or --no-check if they are logits all the same"
        )
    rows = sample(tensor, axis)
    if given == "logits" and rows.shape[1] > 1:
        telling = _telling(rows)
        if len(telling) and _valid(telling, "probs").all():
            raise FileError(
                f"{tensor.label}: --given logits, but all of {len(telling)} sampled rows are ≥ 0 and sum to 1: "
                "use --given probs, or --no-check if they are logits all the same"
            )
    rows = rows[:, :classes]
    if not len(rows) or _valid(rows, given).any():
        return
    try:
        kullback.entropy(rows, given=given)
    except ValueError as error:
        reason = in_terms_of_options(str(error)).replace("p: row", "sampled row", 1).partition("; --on-invalid")[0]
        raise FileError(
            f"{tensor.label}: --given {given} fits none of {len(rows)} sampled rows (--no-check goes on): {reason}"
        ) from error
