"""torch's names, signatures and rules, on arrays and tensors.

``import kullback.functional as F`` where ``torch.nn.functional as F`` stood: defaults, argument order, reductions and
errors are torch's; accumulation is in double precision, so that results differ from torch's in the last digits, for
the better. Arrays in, arrays out; CPU tensors in, tensors out, with gradients. ``docs/torch.md`` has the rules, and
every deliberate difference.
"""

from __future__ import annotations

import operator
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from kullback import _core

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "kl_div",
    "log_softmax",
    "logsumexp",
    "nll_loss",
    "softmax",
    "softmin",
]


_Tensor: Any = ()
_route: Any = None
"""torch's class and `kullback._torch`, once there was a tensor: an import would cost a small call a tenth."""


def _of_tensors(a: Any, b: Any = None) -> Any:
    """Give the module for tensors, if an argument is one; None where all are arrays. Imports no torch."""
    if isinstance(a, _Tensor) or isinstance(b, _Tensor):
        return _route
    return None if _Tensor or "torch" not in sys.modules else _routed(a, b)


def _routed(a: Any, b: Any) -> Any:
    global _Tensor, _route
    from torch import Tensor
    from torch.compiler import is_dynamo_compiling

    if not (isinstance(a, Tensor) or isinstance(b, Tensor)):
        return None
    from kullback import _torch

    if not is_dynamo_compiling():
        # A graph holds for these values of globals: changed on the way, it would be compiled once more.
        _Tensor, _route = Tensor, _torch
    return _torch


def _legacy(size_average: bool | None, reduce: bool | None) -> str:
    """Resolve torch's deprecated flags, of which one is not None."""
    if not (True if reduce is None else reduce):
        reduction = "none"
    else:
        reduction = "mean" if size_average is None or size_average else "sum"
    _warn(f"size_average and reduce args will be deprecated, please use reduction='{reduction}' instead.", 3)
    return reduction


def _warn(message: str, stacklevel: int) -> None:
    warnings.warn(message, UserWarning, stacklevel=stacklevel + 1)


# torch's compiler then calls it while it traces, as it does the warnings of torch's own functions, and no graph breaks.
_warn._dynamo_marked_constant = True  # type: ignore[attr-defined]


def softmax(input: Any, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Any:
    """Softmax along an axis, ``exp(x) / sum(exp(x))``.

    Parameters
    ----------
    input : array_like or Tensor
        Floating numbers; ``-inf`` is a masked class. A row of ``-inf``, or with ``+inf`` or NaN, gives NaN.
    dim : int
        The axis along which a row lies.
    _stacklevel : int, optional
        Of torch's warning about a missing `dim`.
    dtype : dtype, optional
        What the input is cast to first.

    Returns
    -------
    ndarray or Tensor
        Of the input's shape and dtype.

    Raises
    ------
    NotImplementedError
        If the input holds no floating numbers.
    IndexError
        If `dim` is out of range.

    Examples
    --------
    >>> import kullback.functional as F
    >>> F.softmax([0.0, 0.0], dim=0)
    array([0.5, 0.5])
    """
    return _normalise("softmax", input, dim, _stacklevel, dtype)


def log_softmax(input: Any, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Any:
    """Logarithm of the softmax along an axis, ``x - ln(sum(exp(x)))``, within 4 ulp.

    Parameters
    ----------
    input : array_like or Tensor
        Floating numbers; ``-inf`` is a masked class. A row of ``-inf``, or with ``+inf`` or NaN, gives NaN.
    dim : int
        The axis along which a row lies.
    _stacklevel : int, optional
        Of torch's warning about a missing `dim`.
    dtype : dtype, optional
        What the input is cast to first.

    Returns
    -------
    ndarray or Tensor
        Of the input's shape and dtype, in nats.

    Raises
    ------
    NotImplementedError
        If the input holds no floating numbers.
    IndexError
        If `dim` is out of range.

    Examples
    --------
    >>> import kullback.functional as F
    >>> F.log_softmax([20.0, 0.0], dim=0)
    array([-2.06115362e-09, -2.00000000e+01])
    """
    return _normalise("log_softmax", input, dim, _stacklevel, dtype)


def softmin(input: Any, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Any:
    """Softmax of the negated input along an axis, ``exp(-x) / sum(exp(-x))``.

    Parameters
    ----------
    input : array_like or Tensor
        Floating numbers; ``+inf`` is a masked class. A row of ``+inf``, or with ``-inf`` or NaN, gives NaN.
    dim : int
        The axis along which a row lies.
    _stacklevel : int, optional
        Of torch's warning about a missing `dim`.
    dtype : dtype, optional
        What the input is cast to first.

    Returns
    -------
    ndarray or Tensor
        Of the input's shape and dtype.

    Raises
    ------
    NotImplementedError
        If the input holds no floating numbers.
    IndexError
        If `dim` is out of range.

    Examples
    --------
    >>> import kullback.functional as F
    >>> F.softmin([0.0, 1.0], dim=0).round(4)
    array([0.7311, 0.2689])
    """
    return _normalise("softmin", input, dim, _stacklevel, dtype)


def _normalise(name: str, input: Any, dim: int | None, stacklevel: int, dtype: Any) -> Any:
    tensors = _of_tensors(input)
    if tensors is None and (dim is None or dtype is not None):
        input = _core.as_ndarray(input, "input")
    if dim is None:
        message = f"Implicit dimension choice for {name} has been deprecated. "
        _warn(message + "Change the call to include dim=X as an argument.", stacklevel)
        dim = 0 if input.ndim in (0, 1, 3) else 1
    if dtype is not None:
        if name == "softmin":
            # Before the cast, as in torch: integers without a sign wrap around.
            name, input = "softmax", -input
        input = input.astype(dtype) if tensors is None else input.to(dtype)
    if tensors is not None:
        return tensors.call(tensors.Softmax, input, name, dim)
    return _core.softmax(name, input, dim)


def logsumexp(input: Any, dim: int | Sequence[int], keepdim: bool = False) -> Any:
    """Logarithm of the sum of exponentials along one axis or several, ``ln(sum(exp(x)))``.

    Parameters
    ----------
    input : array_like or Tensor
        Real numbers. A row of ``-inf`` gives ``-inf``, a row with ``+inf`` gives ``+inf``, one with NaN gives NaN.
    dim : int or sequence of int
        The axes that are summed over; with `keepdim` none stands for all.
    keepdim : bool, default False
        Whether they stay in the result with length 1.

    Returns
    -------
    ndarray, scalar or Tensor
        Of the input's dtype, in nats; of integers float64, and in a tensor float32 as in torch.

    Raises
    ------
    IndexError
        If an axis is out of range.
    RuntimeError
        If an axis is named twice, or none is without `keepdim`.

    Examples
    --------
    >>> import kullback.functional as F
    >>> print(F.logsumexp([0.0, 0.0], dim=0))
    0.6931471805599453
    """
    tensors = _of_tensors(input)
    array = input if tensors is not None else _core.as_ndarray(input, "input")
    n = max(array.ndim, 1)
    dims = [operator.index(d) for d in (dim if isinstance(dim, (tuple, list)) else (dim,))]
    for d in dims:
        if not -n <= d < n:
            raise IndexError(f"Dimension out of range (expected to be in range of [{-n}, {n - 1}], but got {d})")
    dims = [d % n for d in dims]
    for i, d in enumerate(dims):
        if d in dims[:i]:
            raise RuntimeError(f"dim {d} appears multiple times in the list of dims")
    if not dims:
        if array.ndim and not keepdim and 0 not in array.shape:
            raise RuntimeError(f"output with shape [] doesn't match the broadcast shape {[1] * array.ndim}")
        # None are all, and a number is a row of one class, as in torch.
        dims = list(range(n))
    if tensors is not None:
        return tensors.call(tensors.LogSumExp, input, dims, keepdim)
    return reduce_axes(array, dims, keepdim)


def reduce_axes(input: Any, dims: Sequence[int], keepdim: bool) -> Any:
    """Take the log-sum-exp along one axis after the other, in double precision until the last.

    Parameters
    ----------
    input : ndarray or Tensor
        Real numbers.
    dims : sequence of int
        Different axes, none negative.
    keepdim : bool
        Whether they stay.
    """
    *first, last = sorted(dims, reverse=True)
    value = input
    for axis in first:
        value = _core.logsumexp(value, axis, keepdim, wide=True)
    return _core.logsumexp(value, last, keepdim, like=input if first else None)


def kl_div(
    input: Any,
    target: Any,
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
    input : array_like or Tensor
        Logarithms of the model's probabilities.
    target : array_like or Tensor
        Probabilities, or their logarithms with `log_target`; broadcasts with `input`.
    size_average, reduce : bool, optional
        torch's deprecated flags.
    reduction : {"mean", "batchmean", "sum", "none"}
        "mean" divides by the number of elements, with torch's warning; "batchmean" by ``input.shape[0]``.
    log_target : bool, default False
        Whether the target holds logarithms.

    Returns
    -------
    ndarray, scalar or Tensor
        In nats, in the dtype that the inputs promote to.

    Raises
    ------
    RuntimeError
        If an input holds no floating numbers, or shapes do not broadcast.
    ValueError
        If the reduction is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> import kullback.functional as F
    >>> print(F.kl_div(np.log([[1/3, 1/3, 1/3]]), [[0.36, 0.48, 0.16]], reduction="batchmean").round(4))
    0.0853
    """
    by_batch = False
    if size_average is not None or reduce is not None:
        by_batch, reduction = reduction == "batchmean", _legacy(size_average, reduce)
    elif reduction == "mean":
        _warn(
            "reduction: 'mean' divides the total loss by both the batch size and the support size."
            "'batchmean' divides only by the batch size, and aligns with the KL div math definition."
            "'mean' will be changed to behave the same as 'batchmean' in the next major release.",
            2,
        )
    if (tensors := _of_tensors(input, target)) is not None:
        loss = tensors.call(tensors.KlDiv, input, target, reduction, log_target)
    else:
        loss = _core.kl_div(input, target, reduction, log_target)
    if by_batch:
        # torch divides what the deprecated flags make of "batchmean" by the batch as well.
        shape = (_core.as_ndarray(input, "input") if tensors is None else input).shape
        return loss / shape[0] if shape else loss
    return loss


def binary_cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Any:
    """Torch's BCELoss: ``-w * (t * ln(p) + (1 - t) * ln(1 - p))``, logarithms not below -100.

    Parameters
    ----------
    input : array_like or Tensor
        Probabilities.
    target : array_like or Tensor
        Probabilities of the input's shape; in arrays of any dtype, in tensors of the input's.
    weight : array_like or Tensor, optional
        A factor for each element; broadcasts to the input.
    size_average, reduce : bool, optional
        torch's deprecated flags.
    reduction : {"mean", "sum", "none"}
        "mean" divides by the number of elements, whatever the weights.

    Returns
    -------
    ndarray, scalar or Tensor
        In nats.

    Raises
    ------
    RuntimeError
        If an element of input or target is not between 0 and 1, or the weight does not broadcast.
    ValueError
        If sizes differ or the reduction is unknown.

    Examples
    --------
    >>> import kullback.functional as F
    >>> print(F.binary_cross_entropy([0.5, 0.25], [1.0, 0.0]).round(4))
    0.4904
    """
    if size_average is not None or reduce is not None:
        reduction = _legacy(size_average, reduce)
    if (tensors := _of_tensors(input, target)) is not None:
        return tensors.call(tensors.BinaryCrossEntropy, input, target, weight, None, reduction, False)
    return _core.binary_cross_entropy(input, target, weight, None, reduction, False)


def binary_cross_entropy_with_logits(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Any = None,
) -> Any:
    """Torch's BCEWithLogitsLoss, ``w * (p * t * ln(1 + exp(-x)) + (1 - t) * ln(1 + exp(x)))``.

    Parameters
    ----------
    input : array_like or Tensor
        Logits.
    target : array_like or Tensor
        Probabilities of the input's shape.
    weight : array_like or Tensor, optional
        A factor w for each element; broadcasts to the input.
    size_average, reduce : bool, optional
        torch's deprecated flags.
    reduction : {"mean", "sum", "none"}
        "mean" divides by the number of elements, whatever the weights.
    pos_weight : array_like or Tensor, optional
        A factor p for the positives; broadcasts to the input.

    Returns
    -------
    ndarray, scalar or Tensor
        In nats; a tensor has the target's dtype, as in torch.

    Raises
    ------
    NotImplementedError
        If the input holds no floating numbers.
    RuntimeError
        If a weight does not broadcast.
    ValueError
        If sizes differ or the reduction is unknown.

    Examples
    --------
    >>> import kullback.functional as F
    >>> print(F.binary_cross_entropy_with_logits([0.0, -20.0], [1.0, 0.0], reduction="none").round(12))
    [6.93147181e-01 2.06100000e-09]
    """
    if size_average is not None or reduce is not None:
        reduction = _legacy(size_average, reduce)
    if (tensors := _of_tensors(input, target)) is not None:
        return tensors.call(tensors.BinaryCrossEntropyWithLogits, input, target, weight, pos_weight, reduction, True)
    return _core.binary_cross_entropy(input, target, weight, pos_weight, reduction, True)


def cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    """Torch's CrossEntropyLoss: of logits, against class indices or probabilities.

    Parameters
    ----------
    input : array_like or Tensor
        Logits of shape (C,), (N, C) or (N, C, d1, ...): the class axis is 1, or 0 for one row. They are read once.
    target : array_like or Tensor
        Class indices in the shape of `input` without the class axis (in arrays of any integer dtype, in tensors of
        int64 or uint8), or, in the shape of `input` and floating, probabilities, which need not sum to 1.
    weight : array_like or Tensor, optional
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
    ndarray, scalar or Tensor
        In nats.

    Raises
    ------
    NotImplementedError
        If the logits are not floating.
    RuntimeError
        If the target is of the wrong kind, or shapes or the weight do not fit.
    ValueError
        If the batches differ in size or the reduction is unknown.
    IndexError
        If a class index is out of range.

    Examples
    --------
    >>> import kullback.functional as F
    >>> print(F.cross_entropy([[20.0, 0.0]], [0]))
    2.061153620314381e-09
    """
    if size_average is not None or reduce is not None:
        reduction = _legacy(size_average, reduce)
    if (tensors := _of_tensors(input, target)) is not None:
        return tensors.call(tensors.CrossEntropy, input, target, weight, ignore_index, reduction, label_smoothing)
    return _core.cross_entropy_loss(input, target, weight, ignore_index, reduction, label_smoothing, False, False)[0]


def nll_loss(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Any:
    """Torch's NLLLoss: ``-w[y] * input[y]`` of log-probabilities and class indices.

    Parameters
    ----------
    input : array_like or Tensor
        Log-probabilities of shape (C,), (N, C) or (N, C, d1, ...).
    target : array_like or Tensor
        Class indices in the shape of `input` without the class axis: in arrays of any integer dtype, in tensors of
        int64 or uint8.
    weight : array_like or Tensor, optional
        A factor per class, shape (C,).
    size_average, reduce : bool, optional
        torch's deprecated flags.
    ignore_index : int, default -100
        The index of positions that add nothing and are not counted.
    reduction : {"mean", "sum", "none"}
        "mean" divides by the weights of the labels that count.

    Returns
    -------
    ndarray, scalar or Tensor
        In nats.

    Raises
    ------
    NotImplementedError
        If the input is not floating.
    RuntimeError
        If the target is not of indices, or shapes or the weight do not fit.
    ValueError
        If the batches differ in size or the reduction is unknown.
    IndexError
        If a class index is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> import kullback.functional as F
    >>> print(F.nll_loss(np.log([[0.25, 0.75]]), [1]).round(4))
    0.2877
    """
    if size_average is not None or reduce is not None:
        reduction = _legacy(size_average, reduce)
    if (tensors := _of_tensors(input, target)) is not None:
        return tensors.call(tensors.NllLoss, input, target, weight, ignore_index, reduction)
    return _core.nll_loss(input, target, weight, ignore_index, reduction, False)[0]
