"""``kullback.functional`` on tensors as part of torch's graph: derivatives, transforms, hooks and memory."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from typing import Any

import kullback as kb
import kullback.functional as F
import pytest
from tensors import LEAVES, seeded

torch = pytest.importorskip("torch")
TF = torch.nn.functional


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


def test_a_gradient_of_a_gradient_that_does_not_use_it() -> None:
    """Under ``create_graph`` a first derivative is as good as ever."""
    x = seeded(4, 5).requires_grad_()
    (grad,) = torch.autograd.grad(F.cross_entropy(x, torch.arange(4)) + (x**3).sum(), x, create_graph=True)
    assert grad.requires_grad
    plain = torch.autograd.grad(F.cross_entropy(x, torch.arange(4)) + (x**3).sum(), x)[0]
    # One is of the forward pass, the other of a second reading.
    torch.testing.assert_close(grad.detach(), plain, rtol=4e-16, atol=0)


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


def test_a_tensor_changed_in_place_is_noticed() -> None:
    logits = seeded(4, 5).requires_grad_()
    inner = logits * 1
    loss = F.cross_entropy(inner, torch.arange(4))
    inner += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
