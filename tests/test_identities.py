"""Identities that hold exactly in floating point: Gibbs' inequality, equal rows, symmetry, bounds, scale.

``python tests/test_identities.py 10000000`` tries that many random pairs instead of a million.
"""

from __future__ import annotations

import sys
from typing import Any

import kullback as kb
import numpy as np
import pytest
import reference
from arrays import DTYPES, from_log, generator, matrix, nudge, pairs
from cases import CASES, DIVERGENCES, KL, Case, assert_same_bits, on_every_level, same_bits
from reference import INF, LINEAR, SPACES, ulp

CLASSES = (1, 2, 3, 15, 16, 17, 63, 64, 65, 1000, 2049)
LN2 = {np.dtype(np.float32): np.float32(0.6931471), np.dtype(np.float64): np.float64(0.6931471805599453)}

# Many pairs: how far apart, and the classes of a row.
DISTANCES = (10.0, 3.0, 1.0, 0.6, 0.3, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 0.0)
LENGTHS = (2, 3, 10, 17, 64)


def test_the_constants_do_not_exceed_ln_2() -> None:
    for dtype, value in LN2.items():
        assert value.dtype == dtype
        assert float(value) < 0.69314718055994530942 < float(np.nextafter(value, dtype.type(1))) or dtype == np.float64
    assert np.log(np.longdouble(2)) >= LN2[np.dtype(np.float64)]


@pytest.mark.parametrize("c", CLASSES)
@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "bf16"])
@pytest.mark.parametrize("space", SPACES)
def test_equal_rows_are_no_distance_apart(space: str, dtype: str, c: int) -> None:
    if dtype in ("f2", "bf16") and c > 100:
        c = 100
    found = pairs(c, (space, space), DTYPES[dtype], seed=5)
    for x in (found.p, found.q):
        for case in DIVERGENCES:
            got = on_every_level(lambda case=case, x=x: case(x, x, given=space), case, space)
            assert np.array_equal(got, np.zeros(len(x))), (
                case,
                space,
                found.kinds[int(np.argmax(got != 0))],
                got.max(),
            )
            assert_same_bits(case(x, x.copy(), given=space), got)
        if space == "logits":
            for temperature in (0.7, 3.0, (1.3, 1.3)):
                for case in DIVERGENCES:
                    got = case(x, x, given=space, temperature=temperature)
                    assert np.array_equal(got, np.zeros(len(x))), (case, temperature)


@pytest.mark.parametrize("c", CLASSES)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("space", SPACES)
def test_the_cross_entropy_of_a_row_with_itself_is_its_entropy(space: str, dtype: str, c: int) -> None:
    found = pairs(c, (space, space), dtype, seed=6)
    keywords: list[dict[str, Any]] = [{}, {"base": 2}]
    if space == "logits":
        keywords += [{"temperature": 0.7}, {"temperature": 3.0, "base": 10}]
    for x in (found.p, found.q):
        for extra in keywords:

            def both(x: np.ndarray = x, extra: dict[str, Any] = extra) -> Any:
                return np.array([kb.cross_entropy(x, x, given=space, **extra), kb.entropy(x, given=space, **extra)])

            crossed, plain = on_every_level(both, space, extra)
            assert_same_bits(crossed, plain, space, extra)
            total = [
                kb.cross_entropy(x, x, given=space, reduction="mean"),
                kb.entropy(x, given=space, reduction="mean"),
            ]
            assert same_bits(*total)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("space", ["counts", "logits"])
def test_so_it_is_where_equal_maxima_of_a_block_are_not_the_rows(space: str, dtype: str) -> None:
    # Three equal numbers of one lane, 16 apart, may not add up to three times one of them.
    rng = generator(7)
    x = rng.uniform(1, 2, (300, 1)) * np.where(np.arange(4096) % 64 < 48, 1, 1e-3)
    x[:, 2048:] *= rng.uniform(0, 2, (300, 2048))
    x = (x if space == "counts" else np.log(x)).astype(dtype)

    def both() -> Any:
        return np.array([kb.cross_entropy(x, x, given=space), kb.entropy(x, given=space)])

    crossed, plain = on_every_level(both, space, dtype)
    assert_same_bits(crossed, plain, space, dtype)


def test_so_it_is_where_blocks_are_further_apart_than_numbers_go() -> None:
    # In the units of the first block the masses of the second are subnormal, three of them its largest.
    x = np.zeros((3, 4096))
    x[:, 0] = 2.0**1000
    for row, least in zip(x, (-60.0, -30.0, 20.0), strict=True):
        row[2048:2051] = (1 + 2.0**-15) * 2.0**least
        row[2060] = 2.0 ** (least - 3)

    def both() -> Any:
        return np.array([kb.cross_entropy(x, x, given="counts"), kb.entropy(x, given="counts")])

    crossed, plain = on_every_level(both)
    assert_same_bits(crossed, plain)
    assert (plain > 0).all()


@pytest.mark.parametrize("c", CLASSES)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("given", KL.spaces(), ids=str)
def test_jensen_shannon_is_symmetric(given: tuple[str, str], dtype: str, c: int) -> None:
    if given[0] != given[1] and c not in (2, 17, 65):
        c = 33
    found = pairs(c, given, dtype, seed=7)
    for function in (kb.js_divergence, kb.js_distance):
        one = on_every_level(lambda function=function: function(found.p, found.q, given=given), function, given)
        other = on_every_level(lambda function=function: function(found.q, found.p, given=given[::-1]), function, given)
        assert_same_bits(one, other, function, given)
    if given == ("logits", "logits"):
        one = kb.js_divergence(found.p, found.q, given=given, temperature=(0.7, 2.0))
        assert_same_bits(one, kb.js_divergence(found.q, found.p, given=given, temperature=(2.0, 0.7)))


# Ten classes of two rows whose totals are equal, cut into head and tail differently.
_TOTALS_OF_ONE_VALUE = (
    (
        "0x1.f5e970bc0159ep-5",
        "0x1.c1fd094b8b579p-5",
        "0x1.18ff64601f0d3p-2",
        "0x1.56d0dafe33066p-5",
        "0x1.77aba5c680b9cp-3",
        "0x1.0d7278a0a02ecp-4",
        "0x1.247c4efdfd7dfp-4",
        "0x1.63446dcaf5e53p-6",
        "0x1.9a950f8ccf9cfp-4",
        "0x1.fffa85d177b85p-4",
    ),
    (
        "0x1.1430626f26993p-88",
        "0x1.8875ca74acbcep-19",
        "0x1.8fad5aef2b06ep-61",
        "0x1.850ee66ef80c1p-137",
        "0x1.21a5d9ee0360ep-40",
        "0x1.ba49e6e3c558bp-12",
        "0x1.2ddd7c153e9ccp-19",
        "0x1.ffc8092e4fa18p-1",
        "0x1.2b6c5e968f8b3p-68",
        "0x1.1f013155b08a7p-91",
    ),
)


@pytest.mark.parametrize("c", [4, 5, 7, 10, 16, 17, 33])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_jensen_shannon_is_symmetric_where_totals_agree_in_all_but_their_representation(dtype: str, c: int) -> None:
    """Sums are pairs of numbers, and two pairs may be one value: in 1 of 40 000 pairs of such rows of ten classes."""
    rng = generator("totals", c)
    a = rng.standard_normal((40_000, c))
    for distance in (1.0, 30.0):
        p, q = (from_log(x, "probs", dtype) for x in (a, a + distance * rng.standard_normal(a.shape)))
        assert_same_bits(kb.js_divergence(p, q), kb.js_divergence(q, p), distance)
    # Of those, one pair whose results were an ulp apart.
    p = np.array([float.fromhex(x) for x in _TOTALS_OF_ONE_VALUE[0]])
    q = np.array([float.fromhex(x) for x in _TOTALS_OF_ONE_VALUE[1]])
    assert_same_bits(on_every_level(lambda: kb.js_divergence(p, q)), on_every_level(lambda: kb.js_divergence(q, p)))


@pytest.mark.parametrize("c", CLASSES)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("given", KL.spaces(), ids=str)
def test_bounds(given: tuple[str, str], dtype: str, c: int) -> None:
    if given[0] != given[1] and c not in (2, 17, 65):
        c = 33
    found = pairs(c, given, dtype, seed=8)
    p, q = found.p, found.q
    top = LN2[np.dtype(dtype)]
    kl, js = kb.kl_divergence(p, q, given=given), kb.js_divergence(p, q, given=given)
    distance = kb.js_distance(p, q, given=given)
    for got in (kl, js, distance):
        assert (got >= 0).all() and not np.signbit(got).any()
    assert (js <= top).all(), js.max()
    assert (distance <= np.sqrt(np.log(2.0)) + ulp(0.83, dtype)).all()
    assert (kb.js_divergence(p, q, given=given, base=2) <= 1).all()
    assert (kb.js_distance(p, q, given=given, base=2) <= 1).all()
    entropy = kb.entropy(p, given=given[0])
    assert (entropy >= 0).all() and not np.signbit(entropy).any()
    assert (entropy <= most_entropy(c, dtype)).all(), entropy.max()
    crossed = kb.cross_entropy(p, q, given=given)
    assert (crossed >= 0).all() and not np.signbit(crossed).any()


def most_entropy(c: int, dtype: str) -> float:
    """ln C and an ulp."""
    most = float(np.log(float(c)))
    return most + float(ulp(np.float64(most), dtype))


@pytest.mark.parametrize("c", [2, 3, 4, 5, 6, 26, 29, 52, 100, 1000, 2049, 5000])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("space", SPACES)
def test_no_entropy_exceeds_that_of_equal_classes(space: str, dtype: str, c: int) -> None:
    rng = generator("flat", c)
    weights = rng.choice([0, 1e-8, 1e-6, 1e-4], (300, 1)) * rng.standard_normal((300, c)) + rng.choice([0, 1, -3.1])
    rows = from_log(weights, space, dtype, total=3.0 * c)
    for temperature in (0.7, 1.0, 1e3) if space == "logits" else (1.0,):
        got = on_every_level(lambda t=temperature: kb.entropy(rows, given=space, temperature=t), space, c)
        assert (got <= most_entropy(c, dtype)).all(), (got.max() - np.log(float(c)), temperature)


@pytest.mark.parametrize("c", CLASSES)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("offset", [1.0, -4.0, 32.0, -512.0])
def test_a_common_offset_of_logits_changes_nothing(offset: float, dtype: str, c: int) -> None:
    """Where b - a is exact: here on a grid of 2^-10 (-inf included), the offset too."""
    x = (np.round(matrix(6, c, "logits", "f8", seed=2) * 1024) / 1024).astype(dtype)
    if c > 2:
        x[2:4, : c // 3] = -INF
    y = x + np.asarray(offset, dtype)
    assert np.array_equal(y[np.isfinite(x)] - x[np.isfinite(x)], np.full(np.isfinite(x).sum(), offset))
    for temperature in (1.0, 0.7):
        for one, other in ((x, y), (y, x)):
            for case in DIVERGENCES:
                keywords = {"given": "logits", "temperature": temperature}
                got = on_every_level(lambda f=case, x=one, y=other, k=keywords: f(x, y, **k), case)
                # The two normalisers of a symmetric divergence are rounded each on its own.
                left = 0.0 if case is KL else case.left("logits", dtype)
                assert (got >= 0).all() and (got <= left).all(), (case, temperature, got)


@pytest.mark.parametrize("c", [2, 17, 100, 1000])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_counts_scale_exactly_by_powers_of_two(dtype: str, c: int) -> None:
    found = pairs(c, ("counts", "counts"), dtype, seed=9, kinds=("independent", "near 0.1", "one ulp", "poisson"))
    labels = np.arange(len(found.kinds)) % c
    for case in CASES:
        expected = case(found.p, found.q, labels=labels, given="counts")
        for power in (1, -1, 20, -30, 60):
            p, q = (np.ldexp(x, power) for x in (found.p, found.q))
            assert_same_bits(case(p, q, labels=labels, given="counts"), expected, case, power)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_probabilities_are_counts_that_are_checked(dtype: str) -> None:
    for c in (1, 17, 100):
        p, q = (matrix(20, c, "probs", dtype, seed=seed) for seed in (0, 1))
        labels = np.arange(20) % c
        for case in CASES:
            assert_same_bits(case(p, q, labels=labels), case(p, q, labels=labels, given="counts"), case)
        p, q = (matrix(20, c, "log_probs", dtype, seed=seed) for seed in (0, 1))
        for case in CASES:
            one = case(p, q, labels=labels, given="log_probs")
            assert_same_bits(one, case(p, q, labels=labels, given="logits"), case)


def test_nll_is_the_cross_entropy_of_a_one_hot_row() -> None:
    for dtype in ("f4", "f8"):
        for space in SPACES:
            q = matrix(20, 33, space, dtype)
            labels = generator("hot").integers(0, 33, 20)
            hot = np.eye(33, dtype=dtype)[labels]
            one, other = kb.nll(q, labels, given=space), kb.cross_entropy(hot, q, given=("probs", space))
            np.testing.assert_allclose(one, other, rtol=8 * np.finfo(dtype).eps)


def test_kl_is_cross_entropy_less_entropy() -> None:
    for space in SPACES:
        p, q = (matrix(20, 33, space, "f8", seed=seed, scale=2.0) for seed in (0, 1))
        difference = kb.cross_entropy(p, q, given=space) - kb.entropy(p, given=space)
        np.testing.assert_allclose(kb.kl_divergence(p, q, given=space), difference, rtol=1e-13, atol=1e-14)


# ----------------------------------------------------------------------------------------------------- many, many pairs


def close_pairs(n: int, c: int, distance: float, space: str, dtype: Any, seed: Any) -> tuple[np.ndarray, np.ndarray]:
    """Random rows some distance apart; at distance 0 every class is one ulp up or down."""
    rng = generator("many", n, c, distance, space, dtype, seed)
    weights = rng.standard_normal((n, c), np.float32).astype(np.float64) * 2
    p = from_log(weights, space, dtype, total=c)
    if distance == 0:
        return p, nudge(p, rng)
    return p, from_log(weights + distance * rng.standard_normal((n, c), np.float32), space, dtype, total=c)


def try_pairs(n: int, c: int, distance: float, space: str, dtype: Any, seed: Any = 0) -> None:
    """No negative KL and, for f32 rows, no error beyond the bound: so none before the last max(0, ·) either.

    The vectorised reference works in f64; its own error is up to 1e-7 for rows one ulp apart.
    """
    p, q = close_pairs(n, c, distance, space, dtype, seed)
    got = kb.kl_divergence(p, q, given=space)
    assert got.shape == (n,) and np.isfinite(got).all()
    assert (got >= 0).all() and not np.signbit(got).any(), (c, distance, space, got.min())
    assert np.array_equal(kb.kl_divergence(p, p, given=space), np.zeros(n))
    expected = reference.kl_vectorised(p, q, space)
    if np.dtype(dtype) == np.float32:
        bound = (2e-6 if space in LINEAR else 5e-7) * expected
        slack = 1e-7 * expected + 1e-30
        if space in LINEAR:
            # Rows apart by little but a common factor: what the totals differ by is taken off again.
            totals = [x.sum(-1, dtype=np.float64) for x in (p, q)]
            slack += 2e-6 * (totals[1] / totals[0] - 1) ** 2 / 2
    else:
        # f64 rows in f64: the reference cannot judge what the oracle does, but sees what is grossly wrong.
        bound, slack = 1e-6 * expected, np.full(n, 1e-28)
    error = np.abs(got - expected)
    worst = int(np.argmax(error - bound - slack))
    assert error[worst] <= bound[worst] + slack[worst], (
        f"{space}, {c} classes, distance {distance}: got {got[worst]!r}, expected {expected[worst]!r}, relative error "
        f"{error[worst] / expected[worst]:.3g}\n  p = {p[worst].tolist()}\n  q = {q[worst].tolist()}"
    )


MANY = [
    (c, distance, space, dtype)
    for c in LENGTHS
    for distance in DISTANCES
    for space in ("logits", "probs")
    for dtype in ("f4", "f8")
]


@pytest.mark.parametrize(("c", "distance", "space", "dtype"), MANY, ids=str)
def test_no_negative_kl_in_a_million_pairs(c: int, distance: float, space: str, dtype: str) -> None:
    try_pairs(1_000_000 // len(MANY) + 1, c, distance, space, dtype)


@pytest.mark.parametrize("case", [case for case in DIVERGENCES if case is not KL], ids=str)
@pytest.mark.parametrize("space", ["logits", "probs"])
def test_no_negative_divergence_in_many_close_pairs(case: Case, space: str) -> None:
    for distance in DISTANCES:
        for dtype in ("f4", "f8"):
            p, q = close_pairs(4000, 10, distance, space, dtype, "other")
            one = case(p, q, given=space)
            assert (one >= 0).all() and np.isfinite(one).all()
            assert_same_bits(one, case(q, p, given=space), case, distance)


if __name__ == "__main__":
    total = int(float(sys.argv[1])) if len(sys.argv) > 1 else 10_000_000
    at_once, done, round_ = 20_000, 0, 0
    while done < total:
        for row in MANY:
            try_pairs(at_once, *row, seed=round_)
            done += at_once
            print(f"\r{done:,} pairs, none negative, none beyond the bound", end="", flush=True)
            if done >= total:
                break
        round_ += 1
    print()
