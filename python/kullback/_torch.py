"""Tensors through `kullback.functional`.

Imported with the first tensor, when torch is already there. A call takes the cheapest of three routes: the native
function; where a gradient is wanted `torch.autograd.Function` around it; under ``torch.compile`` and the transforms of
``torch.func`` the operators ``torch.ops.kullback``, which the compiler can see and differentiate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kullback import _core
from kullback.functional import reduce_axes

Gradients = Sequence[Tensor | None]


class Operator:
    """A function of tensors: its value, its gradients, and what the compiler is to know of it.

    `forward` gives the result and what the gradients need besides the arguments: nothing, the result itself, or a
    tensor of its own. `backward` gives the gradients of the arguments that are `wanted`.
    """

    name: ClassVar[str]
    arguments: ClassVar[str]
    """As in a schema of torch."""
    state: ClassVar[str] = "nothing"
    """What the gradients need: "nothing", "result" or "own"."""
    tensors: ClassVar[int]
    """How many arguments, the first ones, are tensors or None."""
    constant: ClassVar[Sequence[tuple[int, str, str]]] = ()
    """Tensors without a gradient: which argument, its name, and torch's name of the function."""

    @staticmethod
    def forward(save: bool, *args: Any) -> tuple[Tensor, Tensor | None]:
        """Give the result, and the state if it is to be saved."""
        raise NotImplementedError

    @staticmethod
    def backward(wanted: Sequence[bool], grad: Tensor, state: Tensor | None, *args: Any) -> Gradients:
        """Give a gradient for each of the tensors."""
        raise NotImplementedError

    @staticmethod
    def fake(*args: Any) -> tuple[Tensor, Tensor | None]:
        """Make empty tensors of the shapes and dtypes that `forward` gives."""
        raise NotImplementedError


def call(operator: type[Operator], *args: Any) -> Any:
    """Evaluate a function of tensors by the cheapest route that does what the caller wants."""
    if torch.compiler.is_compiling():
        found = getattr(torch.ops.kullback, operator.name)(*args)
        return found[0] if operator.state == "own" else found
    if torch._C._are_functorch_transforms_active():
        _refuse(operator, args)
        found = _Transformed.apply(operator, *args)
        return found[0] if operator.state == "own" else found
    if torch.is_grad_enabled():
        for arg in args[: operator.tensors]:
            if isinstance(arg, Tensor) and arg.requires_grad:
                _refuse(operator, args)
                return _Node.apply(operator, *args)
    return operator.forward(False, *args)[0]


def _refuse(operator: type[Operator], args: Sequence[Any]) -> None:
    if operator is CrossEntropy and args[0].shape == args[1].shape:
        # Against probabilities the weight has a gradient.
        return
    for at, name, function in operator.constant:
        if isinstance(args[at], Tensor) and args[at].requires_grad:
            raise RuntimeError(
                f"The function '{function}' is not differentiable with respect to argument '{name}'. This input cannot "
                "have requires_grad True."
            )


class _Node(torch.autograd.Function):
    """A call as a node of the graph. There is no second derivative: asking for one is torch's error."""

    @staticmethod
    def forward(ctx: Any, operator: type[Operator], *args: Any) -> Tensor:
        result, state = operator.forward(True, *args)
        n = operator.tensors
        ctx.save_for_backward(state, *args[:n])
        ctx.operator, ctx.options = operator, args[n:]
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        state, *tensors = ctx.saved_tensors
        wanted = ctx.needs_input_grad[1 : 1 + len(tensors)]
        grads = ctx.operator.backward(wanted, grad, state, *tensors, *ctx.options)
        return (None, *grads, *(None for _ in ctx.options))


class _Transformed(torch.autograd.Function):
    """A call under the transforms of `torch.func`, which unwrap its tensors on the way."""

    @staticmethod
    def forward(operator: type[Operator], *args: Any) -> Any:
        found = operator.forward(True, *args)
        return found if operator.state == "own" else found[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        operator, *args = inputs
        ctx.operator, ctx.options = operator, args[operator.tensors :]
        _keep(ctx, operator, args, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:
        kept, *tensors = ctx.saved_tensors
        wanted = _wanted(ctx.needs_input_grad[1:], tensors)
        found = iter(_Gradient.apply(ctx.operator, wanted, grad, kept, *tensors, *ctx.options))
        return (None, *(next(found) if w else None for w in wanted), *(None for _ in ctx.options))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        return _one_by_one(_Transformed.apply, info, in_dims, args)


class _Gradient(torch.autograd.Function):
    """The gradients of such a call."""

    @staticmethod
    def forward(operator: type[Operator], wanted: Sequence[bool], grad: Tensor, kept: Any, *args: Any) -> Any:
        grads = operator.backward(wanted, grad, kept, *args)
        return tuple(g for g in grads if g is not None)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError("kullback's losses have no second derivative")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        return _one_by_one(_Gradient.apply, info, in_dims, args)


def _one_by_one(function: Any, info: Any, in_dims: tuple[Any, ...], args: tuple[Any, ...]) -> tuple[Any, Any]:
    """Apply the rule of `torch.vmap`: one call after the other, and the results stacked."""
    results = []
    for i in range(info.batch_size):
        pairs = zip(args, in_dims, strict=True)
        results.append(function(*(x.select(d, i) if isinstance(d, int) else x for x, d in pairs)))
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    stacked = tuple(torch.stack(column) for column in zip(*results, strict=True))
    return stacked, (0,) * len(stacked)


def _keep(ctx: Any, operator: type[Operator], args: Sequence[Any], output: Any) -> None:
    """Save what the gradients need."""
    kept = {"nothing": None, "result": output, "own": output[1] if operator.state == "own" else None}[operator.state]
    ctx.save_for_backward(kept, *args[: operator.tensors])
    if operator.state == "own":
        ctx.mark_non_differentiable(output[1])


def _wanted(needs: Sequence[bool], tensors: Sequence[Tensor | None]) -> list[bool]:
    """Say which tensors want a gradient and can have one."""
    pairs = zip(tensors, needs, strict=False)
    return [need and x is not None and x.is_floating_point() for x, need in pairs]


_LIBRARY: Any = torch.library.Library("kullback", "DEF")  # type: ignore[no-untyped-call]


def register(operator: type[Operator]) -> type[Operator]:
    """Make an operator of torch of a function, with its gradient and its shapes."""
    name, n, state = operator.name, operator.tensors, operator.state
    result = "(Tensor, Tensor)" if state == "own" else "Tensor"
    _LIBRARY.define(f"{name}({operator.arguments}) -> {result}")
    _LIBRARY.define(f"{name}_backward(Tensor grad, Tensor? state, {operator.arguments}, bool[] wanted) -> Tensor[]")

    def forward(*args: Any) -> Any:
        # Below autograd the arguments still say that they want a gradient.
        with torch.no_grad():
            found = operator.forward(True, *args)
        return found if state == "own" else found[0]

    def backward(grad: Tensor, kept: Tensor | None, *args: Any) -> list[Tensor]:
        *args, wanted = args  # type: ignore[assignment]
        with torch.no_grad():
            grads = operator.backward(wanted, grad, kept, *args)
        return [g for g in grads if g is not None]

    def fake(*args: Any) -> Any:
        found = operator.fake(*args)
        return found if state == "own" else found[0]

    def fake_backward(grad: Tensor, kept: Tensor | None, *args: Any) -> list[Tensor]:
        *args, wanted = args  # type: ignore[assignment]
        pairs = zip(args[:n], wanted, strict=True)
        return [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x, w in pairs if w and x is not None]

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _refuse(operator, inputs)
        ctx.options = inputs[n:]
        _keep(ctx, operator, inputs, output)

    def gradient(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
        kept, *tensors = ctx.saved_tensors
        wanted = _wanted(ctx.needs_input_grad, tensors)
        function = getattr(torch.ops.kullback, f"{name}_backward")
        found = iter(function(grad, kept, *tensors, *ctx.options, wanted))
        return (*(next(found) if w else None for w in wanted), *(None for _ in ctx.options))

    for suffix, kernel, shapes in (("", forward, fake), ("_backward", backward, fake_backward)):
        whole = f"kullback::{name}{suffix}"
        _LIBRARY.impl(f"{name}{suffix}", kernel, "CPU")
        torch.library.register_fake(whole, shapes, lib=_LIBRARY)
    torch.library.register_autograd(f"kullback::{name}", gradient, setup_context=setup, lib=_LIBRARY)
    return operator


def _summed(grad: Tensor, like: Tensor) -> Tensor:
    """Sum a gradient over what its argument was broadcast along."""
    return (grad if grad.shape == like.shape else grad.sum_to_size(like.shape)).to(like.dtype)


def _widened(x: Any, repeated: bool) -> Any:
    """Widen half precision where a gradient is to be summed: rounding every term would show in the sum."""
    return x.float() if repeated and isinstance(x, Tensor) and x.dtype in (torch.float16, torch.bfloat16) else x


def _promoted(first: Tensor, *more: Tensor | None) -> torch.dtype:
    """Find the dtype that tensors promote to."""
    dtype = first.dtype
    for x in more:
        dtype = dtype if x is None else torch.promote_types(dtype, x.dtype)
    return dtype


@register
class Softmax(Operator):
    """softmax, log_softmax and softmin."""

    name = "softmax"
    arguments = "Tensor input, str name, int dim"
    state = "result"
    tensors = 1

    @staticmethod
    def forward(save: bool, input: Tensor, name: str, dim: int) -> tuple[Tensor, Tensor]:
        result = _core.softmax(name, input, dim)
        return result, result

    @staticmethod
    def backward(wanted: Sequence[bool], grad: Tensor, state: Tensor | None, *args: Any) -> Gradients:
        return [_core.softmax_backward(args[1], grad, state, args[2])]

    @staticmethod
    def fake(input: Tensor, name: str, dim: int) -> tuple[Tensor, None]:
        return torch.empty(input.shape, dtype=input.dtype, device=input.device), None


@register
class LogSumExp(Operator):
    """logsumexp along one axis or several."""

    name = "logsumexp"
    arguments = "Tensor input, int[] dim, bool keepdim"
    state = "result"
    tensors = 1

    @staticmethod
    def forward(save: bool, input: Tensor, dim: Sequence[int], keepdim: bool) -> tuple[Tensor, Tensor]:
        result = reduce_axes(input, dim, keepdim)
        return result, result

    @staticmethod
    def backward(wanted: Sequence[bool], grad: Tensor, state: Tensor | None, *args: Any) -> Gradients:
        input, dim, keepdim = args
        assert state is not None
        if not keepdim and input.ndim:
            for axis in sorted(d % input.ndim for d in dim):
                grad, state = grad.unsqueeze(axis), state.unsqueeze(axis)
        return [_core.logsumexp_backward(grad, input, state)]

    @staticmethod
    def fake(input: Tensor, dim: Sequence[int], keepdim: bool) -> tuple[Tensor, None]:
        dims = {d % max(input.ndim, 1) for d in dim}
        shape = [1 if i in dims else n for i, n in enumerate(input.shape) if keepdim or i not in dims]
        dtype = input.dtype if input.is_floating_point() else torch.float32
        return torch.empty(shape, dtype=dtype, device=input.device), None


@register
class KlDiv(Operator):
    """kl_div."""

    name = "kl_div"
    arguments = "Tensor input, Tensor target, str reduction, bool log_target"
    tensors = 2

    @staticmethod
    def forward(save: bool, *args: Any) -> tuple[Tensor, None]:
        return _core.kl_div(*args), None

    @staticmethod
    def backward(wanted: Sequence[bool], grad: Tensor, state: Tensor | None, *args: Any) -> Gradients:
        input, target, reduction, log_target = args

        wide_input, wide_target = (
            _widened(input, input.shape != target.shape),
            _widened(target, input.shape != target.shape),
        )

        def gradient(like: Tensor, by_target: bool) -> Tensor:
            found = _core.kl_div_backward(grad, wide_input, wide_target, reduction, log_target, by_target)
            return _summed(found, like)

        return [gradient(input, False) if wanted[0] else None, gradient(target, True) if wanted[1] else None]

    @staticmethod
    def fake(input: Tensor, target: Tensor, reduction: str, log_target: bool) -> tuple[Tensor, None]:
        shape = torch.broadcast_shapes(input.shape, target.shape) if reduction == "none" else ()  # type: ignore[no-untyped-call]
        return torch.empty(shape, dtype=torch.result_type(input, target), device=input.device), None


@register
class BinaryCrossEntropy(Operator):
    """binary_cross_entropy, of probabilities or of logits."""

    name = "binary_cross_entropy"
    arguments = "Tensor input, Tensor target, Tensor? weight, Tensor? pos_weight, str reduction, bool logits"
    tensors = 4
    constant: ClassVar[Sequence[tuple[int, str, str]]] = ((2, "weight", "binary_cross_entropy"),)

    @staticmethod
    def forward(save: bool, *args: Any) -> tuple[Tensor, None]:
        return _core.binary_cross_entropy(*args), None

    @staticmethod
    def backward(wanted: Sequence[bool], grad: Tensor, state: Tensor | None, *args: Any) -> Gradients:
        input, target, weight, pos_weight, reduction, logits = args

        def gradient(by_target: bool) -> Tensor:
            found: Tensor = _core.binary_cross_entropy_backward(
                grad, input, target, weight, pos_weight, reduction, logits, by_target
            )
            return found

        return [gradient(False) if wanted[0] else None, gradient(True) if wanted[1] else None, None, None]

    @staticmethod
    def fake(
        input: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None, reduction: str, logits: bool
    ) -> tuple[Tensor, None]:
        dtype = target.dtype if logits else input.dtype
        return torch.empty(input.shape if reduction == "none" else (), dtype=dtype, device=input.device), None


@register
class BinaryCrossEntropyWithLogits(BinaryCrossEntropy):
    """The same of logits, which torch calls by another name."""

    name = "binary_cross_entropy_with_logits"
    constant = tuple((i, name, "binary_cross_entropy_with_logits") for i, name in ((2, "weight"), (3, "pos_weight")))


def _rows(input: Tensor) -> list[int]:
    return [*input.shape[:1], *input.shape[2:]] if input.ndim > 1 else []


@register
class CrossEntropy(Operator):
    """cross_entropy."""

    constant = ((2, "weight", "nll_loss_forward"),)
    name = "cross_entropy"
    arguments = "Tensor input, Tensor target, Tensor? weight, SymInt ignore_index, str reduction, float label_smoothing"
    state = "own"
    tensors = 3

    @staticmethod
    def forward(save: bool, *args: Any) -> tuple[Tensor, Tensor | None]:
        input, target, weight, ignore_index, reduction, label_smoothing = args
        return _core.cross_entropy_loss(input, target, weight, ignore_index, reduction, label_smoothing, save)

    @staticmethod
    def backward(wanted: Sequence[bool], grad: Tensor, state: Tensor | None, *args: Any) -> Gradients:
        input, target, weight, ignore_index, reduction, label_smoothing = args
        return _core.cross_entropy_backward(
            grad,
            input,
            target,
            weight,
            ignore_index,
            reduction,
            label_smoothing,
            state,
            (wanted[0], wanted[1], wanted[2]),
        )

    @staticmethod
    def fake(
        input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str, label_smoothing: float
    ) -> tuple[Tensor, Tensor]:
        shape = _rows(input)
        soft = input.shape == target.shape
        count = 1
        for n in shape:
            count = count * n
        dtype = _promoted(input, target, weight) if soft else input.dtype
        result = torch.empty(shape if reduction == "none" else (), dtype=dtype, device=input.device)
        return result, torch.empty(2 * count if soft else count + 1, dtype=torch.float64, device=input.device)


@register
class NllLoss(Operator):
    """nll_loss."""

    name = "nll_loss"
    arguments = "Tensor input, Tensor target, Tensor? weight, SymInt ignore_index, str reduction"
    state = "own"
    tensors = 3
    constant = ((2, "weight", "nll_loss_forward"),)

    @staticmethod
    def forward(save: bool, *args: Any) -> tuple[Tensor, Tensor | None]:
        input, target, weight, ignore_index, reduction = args
        return _core.nll_loss(input, target, weight, ignore_index, reduction, save)

    @staticmethod
    def backward(wanted: Sequence[bool], grad: Tensor, state: Tensor | None, *args: Any) -> Gradients:
        input, target, weight, ignore_index, reduction = args
        return [_core.nll_loss_backward(grad, input, target, weight, ignore_index, reduction, state), None, None]

    @staticmethod
    def fake(
        input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str
    ) -> tuple[Tensor, Tensor]:
        result = torch.empty(_rows(input) if reduction == "none" else (), dtype=input.dtype, device=input.device)
        return result, torch.empty(1, dtype=torch.float64, device=input.device)


class _Measured(torch.autograd.Function):
    """A quantity of rows as a node of the graph."""

    @staticmethod
    def forward(ctx: Any, call: Any, *rows: Any) -> Any:
        ctx.call = call
        ctx.others = [None if isinstance(x, Tensor) else x for x in rows]
        ctx.save_for_backward(*(x if isinstance(x, Tensor) else None for x in rows))
        return call.value(rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        rows = [x if x is not None else other for x, other in zip(ctx.saved_tensors, ctx.others, strict=True)]
        axis = ctx.call.axis(rows)
        grads: list[Tensor | None] = [None]
        for k, wanted in enumerate(ctx.needs_input_grad[1:]):
            found = None
            if wanted:
                # The classes are last; one row is one row, whatever the axis.
                lead = list(rows[k].shape)
                classes = lead.pop(axis if len(lead) > 1 else -1)
                repeated = any(getattr(x, "shape", None) != rows[k].shape for x in rows)
                wide = [_widened(x, repeated) for x in rows]
                found = ctx.call.gradient(grad, wide, k).sum_to_size(*lead, classes).to(rows[k].dtype)
                found = found.movedim(-1, axis) if len(lead) else found
            grads.append(found)
        return tuple(grads)


def measure(call: Any, rows: tuple[Any, ...]) -> Any:
    """Evaluate a quantity of rows of which some want a gradient."""
    return _Measured.apply(call, *rows)
