"""The quantities on tensors as part of torch's graph: gradients, transforms and compilation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kullback as kb
import numpy as np
import pytest
from tensors import EPS, OLDEST, assert_close, compiles, seeded

torch = pytest.importorskip("torch")
TF = torch.nn.functional


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
