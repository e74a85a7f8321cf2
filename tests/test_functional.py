"""``kullback.functional`` on arrays: torch's rules, numbers and errors (docs and torch 2.15), in f32 and f64.

Torch is asked in double precision about the very numbers that were stored, so that its own rounding does not blur what
is compared; where its rules depend on the dtype, in the dtype itself.
"""

from __future__ import annotations

import warnings
from itertools import product
from typing import Any

import kullback as kb
import kullback.functional as F
import numpy as np
import pytest
from arrays import generator
from reference import kl_div_terms, ulp

torch = pytest.importorskip("torch")
TF = torch.nn.functional

pytestmark = pytest.mark.usefixtures("level")

FLOATS = ("f4", "f8")
LOGITS = np.array(
    [
        [0.3286, 0.4247, 1.5101, -0.4628, -0.6365],
        [-0.1079, -0.6032, -1.1911, -0.1564, 0.9218],
        [1.5526, -0.2029, 0.7564, -2.0878, -1.1310],
    ]
)
LABELS = np.array([0, 2, 0])
INPUT, TARGET = np.array([-0.1, 0.2, -0.4, 0.3]), np.array([-0.7, 0.1, -0.1, 0.1])
MEAN_WARNING = "reduction: 'mean' divides the total loss by both the batch size and the support size"


def tensor(x: Any) -> Any:
    """Double precision copy of the stored numbers; integers as torch wants them."""
    array = np.asarray(x)
    return torch.from_numpy(np.array(array, np.float64 if array.dtype.kind == "f" else np.int64))


def theirs(function: Any, *arrays: Any, **keywords: Any) -> np.ndarray:
    """What torch gives in double precision."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keywords = {k: tensor(v) if isinstance(v, np.ndarray) else v for k, v in keywords.items()}
        result: np.ndarray = function(*(tensor(x) for x in arrays), **keywords).numpy()
        return result


def kl_div(*arrays: Any, **keywords: Any) -> Any:
    """Ours, without the warning about the mean."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=MEAN_WARNING)
        return F.kl_div(*arrays, **keywords)


def assert_close(got: Any, expected: np.ndarray, dtype: Any, ulps: float, floor: float = 0.0) -> None:
    """Equal NaN and infinities, and finite values within so many ulp of `dtype` (never of less than `floor`)."""
    got, expected = np.asarray(got), np.asarray(expected, np.float64)
    expected = np.where(np.abs(expected) > float(np.finfo(dtype).max), np.copysign(np.inf, expected), expected)
    assert got.dtype == np.dtype(dtype) and got.shape == expected.shape, (got.dtype, got.shape, expected.shape)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    np.testing.assert_array_equal(np.where(np.isinf(got), got, 0), np.where(np.isinf(expected), expected, 0))
    finite = np.isfinite(expected)
    error = np.where(finite, np.abs(np.where(finite, got, 0) - np.where(finite, expected, 0)), 0.0)
    allowed = ulps * ulp(np.maximum(np.abs(np.where(finite, expected, 0)), floor), dtype)
    if not (error <= allowed).all():
        worst = np.unravel_index(np.argmax(error / allowed), error.shape)
        raise AssertionError(
            f"{worst}: got {got[worst]!r}, expected {expected[worst]!r}: {(error / allowed).max() * ulps} ulp"
        )


# -------------------------------------------------------------------------------- the table: numbers that must come out


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_numbers_of_kl_div_loss(dtype: str) -> None:
    q, p = np.full((1, 3), np.log(1 / 3), dtype), np.array([[9 / 25, 12 / 25, 4 / 25]], dtype)
    assert F.kl_div(q, p, reduction="batchmean") == pytest.approx(0.0853, abs=5e-5)
    assert F.kl_div(q[0], p[0], reduction="batchmean") == pytest.approx(0.0284, abs=5e-5)
    assert kb.kl_divergence(p, np.full((1, 3), 1 / 3, dtype))[0] == pytest.approx(0.0853, abs=5e-5)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("integer", ["i8", "i4", "i2", "i1", "u1"])
def test_the_numbers_of_cross_entropy(dtype: str, integer: str) -> None:
    logits, labels = LOGITS.astype(dtype), LABELS.astype(integer)
    assert F.cross_entropy(logits, labels) == pytest.approx(1.7296, abs=5e-5)
    got = F.cross_entropy(logits, labels, reduction="none")
    np.testing.assert_allclose(got, [1.8236, 2.8238, 0.5414], atol=5e-5, rtol=0)
    one_hot = np.eye(5, dtype=dtype)[LABELS]
    through = F.kl_div(F.log_softmax(logits, dim=1), one_hot, reduction="batchmean")
    assert through == pytest.approx(1.7296, abs=5e-5)
    assert through == pytest.approx(F.cross_entropy(logits, labels), rel=4 * float(np.finfo(dtype).eps))
    assert kb.nll(logits, labels, given="logits", reduction="mean") == pytest.approx(1.7296, abs=5e-5)


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_numbers_of_a_pair_of_softmaxes(dtype: str) -> None:
    x, y = INPUT.astype(dtype), TARGET.astype(dtype)
    log_q, p = F.log_softmax(x, dim=0), F.softmax(y, dim=0)
    np.testing.assert_allclose(
        F.kl_div(log_q, p, reduction="none"), [-0.0635, 0.0116, 0.1097, -0.0190], atol=5e-5, rtol=0
    )
    assert kl_div(log_q, p) == pytest.approx(0.0097, abs=5e-5)
    assert F.kl_div(log_q, p, reduction="sum") == pytest.approx(0.0389, abs=5e-5)
    assert kb.cross_entropy(y, x, given="logits") == pytest.approx(1.3832, abs=5e-5)
    assert kb.entropy(y, given="logits") == pytest.approx(1.3443, abs=5e-5)
    assert kb.kl_divergence(y, x, given="logits") == pytest.approx(0.0389, abs=5e-5)
    assert kb.cross_entropy(p, log_q, given=("probs", "log_probs")) == pytest.approx(1.3832, abs=5e-5)


# --------------------------------------------------------------------------------------------------------------- kl_div


def kl_arrays(shape: tuple[int, ...], dtype: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = generator("kl_div", shape, seed)
    log_q = (-rng.exponential(2.0, shape)).astype(dtype)
    target = rng.random(shape).astype(dtype)
    target[rng.random(shape) < 0.2] = 0
    return log_q, target


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "shape", [(), (1,), (7,), (1, 1), (5, 17), (33, 3), (2, 3, 4), (2, 3, 4, 5), (3, 4097)], ids=str
)
@pytest.mark.parametrize("log_target", [False, True])
def test_kl_div_element_by_element(shape: tuple[int, ...], dtype: str, log_target: bool) -> None:
    log_q, target = kl_arrays(shape, dtype)
    if log_target:
        target = (-generator("log", shape).exponential(2.0, shape)).astype(dtype)
        expected = np.exp(target.astype(np.longdouble)) * (target.astype(np.longdouble) - log_q)
        size = np.abs(expected).astype(np.float64)
    else:
        expected, size = kl_div_terms(log_q, target)
    got = F.kl_div(log_q, target, reduction="none", log_target=log_target)
    assert got.dtype == np.dtype(dtype) and got.shape == shape
    # The two parts cancel: what is small against them cannot be better than they are.
    assert (np.abs(got - expected) <= 2 * ulp(np.maximum(size, 1e-30), dtype)).all()
    np.testing.assert_allclose(
        got, theirs(TF.kl_div, log_q, target, reduction="none", log_target=log_target), atol=1e-6
    )


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "batchmean"])
@pytest.mark.parametrize("log_target", [False, True])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((5, 7), (5, 7)),
        ((7,), (7,)),
        ((), ()),
        ((2, 3, 4), (2, 3, 4)),
        ((5, 7), (7,)),
        ((5, 7), (1, 7)),
        ((7,), (5, 7)),
        ((1, 7), (5, 7)),
        ((2, 3, 4), (3, 1)),
        ((5, 1), (5, 7)),
        ((), (5, 7)),
        ((0, 7), (0, 7)),
        ((0,), (0,)),
        ((5, 0), (5, 0)),
        ((100, 1000), (100, 1000)),
    ],
    ids=str,
)
def test_kl_div_reductions_and_broadcasting(
    one: tuple[int, ...], other: tuple[int, ...], log_target: bool, reduction: str, dtype: str
) -> None:
    log_q, _ = kl_arrays(one, dtype)
    _, target = kl_arrays(other, dtype, seed=1)
    if log_target:
        target = -np.abs(target) * 3
    expected = theirs(TF.kl_div, log_q, target, reduction=reduction, log_target=log_target)
    got = kl_div(log_q, target, reduction=reduction, log_target=log_target)
    terms = np.abs(theirs(TF.kl_div, log_q, target, reduction="none", log_target=log_target))
    size = float(terms.max(initial=0.0)) if reduction == "none" else np.abs(expected)
    parts = {"none": size, "sum": terms.sum(), "mean": terms.sum() / max(terms.size, 1)}
    parts["batchmean"] = terms.sum() / max(one[0] if one else 1, 1)
    assert_close(got, expected, dtype, 2 if dtype == "f4" else 16, floor=max(float(parts[reduction]), 1e-30))


def test_kl_div_divides_batchmean_by_the_first_axis_of_the_input_only() -> None:
    log_q, target = kl_arrays((6, 5, 4), "f8")
    total = F.kl_div(log_q, target, reduction="sum")
    assert F.kl_div(log_q, target, reduction="batchmean") == pytest.approx(total / 6, rel=1e-15)
    assert F.kl_div(log_q[0, 0], target[0, 0], reduction="batchmean") == pytest.approx(
        F.kl_div(log_q[0, 0], target[0, 0], reduction="sum") / 4, rel=1e-15
    )
    # The target is larger: still the input's.
    assert F.kl_div(log_q[:2, 0, 0][:, None], target[0, :2], reduction="batchmean") == pytest.approx(
        F.kl_div(log_q[:2, 0, 0][:, None], target[0, :2], reduction="sum") / 2, rel=1e-15
    )
    assert kl_div(log_q, target) == pytest.approx(total / 120, rel=1e-15)


@pytest.mark.parametrize("dtype", FLOATS)
def test_kl_div_of_zeros_infinities_and_nans(dtype: str) -> None:
    inf, nan = np.inf, np.nan
    rows = [
        # target, input, value
        (0.0, -1.0, 0.0),
        (0.0, -inf, nan),
        (0.5, -inf, inf),
        (-0.1, -1.0, nan),
        (nan, -1.0, nan),
        (0.5, nan, nan),
        (0.0, nan, nan),
        (1.0, 0.0, 0.0),
        (0.5, inf, -inf),
        (inf, -1.0, inf),
    ]
    target, log_q, expected = (np.array(column, dtype) for column in zip(*rows, strict=True))
    np.testing.assert_array_equal(F.kl_div(log_q, target, reduction="none"), expected)
    np.testing.assert_array_equal(theirs(TF.kl_div, log_q, target, reduction="none"), expected)
    log_target = np.array([-inf, -inf, 0.0, -1.0, nan], dtype)
    log_q = np.array([-1.0, -inf, -inf, -inf, -1.0], dtype)
    got = F.kl_div(log_q, log_target, reduction="none", log_target=True)
    np.testing.assert_array_equal(got, np.array([nan, nan, inf, inf, nan]))
    np.testing.assert_array_equal(got, theirs(TF.kl_div, log_q, log_target, reduction="none", log_target=True))


def test_kl_div_is_torchs_formula_not_a_divergence() -> None:
    """Rows are taken as they are: rounded rows may give a negative sum, unnormalised ones certainly do."""
    log_q, target = np.log([[0.5, 0.75]]), np.array([[0.5, 0.5]])
    got = F.kl_div(log_q, target, reduction="sum")
    assert got < 0 and got == pytest.approx(0.5 * np.log(0.5 / 0.75), rel=1e-14)


def test_kl_div_warnings() -> None:
    log_q, target = kl_arrays((3, 4), "f8")
    with pytest.warns(UserWarning, match="'batchmean' divides only by the batch size"):
        default = F.kl_div(log_q, target)
    for reduction in ("none", "sum", "batchmean"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            F.kl_div(log_q, target, reduction=reduction)
    for flags, reduction in (
        ({"size_average": False}, "sum"),
        ({"size_average": True}, "mean"),
        ({"reduce": False}, "none"),
        ({"reduce": True}, "mean"),
        ({"size_average": False, "reduce": False}, "none"),
        ({"size_average": False, "reduce": True}, "sum"),
    ):
        for ours, arrays in ((F.kl_div, (log_q, target)), (F.cross_entropy, (LOGITS, LABELS))):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                got = ours(*arrays, **flags, reduction="sum")
            messages = [str(x.message) for x in caught if x.category is UserWarning]
            expected = f"size_average and reduce args will be deprecated, please use reduction='{reduction}' instead."
            assert expected in messages, messages
            plain = kl_div if ours is F.kl_div else F.cross_entropy
            np.testing.assert_array_equal(got, plain(*arrays, reduction=reduction))
            # The warning points at the caller's line.
            assert any(x.filename == __file__ for x in caught if expected == str(x.message))
    assert default == kl_div(log_q, target, reduction="mean")


def test_kl_div_errors() -> None:
    log_q, target = kl_arrays((3, 4), "f4")
    for function, arrays in ((F.kl_div, (log_q, target)), (F.cross_entropy, (LOGITS, LABELS))):
        with pytest.raises(ValueError, match="^foo is not a valid value for reduction"):
            function(*arrays, reduction="foo")
    integers = np.ones((3, 4), int)
    for one, other in ((integers, target), (log_q, integers), (integers, integers)):
        with pytest.raises((TypeError, RuntimeError), match="kl_div: Integral inputs not supported."):
            F.kl_div(one, other, reduction="sum")
    with pytest.raises((ValueError, RuntimeError)):
        F.kl_div(log_q, np.ones((3, 5), np.float32), reduction="sum")
    with pytest.raises(TypeError):
        F.kl_div(log_q.astype(np.complex64), target, reduction="sum")


@pytest.mark.parametrize(("one", "other"), [("f4", "f8"), ("f8", "f4"), ("f4", "f4"), ("f8", "f8")])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "batchmean"])
def test_kl_div_promotes_dtypes(one: str, other: str, reduction: str) -> None:
    log_q, target = kl_arrays((3, 4), "f8")
    got = kl_div(log_q.astype(one), target.astype(other), reduction=reduction)
    assert np.asarray(got).dtype == np.result_type(one, other)
    expected = theirs(TF.kl_div, log_q.astype(one), target.astype(other), reduction=reduction)
    np.testing.assert_allclose(
        got, expected, rtol=1e-14 if "f8" in (one, other) else 1e-5, atol=1e-7 if one == other == "f4" else 1e-15
    )


def test_kl_div_of_other_layouts() -> None:
    log_q, target = kl_arrays((6, 8), "f4")
    expected = F.kl_div(log_q, target, reduction="none")
    for one, other in (
        (np.asfortranarray(log_q), target),
        (log_q[::-1, ::-1].copy()[::-1, ::-1], np.asfortranarray(target)),
        (log_q.astype(">f4"), target.astype(">f4")),
    ):
        np.testing.assert_array_equal(F.kl_div(one, other, reduction="none"), expected)
        assert F.kl_div(one, other, reduction="sum") == pytest.approx(
            F.kl_div(log_q, target, reduction="sum"), rel=3e-7
        )


# ----------------------------------------------------------------------------------------- cross entropy, class indices


def grid(n: int, c: int, trailing: tuple[int, ...], dtype: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, C, d1, …) and class indices (N, d1, …)."""
    rng = generator("cross entropy", n, c, trailing, seed)
    return (3 * rng.standard_normal((n, c, *trailing))).astype(dtype), rng.integers(0, c, (n, *trailing))


WEIGHTED = [False, True]
SMOOTHING = [0.0, 0.1, 1.0, -0.5]
SHAPES = [
    (1, 1, ()),
    (1, 2, ()),
    (5, 3, ()),
    (17, 16, ()),
    (33, 65, ()),
    (2, 3, (4,)),
    (2, 5, (3, 2)),
    (2, 3, (2, 2, 2)),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("weighted", WEIGHTED)
@pytest.mark.parametrize("smoothing", SMOOTHING)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_cross_entropy_with_class_indices(
    dtype: str, reduction: str, smoothing: float, weighted: bool, shape: tuple[int, int, tuple[int, ...]]
) -> None:
    logits, labels = grid(*shape, dtype)
    rng = generator("weights", shape)
    weight = rng.random(shape[1]).astype(dtype) if weighted else None
    for ignore in (None, 0, int(labels.flat[-1])):
        keywords: dict[str, Any] = {"reduction": reduction, "label_smoothing": smoothing}
        keywords |= {} if ignore is None else {"ignore_index": ignore}
        keywords |= {} if weight is None else {"weight": weight}
        expected = theirs(TF.cross_entropy, logits, labels, **keywords)
        got = F.cross_entropy(logits, labels, **keywords)
        # Torch's own f64 rounds the logarithm of the sum: it cannot judge small values better than this.
        assert_close(got, expected, dtype, 5 if dtype == "f4" else 32, floor=1e-3 if dtype == "f4" else 1.0)
        # Without copies of another layout changing anything.
        moved = np.asfortranarray(logits)
        np.testing.assert_array_equal(F.cross_entropy(moved, labels[...], **keywords), got)


@pytest.mark.parametrize("dtype", FLOATS)
def test_cross_entropy_of_one_row(dtype: str) -> None:
    logits, label = LOGITS[0].astype(dtype), np.array(2)
    for reduction, weight, smoothing in product(
        ("none", "sum", "mean"), (None, np.arange(1, 6).astype(dtype)), (0.0, 0.3)
    ):
        keywords: dict[str, Any] = {"reduction": reduction, "label_smoothing": smoothing}
        keywords |= {} if weight is None else {"weight": weight}
        got = F.cross_entropy(logits, label, **keywords)
        assert np.ndim(got) == 0
        assert_close(got, theirs(TF.cross_entropy, logits, label, **keywords), dtype, 4 if dtype == "f4" else 16)
    ignored = F.cross_entropy(logits, np.array(-100), reduction="none")
    assert ignored == 0 and ignored.dtype == np.dtype(dtype)
    assert np.isnan(F.cross_entropy(logits, np.array(-100)))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("weighted", WEIGHTED)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_of_nothing_that_counts(dtype: str, weighted: bool, smoothing: float) -> None:
    logits = np.zeros((3, 4), dtype)
    keywords: dict[str, Any] = {"label_smoothing": smoothing}
    keywords |= {"weight": np.ones(4, dtype)} if weighted else {}
    for labels, x in ((np.full(3, -100), logits), (np.empty(0, int), logits[:0])):
        assert np.isnan(F.cross_entropy(x, labels, **keywords))
        assert F.cross_entropy(x, labels, reduction="sum", **keywords) == 0
        np.testing.assert_array_equal(
            F.cross_entropy(x, labels, reduction="none", **keywords), np.zeros(len(labels), dtype)
        )
    nothing = {"weight": np.array([0, 1, 1, 1], dtype)}
    assert np.isnan(F.cross_entropy(logits, np.zeros(3, int), **nothing))
    assert F.cross_entropy(logits, np.zeros(3, int), reduction="sum", **nothing) == 0


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_mean_is_over_the_weights_of_the_labels(dtype: str) -> None:
    weight = np.array([1, 2, 3, 4, 5], dtype)
    values = F.cross_entropy(LOGITS.astype(dtype), LABELS, weight=weight, reduction="none")
    got = F.cross_entropy(LOGITS.astype(dtype), LABELS, weight=weight)
    assert got == pytest.approx(
        values.sum(dtype="f8") / weight[LABELS].sum(dtype="f8"), rel=4 * float(np.finfo(dtype).eps)
    )
    # With label smoothing too.
    values = F.cross_entropy(LOGITS.astype(dtype), LABELS, weight=weight, reduction="none", label_smoothing=0.25)
    got = F.cross_entropy(LOGITS.astype(dtype), LABELS, weight=weight, label_smoothing=0.25)
    assert got == pytest.approx(
        values.sum(dtype="f8") / weight[LABELS].sum(dtype="f8"), rel=4 * float(np.finfo(dtype).eps)
    )


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("weighted", WEIGHTED)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_class_index_out_of_bounds(reduction: str, weighted: bool, smoothing: float) -> None:
    logits = np.zeros((4, 3), np.float32)
    keywords: dict[str, Any] = {"reduction": reduction, "label_smoothing": smoothing}
    keywords |= {"weight": np.ones(3, np.float32)} if weighted else {}
    for bad in (3, -1, 255, -101):
        labels = np.array([0, 1, bad, 2])
        with pytest.raises(IndexError, match=rf"^Target {bad} is out of bounds"):
            F.cross_entropy(logits, labels, **keywords)
        with pytest.raises(IndexError, match=rf"^Target {bad} is out of bounds"):
            F.cross_entropy(np.zeros((2, 3, 2), np.float32), labels.reshape(2, 2), **keywords)
        with pytest.raises(IndexError, match=rf"^Target {bad} is out of bounds"):
            F.cross_entropy(np.zeros(3, np.float32), np.array(bad), **keywords)
        # The ignore test comes first.
        got = F.cross_entropy(logits, labels, ignore_index=bad, **keywords)
        np.testing.assert_allclose(
            got, theirs(TF.cross_entropy, logits, labels, ignore_index=bad, **keywords), rtol=1e-6
        )
    with pytest.raises(IndexError, match="^Target 0 is out of bounds"):
        F.cross_entropy(np.zeros((2, 0), np.float32), np.zeros(2, int), **keywords | {"weight": None})


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_cross_entropy_of_infinite_logits(reduction: str, dtype: str) -> None:
    inf, nan = np.inf, np.nan
    rows = [[0, -inf, 1], [-inf, 0, 1], [-inf, -inf, -inf], [inf, 0, 1], [nan, 0, 1], [0, 1, -inf], [inf, inf, 0]]
    for row in rows:
        x, y = np.array([row, [0, 1, 2]], dtype), np.array([0, 1])
        for keywords in ({}, {"weight": np.array([0.5, 1, 2], dtype)}, {"label_smoothing": 0.1}):
            expected = theirs(TF.cross_entropy, x, y, reduction=reduction, **keywords)
            got = F.cross_entropy(x, y, reduction=reduction, **keywords)
            assert_close(got, expected, dtype, 4 if dtype == "f4" else 16, floor=1e-3 if dtype == "f4" else 1.0)
    # 0 · (-inf) is NaN, and a class that smoothing reaches is inf.
    x = np.array([[-inf, 0, 1]], dtype)
    assert np.isnan(F.cross_entropy(x, np.array([0]), weight=np.array([0, 1, 1], dtype), reduction="none"))
    assert F.cross_entropy(x, np.array([1]), label_smoothing=0.1) == inf


def test_cross_entropy_promotes_and_refuses_dtypes() -> None:
    for dtype in FLOATS:
        got = F.cross_entropy(LOGITS.astype(dtype), LABELS, reduction="none")
        assert got.dtype == np.dtype(dtype)
    for wrong in (np.zeros((3, 5), int), np.zeros((3, 5), bool), np.zeros((3, 5), complex)):
        with pytest.raises((TypeError, NotImplementedError)):
            F.cross_entropy(wrong, LABELS)
    for wrong in (LABELS.astype(float), LABELS.astype(bool)):
        with pytest.raises((TypeError, RuntimeError)):
            F.cross_entropy(LOGITS, wrong)
    # Equal shapes mean probabilities, which are floating.
    with pytest.raises(
        (TypeError, RuntimeError), match="Expected floating point type for target with class probabilities"
    ):
        F.cross_entropy(LOGITS, np.zeros((3, 5), int))


def test_cross_entropy_keeps_the_digits_that_torch_loses() -> None:
    """ln(1 + e^-20): torch's f32 gives 0."""
    x = np.array([[20.0, 0.0]], np.float32)
    assert_close(F.cross_entropy(x, np.array([0]), reduction="none"), np.log1p(np.exp([-20.0])), "f4", 4)


# ----------------------------------------------------------------------------------------- cross entropy, probabilities


@pytest.mark.parametrize("shape", [*SHAPES, (4, 0, ())], ids=str)
@pytest.mark.parametrize("weighted", WEIGHTED)
@pytest.mark.parametrize("smoothing", SMOOTHING)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_cross_entropy_with_probabilities(
    dtype: str, reduction: str, smoothing: float, weighted: bool, shape: tuple[int, int, tuple[int, ...]]
) -> None:
    n, c, trailing = shape
    rng = generator("probabilities", shape)
    logits = (3 * rng.standard_normal((n, c, *trailing))).astype(dtype)
    # Not normalised, and some zeros: torch does not check, nor do we.
    target = (rng.random(logits.shape) * (rng.random(logits.shape) < 0.7)).astype(dtype)
    weight = rng.random(c).astype(dtype) if weighted else None
    if c == 0 and smoothing > 0:
        return
    keywords: dict[str, Any] = {"reduction": reduction, "label_smoothing": smoothing}
    keywords |= {} if weight is None else {"weight": weight}
    expected = theirs(TF.cross_entropy, logits, target, **keywords)
    got = F.cross_entropy(logits, target, **keywords)
    assert_close(got, expected, dtype, 6 if dtype == "f4" else 32, floor=1e-3 if dtype == "f4" else 1.0)
    np.testing.assert_array_equal(F.cross_entropy(np.asfortranarray(logits), target[...], **keywords), got)


@pytest.mark.parametrize("dtype", FLOATS)
def test_probabilities_of_one_row(dtype: str) -> None:
    logits, target = LOGITS[0].astype(dtype), np.array([0.1, 0.2, 0.3, 0.4, 0.0], dtype)
    for reduction in ("none", "sum", "mean"):
        got = F.cross_entropy(logits, target, reduction=reduction)
        assert np.ndim(got) == 0
        assert_close(
            got, theirs(TF.cross_entropy, logits, target, reduction=reduction), dtype, 4 if dtype == "f4" else 16
        )


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_mean_over_probabilities_is_over_positions(dtype: str) -> None:
    logits, target = LOGITS.astype(dtype), np.full((3, 5), 0.2, dtype)
    weight = np.array([1, 2, 3, 4, 5], dtype)
    for keywords in ({}, {"weight": weight}):
        total = F.cross_entropy(logits, target, reduction="sum", **keywords)
        assert F.cross_entropy(logits, target, **keywords) == pytest.approx(
            total / 3, rel=2 * float(np.finfo(dtype).eps)
        )
    cube = logits.reshape(1, 5, 3)
    total = F.cross_entropy(cube, target.reshape(1, 5, 3), reduction="sum")
    assert F.cross_entropy(cube, target.reshape(1, 5, 3)) == pytest.approx(
        total / 3, rel=2 * float(np.finfo(dtype).eps)
    )


@pytest.mark.parametrize("dtype", FLOATS)
def test_probabilities_against_infinite_logits(dtype: str) -> None:
    inf, nan = np.inf, np.nan
    x = np.array([[-inf, 0, 1], [-inf, 0, 1], [0, 1, 2], [inf, 0, 1], [-inf, -inf, -inf]], dtype)
    t = np.array([[0, 0.5, 0.5], [0.5, 0.5, 0], [nan, 0.5, 0.5], [0.2, 0.3, 0.5], [0.2, 0.3, 0.5]], dtype)
    got = F.cross_entropy(x, t, reduction="none")
    np.testing.assert_array_equal(got, np.array([nan, inf, nan, nan, nan]))
    np.testing.assert_array_equal(got, theirs(TF.cross_entropy, x, t, reduction="none"))


def test_cross_entropy_errors() -> None:
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"Expected input batch_size \(2\) to match target batch_size \(3\)\."):
        F.cross_entropy(x, np.zeros(3, int))
    with pytest.raises((ValueError, RuntimeError), match=r"Expected target size \[2, 4\], got \[2, 5\]"):
        F.cross_entropy(np.zeros((2, 3, 4), np.float32), np.zeros((2, 5), int))
    message = "weight tensor should be defined either for all 3 classes or no classes but got weight tensor of shape: "
    for shape, shown in (((2,), "[2]"), ((4,), "[4]"), ((1, 3), "[1, 3]")):
        with pytest.raises((ValueError, RuntimeError)) as caught:
            F.cross_entropy(x, np.zeros(2, int), weight=np.ones(shape, np.float32))
        assert message + shown in " ".join(str(caught.value).split())
    for labels in (np.zeros(2, int), np.full((2, 3), 1 / 3, np.float32)):
        with pytest.raises(
            (ValueError, RuntimeError), match=r"label_smoothing must be between 0\.0 and 1\.0\. Got: 1\.5"
        ):
            F.cross_entropy(x, labels, label_smoothing=1.5)
    with pytest.raises((ValueError, RuntimeError), match="ignore_index is not supported for floating point target"):
        F.cross_entropy(x, np.full((2, 3), 1 / 3, np.float32), ignore_index=1)
    F.cross_entropy(x, np.full((2, 3), 1 / 3, np.float32), ignore_index=-1)
    with pytest.raises(ValueError, match="^batchmean is not a valid value for reduction"):
        F.cross_entropy(x, np.zeros(2, int), reduction="batchmean")


def test_torchs_positional_order() -> None:
    """input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing."""
    weight = np.arange(1.0, 6.0)
    got = F.cross_entropy(LOGITS, LABELS, weight, None, 2, None, "sum", 0.1)
    expected = F.cross_entropy(LOGITS, LABELS, weight=weight, ignore_index=2, reduction="sum", label_smoothing=0.1)
    assert got == expected
    log_q, target = kl_arrays((3, 4), "f8")
    assert F.kl_div(log_q, target, None, None, "sum", True) == F.kl_div(log_q, target, reduction="sum", log_target=True)


def test_lists_are_arrays() -> None:
    assert F.cross_entropy(LOGITS.tolist(), LABELS.tolist()) == F.cross_entropy(LOGITS, LABELS)
    assert F.kl_div([[-1.0, -2.0]], [[0.5, 0.5]], reduction="sum") == pytest.approx(1.5 + np.log(0.5), rel=1e-14)


def test_half_precision_is_accumulated_wide() -> None:
    """Torch's own f16 mean over 16 384 rows of ln 64 is inf."""
    flat = np.zeros((16384, 64), np.float16)
    for reduction, expected in (("mean", np.log(64.0)), ("none", np.log(64.0))):
        got = F.cross_entropy(flat, np.zeros(16384, int), reduction=reduction)
        np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=5e-4)


def test_inputs_are_not_modified() -> None:
    logits, labels = grid(5, 7, (), "f4")
    probabilities, weight = np.full((5, 7), 1 / 7, np.float32), np.ones(7, np.float32)
    before = [x.tobytes() for x in (logits, labels, probabilities, weight)]
    for smoothing in (0.0, 0.1):
        F.cross_entropy(logits, labels, weight=weight, label_smoothing=smoothing)
        F.cross_entropy(logits, probabilities, weight=weight, label_smoothing=smoothing)
    F.kl_div(logits, probabilities, reduction="sum")
    F.softmax(logits, dim=1)
    F.log_softmax(logits, dim=0)
    assert [x.tobytes() for x in (logits, labels, probabilities, weight)] == before
    locked = logits.copy()
    locked.flags.writeable = False
    np.testing.assert_array_equal(F.softmax(locked, dim=1), F.softmax(logits, dim=1))


# ------------------------------------------------------------------------------------------------- softmax, log_softmax


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "shape", [(1,), (7,), (5, 3), (3, 65), (2, 3, 4), (2, 1, 5), (0, 3), (3, 0), (4, 2049)], ids=str
)
def test_softmax_along_every_axis(shape: tuple[int, ...], dtype: str, name: str) -> None:
    x = (3 * generator("softmax", shape).standard_normal(shape)).astype(dtype)
    for dim in range(-len(shape), len(shape)):
        expected = theirs(getattr(TF, name), x, dim=dim)
        for view in (x, np.asfortranarray(x), x[..., ::-1].copy()[..., ::-1]):
            got = getattr(F, name)(view, dim=dim)
            # In f64 torch is no oracle for small values: test_accuracy has one.
            assert_close(got, expected, dtype, 4 if dtype == "f4" else 64, floor=1.0 if dtype == "f8" else 0.0)
    with pytest.raises((IndexError, ValueError)):
        getattr(F, name)(x, dim=len(shape))


@pytest.mark.parametrize("dtype", FLOATS)
def test_softmax_of_infinite_logits(dtype: str) -> None:
    inf, nan = np.inf, np.nan
    x = np.array([[0, -inf, 0], [-inf, -inf, -inf], [inf, 0, 0], [nan, 0, 1], [inf, -inf, inf], [-inf, 3, -inf]], dtype)
    np.testing.assert_array_equal(
        F.softmax(x, dim=1), np.array([[0.5, 0, 0.5], *[[nan] * 3] * 4, [0, 1, 0]]), err_msg="softmax"
    )
    got = F.log_softmax(x, dim=1)
    assert_close(got, theirs(TF.log_softmax, x, dim=1), dtype, 2)
    assert np.isnan(got[1:5]).all() and got[0, 1] == -inf and got[5, 1] == 0


def test_softmax_dtypes() -> None:
    integers = np.array([[1, 2, 3]])
    for name in ("softmax", "log_softmax"):
        function = getattr(F, name)
        with pytest.raises((TypeError, NotImplementedError)):
            function(integers, dim=1)
        for dtype in (np.float32, np.float64):
            got = function(integers, dim=1, dtype=dtype)
            assert got.dtype == dtype
            np.testing.assert_array_equal(got, function(integers.astype(dtype), dim=1))
        got = function(integers.astype(np.float32), dim=1, dtype=np.float64)
        assert got.dtype == np.float64
        scalar = function(np.float32(3), dim=0)
        assert np.shape(scalar) == () and scalar == (1 if name == "softmax" else 0)


@pytest.mark.parametrize("dtype", FLOATS)
def test_softmax_of_vast_logits(dtype: str) -> None:
    x = np.array([[1e4, 1e4 - 1, 0], [3e38, -3e38, 0], [-1e30, -1e30, -3e38], [88.5, -88.5, 0]], dtype)
    expected = np.exp(-np.log1p(np.exp(-1.0)))
    got = F.softmax(x, dim=1)
    assert_close(got[0, :2], np.array([expected, 1 - expected]), dtype, 2)
    np.testing.assert_array_equal(got[1], [1, 0, 0])
    np.testing.assert_array_equal(got[2], [0.5, 0.5, 0])
    got = F.log_softmax(x, dim=1)
    assert_close(got, theirs(TF.log_softmax, x, dim=1), dtype, 4 if dtype == "f4" else 16, floor=1.0)
    assert 0 >= got[3, 0] > -1e-38


def test_softmax_rows_sum_to_one() -> None:
    x = 10 * generator("sums").standard_normal((50, 1000))
    for dtype in FLOATS:
        got = F.softmax(x.astype(dtype), dim=1)
        np.testing.assert_allclose(got.sum(1, dtype=np.float64), 1.0, rtol=4 * np.finfo(dtype).eps)
