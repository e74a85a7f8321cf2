"""How fast are frames and tables: against their own libraries' ways, and against the array and the mere reading.

Every contender's answer is held against the first's before it is timed; all of a row run in turn in one process.
Exits with 1 if an answer is wrong or, with ``--targets``, if a target is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kullback as kb
import kullback.pandas
import kullback.polars
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.stats
from harness import Race, cpu_model, load, markdown, race, significant
from kullback.pandas import group_value_entropy

_WRITTEN_ROWS = 1_000_000
"""Rows that are drawn for a Parquet file; longer ones repeat them."""

Contenders = dict[str, Callable[[], Any]]
Case = tuple[str, Contenders, str, str, float]
"""A title, contenders with ours first, what is divided by what, and the least that the ratio should be."""


def col(name: str) -> Any:
    """Name a column of polars, of whose registered namespaces type checkers know nothing."""
    return pl.col(name)


def frame_cases(rows: int, classes: int) -> Iterator[Case]:
    """Entropy of each row of a pandas frame and of a polars column."""
    p = np.random.default_rng(0).dirichlet(np.ones(classes), rows)
    df = pd.DataFrame(p)
    few = df.iloc[: rows // 100]
    blocks = pd.concat([df[[i]] for i in range(classes)], axis=1)
    columnar = df.to_numpy()
    title = f"entropy of {rows:,} × {classes} float64"
    contenders: Contenders = {
        "df.kb.entropy()": lambda: df.kb.entropy(),
        "the array, then a Series": lambda: pd.Series(kb.entropy(columnar), df.index, name="entropy"),
        "df.kb.entropy(), a block a column": lambda: blocks.kb.entropy(),
    }
    yield title, contenders, "the array, then a Series", "df.kb.entropy()", 1 / 1.2
    contenders = {
        "df.kb.entropy()": lambda: few.kb.entropy(),
        "df.apply(scipy.stats.entropy, axis=1)": lambda: few.apply(scipy.stats.entropy, axis=1),
    }
    name = f"entropy of {len(few):,} × {classes} float64"
    yield name, contenders, "df.apply(scipy.stats.entropy, axis=1)", "df.kb.entropy()", 100.0
    column = pl.DataFrame({"p": p})
    listed = column.with_columns(pl.col("p").arr.to_list())
    kept = column["p"].to_numpy()
    contenders = {
        "pl.col(Array).kb.entropy()": lambda: column.select(col("p").kb.entropy()).to_series(),
        "pl.col(List).kb.entropy()": lambda: listed.select(col("p").kb.entropy()).to_series(),
        "the array": lambda: kb.entropy(kept),
        "polars' list.eval of its entropy": lambda: listed.select(
            pl.col("p").list.eval(pl.element().entropy(normalize=True)).list.first()
        ).to_series(),
    }
    yield title, contenders, "polars' list.eval of its entropy", "pl.col(Array).kb.entropy()", 1.0


def group_cases(rows: int, groups: int, values: int) -> Iterator[Case]:
    """Entropy of the values of each group, of integers and of strings."""
    rng = np.random.default_rng(1)
    numbers = pd.DataFrame({"g": rng.integers(0, groups, rows), "v": rng.integers(0, values, rows)})
    names = pd.Series([f"value {i}" for i in range(values)])
    strings = numbers.assign(v=names.iloc[numbers["v"]].to_numpy())
    for kind, df in (("integers", numbers), ("strings", strings), ("categories", strings.astype({"v": "category"}))):
        plain = pl.from_pandas(df)

        def by_pandas(df: pd.DataFrame = df) -> pd.Series:
            shares = df.groupby("g")["v"].value_counts(normalize=True)
            shares = shares[shares > 0]
            return -(shares * np.log(shares)).groupby(level=0).sum()

        def by_polars(df: pl.DataFrame = plain) -> pl.Series:
            counts = df.group_by("g", "v").len()
            return counts.group_by("g").agg(pl.col("len").entropy(normalize=True)).sort("g")["len"]

        def in_polars(df: pl.DataFrame = plain) -> pl.Series:
            return df.group_by("g").agg(col("v").kb.value_entropy()).sort("g")["v"]

        def by_kullback(df: pd.DataFrame = df) -> pd.Series:
            return group_value_entropy(df, "g", "v")

        contenders: Contenders = {
            "group_value_entropy": by_kullback,
            "pandas: value_counts": by_pandas,
            "polars: group_by twice": by_polars,
            "pl.col.kb.value_entropy": in_polars,
        }
        title = f"entropy of {kind}: {rows:,} rows, {groups:,} groups of {values} values"
        yield title, contenders, "pandas: value_counts", "group_value_entropy", 5.0
        pair = {name: contenders[name] for name in ("group_value_entropy", "polars: group_by twice")}
        yield f"the same: {kind}", pair, "polars: group_by twice", "group_value_entropy", 1.0


def file_cases(rows: int, classes: int, folder: Path) -> Iterator[Case]:
    """Entropy of the rows of a Parquet file against reading it with pyarrow."""
    sizes = [min(_WRITTEN_ROWS, rows - start) for start in range(0, rows, _WRITTEN_ROWS)]
    block = np.random.default_rng(2).dirichlet(np.ones(classes), sizes[0]).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), classes)
    table = pa.table({"p": column})
    for compression in ("none", "zstd"):
        path = folder / f"{compression}.parquet"
        with pq.ParquetWriter(path, table.schema, compression=compression, use_dictionary=False) as writer:
            for size in sizes:
                writer.write_table(table[:size], row_group_size=65536)

        def read(path: Path = path) -> float:
            total = 0
            for batch in pq.ParquetFile(path, memory_map=True).iter_batches(batch_size=65536, use_threads=False):
                total += len(batch)
            return float(total)

        def score(path: Path = path) -> float:
            seen = 0
            for _, block in kb.scan(path):
                seen += len(kb.entropy(block))
            return float(seen)

        contenders: Contenders = {"read and scored": score, "read by pyarrow": read}
        title = f"Parquet ({compression}), {rows:,} × {classes} float32"
        yield title, contenders, "read by pyarrow", "read and scored", 0.7


def same(a: Any, b: Any) -> bool:
    """Whether two contenders agree to what a plain float64 evaluation can."""
    return bool(np.allclose(np.asarray(a, float), np.asarray(b, float), rtol=1e-9, atol=1e-12))


def main() -> int:
    """Race everything and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, one round")
    parser.add_argument("--rounds", type=int, help="rounds of each race")
    parser.add_argument("--targets", action="store_true", help="exit with 1 if a target is missed")
    parser.add_argument("--parquet-rows", type=int, default=1_000_000, help="rows of the Parquet files (1 000 000)")
    parser.add_argument("--parquet-only", action="store_true", help="leave the frames out")
    parser.add_argument("--folder", type=Path, help="where the files go; default: the system's temporary folder")
    options = parser.parse_args()
    small = options.smoke
    wrong = missed = 0
    print(f"{cpu_model()}, {kb.get_num_threads()} threads, load {load()}")
    print(f"pandas {pd.__version__}, polars {pl.__version__}, pyarrow {pa.__version__}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        cases: list[Case] = []
        if not options.parquet_only:
            cases += frame_cases(*((1000, 10) if small else (100_000, 100)))
            cases += group_cases(*((2000, 10, 5) if small else (1_000_000, 1000, 50)))
        cases += file_cases(1000 if small else options.parquet_rows, 10 if small else 100, Path(folder))
        for title, contenders, slow, fast, target in cases:
            ours = next(iter(contenders))
            expected = contenders[ours]()
            bad = [name for name, call in contenders.items() if not same(call(), expected)]
            wrong += len(bad)
            result = race(contenders, rounds=1 if small else options.rounds, budget=20.0)
            ratio = result.ratio(slow, fast)
            missed += ratio < target
            lines = [[name, significant(1e3 * result.median(name)), _times(result, name, ours)] for name in contenders]
            print(f"\n{title}\n\n{markdown(['', 'ms', f'times {ours}'], lines)}\n")
            verdict = "met" if ratio >= target else "missed"
            print(f"{slow} / {fast}: {significant(ratio)}, wanted {significant(target)}: {verdict}", flush=True)
            for name in bad:
                print(f"WRONG: {name} differs from {ours}")
    return int(wrong > 0 or (options.targets and missed > 0))


def _times(result: Race, name: str, ours: str) -> str:
    return significant(result.ratio(name, ours))


if __name__ == "__main__":
    sys.exit(main())
