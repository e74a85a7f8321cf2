"""``kullback.functional`` on tensors: torch's errors and warnings, in its words."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import kullback.functional as F
import numpy as np
import pytest
from tensors import FUNCTIONS, LONG, OLDEST, compare, compare_gradients, outcome, seeded

torch = pytest.importorskip("torch")
TF = torch.nn.functional

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
WRONG["softmin of booleans"] = ("nn.functional.softmin", (X.bool(),), {"dim": 1})
WRONG["softmin of booleans, cast"] = ("nn.functional.softmin", (X.bool(),), {"dim": 1, "dtype": torch.float32})
for _i, _case in enumerate([((X, (0, 0)), {}), ((X, 2), {}), ((X, ()), {}), ((torch.ones(3), []), {})]):
    WRONG[f"logsumexp {_i}"] = ("logsumexp", *_case)


OLDER = (
    ("expected target dtype to be Long or Byte, but got", "expected scalar type Long but found"),
    ("For 1D input, 1D target must have size 1", "size mismatch (got input: [3], target: [2])"),
    ("expected target dtype to be Long or Byte, but got", "size mismatch (got input: [3], target: [2])"),
    ('"log_softmax_kernel_impl" not implemented', '"softmax_kernel_impl" not implemented'),
    ("Attempting to broadcast a dimension of length", "The size of tensor a"),
)
"""How errors begin whose words are others in torch 2.4: ours, which are the newest release's, and those of 2.4."""


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
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


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
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
