"""Accumulator: every statistic against a plain computation, and the same bits in any order of rows and merges."""

from __future__ import annotations

import copy
import math
import pickle
import random
import tracemalloc
from fractions import Fraction
from typing import Any

import kullback as kb
import numpy as np
import pytest
from arrays import generator
from hypothesis import example
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from kullback import _core
from kullback._accumulate import COLUMNS, EXACT_ROWS, LABELLED
from kullback._percentiles import PERCENTS, Percentiles
from plain_summary import assert_same, plain_summary

Columns = dict[str, np.ndarray]
DTYPES = (np.float32, np.float64)


def some_columns(n: int, dtype: Any = np.float32, seed: int = 0) -> Columns:
    """Columns with the look of a comparison: skewed divergences, correlated surprisals, small differences."""
    rng = generator("columns", n, seed)
    kl = np.exp(2 * rng.standard_normal(n) - 7)
    nll = rng.gamma(1.0, 2.0, n)
    values = {
        "kl": kl,
        "kl_reverse": kl * np.exp(0.1 * rng.standard_normal(n)),
        "js": kl / 8,
        "tv": np.sqrt(kl / 3),
        "entropy_base": rng.gamma(2.0, 1.0, n),
        "entropy_other": rng.gamma(2.0, 1.0, n),
        "cross_entropy": rng.gamma(3.0, 1.0, n),
        "nll_base": nll,
        "nll_other": nll + 0.05 * rng.standard_normal(n) + 0.01,
        "delta_p": 0.02 * rng.standard_normal(n),
    }
    columns = {name: column.astype(dtype) for name, column in values.items()}
    return {"same_top": rng.random(n) < 0.9, **columns}


def some_status(n: int, seed: int = 0) -> np.ndarray:
    return generator("status", n, seed).choice(np.array([0, 0, 0, 1, 2], np.uint8), n)


def accumulated(columns: Columns, status: np.ndarray, groups: np.ndarray | None = None, **keywords: Any) -> Any:
    accumulator = kb.Accumulator(columns, **keywords)
    accumulator.update(columns, status, groups)
    return accumulator


def part(columns: Columns, rows: Any) -> Columns:
    return {name: values[rows] for name, values in columns.items()}


def bits(accumulator: kb.Accumulator) -> str:
    """The summary so that NaN equals NaN and nothing else is lost."""
    return repr(accumulator.summary())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("grouped", [None, "runs", "mixed", "words"])
def test_every_statistic_is_what_a_plain_computation_gives(dtype: Any, grouped: str | None) -> None:
    n = 5000
    columns, status = some_columns(n, dtype), some_status(n)
    groups = None
    if grouped is not None:
        groups = np.sort(generator("groups", n).integers(-5, 40, n))
        # Within a group rows are alike, so that errors with and without groups differ.
        columns |= {name: columns[name] * (1 + 0.1 * np.sin(groups)).astype(dtype) for name in ("kl", "nll_other")}
        if grouped != "runs":
            order = generator("order", n).permutation(n)
            columns, status, groups = part(columns, order), status[order], groups[order]
        if grouped == "words":
            groups = np.array([f"document {i}" for i in groups])
    assert_same(accumulated(columns, status, groups).summary(), plain_summary(columns, status, groups))


def test_columns_of_any_shape_and_layout_are_rows_in_c_order() -> None:
    columns, status = some_columns(600), some_status(600)
    groups = np.arange(600) // 30
    flat = accumulated(columns, status, groups)
    folded = {name: np.asfortranarray(values.reshape(20, 30)) for name, values in columns.items()}
    assert bits(accumulated(folded, status.reshape(20, 30), groups.reshape(20, 30))) == bits(flat)
    apart = {name: np.repeat(values, 2)[::2] for name, values in columns.items()}
    assert bits(accumulated(apart, status, groups)) == bits(flat)
    swapped = {name: values.astype(values.dtype.newbyteorder()) for name, values in columns.items()}
    assert bits(accumulated(swapped, status, groups)) == bits(flat)
    lists = {name: values.tolist() for name, values in columns.items()}
    wide = {name: values if name == "same_top" else values.astype(float) for name, values in columns.items()}
    assert bits(accumulated(lists, status.tolist(), groups.tolist())) == bits(accumulated(wide, status, groups))


def test_only_scored_rows_are_read() -> None:
    columns, status = some_columns(1000), some_status(1000)
    clean = bits(accumulated(columns, status))
    for name in columns:
        if name != "same_top":
            columns[name][status != 0] = np.nan
    before = {name: values.copy() for name, values in columns.items()}
    assert bits(accumulated(columns, status)) == clean
    for name, values in before.items():
        np.testing.assert_array_equal(columns[name], values)


@st.composite
def awkward_rows(draw: st.DrawFn) -> tuple[Columns, np.ndarray, np.ndarray | None]:
    """A few rows of any magnitude, with infinities where a column can have them."""
    n = draw(st.integers(1, 40))
    dtype = draw(st.sampled_from(DTYPES))
    width = 8 * np.dtype(dtype).itemsize
    sizes = st.floats(0, 2.0**100, width=width) | st.floats(0, 1, width=width) | st.sampled_from([0.0, math.inf])
    signed = st.floats(-1, 1, width=width)
    columns = {
        name: draw(hnp.arrays(dtype, n, elements=signed if name == "delta_p" else sizes))
        for name in COLUMNS
        if name != "same_top"
    }
    columns["same_top"] = draw(hnp.arrays(bool, n))
    status = draw(hnp.arrays(np.uint8, n, elements=st.integers(0, 2)))
    groups = draw(st.none() | hnp.arrays(np.int64, n, elements=st.integers(0, 4)))
    return columns, status, groups


@hypothesis_given(rows=awkward_rows(), limit=st.sampled_from([0, 5, 100]), seed=st.integers(0, 2**32))
def test_order_chunks_and_merges_do_not_change_a_bit(
    rows: tuple[Columns, np.ndarray, np.ndarray | None], limit: int, seed: int
) -> None:
    columns, status, groups = rows
    whole = accumulated(columns, status, groups, _exact_rows=limit)
    pick = random.Random(seed)
    order = list(range(len(status)))
    pick.shuffle(order)
    parts = []
    while order:
        taken = pick.randint(1, len(order))
        shard = kb.Accumulator(_exact_rows=limit)
        for start in range(0, taken, 7):
            some = order[:taken][start : start + 7]
            shard.update(part(columns, some), status[some], None if groups is None else groups[some])
        parts.append(shard)
        order = order[taken:]
    while len(parts) > 1:
        taken_out = parts.pop(pick.randrange(len(parts)))
        into = pick.randrange(len(parts))
        parts[into] = pickle.loads(pickle.dumps(parts[into])).merge(taken_out)
    assert bits(parts[0]) == bits(whole)


@pytest.mark.parametrize("limit", [EXACT_ROWS, 1000])
def test_large_shards_merge_to_the_same_bits(limit: int) -> None:
    n = 700_000
    columns, status, groups = some_columns(n), some_status(n), np.arange(n) // 1000
    whole = accumulated(columns, status, groups, _exact_rows=limit)
    merged = kb.Accumulator(_exact_rows=limit)
    for rows in (slice(500_000, n), slice(0, 200_123), slice(200_123, 500_000)):
        merged.merge(accumulated(part(columns, rows), status[rows], groups[rows], _exact_rows=limit))
    assert bits(merged) == bits(whole)


def test_merging_leaves_the_other_as_it_was() -> None:
    first, second = (accumulated(some_columns(300, seed=i), some_status(300, seed=i)) for i in (1, 2))
    before = bits(second)
    assert first.merge(second) is first
    first.update(some_columns(50), some_status(50))
    assert bits(second) == before


def test_a_summary_may_be_read_at_any_time() -> None:
    columns, status = some_columns(1000), some_status(1000)
    expected = bits(accumulated(columns, status))
    watched = kb.Accumulator(columns)
    for start in range(0, 1000, 100):
        rows = slice(start, start + 100)
        watched.update(part(columns, rows), status[rows])
        watched.summary()
    assert bits(watched) == expected == bits(watched)


def test_constant_columns_have_no_error() -> None:
    n = 1000
    columns = {name: np.full(n, 0.3, np.float32) for name in COLUMNS if name != "same_top"}
    columns["same_top"] = np.ones(n, bool)
    for groups in (None, np.arange(n) // 7):
        summary = accumulated(columns, np.zeros(n, np.uint8), groups).summary()
        value = float(np.float32(0.3))
        assert summary["kl"]["mean"] == summary["kl"]["p99.9"] == value
        for name in ("kl", "js", "tv", "entropy_base", "delta_p", "same_top"):
            assert summary[name]["se"] == 0.0, name
        assert summary["perplexity"]["ratio"] == 1.0
        assert summary["perplexity"]["ratio_se"] == 0.0
        assert math.isnan(summary["perplexity"]["correlation"])
        assert summary["delta_p"]["rms"] == value
        assert summary["delta_p"]["rms_se"] == 0.0


def test_small_spread_on_a_large_mean_keeps_its_digits() -> None:
    # 1 + k·2⁻⁵², k = 0 … 3: the sum of squares minus the squared sum cancels all but the last two of 105 bits.
    values = 1 + np.arange(4) * 2.0**-52
    summary = accumulated({"kl": values}, np.zeros(4, np.uint8)).summary()
    assert summary["kl"]["se"] == pytest.approx(2.0**-52 * math.sqrt(5 / 12), rel=1e-15)


def test_groups_of_one_row_are_independent_rows() -> None:
    columns, status = some_columns(2000), some_status(2000)
    alone = accumulated(columns, status, np.arange(2000)).summary()
    free = accumulated(columns, status).summary()
    scored = free["rows"]["scored"]
    for name in ("kl", "js", "entropy_other", "delta_p"):
        assert alone[name]["groups"] == scored
        assert math.isclose(alone[name]["se"], free[name]["se"], rel_tol=1e-12)
    for name in ("base_se", "ratio_se", "difference_se", "mean_ln_ratio_se"):
        assert math.isclose(alone["perplexity"][name], free["perplexity"][name], rel_tol=1e-12)
    binomial = free["same_top"]["se"] * math.sqrt(scored / (scored - 1))
    assert math.isclose(alone["same_top"]["se"], binomial, rel_tol=1e-12)


def test_repeated_rows_in_groups_do_not_shrink_the_error() -> None:
    columns = some_columns(400)
    status = np.zeros(400, np.uint8)
    once = accumulated(columns, status, np.arange(400)).summary()
    tenfold = {name: np.repeat(values, 10) for name, values in columns.items()}
    ten = accumulated(tenfold, np.zeros(4000, np.uint8), np.repeat(np.arange(400), 10)).summary()
    for name in ("kl", "tv", "same_top", "delta_p"):
        assert math.isclose(ten[name]["se"], once[name]["se"], rel_tol=1e-12)
    assert math.isclose(ten["perplexity"]["ratio_se"], once["perplexity"]["ratio_se"], rel_tol=1e-12)


def test_infinite_divergences_are_counted_and_sort_last() -> None:
    columns, status = some_columns(1000), some_status(1000)
    status[:3] = 0
    columns["kl"][:3] = np.inf
    columns["kl"][status == 1] = np.inf
    columns["nll_other"][5], status[5] = np.inf, 0
    for groups in (None, np.arange(1000) // 10):
        summary = accumulated(columns, status, groups).summary()
        assert summary["rows"]["kl_inf"] == 3
        assert summary["kl"]["mean"] == summary["kl"]["max"] == summary["kl"]["p99.9"] == math.inf
        assert math.isnan(summary["kl"]["se"])
        scored = columns["kl"][status == 0].astype(float)
        assert summary["kl"]["p90"] == np.percentile(scored, 90)
        assert summary["kl"]["p50"] == np.percentile(scored, 50)
        perplexity = summary["perplexity"]
        assert perplexity["other"] == perplexity["ratio"] == perplexity["difference"] == math.inf
        assert math.isfinite(perplexity["base"]) and math.isfinite(perplexity["base_se"])
        assert all(math.isnan(perplexity[name]) for name in ("other_se", "ratio_se", "difference_se", "correlation"))
        assert math.isfinite(summary["js"]["se"])


def test_values_beyond_floating_point_squares_have_errors_all_the_same() -> None:
    summary = accumulated({"kl": np.array([1e300, 3e300]), "js": np.array([1e-200, 3e-200])}, [0, 0]).summary()
    assert summary["kl"]["mean"] == pytest.approx(2e300, rel=1e-15)
    assert summary["kl"]["se"] == pytest.approx(1e300, rel=1e-15)
    assert summary["js"]["se"] == pytest.approx(1e-200, rel=1e-15)
    huge = accumulated({"nll_base": np.array([800.0, 1.0]), "nll_other": np.array([2000.0, 1.0])}, [0, 0]).summary()
    assert huge["perplexity"]["other"] == math.inf
    assert huge["perplexity"]["mean_ln_ratio"] == 600.0


@pytest.mark.parametrize("groups", [None, np.zeros(3, int)])
def test_nothing_and_a_single_row_have_no_error(groups: np.ndarray | None) -> None:
    columns = some_columns(3)
    some = None if groups is None else groups[:0]
    for nothing in (
        accumulated(part(columns, slice(0)), np.zeros(0, np.uint8), some),
        accumulated(columns, np.array([1, 2, 1], np.uint8), groups),
    ):
        summary = nothing.summary()
        assert summary["rows"]["scored"] == 0
        for name in ("kl", "delta_p"):
            numbers = {key: value for key, value in summary[name].items() if key not in ("groups", "rank_error")}
            assert all(math.isnan(value) for value in numbers.values())
        assert math.isnan(summary["same_top"]["share"]) and math.isnan(summary["perplexity"]["ratio"])
        assert bits(copy.deepcopy(nothing).merge(nothing)) != "" and nothing.summary()["rows"]["scored"] == 0
    one = accumulated(columns, np.array([0, 1, 2], np.uint8), groups).summary()
    assert one["kl"]["mean"] == one["kl"]["min"] == one["kl"]["p0.1"] == float(columns["kl"][0])
    assert math.isnan(one["kl"]["se"]) and math.isnan(one["delta_p"]["rms_se"])


def test_one_group_has_no_error() -> None:
    summary = accumulated(some_columns(50), np.zeros(50, np.uint8), np.zeros(50, int)).summary()
    assert summary["kl"]["groups"] == 1
    assert math.isnan(summary["kl"]["se"]) and math.isnan(summary["perplexity"]["difference_se"])


def test_columns_that_are_not_there_are_not_summarised() -> None:
    columns, status = some_columns(100), some_status(100)
    everything = accumulated(columns, status).summary()
    for chosen in (["tv", "kl"], ["same_top"], ["nll_base"], list(LABELLED), ["delta_p", "entropy_base"]):
        accumulator = kb.Accumulator(chosen)
        accumulator.update(columns, status)
        summary = accumulator.summary()
        wanted = {name for name in chosen if not name.startswith("nll")}
        if {"nll_base", "nll_other"} <= set(chosen):
            wanted.add("perplexity")
        assert set(summary) == {"schema", "units", "rows"} | wanted
        assert all(repr(summary[name]) == repr(everything[name]) for name in wanted)
        assert (summary["rows"]["kl_inf"] is None) == ("kl" not in chosen)


def test_float32_and_float64_updates_mix() -> None:
    single, double = some_columns(500), some_columns(500, np.float64, seed=1)
    status = np.zeros(500, np.uint8)
    merged = accumulated(single, status).merge(accumulated(double, status))
    both = {name: np.concatenate([values, double[name]]) for name, values in single.items()}
    assert_same(merged.summary(), plain_summary(both, np.zeros(1000, np.uint8)))
    mixed = kb.Accumulator(["nll_base", "nll_other"])
    mixed.update({"nll_base": single["nll_base"], "nll_other": double["nll_other"]}, status)
    assert math.isfinite(mixed.summary()["perplexity"]["correlation"])


def test_accumulators_pickle_and_copy() -> None:
    columns, status, groups = some_columns(3000), some_status(3000), np.arange(3000) // 100
    for limit in (EXACT_ROWS, 100):
        accumulator = accumulated(columns, status, groups, _exact_rows=limit)
        for again in (pickle.loads(pickle.dumps(accumulator)), copy.deepcopy(accumulator)):
            assert bits(again) == bits(accumulator)
            again.update(columns, status, groups)
            other = copy.deepcopy(accumulator)
            other.update(columns, status, groups)
            assert bits(again) == bits(other) != bits(accumulator)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"expected_rows must be None or an int >= 0, got -1"):
        kb.Accumulator(expected_rows=-1)
    columns, status = some_columns(10), np.zeros(10, np.uint8)
    groups = np.arange(10)
    with pytest.raises(ValueError, match=r"unknown column 'kll'; the columns are kl, kl_reverse, js"):
        kb.Accumulator(["kll"])
    accumulator = kb.Accumulator(["kl", "js"])
    with pytest.raises(ValueError, match=r"column 'js' is missing; there are kl"):
        accumulator.update({"kl": columns["kl"]}, status)
    with pytest.raises(ValueError, match=r"column 'js' has shape \(9,\), status has shape \(10,\)"):
        accumulator.update({"kl": columns["kl"], "js": columns["js"][1:]}, status)
    with pytest.raises(TypeError, match=r"column 'kl' must be float32 or float64, not int64"):
        accumulator.update({"kl": groups, "js": columns["js"]}, status)
    with pytest.raises(TypeError, match=r"column 'same_top' must be booleans, not float32"):
        kb.Accumulator(["same_top"]).update({"same_top": columns["kl"]}, status)
    with pytest.raises(TypeError, match=r"status must be integers .*, not float64"):
        accumulator.update(columns, status.astype(float))
    with pytest.raises(ValueError, match=r"status of row 4 is 3; known are 0 scored, 1 ignored, 2 invalid"):
        accumulator.update(columns, np.where(groups == 4, 3, 0))
    columns["js"][7] = np.nan
    with pytest.raises(ValueError, match=r"column 'js' is NaN in row 7, whose status is 0 \(scored\)"):
        accumulator.update(columns, np.where(groups == 2, 1, 0))
    columns["js"][7] = 0
    with pytest.raises(ValueError, match=r"groups has shape \(9,\), status has shape \(10,\)"):
        accumulator.update(columns, status, groups[1:])
    with pytest.raises(TypeError, match=r"groups must be integers or strings, not float64"):
        accumulator.update(columns, status, groups / 2)
    unset = kb.Accumulator()
    with pytest.raises(ValueError, match=r"status of row 0 is 7"):
        unset.update(columns, np.full(10, 7))
    assert unset.columns == ()
    # None of these left a trace.
    assert accumulator.summary()["rows"]["total"] == 0
    accumulator.update(columns, status, groups)
    with pytest.raises(ValueError, match=r"the rows so far have groups, these none"):
        accumulator.update(columns, status)
    plain = accumulated({name: columns[name] for name in ("kl", "js")}, status)
    with pytest.raises(ValueError, match=r"the rows so far have no groups, these groups"):
        plain.merge(accumulator)
    with pytest.raises(ValueError, match=r"different columns .* this one has kl, js; the other has kl"):
        plain.merge(accumulated({"kl": columns["kl"]}, status))
    with pytest.raises(ValueError, match=r"this very accumulator"):
        plain.merge(plain)
    assert plain.summary()["rows"]["total"] == 10


# Percentiles


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 3, 10, 1000, (1 << 18) + 1, 600_001])
def test_percentiles_are_those_of_numpy_bit_for_bit(dtype: Any, n: int) -> None:
    rng = generator("percentiles", n)
    for values in (np.exp(3 * rng.standard_normal(n)), rng.integers(-3, 4, n) * 1.5, -rng.random(n)):
        column = values.astype(dtype)
        seen = Percentiles(EXACT_ROWS)
        for start in range(0, n, 100_000):
            seen.add(column[start : start + 100_000])
        got, rank_error = seen.at(PERCENTS)
        assert rank_error == 0.0
        np.testing.assert_array_equal(got, np.percentile(column.astype(np.float64), PERCENTS))
        assert not np.signbit(got[got == 0]).any()


@hypothesis_given(
    values=hnp.arrays(np.float64, st.integers(1, 50), elements=st.floats(min_value=-1.7e308)),
    percents=st.lists(st.floats(0, 100), min_size=1, max_size=5),
)
@example(values=np.array([-1e308, 1.5e308, np.inf, np.inf]), percents=[10.0, 30.0, 40.0, 66.6, 90.0])
@example(values=np.array([0.0, np.inf]), percents=[0.0])
def test_percentiles_of_any_numbers(values: np.ndarray, percents: list[float]) -> None:
    seen = Percentiles(EXACT_ROWS)
    seen.add(values)
    got, _ = seen.at(percents)
    ordered = np.sort(values)
    place = (len(values) - 1) * (np.array(percents) / 100)
    below, above = ordered[np.floor(place).astype(int)], ordered[np.ceil(place).astype(int)]
    assert ((below <= got) & (got <= above)).all()
    with np.errstate(all="ignore"):
        expected = np.percentile(values, percents)
        # Beside an infinity numpy's are NaN even at a number itself: it adds 0 times the distance to the next.
        after = ordered[np.minimum(np.floor(place).astype(int) + 1, len(values) - 1)]
        finite = np.isfinite(after - below)
    np.testing.assert_array_equal(got[finite], expected[finite])


@pytest.mark.parametrize("dtype", DTYPES)
def test_beyond_the_limit_values_and_ranks_are_near(dtype: Any) -> None:
    n = 400_000
    rng = generator("bins", dtype)
    for values in (np.exp(2 * rng.standard_normal(n) - 7), 0.02 * rng.standard_normal(n), rng.random(n)):
        column = values.astype(dtype)
        seen = Percentiles(1000)
        for start in range(0, n, 70_000):
            seen.add(column[start : start + 70_000])
        assert not seen.exact
        got, rank_error = seen.at(PERCENTS)
        exact = np.percentile(column.astype(np.float64), PERCENTS)
        # A bin's width: 2⁻¹² of the value.
        np.testing.assert_allclose(got, exact, rtol=2**-12, atol=0)
        ranks = np.searchsorted(np.sort(column.astype(np.float64)), got) / n
        assert 0 < rank_error < 3e-4
        assert (np.abs(ranks - np.array(PERCENTS) / 100) <= rank_error + 1 / n).all()


def test_bins_hold_zeros_infinities_and_the_extremes_of_the_range() -> None:
    seen = Percentiles(0)
    values = np.array([-np.inf, -1e308, -1.0, -1e-320, -0.0, 0.0, 1e-310, 1.0, 1e308, np.inf])
    seen.add(values)
    got, rank_error = seen.at(np.linspace(0, 100, 10).tolist())
    largest = float(np.finfo(np.float32).max)
    expected = [-np.inf, -largest, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0, largest, np.inf]
    np.testing.assert_allclose(got, expected, rtol=2**-12, atol=1e-12)
    assert rank_error == 0.0


def test_a_summary_beyond_the_limit_says_so_and_is_otherwise_exact() -> None:
    n = 30_000
    columns, status = some_columns(n), some_status(n)
    exact = accumulated(columns, status).summary()
    for accumulator in (
        accumulated(columns, status, _exact_rows=5000),
        accumulated(columns, status, expected_rows=EXACT_ROWS + 1),
    ):
        summary = accumulator.summary()
        for name in ("kl", "kl_reverse", "js", "tv", "delta_p"):
            assert summary[name]["rank_error"] < 1e-3
            for key, value in exact[name].items():
                if key.startswith("p"):
                    assert math.isclose(summary[name][key], value, rel_tol=2**-11, abs_tol=1e-7), (name, key)
                elif key != "rank_error":
                    assert summary[name][key] == value, (name, key)


def test_expecting_few_rows_changes_nothing() -> None:
    columns, status = some_columns(100), some_status(100)
    assert bits(accumulated(columns, status, expected_rows=100)) == bits(accumulated(columns, status))


def test_values_are_kept_once_and_not_copied_to_be_ranked() -> None:
    n = 1 << 20
    rng = generator("memory")
    blocks = [rng.random(1 << 16, np.float32) for _ in range(n >> 16)]
    seen = Percentiles(EXACT_ROWS)
    tracemalloc.start()
    try:
        for block in blocks:
            seen.add(block)
        seen.at(PERCENTS)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The values and one open chunk, and a tenth for everything else.
    assert peak < 1.1 * 4 * (n + (1 << 18))


# Exact sums


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_are_rounded_once(dtype: Any) -> None:
    rng = generator("sums", dtype)
    for low, high in ((-1, 1), (-30, 3), (-140, 120), (-149, -120)):
        values = (rng.standard_normal(3001) * 2.0 ** rng.integers(low, high, 3001)).astype(dtype)
        total, squares = _core.ExactSum(), _core.ExactSum()
        total.add(values)
        squares.add_product(values, values)
        assert total.value() == math.fsum(values)
        assert squares.value() == float(sum(Fraction(float(x)) ** 2 for x in values))


def test_sums_of_f64_of_any_magnitude_are_exact() -> None:
    rng = generator("magnitudes")
    a, b = (rng.standard_normal(700) * 2.0 ** rng.integers(-1000, 1000, 700) for _ in range(2))
    total = _core.ExactSum()
    total.add_product(a, b)
    total.add_product(-a[:350], b[:350])
    total.add_product(-a[350:], b[350:])
    total.add(np.array([5e-324, 1.0, -1.0]))
    assert total.value() == 5e-324
    assert pickle.loads(pickle.dumps(total)).value() == 5e-324


def test_exact_sums_refuse_what_they_cannot_add() -> None:
    total = _core.ExactSum()
    for bad in (np.arange(3), np.zeros(3, np.float16), np.zeros((2, 2)), [1.0]):
        with pytest.raises((TypeError, ValueError)):
            total.add(bad)
    with pytest.raises((TypeError, ValueError)):
        total.add_product(np.zeros(3), np.zeros(4))
    with pytest.raises((TypeError, ValueError)):
        total.add_product(np.zeros(3), np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="state"):
        total.__setstate__([1, 2, 3])
    assert total.value() == 0.0
