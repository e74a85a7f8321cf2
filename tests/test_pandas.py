"""`import kullback.pandas`: frames against their contiguous copies, and counted values against plain counting."""

from __future__ import annotations

import math
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import flint
import kullback as kb
import kullback.pandas
import numpy as np
import pandas as pd
import pytest
from arrays import generator, matrix
from hypothesis import example, given
from hypothesis import strategies as st
from kullback import _values
from kullback.pandas import group_value_divergence, group_value_entropy

TWO = ("cross_entropy", "kl_divergence", "js_divergence", "js_distance")


def frame_of(p: np.ndarray, kind: str) -> pd.DataFrame:
    """A frame with these values, laid out and typed in one of many ways."""
    labels = [f"c{i}" for i in range(p.shape[1])]
    index = [f"r{i}" for i in range(len(p))]
    plain = pd.DataFrame(p, columns=labels, index=index)
    match kind:
        case "row-major":
            return plain
        case "column-major":
            return plain.copy()
        case "many blocks":
            return pd.concat([plain[[label]] for label in labels], axis=1)
        case "half selected":
            wide = pd.DataFrame(np.repeat(p, 2, axis=1), index=index)
            return wide.iloc[:, ::2].set_axis(labels, axis=1)
        case "nullable":
            return plain.astype("Float32" if p.dtype == np.float32 else "Float64")
        case "arrow":
            return plain.astype("float[pyarrow]" if p.dtype == np.float32 else "double[pyarrow]")
        case "nullable and plain":
            return plain.astype({label: "Float32" if p.dtype == np.float32 else "Float64" for label in labels[::2]})
    raise AssertionError(kind)


KINDS = ("row-major", "column-major", "many blocks", "half selected", "nullable", "arrow", "nullable and plain")


def same_bits(series: pd.Series, expected: np.ndarray) -> bool:
    values = series.to_numpy()
    return values.dtype == expected.dtype and values.tobytes() == expected.tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bits_are_those_of_the_contiguous_copy(kind: str, dtype: type) -> None:
    p, q = (matrix(101, 12, "probs", dtype, seed=seed) for seed in (1, 2))
    df, other = frame_of(p, kind), frame_of(q, kind)
    labels = generator(kind).integers(0, 12, 101)
    assert same_bits(df.kb.entropy(), kb.entropy(p))
    assert same_bits(df.kb.nll(labels), kb.nll(p, labels))
    assert same_bits(df.kb.nll(pd.Series(df.columns[labels], df.index)), kb.nll(p, labels))
    for name in TWO:
        method: Callable[..., pd.Series] = getattr(df.kb, name)
        expected = getattr(kb, name)(p, q)
        for operand in (q, other, other.iloc[:, ::-1], frame_of(q, "row-major")):
            result = method(operand)
            assert same_bits(result, expected)
            assert result.name == name and result.index.equals(df.index)
        assert same_bits(method(q[0]), getattr(kb, name)(p, q[0]))
        assert same_bits(method(other.iloc[0]), getattr(kb, name)(p, q[0]))
    both = df.kb.compare(other, labels, given="probs")
    expected_both = kb.compare(p, q, labels, given="probs")
    for column in expected_both:
        assert both[column].tobytes() == expected_both[column].tobytes()
    assert both.to_frame().index.equals(df.index)
    assert both.merge(both).to_frame().index.equals(df.index.append(df.index))


def test_options_reach_the_kernels() -> None:
    p, q = (matrix(40, 6, "logits", np.float64, seed=seed, scale=3.0) for seed in (1, 2))
    df = frame_of(p, "many blocks")
    classes, rows = np.array([True, True, False, True, True, True]), np.arange(40) % 3 != 0
    options: dict[str, Any] = {"given": "logits", "base": 2, "temperature": 1.5}
    assert same_bits(
        df.kb.kl_divergence(q, where=classes, rows=rows, **options),
        kb.kl_divergence(p, q, where=classes, rows=rows, **options),
    )
    shuffled = pd.Series(classes, df.columns)[::-1]
    assert same_bits(df.kb.entropy(where=shuffled, **options), kb.entropy(p, where=classes, **options))
    each = generator("where").random((40, 6)) < 0.9
    assert same_bits(df.kb.entropy(where=each, **options), kb.entropy(p, where=each, **options))
    assert same_bits(
        df.kb.entropy(rows=pd.Series(rows, df.index), **options),
        kb.entropy(p, rows=rows, **options),
    )
    both = df.kb.compare(q, measures=["tv"], groups=np.arange(40) // 10)
    assert list(both) == ["tv"] and both.summary()["tv"]["groups"] == 4


def test_mixed_dtypes_promote_as_arrays_do() -> None:
    columns = {
        "a": np.array([3, 0, 5], np.int8),
        "b": np.array([1.5, 2.5, 0], np.float32),
        "c": np.array([True, False, True]),
        "d": np.array([1, 2, 3], np.float16),
    }
    df = pd.DataFrame(columns)
    whole = np.stack([np.asarray(column, np.float32) for column in columns.values()], axis=1)
    assert same_bits(df.kb.entropy(given="counts"), kb.entropy(whole, given="counts"))
    df["e"] = [2**40, 1, 7]
    wide = np.column_stack([whole, df["e"]]).astype(np.float64)
    assert same_bits(df.kb.entropy(given="counts"), kb.entropy(wide, given="counts"))
    integers = pd.DataFrame({"a": [1, 2], "b": [3, 4]})
    assert same_bits(integers.kb.entropy(given="counts"), kb.entropy(np.array([[1, 3], [2, 4]]), given="counts"))
    assert same_bits(
        integers.astype("Int64").kb.entropy(given="counts"), integers.kb.entropy(given="counts").to_numpy()
    )


@pytest.mark.parametrize("dtype", ["Float64", "Int64", "double[pyarrow]", "int64[pyarrow]", "float64"])
def test_a_missing_value_makes_its_row_nan(dtype: str) -> None:
    df = pd.DataFrame({"a": [1, None, 3, None], "b": [1, 2, 5, None]}).astype(dtype)
    result = df.kb.entropy(given="counts")
    expected = kb.entropy(np.array([[1, 1], [np.nan, 2], [3, 5], [np.nan, np.nan]]), given="counts")
    assert np.isnan(result.iloc[[1, 3]]).all()
    assert same_bits(result, expected)


def test_a_frame_of_one_block_is_not_copied() -> None:
    p = matrix(20_000, 50, "probs", np.float32)
    df = pd.DataFrame(p, columns=[f"c{i}" for i in range(50)])
    staged = frame_of(p, "many blocks")
    for frame, most in ((df, p.nbytes // 10), (df.copy(), p.nbytes // 10), (staged, 8 << 20)):
        frame.kb.kl_divergence(frame)
        tracemalloc.start()
        frame.kb.kl_divergence(frame)
        frame.kb.entropy(columns=[f"c{i}" for i in range(50)])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < most + 8 * len(p), (peak, most)


def test_inner_join_keeps_the_rows_in_both() -> None:
    p, q = (matrix(30, 5, "probs", np.float64, seed=seed) for seed in (1, 2))
    left = pd.DataFrame(p, index=range(30))
    right = pd.DataFrame(q, index=range(10, 40)).sample(frac=1, random_state=0)
    result = left.kb.js_divergence(right, join="inner")
    assert result.index.tolist() == list(range(10, 30))
    assert same_bits(result, kb.js_divergence(p[10:], q[:20]))
    labels = generator("join").integers(0, 5, 30)
    both = left.kb.compare(right, pd.Series(labels), join="inner", given="probs", rows=np.arange(30) % 2 == 0)
    expected = kb.compare(p[10:], q[:20], labels[10:], given="probs", rows=np.arange(10, 30) % 2 == 0)
    assert both.nll_base.tobytes() == expected.nll_base.tobytes()
    assert left.kb.js_divergence(left, join="inner").eq(0).all()


def refused(error: type[Exception], message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(error, match=message):
        call()


def test_what_does_not_fit_is_refused() -> None:
    df = pd.DataFrame({"a": [0.5, 0.9], "b": [0.5, 0.1]}, index=["x", "y"])
    refused(ValueError, r"row 1 is 'z' against 'y'", lambda: df.kb.kl_divergence(df.set_axis(["x", "z"])))
    refused(ValueError, r"3 rows against 2", lambda: df.kb.kl_divergence(pd.concat([df, df[:1]])))
    refused(ValueError, r"only in other: 'c'", lambda: df.kb.kl_divergence(df.assign(c=0)))
    refused(ValueError, r"other has no column 'b'", lambda: df.kb.kl_divergence(df.rename(columns={"b": "c"})))
    refused(ValueError, r"has 'x' more than once", lambda: df.kb.entropy() is None or df.kb.kl_divergence(
        df.iloc[[0, 0]], join="inner"))  # fmt: skip
    refused(ValueError, r"unknown join 'left'", lambda: df.kb.kl_divergence(df, join="left"))
    refused(ValueError, r"other has shape \(3, 2\)", lambda: df.kb.kl_divergence(np.ones((3, 2)) / 2))
    refused(ValueError, r"other is a series of 3 values", lambda: df.kb.kl_divergence(pd.Series([1, 0, 0])))
    refused(ValueError, r"other's index has no column 'a'", lambda: df.kb.kl_divergence(pd.Series([1, 0])))
    refused(ValueError, r"no columns", lambda: df[[]].kb.entropy())
    refused(ValueError, r"columns is empty", lambda: df.kb.entropy(columns=[]))
    refused(TypeError, r"other must be an array of numbers, got NoneType", lambda: df.kb.kl_divergence(None))
    numbered = df.set_axis([0, 1])
    refused(ValueError, r"row 1 is 2 against 1;", lambda: numbered.kb.kl_divergence(df.set_axis([0, 2])))
    pairs = df.set_axis(pd.MultiIndex.from_tuples([(0, "x"), (1, "y")]))
    refused(ValueError, r"row 0 is \(1, 'y'\) against \(0, 'x'\);", lambda: pairs.kb.kl_divergence(pairs[::-1]))
    refused(KeyError, r"no column 'z'; there are 'a', 'b'", lambda: df.kb.entropy(columns=["a", "z"]))
    refused(TypeError, r"say \['a'\]", lambda: df.kb.entropy(columns="a"))
    refused(ValueError, r"rows has 3 values, the frame has 2 rows", lambda: df.kb.entropy(rows=[True] * 3))
    refused(ValueError, r"row 1 \(index 'y'\) sums to", lambda: df.mul([1, 0.5], axis=0).kb.entropy())
    refused(KeyError, r"'c' of row 1 is none of the columns 'a', 'b'", lambda: df.kb.nll(["a", "c"]))
    refused(TypeError, r"labels must be integers .* dtype float64$", lambda: df.kb.nll([0.0, 1.0]))
    refused(TypeError, r"labels\.astype\('Int64'\)", lambda: df.kb.nll([0, None]))
    gap = pd.array([True, None], dtype="boolean")
    refused(ValueError, r"rows: row 1 is missing", lambda: df.kb.entropy(rows=gap))
    refused(ValueError, r"groups: row 1 is missing", lambda: df.kb.compare(df, given="probs", groups=["g", None]))
    refused(IndexError, r"label 2 of row 1", lambda: df.kb.nll([0, 2]))
    refused(ValueError, r"labels are integers and so are", lambda: df.set_axis([3, 5], axis=1).kb.nll([0, 1]))
    doubled = df.set_axis(["a", "a"], axis=1)
    assert doubled.kb.entropy().equals(df.kb.entropy())
    refused(ValueError, r"more than one column 'a'", lambda: doubled.kb.kl_divergence(df))
    refused(ValueError, r"more than one column 'a'", lambda: doubled.kb.entropy(columns=["a"]))
    refused(ValueError, r"more than one column 'a'", lambda: doubled.kb.nll(["a", "a"]))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pd.Series(["u", "v"], dtype="category"), "value_entropy"),
        (pd.Series(["u", "v"]), "has dtype str"),
        (pd.Series([0.5, 0.5], dtype="Sparse[float64]"), "to_dense"),
        (pd.Series(pd.to_datetime(["2020-01-01", "2021-01-01"])), "datetime64"),
        (pd.Series([0.5, 0.5], dtype=object), r"astype\(float\)"),
        (pd.Series([0.5j, 0.5]), "complex"),
        (pd.Series([[1.0], [2.0]]), "object"),
    ],
)
def test_columns_that_are_no_numbers_are_named(column: pd.Series, message: str) -> None:
    df = pd.DataFrame({"a": [0.5, 0.5], "odd": column, "b": [0.5, 0.5]})
    refused(TypeError, f"column 'odd' .*{message}", lambda: df.kb.entropy())
    assert df.kb.entropy(columns=["a", "b"]).round(3).tolist() == [0.693, 0.693]


def test_other_kinds_of_arrays_are_refused() -> None:
    torch = pytest.importorskip("torch")
    df = pd.DataFrame({"a": [0.5], "b": [0.5]})
    refused(TypeError, r"other is a torch.Tensor", lambda: df.kb.kl_divergence(torch.tensor([[0.5, 0.5]])))


def test_a_staged_frame_names_the_lowest_of_all_bad_rows() -> None:
    p = matrix(100_000, 3, "probs", np.float64)
    p[[21, 99_990]] *= 2
    df = frame_of(p, "many blocks")
    refused(ValueError, r"row 21 \(index 'r21'\) .*\(2 rows are invalid\)", lambda: df.kb.entropy())
    assert np.flatnonzero(np.isnan(df.kb.entropy(on_invalid="nan"))).tolist() == [21, 99_990]


def test_empty_frames_give_empty_series() -> None:
    df = pd.DataFrame({"a": pd.Series([], dtype="f4"), "b": pd.Series([], dtype="f4")})
    for frame in (df, df.astype("Float32"), df.astype({"a": "f8"})):
        assert frame.kb.entropy().dtype == ("f8" if frame.dtypes.iloc[0] == "f8" else "f4")
        assert len(frame.kb.kl_divergence(frame)) == 0
    assert np.isnan(pd.Series([], dtype="str").kb.value_entropy())
    grouped = group_value_entropy(df.astype(int), "a", "b")
    assert len(grouped) == 0 and grouped.dtype == np.float64


def test_missing_labels_do_not_count() -> None:
    df = pd.DataFrame({"a": [0.5, 0.9, 0.3], "b": [0.5, 0.1, 0.7]})
    for labels in (pd.Series(["a", None, "b"]), pd.Series([0, None, 1], dtype="Int64")):
        assert df.kb.nll(labels).isna().tolist() == [False, True, False]
        assert df.kb.compare(df, labels, given="probs").status.tolist() == [0, 1, 0]


# Counted values.


@pytest.fixture(autouse=True)
def many_digits() -> Iterator[None]:
    """Divergences near 0 cancel in what they are compared with."""
    with flint.ctx.workprec(200):
        yield


def exact_entropy(counts: list[int]) -> float:
    total = sum(counts)
    if not total:
        return math.nan
    shares = [flint.arb(count) / total for count in counts if count]
    return float(-sum((share * share.log() for share in shares), flint.arb(0)))


def exact_kl(p: list[int], q: list[int]) -> float:
    total_p, total_q = sum(p), sum(q)
    if not total_p or not total_q:
        return math.nan
    kl = flint.arb(0)
    for a, b in zip(p, q, strict=True):
        if a and not b:
            return math.inf
        if a:
            ratio = Fraction(a * total_q, b * total_p)
            kl += flint.arb(a) / total_p * (flint.arb(ratio.numerator) / ratio.denominator).log()
    return float(kl)


def exact_js(p: list[int], q: list[int]) -> float:
    total_p, total_q = sum(p), sum(q)
    if not total_p or not total_q:
        return math.nan
    middle = [a * total_q + b * total_p for a, b in zip(p, q, strict=True)]
    return (exact_kl(p, middle) + exact_kl(q, middle)) / 2


KEYS = st.sampled_from(["int", "wide int", "str", "category", "bool", "float", "Int64", "date"])


def series_of(numbers: list[int | None], kind: str) -> pd.Series:
    """Values of a kind in which None is missing, as far as the kind can be."""
    filled = [0 if n is None else n for n in numbers]
    match kind:
        case "int":
            return pd.Series(filled, dtype="int64")
        case "wide int":
            return pd.Series([n * 10**15 - 5 for n in filled], dtype="int64")
        case "bool":
            return pd.Series([n % 2 == 0 for n in filled], dtype=bool)
        case "str":
            return pd.Series([None if n is None else f"v{n:02d}" for n in numbers], dtype="str")
        case "category":
            names = [f"v{n:02d}" for n in range(12)]
            return pd.Series(pd.Categorical([None if n is None else f"v{n:02d}" for n in numbers], categories=names))
        case "float":
            return pd.Series(numbers, dtype="float64")
        case "Int64":
            return pd.Series(numbers, dtype="Int64")
        case "date":
            days = pd.to_datetime("2026-01-01") + pd.to_timedelta(filled, unit="D")
            return pd.Series(days).where([n is not None for n in numbers])
    raise AssertionError(kind)


def counts_of(values: pd.Series, *, dropna: bool) -> Counter[Any]:
    plain = [None if missing else value for value, missing in zip(values, values.isna(), strict=True)]
    return Counter(value for value in plain if value is not None or not dropna)


def close(got: float, expected: float) -> bool:
    if math.isnan(expected) or math.isinf(expected):
        return bool(np.array_equal(got, expected, equal_nan=True))
    # Of proportional counts what the scale of one leaves, squared (docs/numerics.md).
    return abs(got - expected) <= (8e-16 * abs(expected) if expected else 1e-30)


NUMBERS = st.one_of(st.none(), st.integers(0, 9))
ROWS = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), max_size=40)


@given(numbers=st.lists(NUMBERS, max_size=40), kind=KEYS, dropna=st.booleans())
def test_value_entropy_counts_values(numbers: list[int | None], kind: str, dropna: bool) -> None:
    series = series_of(numbers, kind)
    counts = counts_of(series, dropna=dropna)
    assert close(series.kb.value_entropy(dropna=dropna), exact_entropy(list(counts.values())))


@given(rows=ROWS, kinds=st.tuples(KEYS, KEYS, KEYS), dropna=st.booleans(), dense=st.booleans(), two=st.booleans())
@example(rows=[(None, 1, 2)] * 3, kinds=("str", "int", "str"), dropna=True, dense=True, two=True)
def test_groups_are_those_of_pandas_and_their_values_counted(
    rows: list[tuple[int | None, ...]], kinds: tuple[str, str, str], dropna: bool, dense: bool, two: bool
) -> None:
    columns = {name: series_of([row[i] for row in rows], kinds[i]) for i, name in enumerate("ghv")}
    df = pd.DataFrame(columns)
    by: Any = ["g", "h"] if two else "g"
    groups = list(df.groupby(by, observed=True)["v"])
    tables = [counts_of(values, dropna=dropna) for _, values in groups]
    known = sorted({value for table in tables for value in table}, key=repr)
    counts = [[table[value] for value in known] for table in tables]
    with pytest.MonkeyPatch.context() as patch:
        if not dense:
            patch.setattr(_values, "_FEW", 0)
            patch.setattr(_values, "_DENSE", 0)
        entropies = group_value_entropy(df, by, "v", dropna=dropna)
        assert entropies.index.tolist() == [key for key, _ in groups]
        assert entropies.index.names == (["g", "h"] if two else ["g"]) and entropies.name == "v"
        for got, expected in zip(entropies, counts, strict=True):
            assert close(got, exact_entropy(expected))
        whole = [sum(column) for column in zip(*counts, strict=True)] if known else []
        references: list[tuple[Any, list[int]]] = [(None, whole)]
        if groups:
            references.append((groups[len(groups) // 2][0], counts[len(groups) // 2]))
        for against, reference in references:
            for measure, exact in (("kl_divergence", exact_kl), ("js_divergence", exact_js)):
                result = group_value_divergence(df, by, "v", against=against, measure=measure, dropna=dropna)
                assert result.index.equals(entropies.index) and result.name == measure
                for got, of_group in zip(result, counts, strict=True):
                    assert close(got, exact(of_group, reference)), (got, exact(of_group, reference))


def test_groups_keep_their_dtype() -> None:
    df = pd.DataFrame({"g": pd.Categorical(["b", "a"], categories=["c", "b", "a"], ordered=True), "v": [1, 2]})
    index = group_value_entropy(df, "g", "v").index
    assert index.dtype == df["g"].dtype and index.tolist() == ["b", "a"]
    small = pd.DataFrame({"g": np.array([5, -3], np.int8), "v": [1, 2]})
    assert group_value_entropy(small, "g", "v").index.equals(pd.Index([-3, 5], dtype="int8", name="g"))


def test_counting_refuses_what_it_cannot_count() -> None:
    df = pd.DataFrame({"g": ["a", "b", "b"], "h": [1, 1, 2], "v": [[1], [2], [3]], "w": [1, 2, 3]})
    refused(TypeError, r"'v' has values that cannot be told apart \(unhashable", lambda: df["v"].kb.value_entropy())
    refused(TypeError, "columns are named by their labels, got Series", lambda: group_value_entropy(df, df["g"], "w"))
    refused(TypeError, "df must be a DataFrame, got list", lambda: group_value_entropy([1], "g", "w"))  # type: ignore[arg-type]
    refused(KeyError, "no column 'x'", lambda: group_value_entropy(df, "x", "w"))
    refused(ValueError, "by is empty", lambda: group_value_entropy(df, [], "w"))
    refused(KeyError, "against='z' is none of the groups", lambda: group_value_divergence(df, "g", "w", against="z"))
    refused(KeyError, "names several groups", lambda: group_value_divergence(df, ["g", "h"], "w", against="b"))
    refused(
        ValueError,
        "unknown measure 'entropy'; the measures are",
        lambda: group_value_divergence(df, "g", "w", measure="entropy"),  # type: ignore[arg-type]
    )
    categories = pd.DataFrame({"g": pd.Categorical(["a"], categories=["a", "b"]), "w": [1]})
    refused(KeyError, "none of the groups", lambda: group_value_divergence(categories, "g", "w", against="b"))


def test_counting_table_refuses_codes_without_a_cell() -> None:
    from kullback import _core

    codes = np.array([0, 2], np.int8)
    refused(
        ValueError, "value 2 of row 1 is out of range for 2", lambda: _core.count_values(codes, (0, 3), codes, (0, 2))
    )
    refused(ValueError, "2 rows and values has 1", lambda: _core.count_values(codes, (0, 3), codes[:1], (0, 3)))
    refused(TypeError, "values must be a 1-D array", lambda: _core.count_values(codes, (0, 3), codes * 0.5, (0, 3)))
