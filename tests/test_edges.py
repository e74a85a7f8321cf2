"""Edge cases: zeros, masses that vanish or overflow, rows that are refused or NaN, and what messages say."""

from __future__ import annotations

import re
from typing import Any

import kullback as kb
import numpy as np
import pytest
from arrays import BF16, DTYPES, from_log, generator, matrix
from cases import (
    CASES,
    CROSS_ENTROPY,
    DIVERGENCES,
    ENTROPY,
    JS,
    JS_DISTANCE,
    KL,
    NLL,
    PAIRED,
    Case,
    assert_same_bits,
    check,
    result_dtype,
)
from reference import INF, LINEAR, LOGARITHMIC, SPACES, ulp

pytestmark = pytest.mark.usefixtures("level")

LN2 = float(np.log(2.0))
FLOATS = (np.float32, np.float64)


def stored(probabilities: Any, given: str, dtype: Any) -> np.ndarray:
    """Probabilities in a space; exact zeros are -inf as logarithms; logits are offset by 3, counts doubled."""
    x = np.asarray(probabilities, np.float64)
    if given in LINEAR:
        return (2 * x if given == "counts" else x).astype(dtype)
    with np.errstate(divide="ignore"):
        return (np.log(x) + (3 if given == "logits" else 0)).astype(dtype)


# ---------------------------------------------------------------------------------------- the table of docs/numerics.md


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("space", SPACES)
def test_a_class_without_mass_adds_nothing_to_an_entropy(space: str, dtype: Any) -> None:
    row = stored([0, 0.5, 0.5], space, dtype)
    got = kb.entropy(row, given=space)
    assert abs(float(got) - LN2) <= 2 * ulp(LN2, dtype)
    assert_same_bits(got, kb.cross_entropy(row, row, given=space))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("given", KL.spaces(), ids=str)
def test_mass_outside_the_support_is_infinite(given: tuple[str, str], dtype: Any) -> None:
    p = stored([[0.5, 0.5, 0], [0.25, 0.25, 0.5]], given[0], dtype)
    q = stored([[0.5, 0, 0.5], [0.5, 0.5, 0]], given[1], dtype)
    for function in (kb.kl_divergence, kb.cross_entropy):
        assert np.array_equal(function(p, q, given=given), [INF, INF])
        assert function(p, q, given=given, reduction="mean") == INF
        # Nothing is infinite where it is p that has no mass.
        assert np.isfinite(function(stored([0.5, 0, 0.5], given[0], dtype), q[:1], given=given)).all()
    labels = np.array([1, 2])
    assert np.array_equal(kb.nll(q, labels, given=given[1]), [INF, INF])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("space", LINEAR)
def test_support_is_read_off_the_input_not_off_a_probability_that_underflowed(space: str, dtype: Any) -> None:
    tiny = float(np.finfo(dtype).smallest_subnormal)
    p, q = np.array([[0.5, 0.5]], dtype), np.array([[1.0, tiny]], dtype)
    for case in (KL, CROSS_ENTROPY, JS):
        check(case, case(p, q, given=space), case.exact(p, q, given=space), space, (p, q))
    # -inf is no support; a logit far below the maximum is one.
    p, q = np.array([[0.0, 0.0]], dtype), np.array([[0.0, -1e4]], dtype)
    for case in (KL, CROSS_ENTROPY, JS):
        check(case, case(p, q, given="logits"), case.exact(p, q, given="logits"), "logits", (p, q))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("given", KL.spaces(), ids=str)
def test_disjoint_rows_are_at_the_largest_js_distance(given: tuple[str, str], dtype: Any) -> None:
    p, q = stored([1.0, 0, 0, 0], given[0], dtype), stored([0, 0.25, 0.25, 0.5], given[1], dtype)
    divergence, distance = kb.js_divergence(p, q, given=given), kb.js_distance(p, q, given=given)
    assert LN2 - ulp(LN2, dtype) <= float(divergence) <= LN2
    assert abs(float(distance) - np.sqrt(LN2)) <= ulp(0.83, dtype)


def test_js_distance_in_bits_of_disjoint_rows_is_one() -> None:
    assert kb.js_distance([1, 0], [0, 1], base=2) == 1.0


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("c", [10, 100])
def test_rows_with_a_third_of_zeros_each(c: int, space: str, dtype: Any) -> None:
    rng = generator("zeros", c)
    p, q = (rng.exponential(size=(8, c)) * (rng.random((8, c)) > 0.3) + np.eye(8, c) for _ in range(2))
    p, q = (stored(x / x.sum(-1, keepdims=True), space, dtype) for x in (p, q))
    for case in PAIRED:
        check(case, case(p, q, given=space), case.exact(p, q, given=space), space, (p, q))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("totals", [(1, 1), (3, 1), (3, 4), (1, 3), (1, 1000), (1, 1 << 25), (3 << 26, 1)], ids=str)
def test_proportional_counts_are_the_same_distribution(totals: tuple[int, int], dtype: Any) -> None:
    counts = generator("proportional").integers(0, 1 << 12, (200, 50))
    counts[:, 0] = 12
    p, q = ((total * counts).astype(dtype) for total in totals)
    for function in (kb.kl_divergence, kb.js_divergence):
        got = function(p, q, given="counts")
        assert (got >= 0).all() and (got <= 1e-15).all(), got.max()
    distance = kb.js_distance(p, q, given="counts")
    assert (distance >= 0).all() and (distance <= np.sqrt(1e-15)).all(), distance.max()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("space", LINEAR)
def test_subnormal_masses_are_finite(space: str, dtype: Any) -> None:
    tiny = float(np.finfo(dtype).smallest_subnormal)
    p = np.array([[tiny, 1 - 2.0**-20, 2.0**-20], [3 * tiny, 1.0, 0.0], [tiny, 1.0, 0.0]], dtype)
    q = np.array([[0.5, 0.5, 0.0], [tiny, 1.0, tiny], [1.0, tiny, 0.0]], dtype)
    for case in PAIRED:
        for one, other in ((p, q), (q, p)):
            check(case, case(one, other, given=space), case.exact(one, other, given=space), space, (one, other))
    check(ENTROPY, kb.entropy(p, given=space), ENTROPY.exact(p, given=space), space, (p,))
    # The ratio of the largest mass to a label's may overflow.
    labels = np.array([0, 0, 0])
    check(NLL, kb.nll(p, labels, given=space), NLL.exact(p, labels=labels, given=space), space, (p,))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("largest", [1.0, 2.0, 3.5, 1e4, 1e30])
def test_a_subnormal_mass_keeps_its_bits_whatever_the_row_is_scaled_by(largest: float, dtype: Any) -> None:
    tiny = float(np.finfo(dtype).smallest_subnormal)
    q = np.array([[largest, 3 * tiny, 0], [largest, 1001 * tiny, largest], [7 * tiny, largest, largest]], dtype)
    p = np.array([[2.0, 0.5, 0], [1.0, 3.0, 1.0], [4.0, 1.0, tiny]], dtype)
    for case in PAIRED:
        check(case, case(p, q, given="counts"), case.exact(p, q, given="counts"), "counts", (p, q))
    check(ENTROPY, kb.entropy(q, given="counts"), ENTROPY.exact(q, given="counts"), "counts", (q,))
    assert_same_bits(kb.entropy(q, given="counts"), kb.cross_entropy(q, q, given="counts"))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("alpha", [1.0, 0.05])
def test_dirichlet_rows_of_a_thousand_classes(alpha: float, space: str, dtype: Any) -> None:
    rng = generator("dirichlet", alpha)
    p, q = (np.maximum(rng.dirichlet(np.full(1000, alpha), 4), 1e-30) for _ in range(2))
    p, q = stored(p, space, dtype), stored(q, space, dtype)
    for case in CASES:
        labels = np.array([0, 1, 998, 999])
        got, exact = (f(p, q, labels=labels, given=space) for f in (case, case.exact))
        check(case, got, exact, space, (p, q))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("space", SPACES)
def test_a_class_without_mass_in_both_rows_is_ignored(space: str, dtype: Any) -> None:
    rng = generator("both")
    p, q = (x / x.sum(-1, keepdims=True) for x in rng.exponential(size=(2, 6, 5)))
    wide = [np.insert(x, [0, 3, 5], 0.0, axis=-1) for x in (p, q)]
    for case in PAIRED:
        rows = [stored(x, space, dtype) for x in wide]
        got = case(*rows, given=space)
        assert np.isfinite(got).all()
        check(case, got, case.exact(*(stored(x, space, dtype) for x in (p, q)), given=space), space, tuple(rows))


# --------------------------------------------------------------------------------------- few classes, few rows, no mass


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_class_is_certain(case: Case, space: str, dtype: Any) -> None:
    p, q = (stored(np.ones((5, 1)), space, dtype) for _ in range(2))
    if space == "logits":
        p += np.arange(5, dtype=dtype)[:, None] * dtype(1e4)
    if space == "counts":
        q *= np.arange(1, 6, dtype=dtype)[:, None]
    got = case(p, q, labels=np.zeros(5, int), given=space)
    # Counts of different totals and different logits are a common factor apart.
    left = case.left(space, dtype) if space in ("counts", "logits") else 0.0
    assert got.dtype == dtype and (got >= 0).all() and (got <= left).all(), got
    assert not np.signbit(got).any()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("case", [case for case in CASES if not case.labels], ids=str)
def test_no_classes_are_no_mass(case: Case, space: str, dtype: Any) -> None:
    p = np.empty((3, 0), dtype)
    got = case(p, p, given=space)
    assert got.dtype == dtype and got.shape == (3,) and np.isnan(got).all()


@pytest.mark.parametrize("shape", [(0, 5), (0, 0), (3, 0, 5), (0, 2, 1)], ids=str)
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_rows_are_no_values(case: Case, space: str, shape: tuple[int, ...]) -> None:
    p, labels = np.empty(shape, np.float32), np.empty(shape[:-1], np.int64)
    got = case(p, p, labels=labels, given=space)
    assert got.shape == shape[:-1] and got.dtype == np.float32
    total = case(p, p, labels=labels, given=space, reduction="sum")
    mean = case(p, p, labels=labels, given=space, reduction="mean")
    assert total == 0 and np.isnan(mean) and total.dtype == mean.dtype == np.float32


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_row_without_mass_is_nan_and_loses_no_other(case: Case, space: str, dtype: Any) -> None:
    p, q = (matrix(40, 19, space, dtype, seed=i) for i in (0, 1))
    labels = generator("labels").integers(0, 19, 40)
    whole = case(p, q, labels=labels, given=space)
    empty = 0.0 if space in LINEAR else -INF
    for row in (0, 7, 16, 39):
        for which in (0, 1) if case.rows == 2 else (0,):
            rows = [p.copy(), q.copy()]
            rows[which][row] = empty
            got = case(*rows, labels=labels, given=space)
            assert np.isnan(got[row])
            assert_same_bits(np.delete(got, row), np.delete(whole, row))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_nan_costs_its_row_only_and_is_no_error(case: Case, order: Any, space: str, dtype: Any) -> None:
    p, q = (matrix(40, 19, space, dtype, seed=i) for i in (0, 1))
    labels = generator("labels").integers(0, 19, 40)
    whole = case(p, q, labels=labels, given=space)
    for row, column in ((0, 0), (15, 18), (16, 16), (39, 3)):
        for which in (0, 1) if case.rows == 2 else (0,):
            rows = [p.copy(order=order), q.copy(order=order)]
            rows[which][row, column] = -np.nan if row else np.nan
            got = case(*rows, labels=labels, given=space)
            assert np.isnan(got[row])
            assert_same_bits(np.delete(got, row), np.delete(whole, row))
            # NaN is canonical: its bits do not tell where it came from.
            assert_same_bits(got[row], np.asarray(np.nan, dtype)[()])
            assert np.isnan(case(*rows, labels=labels, given=space, reduction="mean"))


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_nan_in_a_vast_row_is_seen_wherever_it_is(dtype: Any) -> None:
    p = matrix(1, 5000, "logits", dtype)
    for column in (0, 2047, 2048, 4095, 4096, 4999):
        row = p.copy()
        row[0, column] = np.nan
        for case in CASES:
            assert np.isnan(case(row, row, labels=np.array([1]), given="logits")), (case, column)


# ------------------------------------------------------------------------------------------------- vast and tiny values


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("c", [2, 3, 17, 100])
def test_counts_whose_sum_leaves_the_range_of_the_dtype(c: int, dtype: Any) -> None:
    for value in (np.finfo(dtype).max, np.finfo(dtype).tiny, np.finfo(dtype).smallest_subnormal):
        p = np.full((2, c), value, dtype)
        exact = ENTROPY.exact(p, given="counts")
        check(ENTROPY, kb.entropy(p, given="counts"), exact, "counts", (p,))
        check(NLL, kb.nll(p, np.array([0, c - 1]), given="counts"), exact, "counts", (p,))
        assert np.array_equal(kb.kl_divergence(p, p, given="counts"), [0, 0])
        q = p.copy()
        q[:, 0] = p[:, 0] / 2 if value > 1e-30 else 2 * p[:, 0]
        for case in (*PAIRED, ENTROPY):
            for one, other in ((p, q), (q, p)):
                exact = case.exact(one, other, given="counts")
                check(case, case(one, other, given="counts"), exact, "counts", (one, other))


@pytest.mark.parametrize("dtype", FLOATS)
def test_counts_of_totals_as_far_apart_as_the_dtype_allows(dtype: Any) -> None:
    low, high = float(np.finfo(dtype).tiny), float(np.finfo(dtype).max) / 64
    shape = generator("totals").integers(1, 9, (2, 4, 12)).astype(np.float64)
    p, q = (shape[0] * low * 8).astype(dtype), (shape[1] * (high / 8)).astype(dtype)
    for case in PAIRED:
        for one, other in ((p, q), (q, p)):
            exact = case.exact(one, other, given="counts")
            check(case, case(one, other, given="counts"), exact, "counts", (one, other))


@pytest.mark.parametrize("scale", [0.9, 0.6, 0.3])
@pytest.mark.parametrize("step", [1e-2, 1e-3, 1e-5])
def test_nearly_proportional_counts_of_which_some_leave_the_usual_range(step: float, scale: float) -> None:
    """The factor between the totals needs more digits than an f32 has in every class, beyond 8e37 too."""
    rng = generator("beyond", step, scale)
    p = np.exp(rng.uniform(np.log(1e36), np.log(1.2e38), (40, 3)))
    p[:, 0] = rng.uniform(8.6e37, 1.2e38, 40)
    q = (p * scale * (1 + step * rng.standard_normal(p.shape))).astype(np.float32)
    p = p.astype(np.float32)
    for case in PAIRED:
        for one, other in ((p, q), (q, p)):
            exact = case.exact(one, other, given="counts")
            check(case, case(one, other, given="counts"), exact, "counts", (one, other))


@pytest.mark.parametrize("dtype", FLOATS)
def test_logits_as_large_as_the_dtype_allows(dtype: Any) -> None:
    top = float(np.finfo(dtype).max)
    p = np.array([[top, -top, 0], [top, top, -top], [0, -top, 0], [-top, -top, -top], [top, 0, top / 2]], dtype)
    q = np.array([[0, -top / 4, 1], [1, 2, 3], [0, top / 4, 0.5], [top, top, top], [top, 1, -top]], dtype)
    check(ENTROPY, kb.entropy(p, given="logits"), ENTROPY.exact(p, given="logits"), "logits", (p,))
    for case in PAIRED:
        assert not np.isnan(case(p, p, given="logits")).any()
        check(case, case(p, q, given="logits"), case.exact(p, q, given="logits"), "logits", (p, q))
    labels = np.array([0, 1, 2, 0, 0])
    check(NLL, kb.nll(p, labels, given="logits"), NLL.exact(p, labels=labels, given="logits"), "logits", (p,))
    assert np.array_equal(kb.kl_divergence(p, p, given="logits"), np.zeros(5))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_result_that_vanishes_in_a_naive_sum(case: Case, dtype: Any) -> None:
    """The sum of exponentials of a confident row rounds to 1: the value lies in what was lost."""
    gap = 40.0 if dtype == np.float32 else 80.0
    p = np.array([[0.0, -gap, -gap - 1], [-gap, 0.0, -gap], [-gap, -gap, 0.0]], dtype)
    q = np.array([[0.0, -gap + 1, -gap], [-gap, 0.0, -gap - 2], [-gap, -gap + 0.5, 0.0]], dtype)
    labels = np.array([0, 1, 2])
    got, exact = case(p, q, labels=labels, given="logits"), case.exact(p, q, labels=labels, given="logits")
    assert (got > 0).all()
    check(case, got, exact, "logits", (p, q))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("space", LINEAR)
def test_nearly_certain_probabilities(space: str, dtype: Any) -> None:
    rows = np.array([[0.9997, 1e-12], [1.0003, 1e-12], [1.0, 1e-20], [1e-12, 0.9999], [1.0, 0.0]], dtype)
    for case, q in ((ENTROPY, rows), (CROSS_ENTROPY, rows)):
        check(case, case(rows, q, given=space), case.exact(rows, q, given=space), space, (rows, q))
    labels = np.array([0, 0, 0, 1, 0])
    check(NLL, kb.nll(rows, labels, given=space), NLL.exact(rows, labels=labels, given=space), space, (rows,))


@pytest.mark.parametrize("c", [1, 2, 3, 16, 33, 1000])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("space", SPACES)
def test_a_one_hot_row_has_no_entropy_at_all(space: str, dtype: Any, c: int) -> None:
    for column in {0, c // 2, c - 1}:
        row = np.zeros((1, c)) if space in LINEAR else np.full((1, c), -INF)
        row[0, column] = {"probs": 1.0, "counts": 7.0, "log_probs": 0.0, "logits": 3.0}[space]
        row = row.astype(dtype)
        got = kb.entropy(row, given=space)
        assert got == 0 and not np.signbit(got), got


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("name", ["f4", "f8", "f2", "bf16"])
@pytest.mark.parametrize("c", [2, 3, 17, 100])
@pytest.mark.parametrize("sign", [-1, 1])
def test_probabilities_may_miss_1_by_their_precision(name: str, c: int, sign: int) -> None:
    tolerance = max({"f4": 2.0**-11.5, "f8": 2.0**-26, "f2": 2.0**-5, "bf16": 2.0**-3.5}[name], 1e-3)
    dtype = DTYPES[name]

    def row(share: float) -> np.ndarray:
        """Stored numbers whose exact sum is 1 + share·tolerance, as near as the dtype gets."""
        x = np.full((1, c), 2.0 ** -np.ceil(np.log2(c)))
        x[0, 0] += 1 - x.sum()
        for _ in range(3):
            stored = x.astype(dtype).astype(np.float64)
            x[0, 0] += 1 + sign * share * tolerance - stored.sum()
        x = x.astype(dtype)
        reached = sign * (x.astype(np.float64).sum() - 1) / tolerance
        assert abs(reached - share) < 0.08, reached
        return x

    within, beyond = row(0.9), row(1.1)
    q = np.full((1, c), 2.0 ** -np.ceil(np.log2(c)), np.float64)
    q[0, 0] += 1 - q.sum()
    q = q.astype(dtype)
    for case in CASES:
        labels = np.array([c - 1])
        # The value is that of the row divided by its sum.
        pairs = [(within, q)] if case.rows == 1 else [(within, q), (q, within)]
        for one, other in pairs:
            got = case(one, other, labels=labels)
            check(case, got, case.exact(one, other, labels=labels), "probs", (one, other))
            assert_same_bits(got, case(one, other, labels=labels, given="counts"), case)
        for one, other in [(beyond, q)] if case.rows == 1 else [(beyond, q), (q, beyond)]:
            with pytest.raises(ValueError, match='given="counts"'):
                case(one, other, labels=labels)


@pytest.mark.parametrize("name", ["f4", "f8", "f2", "bf16"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_log_probabilities_may_miss_0_by_their_precision(name: str, sign: int) -> None:
    tolerance = max({"f4": 2.0**-11.5, "f8": 2.0**-26, "f2": 2.0**-5, "bf16": 2.0**-3.5}[name], 1e-3)
    dtype = DTYPES[name]
    # ln ⅕ + s, so that logsumexp = s; two classes absorb the coarseness of 16-bit dtypes.
    for share, accepted in ((0.85, True), (1.15, False)):
        goal = sign * share * tolerance
        base = np.full((1, 5), np.log(0.2) + goal).astype(dtype)
        base[0, 4] = np.asarray(np.log(np.exp(goal) - np.exp(base[0, :4].astype(np.float64)).sum())).astype(dtype)
        reached = np.log(np.exp(base.astype(np.float64)).sum()) / (sign * tolerance)
        assert abs(reached - share) < 0.12, reached
        for case in CASES:
            if accepted:
                got = case(base, base, labels=np.array([0]), given="log_probs")
                exact = case.exact(base, base, labels=np.array([0]), given="log_probs")
                check(case, got, exact, "log_probs", (base, base))
                assert_same_bits(got, case(base, base, labels=np.array([0]), given="logits"))
            else:
                with pytest.raises(ValueError, match='given="logits"'):
                    case(base, base, labels=np.array([0]), given="log_probs")


def test_single_precision_rows_pass_when_widened() -> None:
    p = matrix(50, 1000, "probs", np.float32)
    assert np.isfinite(kb.entropy(p.astype(np.float64))).all()


INVALID: dict[str, list[tuple[str, Any, float]]] = {
    "probs": [("negative", None, -0.25), ("infinite", None, INF), ("minus infinity", None, -INF)],
    "counts": [("negative", None, -3.0), ("infinite", None, INF), ("minus infinity", None, -INF)],
    "log_probs": [("infinite", None, INF)],
    "logits": [("infinite", None, INF)],
}
REFUSED = [(space, *what) for space, kinds in INVALID.items() for what in kinds]


def words(error: BaseException) -> set[str]:
    """The words and numbers of a message."""
    return set(re.findall(r"[A-Za-z_]+|-?\d+(?:\.\d+)?(?:e-?\d+)?", str(error)))


@pytest.mark.parametrize(("space", "kind", "_unused", "value"), REFUSED, ids=str)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_invalid_value_is_named(
    case: Case, order: Any, dtype: Any, space: str, kind: str, _unused: None, value: float
) -> None:
    p, q = (matrix(60, 19, space, dtype, seed=i) for i in (0, 1))
    labels = generator("labels").integers(0, 19, 60)
    whole = case(p, q, labels=labels, given=space)
    for which, argument in enumerate(case.arguments):
        rows = [p.copy(order=order), q.copy(order=order)]
        if space in LINEAR:
            # A negative mass must be seen although the sum is right.
            rows[which][37, 2] -= dtype(value) - rows[which][37, 5] if np.isfinite(value) else 0
        rows[which][37, 5] = value
        with pytest.raises(ValueError) as caught:
            case(*rows, labels=labels, given=space)
        message = str(caught.value)
        assert {argument, "row", "37", "column", "5"} <= words(caught.value), message
        assert (f"{value:g}" if np.isfinite(value) else "inf") in message, message
        assert {"p": "q", "q": "p"}[argument] not in words(caught.value), message
        assert "given=" in message or "on_invalid=" in message, message
        got = case(*rows, labels=labels, given=space, on_invalid="nan")
        assert np.isnan(got[37])
        assert_same_bits(np.delete(got, 37), np.delete(whole, 37))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows_of_the_wrong_space_are_told_the_right_one(case: Case, dtype: Any) -> None:
    labels = np.zeros(9, int)
    for space, wrong, remedy in (("probs", "counts", 'given="counts"'), ("log_probs", "logits", 'given="logits"')):
        good, bad = matrix(9, 19, space, dtype), matrix(9, 19, space, dtype)
        bad[4] = matrix(9, 19, wrong, dtype, seed=5)[4] + (30 if wrong == "logits" else 0)
        for which, argument in enumerate(case.arguments):
            rows = [bad if i == which else good for i in (0, 1)]
            with pytest.raises(ValueError, match=re.escape(remedy)) as caught:
                case(*rows, labels=labels, given=space)
            assert {argument, "row", "4"} <= words(caught.value), str(caught.value)
            got = case(*rows, labels=labels, given=space, on_invalid="nan")
            whole = case(good, good, labels=labels, given=space)
            assert np.isnan(got[4])
            assert_same_bits(np.delete(got, 4), np.delete(whole, 4))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("space", SPACES)
def test_the_lowest_bad_row_is_named_and_bad_rows_are_counted(space: str, threads: int) -> None:
    x = matrix(40_000, 10, space, np.float32)
    bad = [17, 18_333, 18_334, 29_001, 39_999]
    x[bad, 3] = INF
    for case in CASES:
        rows = (x, x) if case.rows == 1 else (matrix(1, 10, space, np.float32), x)
        with pytest.raises(ValueError) as caught:
            case(*rows, labels=np.zeros(40_000, int), given=space, threads=threads)
        assert {"row", "17", "column", "3", "5"} <= words(caught.value), str(caught.value)
        got = case(*rows, labels=np.zeros(40_000, int), given=space, threads=threads, on_invalid="nan")
        assert np.array_equal(np.flatnonzero(np.isnan(got)), bad)


@pytest.mark.parametrize("case", PAIRED, ids=str)
@pytest.mark.parametrize("given", [("probs", "logits"), ("counts", "log_probs"), ("logits", "probs")], ids=str)
def test_every_row_of_a_mixed_pair_is_checked_by_its_own_rules(case: Case, given: tuple[str, str]) -> None:
    p, q = (matrix(20, 7, space, np.float32, seed=i) for i, space in enumerate(given))
    whole = case(p, q, given=given)
    for which in (0, 1):
        rows = [p.copy(), q.copy()]
        rows[which][13, 6] = INF
        with pytest.raises(ValueError) as caught:
            case(*rows, given=given)
        assert {case.arguments[which], "13", "6"} <= words(caught.value), str(caught.value)
        got = case(*rows, given=given, on_invalid="nan")
        assert np.isnan(got[13])
        assert_same_bits(np.delete(got, 13), np.delete(whole, 13))


def test_integers_as_probabilities_are_one_hot_or_refused() -> None:
    assert np.array_equal(kb.entropy(np.eye(4, dtype=np.int8)), np.zeros(4))
    assert np.array_equal(kb.entropy(np.eye(4, dtype=bool)), np.zeros(4))
    with pytest.raises(ValueError, match='given="counts"'):
        kb.entropy(np.array([[1, 2], [1, 0]]))
    with pytest.raises(ValueError, match="-1"):
        kb.entropy(np.array([[1, -1]]), given="counts")


def test_integer_logits_are_allowed() -> None:
    x = np.array([[0, 1, 2]])
    assert_same_bits(kb.entropy(x, given="logits"), kb.entropy(x.astype(np.float64), given="logits"))


@pytest.mark.parametrize("name", ["f2", "bf16"])
def test_half_precision_infinities_and_nans(name: str) -> None:
    dtype = DTYPES[name]
    x = np.array([[0, 1, 2], [0, np.nan, 1], [1, -INF, 0]]).astype(dtype)
    got = kb.entropy(x, given="logits")
    assert got.dtype == np.float32 and np.array_equal(np.isnan(got), [False, True, False])
    x[2, 1] = INF
    with pytest.raises(ValueError) as caught:
        kb.entropy(x, given="logits")
    assert {"row", "2", "column", "1"} <= words(caught.value)


# ----------------------------------------------------------------------------------------------------------- nll labels


@pytest.mark.parametrize("integer", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"])
def test_labels_of_any_integer_dtype(integer: str) -> None:
    q = matrix(30, 19, "logits")
    labels = generator("labels").integers(0, 19, 30)
    assert_same_bits(kb.nll(q, labels.astype(integer), given="logits"), kb.nll(q, labels, given="logits"))
    swapped = labels.astype(np.dtype(integer).newbyteorder())[::-1].copy()[::-1]
    assert_same_bits(kb.nll(q, swapped, given="logits"), kb.nll(q, labels, given="logits"))


@pytest.mark.parametrize("bad", [10, 12, -1, -100, np.iinfo(np.int64).max, np.iinfo(np.int64).min])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_label_out_of_range_is_named(bad: int, threads: int) -> None:
    q = matrix(20_000, 10, "logits")
    labels = np.zeros(20_000, np.int64)
    labels[[7, 19_000]] = bad
    with pytest.raises(IndexError, match=rf"label {bad} of row 7 is out of range for 10 classes"):
        kb.nll(q, labels, given="logits", threads=threads)
    with pytest.raises(IndexError):
        kb.nll(q, labels, given="logits", on_invalid="nan", ignore_index=-7, threads=threads)


def test_ignored_rows_stay_out_of_everything() -> None:
    q = matrix(10, 5, "probs")
    labels = np.array([0, 1, -100, 3, 4, -100, 1, 2, 3, 0])
    ignored = labels == -100
    q[2] = np.nan
    q[5] = -1
    got = kb.nll(q, labels, ignore_index=-100)
    assert np.array_equal(np.isnan(got), ignored)
    assert_same_bits(got[~ignored], kb.nll(q[~ignored], labels[~ignored]))
    mean = kb.nll(q, labels, ignore_index=-100, reduction="mean")
    assert_same_bits(mean, kb.nll(q[~ignored], labels[~ignored], reduction="mean"))
    # A label inside the range may be the ignored one.
    assert np.array_equal(np.isnan(kb.nll(q[~ignored], labels[~ignored], ignore_index=3)), labels[~ignored] == 3)
    assert np.isnan(kb.nll(q, np.full(10, 99), ignore_index=99, reduction="mean"))
    assert kb.nll(q, np.full(10, 99), ignore_index=99, reduction="sum") == 0


def test_results_are_of_the_promoted_dtype() -> None:
    names: dict[str, Any] = {
        "f2": "f2",
        "bf16": BF16,
        "f4": "f4",
        "f8": "f8",
        "?": "?",
        "i1": "i1",
        "u2": "u2",
        "i8": "i8",
    }
    for one in names.values():
        p = np.ones((2, 3), one)
        expected = result_dtype(one)
        assert kb.entropy(p, given="counts").dtype == expected
        assert kb.nll(p, np.array([0, 2]), given="counts").dtype == expected
        for other in names.values():
            q = np.ones((2, 3), other)
            try:
                expected = result_dtype(one, other)
            except TypeError:
                # Numpy itself promotes bfloat16 with few others: ours may be wider than nothing.
                expected = np.dtype(np.float32 if {one, other} == {"f2", BF16} else np.float64)
            for function in (kb.kl_divergence, kb.js_distance, kb.cross_entropy):
                got = function(p, q, given="counts").dtype
                assert got == expected, f"{one} with {other}: {got}, expected {expected}"


def test_lists_are_taken_as_numpy_takes_them() -> None:
    got = kb.kl_divergence([0.25, 0.75], [0.5, 0.5])
    assert isinstance(got, np.float64)
    assert_same_bits(got, kb.kl_divergence(np.array([0.25, 0.75]), np.array([0.5, 0.5])))


@pytest.mark.parametrize("space", LOGARITHMIC)
def test_log_rows_of_every_half_dtype_are_read_as_they_are(space: str) -> None:
    for name in ("f2", "bf16"):
        x = from_log(generator("half").standard_normal((5, 33)), space, DTYPES[name])
        assert_same_bits(kb.entropy(x, given=space), kb.entropy(x.astype(np.float32), given="logits"))


def test_divergences_of_a_row_against_itself_are_zero_in_every_case() -> None:
    for case in DIVERGENCES:
        for space in SPACES:
            p = matrix(3, 7, space)
            assert np.array_equal(case(p, p, given=space), np.zeros(3)), (case, space)
    assert JS_DISTANCE([0.5, 0.5], [0.5, 0.5]) == 0


# ---------------------------------------------------------------------------------- logarithms far from each other

FAR = (1e5, 1e9, 3e20, 1e30)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("offset", FAR)
def test_rows_at_offsets_far_from_each_other(offset: float, dtype: Any) -> None:
    """The gap of the log-sum-exps keeps the digits of the nearer row, however large it is."""
    rng = generator("offsets", offset)
    p = rng.normal(0, [[0.001], [1], [30]], (3, 40)).astype(dtype)
    q = np.zeros_like(p) + dtype(offset)
    for rows in ((p, q), (q, p), (p, -q)):
        for case in PAIRED:
            for temperature in (0.7, 1000.0):
                got = case(*rows, given="logits", temperature=temperature)
                exact = case.exact(*rows, given="logits", temperature=temperature)
                check(case, got, exact, "logits", rows)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("first", [-1e9, -3e38, 3e38])
def test_a_first_class_far_away_costs_no_digits_at_two_temperatures(first: float, dtype: Any) -> None:
    """Logits at two temperatures meet less an origin, and a masked class (which may hold anything) is a bad one."""
    rng = generator("origin", first)
    p, q = rng.normal(0, 3, (2, 3, 20)).astype(dtype)
    where = np.ones(20, bool)
    where[0] = first < 0
    p[:, 0] = q[:, 0] = first
    for case in PAIRED:
        keywords: Any = {"given": "logits", "temperature": (1.0, 2.0), "where": where}
        check(case, case(p, q, **keywords), case.exact(p, q, **keywords), "logits", (p, q))
    masses = rng.uniform(1, 2, p.shape).astype(dtype)
    for case in PAIRED:
        keywords = {"given": ("logits", "counts"), "temperature": (2.0, 1.0), "where": where}
        check(case, case(p, masses, **keywords), case.exact(p, masses, **keywords), ("logits", "counts"), (p, masses))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("temperature", [1e-30, 1e-200, (1e-30, 1.0), (1e-200, 1e-30), 1e30])
def test_temperatures_at_the_ends_of_what_is_accepted(temperature: Any, dtype: Any) -> None:
    # Of no more than 5 classes the largest is certain, or (at 1e30) all are alike.
    p = np.array([[1, 1e38, 0, 3, 2], [0.9999979734420776, 1, 1, 1, 0.5], [-3.4e19, -2e-14, 0, 7, 7]], dtype)
    q = np.array([[1, 1e38, 0, 2, 3], [1, 0.5, 1, 0.25, 1], [-3.41e19, -2e-14, 1, 7, 7]], dtype)
    for case in PAIRED:
        check(
            case,
            case(p, q, given="logits", temperature=temperature),
            case.exact(p, q, given="logits", temperature=temperature),
            "logits",
            (p, q),
        )


@pytest.mark.parametrize(("dtype", "middle"), [(np.float32, 4096), (np.float64, 2**20)])
@pytest.mark.parametrize("temperature", [1.0, 1000.0])
def test_rows_around_the_offset_from_which_one_is_taken_off(temperature: float, middle: int, dtype: Any) -> None:
    """The largest class just above the middle between two bases, the others below it: no difference may be rounded."""
    rng = generator("middle", middle, temperature)
    unit = 2.0 ** np.floor(np.log2(2 * middle * temperature))
    below = -temperature * rng.exponential([[1], [10], [40]], (3, 5))
    x = (np.concatenate([below, 0.01 * temperature + np.zeros((3, 1))], 1) + unit / 2).astype(dtype)
    for sign in (1, -1):
        rows = x + (sign - 1) / 2 * dtype(unit)
        for case in (ENTROPY, CROSS_ENTROPY):
            exact = case.exact(rows, rows, given="logits", temperature=temperature)
            check(case, case(rows, rows, given="logits", temperature=temperature), exact, "logits", (rows, rows))


def test_a_tiny_entropy_at_a_tiny_temperature() -> None:
    """Neither a mass of e⁻⁶⁶⁰ nor a distance of 660 temperatures of 1e-200 is small; their product is subnormal."""
    x = np.array([[0, -660e-200], [-600e-200, 0]])
    for case in (ENTROPY, CROSS_ENTROPY):
        exact = case.exact(x, x, given="logits", temperature=1e-200)
        check(case, case(x, x, given="logits", temperature=1e-200), exact, "logits", (x, x))


def test_a_block_of_classes_far_below_adds_nothing_to_an_entropy() -> None:
    """A row is summed in blocks of 2048 classes: the mass of one times its distance overflows before it vanishes."""
    x = np.full((2, 4100), -1e305)
    x[0, 0] = x[1, 4000] = 1000
    for case in (ENTROPY, CROSS_ENTROPY):
        assert np.array_equal(case(x, x, given="logits"), np.zeros(2))


@pytest.mark.parametrize("heavy", [0, 4000])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_block_without_mass_to_speak_of_far_from_the_other_row(dtype: Any, heavy: int) -> None:
    """Beside its mean distance of 1e68 temperatures its mass in the other row, which counts, is nothing."""
    p, q = np.zeros((2, 3, 4100), dtype)
    p[:, heavy] = 2147483647
    q[0, [7, 3007]] = p[0, 1:3000:3] = -3e38
    q[1, [7, 3007]] = -1e270 if dtype == np.float64 else -3e37
    q[2, [7, 3007]] = -np.inf
    keywords: Any = {"given": "logits", "temperature": 1e-30}
    for rows in ((p, q), (q, p)):
        for case in PAIRED:
            check(case, case(*rows, **keywords), case.exact(*rows, **keywords), "logits", rows)
    # A distance that overflows may be +inf.
    q = np.where(q < -1e37, -1e300, q.astype(np.float64))
    assert not np.isnan(kb.kl_divergence(p, q, **keywords)).any()


# ----------------------------------------------------------------------------------- counts at the ends of a dtype


@pytest.mark.parametrize("total", [1e-18, 1e-24, 1e-30, 1e-36])
def test_close_counts_of_tiny_totals(total: float) -> None:
    """What a class adds to a divergence of close rows is 1e-15 of its mass: subnormal where the mass is 1e-30."""
    rng = generator("tiny totals", total)
    p = (rng.dirichlet(np.ones(17), 8) * total).astype(np.float32)
    for q in (np.nextafter(p, np.float32(1)), (p * (1 + 1e-4 * rng.standard_normal(p.shape))).astype(np.float32)):
        for case in DIVERGENCES:
            exact = case.exact(p, q, given="counts")
            check(case, case(p, q, given="counts"), exact, "counts", (p, q))


def test_counts_whose_range_one_scale_cannot_hold() -> None:
    """Support is read off the counts, even of a share of 1e-610."""
    p = np.array([[1, 1e300], [1, 1], [3, 1000], [5e-324, 1e300], [1e308, 2e-4], [5e-324, 1e300], [2.0, 0.0]])
    q = np.array([[1, 1e300], [5e-324, 1e300], [5e-324, 5e-324], [1, 1e-300], [1e300, 1e298], [0, 1], [5e-324, 0.0]])
    for case in PAIRED:
        for rows in ((p, q), (q, p)):
            check(case, case(*rows, given="counts"), case.exact(*rows, given="counts"), "counts", rows)


def test_blocks_of_counts_whose_range_one_scale_cannot_hold() -> None:
    """Rows are summed in blocks of 2048 classes: from one to another the factor of q underflows, its logarithm not."""
    p, q = np.zeros((2, 3, 2050))
    q[:], q[:, 1424] = 1e-60, 1e308
    for row, (mass, other) in enumerate([(1, 6e-77), (8e-45, 6e-77), (1, 1e-16)]):
        p[row, 2049], q[row, 2049] = mass, other
    for case in PAIRED:
        check(case, case(p, q, given="counts"), case.exact(p, q, given="counts"), "counts", (p, q))


def test_a_negative_count_next_to_nothing_is_refused_by_every_measure() -> None:
    """Beside a count of 1e22 it vanishes, but it is no count."""
    row = np.array([[1.0, -2.5e-26, 2e-22, 6e22]], np.float32)
    for case in CASES:
        with pytest.raises(ValueError, match=r"row 0 column 1 is -2\.5\d*e-26"):
            case(row, row, labels=np.array([3]), given="counts")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("low", [-100, -800, -1e9, -3e38])
def test_a_block_of_classes_that_only_one_row_has(low: float, dtype: Any) -> None:
    """Rows are summed in blocks of 2048 classes, each about its own maxima: here as far apart as can be."""
    rng = generator("blocks", low)
    p = rng.normal(size=(6, 6144)).astype(dtype)
    q = (p + 0.01 * rng.normal(size=p.shape)).astype(dtype)
    p[0, 4096:] = p[1, :4096] = q[2, 4096:] = q[3, 2048:4096] = dtype(low)
    p[4], q[4] = 0, 0
    p[4, 0] = min(-low, 1e37)
    q[5, :2048], p[5, 4096:] = low, -np.inf
    for rows in ((p, q), (q, p)):
        for case in PAIRED:
            check(case, case(*rows, given="logits"), case.exact(*rows, given="logits"), "logits", rows)
        assert np.array_equal(kb.kl_divergence(rows[0], rows[0], given="logits"), np.zeros(6))


@pytest.mark.parametrize("dtype", FLOATS)
def test_blocks_whose_largest_classes_differ(dtype: Any) -> None:
    """Each block has its own distance of the maxima: what is re-centred by e^8 brings its roundings along."""
    rng = generator("apart", dtype)
    p = rng.normal(size=(8, 5000)) * np.array([1, 1, 1, 0, 1e-3, 1e-3, 1, 1])[:, np.newaxis]
    q = p + rng.normal(size=p.shape) * np.array([0.3, 0.3, 0.01, 0, 10, 30, 5, 10])[:, np.newaxis]
    q[:3, 3000] += [8.3, -8.3, 4]
    p[:3, 3000] = [0, 0, 9]
    q[3] = (np.arange(5000) * 0.618034 % 1) * -200
    q[3, [0, 3000]] = 0, 8.3
    rows = (p.astype(dtype), q.astype(dtype))
    for pair in (rows, rows[::-1]):
        for case in PAIRED:
            check(case, case(*pair, given="logits"), case.exact(*pair, given="logits"), "logits", pair)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("offset", [-1e3, -3e20, 1e3, 3e20])
def test_blocks_without_mass_in_one_row(offset: float, dtype: Any) -> None:
    """Of a block of −inf the maximum says nothing, though the logits of the others may be far from 0."""
    rng = generator("no mass", offset)
    p = (rng.normal(size=(4, 6144)) + offset).astype(dtype)
    q = rng.normal(size=p.shape).astype(dtype)
    p[0, :2048] = p[1, 4096:] = p[2, :4096] = p[3, 2048:] = -np.inf
    q[3, 2048:4096] = -np.inf
    for rows in ((p, q), (p, q + dtype(offset)), (p, q - dtype(offset)), (q, p)):
        for case in PAIRED:
            check(case, case(*rows, given="logits"), case.exact(*rows, given="logits"), "logits", rows)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("height", [13.4, 41.7, 300.0])
def test_a_largest_class_in_another_block(height: float, temperature: float, dtype: Any) -> None:
    """All other mass comes from blocks far below it, by a factor whose rounding every class would share."""
    rng = generator("far blocks", height)
    p, q = (rng.normal(size=(3, 6150)).astype(dtype) for _ in range(2))
    p[[0, 1, 2], [6149, 3000, 0]] += dtype(height)
    q[[0, 1, 2], [6149, 0, 3000]] += dtype(height)
    labels = np.array([6149, 0, 0])
    for case in CASES:
        keywords: Any = {"given": "logits", "temperature": temperature, "labels": labels}
        check(case, case(p, q, **keywords), case.exact(p, q, **keywords), "logits", (p, q))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("low", [-700, -800, -1e4, -3e38])
def test_a_block_without_mass_before_one_far_below(low: float, dtype: Any) -> None:
    """From the frame of the first, which says nothing, to that of the second there may be no finite factor."""
    rng = generator("nothing first", low)
    p = rng.normal(size=(2, 6150)).astype(dtype)
    q = rng.normal(size=p.shape).astype(dtype)
    for x in (p, q):
        x[:, :2048], x[:, 2048:4096] = -np.inf, dtype(low)
    r = stored(np.full(6150, 1 / 6150), "probs", dtype) * np.ones((2, 1), dtype)
    for case in CASES:
        for given, rows in {"logits": (p, q), ("logits", "probs"): (p, r), ("probs", "logits"): (r, q)}.items():
            if case.rows == 2 or given == "logits":
                keywords: Any = {"given": given, "labels": np.array([0, 4096])}
                check(case, case(*rows, **keywords), case.exact(*rows, **keywords), given, rows)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("temperature", [1.0, 1000.0])
def test_a_few_classes_of_many_that_differ(temperature: float, dtype: Any) -> None:
    """A block that holds one of them lies about its maxima at a gap that all its classes share, and the row hardly."""
    rng = generator("few differ", temperature)
    p = (0.5 * rng.normal(size=(4, 20490))).astype(dtype)
    p[:, [5000, 15000]] += np.array([4.0, 3.5], dtype)
    q = p.copy()
    q[0, [5000, 15000]] = p[0, [15000, 5000]]
    q[1, 5000] += dtype(0.1)
    q[2, [5000, 15000]] += np.array([0.3, -0.2], dtype)
    q[3, ::4096] += dtype(6)
    keywords: Any = {"given": "logits", "temperature": temperature}
    for rows in ((p, q), (q, p)):
        for case in DIVERGENCES:
            check(case, case(*rows, **keywords), case.exact(*rows, **keywords), "logits", rows)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("c", [2, 17, 4100])
def test_logits_against_confident_probabilities(c: int, dtype: Any) -> None:
    """Their cross entropy is next to nothing, and by logarithms of the probabilities would miss it by ulp of 20."""
    rng = generator("confident", c)
    q = rng.random((6, c)).astype(dtype)
    q[:, c // 2] = np.array([1e3, 1e6, 1e9, 1e12, 1e15, 1e18], dtype)
    p = rng.normal(size=q.shape).astype(dtype)
    p[:3] = -np.inf
    p[:, c // 2] = np.array([0, 700, -5, 40, 20, 60], dtype)
    for given in (("logits", "counts"), ("counts", "logits")):
        rows = (p, q) if given[0] == "logits" else (q, p)
        for temperature in (1.0, 0.7):
            keywords: Any = {"given": given, "temperature": tuple(temperature if x == "logits" else 1.0 for x in given)}
            check(CROSS_ENTROPY, CROSS_ENTROPY(*rows, **keywords), CROSS_ENTROPY.exact(*rows, **keywords), given, rows)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("c", [5, 20, 125])
def test_a_nan_outweighs_a_class_out_of_support(dtype: str, c: int) -> None:
    p = np.full((1, c), 2.0, dtype)
    for zero, nan in ((0, c - 1), (c - 1, 0), (1, 3)):
        q = np.arange(1, c + 1, dtype=dtype)[None]
        q[0, zero], q[0, nan] = 0, np.nan
        for function in (kb.cross_entropy, kb.kl_divergence):
            assert np.isnan(function(p, q, given="counts")).all(), (function, zero, nan)
