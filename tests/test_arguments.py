"""Every keyword: what it means, what it accepts, and what the error says about what it does not."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import kullback as kb
import numpy as np
import pytest
from arrays import matrix
from cases import CASES, CROSS_ENTROPY, ENTROPY, JS_DISTANCE, KL, NLL, PAIRED, Case, assert_same_bits
from kullback import _core, functional
from reference import SPACES, ulp

ONE = [case for case in CASES if case.rows == 1]
LABELS = np.array([0, 2, 1, 1])


def rows(space: str = "probs", dtype: Any = np.float32) -> tuple[np.ndarray, np.ndarray]:
    p, q = (matrix(4, 3, space, dtype, seed) for seed in (0, 1))
    return p, q


def call(case: Case, space: str = "probs", **keywords: Any) -> Any:
    """A call on four rows of three classes."""
    return case(*rows(space), labels=LABELS, given=space, **keywords)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_signatures(case: Case) -> None:
    """Positional where the mathematics is, keywords otherwise, in the documented order and with those defaults."""
    parameters = inspect.signature(case.function).parameters
    positional = [n for n, x in parameters.items() if x.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert positional == (["q", "labels"] if case.labels else list(case.arguments))
    keywords = {n: x.default for n, x in parameters.items() if x.kind is inspect.Parameter.KEYWORD_ONLY}
    assert keywords == ({"ignore_index": None} if case.labels else {}) | {
        "given": "probs",
        "dtype": None,
        "axis": -1,
        "keepdims": False,
        "base": None,
        "temperature": 1.0,
        "reduction": "none",
        "where": None,
        "rows": None,
        "on_invalid": "raise",
        "out": None,
        "threads": None,
    }
    with pytest.raises(TypeError):
        case(*rows(), labels=LABELS, unknown=1)
    for name in ("Parameters", "Returns", "Examples"):
        assert name in str(case.function.__doc__)
    assert "nats" in str(case.function.__doc__)


def test_the_arguments_have_names() -> None:
    p, q = rows()
    assert_same_bits(kb.entropy(p=p), kb.entropy(p))
    assert_same_bits(kb.kl_divergence(q=q, p=p), kb.kl_divergence(p, q))
    assert_same_bits(kb.nll(labels=LABELS, q=q), kb.nll(q, LABELS))


@pytest.mark.parametrize(
    ("keyword", "wrong", "valid"),
    [
        ("given", "prob", ["probs", "counts", "log_probs", "logits"]),
        ("reduction", "batchmean", ["none", "sum", "mean"]),
        ("on_invalid", "ignore", ["raise", "nan"]),
    ],
)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_unknown_option_lists_the_valid_ones(case: Case, keyword: str, wrong: str, valid: list[str]) -> None:
    with pytest.raises(ValueError, match=keyword) as caught:
        case(*rows(), labels=LABELS, **{keyword: wrong})
    for name in (wrong, *valid):
        assert name in str(caught.value)
    for other in (3, None, ["none"]):
        with pytest.raises((TypeError, ValueError), match=keyword):
            case(*rows(), labels=LABELS, **{keyword: other})


# ---------------------------------------------------------------------------------------------------------------- given


def test_given_may_be_a_pair_for_two_rows() -> None:
    p, q = rows()
    for case in PAIRED:
        for space in SPACES:
            one, other = rows(space)
            assert_same_bits(case(one, other, given=(space, space)), case(one, other, given=space))
        with pytest.raises(ValueError, match="given"):
            case(p, q, given=("probs", "prob"))
        for wrong in (("probs",), ("probs", "probs", "probs"), ()):
            with pytest.raises(ValueError, match="given"):
                case(p, q, given=wrong)
    for case in ONE:
        with pytest.raises((TypeError, ValueError), match="given"):
            case(p, q, labels=LABELS, given=("probs", "probs"))


P = np.array([[0.5, 0.5], [0.2, 0.8]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: kb.entropy(P, keepdims=1), TypeError, "keepdims must be True or False, got int"),
        (
            lambda: kb.kl_divergence(P, P, given=["probs", "logits"]),
            TypeError,
            "a name or a tuple of two names, got list",
        ),
        (lambda: kb.entropy(P, given="logits", temperature=[1, 2]), TypeError, "a number or a tuple of two, got list"),
        (lambda: kb.entropy(P, given="logits", temperature=1e-300), ValueError, "1e290, got 1e-300"),
        (lambda: kb.entropy(P, base="2"), TypeError, r"base must be None \(nats\) or a number > 0 .*, got str"),
        (lambda: kb.js_distance(P, P, base=0.5), ValueError, "base must be > 1 for a distance, got 0.5"),
        (lambda: kb.entropy(P, threads=2**70), ValueError, f"threads must be None or an int >= 1, got {2**70}"),
        (lambda: kb.set_num_threads(0), ValueError, "n must be an int >= 1, got 0"),
        (lambda: kb.set_num_threads(None), TypeError, "n must be an int >= 1, got None"),  # type: ignore[arg-type]
        (lambda: kb.entropy(P, where=[1, 0]), TypeError, "where must be boolean, got int64"),
        (lambda: kb.entropy(P, rows=np.ones(2, "f4")), TypeError, "rows must be boolean, got float32"),
        (lambda: kb.nll(P, [0.0, 1.0]), TypeError, "labels must be integers, one class a row, got float64"),
        (lambda: kb.entropy(P, out=[0.0, 0.0]), TypeError, "tensor of float64, got list"),
        (lambda: kb.entropy([[1.0, -1e-300]]), ValueError, "column 1 is -1e-300, where"),
        (lambda: kb.entropy([[1.0, 1e300]]), ValueError, "row 0 sums to 1e300, where"),
        (lambda: kb.entropy([[-1e300, -1e300]], given="log_probs"), ValueError, "the log-sum-exp -1e300, where"),
    ],
)
def test_messages_say_what_came_and_what_is_accepted(call: Callable[[], Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


# ----------------------------------------------------------------------------------------------------------------- axis


@pytest.mark.parametrize("axis", [None, (0,), (0, 1), (), True, False, 1.0, "1", [1]], ids=repr)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_axis_is_one_int(case: Case, axis: Any) -> None:
    with pytest.raises(TypeError, match="axis"):
        call(case, axis=axis)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_axis_must_exist(case: Case) -> None:
    for axis in (2, -3, 100, -100):
        with pytest.raises(ValueError, match="axis"):
            call(case, axis=axis)
    for axis in (np.int64(1), np.int8(-1), 1):
        assert_same_bits(call(case, axis=axis), call(case))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_number_is_no_row(case: Case) -> None:
    for zero in (np.float32(1), np.array(1.0), 1.0):
        with pytest.raises(ValueError):
            case(zero, zero, labels=np.array(0))
    if case.rows == 2:
        for one, other in ((rows()[0], np.array(1.0)), (np.array(1.0), rows()[0])):
            with pytest.raises(ValueError):
                case(one, other)


@pytest.mark.parametrize("case", PAIRED, ids=str)
def test_the_numbers_of_classes_must_be_equal(case: Case) -> None:
    """Even 1 against C, which numpy would broadcast: it is nearly always a slip."""
    p = matrix(4, 3, "probs")
    for other in (
        np.ones((4, 1), np.float32),
        matrix(4, 2, "probs"),
        np.ones(1, np.float32),
        np.empty((4, 0), np.float32),
    ):
        for one, two in ((p, other), (other, p)):
            with pytest.raises(ValueError) as caught:
                case(one, two)
            assert str(one.shape[-1]) in str(caught.value) and str(two.shape[-1]) in str(caught.value)


@pytest.mark.parametrize("case", PAIRED, ids=str)
def test_leading_axes_must_broadcast(case: Case) -> None:
    for one, other in (((4, 3), (5, 3)), ((2, 4, 3), (3, 4, 3)), ((4, 3), (0, 3)), ((2, 4, 3), (2, 3))):
        p, q = np.full(one, 1 / 3, np.float32), np.full(other, 1 / 3, np.float32)
        with pytest.raises(ValueError) as caught:
            case(p, q)
        assert "q" in str(caught.value)
        assert str(one[0]) in str(caught.value) and str(other[0]) in str(caught.value)


# ----------------------------------------------------------------------------------------------------------------- base


@pytest.mark.parametrize("base", [2, 10.0, np.float32(3), np.e, 0.5, 1e300])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_base_divides_before_the_root(case: Case, dtype: str, base: float) -> None:
    for space in SPACES:
        p, q = rows(space, dtype)
        nats = case(p, q, labels=LABELS, given=space)
        unit = np.log(float(base))
        if case.root:
            if unit < 0:
                continue
            unit = np.sqrt(unit)
        got = case(p, q, labels=LABELS, given=space, base=base)
        assert got.dtype == nats.dtype
        expected = nats.astype(np.float64) / unit
        assert (np.abs(got - expected) <= 2 * ulp(expected, dtype)).all()
        mean = case(p, q, labels=LABELS, given=space, base=base, reduction="mean")
        np.testing.assert_allclose(mean, expected.mean(), rtol=3 * np.finfo(dtype).eps)


@pytest.mark.parametrize("base", [0, 1, -2, 0.0, 1.0, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_logarithm_has_this_base(case: Case, base: float) -> None:
    with pytest.raises(ValueError, match="base"):
        call(case, base=base)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_base_is_a_number(case: Case) -> None:
    for base in ("2", "e", [2], (2, 2), 2j):
        with pytest.raises(TypeError, match="base"):
            call(case, base=base)


def test_infinity_stays_infinity_in_any_base() -> None:
    assert kb.kl_divergence([0.5, 0.5], [1, 0], base=2) == np.inf
    assert kb.nll([1.0, 0.0], 1, base=10) == np.inf


# ---------------------------------------------------------------------------------------------------------- temperature


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_temperature_that_is_a_power_of_two_divides_exactly(case: Case, dtype: str) -> None:
    p, q = (matrix(20, 33, "logits", dtype, seed) for seed in (0, 1))
    labels = np.arange(20)
    keywords = {"labels": labels, "given": "logits"}
    tolerance = {"rtol": 8 * np.finfo(dtype).eps if case in (*ONE, CROSS_ENTROPY) else {"f4": 1e-6, "f8": 2e-13}[dtype]}
    for t in (0.5, 2.0, 4.0):
        got = case(p, q, temperature=t, **keywords)
        np.testing.assert_allclose(got, case(p / p.dtype.type(t), q / q.dtype.type(t), **keywords), **tolerance)
    assert_same_bits(case(p, q, temperature=1, **keywords), case(p, q, **keywords))
    assert_same_bits(case(p, q, temperature=np.float32(2), **keywords), case(p, q, temperature=2.0, **keywords))
    if case.rows == 2:
        got = case(p, q, temperature=(2.0, 0.5), **keywords)
        np.testing.assert_allclose(got, case(p / p.dtype.type(2), q * q.dtype.type(2), **keywords), **tolerance)
        assert_same_bits(case(p, q, temperature=(2.0, 2.0), **keywords), case(p, q, temperature=2.0, **keywords))
    else:
        with pytest.raises((TypeError, ValueError), match="temperature"):
            case(p, q, temperature=(1.0, 2.0), **keywords)


@pytest.mark.parametrize("temperature", [0, -1.0, np.nan, np.inf, 0.0])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_such_temperature(case: Case, temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        call(case, "logits", temperature=temperature)
    if case.rows == 2:
        for pair in ((1.0, temperature), (temperature, 1.0)):
            with pytest.raises(ValueError, match="temperature"):
                call(case, "logits", temperature=pair)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_temperature_is_a_number_or_a_pair(case: Case) -> None:
    for wrong in ("1", None, 1j):
        with pytest.raises(TypeError, match="temperature"):
            call(case, "logits", temperature=wrong)
    if case.rows == 2:
        for wrong in ((1.0,), (1.0, 1.0, 1.0)):
            with pytest.raises(ValueError, match="temperature"):
                call(case, "logits", temperature=wrong)


@pytest.mark.parametrize("space", ["probs", "counts", "log_probs"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_only_logits_have_a_temperature(case: Case, space: str) -> None:
    with pytest.raises(ValueError, match="temperature") as caught:
        call(case, space, temperature=2.0)
    assert "logits" in str(caught.value)
    assert_same_bits(call(case, space, temperature=1.0), call(case, space))
    if case.rows == 2:
        with pytest.raises(ValueError, match="temperature"):
            case(rows(space)[0], rows("logits")[1], given=(space, "logits"), temperature=(2.0, 1.0))


# ------------------------------------------------------------------------------------------------------------ reduction


@pytest.mark.parametrize("case", CASES, ids=str)
def test_reductions_give_scalars_and_take_no_out(case: Case) -> None:
    values = call(case)
    for reduction, expected in (("sum", values.sum(dtype=np.float64)), ("mean", values.mean(dtype=np.float64))):
        got = call(case, reduction=reduction)
        assert isinstance(got, np.float32)
        np.testing.assert_allclose(got, expected, rtol=3e-7)
        with pytest.raises(ValueError, match="out"):
            call(case, reduction=reduction, out=np.empty((), np.float32))
        with pytest.raises(ValueError, match="out"):
            call(case, reduction=reduction, out=np.empty(4, np.float32))
        with pytest.raises(ValueError, match="keepdims"):
            call(case, reduction=reduction, keepdims=True)
    assert_same_bits(call(case, reduction="none"), values)


def test_the_reduction_of_a_single_row_is_its_value() -> None:
    for case in CASES:
        for space in SPACES:
            p, q = (x[0] for x in rows(space))
            value = case(p, q, labels=np.array(1), given=space)
            for reduction in ("sum", "mean"):
                assert_same_bits(case(p, q, labels=np.array(1), given=space, reduction=reduction), value)


def test_an_infinite_row_makes_an_infinite_mean_and_a_nan_row_a_nan() -> None:
    p, q = np.array([[0.5, 0.5]] * 3), np.array([[0.5, 0.5], [1, 0], [0.25, 0.75]])
    assert kb.kl_divergence(p, q, reduction="mean") == kb.kl_divergence(p, q, reduction="sum") == np.inf
    q[2] = np.nan
    assert np.isnan(kb.kl_divergence(p, q, reduction="mean"))


# ---------------------------------------------------------------------------------------------------------- where, rows


@pytest.mark.parametrize("shape", [(4,), (2,), (1,), (4, 2), (4, 1), (3, 3), (5, 3), (1, 4, 3), (), (0,)], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_where_is_about_classes(case: Case, shape: tuple[int, ...]) -> None:
    """1-D of length C, or as many axes as p: anything else names `rows`, which is what was meant."""
    with pytest.raises(ValueError, match="where") as caught:
        call(case, where=np.ones(shape, bool))
    assert "rows" in str(caught.value)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_masks_are_boolean(case: Case) -> None:
    for dtype in (np.int64, np.float32, np.uint8, object):
        with pytest.raises(TypeError, match="where"):
            call(case, where=np.ones(3, dtype))
        with pytest.raises(TypeError, match="rows"):
            call(case, rows=np.ones(4, dtype))
    # Lists of booleans are arrays of booleans.
    assert_same_bits(call(case, where=[True, True, True]), call(case, where=np.ones(3, bool)))
    assert_same_bits(call(case, rows=[True, False, True, True]), call(case, rows=np.array([True, False, True, True])))


@pytest.mark.parametrize("shape", [(3,), (5,), (4, 1), (1, 4), (1,), (), (4, 3)], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows_has_the_shape_of_the_result(case: Case, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="rows") as caught:
        call(case, rows=np.ones(shape, bool))
    assert "(4,)" in str(caught.value)


def test_rows_of_a_broadcast_result() -> None:
    p, q = matrix(4, 3, "probs").reshape(4, 1, 3), matrix(5, 3, "probs", seed=1)
    counting = np.arange(20).reshape(4, 5) % 3 != 0
    whole = kb.kl_divergence(p, q)
    got = kb.kl_divergence(p, q, rows=counting)
    assert_same_bits(got[counting], whole[counting])
    assert np.isnan(got[~counting]).all()
    one = kb.kl_divergence(p[0, 0], q[0], rows=np.array(True))
    assert_same_bits(one, whole[0, 0])
    assert np.isnan(kb.kl_divergence(p[0, 0], q[0], rows=np.array(False)))


def test_the_rows_that_do_not_count_are_not_in_the_mean() -> None:
    for case in CASES:
        values = call(case)
        counting = np.array([True, False, False, True])
        np.testing.assert_allclose(call(case, rows=counting, reduction="mean"), values[[0, 3]].mean(), rtol=3e-7)
        np.testing.assert_allclose(call(case, rows=counting, reduction="sum"), values[[0, 3]].sum(), rtol=3e-7)


# ------------------------------------------------------------------------------------------------------------------ out


@pytest.mark.parametrize("case", CASES, ids=str)
def test_out_has_the_right_shape(case: Case) -> None:
    for shape in ((3,), (5,), (1, 4), (4, 1), (), (1,), (0,)):
        out = np.full(shape, 7, np.float32)
        with pytest.raises(ValueError, match="out") as caught:
            call(case, out=out)
        assert "(4,)" in str(caught.value)
        assert (out == 7).all()
    with pytest.raises(ValueError, match="out"):
        call(case, keepdims=True, out=np.empty(4, np.float32))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_out_has_the_right_dtype(case: Case) -> None:
    for dtype in (np.float64, np.float16, np.int32, np.complex64, bool, object, ">f4"):
        with pytest.raises(TypeError, match="out") as caught:
            call(case, out=np.zeros(4, dtype))
        assert "float32" in str(caught.value)
    with pytest.raises(TypeError, match="out"):
        call(case, out=[0.0] * 4)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_out_is_writeable(case: Case) -> None:
    out = np.full(4, 7, np.float32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out") as caught:
        call(case, out=out)
    assert "read-only" in str(caught.value) or "writeable" in str(caught.value) or "writable" in str(caught.value)
    assert (out == 7).all()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_out_overlaps_no_input(case: Case) -> None:
    for place in (np.s_[0, :4], np.s_[:, 0], np.s_[3, 4:], np.s_[::-1, 1], np.s_[1, ::2]):
        for which in range(case.rows):
            operands = [matrix(4, 8, "logits", seed=seed) for seed in (0, 1)]
            before = [x.tobytes() for x in operands]
            with pytest.raises(ValueError, match="out") as caught:
                case(*operands, labels=LABELS, given="logits", out=operands[which][place])
            assert "overlap" in str(caught.value) or "memory" in str(caught.value), str(caught.value)
            assert [x.tobytes() for x in operands] == before


def test_out_beside_an_input_is_refused_or_right() -> None:
    """A column of the same block shares no element with the rows, but lies between them."""
    block = np.zeros((4, 10), np.float32)
    block[:, :9] = matrix(4, 9, "logits")
    for case in CASES:
        expected = case(block[:, :9].copy(), block[:, :9].copy(), labels=LABELS, given="logits")
        try:
            case(block[:, :9], block[:, :9], labels=LABELS, given="logits", out=block[:, 9])
        except ValueError as error:
            assert "out" in str(error)
        else:
            assert_same_bits(block[:, 9].copy(), expected)
    behind = np.zeros(40, np.float32)
    behind[:36] = matrix(4, 9, "logits").reshape(-1)
    for case in CASES:
        x = behind[:36].reshape(4, 9)
        assert_same_bits(
            case(x, x, labels=LABELS, given="logits", out=behind[36:]), case(x, x, labels=LABELS, given="logits")
        )


def test_out_that_steps_on_itself_is_refused() -> None:
    out = np.broadcast_to(np.zeros(1, np.float32), (4,))
    with pytest.raises(ValueError, match="out"):
        call(ENTROPY, out=out)
    tied = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (4,), (0,), writeable=True)
    with pytest.raises(ValueError, match="out"):
        call(ENTROPY, out=tied)


def test_out_overlapping_labels_or_masks_is_refused_or_harmless() -> None:
    p, _ = rows()
    raw = np.zeros(4, np.int32)
    raw[:] = LABELS
    expected = kb.nll(p, LABELS)
    try:
        kb.nll(p, raw, out=raw.view(np.float32))
    except ValueError as error:
        assert "out" in str(error)
    else:
        assert_same_bits(raw.view(np.float32), expected)


# -------------------------------------------------------------------------------------------------------------- threads


@pytest.mark.parametrize("case", CASES, ids=str)
def test_threads_is_an_int_of_at_least_one(case: Case) -> None:
    for wrong in (0, -1, -100):
        with pytest.raises(ValueError, match="threads"):
            call(case, threads=wrong)
    for wrong in ("2", 1.5, [1], 2j):
        with pytest.raises(TypeError, match="threads"):
            call(case, threads=wrong)
    for right in (1, 2, 64, np.int64(2)):
        assert_same_bits(call(case, threads=right), call(case))


# -------------------------------------------------------------------------------------------------------- what is taken


@pytest.mark.parametrize(
    "wrong",
    [
        np.ones((4, 3), np.complex64),
        np.ones((4, 3), np.complex128),
        np.ones((4, 3), np.longdouble),
        np.ones((4, 3), object),
        np.full((4, 3), "1"),
        np.full((4, 3), b"1"),
        np.ones((4, 3), "m8[s]"),
        np.ones((4, 3), "M8[s]"),
        np.zeros((4, 3), [("x", "f4")]),
        "0.5",
        None,
        {"a": 1},
    ],
    ids=lambda x: str(getattr(x, "dtype", x)),
)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_no_real_number_of_64_bits_is_a_type_error(case: Case, wrong: Any) -> None:
    if isinstance(wrong, np.ndarray) and wrong.dtype == np.longdouble and np.longdouble is np.float64:
        pytest.skip("longdouble is double here")
    good = rows()[0]
    for which, argument in enumerate(case.arguments):
        operands = [good, good]
        operands[which] = wrong
        with pytest.raises(TypeError) as caught:
            case(*operands, labels=LABELS)
        assert argument in str(caught.value)
        if isinstance(wrong, np.ndarray):
            shown = {"object": "object", "complex64": "complex64", "complex128": "complex128"}.get(wrong.dtype.name, "")
            assert shown in str(caught.value)


def test_masked_arrays_are_not_read_as_if_they_were_whole() -> None:
    masked = np.ma.masked_array(rows()[0], mask=np.eye(4, 3, dtype=bool))
    with pytest.raises(TypeError, match="mask"):
        kb.entropy(masked)
    with pytest.raises(TypeError, match="mask"):
        kb.kl_divergence(rows()[0], masked)


def test_ragged_lists_are_a_type_or_value_error() -> None:
    with pytest.raises((TypeError, ValueError)):
        kb.entropy([[0.5, 0.5], [1.0]])


def test_cross_entropy_with_labels_names_what_takes_labels() -> None:
    p = matrix(4, 3, "logits")
    for q in (LABELS, LABELS.astype(np.uint8), LABELS.tolist()):
        for given in ("logits", ("logits", "counts")):
            with pytest.raises(ValueError, match="nll") as caught:
                kb.cross_entropy(p, q, given=given)
            assert "functional.cross_entropy" in str(caught.value)
    cube = p.reshape(2, 2, 3)
    with pytest.raises(ValueError, match="nll"):
        kb.cross_entropy(cube, LABELS.reshape(2, 2), given="logits")


def test_labels_are_integers_one_a_row() -> None:
    q = rows()[0]
    for wrong in (LABELS.astype(np.float32), LABELS.astype(bool), LABELS.astype(object), LABELS.astype(str)):
        with pytest.raises(TypeError, match="labels"):
            kb.nll(q, wrong)
    for wrong in (LABELS[:3], LABELS[None], LABELS[:, None], np.array(0), LABELS[:0]):
        with pytest.raises(ValueError, match="labels"):
            kb.nll(q, wrong)
    assert_same_bits(kb.nll(q, LABELS.tolist()), kb.nll(q, LABELS))
    for wrong in ("0", 1.5, [0]):
        with pytest.raises(TypeError, match="ignore_index"):
            kb.nll(q, LABELS, ignore_index=wrong)


def test_every_error_of_the_functions_names_the_argument_before_anything_is_computed() -> None:
    """A bad option wins over bad rows: nothing is half done."""
    bad = -np.ones((4, 3), np.float32)
    out = np.full(4, 7, np.float32)
    with pytest.raises(ValueError, match="reduction"):
        kb.entropy(bad, reduction="no", out=out)
    with pytest.raises(ValueError, match="p: row 0|p.*row 0"):
        kb.entropy(bad, out=np.full(4, 7, np.float32))


# -------------------------------------------------------------------------------------------------------------- package


def test_the_package_says_what_it_has() -> None:
    assert {case.name for case in CASES} == set(_core.QUANTITIES), "tests/cases.py has a row for each"
    for name in _core.QUANTITIES:
        assert name in kb.__all__ and name in dir(kb)
        assert getattr(kb, name) is getattr(_core, name), "an array meets no Python frame"
    assert {"set_num_threads", "get_num_threads", "num_threads", "compare", "Accumulator"} <= set(kb.__all__)
    for name in kb.__all__:
        assert getattr(kb, name) is not None
    assert {"kl_div", "cross_entropy", "softmax", "log_softmax"} <= set(functional.__all__)
    assert isinstance(kb.__version__, str)


def test_functional_is_there_after_importing_the_package() -> None:
    code = "import kullback as kb; print(kb.functional.softmax([0.0, 0.0], dim=0).tolist())"
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert got.returncode == 0, got.stderr
    assert got.stdout.strip() == "[0.5, 0.5]"


def test_importing_the_package_imports_nothing_but_numpy() -> None:
    code = (
        "import sys, numpy; before = set(sys.modules); import kullback; kullback.entropy(numpy.ones(2) / 2); "
        "heavy = {'torch', 'scipy', 'pandas', 'pyarrow', 'matplotlib', 'typer', 'rich', 'datasketches', 'ml_dtypes'}; "
        "print(sorted(heavy & (set(sys.modules) - before)))"
    )
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert got.returncode == 0, got.stderr
    assert got.stdout.strip() == "[]"


def test_the_root_is_the_root() -> None:
    for dtype in ("f4", "f8"):
        for space in SPACES:
            p, q = rows(space, dtype)
            np.testing.assert_allclose(
                JS_DISTANCE(p, q, given=space).astype("f8") ** 2,
                kb.js_divergence(p, q, given=space),
                rtol=3 * np.finfo(dtype).eps,
            )


def test_temperatures_make_rows_flatter() -> None:
    x = matrix(5, 40, "logits", scale=3.0)
    values = [kb.entropy(x, given="logits", temperature=t) for t in (0.25, 1.0, 4.0, 1e6)]
    assert all((a < b).all() for a, b in pairwise(values))
    np.testing.assert_allclose(values[-1], np.log(40.0), rtol=1e-6)
    assert (KL(x, x, given="logits", temperature=(1.0, 2.0)) > 0).all()
    assert (NLL(x, x, labels=x.argmax(-1), given="logits", temperature=0.01) < 1).all()
