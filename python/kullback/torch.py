"""The quantities under ``torch.compile``: ``import kullback.torch`` once, before the compiled function is first called.

The compiler sees `kullback.functional` and `kullback.nn` as they are. It cannot see into `kullback.entropy` and its
siblings, which are native functions: this module tells it by which operators of torch to replace them, so that a
function that calls them is one graph (``fullgraph=True``) with its gradient. It needs torch 2.6 or later and changes
nothing else.

Examples
--------
>>> import torch
>>> import kullback as kb
>>> import kullback.torch
>>> @torch.compile(fullgraph=True, backend="aot_eager")
... def loss(student, teacher):
...     return kb.kl_divergence(teacher, student, given="logits", temperature=2.0, reduction="mean")
>>> loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]]))
tensor(0.1201)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kullback import _core, _torch

__all__: list[str] = []

if not hasattr(torch.compiler, "substitute_in_graph"):
    raise ImportError(f"kullback.torch needs torch 2.6 or later, got {torch.__version__}")


def _of_one(name: str) -> Any:
    def quantity(
        p: Any,
        *,
        given: Any = "probs",
        dtype: Any = None,
        axis: int = -1,
        keepdims: bool = False,
        base: float | None = None,
        temperature: Any = 1.0,
        reduction: str = "none",
        where: Any = None,
        rows: Any = None,
        on_invalid: str = "raise",
        out: Any = None,
        threads: int | None = None,
    ) -> Any:
        options = (dtype, axis, keepdims, base, temperature, reduction, on_invalid, threads)
        return _traced(name, (p, None, None, where, rows), None, given, options, out)

    return quantity


def _of_two(name: str) -> Any:
    def quantity(
        p: Any,
        q: Any,
        *,
        given: Any = "probs",
        dtype: Any = None,
        axis: int = -1,
        keepdims: bool = False,
        base: float | None = None,
        temperature: Any = 1.0,
        reduction: str = "none",
        where: Any = None,
        rows: Any = None,
        on_invalid: str = "raise",
        out: Any = None,
        threads: int | None = None,
    ) -> Any:
        options = (dtype, axis, keepdims, base, temperature, reduction, on_invalid, threads)
        return _traced(name, (p, q, None, where, rows), None, given, options, out)

    return quantity


def _of_labels(name: str) -> Any:
    def quantity(
        q: Any,
        labels: Any,
        *,
        ignore_index: int | None = None,
        given: Any = "probs",
        dtype: Any = None,
        axis: int = -1,
        keepdims: bool = False,
        base: float | None = None,
        temperature: Any = 1.0,
        reduction: str = "none",
        where: Any = None,
        rows: Any = None,
        on_invalid: str = "raise",
        out: Any = None,
        threads: int | None = None,
    ) -> Any:
        options = (dtype, axis, keepdims, base, temperature, reduction, on_invalid, threads)
        return _traced(name, (q, None, labels, where, rows), ignore_index, given, options, out)

    return quantity


def _traced(
    name: str, tensors: tuple[Any, ...], ignore_index: int | None, given: Any, options: tuple[Any, ...], out: Any
) -> Any:
    """Call the operator that a native function stands for, with its options as the operator takes them."""
    if out is not None:
        raise TypeError("out cannot be part of a graph: leave it out")
    dtype, axis, keepdims, base, temperature, *rest = options
    if dtype is not None:
        raise TypeError("dtype is for arrays of uint16: a tensor that is part of a graph has its own")
    given = [given] if isinstance(given, str) else list(given)
    temperature = list(temperature) if isinstance(temperature, tuple) else [temperature]
    found = _torch.Quantity.of(tensors, (name, ignore_index, given, axis, keepdims, base, temperature, *rest))
    # Of arrays alone the result is an array, also in a graph.
    return found if any(isinstance(x, Tensor) for x in tensors[:2]) else found.numpy()


_STAND_INS = {("p",): _of_one, ("p", "q"): _of_two, ("q", "labels"): _of_labels}

for _name, _arguments in _core.QUANTITIES.items():
    torch.compiler.substitute_in_graph(getattr(_core, _name))(_STAND_INS[_arguments](_name))
