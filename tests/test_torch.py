"""``kullback.functional`` and ``kullback.nn`` on tensors: torch's values, gradients, dtypes, errors and graphs.

Torch is asked in double precision about the very numbers that were stored; its own dtype decides only what the result's
is. Sums of terms of both signs are judged by the size of their terms.
"""

from __future__ import annotations

import copy
import io
import math
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import kullback as kb
import kullback.functional as F
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
TF = torch.nn.functional

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
EPS = {dtype: torch.finfo(dtype).eps for dtype in DTYPES}

FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "nn.functional.kl_div": (F.kl_div, TF.kl_div),
    "nn.functional.cross_entropy": (F.cross_entropy, TF.cross_entropy),
    "nn.functional.nll_loss": (F.nll_loss, TF.nll_loss),
    "nn.functional.binary_cross_entropy": (F.binary_cross_entropy, TF.binary_cross_entropy),
    "nn.functional.binary_cross_entropy_with_logits": (
        F.binary_cross_entropy_with_logits,
        TF.binary_cross_entropy_with_logits,
    ),
    "softmax": (F.softmax, TF.softmax),
    "log_softmax": (F.log_softmax, TF.log_softmax),
    "nn.functional.softmin": (F.softmin, TF.softmin),
    "logsumexp": (F.logsumexp, torch.logsumexp),
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="reduction: 'mean' divides")
        warnings.filterwarnings("ignore", message="Implicit dimension choice")
        yield


def is_floating(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.is_floating_point()


def mapped(function: Callable[[Any], Any], values: Any) -> Any:
    if isinstance(values, dict):
        return {k: mapped(function, v) for k, v in values.items()}
    if isinstance(values, (list, tuple)):
        return type(values)(mapped(function, v) for v in values)
    return function(values)


def doubled(x: Any) -> Any:
    if isinstance(x, torch.dtype):
        return torch.float64 if x.is_floating_point else x
    return x.detach().double() if is_floating(x) else x


def outcome(function: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, Exception | None]:
    try:
        return function(*args, **kwargs), None
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        return None, error


def assert_close(
    got: Any, exact: Any, dtype: Any, scale: float = 1.0, ulps: float = 4.0, inside: float | None = None
) -> None:
    """Equal NaN and infinities; finite values within so many ulp of the larger of themselves and `scale`."""
    assert type(got) is torch.Tensor and got.device.type == "cpu"
    assert got.dtype == dtype and got.shape == exact.shape, (got.dtype, dtype, got.shape, exact.shape)
    got, exact = got.detach().double(), exact.detach().double()
    most = torch.finfo(dtype).max
    exact = torch.where(exact.abs() > most * (1 + EPS[dtype] / 4), exact.sign() * torch.inf, exact)
    assert torch.equal(got.isnan(), exact.isnan()), (got, exact)
    assert torch.equal(got.isinf(), exact.isinf()), (got, exact)
    finite = exact.isfinite()
    error = torch.where(finite, (got - exact).abs(), 0.0)
    # Single precision inside, whatever the dtype of the result. In double torch itself rounds the logarithm of the sum.
    inside = inside or (64 * EPS[dtype] if dtype == torch.float64 else 8 * EPS[torch.float32])
    allowed = ulps * EPS[dtype] * exact.abs() + inside * scale + torch.finfo(dtype).tiny
    assert bool((error[finite] <= allowed[finite]).all()), (got, exact, (error / allowed).nan_to_num().max())


def size_of(function: Callable[..., Any], args: Any, kwargs: Any) -> float:
    """How large the terms are whose sum is judged."""
    if "reduction" in kwargs and kwargs["reduction"] != "none":
        kwargs = kwargs | {"reduction": "none"}
    value, _ = outcome(function, args, kwargs)
    if value is None or not value.numel():
        return 1.0
    return max(1.0, float(value.abs().nan_to_num(0, 0, 0).max()))


def compare(ours: Callable[..., Any], theirs: Callable[..., Any], args: Any, kwargs: Any) -> None:
    """The same value or the same error."""
    expected, error = outcome(theirs, args, kwargs)
    if error is not None:
        with pytest.raises(type(error)) as caught:
            ours(*args, **kwargs)
        assert str(caught.value).splitlines()[0] == str(error).splitlines()[0]
        return
    exact_args, exact_kwargs = mapped(doubled, (tuple(args), kwargs))
    exact = theirs(*exact_args, **exact_kwargs)
    got = ours(*args, **kwargs)
    scale = size_of(theirs, exact_args, exact_kwargs)
    if kwargs.get("reduction") == "sum":
        scale *= max(1, max(x.numel() for x in args if isinstance(x, torch.Tensor)))
    assert_close(got, exact, expected.dtype, scale)


def gradients(function: Callable[..., Any], args: Any, kwargs: Any, weight: Any) -> list[Any]:
    """Gradients by every floating argument that has one."""
    leaves: list[Any] = []

    def leaf(x: Any) -> Any:
        if is_floating(x):
            x = x.detach().clone().requires_grad_()
            leaves.append(x)
        return x

    args = [leaf(x) for x in args]
    result = function(*args, **kwargs)
    return list(torch.autograd.grad(result, leaves, weight.to(result.dtype), allow_unused=True))


def compare_gradients(ours: Callable[..., Any], theirs: Callable[..., Any], args: Any, kwargs: Any) -> None:
    exact_args, exact_kwargs = mapped(doubled, (tuple(args), kwargs))
    result = theirs(*exact_args, **exact_kwargs)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(result.shape, generator=generator, dtype=torch.float64)
    dtype = theirs(*args, **kwargs).dtype
    weight = weight.to(dtype).double()
    exact = gradients(theirs, exact_args, exact_kwargs, weight)
    got = gradients(ours, args, kwargs, weight)
    floating = [x for x in args if is_floating(x)]
    for g, e, x in zip(got, exact, floating, strict=True):
        assert (g is None) == (e is None)
        if g is not None:
            size = float(e.abs().nan_to_num(0, 0, 0).max()) if e.numel() else 1.0
            # A softmax keeps its result for the gradient, as torch does: rounded to the result's dtype.
            rounded = ours in (F.softmax, F.log_softmax, F.softmin, F.logsumexp)
            inside = 4 * EPS[dtype] if rounded and dtype in (torch.float16, torch.bfloat16) else None
            if ours is F.logsumexp and dtype == torch.float32 and result.numel():
                # Half an ulp of the log-sum-exp is a relative error of every e^(x − lse).
                inside = EPS[dtype] * (8 + float(result.abs().nan_to_num(0, 0, 0).max()) / 2)
            if EPS[dtype] > EPS[torch.float64] and x.dtype == torch.float64:
                # A number without axes does not make a result double.
                inside = 8 * EPS[torch.float32]
            scale = max(
                size, float(weight.abs().sum()) if rounded else float(weight.abs().max()) if weight.numel() else 1.0
            )
            assert_close(g, e, x.dtype, scale, inside=inside)


# ------------------------------------------------------------------------------------------- torch's own sample inputs


def samples(name: str, dtype: Any) -> Iterator[tuple[Any, Any]]:
    from torch.testing._internal.common_methods_invocations import op_db

    for op in op_db:
        if op.name == name and dtype in op.supported_dtypes("cpu"):
            for sample in op.sample_inputs("cpu", dtype, requires_grad=False):
                yield (sample.input, *sample.args), sample.kwargs


INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
INTEGRAL = ("softmax", "log_softmax", "nn.functional.softmin", "logsumexp")
"""The functions of which torch has sample inputs of integers."""


def as_array(x: Any) -> Any:
    if isinstance(x, torch.dtype):
        return np.dtype(str(x).removeprefix("torch."))
    if not isinstance(x, torch.Tensor):
        return x
    return x.view(torch.int16).numpy().view("bfloat16") if x.dtype == torch.bfloat16 else x.numpy()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "dtype"), [(n, d) for n in FUNCTIONS for d in (*DTYPES, *(INTEGERS if n in INTEGRAL else ()))], ids=str
)
def test_torchs_sample_inputs(name: str, dtype: Any) -> None:
    import ml_dtypes  # noqa: F401, so that NumPy knows bfloat16

    ours, theirs = FUNCTIONS[name]
    found = list(samples(name, dtype))
    # Torch negates before it casts, and does not negate booleans.
    assert found or (name, dtype) == ("nn.functional.softmin", torch.bool)
    for args, kwargs in found:
        compare(ours, theirs, args, kwargs)
        arrays, keywords = mapped(as_array, (tuple(args), kwargs))
        value, error = outcome(ours, args, kwargs)
        if error is not None:
            with pytest.raises(type(error)):
                ours(*arrays, **keywords)
            continue
        got = ours(*arrays, **keywords)
        if name == "logsumexp" and not dtype.is_floating_point:
            assert got.dtype == np.float64
            got = np.float32(got)
        expected = as_array(value)
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)
        if dtype.is_floating_point:
            compare_gradients(ours, theirs, [x for x in args], kwargs)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    ["BCELoss", "BCEWithLogitsLoss", "CrossEntropyLoss", "KLDivLoss", "NLLLoss", "Softmax", "LogSoftmax", "Softmin"],
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_torchs_module_inputs(name: str, dtype: Any) -> None:
    from kullback import nn
    from torch.testing._internal.common_modules import module_db

    infos = [info for info in module_db if info.module_cls is getattr(torch.nn, name)]
    assert infos
    for info in infos:
        for sample in info.module_inputs_func(info, "cpu", dtype, requires_grad=False, training=True):
            args, kwargs = sample.constructor_input.args, sample.constructor_input.kwargs
            ours, theirs = getattr(nn, name)(*args, **kwargs), getattr(torch.nn, name)(*args, **kwargs)
            assert repr(ours) == repr(theirs)
            inputs = sample.forward_input.args
            expected = theirs(*inputs)
            exact = theirs.double()(*mapped(doubled, inputs))
            assert_close(ours(*inputs), exact, expected.dtype, 100.0)


# ---------------------------------------------------------------------------------------------------------------- grids


@st.composite
def class_cases(draw: Any) -> tuple[Any, Any]:
    dtype = draw(st.sampled_from(DTYPES))
    n, c = draw(st.integers(0, 20)), draw(st.integers(1, 40) | st.sampled_from([129, 300]))
    trailing = draw(st.sampled_from([(), (3,), (2, 3), (2, 1, 2)]))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 1 << 30)))
    soft, weighted = draw(st.booleans()), draw(st.booleans())
    one = draw(st.booleans()) and not trailing
    shape = (c,) if one else (n, c, *trailing)
    logits = (3 * torch.randn(shape, generator=rng)).to(dtype)
    kwargs: dict[str, Any] = {"reduction": draw(st.sampled_from(["none", "sum", "mean"]))}
    kwargs["label_smoothing"] = draw(st.sampled_from([0.0, 0.1, 1.0]))
    if soft:
        target = torch.rand(shape, generator=rng).to(dtype)
    else:
        rows = () if one else (n, *trailing)
        target = torch.randint(0, c, rows, generator=rng)
        ignore = draw(st.sampled_from([-100, 0]))
        kwargs["ignore_index"] = ignore
        if draw(st.booleans()):
            target = torch.where(torch.rand(rows, generator=rng) < 0.3, ignore, target)
        if ignore >= 0 and draw(st.booleans()):
            # Of more axes, and with smoothing, torch takes no bytes: we do.
            plain = not trailing and kwargs["label_smoothing"] == 0
            target = target.to(torch.uint8) if c < 256 and plain else target
    if weighted:
        kwargs["weight"] = torch.rand(c, generator=rng).to(dtype)
    if draw(st.booleans()) and len(shape) > 1:
        logits = logits.transpose(0, 1).contiguous().transpose(0, 1)
    return (logits, target), kwargs


@settings(max_examples=150, deadline=None)
@given(class_cases())
def test_cross_entropy_over_all_arguments(case: Any) -> None:
    args, kwargs = case
    compare(F.cross_entropy, TF.cross_entropy, args, kwargs)
    if args[0].numel():
        compare_gradients(F.cross_entropy, TF.cross_entropy, args, kwargs)
    if not is_floating(args[1]):
        kwargs = {k: v for k, v in kwargs.items() if k != "label_smoothing"}
        args = (TF.log_softmax(args[0].double(), 0 if args[0].ndim == 1 else 1).to(args[0].dtype), args[1])
        compare(F.nll_loss, TF.nll_loss, args, kwargs)
        if args[0].numel():
            compare_gradients(F.nll_loss, TF.nll_loss, args, kwargs)


@pytest.mark.parametrize("classes", [129, 300])
def test_columns_of_which_some_are_ignored(classes: int) -> None:
    """Tiles of more classes than can be staged are made of neighbouring rows only."""
    logits = seeded(classes, 200, dtype=torch.float32).T
    labels = torch.arange(200) % classes
    labels[::3] = -100
    for keywords in ({}, {"label_smoothing": 0.1}):
        compare(F.cross_entropy, TF.cross_entropy, (logits, labels), keywords)
        compare_gradients(F.cross_entropy, TF.cross_entropy, (logits, labels), keywords)
    rows = labels.numpy() >= 0
    got = kb.entropy(logits.numpy(), given="logits", rows=rows)
    np.testing.assert_array_equal(got[rows], kb.entropy(logits.numpy().copy(), given="logits")[rows])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_of_an_infinite_loss_is_finite(dtype: Any) -> None:
    logits = torch.tensor([[-torch.inf, 0.0, 1.0], [-1e300, 2.0, 1.0]], dtype=dtype)
    labels = torch.tensor([0, 0])
    assert F.cross_entropy(logits, labels, reduction="none")[0].isinf()
    for keywords in ({}, {"reduction": "sum"}, {"label_smoothing": 0.1}):
        compare_gradients(F.cross_entropy, TF.cross_entropy, (logits, labels), keywords)
    x = logits.clone().requires_grad_()
    (grad,) = torch.autograd.grad(kb.nll(x, labels, given="logits").sum(), x)
    torch.testing.assert_close(grad, logits.softmax(1) - torch.eye(3, dtype=dtype)[labels])


def test_a_weight_in_double_precision_makes_the_loss_double() -> None:
    x, t, w = seeded(3, 5, dtype=torch.float32), seeded(5, 3).T.exp().float(), seeded(5).exp()
    exact = TF.cross_entropy(x.double(), t.double(), w, reduction="none")
    torch.testing.assert_close(F.cross_entropy(x, t, w, reduction="none"), exact, rtol=1e-14, atol=0)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_gradient_by_a_binary_target_at_infinite_logits(weighted: bool) -> None:
    kwargs = {"pos_weight": torch.tensor([2.0, 0.5, 1.0]), "reduction": "none"} if weighted else {"reduction": "none"}
    x, found = torch.tensor([-torch.inf, torch.inf, 1e-30]), []
    for function in (F.binary_cross_entropy_with_logits, TF.binary_cross_entropy_with_logits):
        t = torch.full((3,), 0.5, requires_grad=True)
        found.append(torch.autograd.grad(function(x, t, **kwargs), t, torch.ones(3))[0])
    # Of p = 1 it is -x: torch's is a difference of logarithms.
    torch.testing.assert_close(found[0], torch.where(x == 1e-30, -x, found[1]), rtol=1e-6, atol=0)


SHAPES = [(), (1,), (7,), (2049,), (5000,), (4, 1), (3, 5), (17, 10), (2, 3, 4), (3, 130), (0,), (0, 3), (3, 0)]


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(SHAPES),
    st.sampled_from(DTYPES),
    st.sampled_from(["none", "sum", "mean"]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(0, 1 << 30),
)
def test_binary_cross_entropies_over_all_arguments(
    shape: tuple[int, ...], dtype: Any, reduction: str, weighted: bool, positive: bool, logits: bool, seed: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    x = 4 * torch.randn(shape, generator=rng) if logits else torch.rand(shape, generator=rng)
    x, t = x.to(dtype), torch.rand(shape, generator=rng).round(decimals=1).to(dtype)
    kwargs: dict[str, Any] = {"reduction": reduction}
    if weighted:
        kwargs["weight"] = torch.rand(shape[-1:], generator=rng).to(dtype)
    name = "binary_cross_entropy"
    if logits:
        name += "_with_logits"
        if positive:
            kwargs["pos_weight"] = 3 * torch.rand(shape[-1:], generator=rng).to(dtype)
    ours, theirs = FUNCTIONS["nn.functional." + name]
    compare(ours, theirs, (x, t), kwargs)
    if not logits:
        # The gradient of a logarithm near its pole is as exact as the number near the pole.
        x = x.clamp(0.05, 0.95)
    if x.numel():
        compare_gradients(ours, theirs, (x, t), kwargs)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(
        [*((s, s) for s in SHAPES), ((3, 5), (5,)), ((5,), (3, 5)), ((3, 1), (3, 5)), ((), (4,)), ((2, 1, 3), (4, 1))]
    ),
    st.sampled_from(DTYPES),
    st.sampled_from(DTYPES),
    st.sampled_from(["none", "sum", "mean", "batchmean"]),
    st.booleans(),
    st.integers(0, 1 << 30),
)
def test_kl_div_over_all_arguments(
    shapes: Any, one: Any, other: Any, reduction: str, log_target: bool, seed: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    x = -3 * torch.rand(shapes[0], generator=rng)
    t = torch.rand(shapes[1], generator=rng) + 0.01
    args = (x.to(one), (t.log() if log_target else t).to(other))
    kwargs = {"reduction": reduction, "log_target": log_target}
    compare(F.kl_div, TF.kl_div, args, kwargs)
    if x.numel() and t.numel():
        compare_gradients(F.kl_div, TF.kl_div, args, kwargs)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([(1,), (7,), (5, 3), (3, 65), (40, 10), (2, 3, 4), (2, 300), (4, 2049), (2, 5, 3, 2)]),
    st.sampled_from(DTYPES),
    st.sampled_from(["softmax", "log_softmax", "nn.functional.softmin", "logsumexp"]),
    st.data(),
)
def test_softmaxes_over_all_arguments(shape: tuple[int, ...], dtype: Any, name: str, data: Any) -> None:
    rng = torch.Generator().manual_seed(data.draw(st.integers(0, 1 << 30)))
    x = (3 * torch.randn(shape, generator=rng)).to(dtype)
    if data.draw(st.booleans()):
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    kwargs: dict[str, Any] = {}
    if name == "logsumexp":
        axes = st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True)
        kwargs = {"dim": data.draw(axes), "keepdim": data.draw(st.booleans())}
    else:
        kwargs["dim"] = data.draw(st.integers(-len(shape), len(shape) - 1))
        if data.draw(st.booleans()):
            kwargs["dtype"] = torch.promote_types(dtype, data.draw(st.sampled_from(DTYPES)))
    ours, theirs = FUNCTIONS[name]
    compare(ours, theirs, (x,), kwargs)
    compare_gradients(ours, theirs, (x,), kwargs)


# --------------------------------------------------------------------------------------------------------------- errors

LONG = torch.long
X, T = torch.ones(2, 3), torch.tensor([0, 1])
HALF = torch.full((2, 3), 0.5)
WRONG: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {}
for _name in ("cross_entropy", "nll_loss"):
    for _i, _case in enumerate(
        [
            ((X, torch.tensor([0, 1, 2])), {}),
            ((torch.ones(2, 3, 4), torch.zeros(2, 5, dtype=LONG)), {}),
            ((torch.ones(3), torch.tensor([0, 1])), {}),
            ((X, torch.tensor(0)), {}),
            ((torch.ones(2, 3, 4, 5), torch.zeros(2, 4, 6, dtype=LONG)), {}),
            ((torch.ones(2, 3, 4, 5, 2), torch.zeros(2, 4, 5, dtype=LONG)), {}),
            ((torch.ones(2, 3, 4, 5), torch.zeros(3, 4, 5, dtype=LONG)), {}),
            ((X, torch.tensor([0.0, 1.0])), {}),
            ((X, torch.tensor([True, False])), {}),
            ((X, T.int()), {}),
            ((X.long(), T), {}),
            ((X, torch.tensor([0, 3])), {}),
            ((X, torch.tensor([0, -1])), {"reduction": "none"}),
            ((X, T, torch.ones(2)), {}),
            ((X, T, torch.ones(1, 3)), {}),
            ((X, T, torch.ones(3).double()), {}),
            ((X, T), {"reduction": "batchmean"}),
            ((X, T), {"reduction": None}),
            ((torch.ones(2, 0), T), {}),
            ((torch.ones(2, 3, 4), torch.zeros(2, 4, dtype=LONG), torch.ones(2)), {}),
            ((torch.ones(2, 3, 4, 5), torch.zeros(2, 4, 5, dtype=LONG), torch.ones(3).double()), {}),
            ((torch.ones(2, 3, 4).long(), torch.zeros(2, 4, dtype=LONG)), {}),
            ((torch.ones(3), torch.ones(2)), {}),
        ]
    ):
        WRONG[f"{_name} {_i}"] = (f"nn.functional.{_name}", *_case)
for _i, _case in enumerate(
    [
        ((X, T), {"label_smoothing": 1.5}),
        ((X, torch.zeros(2, 3, dtype=LONG)), {}),
        ((X, X), {"ignore_index": 1}),
        ((X, X, torch.ones(2)), {}),
        ((torch.tensor(1.0), torch.tensor(1.0)), {}),
        ((torch.tensor(1.0), torch.tensor(0)), {}),
        ((torch.ones(1), torch.zeros(1, dtype=LONG)), {}),
        ((torch.tensor(1.0), torch.tensor([0])), {}),
        ((X.long(), torch.tensor([0, 1, 2])), {}),
        ((torch.ones(2, 3, 4).int(), torch.ones(2, 3, 4)), {}),
        ((X, torch.ones(2, 4)), {"label_smoothing": 1.5}),
    ]
):
    WRONG[f"cross_entropy probabilities {_i}"] = ("nn.functional.cross_entropy", *_case)
for _name in ("binary_cross_entropy", "binary_cross_entropy_with_logits"):
    for _i, _case in enumerate(
        [
            ((HALF, HALF[:1]), {}),
            ((HALF, torch.ones(3)), {}),
            ((HALF, HALF.long()), {}),
            ((HALF, HALF, torch.ones(4, 2, 3)), {}),
            ((HALF, HALF), {"reduction": "batchmean"}),
            ((HALF.long(), HALF.long()), {}),
            ((HALF, HALF, torch.ones(5)), {}),
            ((HALF, HALF, torch.ones(2, 5, 2)), {}),
            ((HALF, HALF, torch.ones(5, 2, 4, 3)), {}),
        ]
    ):
        WRONG[f"{_name} {_i}"] = (f"nn.functional.{_name}", *_case)
for _i, _args in enumerate(
    [(HALF + 1, HALF), (HALF, HALF - 1), (HALF * torch.nan, HALF), (HALF, HALF * torch.nan), (HALF + 1, HALF + 1)]
):
    for _reduction in ("none", "mean"):
        WRONG[f"outside {_i} {_reduction}"] = ("nn.functional.binary_cross_entropy", _args, {"reduction": _reduction})
for _i, _case in enumerate(
    [
        ((X.long(), X), {}),
        ((X, X.bool()), {}),
        ((X, torch.ones(2, 2)), {}),
        ((X, X), {"reduction": "foo"}),
        ((X, torch.ones(3, 4)), {}),
    ]
):
    WRONG[f"kl_div {_i}"] = ("nn.functional.kl_div", *_case)
for _name in ("softmax", "log_softmax", "nn.functional.softmin"):
    for _i, _case in enumerate(
        [
            ((X.long(),), {"dim": 1}),
            ((X,), {"dim": 2}),
            ((torch.tensor(1.0),), {"dim": 1}),
            ((X.long(),), {"dim": 0}),
            ((X.long(),), {"dim": 2}),
            ((X,), {"dim": -1, "dtype": LONG}),
        ]
    ):
        WRONG[f"{_name} {_i}"] = (_name, *_case)
WRONG["softmin of booleans"] = ("nn.functional.softmin", (X.bool(),), {"dim": 1, "dtype": torch.float32})
for _i, _case in enumerate([((X, (0, 0)), {}), ((X, 2), {}), ((X, ()), {}), ((torch.ones(3), []), {})]):
    WRONG[f"logsumexp {_i}"] = ("logsumexp", *_case)


OLDEST = torch.__version__.startswith("2.4.")
OLDER = (
    ("expected target dtype to be Long or Byte, but got", "expected scalar type Long but found"),
    ("For 1D input, 1D target must have size 1", "size mismatch (got input: [3], target: [2])"),
    ("expected target dtype to be Long or Byte, but got", "size mismatch (got input: [3], target: [2])"),
    ('"log_softmax_kernel_impl" not implemented', '"softmax_kernel_impl" not implemented'),
    ("Attempting to broadcast a dimension of length", "The size of tensor a"),
)
"""How errors begin whose words are others in torch 2.4: ours, which are the newest release's, and those of 2.4."""


@pytest.mark.parametrize("case", WRONG)
def test_errors_are_torchs(case: str) -> None:
    name, args, kwargs = WRONG[case]
    ours, theirs = FUNCTIONS[name]
    expected, error = outcome(theirs, args, kwargs)
    assert error is not None, expected
    _, got = outcome(ours, args, kwargs)
    if OLDEST and any(str(got).startswith(new) and str(error).startswith(old) for new, old in OLDER):
        return
    compare(ours, theirs, args, kwargs)


def test_logsumexp_along_no_axis_is_along_all() -> None:
    x = seeded(2, 3)
    for args, kwargs in (((x, ()), {"keepdim": True}), ((x[:, :0], []), {}), ((torch.tensor(2.0), ()), {})):
        compare(F.logsumexp, torch.logsumexp, args, kwargs)
        compare_gradients(F.logsumexp, torch.logsumexp, args, kwargs)


def test_arguments_without_a_gradient() -> None:
    w = torch.ones(3, requires_grad=True)
    deep, labels = torch.ones(2, 3, 4), torch.zeros(2, 4, dtype=LONG)
    for name, args in (
        ("cross_entropy", (deep, labels, w)),
        ("nll_loss", (deep, labels, w)),
        ("cross_entropy", (X, T, w)),
        ("nll_loss", (X, T, w)),
        ("binary_cross_entropy", (HALF, HALF, w)),
        ("binary_cross_entropy_with_logits", (HALF, HALF, w)),
    ):
        with pytest.raises(RuntimeError) as expected:
            getattr(TF, name)(*args)
        with pytest.raises(RuntimeError) as caught:
            getattr(F, name)(*args)
        assert str(caught.value) == str(expected.value)


# --------------------------------------------------------------------------------------------------------------- graphs


def seeded(*shape: int, dtype: Any = torch.float64) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(dtype)


LEAVES: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "softmax": (lambda x: F.softmax(x, 1), (seeded(4, 5),)),
    "log_softmax": (lambda x: F.log_softmax(x, 0), (seeded(4, 5),)),
    "softmin": (lambda x: F.softmin(x, 1), (seeded(4, 5),)),
    "logsumexp": (lambda x: F.logsumexp(x, (0, 2)), (seeded(2, 3, 4),)),
    "kl_div": (lambda x, t: F.kl_div(x, t, reduction="batchmean"), (seeded(4, 5), seeded(4, 5).exp())),
    "kl_div of logs": (lambda x, t: F.kl_div(x, t, reduction="none", log_target=True), (seeded(4, 5), seeded(5))),
    "cross_entropy": (lambda x: F.cross_entropy(x, torch.arange(4), label_smoothing=0.1), (seeded(4, 5),)),
    "cross_entropy none": (
        lambda x: F.cross_entropy(x, torch.ones(4, 2, dtype=LONG), reduction="none"),
        (seeded(4, 5, 2),),
    ),
    "cross_entropy soft": (
        lambda x, t, w: F.cross_entropy(x, t, w, label_smoothing=0.2),
        (seeded(4, 5), seeded(4, 5).exp(), seeded(5).exp()),
    ),
    "nll_loss": (lambda x: F.nll_loss(x, torch.arange(4)), (seeded(4, 5),)),
    "binary": (lambda x, t: F.binary_cross_entropy(x, t), (seeded(4, 5).sigmoid(), seeded(5, 4).T.sigmoid())),
    "binary with logits": (
        lambda x, t: F.binary_cross_entropy_with_logits(x, t, pos_weight=torch.full((5,), 2.0).double()),
        (seeded(4, 5), seeded(5, 4).T.sigmoid()),
    ),
}


@pytest.mark.parametrize("name", LEAVES)
def test_gradcheck(name: str) -> None:
    function, tensors = LEAVES[name]
    leaves = tuple(x.clone().requires_grad_() for x in tensors)
    assert torch.autograd.gradcheck(function, leaves, check_undefined_grad=False)


class Tagged(torch.Tensor):
    """A tensor of another class."""


@pytest.mark.parametrize("kind", [torch.Tensor, Tagged])
@pytest.mark.parametrize("name", LEAVES)
def test_a_second_derivative_is_an_error(name: str, kind: Any) -> None:
    """Also where the gradient of the loss is a constant, and where something else has a second derivative."""
    function, tensors = LEAVES[name]
    leaves = tuple(x.clone().requires_grad_() for x in tensors)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    loss = function(*((x * scale).as_subclass(kind) for x in leaves)).sum()
    (grad, *_) = torch.autograd.grad(loss, leaves, create_graph=True)
    with pytest.raises(RuntimeError, match="kullback's losses have no second derivative"):
        torch.autograd.grad(grad.square().sum() + scale, scale)


@pytest.mark.parametrize("space", ["logits", "probs"])
def test_a_second_derivative_of_a_quantity_is_an_error(space: str) -> None:
    x = TF.softmax(seeded(4, 5), 1)
    with pytest.raises(RuntimeError, match="kullback's losses have no second derivative"):
        torch.autograd.functional.hessian(lambda x: kb.entropy(x, given=space, reduction="sum"), x)


@pytest.mark.parametrize("name", LEAVES)
def test_under_no_grad_there_is_no_graph(name: str) -> None:
    function, tensors = LEAVES[name]
    leaves = tuple(x.clone().requires_grad_() for x in tensors)
    with torch.no_grad():
        result = function(*leaves)
    assert not result.requires_grad
    assert torch.equal(result, function(*leaves).detach())


@pytest.mark.parametrize("name", LEAVES)
def test_torch_func(name: str) -> None:
    function, tensors = LEAVES[name]
    got = torch.func.grad(lambda *xs: function(*xs).sum(), argnums=tuple(range(len(tensors))))(*tensors)
    leaves = tuple(x.clone().requires_grad_() for x in tensors)
    expected = torch.autograd.grad(function(*leaves).sum(), leaves)
    for g, e in zip(got, expected, strict=True):
        torch.testing.assert_close(g, e)
    batch = tuple(torch.stack([x, x * 0.9]) for x in tensors)
    mapped_over = torch.func.vmap(function)(*batch)
    torch.testing.assert_close(mapped_over[0], function(*tensors))
    assert mapped_over.shape[0] == 2
    each = torch.func.vmap(torch.func.grad(lambda *xs: function(*xs).sum()))(*batch)
    torch.testing.assert_close(each[0], expected[0])


@pytest.mark.parametrize("name", LEAVES)
def test_torch_compile_sees_one_graph(name: str) -> None:
    function, tensors = LEAVES[name]
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    leaves, same = (tuple(x.clone().requires_grad_() for x in tensors) for _ in range(2))
    got, expected = compiled(*leaves), function(*same)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    for g, e in zip(torch.autograd.grad(got.sum(), leaves), torch.autograd.grad(expected.sum(), same), strict=True):
        torch.testing.assert_close(g, e, rtol=0, atol=0)


def test_one_graph_serves_every_shape() -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    def loss(x: Any, y: Any) -> Any:
        soft = F.kl_div(F.log_softmax(x, 1), F.softmax(x.detach() * 0.5, 1), reduction="batchmean")
        binary = F.binary_cross_entropy_with_logits(x, F.softmax(x.detach(), 1))
        return F.cross_entropy(x, y, label_smoothing=0.1) + soft + binary + F.logsumexp(x, 1).mean()

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend=counter)
    # The first tensor outside of a graph loads what is for tensors, which graphs made before do not know.
    F.softmax(seeded(1), 0)
    for n, c in ((4, 5), (9, 3), (17, 40), (2, 7)):
        x, y = seeded(n, c, dtype=torch.float32), torch.arange(n) % c
        got, expected = (x.clone().requires_grad_() for _ in range(2))
        value = compiled(got, y)
        assert torch.equal(value, loss(expected, y))
        torch.testing.assert_close(
            torch.autograd.grad(value, got)[0], torch.autograd.grad(loss(expected, y), expected)[0], rtol=0, atol=0
        )
    assert counter.frame_count == 1


def compiles() -> bool:
    """Whether there is a C++ compiler, which inductor needs."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++", "cl"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not compiles(), reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("library", ["torch", "kullback"])
def test_a_compiled_training_is_that_of_torch(library: str) -> None:
    from kullback import nn

    torch._dynamo.reset()
    losses = nn if library == "kullback" else torch.nn
    x, y = seeded(64, 12, dtype=torch.float32), torch.arange(64) % 5
    teacher = TF.softmax(seeded(64, 5, dtype=torch.float32), 1)
    hard, soft = losses.CrossEntropyLoss(label_smoothing=0.1), losses.KLDivLoss(reduction="batchmean")  # type: ignore[attr-defined]
    normal = losses.LogSoftmax(1)  # type: ignore[attr-defined]

    def curve(wrap: Callable[..., Any], hard: Any, soft: Any, normal: Any) -> list[float]:
        torch.manual_seed(0)
        model = torch.nn.Linear(12, 5)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)

        def step(x: Any, y: Any, teacher: Any) -> Any:
            logits = model(x)
            return hard(logits, y) + soft(normal(logits), teacher)

        step = wrap(step)
        values = []
        for i in range(12):
            part = slice(0, 64 - i)
            optimizer.zero_grad()
            value = step(x[part], y[part], teacher[part])
            value.backward()
            optimizer.step()
            values.append(float(value.detach()))
        return values

    eager = curve(
        lambda f: f,
        torch.nn.CrossEntropyLoss(label_smoothing=0.1),
        torch.nn.KLDivLoss(reduction="batchmean"),
        torch.nn.LogSoftmax(1),
    )
    compiled = curve(lambda f: torch.compile(f, fullgraph=True), hard, soft, normal)
    np.testing.assert_allclose(compiled, eager, rtol=2e-6)
    assert compiled[-1] < compiled[0] - 0.1


def calls_of_operators() -> dict[str, tuple[Any, ...]]:
    """Give arguments of every operator that is registered."""
    x, t = seeded(3, 4).requires_grad_(), (seeded(3, 4).sigmoid() * 0.8 + 0.1).requires_grad_()
    y, w = torch.tensor([0, 3, -100]), torch.rand(4).double() + 0.5
    # A row that does not count gives NaN, which opcheck holds to differ from itself.
    g, rows = seeded(3), torch.ones(3, dtype=torch.bool)
    plain = lambda *args: tuple(a.detach() if isinstance(a, torch.Tensor) else a for a in args)
    quantity = (None, None, rows, "kl_divergence", None, ["logits", "probs"], -1, True, 2.0, [1.5, 1.0], "none")
    probs = TF.softmax(seeded(3, 4), 1).detach().requires_grad_()
    return {
        "softmax": (x, "softmax", 1),
        "softmax_backward": plain(x, TF.softmax(x, 1), x, "softmax", 1, [True]),
        "logsumexp": (x, [0, 1], False),
        "logsumexp_backward": plain(g[0], x.logsumexp((0, 1)), x, [0, 1], False, [True]),
        "kl_div": (x, t, "batchmean", False),
        "kl_div_backward": plain(g[0], None, x, t, "batchmean", False, [True, True]),
        "binary_cross_entropy": (t, t.detach(), None, None, "mean", False),
        "binary_cross_entropy_backward": plain(g[0], None, t, t, w, None, "mean", False, [True, True, False, False]),
        "binary_cross_entropy_with_logits": (x, t, w, w + 1, "none", True),
        "binary_cross_entropy_with_logits_backward": plain(
            x, None, x, t, w, w, "none", True, [True, False, False, False]
        ),
        "cross_entropy": (x, y, w, -100, "mean", 0.1),
        "cross_entropy_backward": plain(
            g[0],
            torch.ops.kullback.cross_entropy(x, y, w, -100, "mean", 0.1)[1],
            x,
            y,
            w,
            -100,
            "mean",
            0.1,
            [True, False, False],
        ),
        "nll_loss": (x, y, w, -100, "none"),
        "nll_loss_backward": plain(
            g, torch.ops.kullback.nll_loss(x, y, w, -100, "none")[1], x, y, w, -100, "none", [True, False, False]
        ),
        "quantity": (x, probs, *quantity, "raise", None),
        "quantity_backward": plain(
            seeded(3, 1),
            torch.ops.kullback.quantity(x, probs, *quantity, "raise", None)[1],
            x,
            probs,
            *quantity,
            "raise",
            None,
            [True, True, False, False, False],
        ),
    }


@pytest.mark.parametrize(
    "call",
    [
        lambda library, x: library.kl_div(x, x.exp()),
        lambda library, x: library.cross_entropy(x, x.exp(), size_average=False),
        lambda library, x: library.log_softmax(x),
    ],
    ids=["mean of kl_div", "deprecated flags", "no dim"],
)
def test_a_warning_does_not_break_the_graph(call: Callable[[Any, Any], Any]) -> None:
    x = seeded(3, 4)
    with pytest.warns(UserWarning) as theirs:
        expected = call(TF, x)
    with pytest.warns(UserWarning) as ours:
        got = torch.compile(lambda x: call(F, x), fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(got, expected)
    assert {str(w.message) for w in ours} == {str(w.message) for w in theirs}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_forward_mode_is_an_error() -> None:
    x = seeded(2, 3)
    for function in (lambda x: F.softmax(x, 1), lambda x: kb.entropy(x, given="logits")):
        with pytest.raises(NotImplementedError, match="jvp"):
            torch.func.jvp(function, (x,), (x,))
        with torch.autograd.forward_ad.dual_level():
            function(x)
            with pytest.raises(NotImplementedError, match="jvp"):
                function(torch.autograd.forward_ad.make_dual(x, x))


# What opcheck traces with are copies that are no leaves, whose gradients it looks at.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_opcheck_on_every_operator() -> None:
    import kullback._torch

    calls = calls_of_operators()
    defined = {
        name
        for op in (*kullback._torch.Operator.__subclasses__(), kullback._torch.BinaryCrossEntropyWithLogits)
        for name in (op.name, op.name + "_backward")
    }
    assert set(calls) == defined
    for name, args in calls.items():
        operator = getattr(torch.ops.kullback, name).default
        assert set(torch.library.opcheck(operator, args).values()) == {"SUCCESS"}, name
    x, soft = calls["softmax"][0], TF.softmax(seeded(3, 4), 1).detach().requires_grad_()
    for args in (
        (x, soft, None, -100, "none", 0.0),
        (x, soft, seeded(4).exp().detach().requires_grad_(), -100, "mean", 0.1),
    ):
        torch.library.opcheck(torch.ops.kullback.cross_entropy.default, args)
    for reduction in ("none", "sum"):
        for axis in (0, 1, 2, -2):
            args = (seeded(3, 4, 2), None, None, None, None, "entropy", None, ["logits"], axis, reduction == "none")
            torch.library.opcheck(
                torch.ops.kullback.quantity.default,
                (args[0].requires_grad_(), *args[1:], None, [2.0], reduction, "raise", 1),
            )
            one = (seeded(3, 4, 2)[0, 0], None, None, None, "js_distance", None, ["logits"], axis, reduction == "none")
            torch.library.opcheck(
                torch.ops.kullback.quantity.default,
                (seeded(2, 2, 2), one[0].requires_grad_(), *one[1:], None, [1.0], reduction, "raise", None),
            )


def test_tensors_of_other_classes_stay_what_they_are() -> None:
    x, y = seeded(4, 5), torch.arange(4)
    for ours, theirs in (
        (lambda v: F.softmax(v, 1), lambda v: TF.softmax(v, 1)),
        (lambda v: F.cross_entropy(v, y), lambda v: TF.cross_entropy(v, y)),
        (lambda v: F.kl_div(v, x.exp(), reduction="sum"), lambda v: TF.kl_div(v, x.exp(), reduction="sum")),
        (lambda v: kb.entropy(v, given="logits", reduction="sum"), lambda v: (-v.softmax(1) * v.log_softmax(1)).sum()),
    ):
        leaf, same = (x.clone().requires_grad_() for _ in range(2))
        got, expected = ours(leaf.as_subclass(Tagged)), theirs(same.as_subclass(Tagged))
        assert type(got) is type(expected) is Tagged
        torch.testing.assert_close(got, expected)
        got.sum().backward()
        expected.sum().backward()
        torch.testing.assert_close(leaf.grad, same.grad)
        parameter = torch.nn.Parameter(x)
        assert type(ours(parameter)) is torch.Tensor and ours(parameter).requires_grad


def test_fake_tensors_have_shapes_and_dtypes() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x = torch.empty(7, 5, dtype=torch.bfloat16, requires_grad=True)
        y = torch.empty(7, dtype=torch.long)
        assert F.cross_entropy(x, y, reduction="none").shape == (7,)
        assert F.softmax(x, 1).dtype == torch.bfloat16
        found = kb.js_distance(x, x[0], given="logits", keepdims=True)
        assert found.shape == (7, 1) and found.dtype == torch.float32 and found.requires_grad
        F.cross_entropy(x, y).backward()
        assert x.grad is not None and x.grad.shape == x.shape and x.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("compiled", [False, True])
def test_autocast_has_torchs_dtypes(dtype: Any, compiled: bool) -> None:
    x, y = seeded(6, 5, dtype=torch.float32), torch.arange(6) % 5
    t = seeded(6, 5, dtype=torch.float32).sigmoid()

    def losses(library: Any, logsumexp: Any, x: Any, t: Any) -> list[Any]:
        h, p = x.to(dtype), t.to(dtype)
        return [
            library.cross_entropy(h, y),
            library.cross_entropy(h, p, label_smoothing=0.1),
            library.nll_loss(h, y),
            library.kl_div(h, p, reduction="sum"),
            library.binary_cross_entropy(p, p),
            library.binary_cross_entropy_with_logits(h, p),
            library.softmax(h, 1),
            library.log_softmax(h, 1),
            logsumexp(h, 1),
        ]

    def ours(x: Any, t: Any) -> list[Any]:
        return losses(F, F.logsumexp, x, t)

    torch._dynamo.reset()
    if compiled:
        ours = torch.compile(ours, fullgraph=True, backend="aot_eager")
    leaf, same = (x.clone().requires_grad_() for _ in range(2))
    with torch.autocast("cpu", dtype=dtype):
        got, expected = ours(leaf, t), losses(TF, torch.logsumexp, same, t)
    for g, e in zip(got, expected, strict=True):
        assert g.dtype == e.dtype
        torch.testing.assert_close(g, e, rtol=4 * EPS[g.dtype], atol=4 * EPS[g.dtype])
    sum(g.sum() for g in got).backward()
    sum(e.sum() for e in expected).backward()
    torch.testing.assert_close(leaf.grad, same.grad, rtol=0.02, atol=0.02)


def test_lazily_negated_tensors() -> None:
    x = torch.randn(4, 5, dtype=torch.complex128, generator=torch.Generator().manual_seed(0)).conj().imag
    y = torch.arange(4)
    assert x.is_neg()
    torch.testing.assert_close(F.cross_entropy(x, y), TF.cross_entropy(x, y))
    torch.testing.assert_close(F.softmax(x, 0), TF.softmax(x, 0))
    torch.testing.assert_close(kb.entropy(x, given="logits"), kb.entropy(x.resolve_neg(), given="logits"))
    leaf = seeded(4, 5).requires_grad_()
    F.cross_entropy(torch._neg_view(leaf), y).backward()
    same = leaf.detach().clone().requires_grad_()
    TF.cross_entropy(-same, y).backward()
    torch.testing.assert_close(leaf.grad, same.grad)
    with pytest.raises(TypeError, match="out is a lazily negated tensor"):
        kb.entropy(x, given="logits", out=torch._neg_view(torch.empty(4, dtype=torch.float64)))


def test_tensors_of_inference_mode() -> None:
    with torch.inference_mode():
        x = seeded(4, 5)
        weight = torch.nn.Parameter(seeded(5))
        assert F.cross_entropy(x * weight, torch.arange(4)).is_inference()
        assert not kb.entropy(x * weight, given="logits").requires_grad
    assert not F.softmax(x, 1).requires_grad
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        F.kl_div(x, seeded(4, 5).requires_grad_(), reduction="sum")


def test_hooks_see_the_gradients() -> None:
    from kullback import nn

    seen: list[Any] = []
    x = seeded(4, 5).requires_grad_()
    inner = x * 1
    inner.register_hook(seen.append)
    module = nn.CrossEntropyLoss()
    module.register_forward_hook(lambda *args: seen.append(args[2].detach()))
    module.register_full_backward_hook(lambda *args: seen.append(args[1][0]))
    value = module(inner, torch.arange(4))
    value.backward()
    assert len(seen) == 3 and torch.equal(seen[0], value.detach())
    assert torch.equal(seen[1], x.grad) and torch.equal(seen[2], x.grad)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(7, 5), (40, 130), (3, 5, 2, 2), (5,)], ids=str)
def test_the_gradient_of_the_forward_pass(shape: Any, dtype: Any, reduction: str) -> None:
    """It is there once, whatever comes from above; then the logits are read again."""
    x = (3 * seeded(*shape)).to(dtype)
    x = x.transpose(0, -1).contiguous().transpose(0, -1).requires_grad_()
    classes = shape[min(len(shape) - 1, 1)]
    rows = (*shape[:1], *shape[2:]) if len(shape) > 1 else ()
    labels = torch.randint(0, classes, rows, generator=torch.Generator().manual_seed(0))
    options = {"weight": seeded(classes).exp().to(dtype), "ignore_index": 1, "reduction": reduction}
    if not rows:
        labels, options["ignore_index"] = labels * 0, -100
    wide = x.detach().double().requires_grad_()
    right = torch.autograd.grad(
        TF.cross_entropy(wide, labels, **{**options, "weight": options["weight"].double()}), wide
    )[0]
    # torch's own error in double precision is 1e-13 of an element.
    rtol, atol = max(4 * torch.finfo(dtype).eps, 1e-13), torch.finfo(dtype).smallest_normal
    for first in (1.0, 0.3, 4.0):
        loss = F.cross_entropy(x, labels, **options)
        for g in (first, 1.0, 0.3):
            (found,) = torch.autograd.grad(loss, x, torch.tensor(g, dtype=dtype), retain_graph=True)
            assert found.dtype == dtype and found.shape == x.shape
            g = float(torch.tensor(g, dtype=dtype))
            torch.testing.assert_close(found.double(), g * right, rtol=rtol, atol=atol)


def test_hooks_for_saved_tensors_see_all_that_is_kept() -> None:
    """Under checkpoints and the like nothing of the input's size is alive between the passes but what they save."""
    x, labels = seeded(40, 30).requires_grad_(), torch.arange(40) % 30
    with torch.autograd.graph.save_on_cpu():
        loss = F.cross_entropy(x, labels)
    if hasattr(torch._C._autograd, "_top_saved_tensors_default_hooks"):
        assert loss.grad_fn.ahead is None
    right = torch.autograd.grad(TF.cross_entropy(x, labels), x)[0]
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], right, rtol=1e-13, atol=1e-16)


def test_an_infinite_gradient_from_above_leaves_ignored_rows_at_0() -> None:
    x, labels = seeded(20, 10).requires_grad_(), torch.arange(20) % 10
    labels[::3] = -100
    found, right = (torch.autograd.grad(f.cross_entropy(x, labels) * math.inf, x)[0] for f in (F, TF))
    # torch's is NaN at the labels, for p − 1 of a difference of infinities.
    assert torch.equal(found[::3], right[::3]) and not found.isnan().any()
    assert torch.equal(found[~right.isnan()], right[~right.isnan()])


@pytest.mark.parametrize("offset", [0.0, 37.3, 1e3, 3e4])
@pytest.mark.parametrize("name", ["kl_divergence", "js_divergence", "cross_entropy"])
def test_gradients_of_rows_a_common_offset_apart(name: str, offset: float) -> None:
    a, b = seeded(64, 10).float(), (seeded(64, 10) + seeded(10, 64).T + offset).float()
    leaves = [x.requires_grad_() for x in (a, b)]
    wide = [x.detach().double().requires_grad_() for x in (a, b)]
    function = getattr(kb, name)
    found, right = (torch.autograd.grad(function(*x, given="logits").sum(), x) for x in (leaves, wide))
    for f, r in zip(found, right, strict=True):
        assert (f - r).abs().max() <= 1e-6 * r.abs().max()


def test_a_gradient_of_a_gradient_that_does_not_use_it() -> None:
    """Under ``create_graph`` a first derivative is as good as ever."""
    x = seeded(4, 5).requires_grad_()
    (grad,) = torch.autograd.grad(F.cross_entropy(x, torch.arange(4)) + (x**3).sum(), x, create_graph=True)
    assert grad.requires_grad
    plain = torch.autograd.grad(F.cross_entropy(x, torch.arange(4)) + (x**3).sum(), x)[0]
    # One is of the forward pass, the other of a second reading.
    torch.testing.assert_close(grad.detach(), plain, rtol=4e-16, atol=0)


@pytest.mark.parametrize("flags", [(a, b) for a in (None, True, False) for b in (None, True, False)], ids=str)
@pytest.mark.parametrize("name", [n for n in FUNCTIONS if "softm" not in n and n != "logsumexp"])
def test_deprecated_flags_warn_as_torch_does(name: str, flags: Any) -> None:
    args = {
        "nn.functional.cross_entropy": (seeded(2, 3), torch.tensor([0, 2])),
        "nn.functional.nll_loss": (seeded(2, 3), torch.tensor([0, 2])),
    }.get(name, (seeded(2, 3).sigmoid(), seeded(3, 2).T.sigmoid()))
    found = []
    for function in FUNCTIONS[name]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            value = function(*args, size_average=flags[0], reduce=flags[1])
        found.append((value, [(w.category, str(w.message)) for w in caught]))
        assert name == "nn.functional.kl_div" or len(caught) == (flags != (None, None))
        if function is FUNCTIONS[name][0]:
            assert all(w.filename == __file__ for w in caught)
    torch.testing.assert_close(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


@pytest.mark.parametrize("flags", [(True, None), (False, None), (None, False)], ids=str)
def test_flags_beside_batchmean_divide_by_the_batch_too(flags: Any) -> None:
    x, t = seeded(4, 3), 0.7 * seeded(4, 3).exp()
    kwargs = {"size_average": flags[0], "reduce": flags[1], "reduction": "batchmean"}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="size_average and reduce")
        for args in ((x, t), (x[0], t), (x[0, 0], t[0, 0])):
            expected = TF.kl_div(*args, **kwargs)
            torch.testing.assert_close(F.kl_div(*args, **kwargs), expected)
            np.testing.assert_allclose(F.kl_div(*(a.numpy() for a in args), **kwargs), expected, rtol=1e-14)
        compare_gradients(F.kl_div, TF.kl_div, (x, t), kwargs)


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's count of resident memory")
@pytest.mark.parametrize("loss", ["cross_entropy", "soft", "nll_loss", "kl_div", "binary", "kl_divergence"])
def test_a_loss_allocates_its_gradient_and_little_else(loss: str) -> None:
    """The peak of resident memory over a forward and a backward pass: what torch allocates and what we do."""
    script = f"""
import torch, kullback as kb, kullback.functional as F
def function(x, t, y):
    return {{
        "cross_entropy": lambda: F.cross_entropy(x, y, label_smoothing=0.1),
        "soft": lambda: F.cross_entropy(x, t),
        "nll_loss": lambda: F.nll_loss(x, y),
        "kl_div": lambda: F.kl_div(x, t, reduction="batchmean"),
        "binary": lambda: F.binary_cross_entropy_with_logits(x, t),
        "kl_divergence": lambda: kb.kl_divergence(t, x, given=("probs", "logits"), reduction="mean"),
    }}[{loss!r}]()
def kilobytes(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name + ":"))
def risen(call):
    open("/proc/self/clear_refs", "w").write("5")
    before = kilobytes("VmRSS")
    result = call()
    print((kilobytes("VmHWM") - before) / 1024)
    return result
def ready(rows):
    x, t = torch.rand(rows, 1024).requires_grad_(), torch.full((rows, 1024), 1 / 1024)
    return x, t, torch.zeros(rows, dtype=torch.long)
function(*ready(64)).backward()
args = ready(16384)
with torch.no_grad():
    risen(lambda: function(*args))
value = risen(lambda: function(*args))
risen(value.backward)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    direct, forward, backward = map(float, done.stdout.split())
    # The input takes 64 MB; 16384 doubles take an eighth of a megabyte.
    assert max(direct, forward) < 4 and 60 < backward < 68, (direct, forward, backward)


# ------------------------------------------------------------------------------------------------- information theory


def normalised(x: Any, space: str, axis: int = -1) -> tuple[Any, Any]:
    """Probabilities and log-probabilities of rows, by torch."""
    if space in ("probs", "counts"):
        p = x / x.sum(axis, keepdim=True)
        return p, p.log()
    log = TF.log_softmax(x, axis)
    return log.exp(), log


MEASURES: dict[str, Callable[..., Any]] = {
    "entropy": lambda p, lp: -(p * lp).sum(-1),
    "cross_entropy": lambda p, lp, q, lq: -(p * lq).sum(-1),
    "kl_divergence": lambda p, lp, q, lq: (p * (lp - lq)).sum(-1),
    "js_divergence": lambda p, lp, q, lq: (
        0.5 * (p * (lp - ((p + q) / 2).log()) + q * (lq - ((p + q) / 2).log())).sum(-1)
    ),
}


def rows_of(space: str, shape: tuple[int, ...], seed: int, dtype: Any = torch.float64) -> Any:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if space in ("probs", "counts"):
        x = x.exp()
        x = x / x.sum(-1, keepdim=True) if space == "probs" else 7 * x
    elif space == "log_probs":
        x = TF.log_softmax(x, -1)
    return x.to(dtype)


SPACES = ("probs", "counts", "log_probs", "logits")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("space", [*SPACES, ("probs", "logits"), ("logits", "counts")], ids=str)
@pytest.mark.parametrize("name", MEASURES)
def test_gradients_of_the_quantities(name: str, space: Any, reduction: str, dtype: Any) -> None:
    spaces = space if isinstance(space, tuple) else (space, space)
    count = 1 if name == "entropy" else 2
    if count == 1 and isinstance(space, tuple):
        pytest.skip("one row has one space")
    for shape, other in (((4, 7), (4, 7)), ((20, 130), (20, 130)), ((3, 2, 300), (2, 300)), ((5, 9), (9,))):
        shapes = (shape, other)
        rows = [rows_of(spaces[i], shapes[i], i, dtype).requires_grad_() for i in range(count)]
        function = getattr(kb, name)
        value = function(
            *rows, given=space, reduction=reduction, on_invalid="nan" if dtype == torch.bfloat16 else "raise"
        )
        weight = (
            torch.ones_like(value) if reduction != "none" else torch.arange(1, value.numel() + 1).reshape(value.shape)
        )
        weight = weight.to(value.dtype)
        got = torch.autograd.grad(value, rows, weight)
        exact_rows = [x.detach().double().requires_grad_() for x in rows]
        parts = [y for x, s in zip(exact_rows, spaces, strict=False) for y in normalised(x, s)]
        exact_value = MEASURES[name](*parts)
        exact_value = {"none": exact_value, "sum": exact_value.sum(), "mean": exact_value.mean()}[reduction]
        exact = torch.autograd.grad(exact_value, exact_rows, weight.double())
        for g, e, x in zip(got, exact, rows, strict=True):
            # The gradient of rows that are repeated is a sum of gradients that have its dtype.
            repeated = x.dtype == torch.bfloat16 and shape != other
            inside = (
                16 * EPS[torch.bfloat16]
                if repeated
                else 64 * EPS[torch.float64 if dtype == torch.float64 else torch.float32]
            )
            assert_close(g, e, x.dtype, float(e.abs().max()) + 1e-3, ulps=8.0, inside=inside)


@pytest.mark.parametrize("space", SPACES)
def test_the_gradient_of_nll(space: str) -> None:
    q = rows_of(space, (6, 5), 0).requires_grad_()
    labels = torch.tensor([0, 4, 2, -1, 1, 1])
    got = torch.autograd.grad(kb.nll(q, labels, given=space, ignore_index=-1, reduction="mean"), q)[0]
    exact_q = q.detach().clone().requires_grad_()
    log = normalised(exact_q, space)[1]
    exact = torch.autograd.grad(TF.nll_loss(log, labels, ignore_index=-1), exact_q)[0]
    assert_close(got, exact, torch.float64)
    assert torch.equal(got[3], torch.zeros(5, dtype=torch.float64))


def test_gradients_follow_the_options() -> None:
    x = rows_of("logits", (5, 6), 0).requires_grad_()
    y = rows_of("logits", (5, 6), 1).requires_grad_()
    where = torch.tensor([True, True, False, True, True, True])
    rows = torch.tensor([True, False, True, True, True])
    got = torch.autograd.grad(
        kb.kl_divergence(x, y, given="logits", where=where, rows=rows, base=2, temperature=3.0, reduction="mean"),
        (x, y),
    )
    a, b = (v.detach().clone().requires_grad_() for v in (x, y))
    p, q = (TF.log_softmax(v[rows][:, where] / 3.0, -1) for v in (a, b))
    exact = torch.autograd.grad((p.exp() * (p - q)).sum(-1).mean() / np.log(2), (a, b))
    for g, e in zip(got, exact, strict=True):
        assert_close(g, e, torch.float64)
    along = torch.autograd.grad(kb.entropy(x, given="logits", axis=0, keepdims=True).sum(), x)[0]
    c = x.detach().clone().requires_grad_()
    p = TF.log_softmax(c, 0)
    assert_close(along, torch.autograd.grad(-(p.exp() * p).sum(), c)[0], torch.float64)


def test_gradients_at_zero_mass() -> None:
    inf = torch.inf

    def grads(name: str, p: list[float], q: list[float], given: str) -> list[Any]:
        rows = [torch.tensor(r, dtype=torch.float64, requires_grad=True) for r in (p, q)]
        if name == "entropy":
            rows = rows[:1]
        value = getattr(kb, name)(*rows, given=given)
        return [g.tolist() for g in torch.autograd.grad(value, rows)]

    half = [0.0, 0.5, 0.5]
    flat = [1 / 3] * 3
    assert grads("entropy", half, flat, "probs")[0][0] == inf
    assert grads("kl_divergence", half, flat, "probs")[0][0] == -inf
    assert grads("kl_divergence", half, half, "probs")[0][0] == pytest.approx(0.0, abs=1e-15)
    assert grads("cross_entropy", half, flat, "probs")[0][0] == pytest.approx(0.0, abs=1e-15)
    assert grads("kl_divergence", flat, half, "probs")[1][0] == -inf
    assert grads("kl_divergence", half, half, "probs")[1][0] == 1.0
    assert grads("kl_divergence", half, flat, "probs")[1] == pytest.approx([1.0, 1 - 1.5, 1 - 1.5])
    assert grads("js_divergence", half, flat, "probs")[0][0] == -inf
    logs = [-inf, 0.0, 0.0]
    assert grads("entropy", logs, logs, "logits")[0][0] == 0
    assert grads("kl_divergence", logs, [0.0, 0.0, 0.0], "logits")[0][0] == 0
    assert grads("js_divergence", logs, [0.0, 0.0, 0.0], "logits")[0][0] == 0
    row = torch.tensor([[torch.nan, 1.0], [1.0, 1.0]], requires_grad=True)
    grad = torch.autograd.grad(kb.entropy(row, given="counts").nan_to_num().sum(), row)[0]
    assert grad[1].isfinite().all()


QUANTITIES: dict[str, tuple[Callable[..., Any], int]] = {
    **{name: (getattr(kb, name), 1 if name == "entropy" else 2) for name in [*MEASURES, "js_distance"]},
    "nll": (lambda q, **options: kb.nll(q, torch.tensor([0, 3, 1]), **options), 1),
}


def operands_of(name: str, space: str) -> tuple[Any, ...]:
    return tuple(rows_of(space, (3, 4), i).requires_grad_() for i in range(QUANTITIES[name][1]))


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", QUANTITIES)
def test_quantities_gradcheck(name: str, space: str) -> None:
    function = QUANTITIES[name][0]
    for options in ({}, {"reduction": "mean"}, {"keepdims": True, "base": 2.0}):
        assert torch.autograd.gradcheck(
            lambda *xs, o=options: function(*xs, given=space, **o), operands_of(name, space)
        )


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", QUANTITIES)
def test_quantities_under_torch_func(name: str, space: str) -> None:
    leaves = operands_of(name, space)
    tensors = tuple(x.detach() for x in leaves)

    def function(*xs: Any) -> Any:
        return QUANTITIES[name][0](*xs, given=space, reduction="sum")

    expected = torch.autograd.grad(function(*leaves), leaves)
    got = torch.func.grad(function, argnums=tuple(range(len(tensors))))(*tensors)
    for g, e in zip(got, expected, strict=True):
        assert torch.equal(g, e)
    # One row after the other.
    other = tuple(x.flip(0) for x in tensors)
    batch = tuple(torch.stack(pair, 1) for pair in zip(tensors, other, strict=True))
    got = torch.func.vmap(function, 1)(*batch)
    assert torch.equal(got, torch.stack([function(*tensors), function(*other)]))
    each = torch.func.vmap(torch.func.grad(function), 1)(*batch)
    assert torch.equal(each[0], expected[0])


def test_labels_may_be_what_is_mapped_over() -> None:
    q, labels = rows_of("logits", (3, 4), 0), torch.tensor([[0, 1, 2], [3, 3, 3]])
    got = torch.func.vmap(lambda y: kb.nll(q, y, given="logits"))(labels)
    assert torch.equal(got, torch.stack([kb.nll(q, y, given="logits") for y in labels]))


def can_substitute() -> bool:
    """Whether this torch can be told of native functions; where it cannot `kullback.torch` has to say so."""
    if hasattr(torch.compiler, "substitute_in_graph"):
        import kullback.torch

        return True
    assert OLDEST
    with pytest.raises(ImportError, match=r"kullback\.torch needs torch 2\.6 or later, got 2\.4"):
        import kullback.torch  # noqa: F401
    return False


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("name", QUANTITIES)
def test_quantities_are_one_graph(name: str, backend: str) -> None:
    if not can_substitute():
        return
    if backend == "inductor" and not compiles():
        pytest.skip("inductor needs a C++ compiler")
    function = QUANTITIES[name][0]
    torch._dynamo.reset()
    where = torch.tensor([True, True, False, True])

    def loss(*xs: Any) -> Any:
        by_row = function(*xs, given="logits", axis=-1, keepdims=True, temperature=2.0, base=2, where=where)
        return by_row, function(*xs, given="logits", reduction="mean") + by_row.sum()

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend=backend)
    leaves, same = operands_of(name, "logits"), operands_of(name, "logits")
    (got, total), (expected, expected_total) = compiled(*leaves), loss(*same)
    assert torch.equal(got, expected)
    torch.testing.assert_close(total, expected_total)
    pairs = zip(torch.autograd.grad(total, leaves), torch.autograd.grad(expected_total, same), strict=True)
    for g, e in pairs:
        torch.testing.assert_close(g, e)


def test_graphs_take_the_options_of_the_quantities() -> None:
    if not can_substitute():
        return
    torch._dynamo.reset()
    p, x = rows_of("probs", (5, 6), 0), rows_of("logits", (6,), 1)
    labels, array = torch.tensor([1, -1, 0]), np.array([[0.25, 0.75], [1.0, 0.0]])

    def function(p: Any, x: Any) -> Any:
        mixed = kb.cross_entropy(p, x, given=("probs", "logits"), temperature=(1.0, 2.0), threads=1)
        across = kb.entropy(p, axis=0, given="counts", rows=torch.ones(6, dtype=torch.bool))
        ignored = kb.nll(p[:3], labels, ignore_index=-1, reduction="mean", on_invalid="nan")
        return mixed, across, ignored, kb.entropy(array)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for got, expected in zip(compiled(p, x), function(p, x), strict=True):
        assert type(got) is type(expected)
        np.testing.assert_array_equal(got, expected)
    with pytest.raises(ValueError, match="row 0 sums to"):
        torch.compile(lambda p: kb.entropy(p), fullgraph=True, backend="aot_eager")(p * 2)


def test_the_gradient_of_a_distance() -> None:
    p, q = (rows_of("probs", (4, 6), i).requires_grad_() for i in range(2))
    root = kb.js_divergence(p, q).sqrt()
    for reduction, exact in (("none", root), ("sum", root.sum()), ("mean", root.mean())):
        got = kb.js_distance(p, q, reduction=reduction)
        weight = torch.arange(1, got.numel() + 1, dtype=torch.float64).reshape(got.shape)
        pairs = zip(
            torch.autograd.grad(got, (p, q), weight),
            torch.autograd.grad(exact, (p, q), weight, retain_graph=True),
            strict=True,
        )
        for g, e in pairs:
            torch.testing.assert_close(g, e, rtol=1e-12, atol=0)
    # Equal rows: a kink, where the gradient is 0; rows that do not count have 0 as well.
    rows = torch.tensor([True, False, True, True])
    same = torch.cat([p[:2].detach(), q[2:].detach()]).requires_grad_()
    grad = torch.autograd.grad(kb.js_distance(p, same, rows=rows, reduction="mean"), same)[0]
    assert torch.equal(grad[:2], torch.zeros(2, 6, dtype=torch.float64))
    exact = torch.autograd.grad(kb.js_divergence(p, same).sqrt()[2:].sum() / 3, same)[0]
    torch.testing.assert_close(grad[2:], exact[2:], rtol=1e-12, atol=0)


def test_what_has_no_gradient_says_so() -> None:
    x = rows_of("logits", (3, 4), 0).requires_grad_()
    with pytest.raises(TypeError, match="out cannot be part of a graph"):
        kb.entropy(x, given="logits", out=torch.empty(3, dtype=torch.float64))
    with pytest.raises(TypeError, match="requires a gradient"):
        kb.compare(x, x)
    with torch.no_grad():
        assert not kb.js_distance(x, x, given="logits").requires_grad


def test_a_tensor_changed_in_place_is_noticed() -> None:
    logits = seeded(4, 5).requires_grad_()
    inner = logits * 1
    loss = F.cross_entropy(inner, torch.arange(4))
    inner += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# -------------------------------------------------------------------------------------------------------------- modules


MODULES: dict[str, tuple[dict[str, Any], tuple[Any, ...]]] = {
    "KLDivLoss": ({"reduction": "batchmean", "log_target": True}, (seeded(4, 3), seeded(4, 3))),
    "CrossEntropyLoss": (
        {"weight": seeded(3).exp(), "label_smoothing": 0.1, "reduction": "sum", "ignore_index": 2},
        (seeded(4, 3), torch.tensor([0, 2, 1, 0])),
    ),
    "NLLLoss": ({"weight": seeded(3).exp(), "ignore_index": 1}, (seeded(4, 3), torch.tensor([0, 2, 1, 0]))),
    "BCELoss": ({"weight": seeded(3).exp(), "reduction": "none"}, (seeded(4, 3).sigmoid(), seeded(3, 4).T.sigmoid())),
    "BCEWithLogitsLoss": (
        {"weight": seeded(3).exp(), "pos_weight": seeded(3).exp()},
        (seeded(4, 3), seeded(3, 4).T.sigmoid()),
    ),
    "Softmax": ({"dim": 0}, (seeded(4, 3),)),
    "LogSoftmax": ({"dim": -1}, (seeded(4, 3),)),
    "Softmin": ({"dim": 1}, (seeded(4, 3),)),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_saved_and_copied(name: str) -> None:
    from kullback import nn

    assert set(MODULES) == set(nn.__all__)
    options, inputs = MODULES[name]
    module, theirs = getattr(nn, name)(**options), getattr(torch.nn, name)(**options)
    expected = module(*inputs)
    torch.testing.assert_close(expected, theirs(*inputs))
    assert repr(module) == repr(theirs) and isinstance(module, type(theirs))
    assert list(module.state_dict()) == list(theirs.state_dict())
    buffer = io.BytesIO()
    torch.save(theirs.state_dict(), buffer)
    other = getattr(nn, name)(**{k: torch.zeros_like(v) if is_floating(v) else v for k, v in options.items()})
    other.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    for copied in (other, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(copied(*inputs), expected)
    single = module.float()(*(x.float() if is_floating(x) else x for x in inputs))
    assert single.dtype == torch.float32


def test_training_is_the_same_step_for_step() -> None:
    from kullback import nn
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    curves = []
    for library in (torch.nn, nn):
        torch.manual_seed(0)
        model = torch.nn.Linear(64, 10)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        loss = library.CrossEntropyLoss()  # type: ignore[attr-defined]
        curve = []
        for step in range(60):
            batch = slice(step * 29 % 1700, step * 29 % 1700 + 97)
            optimizer.zero_grad()
            value = loss(model(x[batch]), y[batch])
            value.backward()
            optimizer.step()
            curve.append((float(value.detach()), int((model(x).argmax(1) == y).sum())))
        curves.append(curve)
    theirs, ours = (np.array(c) for c in curves)
    np.testing.assert_allclose(ours[:, 0], theirs[:, 0], rtol=1e-5)
    np.testing.assert_array_equal(ours[:, 1], theirs[:, 1])


# ----------------------------------------------------------------------------------------------- deliberate differences


def test_half_precision_is_accumulated_wide() -> None:
    flat, labels = torch.zeros(16384, 64, dtype=torch.float16), torch.zeros(16384, dtype=LONG)
    assert TF.cross_entropy(flat, labels).isinf()
    assert F.cross_entropy(flat, labels) == torch.tensor(np.log(64.0), dtype=torch.float16)


def test_small_losses_keep_their_digits() -> None:
    x, y = torch.tensor([[20.0, 0.0]]), torch.tensor([0])
    assert TF.cross_entropy(x, y) == 0
    assert float(F.cross_entropy(x, y)) == pytest.approx(2.061153620e-09, rel=1e-6)
    x, y = torch.tensor([-20.0]), torch.tensor([0.0])
    assert TF.binary_cross_entropy_with_logits(x, y) == 0
    assert float(F.binary_cross_entropy_with_logits(x, y)) == pytest.approx(2.061153620e-09, rel=1e-6)


def test_bfloat16_is_rounded_once() -> None:
    p = torch.tensor([1 / 3, 2 / 3], dtype=torch.bfloat16).expand(64, 2)
    log_p = p.log()
    exact = TF.kl_div(log_p.double(), p.double(), reduction="sum")
    assert TF.kl_div(log_p, p, reduction="sum") == 0
    assert F.kl_div(log_p, p, reduction="sum") == exact.bfloat16() == torch.tensor(-0.0288, dtype=torch.bfloat16)
    logits, y = torch.tensor([[0.0, 1.0]], dtype=torch.bfloat16).expand(100, 2), torch.zeros(100, dtype=LONG)
    exact = TF.cross_entropy(logits.double(), y, reduction="sum")
    assert F.cross_entropy(logits, y, reduction="sum") == exact.bfloat16() == 131
    assert TF.cross_entropy(logits, y, reduction="sum") == 130


def test_an_infinite_target_of_kl_div_is_infinite_and_a_binary_one_gives_no_number() -> None:
    x, t = torch.zeros(1), torch.tensor([torch.inf])
    assert TF.kl_div(x, t, reduction="sum").isnan() and F.kl_div(x, t, reduction="sum") == torch.inf
    x = torch.ones(1)
    assert TF.binary_cross_entropy_with_logits(x, t) == -torch.inf
    assert F.binary_cross_entropy_with_logits(x, t).isnan()


@pytest.mark.parametrize("weight", [torch.inf, -torch.inf])
def test_an_infinite_weight_of_the_positives(weight: float) -> None:
    p = torch.tensor([weight])
    for x in (-2.0, 0.0, 1.0):
        for t in (0.5, 1.0):
            args = torch.tensor([x]), torch.tensor([t])
            expected = TF.binary_cross_entropy_with_logits(*args, pos_weight=p)
            assert F.binary_cross_entropy_with_logits(*args, pos_weight=p) == expected == weight
            for function, slope in (
                (TF.binary_cross_entropy_with_logits, torch.nan),
                (F.binary_cross_entropy_with_logits, -weight),
            ):
                leaves = [arg.clone().requires_grad_() for arg in args]
                grads = torch.autograd.grad(function(*leaves, pos_weight=p), leaves)
                np.testing.assert_array_equal(torch.cat(grads), [slope, weight])
        negative = torch.tensor([x]), torch.zeros(1)
        assert TF.binary_cross_entropy_with_logits(*negative, pos_weight=p).isnan()
        assert F.binary_cross_entropy_with_logits(*negative, pos_weight=p).isnan()


def test_a_weight_of_the_positives_of_bytes_or_booleans_is_a_number() -> None:
    x, t = seeded(3, dtype=torch.float32), torch.tensor([0.0, 0.5, 1.0])
    for weight in (torch.tensor([0, 1, 0]), torch.tensor([1, 1, 0])):
        expected = F.binary_cross_entropy_with_logits(x, t, pos_weight=weight.float())
        torch.testing.assert_close(TF.binary_cross_entropy_with_logits(x, t, pos_weight=weight), expected)
        for dtype in (torch.uint8, torch.bool):
            assert F.binary_cross_entropy_with_logits(x, t, pos_weight=weight.to(dtype)) == expected
        # 0 - 1 is 255 there.
        assert TF.binary_cross_entropy_with_logits(x, t, pos_weight=weight.byte()) > 2 * expected
        with pytest.raises(RuntimeError, match="Subtraction"):
            TF.binary_cross_entropy_with_logits(x, t, pos_weight=weight.bool())


def test_a_class_weight_has_one_axis() -> None:
    x, y, weight = seeded(2, 3, 4), torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]]), torch.ones(1, 3).double()
    assert TF.nll_loss(x, y, weight).isfinite()
    with pytest.raises(RuntimeError, match="weight tensor should be defined either for all"):
        F.nll_loss(x, y, weight)


def test_of_two_errors_either_is_raised() -> None:
    integers, probabilities = torch.ones(2, 3, dtype=LONG), torch.ones(2)
    theirs = "not implemented for 'Long'" if OLDEST else "expected target dtype to be Long or Byte, but got Float"
    with pytest.raises(RuntimeError, match=theirs):
        TF.nll_loss(integers, probabilities)
    with pytest.raises(NotImplementedError, match="not implemented for 'Long'"):
        F.nll_loss(integers, probabilities)


def test_an_axis_that_is_no_integer_is_a_type_error() -> None:
    x = seeded(2, 3)
    for function in (torch.logsumexp, F.logsumexp, TF.softmax, F.softmax, TF.log_softmax, F.log_softmax):
        with pytest.raises(TypeError):
            function(x, 1.5)
    with pytest.raises(TypeError):
        TF.softmax(x, True)
    assert torch.equal(F.softmax(x, True), F.softmax(x, 1))


def test_infinite_weights_and_probabilities_give_no_number() -> None:
    x, w = seeded(2, 3), torch.tensor([1.0, torch.inf, 1.0]).double()
    for t, weight in ((x.exp(), w), (x.exp() * w, None)):
        assert TF.cross_entropy(x, t, weight).isinf()
        assert F.cross_entropy(x, t, weight).isnan()


def test_the_log_sum_exp_of_infinity_has_no_gradient() -> None:
    for function, expected in ((torch.logsumexp, [torch.nan, 0.0]), (F.logsumexp, [torch.nan, torch.nan])):
        x = torch.tensor([torch.inf, 0.0], requires_grad=True)
        np.testing.assert_array_equal(torch.autograd.grad(function(x, 0), x)[0], expected)


def test_labels_of_bytes_are_labels_everywhere() -> None:
    x, y = seeded(2, 3, 4), torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])
    for name in ("cross_entropy", "nll_loss"):
        with pytest.raises(RuntimeError, match="expected scalar type Long but found Byte"):
            getattr(TF, name)(x, y.byte())
        assert torch.equal(getattr(F, name)(x, y.byte()), getattr(F, name)(x, y))


def test_one_row_may_have_its_label_in_an_array_of_one() -> None:
    x, y = seeded(3).requires_grad_(), torch.tensor([1])
    with pytest.raises(RuntimeError, match="size mismatch"):
        TF.cross_entropy(x, y).backward()
    F.cross_entropy(x, y).backward()
    torch.testing.assert_close(x.grad, torch.autograd.grad(F.cross_entropy(x, y[0]), x)[0])
    with pytest.raises(RuntimeError, match="size mismatch" if OLDEST else "doesn't match the broadcast shape"):
        TF.cross_entropy(x, y, label_smoothing=0.1)
    assert F.cross_entropy(x, y, label_smoothing=0.1) == F.cross_entropy(x, y[0], label_smoothing=0.1)


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (torch.ones(2, 3, device="meta"), "input must be on the CPU, got device meta"),
        (torch.ones(2, 3).to_sparse(), "input must be dense, got layout torch.sparse_coo"),
        (torch.ones(2, 3, dtype=torch.complex64), "input must hold .*, got dtype torch.complex64"),
    ],
    ids=["device", "sparse", "complex"],
)
def test_tensors_that_cannot_be_read_are_named(x: Any, match: str) -> None:
    calls: list[Callable[[Any], Any]] = [
        lambda x: F.softmax(x, 1),
        lambda x: F.logsumexp(x, 1),
        lambda x: F.kl_div(x, X),
        lambda x: F.binary_cross_entropy(x, X),
        lambda x: F.binary_cross_entropy_with_logits(x, X),
        lambda x: F.cross_entropy(x, T),
        lambda x: F.nll_loss(x, T),
    ]
    for call in calls:
        for leaf in (x, x.detach().requires_grad_()):
            with pytest.raises(TypeError, match=match):
                call(leaf)


def test_the_gradient_of_a_row_that_is_ignored_is_zero_whatever_it_holds() -> None:
    logits = torch.tensor([[torch.nan, 0.0], [1.0, 2.0]], requires_grad=True)
    F.cross_entropy(logits, torch.tensor([-100, 1])).backward()
    assert logits.grad is not None and torch.equal(logits.grad[0], torch.zeros(2))
    assert logits.grad[1].isfinite().all()


def test_arrays_give_what_tensors_give() -> None:
    logits = seeded(6, 5, dtype=torch.float32)
    for dtype in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"):
        labels = np.arange(6).astype(dtype) % 5
        got = F.cross_entropy(logits.numpy(), labels, label_smoothing=0.1)
        assert got == F.cross_entropy(logits, torch.tensor(labels.astype(np.int64)), label_smoothing=0.1).numpy()
    half = logits.half()
    assert F.softmax(half.numpy(), 1).dtype == np.float16
    np.testing.assert_array_equal(F.softmax(half.numpy(), 1), F.softmax(half, 1).numpy())
    assert kb.functional is F
