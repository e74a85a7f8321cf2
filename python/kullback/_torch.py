"""Tensors through `kullback.functional`.

Imported with the first tensor, when torch is already there. A call takes the cheapest of four routes: the native
function; where a gradient is wanted `torch.autograd.Function` around it; under the transforms of ``torch.func`` one
that they can take apart; under ``torch.compile``, and of tensors of other classes, the operators
``torch.ops.kullback``, which torch can see and differentiate.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active as _transforms_active
from torch._C import _is_any_autocast_enabled as _autocast_enabled
from torch.autograd import forward_ad
from torch.compiler import is_dynamo_compiling
from torch.nn.parameter import Parameter

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
    is_loss: ClassVar[bool] = False
    """Whether torch's autocast evaluates it in single precision."""

    value: ClassVar[Callable[..., Tensor]]
    """The result alone."""

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, Tensor | None]:
        """Give the result, and the state."""
        raise NotImplementedError

    @classmethod
    def begin(cls, *args: Any) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Give the result, the state, and where it costs little the only gradient, for a gradient of 1."""
        return *cls.forward(*args), None

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
    if is_dynamo_compiling():
        return _registered(operator, args)
    if _transforms_active() or forward_ad._current_level >= 0:
        _refuse(operator, args)
        found = _Transformed.apply(operator, *args)
        return found[0] if operator.state == "own" else found
    graph = foreign = False
    n = operator.tensors
    for arg in args[:n]:
        if arg is None:
            continue
        kind = type(arg)
        if kind is Tensor or kind is Parameter:
            if arg.requires_grad:
                graph = True
        elif isinstance(arg, Tensor):
            # Its class may have torch's operators done in a way of its own: a fake tensor does.
            return _registered(operator, args)
        else:
            foreign = True
    if _autocast_enabled():
        args = _widened_for_autocast(operator, args)
    if not graph or not torch.is_grad_enabled():
        return operator.value(*args)
    _refuse(operator, args)
    if foreign:
        tensors = (x if isinstance(x, Tensor) else None for x in args[:n])
        return _Node.apply(operator, [None if isinstance(x, Tensor) else x for x in args[:n]], args[n:], *tensors)
    return _Node.apply(operator, None, args[n:], *args[:n])


def _registered(operator: type[Operator], args: tuple[Any, ...]) -> Any:
    """Evaluate a function by torch's operator of it."""
    args = _widened_for_autocast(operator, args)
    n = operator.tensors
    tensors = (x if x is None or isinstance(x, Tensor) else torch.as_tensor(np.asarray(x)) for x in args[:n])
    found = getattr(torch.ops.kullback, operator.name)(*tensors, *args[n:])
    return found[0] if operator.state == "own" else found


def _widened_for_autocast(operator: type[Operator], args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Cast half precision to single where torch's autocast does: in losses, not in the softmaxes."""
    if not operator.is_loss or not torch.is_autocast_enabled("cpu"):
        return args
    n = operator.tensors
    return (*(x.float() if _is_half(x) else x for x in args[:n]), *args[n:])


def _is_half(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dtype in (torch.float16, torch.bfloat16)


def _refuse(operator: type[Operator], args: Sequence[Any]) -> None:
    if operator is CrossEntropy and args[0].shape == args[1].shape:
        # Against probabilities the weight has a gradient.
        return
    for at, name, function in operator.constant:
        if isinstance(args[at], Tensor) and args[at].requires_grad:
            if args[0].ndim > 2:
                function = function.replace("nll_loss_", "nll_loss2d_")
            raise RuntimeError(
                f"The function '{function}' is not differentiable with respect to argument '{name}'. This input cannot "
                "have requires_grad True."
            )


class _Node(torch.autograd.Function):
    """A call as a node of the graph."""

    @staticmethod
    def forward(
        ctx: Any, operator: type[Operator], others: Sequence[Any] | None, options: Sequence[Any], *tensors: Any
    ) -> Tensor:
        result, state, ctx.ahead = operator.begin(*_merged(tensors, others), *options)
        ctx.save_for_backward(state, *tensors)
        ctx.call = operator, others, options
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        operator, others, options = ctx.call
        state, *tensors = ctx.saved_tensors
        args, needs = (*_merged(tensors, others), *options), ctx.needs_input_grad[3:]
        # A second time through the graph finds it gone.
        ahead, ctx.ahead = ctx.ahead, None
        if not torch.is_grad_enabled():
            if ahead is not None and not _transforms_active() and (found := _scaled(ahead, grad)) is not None:
                return None, None, None, found, *(None for _ in tensors[1:])
            del ahead
            return None, None, None, *operator.backward(needs, grad, state, *args)
        # Somebody may ask for a second derivative: the gradients depend on the arguments, whatever `grad` does.
        found = iter(_Gradient.apply(operator, needs, grad, state, *args))
        return None, None, None, *(next(found) if need else None for need in needs)


def _saves_elsewhere() -> bool:
    """Say whether hooks for saved tensors are set; torch tells of them from 2.5 on."""
    hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    return hooks is not None and hooks(False) is not None


def _scaled(ahead: Tensor, grad: Tensor) -> Tensor | None:
    """Multiply a gradient by that of the result in place.

    Unless half precision would be rounded twice, or the zeros of rows that are ignored would become NaN.
    """
    g = grad.item()
    if g == 1.0:
        return ahead
    if not math.isfinite(g) or (_is_half(ahead) and abs(math.frexp(g)[0]) != 0.5):
        return None
    return ahead.mul_(grad)


def _merged(tensors: Sequence[Any], others: Sequence[Any] | None) -> Sequence[Any]:
    """Put what is no tensor back among the tensors."""
    if others is None:
        return tensors
    return [x if other is None else other for x, other in zip(tensors, others, strict=True)]


class _Transformed(torch.autograd.Function):
    """A call under the transforms of `torch.func`, which unwrap its tensors on the way."""

    @staticmethod
    def forward(operator: type[Operator], *args: Any) -> Any:
        found = operator.forward(*args)
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


def _no_second_derivative(*_: Any) -> NoReturn:
    raise RuntimeError("kullback's losses have no second derivative")


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
        _no_second_derivative()

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
    kind = type(results[0])
    stacked = kind(torch.stack(column) for column in zip(*results, strict=True))
    return stacked, kind([0] * len(stacked))


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
            found = operator.forward(*args)
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
        if hasattr(torch.library, "register_vmap"):  # From 2.5 on.
            rule = functools.partial(_one_by_one, getattr(torch.ops.kullback, name + suffix))
            torch.library.register_vmap(whole, rule, lib=_LIBRARY)
    torch.library.register_autograd(f"kullback::{name}", gradient, setup_context=setup, lib=_LIBRARY)
    torch.library.register_autograd(f"kullback::{name}_backward", _no_second_derivative, lib=_LIBRARY)
    return operator


def _summed(grad: Tensor, like: Tensor) -> Tensor:
    """Sum a gradient over what its argument was broadcast along."""
    return (grad if grad.shape == like.shape else grad.sum_to_size(like.shape)).to(like.dtype)


def _widened(x: Any, repeated: bool) -> Any:
    """Widen half precision where a gradient is to be summed: rounding every term would show in the sum."""
    return x.float() if repeated and _is_half(x) else x


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
    def value(input: Tensor, name: str, dim: int) -> Tensor:
        result: Tensor = _core.softmax(name, input, dim)
        return result

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, Tensor]:
        result = Softmax.value(*args)
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

    value = staticmethod(reduce_axes)

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, Tensor]:
        result = reduce_axes(*args)
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
    is_loss = True
    tensors = 2

    value = staticmethod(_core.kl_div)

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, None]:
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
    is_loss = True
    tensors = 4
    constant: ClassVar[Sequence[tuple[int, str, str]]] = ((2, "weight", "binary_cross_entropy"),)

    value = staticmethod(_core.binary_cross_entropy)

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, None]:
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


def _size(shape: Sequence[int]) -> int:
    """Count the elements of a shape, whose lengths may be symbols."""
    size = 1
    for n in shape:
        size = size * n
    return size


def _rows(input: Tensor) -> list[int]:
    return [*input.shape[:1], *input.shape[2:]] if input.ndim > 1 else []


@register
class CrossEntropy(Operator):
    """cross_entropy."""

    constant = ((2, "weight", "nll_loss_forward"),)
    name = "cross_entropy"
    arguments = "Tensor input, Tensor target, Tensor? weight, SymInt ignore_index, str reduction, float label_smoothing"
    is_loss = True
    state = "own"
    tensors = 3

    @staticmethod
    def value(input: Any, target: Any, weight: Any, ignore_index: int, reduction: str, smoothing: float) -> Tensor:
        found = _core.cross_entropy_loss(input, target, weight, ignore_index, reduction, smoothing, False, False)
        result: Tensor = found[0]
        return result

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, Tensor | None]:
        input, target, weight, ignore_index, reduction, smoothing = args
        return _core.cross_entropy_loss(input, target, weight, ignore_index, reduction, smoothing, True, False)[:2]

    @classmethod
    def begin(cls, *args: Any) -> tuple[Tensor, Tensor | None, Tensor | None]:
        input, target, weight, ignore_index, reduction, smoothing = args
        # Where tensors are saved in another way, by checkpoints or on disk, a gradient is not to be held meanwhile.
        ahead = not _saves_elsewhere()
        return _core.cross_entropy_loss(input, target, weight, ignore_index, reduction, smoothing, True, ahead)

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
        count = _size(shape)
        dtype = _promoted(input, target, weight) if soft else input.dtype
        result = torch.empty(shape if reduction == "none" else (), dtype=dtype, device=input.device)
        return result, torch.empty(2 * count if soft else count + 1, dtype=torch.float64, device=input.device)


@register
class NllLoss(Operator):
    """nll_loss."""

    name = "nll_loss"
    arguments = "Tensor input, Tensor target, Tensor? weight, SymInt ignore_index, str reduction"
    is_loss = True
    state = "own"
    tensors = 3
    constant = ((2, "weight", "nll_loss_forward"),)

    @staticmethod
    def value(input: Any, target: Any, weight: Any, ignore_index: int, reduction: str) -> Tensor:
        result: Tensor = _core.nll_loss(input, target, weight, ignore_index, reduction, False)[0]
        return result

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, Tensor | None]:
        input, target, weight, ignore_index, reduction = args
        return _core.nll_loss(input, target, weight, ignore_index, reduction, True)

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


@register
class Quantity(Operator):
    """The quantities of information theory."""

    name = "quantity"
    arguments = (
        "Tensor p, Tensor? q, Tensor? labels, Tensor? where, Tensor? rows, str name, int? ignore_index, str[] given, "
        "int axis, bool keepdims, float? base, float[] temperature, str reduction, str on_invalid, int? threads"
    )
    state = "own"
    tensors = 5

    @staticmethod
    def of(tensors: Sequence[Any], options: Sequence[Any]) -> Any:
        """Evaluate a quantity: what `kullback._core` calls when torch has to know."""
        return call(Quantity, *tensors, *options)

    @staticmethod
    def value(*args: Any) -> Tensor:
        result: Tensor = _core.quantity(False, *_as_the_core_takes(args))[0]
        return result

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, Tensor | None]:
        return _core.quantity(True, *_as_the_core_takes(args))

    @staticmethod
    def backward(wanted: Sequence[bool], grad: Tensor, state: Tensor | None, *args: Any) -> Gradients:
        p, q, *options = _as_the_core_takes(args)
        del options[-2]  # Invalid rows were refused before, or are NaN.
        repeated = q is not None and getattr(q, "shape", None) != getattr(p, "shape", None)
        operands = [_widened(x, repeated) for x in (p, q)]
        grads = _core.quantity_backward((wanted[0], wanted[1]), grad, state, *operands, *options)

        def summed(found: Tensor, like: Tensor) -> Tensor:
            # One row is one row, whatever the axis.
            return _summed(found.movedim(args[8], -1) if like.ndim == 1 else found, like)

        return [
            *(x if x is None else summed(x, like) for x, like in zip(grads, args[:2], strict=True)),
            None,
            None,
            None,
        ]

    @staticmethod
    def fake(*args: Any) -> tuple[Tensor, Tensor]:
        p, q, _, _, _, _, _, _, axis, keepdims, _, _, reduction, _, _ = args
        operands = [x for x in (p, q) if x is not None]
        from_end = axis if axis < 0 else axis - max(x.ndim for x in operands)
        shapes = [list(x.shape) for x in operands]
        for shape in shapes:
            del shape[from_end if len(shape) > 1 else -1]
        shape = list(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]
        numbers = 3 * _size(shape)
        if keepdims:
            shape.insert(len(shape) + 1 + from_end, 1)
        single = all(x.dtype in (torch.float32, torch.float16, torch.bfloat16) for x in operands)
        dtype = torch.float32 if single else torch.float64
        result = torch.empty(shape if reduction == "none" else (), dtype=dtype, device=p.device)
        return result, torch.empty(numbers, dtype=torch.float64, device=p.device)


def _as_the_core_takes(args: Sequence[Any]) -> list[Any]:
    """Give the arguments with one space and one temperature, or pairs, where a schema has lists."""
    values = list(args)
    for at in (7, 11):
        values[at] = values[at][0] if len(values[at]) == 1 else tuple(values[at])
    return values
