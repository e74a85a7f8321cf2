"""torch's names, signatures and rules, on NumPy arrays.

``import kullback.functional as F`` where ``torch.nn.functional as F`` stood: defaults, argument order, reductions and
errors are torch's; accumulation is in double precision, so that results differ from torch's in the last digits, for
the better.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback import _core
from kullback._coerce import as_array

__all__ = ["cross_entropy", "kl_div", "log_softmax", "softmax"]

_REDUCTIONS = ("none", "mean", "sum")


def _reduction(reduction: str, size_average: bool | None, reduce: bool | None, *more: str) -> str:
    """Resolve torch's deprecated flags and refuse unknown names."""
    if size_average is not None or reduce is not None:
        if not (True if reduce is None else reduce):
            reduction = "none"
        else:
            reduction = "mean" if size_average is None or size_average else "sum"
        warnings.warn(
            f"size_average and reduce args will be deprecated, please use reduction='{reduction}' instead.",
            UserWarning,
            stacklevel=3,
        )
    if reduction not in (*_REDUCTIONS, *more):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def _floating(obj: ArrayLike, name: str) -> NDArray[Any]:
    array = as_array(obj, name) if type(obj) is not np.ndarray else obj
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise TypeError(f"{name} must hold floating numbers, got dtype {array.dtype}")
    return array


def _scalar(array: Any) -> Any:
    """Return a scalar for an array without axes."""
    return array[()] if isinstance(array, np.ndarray) else array


def softmax(input: ArrayLike, dim: int | None = None, *, dtype: Any = None) -> NDArray[Any]:
    """Softmax along an axis, ``exp(x) / sum(exp(x))``.

    Parameters
    ----------
    input : array_like
        Floating numbers; ``-inf`` is a masked class. A row of ``-inf``, or with ``+inf`` or NaN, gives NaN.
    dim : int
        The axis along which a row lies.
    dtype : dtype, optional
        What the input is cast to first.

    Returns
    -------
    ndarray
        Of the input's shape: float32, or float64 for float64 input.

    Raises
    ------
    TypeError
        If the input holds no floating numbers.

    Examples
    --------
    >>> import kullback.functional as F
    >>> F.softmax([0.0, 0.0], dim=0)
    array([0.5, 0.5])
    """
    return _normalise(_core.softmax, input, dim, dtype)


def log_softmax(input: ArrayLike, dim: int | None = None, *, dtype: Any = None) -> NDArray[Any]:
    """Logarithm of the softmax along an axis, ``x - ln(sum(exp(x)))``, within 4 ulp.

    Parameters
    ----------
    input : array_like
        Floating numbers; ``-inf`` is a masked class. A row of ``-inf``, or with ``+inf`` or NaN, gives NaN.
    dim : int
        The axis along which a row lies.
    dtype : dtype, optional
        What the input is cast to first.

    Returns
    -------
    ndarray
        Of the input's shape, in nats: float32, or float64 for float64 input.

    Raises
    ------
    TypeError
        If the input holds no floating numbers.

    Examples
    --------
    >>> import kullback.functional as F
    >>> F.log_softmax([20.0, 0.0], dim=0)
    array([-2.06115362e-09, -2.00000000e+01])
    """
    return _normalise(_core.log_softmax, input, dim, dtype)


def _normalise(kernel: Any, input: ArrayLike, dim: int | None, dtype: Any) -> NDArray[Any]:
    array = np.asarray(input) if dtype is None else np.asarray(input).astype(dtype)
    array = _floating(array, "input")
    if dim is None:
        warnings.warn(
            "Implicit dimension choice for softmax has been deprecated. "
            "Change the call to include dim=X as an argument.",
            UserWarning,
            stacklevel=3,
        )
        dim = 0 if array.ndim in (0, 1, 3) else 1
    if array.ndim == 0:
        return np.asarray(kernel(array.reshape(1), axis=0)).reshape(())
    return np.asarray(kernel(array, axis=dim))


def kl_div(
    input: ArrayLike,
    target: ArrayLike,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Any:
    """Torch's KLDivLoss: ``target * (ln(target) - input)`` class by class, on rows as they are.

    Not a divergence of distributions unless both rows are normalised, and it can be negative on rounded ones; for
    Gibbs' inequality use `kullback.kl_divergence`.

    Parameters
    ----------
    input : array_like
        Logarithms of the model's probabilities.
    target : array_like
        Probabilities, or their logarithms with `log_target`; broadcasts with `input`.
    size_average, reduce : bool, optional
        torch's deprecated flags.
    reduction : {"mean", "batchmean", "sum", "none"}
        "mean" divides by the number of elements, with torch's warning; "batchmean" by ``input.shape[0]``.
    log_target : bool, default False
        Whether the target holds logarithms.

    Returns
    -------
    ndarray or scalar
        In nats.

    Raises
    ------
    TypeError
        If an input holds no floating numbers.
    ValueError
        If the reduction is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> import kullback.functional as F
    >>> print(F.kl_div(np.log([[1/3, 1/3, 1/3]]), [[0.36, 0.48, 0.16]], reduction="batchmean").round(4))
    0.0853
    """
    reduction = _reduction(reduction, size_average, reduce, "batchmean")
    x, t = (np.asarray(a) if type(a) is not np.ndarray else a for a in (input, target))
    if any(a.dtype.kind in "iub" for a in (x, t)):
        raise TypeError("kl_div: Integral inputs not supported.")
    x, t = _floating(x, "input"), _floating(t, "target")
    if reduction == "mean":
        warnings.warn(
            "reduction: 'mean' divides the total loss by both the batch size and the support size."
            "'batchmean' divides only by the batch size, and aligns with the KL div math definition."
            "'mean' will be changed to behave the same as 'batchmean' in the next major release.",
            UserWarning,
            stacklevel=2,
        )
    rows = np.broadcast(x, t)
    shape = rows.shape
    left, right = (np.broadcast_to(a, shape or (1,)) for a in (x, t))
    if reduction == "none":
        return _scalar(np.asarray(_core.kl_div(left, right, log_target=log_target, reduction="none")).reshape(shape))
    total = _core.kl_div(left, right, log_target=log_target, reduction="sum")
    if reduction == "sum":
        return total
    count = rows.size if reduction == "mean" else (x.shape[0] if x.ndim else 1)
    return _divide(total, count)


def _divide(total: Any, by: Any) -> Any:
    """Divide in double precision and round once; 0/0 is NaN without a warning."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return total.dtype.type(np.float64(total) / np.float64(by))


def cross_entropy(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    """Torch's CrossEntropyLoss: of logits, against class indices or probabilities.

    Parameters
    ----------
    input : array_like
        Logits of shape (C,), (N, C) or (N, C, d1, ...): the class axis is 1, or 0 for one row.
    target : array_like
        Class indices in the shape of `input` without the class axis, or, in the shape of `input` and floating,
        probabilities, which need not sum to 1.
    weight : array_like, optional
        A factor per class, shape (C,).
    size_average, reduce : bool, optional
        torch's deprecated flags.
    ignore_index : int, default -100
        The index of positions that add nothing and are not counted.
    reduction : {"mean", "sum", "none"}
        "mean" divides by the weights of the labels that count; with probabilities by the number of positions.
    label_smoothing : float, default 0.0
        Between 0 and 1: the share of the target that is spread over all classes.

    Returns
    -------
    ndarray or scalar
        In nats.

    Raises
    ------
    TypeError
        If the logits are not floating or the target is of the wrong kind.
    ValueError
        If shapes do not fit or an option is unknown.
    IndexError
        If a class index is out of range.

    Examples
    --------
    >>> import kullback.functional as F
    >>> print(F.cross_entropy([[20.0, 0.0]], [0]))
    2.061153620314381e-09
    """
    reduction = _reduction(reduction, size_average, reduce)
    x = _floating(np.asarray(input) if type(input) is not np.ndarray else input, "input")
    t = np.asarray(target) if type(target) is not np.ndarray else target
    if label_smoothing > 1.0:
        raise ValueError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    smoothing = max(float(label_smoothing), 0.0)
    if x.ndim == 0:
        raise ValueError("input must have at least one axis, the classes")
    axis = 0 if x.ndim == 1 else 1
    classes = x.shape[axis]
    w = None if weight is None else _floating(np.asarray(weight), "weight")
    if w is not None and w.shape != (classes,):
        raise ValueError(
            f"weight tensor should be defined either for all {classes} classes or no classes but got weight tensor of "
            f"shape: {list(w.shape)}"
        )
    if t.shape == x.shape:
        return _from_probabilities(x, t, w, axis, ignore_index, reduction, smoothing)
    _check_shapes(x, t)
    if t.dtype.kind not in "iu":
        raise TypeError(f"target must hold class indices (any integer dtype), got dtype {t.dtype}")
    return _from_indices(x, t, w, axis, ignore_index, reduction, smoothing)


def _check_shapes(x: NDArray[Any], t: NDArray[Any]) -> None:
    if x.ndim > 1 and t.ndim and x.shape[0] != t.shape[0]:
        raise ValueError(f"Expected input batch_size ({x.shape[0]}) to match target batch_size ({t.shape[0]}).")
    expected = (x.shape[:1] + x.shape[2:]) if x.ndim > 1 else ()
    if t.shape != expected:
        raise ValueError(f"Expected target size {list(expected)}, got {list(t.shape)}")


def _reduce(values: NDArray[Any], count: Any, reduction: str, dtype: Any) -> Any:
    if reduction == "none":
        return _scalar(values.astype(dtype, copy=False))
    total = dtype.type(np.sum(values, dtype=np.float64))
    return total if reduction == "sum" else _divide(np.float64(np.sum(values, dtype=np.float64)), count).astype(dtype)


def _result(x: NDArray[Any], *more: NDArray[Any] | None) -> np.dtype[Any]:
    double = any(a is not None and a.dtype == np.float64 for a in (x, *more))
    return np.dtype(np.float64 if double else np.float32)


def _from_indices(
    x: NDArray[Any], t: NDArray[Any], w: NDArray[Any] | None, axis: int, ignore: int, reduction: Any, smoothing: float
) -> Any:
    classes = x.shape[axis]
    counted = t != ignore
    wrong = counted & ((t < 0) | (t >= classes))
    if wrong.any():
        raise IndexError(f"Target {t[wrong].flat[0]} is out of bounds.")
    # A label that is ignored is still read: as class 0.
    labels = np.where(counted, t, 0).astype(np.int64, copy=False)
    if w is None and smoothing == 0.0:
        if t.ndim == 0 and reduction == "none":
            reduction = "sum"
        values = _core.nll(
            x,
            t,
            given="logits",
            axis=axis,
            ignore_index=ignore,
            on_invalid="nan",
            reduction=reduction,
        )
        return np.where(counted, values, values.dtype.type(0)) if reduction == "none" else values
    dtype = _result(x, w)
    if classes == 0:
        values = np.zeros(t.shape)
    else:
        values = np.asarray(_core.nll(x, labels, given="logits", axis=axis, on_invalid="nan"), dtype=np.float64)
    factor = np.ones(t.shape) if w is None else w.astype(np.float64)[labels]
    with np.errstate(invalid="ignore"):
        values = factor * values
    if smoothing > 0.0:
        share = np.ones(classes, x.dtype) if w is None else w
        spread = np.asarray(_core.soft_cross_entropy(share, x, axis=axis), dtype=np.float64)
        with np.errstate(invalid="ignore"):
            values = (1.0 - smoothing) * values + (smoothing / classes) * spread
    values = np.where(counted, values, 0.0)
    return _reduce(values, np.sum(np.where(counted, factor, 0.0)), reduction, dtype)


def _from_probabilities(
    x: NDArray[Any], t: NDArray[Any], w: NDArray[Any] | None, axis: int, ignore: int, reduction: Any, smoothing: float
) -> Any:
    if t.dtype.kind != "f" and t.dtype.name != "bfloat16":
        raise TypeError(f"Expected floating point type for target with class probabilities, got {t.dtype}")
    if ignore >= 0:
        raise ValueError("ignore_index is not supported for floating point target")
    dtype = _result(x, t, w)
    if x.shape[axis] == 0:
        # torch counts positions as size / classes: 0 / 0.
        return _reduce(np.zeros(x.shape[:axis] + x.shape[axis + 1 :]), 0, reduction, dtype)
    if smoothing > 0.0:
        t = (t * (1.0 - smoothing) + smoothing / x.shape[axis]).astype(dtype)
    if w is not None:
        along = [1] * x.ndim
        along[axis] = -1
        t = t * w.reshape(along)
    values = np.asarray(_core.soft_cross_entropy(t, x, axis=axis))
    return _reduce(values, x.size // max(x.shape[axis], 1), reduction, dtype)
