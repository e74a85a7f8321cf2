"""``kullback.functional`` on tensors: torch's values, gradients and dtypes, on its own sample inputs and on grids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import kullback as kb
import kullback.functional as F
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import DTYPES, FUNCTIONS, compare, compare_gradients, is_floating, mapped, outcome, seeded

torch = pytest.importorskip("torch")
TF = torch.nn.functional


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


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
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


def test_logsumexp_along_no_axis_is_along_all() -> None:
    x = seeded(2, 3)
    for args, kwargs in (((x, ()), {"keepdim": True}), ((x[:, :0], []), {}), ((torch.tensor(2.0), ()), {})):
        compare(F.logsumexp, torch.logsumexp, args, kwargs)
        compare_gradients(F.logsumexp, torch.logsumexp, args, kwargs)


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


@pytest.mark.parametrize(
    "shape", [(2, 19, 9, 9), (2, 150, 8, 17), (3, 10, 5, 2), (1, 19, 130), (2, 129, 40), (2, 9000, 17)], ids=str
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_losses_of_inner_classes_are_those_of_rows(dtype: Any, shape: tuple[int, ...]) -> None:
    """Bit for bit: images have their classes on the axis after the first."""
    c = shape[1]
    x, weight = seeded(*shape, dtype=dtype), seeded(c, dtype=dtype).abs()
    labels = torch.randint(0, c, (shape[0], *shape[2:]), generator=torch.Generator().manual_seed(c))
    labels.view(-1)[::7] = -100
    rows = x.movedim(1, -1).reshape(-1, c).contiguous()

    def back(function: Any, leaf: Any) -> tuple[Any, Any]:
        leaf = leaf.clone().requires_grad_()
        value = function(leaf)
        return value.detach(), torch.autograd.grad(value.double().sin().sum(), leaf)[0]

    calls: list[Any] = [lambda z, t: F.softmax(z, 1), lambda z, t: F.log_softmax(z, 1), lambda z, t: F.logsumexp(z, 1)]
    for keywords in ({}, {"weight": weight}, {"label_smoothing": 0.1}, {"reduction": "none"}):
        calls.append(lambda z, t, keywords=keywords: F.cross_entropy(z, t, **keywords))
    calls.append(lambda z, t: F.nll_loss(z, t, reduction="none"))
    for call in calls:
        value, gradient = back(lambda z, call=call: call(z, labels), x)
        flat_value, flat_gradient = back(lambda z, call=call: call(z, labels.reshape(-1)), rows)
        if value.shape == x.shape:
            value = value.movedim(1, -1).reshape(-1, c)
        assert torch.equal(value.reshape(flat_value.shape), flat_value)
        assert torch.equal(gradient.movedim(1, -1).reshape(-1, c), flat_gradient)
