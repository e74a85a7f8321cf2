"""The one door for objects that are not NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def as_array(obj: Any, name: str) -> NDArray[Any]:
    """Turn an argument into an ndarray, without a copy where the object shares its memory.

    Parameters
    ----------
    obj : object
        A subclass of ndarray, a CPU tensor or another DLPack producer, a nested list or a number.
    name : str
        What messages call the argument.

    Returns
    -------
    ndarray
        An exact ndarray.

    Raises
    ------
    TypeError
        If the object is a masked array, lies on another device, or holds no numbers.
    """
    if isinstance(obj, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array: pass its data, and its mask inverted as where= or rows=")
    if isinstance(obj, np.ndarray):
        return np.asarray(obj)
    if isinstance(obj, (str, bytes)) or obj is None:
        raise TypeError(f"{name} must be an array of numbers, got {type(obj).__name__}")
    if getattr(obj, "requires_grad", False):
        raise TypeError(f"{name} is a tensor that requires a gradient: pass {name}.detach()")
    try:
        array = np.asarray(obj)
    except (ValueError, RuntimeError, TypeError) as error:
        raise TypeError(f"{name} cannot be read as an array of numbers: {error}") from None
    if array.dtype == object:
        raise TypeError(f"{name} must be an array of numbers, got {type(obj).__name__} (dtype object)")
    return array
