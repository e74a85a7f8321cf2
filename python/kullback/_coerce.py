"""The last of the ways in: objects that are neither exact ndarrays nor producers of DLPack or Arrow's capsules."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from kullback._frames import Frame

__all__ = ["Blocks", "as_array", "as_rows", "frame_of"]


class Blocks(Protocol):
    """Rows that do not lie in one array: what the functions of `kullback._core` take and score block by block."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of all rows together."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of every block."""

    def reach(self, start: int) -> int:
        """Up to which row those from `start` on lie in one array; `start` if they have to be brought together."""

    def block(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start:stop``."""


def as_rows(obj: Any, name: str) -> tuple[NDArray[Any] | Blocks, Frame | None]:
    """Turn an argument into rows, without a copy where the object shares its memory.

    Parameters
    ----------
    obj : object
        What `as_array` takes, a pandas data frame, or blocks.
    name : str
        What messages call the argument.

    Returns
    -------
    rows : ndarray or Blocks
        Blocks where they do not lie in one array.
    frame : Frame or None
        Of a data frame, what makes a series of the result.

    Raises
    ------
    TypeError
        If the object holds no numbers.
    """
    frame = frame_of(obj)
    if frame is not None:
        return frame.rows(), frame
    if hasattr(obj, "reach") and hasattr(obj, "block"):
        return obj, None
    return as_array(obj, name), None


def as_array(obj: Any, name: str) -> NDArray[Any]:
    """Turn an argument into an ndarray, without a copy where the object shares its memory.

    Parameters
    ----------
    obj : object
        A subclass of ndarray, a buffer, an object with ``__array__``, a nested list or a number.
    name : str
        What messages call the argument.

    Returns
    -------
    ndarray
        An exact ndarray.

    Raises
    ------
    TypeError
        If the object is a masked array or holds no numbers.
    """
    if isinstance(obj, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array: pass its data, and its mask inverted as where= or rows=")
    if isinstance(obj, np.ndarray):
        return np.asarray(obj)
    if isinstance(obj, (str, bytes)) or obj is None:
        raise TypeError(f"{name} must be an array of numbers, got {type(obj).__name__}")
    try:
        array = np.asarray(obj)
    except (ValueError, RuntimeError, TypeError) as error:
        raise TypeError(f"{name} cannot be read as an array of numbers: {error}") from None
    if array.dtype == object:
        remedy = f": pass {name}.toarray()" if hasattr(obj, "toarray") else ""  # SciPy's sparse arrays
        raise TypeError(f"{name} must be an array of numbers, got {type(obj).__name__} (dtype object){remedy}")
    return array


def frame_of(obj: Any) -> Frame | None:
    """Give what is to be known of a pandas data frame; None for anything else."""
    pandas = sys.modules.get("pandas")
    if pandas is None or not isinstance(obj, pandas.DataFrame):
        return None
    from kullback._frames import Frame

    return Frame(obj)
