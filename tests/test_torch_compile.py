"""``kullback.functional`` under ``torch.compile``, and its operators as torch checks, fakes and casts them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kullback as kb
import kullback.functional as F
import numpy as np
import pytest
from tensors import EPS, LEAVES, compiles, seeded

torch = pytest.importorskip("torch")
TF = torch.nn.functional


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
