"""The last of the ways in: objects that are neither exact ndarrays nor producers of DLPack."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray


def as_array(obj: Any, name: str) -> NDArray[Any]:
    """Turn an argument into an ndarray, without a copy where the object shares its memory.

    A library whose results are to go out as its own objects gives, instead of an ndarray, a tuple of the ndarray, the
    name of its kind, and what makes one of its objects of a result (an ndarray, which may have no axes).

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
    if (frame := _pandas_frame(obj)) is not None:
        return frame
    if isinstance(obj, (str, bytes)) or obj is None:
        raise TypeError(f"{name} must be an array of numbers, got {type(obj).__name__}")
    try:
        array = np.asarray(obj)
    except (ValueError, RuntimeError, TypeError) as error:
        raise TypeError(f"{name} cannot be read as an array of numbers: {error}") from None
    if array.dtype == object:
        raise TypeError(f"{name} must be an array of numbers, got {type(obj).__name__} (dtype object)")
    return array


def _pandas_frame(obj: Any) -> NDArray[Any] | None:
    """Give the values of a data frame, also of nullable and of Arrow's columns; None for anything else."""
    pandas = sys.modules.get("pandas")
    if pandas is None or not isinstance(obj, pandas.DataFrame):
        return None
    from kullback._frames import values_of

    return values_of(obj)
