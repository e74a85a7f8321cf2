"""Every quantity against the oracle: the targets of docs/numerics.md, in every space and at every distance.

Results are computed on every instruction set (and must agree in every bit) before they are judged.
"""

from __future__ import annotations

from typing import Any

import kullback as kb
import numpy as np
import pytest
import reference
import scipy.special
import scipy.stats
from arrays import BF16, DTYPES, INTEGERS, Pairs, generator, matrix, pairs
from cases import (
    CASES,
    CROSS_ENTROPY,
    ENTROPY,
    JS,
    JS_DISTANCE,
    KL,
    NLL,
    PAIRED,
    Case,
    Target,
    check,
    on_every_level,
    result_dtype,
)
from hypothesis import given as hypothesis_given
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from kullback import functional
from reference import SPACES, exact_elements, exact_sum, ulp

CLASSES = (1, 2, 3, 15, 16, 17, 63, 64, 65, 1000)
FEW = ("independent", "one ulp", "peaked at the last class")


def labels_of(rows: np.ndarray) -> np.ndarray:
    """The likeliest class of some rows, any class of the others."""
    n, c = rows.shape
    drawn = generator("labels", n, c).integers(0, c, n)
    return np.where(np.arange(n) % 2 == 0, rows.astype(np.float64).argmax(-1), drawn)


def judge(case: Case, found: Pairs, given: Any, **keywords: Any) -> None:
    """Compute on every instruction set, then compare with the oracle."""
    rows = (found.q if case.labels else found.p, found.q)
    labels = labels_of(rows[0]) if case.labels else None
    got = on_every_level(lambda: case(*rows, labels=labels, given=given, **keywords), case, given)
    assert np.asarray(got).dtype == (np.float64 if rows[0].dtype == np.float64 else np.float32)
    check(case, got, case.exact(*rows, labels=labels, given=given, **keywords), given, rows, found.kinds)


def singles(space: str) -> tuple[str, str]:
    return space, space


# One row of parameters at a time over all cases, so that the oracle normalises each row once.
SAME = [(space, dtype, c, case) for space in SPACES for dtype in ("f4", "f8") for c in CLASSES for case in CASES]
MIXED = [
    (given, dtype, c, case)
    for given in KL.spaces()
    if given[0] != given[1]
    for dtype in ("f4", "f8")
    for c in (2, 17, 65, 300)
    for case in PAIRED
]


@pytest.mark.parametrize(("space", "dtype", "c", "case"), SAME, ids=str)
def test_one_space(space: str, dtype: str, c: int, case: Case) -> None:
    judge(case, pairs(c, singles(space), dtype), space)


@pytest.mark.parametrize(
    ("space", "dtype", "case"), [(s, d, k) for s in SPACES for d in ("f4", "f8") for k in CASES], ids=str
)
def test_a_vocabulary(space: str, dtype: str, case: Case) -> None:
    judge(case, pairs(50257, singles(space), dtype, kinds=FEW), space)


@pytest.mark.parametrize(("given", "dtype", "c", "case"), MIXED, ids=str)
def test_mixed_spaces(given: tuple[str, str], dtype: str, c: int, case: Case) -> None:
    judge(case, pairs(c, given, dtype), given)


@pytest.mark.parametrize("given", [(s, s) for s in SPACES] + [("probs", "logits"), ("log_probs", "counts")], ids=str)
@pytest.mark.parametrize("dtype", ["f2", "bf16"])
@pytest.mark.parametrize("c", [3, 17, 65])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_half_precision_rows(given: tuple[str, str], dtype: str, c: int, case: Case) -> None:
    judge(case, pairs(c, given, DTYPES[dtype]), given if case.rows == 2 else given[0] if not case.labels else given[1])


TEMPERATURES = [(t, case) for case in CASES for t in (0.1, 0.7, 3.0, (0.7, 1.3), (2.5, 0.4))]


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("c", [3, 17, 65, 500])
@pytest.mark.parametrize(
    ("temperature", "case"), [(t, case) for t, case in TEMPERATURES if case.rows == 2 or isinstance(t, float)], ids=str
)
def test_temperature(temperature: Any, dtype: str, c: int, case: Case) -> None:
    judge(case, pairs(c, singles("logits"), dtype, seed=1), "logits", temperature=temperature)


@pytest.mark.parametrize("given", [("probs", "logits"), ("logits", "counts"), ("log_probs", "logits")], ids=str)
@pytest.mark.parametrize("case", PAIRED, ids=str)
def test_temperature_of_one_row_of_a_mixed_pair(given: tuple[str, str], case: Case) -> None:
    temperature = tuple(0.7 if space == "logits" else 1.0 for space in given)
    judge(case, pairs(33, given, "f4", seed=2), given, temperature=temperature)


@pytest.mark.parametrize("integer", INTEGERS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_integer_counts(integer: str, case: Case) -> None:
    rng = generator("integers", integer)
    p, q = (rng.integers(0, 100, (12, 33)).astype(integer) for _ in range(2))
    q[:6] += 1
    labels = labels_of(p)
    got = on_every_level(lambda: case(p, q, labels=labels, given="counts"), case, integer)
    assert got.dtype == np.float64
    check(case, got, case.exact(p, q, labels=labels, given="counts"), "counts", (p, q))


@pytest.mark.parametrize(
    ("dtypes", "given"),
    [
        (("f4", "f8"), ("probs", "probs")),
        (("f8", "f4"), ("logits", "logits")),
        (("f4", "f8"), ("log_probs", "logits")),
        (("f2", "f4"), ("logits", "logits")),
        (("bf16", "f4"), ("counts", "probs")),
        (("f4", "bf16"), ("logits", "logits")),
        (("i4", "f8"), ("counts", "probs")),
        (("u1", "f4"), ("counts", "logits")),
        (("i8", "f4"), ("counts", "counts")),
        (("?", "f4"), ("counts", "probs")),
    ],
    ids=str,
)
@pytest.mark.parametrize("case", PAIRED, ids=str)
def test_two_dtypes(dtypes: tuple[str, str], given: tuple[str, str], case: Case) -> None:
    p, q = (
        matrix(9, 65, space, np.float64, seed=i).astype(DTYPES.get(name, name))
        for i, (name, space) in enumerate(zip(dtypes, given, strict=True))
    )
    got = on_every_level(lambda: case(p, q, given=given), case, dtypes, given)
    assert got.dtype == result_dtype(p.dtype, q.dtype)
    check(case, got, case.exact(p, q, given=given), given, (p, q))


# ----------------------------------------------------------------------------------------------------------- reductions


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_reductions_are_sums_in_f64_rounded_once(reduction: str, space: str, dtype: str, case: Case) -> None:
    found = pairs(
        17, singles(space), dtype, seed=3, kinds=("independent", "spread", "near 0.1", "flat against independent")
    )
    rows = (found.p, found.q)
    labels = labels_of(rows[0])
    exact = case.exact(*rows, labels=labels, given=space)
    got = on_every_level(lambda: case(*rows, labels=labels, given=space, reduction=reduction), case, space, reduction)
    assert np.ndim(got) == 0 and got.dtype == np.dtype(dtype)
    total, _ = exact_sum(exact)
    count = 1 if reduction == "sum" else len(found.kinds)
    allowed = case.allowed(exact, space, dtype).sum() / count + ulp(total / count, dtype)
    assert abs(float(got) - total / count) <= allowed


def test_the_mean_of_many_rows_is_not_accumulated_in_single_precision() -> None:
    p = np.full((1 << 20, 3), 1 / 3, np.float32)
    for reduction, count in (("mean", 1), ("sum", len(p))):
        got = on_every_level(lambda reduction=reduction: kb.entropy(p, reduction=reduction))
        assert abs(float(got) - np.log(3.0) * count) <= 1 * ulp(np.log(3.0) * count, np.float32)


def test_the_mean_of_half_precision_rows_does_not_overflow() -> None:
    flat = np.zeros((16384, 64), np.float16)
    got = kb.entropy(flat, given="logits", reduction="mean")
    assert got.dtype == np.float32
    assert abs(float(got) - np.log(64.0)) <= ulp(np.log(64.0), np.float32)
    assert kb.entropy(flat, given="logits", reduction="sum") == pytest.approx(16384 * np.log(64.0), rel=1e-7)


# ---------------------------------------------------------------------------------------------- softmax and log-softmax


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("c", [1, 2, 3, 15, 16, 17, 64, 65, 200])
@pytest.mark.parametrize(("function", "part"), [("softmax", "mass"), ("log_softmax", "log")])
def test_softmax_and_log_softmax(function: str, part: str, dtype: str, c: int) -> None:
    found = pairs(c, ("logits", "logits"), dtype, seed=4)
    exact = exact_elements(part, found.p)
    got = on_every_level(lambda: getattr(functional, function)(found.p, dim=-1), function, c)
    assert got.dtype == found.p.dtype and got.shape == found.p.shape
    target = Target(ulps=4) if dtype == "f4" else Target(ulps=8)
    log_softmax = Case(getattr(functional, function), reference.entropy, 1, {dtype: target}, {dtype: target})
    # Probabilities below the smallest normal number may be 0.
    allowed = target.allowed(exact.hi, dtype) + (float(np.finfo(dtype).tiny) if part == "mass" else 0.0)
    kinds = [f"{kind}, class {j}" for kind in found.kinds for j in range(c)]
    rows = np.broadcast_to(found.p[:, None, :], (*found.p.shape, c))
    check(log_softmax, got, exact, "logits", (rows,), kinds, allowed)


# ------------------------------------------------------------------------------------ rows that a search has found
# Each exceeded its bound once (benches/worst.py, climb.py): space, dtype and temperature, two rows in hexadecimal.
FOUND = [
    # 1/T rounded to one f32 moves every gap of close rows alike.
    (
        JS,
        "logits",
        "f4",
        1000.0,
        "-0x1.439488p+0 -0x1.8bde98p+0 -0x1.af73e4p-1 -0x1.c602dep+0 0x1.5f7da2p+0",
        "0x1.3cd722p-1 -0x1.8fb6p-1 0x1.7076ap+0 0x1.292776p+1 0x1.e867dcp-1",
    ),
    (KL, "logits", "f4", 0.7, "-0x1.15453p-1 0x1.d79e98p+4", "0x1.099c9cp-1 0x1.c3bc6p+4"),
    # Close to proportional, of totals 1 : 2.5e7, which a single pass in f32 finds only roughly.
    (KL, "counts", "f4", 1.0, "0x1.bac34ep+19 0x1.0f59p+22", "0x1.266a74p-5 0x1.68ddb4p-3"),
    # A class below half of the base that large logits at a low temperature are taken from.
    (
        CROSS_ENTROPY,
        "logits",
        "f4",
        0.001,
        "0x1.2f2ef6p-5 0x1.ee765ap-6 -0x1.87f68ep-5",
        "0x1.2013ep+2 0x1.d5d0b2p+1 -0x1.74708p+2",
    ),
    # Totals 1 : 10¹², a class of q that times their ratio is subnormal.
    (
        KL,
        "counts",
        "f4",
        1.0,
        "0x1.a59194p-42 0x1.a59194p-42 0x1.a59194p-42",
        "0x1.769534p-125 0x1.eaac0cp-103 0x1p+0",
    ),
    # A subnormal mass that the scale of its row cut short.
    (CROSS_ENTROPY, "counts", "f4", 1.0, "0x1.2ca67cp+1 0x1.737a2ep-8", "0x1.000dcp+1 0x1.04p-143"),
    # Rows apart as far as the centre of their gaps is from the mean gap.
    (
        KL,
        "logits",
        "f4",
        1.0,
        "0x1.f4e54ep-4 0x1.f4fb0ep-4 -0x1.102442p-9",
        "0x1.d77fe2p-1 -0x1.ee549p-1 -0x1.004cc4p-2",
    ),
    (
        KL,
        "logits",
        "f4",
        1.0,
        "-0x1.3b93d8p-4 0x1.cce406p-6 0x1.459b54p-2 0x1.74a9f2p-2 -0x1.d3a18p-1",
        "0x1.31ecd2p-4 0x1.4b2296p-8 0x1.5bb924p+0 -0x1.8c9aep-5 -0x1.da3a58p-1",
    ),
    # Far apart, about half of the mass each: passed again about the mean gap, e^60 would be all that is left.
    (KL, "logits", "f4", 1.0, "-0x1.11f552p-7 -0x1.3b8cfcp-8", "-0x1.763884p+6 0x1.d299eep+4"),
    (
        KL,
        "logits",
        "f8",
        1.0,
        "0x1.30f464462d27ap-8 0x1.8581e5a429115p-8",
        "0x1.67201de1075f8p+5 -0x1.31d8426092b70p+5",
    ),
    # Tiny, of rows far apart: rounding of the gap took a third of it, or all.
    (
        KL,
        "logits",
        "f4",
        0.7,
        "-0x1.447a8ap+3 0x1.b0e9aep+5 0x1.0101dep+2",
        "-0x1.18p-7 0x1.cp+21 -0x1.ep-86",
    ),
    (
        KL,
        "logits",
        "f4",
        0.7,
        "0x1.ba96cep+5 -0x1.857124p+0 0x1.186a06p+1 0x1.23b328p+0 -0x1.4b58eep+3 -0x1.04dcp+1",
        "0x1.07cf8p+23 0x1.c2e0a4p+0 0x1.30ab28p-4 0x1.51d1dep-1 0x1.294a84p-1 0x1.ca3cbcp-1",
    ),
    # Masses whose sum overflows beside one that no scale of theirs holds: as logarithms they had met with few digits.
    *(
        (
            case,
            "counts",
            "f8",
            1.0,
            f"0x1.1ccf385ebc8a0p+1023 {p} 0x1.1ccf385ebc8a0p+1023",
            f"0x1.1ccedb8f62180p+1023 {q} 0x1.1ccf773f6a1c0p+1023",
        )
        for case in (KL, JS, CROSS_ENTROPY)
        for p, q in (
            ("0x1.4487p-111", "0x1.4485p-111"),
            ("0x1p-2", "0x1.8p-52"),
            ("0x1p-52", "0x1p+1000"),
            ("0x1p+3", "0x0p+0"),
        )
    ),
    # Roundings of the finish that add up.
    (
        CROSS_ENTROPY,
        "counts",
        "f8",
        1.0,
        "0x1.3bbfc59edec12p+0 0x1.d861f0fccaaf0p-1 0x1.af537807d812cp-9",
        "0x1.28b7b4738edc3p+2 0x1.1872bd9990343p+7 0x1.08e6e31ebe076p-8",
    ),
    (
        CROSS_ENTROPY,
        "counts",
        "f8",
        1.0,
        "0x1.f43adcab521dbp-8 0x1.6789b3bed23c0p+5 0x1.7207c2779eebcp+4 0x1.e81851aa42f06p-5 0x1.f71900ec8fe9dp-21",
        "0x1.e05c85c009da0p-5 0x1.54822b65f19e9p-9 0x1.2fc25c61a638cp+26 0x1.708e230daeb65p+9 0x1.50ebafdd3cd93p-20",
    ),
]


@pytest.mark.parametrize(("case", "space", "dtype", "temperature", "p", "q"), FOUND, ids=str)
def test_rows_found_by_a_search(case: Case, space: str, dtype: str, temperature: float, p: str, q: str) -> None:
    rows = tuple(np.array([[float.fromhex(x) for x in row.split()]], dtype) for row in (p, q))
    keywords = {"given": space, "temperature": temperature}
    exact = case.exact(*rows, **keywords)
    # Divergences of probabilities and counts are held down to 1e-17.
    allowed = np.maximum(case.allowed(exact, space, dtype), 2e-23 if space == "counts" and case is KL else 0)
    check(case, on_every_level(lambda: case(*rows, **keywords)), exact, space, rows, allowed=allowed)
    if space == "logits" and case in (KL, JS):
        column = "kl" if case is KL else "js"
        both = on_every_level(lambda: getattr(kb.compare(*rows, temperature=temperature, columns=[column]), column))
        check(case, both, exact, space, rows, allowed=allowed)


@pytest.mark.parametrize("times", [4, 16, 60])
@pytest.mark.parametrize(
    ("p", "q"),
    [
        ("0x1.f5a4e0p+5 0x1.12a03cp-3 0x1.abd0bep+0", "0x1.7b6a90p-16 0x1.013e2ep+2 0x1.da8cf0p-5"),
        ("0x1.79c4a4p+2 0x1.15d99cp+1 0x1.01fd04p-3", "0x1.403434p-9 0x1.0dce70p+8 0x1.25476ap+15"),
        ("0x1.303d20p+1 0x1.c03f6cp-1 0x1.b73a10p-3", "0x1.0e30e8p-12 0x1.142e08p+15 0x1.7335dcp+13"),
    ],
)
def test_rows_whose_lanes_round_alike(p: str, q: str, times: int) -> None:
    # Classes several times over, so that no rounding of one lane makes up for another's: by chains of four additions in
    # float32 the cross entropy of sixteen was off by 2.5 to 2.6 ulp.
    rows = tuple(np.array([[float.fromhex(x) for x in row.split()]], "f4").repeat(times, axis=1) for row in (p, q))
    for case in (CROSS_ENTROPY, ENTROPY):
        given = rows[: case.rows]
        exact = case.exact(*given, given="counts")
        check(case, on_every_level(lambda c=case, g=given: c(*g, given="counts")), exact, "counts", given)


# -------------------------------------------------------------------------------------------------- drawn by hypothesis


def finite_rows(low: float, high: float) -> Any:
    element = st.floats(low, high, width=32, allow_subnormal=True)
    return hnp.arrays(np.float32, st.tuples(st.just(2), st.integers(1, 40)), elements=element)


@hypothesis_given(rows=finite_rows(-300, 300))
@settings(max_examples=40)
def test_any_two_rows_of_logits(rows: np.ndarray) -> None:
    for case in CASES:
        p, q = rows[:1], rows[1:]
        labels = np.array([int(rows[0].argmin())])
        got = case(p, q, labels=labels, given="logits")
        check(case, got, case.exact(p, q, labels=labels, given="logits"), "logits", (p, q))


@hypothesis_given(rows=finite_rows(0, 2.0**20))
@settings(max_examples=40)
def test_any_two_rows_of_counts(rows: np.ndarray) -> None:
    for case in CASES:
        p, q = rows[:1], rows[1:]
        labels = np.array([int(rows[0].argmax())])
        got = case(p, q, labels=labels, given="counts")
        check(case, got, case.exact(p, q, labels=labels, given="counts"), "counts", (p, q))


# ----------------------------------------------------------------------------------------------------------- the oracle


@pytest.mark.parametrize("space", SPACES)
def test_the_oracle_agrees_with_scipy(space: str) -> None:
    found = pairs(33, singles(space), "f8", kinds=("independent", "spread", "near 0.1", "flat against independent"))
    if space in ("probs", "counts"):
        p, q = found.p / found.p.sum(-1, keepdims=True), found.q / found.q.sum(-1, keepdims=True)
    else:
        p, q = scipy.special.softmax(found.p, -1), scipy.special.softmax(found.q, -1)
    js = scipy.spatial.distance.jensenshannon(p, q, axis=-1)
    labels = labels_of(p)
    for case, expected in (
        (ENTROPY, scipy.stats.entropy(p, axis=-1)),
        (KL, scipy.stats.entropy(p, q, axis=-1)),
        (CROSS_ENTROPY, scipy.stats.entropy(p, axis=-1) + scipy.stats.entropy(p, q, axis=-1)),
        (JS_DISTANCE, js),
        (NLL, -np.log(np.take_along_axis(p, labels[:, None], -1)[:, 0])),
    ):
        exact = case.exact(found.p, found.q, labels=labels, given=space)
        np.testing.assert_allclose(exact.hi, expected, rtol=1e-12, err_msg=str(case))


def test_the_oracle_knows_the_conventions() -> None:
    for space, rows in {
        "probs": ([0, 0.5, 0.5], [0.5, 0.5, 0]),
        "logits": ([-np.inf, 1, 1], [1, 1, -np.inf]),
    }.items():
        p, q = (np.array([row], np.float64) for row in rows)
        assert ENTROPY.exact(p, given=space).hi == np.log(2.0)
        assert KL.exact(p, q, given=space).hi == np.inf
        assert CROSS_ENTROPY.exact(p, q, given=space).hi == np.inf
        assert KL.exact(p, p, given=space).hi == 0.0
        assert JS.exact(p, q, given=space).hi == pytest.approx(np.log(2.0) / 2, rel=1e-15)
    nothing = np.array([[0.0, 0.0], [np.nan, 1.0]])
    assert np.isnan(ENTROPY.exact(nothing, given="counts").hi).all()
    peaked = np.array([[0.0, -40.0]])
    assert ENTROPY.exact(peaked, given="logits").hi == pytest.approx(41 * np.exp(-40.0), rel=1e-14)
    assert ENTROPY.exact(np.array([[1.0, 3.0]]), where=np.array([True, False]), given="counts").hi == 0


def test_an_ulp_is_right_at_zero_and_at_powers_of_two() -> None:
    for dtype in (np.float32, np.float64):
        for value in (0.0, 1e-310, 1e-40, 0.5, np.nextafter(dtype(1), dtype(0)), 1.0, 1.5, 1e30):
            assert ulp(np.float64(value), dtype) == np.spacing(dtype(value)), value


def test_the_fast_reference_agrees_with_the_oracle() -> None:
    for space in ("logits", "counts"):
        found = pairs(
            17, singles(space), "f4", kinds=("independent", "near 0.1", "near 0.001", "near 1e-05", "one ulp")
        )
        exact = KL.exact(found.p, found.q, given=space).hi
        np.testing.assert_allclose(reference.kl_vectorised(found.p, found.q, space), exact, rtol=3e-8)


def test_bfloat16_rows_reach_the_oracle_unrounded() -> None:
    p = np.array([[1.0078125, 3.0]], BF16)
    assert ENTROPY.exact(p, given="counts").hi == ENTROPY.exact(p.astype(np.float64), given="counts").hi
