"""Scores of the rows of polars columns: expressions, for eager and lazy frames and the streaming engine.

Importing this module gives every expression and every series the namespace ``kb``:

* ``pl.col("p").kb.entropy()``, ``pl.col("p").kb.kl_divergence("q")`` and so on read each element of an Array or List
  column as a row, a distribution over its items.
* `entropy_horizontal` reads the values of several columns as a row.
* ``pl.col("x").kb.value_entropy()`` counts the values of a column instead.

A null row gives null, and a null within a row is a NaN, which makes the row's result NaN. Results are Float32 where
all inputs are Float32 or Float16, and Float64 otherwise.

Examples
--------
>>> import polars as pl
>>> import kullback.polars
>>> df = pl.DataFrame({"p": [[0.0, 0.5, 0.5], [0.9, 0.1], None]})
>>> df.select(pl.col("p").kb.entropy().round(4)).to_series().to_list()
[0.6931, 0.3251, None]
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from operator import add
from typing import Any, Literal, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

import kullback
from kullback._coerce import as_array
from kullback._ragged import padded, similar

__all__ = ["ExprNamespace", "SeriesNamespace", "entropy_horizontal"]

_Given: TypeAlias = Literal["probs", "counts", "log_probs", "logits"]
_Spaces: TypeAlias = _Given | tuple[_Given, _Given]
_Invalid: TypeAlias = Literal["raise", "nan"]
_Operand: TypeAlias = pl.Expr | pl.Series | str | ArrayLike

_STAGED_BYTES = 2 << 20
"""Bytes of several columns' values that are brought together at once."""


@pl.api.register_expr_namespace("kb")
class ExprNamespace:
    """Scores of the rows of a column: ``pl.col("p").kb``.

    The column is an Array, or a List whose rows may differ in length. `other` is an expression or the name of a
    column of rows as long as these, or one row: a sequence of numbers or an array. Every keyword means what it
    means in `kullback.entropy` and `kullback.kl_divergence`.

    Parameters
    ----------
    expr : Expr
        What polars calls the namespace on.
    """

    def __init__(self, expr: pl.Expr) -> None:
        self._expr = expr

    def entropy(
        self,
        *,
        given: _Given = "probs",
        base: float | None = None,
        temperature: float = 1.0,
        on_invalid: _Invalid = "raise",
        threads: int | None = None,
    ) -> pl.Expr:
        """Entropy of each row, in nats, as `kullback.entropy` defines it.

        Parameters
        ----------
        given, base, temperature, on_invalid, threads
            As for `kullback.entropy`.

        Returns
        -------
        Expr
            A number a row.

        Raises
        ------
        TypeError
            If the column is neither an Array nor a List of numbers.
        ValueError
            If a row is invalid, or an option is unknown.

        Examples
        --------
        >>> import polars as pl
        >>> import kullback.polars
        >>> df = pl.DataFrame({"p": [[3, 1], [0, 7]]})
        >>> df.select(pl.col("p").kb.entropy(given="counts").round(4)).to_series().to_list()
        [0.5623, 0.0]
        """
        options = {"given": given, "base": base, "temperature": temperature, "on_invalid": on_invalid}
        return self._scored(kullback.entropy, (), {**options, "threads": threads})

    def cross_entropy(
        self,
        other: _Operand,
        *,
        given: _Spaces = "probs",
        base: float | None = None,
        temperature: float | tuple[float, float] = 1.0,
        on_invalid: _Invalid = "raise",
        threads: int | None = None,
    ) -> pl.Expr:
        """Cross entropy of each row p with that of `other`, q, in nats, as `kullback.cross_entropy` defines it.

        Parameters
        ----------
        other : Expr, str, sequence of numbers or array
            The rows q, or one row.
        given, base, temperature, on_invalid, threads
            As for `kullback.cross_entropy`.

        Returns
        -------
        Expr
            A number a row.

        Raises
        ------
        TypeError, ValueError
            As for `entropy`; ValueError also if rows differ in length.

        Examples
        --------
        >>> import polars as pl
        >>> import kullback.polars
        >>> df = pl.DataFrame({"p": [[0.5, 0.5], [1.0, 0.0]], "q": [[0.25, 0.75], [0.5, 0.5]]})
        >>> df.select(pl.col("p").kb.cross_entropy("q").round(4)).to_series().to_list()
        [0.837, 0.6931]
        """
        options = {"given": given, "base": base, "temperature": temperature, "on_invalid": on_invalid}
        return self._scored(kullback.cross_entropy, (other,), {**options, "threads": threads})

    def kl_divergence(
        self,
        other: _Operand,
        *,
        given: _Spaces = "probs",
        base: float | None = None,
        temperature: float | tuple[float, float] = 1.0,
        on_invalid: _Invalid = "raise",
        threads: int | None = None,
    ) -> pl.Expr:
        """KL divergence of each row from that of `other`, in nats, as `kullback.kl_divergence` defines it.

        Parameters
        ----------
        other, given, base, temperature, on_invalid, threads
            As for `cross_entropy`.

        Returns
        -------
        Expr
            A number a row.

        Raises
        ------
        TypeError, ValueError
            As for `cross_entropy`.

        Examples
        --------
        >>> import polars as pl
        >>> import kullback.polars
        >>> df = pl.LazyFrame({"p": [[0.5, 0.5], [0.9, 0.1]]})
        >>> df.select(pl.col("p").kb.kl_divergence([0.5, 0.5]).round(4)).collect().to_series().to_list()
        [0.0, 0.3681]
        """
        options = {"given": given, "base": base, "temperature": temperature, "on_invalid": on_invalid}
        return self._scored(kullback.kl_divergence, (other,), {**options, "threads": threads})

    def js_divergence(
        self,
        other: _Operand,
        *,
        given: _Spaces = "probs",
        base: float | None = None,
        temperature: float | tuple[float, float] = 1.0,
        on_invalid: _Invalid = "raise",
        threads: int | None = None,
    ) -> pl.Expr:
        """Jensen-Shannon divergence of each row and that of `other`, in nats: see `kullback.js_divergence`.

        Parameters
        ----------
        other, given, base, temperature, on_invalid, threads
            As for `cross_entropy`.

        Returns
        -------
        Expr
            A number a row.

        Raises
        ------
        TypeError, ValueError
            As for `cross_entropy`.

        Examples
        --------
        >>> import polars as pl
        >>> import kullback.polars
        >>> df = pl.DataFrame({"p": [[1.0, 0.0], [0.5, 0.5]]})
        >>> df.select(pl.col("p").kb.js_divergence([0.0, 1.0], base=2).round(4)).to_series().to_list()
        [1.0, 0.3113]
        """
        options = {"given": given, "base": base, "temperature": temperature, "on_invalid": on_invalid}
        return self._scored(kullback.js_divergence, (other,), {**options, "threads": threads})

    def js_distance(
        self,
        other: _Operand,
        *,
        given: _Spaces = "probs",
        base: float | None = None,
        temperature: float | tuple[float, float] = 1.0,
        on_invalid: _Invalid = "raise",
        threads: int | None = None,
    ) -> pl.Expr:
        """Jensen-Shannon distance of each row and that of `other`: see `kullback.js_distance`.

        Parameters
        ----------
        other, given, base, temperature, on_invalid, threads
            As for `cross_entropy`.

        Returns
        -------
        Expr
            A number a row.

        Raises
        ------
        TypeError, ValueError
            As for `cross_entropy`.

        Examples
        --------
        >>> import polars as pl
        >>> import kullback.polars
        >>> df = pl.DataFrame({"p": [[1.0, 0.0], [0.5, 0.5]]})
        >>> df.select(pl.col("p").kb.js_distance([0.0, 1.0]).round(4)).to_series().to_list()
        [0.8326, 0.4645]
        """
        options = {"given": given, "base": base, "temperature": temperature, "on_invalid": on_invalid}
        return self._scored(kullback.js_distance, (other,), {**options, "threads": threads})

    def nll(
        self,
        labels: pl.Expr | pl.Series | str,
        *,
        ignore_index: int | None = None,
        given: _Given = "probs",
        base: float | None = None,
        temperature: float = 1.0,
        on_invalid: _Invalid = "raise",
        threads: int | None = None,
    ) -> pl.Expr:
        """Negative log-likelihood of a label under each row, in nats, as `kullback.nll` defines it.

        Parameters
        ----------
        labels : Expr or str
            The position of the class of each row, an integer; null gives null.
        ignore_index : int, optional
            The label of rows that do not count: they give NaN.
        given, base, temperature, on_invalid, threads
            As for `kullback.nll`.

        Returns
        -------
        Expr
            A number a row.

        Raises
        ------
        TypeError, ValueError
            As for `entropy`; TypeError also if labels are not integers.
        IndexError
            If a label is out of range.

        Examples
        --------
        >>> import polars as pl
        >>> import kullback.polars
        >>> df = pl.DataFrame({"p": [[0.1, 0.9], [0.5, 0.5]], "y": [1, None]})
        >>> df.select(pl.col("p").kb.nll("y").round(4)).to_series().to_list()
        [0.1054, None]
        """
        options = {"given": given, "base": base, "temperature": temperature, "on_invalid": on_invalid}
        options |= {"ignore_index": ignore_index, "threads": threads}
        return _mapped([self._expr, _expression(labels)], _Scorer(kullback.nll, options, labelled=True), rows=1)

    def value_entropy(self, *, base: float | None = None) -> pl.Expr:
        r"""Entropy of the shares of a column's distinct values, in nats: an aggregation.

        :math:`-\sum_v \frac{n_v}{n} \ln \frac{n_v}{n}` with :math:`n_v` the number of times v occurs. Null is a value
        as any other; ``pl.col("x").drop_nulls().kb.value_entropy()`` leaves it out.

        Parameters
        ----------
        base : float, optional
            Base of the logarithms; natural ones by default.

        Returns
        -------
        Expr
            One number, or one a group; null if there is no value.

        Examples
        --------
        >>> import polars as pl
        >>> import kullback.polars
        >>> df = pl.DataFrame({"shop": [1, 1, 2, 2], "item": ["tea", "jam", "tea", "tea"]})
        >>> df.group_by("shop").agg(pl.col("item").kb.value_entropy(base=2)).sort("shop").rows()
        [(1, 1.0), (2, 0.0)]
        """
        counts = self._expr.unique_counts().implode()
        some = pl.when(counts.list.len() > 0).then(counts)
        scorer = _Scorer(kullback.entropy, {"given": "counts", "base": base})
        return some.map_batches(scorer.one, return_dtype=pl.Float64, is_elementwise=True)

    def _scored(self, kernel: _Kernel, others: tuple[_Operand, ...], options: dict[str, Any]) -> pl.Expr:
        columns, fixed = [self._expr], None
        for other in others:
            if isinstance(other, pl.Expr | pl.Series | str):
                columns.append(_expression(other))
            else:
                fixed = _row(other)
        return _mapped(columns, _Scorer(kernel, options, fixed=fixed), rows=len(columns))


@pl.api.register_series_namespace("kb")
class SeriesNamespace:
    """Scores of the rows of a series: ``series.kb`` has the methods of `ExprNamespace`, and gives series.

    Parameters
    ----------
    series : Series
        What polars calls the namespace on.

    Examples
    --------
    >>> import polars as pl
    >>> import kullback.polars
    >>> p, q = pl.Series("p", [[0.5, 0.5], [0.9, 0.1]]), pl.Series("q", [[0.5, 0.5], [0.5, 0.5]])
    >>> p.kb.kl_divergence(q).round(4).to_list()
    [0.0, 0.3681]
    """

    def __init__(self, series: pl.Series) -> None:
        self._series = series

    def __getattr__(self, name: str) -> Callable[..., pl.Series]:
        """Give a method of `ExprNamespace`, bound to the series."""
        if name.startswith("_") or not hasattr(ExprNamespace, name):
            raise AttributeError(f"the namespace kb has no {name!r}")

        def method(*args: Any, **keywords: Any) -> pl.Series:
            expr: pl.Expr = getattr(ExprNamespace(pl.lit(self._series)), name)(*args, **keywords)
            return pl.select(expr).to_series().alias(self._series.name)

        return method

    def __dir__(self) -> list[str]:
        """List the methods."""
        return [name for name in dir(ExprNamespace) if not name.startswith("_")]


def entropy_horizontal(
    *exprs: pl.Expr | str | Iterable[pl.Expr | str],
    given: _Given = "probs",
    base: float | None = None,
    temperature: float = 1.0,
    on_invalid: _Invalid = "raise",
    threads: int | None = None,
) -> pl.Expr:
    """Entropy of the distribution that several columns hold in each row, in nats.

    Parameters
    ----------
    *exprs : Expr, str or iterable of them
        One column of numbers for each class, or expressions such as ``pl.all()`` and selectors that stand for several.
    given, base, temperature, on_invalid, threads
        As for `kullback.entropy`.

    Returns
    -------
    Expr
        A number a row, named as the first column; NaN where a column is null.

    Raises
    ------
    TypeError
        If a column does not hold numbers.
    ValueError
        If there is no column, a row is invalid, or an option is unknown.

    Examples
    --------
    >>> import polars as pl
    >>> from kullback.polars import entropy_horizontal
    >>> df = pl.DataFrame({"cat": [0.9, 0.5], "dog": [0.1, 0.5]})
    >>> df.select(entropy_horizontal("cat", "dog").alias("entropy").round(4)).to_series().to_list()
    [0.3251, 0.6931]
    """
    listed = [_expression(each) for expr in exprs for each in ([expr] if isinstance(expr, pl.Expr | str) else expr)]
    if not listed:
        raise ValueError("entropy_horizontal needs at least one column, one for each class")
    options = {"given": given, "base": base, "temperature": temperature, "on_invalid": on_invalid, "threads": threads}

    def score(columns: Sequence[pl.Series]) -> pl.Series:
        return _horizontal(columns, options)

    if any(expr.meta.has_multiple_outputs() for expr in listed):
        # Several columns by one expression come together only as a structure.
        return pl.struct(*listed).map_batches(
            lambda fields: score(fields.struct.unnest().get_columns()),
            return_dtype=pl.dtype_of(
                pl.sum_horizontal(pl.lit(0.0, pl.Float32), *(expr.implode().list.mean() for expr in listed))
            ),
            is_elementwise=True,
        )
    dtype = _result_dtype(pl.dtype_of(expr).default_value() for expr in listed)
    return pl.map_batches(listed, score, return_dtype=dtype, is_elementwise=True)


_Kernel: TypeAlias = Callable[..., Any]

_ROW = re.compile(r"\brow (\d+)")


class _Scorer:
    """What polars calls with the series of a batch.

    Parameters
    ----------
    kernel : callable
        A function of the package.
    options : dict
        Its keywords.
    fixed : ndarray, optional
        One row, the second operand.
    labelled : bool
        Whether the second series holds labels.
    """

    def __init__(
        self, kernel: _Kernel, options: dict[str, Any], *, fixed: NDArray[Any] | None = None, labelled: bool = False
    ) -> None:
        self._kernel = kernel
        self._options = options
        self._fixed = fixed
        self._labelled = labelled
        given = options["given"]
        spaces = given if isinstance(given, tuple) else (given, given)
        self._nothing = [-math.inf if space in ("log_probs", "logits") else 0.0 for space in spaces]

    def one(self, column: pl.Series) -> pl.Series:
        """Score one column."""
        return self([column])

    def __call__(self, columns: Sequence[pl.Series]) -> pl.Series:
        """Score the rows of one or two columns."""
        length = _length(columns)
        with _of_batch(length):
            return self._batch(columns, length)

    def _batch(self, columns: Sequence[pl.Series], length: int) -> pl.Series:
        columns = [column if len(column) == length else column.new_from_index(0, length) for column in columns]
        operands = columns[:1] if self._labelled else columns
        for column in operands:
            _refuse(column)
        single = all(_inner(column) in (pl.Float32, pl.Float16) for column in operands)
        single = single and (self._fixed is None or (self._fixed.dtype.kind == "f" and self._fixed.itemsize <= 4))
        dtype = pl.Float32 if single else pl.Float64
        if self._labelled and not columns[1].dtype.is_integer():
            raise TypeError(f"labels must be a column of integers, got {columns[1].dtype}")
        present = ~np.logical_or.reduce([column.is_null().to_numpy() for column in columns])
        rows = np.flatnonzero(present)
        if len(rows) == length:
            return pl.Series(columns[0].name, self._values(columns, rows), dtype)
        mask = pl.Series(present)
        values = self._values([column.filter(mask) for column in columns], rows)
        result = np.full(length, np.nan, values.dtype)
        result[rows] = values
        scored = pl.Series(columns[0].name, result, dtype)
        return pl.select(pl.when(mask).then(scored)).to_series().alias(scored.name)

    def _values(self, columns: Sequence[pl.Series], rows: NDArray[np.intp]) -> NDArray[Any]:
        """Score rows none of which is null; `rows` says which rows of the batch they are."""
        labels = columns[1].to_numpy() if self._labelled else None
        operands = columns[:1] if self._labelled else columns
        parts = []
        for start, stop in _pieces(columns, len(rows)):
            pieces = [column.slice(start, stop - start) for column in operands]
            parts.append(self._piece(pieces, None if labels is None else labels[start:stop], rows[start:stop]))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _piece(
        self, operands: Sequence[pl.Series], labels: NDArray[Any] | None, rows: NDArray[np.intp]
    ) -> NDArray[Any]:
        """Score columns of one chunk."""
        matrices = [matrix for column in operands if (matrix := _matrix(column)) is not None]
        if len(matrices) == len(operands) and len({matrix.shape for matrix in matrices}) == 1:
            return self._called(matrices, labels, rows)
        lengths = [_lengths(column) for column in operands]
        elements = [_elements(column) for column in operands]
        others = lengths[1] if len(lengths) == 2 else None if self._fixed is None else len(self._fixed)
        if others is not None and (differ := np.flatnonzero(lengths[0] != others)).size:
            row = int(differ[0])
            raise ValueError(
                f"row {rows[row]} has {lengths[0][row]} classes and other has "
                f"{np.broadcast_to(others, len(rows))[row]}: the number of classes must be equal"
            )
        if labels is not None:
            ignored = labels == self._options["ignore_index"]
            wrong = np.flatnonzero(((labels < 0) | (labels >= lengths[0])) & ~ignored)
            if wrong.size:
                row = int(wrong[0])
                raise IndexError(
                    f"label {labels[row]} of row {rows[row]} is out of range for {lengths[0][row]} classes"
                )
        result: NDArray[Any] | None = None
        for group, places in similar(lengths[0]):
            filled = [padded(x, places, nothing) for x, nothing in zip(elements, self._nothing, strict=False)]
            values = self._called(filled, None if labels is None else labels[group], rows[group])
            if result is None:
                result = np.full(len(rows), np.nan, values.dtype)
            result[group] = values
        return np.full(len(rows), np.nan) if result is None else result

    def _called(
        self, matrices: Sequence[NDArray[Any]], labels: NDArray[Any] | None, rows: NDArray[np.intp]
    ) -> NDArray[Any]:
        # Integers beside single precision: the result is declared Float64, so it is computed as such.
        if len({matrix.dtype.kind == "f" for matrix in matrices}) > 1:
            matrices = [matrix if matrix.dtype.kind == "f" else matrix.astype(np.float64) for matrix in matrices]
        others = [x for x in (self._fixed, labels) if x is not None]
        with _counting(lambda row: int(rows[row])):
            values: NDArray[Any] = self._kernel(*matrices, *others, **self._options)
        return values


@contextmanager
def _counting(place: Callable[[int], int]) -> Iterator[None]:
    """Say of an error about a row of what is scored which row of the batch it is."""
    try:
        yield
    except (ValueError, IndexError) as error:
        raise type(error)(_ROW.sub(lambda match: f"row {place(int(match[1]))}", str(error))) from None


@contextmanager
def _of_batch(length: int) -> Iterator[None]:
    """Say of an error about a row from where it counts: polars does not tell which rows of the frame it passes."""
    try:
        yield
    except (ValueError, IndexError) as error:
        if not _ROW.search(str(error)):
            raise
        raise type(error)(f"{error} (rows counted within the {length} that polars passed at once)") from None


def _mapped(columns: list[pl.Expr], scorer: _Scorer, *, rows: int) -> pl.Expr:
    """Build the expression; the first `rows` columns decide the result's dtype."""
    # Of a column that holds no rows, explode makes what it is: the scorer names it, where inner_dtype would not.
    inner = [pl.dtype_of(column).default_value().explode() for column in columns[:rows]]
    if scorer._fixed is not None:
        inner.append(pl.lit(pl.Series([0]).cast(pl.Float32 if scorer._fixed.itemsize <= 4 else pl.Float64)).first())
    dtype = _result_dtype(inner)
    if len(columns) == 1:
        return columns[0].map_batches(scorer.one, return_dtype=dtype, is_elementwise=True)
    return pl.map_batches(columns, scorer, return_dtype=dtype, is_elementwise=True)


def _result_dtype(values: Iterable[pl.Expr]) -> pl.DataTypeExpr:
    """Float32 if all values are of at most 32 bits and floating, else Float64, as polars finds out itself."""
    total = pl.lit(0.0, pl.Float32)
    for value in values:
        total = total + pl.mean_horizontal(value)  # which no dtype fails
    return pl.dtype_of(total)


def _expression(operand: pl.Expr | pl.Series | str) -> pl.Expr:
    if isinstance(operand, str):
        return pl.col(operand)
    return pl.lit(operand) if isinstance(operand, pl.Series) else operand


def _length(columns: Sequence[pl.Series]) -> int:
    """Rows of columns, of which those of one row stand for every row."""
    lengths = {len(column) for column in columns}
    if len(lengths - {1}) > 1:
        shown = ", ".join(f"{column.name!r} has {len(column)}" for column in columns)
        raise ValueError(f"columns have different numbers of rows: {shown}; each needs as many as the others, or one")
    return min(lengths) if len(lengths) == 1 else (lengths - {1}).pop()


def _row(other: ArrayLike) -> NDArray[Any]:
    row = as_array(other, "other")
    if row.ndim != 1:
        raise ValueError(f"other has shape {row.shape}: pass one row, a column's name or an expression")
    if row.dtype.kind != "f":
        row = row.astype(np.float64)
    return row


def _inner(column: pl.Series) -> Any:
    return getattr(column.dtype, "inner", None)


def _refuse(column: pl.Series) -> None:
    """Refuse a column that does not hold rows of numbers."""
    dtype = column.dtype
    inner = _inner(column)
    if inner is None or not (inner.is_integer() or inner.is_float() or inner == pl.Boolean):
        raise TypeError(
            f"column {column.name!r} is {dtype}: rows are an Array or List column of integers, booleans or "
            "floating-point numbers; for one column a class use kullback.polars.entropy_horizontal"
        )


def _pieces(columns: Sequence[pl.Series], length: int) -> Iterator[tuple[int, int]]:
    """Give ranges within which every column is one chunk, so that nothing is copied to make it one."""
    ends = {length}
    for column in columns:
        ends.update(np.cumsum(column.chunk_lengths()).tolist())
    start = 0
    for end in sorted(ends):
        if end > start:
            yield start, end
            start = end
    if not length:
        yield 0, 0


def _matrix(column: pl.Series) -> NDArray[Any] | None:
    """Give a column of rows of one length as a matrix; None if they differ."""
    if isinstance(column.dtype, pl.Array):
        matrix: NDArray[Any] = column.to_numpy()
        return matrix if matrix.ndim == 2 else None
    lengths = _lengths(column)
    if not lengths.size or lengths.min() != lengths.max():
        return None
    return _elements(column).reshape(len(column), -1)


def _lengths(column: pl.Series) -> NDArray[np.int64]:
    if isinstance(column.dtype, pl.Array):
        return np.full(len(column), column.dtype.size, np.int64)
    lengths: NDArray[np.int64] = column.list.len().to_numpy().astype(np.int64)
    return lengths


def _elements(column: pl.Series) -> NDArray[Any]:
    """All elements, row after row; null is NaN."""
    rows = column.arr.to_list() if isinstance(column.dtype, pl.Array) else column
    elements: NDArray[Any] = rows.filter(rows.list.len() > 0).explode().to_numpy()
    return elements


def _horizontal(columns: Sequence[pl.Series], options: dict[str, Any]) -> pl.Series:
    for column in columns:
        if not (column.dtype.is_integer() or column.dtype.is_float() or column.dtype == pl.Boolean):
            raise TypeError(
                f"column {column.name!r} is {column.dtype}: integers, booleans or floating-point numbers are read"
            )
    length = _length(columns)
    single = all(column.dtype in (pl.Float32, pl.Float16) for column in columns)
    kind = np.float32 if single else np.float64
    step = max(1, min(_STAGED_BYTES // (np.dtype(kind).itemsize * len(columns)), length))
    stage = np.empty((len(columns), step), kind)
    out = np.empty(length, kind)
    for start in range(0, length, step):
        stop = min(start + step, length)
        for place, column in zip(stage, columns, strict=True):
            place[: stop - start] = column.slice(start, stop - start) if len(column) == length else column[0]
        with _of_batch(length), _counting(partial(add, start)):
            out[start:stop] = kullback.entropy(stage[:, : stop - start].T, **options)
    return pl.Series(columns[0].name, out)
