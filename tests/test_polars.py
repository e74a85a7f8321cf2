"""`import kullback.polars`: columns in every context and engine against the contiguous arrays they hold."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import kullback as kb
import kullback.polars
import numpy as np
import polars as pl
import pytest
from arrays import generator, matrix
from hypothesis import given
from hypothesis import strategies as st
from kullback.polars import entropy_horizontal
from test_pandas import close, exact_entropy

TWO = ("cross_entropy", "kl_divergence", "js_divergence", "js_distance")
DTYPES = {"f4": pl.Float32, "f8": pl.Float64, "f2": pl.Float16}


def column(name: str, rows: np.ndarray, kind: str) -> pl.Series:
    """A column of these rows: one chunk or several, Array or List."""
    if kind.endswith("chunks"):
        cuts = np.array_split(rows, [3, len(rows) // 2])
        whole = column(name, cuts[0], kind.removesuffix(" chunks"))
        for cut in cuts[1:]:
            whole = whole.append(column(name, cut, kind.removesuffix(" chunks")))
        assert whole.n_chunks() == 3
        return whole
    series = pl.Series(name, rows)
    return series if kind == "Array" else series.arr.to_list()


KINDS = ("Array", "List", "Array chunks", "List chunks")
ENGINES: tuple[Literal["in-memory", "streaming"], ...] = ("in-memory", "streaming")


def same_bits(series: pl.Series, expected: np.ndarray) -> bool:
    values = series.to_numpy()
    return series.null_count() == 0 and values.dtype == expected.dtype and values.tobytes() == expected.tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["f4", "f8", "f2"])
def test_bits_are_those_of_the_contiguous_array(kind: str, dtype: str) -> None:
    p, q = (matrix(101, 12, "logits", np.dtype(dtype), seed=seed) for seed in (1, 2))
    labels = generator(kind).integers(0, 12, 101)
    df = pl.DataFrame({"p": column("p", p, kind), "q": column("q", q, kind.replace(" chunks", "")), "y": labels})
    col = pl.col("p").kb
    exprs = {"entropy": col.entropy(given="logits"), "nll": col.nll("y", given="logits", base=2)}
    expected = {"entropy": kb.entropy(p, given="logits"), "nll": kb.nll(p, labels, given="logits", base=2)}
    for name in TWO:
        exprs[name] = getattr(col, name)("q", given="logits", temperature=2.0)
        expected[name] = getattr(kb, name)(p, q, given="logits", temperature=2.0)
        exprs[f"{name} row"] = getattr(col, name)(q[0], given="logits")
        expected[f"{name} row"] = getattr(kb, name)(p, q[0], given="logits")
    eager = df.select(**exprs)
    lazy = df.lazy().select(**exprs)
    assert lazy.collect_schema() == eager.schema
    for frame in (eager, *(lazy.collect(engine=engine) for engine in ENGINES)):
        for name, values in expected.items():
            assert same_bits(frame[name], values), name
    assert same_bits(df["p"].kb.entropy(given="logits"), expected["entropy"])
    assert df["p"].kb.kl_divergence(df["q"], given="logits").name == "p"


@pytest.mark.parametrize("kind", ["probs", "counts", "log_probs", "logits"])
def test_rows_of_different_lengths_are_scored_each_by_itself(kind: Any) -> None:
    rng = generator("ragged", kind)
    lengths = rng.permutation(np.repeat(np.arange(1, 40), 3))
    rows = [(matrix(1, n, kind, np.float64, seed=int(i))[0], matrix(1, n, kind, np.float64, seed=-i - 1)[0])
            for i, n in enumerate(lengths)]  # fmt: skip
    df = pl.DataFrame({"p": [p.tolist() for p, _ in rows], "q": [q.tolist() for _, q in rows], "y": lengths - 1})
    result = df.select(
        entropy=pl.col("p").kb.entropy(given=kind),
        nll=pl.col("p").kb.nll("y", given=kind),
        **{name: getattr(pl.col("p").kb, name)("q", given=kind) for name in TWO},
    )
    for i, (p, q) in enumerate(rows):
        assert result["entropy"][i] == kb.entropy(p, given=kind)
        assert result["nll"][i] == kb.nll(p, np.array(len(p) - 1), given=kind)
        for name in TWO:
            assert result[name][i] == getattr(kb, name)(p, q, given=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_null_rows_stay_null_and_nulls_within_are_nan(kind: str) -> None:
    p = matrix(20, 4, "probs", np.float32)
    rows: list[list[float | None] | None] = [list(row) for row in p.tolist()]
    rows[3], rows[7] = None, [None, *rows[7][1:]]  # type: ignore[index]
    inner = pl.Array(pl.Float32, 4) if "Array" in kind else pl.List(pl.Float32)
    series = pl.Series("p", rows, inner)
    if "chunks" in kind:
        series = pl.concat([series[:5], series[5:]], rechunk=False)
    expected = kb.entropy(p)
    other = pl.Series("q", [*p.tolist()[:-1], None], inner)
    frame = pl.DataFrame({"p": series, "q": other, "y": [0, None, *[1] * 18]}).lazy()
    for engine in ENGINES:
        result = frame.select(
            entropy=pl.col("p").kb.entropy(), kl=pl.col("p").kb.kl_divergence("q"), nll=pl.col("p").kb.nll("y")
        ).collect(engine=engine)
        values = result["entropy"].to_list()
        assert [i for i, value in enumerate(values) if value is None] == [3]
        assert math.isnan(values[7])
        assert all(values[i] == expected[i] for i in range(20) if i not in (3, 7))
        assert [i for i, value in enumerate(result["kl"]) if value is None] == [3, 19]
        assert [i for i, value in enumerate(result["nll"]) if value is None] == [1, 3]
        assert set(result["kl"].drop_nulls().drop_nans()) == {0.0}


def test_groups_and_windows_score_rows_not_groups() -> None:
    p, q = (matrix(60, 5, "probs", np.float64, seed=seed) for seed in (1, 2))
    df = pl.DataFrame({"g": generator("g").integers(0, 4, 60), "p": p, "q": q}).with_row_index()
    kl = kb.kl_divergence(p, q)
    expr = pl.col("p").kb.kl_divergence("q")
    for engine in ENGINES:
        lazy = df.lazy()
        grouped = lazy.group_by("g").agg("index", kl=expr).explode("index", "kl").sort("index").collect(engine=engine)
        assert same_bits(grouped["kl"], kl)
        means = lazy.group_by("g").agg(expr.mean()).sort("g").collect(engine=engine)
        for g, mean in means.rows():
            assert abs(mean - kl[df["g"].to_numpy() == g].mean()) < 1e-14
        first = lazy.group_by("g").agg(kl=pl.col("p").first().kb.kl_divergence(pl.col("q").first())).sort("g")
        firsts = [int(np.flatnonzero(df["g"].to_numpy() == g)[0]) for g in range(4)]
        assert first.collect(engine=engine)["kl"].to_list() == kl[firsts].tolist()
        over = lazy.with_columns(share=expr / expr.sum().over("g"), most=expr.max().over("g")).collect(engine=engine)
        assert over["most"].to_list() == [kl[df["g"].to_numpy() == g].max() for g in df["g"]]
        assert same_bits(lazy.filter(expr > 0.1).select(expr).collect(engine=engine)["p"], kl[kl > 0.1])


def test_a_row_against_all_broadcasts_either_way() -> None:
    p = matrix(30, 5, "probs", np.float64)
    df = pl.DataFrame({"p": p})
    against_first = df.select(pl.col("p").kb.kl_divergence(pl.col("p").first())).to_series()
    assert same_bits(against_first, kb.kl_divergence(p, p[0]))
    from_first = df.select(pl.col("p").first().kb.kl_divergence("p")).to_series()
    assert same_bits(from_first, kb.kl_divergence(p[0], p))


def test_integers_are_scored_in_double_precision() -> None:
    counts = generator("counts").integers(0, 9, (40, 6)).astype(np.int16) + 1
    df = pl.DataFrame({"n": counts, "p": matrix(40, 6, "counts", np.float32)})
    lazy = df.lazy().select(
        n=pl.col("n").kb.entropy(given="counts"),
        both=pl.col("p").kb.kl_divergence("n", given="counts"),
        row=pl.col("p").kb.kl_divergence([1, 2, 3, 4, 5, 6], given="counts"),
        narrow=pl.col("p").kb.kl_divergence(np.ones(6, np.float32), given="counts"),
    )
    result = lazy.collect()
    assert lazy.collect_schema() == result.schema
    assert [dtype.base_type() for dtype in result.dtypes] == [pl.Float64] * 3 + [pl.Float32]
    assert same_bits(result["n"], kb.entropy(counts, given="counts"))
    wide = df["p"].to_numpy().astype(np.float64)
    assert same_bits(result["both"], kb.kl_divergence(wide, counts.astype(np.float64), given="counts"))


def test_columns_across_are_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kullback.polars, "_STAGED_BYTES", 8 * 6 * 7)  # blocks of 7 rows
    for dtype in (np.float32, np.float64):
        p = matrix(50, 6, "probs", dtype)
        df = pl.DataFrame(p, schema=[f"c{i}" for i in range(6)])
        expr = entropy_horizontal(*df.columns, base=2)
        for engine in ENGINES:
            lazy = df.lazy().select(expr)
            assert same_bits(lazy.collect(engine=engine).to_series(), kb.entropy(p, base=2))
            assert lazy.collect_schema()["c0"] == (pl.Float32 if dtype == np.float32 else pl.Float64)
    mixed = pl.DataFrame({"a": [1, 2], "b": [0.5, None]}, schema={"a": pl.Int8, "b": pl.Float32})
    values = mixed.select(entropy_horizontal("a", pl.col("b") * 2, given="counts")).to_series()
    assert values.dtype == pl.Float64 and values[0] == kb.entropy([1, 1], given="counts") and math.isnan(values[1])
    with pytest.raises(ValueError, match="at least one column"):
        entropy_horizontal()


def test_zeros_count_as_nothing() -> None:
    df = pl.DataFrame({"p": [[0.0, 0.5, 0.5]]})
    assert round(df.select(pl.col("p").kb.entropy()).item(), 4) == 0.6931


@pytest.mark.parametrize("engine", ENGINES)
@given(values=st.lists(st.tuples(st.integers(0, 3), st.one_of(st.none(), st.integers(0, 5))), max_size=30))
def test_value_entropy_counts_values(
    engine: Literal["in-memory", "streaming"], values: list[tuple[int, int | None]]
) -> None:
    df = pl.DataFrame({"g": [g for g, _ in values], "v": [v for _, v in values]}, schema={"g": pl.Int8, "v": pl.Int64})
    for dtype in (pl.Int64, pl.String, pl.Categorical):
        typed = df.with_columns(
            pl.col("v").cast(pl.String).cast(dtype) if dtype == pl.Categorical else pl.col("v").cast(dtype)
        )
        expr = pl.col("v").drop_nulls().kb.value_entropy()
        grouped = typed.lazy().group_by("g").agg(expr).sort("g").collect(engine=engine)
        for g, entropy in grouped.rows():
            counts = Counter(v for of, v in values if of == g and v is not None)
            assert entropy is None if not counts else close(entropy, exact_entropy(list(counts.values())))
        whole = typed.lazy().select(pl.col("v").kb.value_entropy()).collect(engine=engine).item()
        counts = Counter(v for _, v in values)
        assert whole is None if not counts else close(whole, exact_entropy(list(counts.values())))
        if values:
            windows = typed.select(pl.col("g"), expr.over("g")).unique().sort("g")
            assert windows.rows() == grouped.rows()


def test_empty_columns_give_empty_columns() -> None:
    for kind in (pl.Array(pl.Float32, 3), pl.List(pl.Float32)):
        df = pl.DataFrame({"p": []}, schema={"p": kind})
        result = df.select(
            a=pl.col("p").kb.entropy(), b=pl.col("p").kb.kl_divergence("p"), c=entropy_horizontal(pl.lit(1.0))
        )
        assert result.schema["a"] == pl.Float32 and result["b"].len() == 0
    ragged = pl.DataFrame({"p": [[], [1.0]]}, schema={"p": pl.List(pl.Float64)})
    values = ragged.select(pl.col("p").kb.entropy()).to_series()
    assert math.isnan(values[0]) and values[1] == 0


def refused(error: Any, message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(error, match=message):
        call()


def test_what_does_not_fit_is_refused() -> None:
    df = pl.DataFrame({"x": [1.0, 2.0], "s": ["a", "b"], "p": [[0.5, 0.5], [0.9, 0.1]], "w": [[1.0], [0.5, 0.5]]})
    entropy = pl.col("p").kb.entropy
    for frame in (df, df.with_columns(p=pl.lit(None))):
        for name in ("x", "s") if frame is df else ("p",):
            message = f"column '{name}' is .*: rows are an Array or List column"
            refused(TypeError, message, lambda f=frame, n=name: f.select(pl.col(n).kb.entropy()))
            refused(TypeError, message, lambda f=frame, n=name: f.lazy().select(pl.col(n).kb.entropy()).collect())
    strings = df.select(pl.concat_list("s", "s").alias("s"), pl.concat_list("p").alias("p"))
    refused(TypeError, r"column 's' is List\(String\)", lambda: strings.select(pl.col("s").kb.entropy()))
    refused(TypeError, "column 's' is String", lambda: df.select(entropy_horizontal("s")))
    refused(TypeError, "column 's' is String", lambda: df.select(entropy_horizontal(pl.selectors.by_name("x", "s"))))
    refused(ValueError, "at least one column", lambda: entropy_horizontal([]))
    errors = (ValueError, pl.exceptions.ComputeError)
    refused(errors, "must be one of", lambda: df.select(entropy(given="odds")))  # type: ignore[arg-type]
    refused(errors, "row 0 has 2 classes and other has 1", lambda: df.select(pl.col("p").kb.kl_divergence("w")))
    refused(errors, "p has 2 classes and q has 3", lambda: df.select(pl.col("p").kb.kl_divergence([1, 0, 0])))
    refused(errors, "row 0 has 1 classes and other has 3", lambda: df.select(pl.col("w").kb.kl_divergence([1, 0, 0])))
    rows = pl.Series([None, [0.5, 0.5], None, [1.0], [0.5, 0.2], [0.5, 0.1]])
    refused(errors, r"row 4 sums to 0.7.*\(2 rows", rows.kb.entropy)
    refused(errors, r"\(rows counted within the 6 that polars passed at once\)", rows.kb.entropy)
    late = pl.DataFrame({"a": np.full(200_000, 0.5), "b": np.where(np.arange(200_000) == 150_000, 0.25, 0.5)})
    refused(errors, "row 150000 sums to 0.75.* within the 200000", lambda: late.select(entropy_horizontal("a", "b")))
    refused((IndexError, *errors), "label 2 of row 1", lambda: df.select(pl.col("w").kb.nll(pl.Series([0, 2]))))
    refused((TypeError, *errors), "integers", lambda: df.select(pl.col("p").kb.nll("x")))
    refused(ValueError, "pass one row", lambda: pl.col("p").kb.kl_divergence(np.ones((2, 2))))
    refused(AttributeError, "no 'mean'", lambda: df["p"].kb.mean())


@pytest.mark.parametrize("other", ["series", "expression", "labels", "horizontal"])
def test_only_a_column_of_one_row_stands_for_all(other: str) -> None:
    p = matrix(6, 3, "probs", np.float64)
    df = pl.DataFrame({"p": column("p", p, "Array"), "g": [0, 0, 0, 1, 1, 1], "y": [0, 1, 2, 0, 1, 2]})
    kb = pl.col("p").kb

    def scored(rows: int) -> pl.Expr:
        return {
            "series": lambda: kb.kl_divergence(df["p"].head(rows)),
            "expression": lambda: kb.kl_divergence(pl.col("p").head(rows)),
            "labels": lambda: kb.nll(pl.col("y").head(rows)),
            "horizontal": lambda: entropy_horizontal("y", pl.col("y").head(rows), given="counts", on_invalid="nan"),
        }[other]()

    for rows in (0, 2, 5):
        refused(ValueError, f"different numbers of rows: .* has 6, .* has {rows};", lambda n=rows: df.select(scored(n)))
    grouped = df.group_by("g")
    if other != "series":
        refused(ValueError, "different numbers of rows: .* has 3, .* has 2;", lambda: grouped.agg(scored(2)))
    assert df.select(scored(1)).height == df.select(scored(6)).height == 6


def test_a_column_of_one_chunk_is_not_copied() -> None:
    rows = matrix(50_000, 64, "probs", np.float32)
    for kind in ("Array", "List"):
        series = column("p", rows, kind)
        inside = kullback.polars._matrix(series)
        again = kullback.polars._matrix(series)
        assert inside is not None and again is not None and np.shares_memory(inside, again)


def test_one_expression_may_stand_for_several_columns() -> None:
    df = pl.DataFrame({"n": ["x", "y"], "a": [3.0, 1.0], "b": [1.0, 1.0]})
    expected = df.select(entropy_horizontal("a", "b", given="counts"))
    assert df.select(entropy_horizontal(["a", "b"], given="counts")).equals(expected)
    for expr in (pl.col("a", "b"), pl.all().exclude("n"), pl.selectors.numeric()):
        assert df.select(entropy_horizontal(expr, given="counts")).equals(expected)
        assert df.lazy().select(entropy_horizontal(expr, given="counts")).collect(engine="streaming").equals(expected)
