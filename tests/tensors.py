"""What the tests of tensors share: torch's functions beside ours, and how values and gradients are compared.

Torch is asked in double precision about the very numbers that were stored; its own dtype decides only what the result's
is. Sums of terms of both signs are judged by the size of their terms.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

import kullback.functional as F
import pytest

torch = pytest.importorskip("torch")
TF = torch.nn.functional

OLDEST = torch.__version__.startswith("2.4.")
LONG = torch.long
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


def compiles() -> bool:
    """Whether there is a C++ compiler, which inductor needs."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++", "cl"))
