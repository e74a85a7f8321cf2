"""What pandas' frames are to the rest of the package: rows lined up, brought together block by block, and numbered."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from kullback import _core
from kullback._coerce import Blocks, as_array
from kullback._values import Numbers

if TYPE_CHECKING:
    from kullback._compare import Comparison

__all__ = ["Call", "Frame", "column_of", "groups_of", "numbers_of"]

_SHOWN = 5
"""Labels that a message spells out."""

_ALONE = object()
"""Stands for the other operand of a measure of one row."""

_Kernel = Callable[..., Any]


class Frame:
    """A data frame as an argument of the functions that take arrays: rows by position, and a series as the result.

    Parameters
    ----------
    frame : DataFrame
        Of any number of columns, also nullable or Arrow's; missing values are NaN.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame

    @property
    def index(self) -> pd.Index:
        """The labels of the rows."""
        return self._frame.index

    def rows(self) -> NDArray[Any] | Blocks:
        """Give all values as they lie in memory where they are one block; TypeError if a column holds no numbers."""
        return _Operand(self._frame, np.arange(self._frame.shape[1]), "column").rows()

    def agree(self, ours: str, other: Frame, theirs: str) -> None:
        """Refuse a frame of other columns or another index: nothing is lined up here.

        Parameters
        ----------
        ours, theirs : str
            What messages call the two.
        other : Frame
            The other one.
        """
        remedy = "df.kb matches columns by label and can join rows; pass other.to_numpy() to go by position"
        columns = self._frame.columns, other._frame.columns
        if len(columns[0]) == len(columns[1]) and not columns[0].equals(columns[1]):
            differ = [(a, b) for a, b in zip(*columns, strict=True) if a != b]
            shown = f": {differ[0][0]!r} stands where {theirs} has {differ[0][1]!r}" if differ else ""
            raise ValueError(f"{ours} and {theirs} have different columns{shown}; {remedy}")
        if not self.index.equals(other.index):
            raise ValueError(f"{theirs}: {_differing(self.index, other.index, f'that of {ours}', remedy)}")

    def result(self, values: NDArray[Any], name: str, place: int, keepdims: bool) -> Any:
        """Make a series of a result, or with the axis of the classes a frame.

        Parameters
        ----------
        values : ndarray
            One number a row.
        name : str
            What the series is called.
        place : int
            Which axis the classes were: 1 where rows are the frame's rows, 0 where they are its columns.
        keepdims : bool
            Whether `values` has that axis still.

        Returns
        -------
        Series, DataFrame or ndarray
            The last one where there are other rows than the frame's: it was broadcast.
        """
        labels = self._frame.columns if place == 0 else self.index
        if values.ndim - keepdims != 1 or values.size != len(labels):
            return values
        if not keepdims:
            return pd.Series(values, index=labels, name=name, copy=False)
        both = {"index": [name], "columns": labels} if place == 0 else {"index": labels, "columns": [name]}
        return pd.DataFrame(values, **both)


class _Operand:
    """Rows of a frame over chosen columns, as an array where they lie, or block by block.

    Parameters
    ----------
    frame : DataFrame
        The frame.
    places : ndarray of int
        Positions of the columns.
    name : str
        What messages call the frame.
    """

    def __init__(self, frame: pd.DataFrame, places: NDArray[np.intp], name: str) -> None:
        self._frame = frame
        self._places: slice | NDArray[np.intp] = places
        if places.size and (np.diff(places) == 1).all():
            self._places = slice(int(places[0]), int(places[-1]) + 1)
        self.take: NDArray[np.intp] | None = None
        dtypes = [frame.dtypes.iloc[place] for place in places] if places.size < frame.shape[1] else list(frame.dtypes)
        found = {dtype: _numeric(dtype) for dtype in set(dtypes)}
        for place, dtype in zip(places, dtypes, strict=True):
            if found[dtype] is None:
                raise TypeError(_not_numbers(name, frame.columns[place], dtype))
        self._dtype = np.result_type(*found.values()) if found else np.dtype(np.float64)
        self._one = len(found) <= 1 and all(isinstance(dtype, np.dtype) for dtype in found)
        self._columns: list[Any] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows = len(self._frame) if self.take is None else len(self.take)
        places = self._places
        return rows, len(places) if not isinstance(places, slice) else places.stop - places.start

    @property
    def dtype(self) -> np.dtype[Any]:
        """What the columns promote to."""
        return self._dtype

    def rows(self) -> NDArray[Any] | Blocks:
        """All rows as they lie in memory; themselves, block by block, where they do not lie side by side."""
        if not self._one or not isinstance(self._places, slice) or self.take is not None:
            return self
        chosen = self._frame.iloc[:, self._places]
        # Two looks at a row share memory where the frame is one block; otherwise each would be a copy of its own.
        first = chosen.iloc[:1]
        if chosen.shape[0] and not np.shares_memory(first.to_numpy(), first.to_numpy()):
            return self
        array: NDArray[Any] = chosen.to_numpy()
        return array

    def reach(self, start: int) -> int:
        """Say that rows have to be brought together."""
        return start

    def block(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start:stop``, brought together: columns stay columns, so that each is copied as it lies."""
        rows = slice(start, stop) if self.take is None else self.take[start:stop]
        values = self._values()
        count = len(values[0][rows]) if values else stop - start
        block = np.empty((len(values), count), self._dtype)
        for line, column in zip(block, values, strict=True):
            if isinstance(column, np.ndarray):
                line[:] = column[rows]
            else:
                line[:] = column[rows].to_numpy(dtype=self._dtype, na_value=np.nan)
        return block.T

    def _values(self) -> list[Any]:
        """Give the columns: NumPy's as views, others as pandas' arrays."""
        if self._columns is None:
            chosen = self._frame.iloc[:, self._places]
            columns = [column for _, column in chosen.items()]
            self._columns = [c.to_numpy() if isinstance(c.dtype, np.dtype) else c.array for c in columns]
        return self._columns


class Call:
    """One call of an accessor: its operands lined up by column and by index.

    Parameters
    ----------
    frame : DataFrame
        The frame of the accessor.
    columns : sequence of labels or None
        The classes.
    other : object, optional
        The other operand.
    join : str
        How the index of a frame is matched.
    """

    def __init__(
        self, frame: pd.DataFrame, columns: Sequence[Hashable] | None, other: Any = _ALONE, join: str = "equal"
    ) -> None:
        if join not in ("equal", "inner"):
            raise ValueError(f"unknown join {join!r}; accepted are 'equal' and 'inner'")
        places = _places(frame, columns, "columns")
        if not places.size:
            whose = "the frame has no columns" if columns is None else "columns is empty"
            raise ValueError(f"{whose}: a row needs at least one class")
        self._frame = frame
        self._classes = frame.columns[places]
        base = _Operand(frame, places, "column")
        self._operands: list[_Operand | NDArray[Any]] = [base]
        self._index = frame.index
        self._take: NDArray[np.intp] | None = None
        if other is _ALONE:
            return
        if not isinstance(other, pd.DataFrame):
            self._operands.append(self._plain(other))
            return
        if columns is None and len(other.columns) != len(places):
            extra = other.columns.difference(self._classes, sort=False)
            missing = self._classes.difference(other.columns, sort=False)
            only = {"other": extra, "the frame": missing}
            words = "; ".join(f"only in {where}: {_some(labels)}" for where, labels in only.items() if len(labels))
            raise ValueError(
                f"other has {len(other.columns)} columns and the frame {len(places)} ({words}): say with columns= "
                "which are the classes"
            )
        theirs = _Operand(other, self._matched(other.columns, "other"), "other's column")
        self._operands.append(theirs)
        if frame.index.equals(other.index):
            return
        if join == "equal":
            raise ValueError(_differing(frame.index, other.index))
        for whose, index in (("the frame's", frame.index), ("other's", other.index)):
            if not index.is_unique:
                label = _shown(index[index.duplicated()][0])
                raise ValueError(f"{whose} index has {label} more than once: rows cannot be joined by it")
        found = other.index.get_indexer(frame.index)
        self._take = np.flatnonzero(found >= 0)
        base.take, theirs.take = self._take, found[self._take]
        self._index = frame.index[self._take]

    def _matched(self, columns: pd.Index, name: str) -> NDArray[np.intp]:
        """Positions of the classes among other column labels."""
        for whose, index in ((name, columns), ("the frame", self._classes)):
            if not index.is_unique:
                label = index[index.duplicated()][0]
                raise ValueError(f"{whose} has more than one column {label!r}: columns cannot be matched by label")
        places: NDArray[np.intp] = columns.get_indexer(self._classes)
        if (places < 0).any():
            raise ValueError(f"{name} has no column {self._classes[places < 0][0]!r}")
        return places

    def _plain(self, other: Any) -> NDArray[Any]:
        """Read an operand that is no frame."""
        if isinstance(other, pd.Series):
            if len(other) != len(self._classes):
                raise ValueError(
                    f"other is a series of {len(other)} values: one row of {len(self._classes)} classes is indexed by "
                    "column; pass other.to_numpy() for anything else"
                )
            row = other.iloc[self._matched(other.index, "other's index")]
            return _Operand(row.to_frame(), np.zeros(1, np.intp), "other's column").block(0, len(row))[:, 0]
        if not isinstance(other, np.ndarray) and any(
            hasattr(other, name) for name in ("__dlpack__", "__arrow_c_array__", "__arrow_c_stream__")
        ):
            kind = f"{type(other).__module__.partition('.')[0]}.{type(other).__name__}"
            raise TypeError(f"other is a {kind}: mixed with a data frame, pass a numpy array, a Series or a DataFrame")
        return as_array(other, "other")

    @property
    def _length(self) -> int:
        return len(self._index)

    def labels(self, labels: ArrayLike) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Positions of labels among the classes, and which are missing."""
        values = self._along_rows(labels, "labels")
        missing = values.isna().to_numpy()
        if pd.api.types.is_integer_dtype(values.dtype):
            numbered = self._classes.equals(pd.RangeIndex(len(self._classes)))
            if pd.api.types.is_integer_dtype(self._classes.dtype) and not numbered:
                raise ValueError(
                    "labels are integers and so are the columns' labels, which are not 0, 1, 2 …: name the columns by "
                    "strings, or by their positions (df.set_axis(range(df.shape[1]), axis=1))"
                )
            codes = values.fillna(0).to_numpy(np.int64)
        elif pd.api.types.is_numeric_dtype(values.dtype):
            remedy = "; missing ones made them so? labels.astype('Int64') keeps both" if missing.any() else ""
            raise TypeError(f"labels must be integers (positions) or column labels, got dtype {values.dtype}{remedy}")
        else:
            codes = self._matched_labels(pd.Index(values))
            wrong = np.flatnonzero((codes < 0) & ~missing)
            if wrong.size:
                label = values.iloc[wrong[0]]
                raise KeyError(f"labels: {label!r} of row {wrong[0]} is none of the columns {_some(self._classes)}")
        return codes, missing if missing.any() else None

    def _matched_labels(self, values: pd.Index) -> NDArray[np.int64]:
        if not self._classes.is_unique:
            label = self._classes[self._classes.duplicated()][0]
            raise ValueError(f"the frame has more than one column {label!r}: labels cannot be matched")
        codes: NDArray[np.int64] = self._classes.get_indexer(values).astype(np.int64)
        return codes

    def _along_rows(self, value: ArrayLike, name: str) -> pd.Series:
        """Something with one value a row, cut to the rows that are kept."""
        if isinstance(value, pd.Series):
            if value.index.equals(self._frame.index):
                return value if self._take is None else value.iloc[self._take]
            if self._take is not None and value.index.equals(self._index):
                return value
            raise ValueError(f"{name}: {_differing(self._frame.index, value.index)}")
        series = pd.Series(value)
        if len(series) != len(self._frame):
            raise ValueError(f"{name} has {len(series)} values, the frame has {len(self._frame)} rows")
        return series if self._take is None else series.iloc[self._take]

    def _whole(self, value: ArrayLike, name: str) -> pd.Series:
        """Something with one value a row, none of which may be missing."""
        values = self._along_rows(value, name)
        missing = np.flatnonzero(values.isna())
        if missing.size:
            raise ValueError(f"{name}: row {missing[0]} is missing, where every row needs a value")
        return values

    def _masks(self, where: ArrayLike | None, rows: ArrayLike | None) -> dict[str, NDArray[Any] | None]:
        if isinstance(where, pd.Series):
            where = where.iloc[self._matched(where.index, "where's index")].to_numpy()
        if rows is not None:
            rows = self._whole(rows, "rows").to_numpy()
        return {name: None if mask is None else np.asarray(mask) for name, mask in (("where", where), ("rows", rows))}

    def series(
        self,
        name: str,
        kernel: _Kernel,
        where: ArrayLike | None,
        rows: ArrayLike | None,
        options: dict[str, Any],
        labels: NDArray[Any] | None = None,
    ) -> pd.Series:
        """Evaluate a measure into a series."""
        masks = self._masks(where, rows)
        extra = [] if labels is None else [labels]
        with _NamingRows(self._index):
            values = kernel(*self._rows(), *extra, **masks, **options)
        return pd.Series(values, index=self._index, name=name, copy=False)

    def _rows(self) -> list[NDArray[Any] | Blocks]:
        return [self._checked(x.rows() if isinstance(x, _Operand) else x) for x in self._operands]

    def _checked(self, rows: NDArray[Any] | Blocks) -> NDArray[Any] | Blocks:
        """Refuse an array whose rows are not the frame's, which broadcasting might accept."""
        shape = rows.shape
        if len(shape) > 2 or (len(shape) == 2 and shape[0] not in (1, self._length)):
            raise ValueError(f"other has shape {shape}: pass one row, or {self._length} rows as the frame has")
        return rows

    def comparison(
        self,
        labels: NDArray[Any] | None,
        groups: ArrayLike | None,
        where: ArrayLike | None,
        rows: ArrayLike | None,
        options: dict[str, Any],
    ) -> Comparison:
        """Compare, and remember the index."""
        from kullback._compare import Comparison, compare

        masks = self._masks(where, rows)
        along = None if groups is None else self._whole(groups, "groups").to_numpy()
        if along is not None and along.dtype == object:
            along = along.astype(str)
        with _NamingRows(self._index):
            base, other = self._rows()
            both = compare(base, other, labels, groups=along, **{**masks, **options})
        return Comparison(dict(both), both.status, both.groups, index=self._index)


class _NamingRows:
    """Context that adds to a message about row 3 what the index calls it."""

    def __init__(self, index: pd.Index) -> None:
        self._index = index

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        match = re.search(r"\brow (\d+)", str(error)) if isinstance(error, ValueError | IndexError) else None
        if match is None or isinstance(self._index, pd.RangeIndex) or int(match[1]) >= len(self._index):
            return
        named = f"{match[0]} (index {_shown(self._index[int(match[1])])})"
        assert error is not None
        raise type(error)(str(error).replace(match[0], named, 1)) from None


def _places(frame: pd.DataFrame, columns: Sequence[Hashable] | None, name: str) -> NDArray[np.intp]:
    if columns is None:
        return np.arange(frame.shape[1])
    if isinstance(columns, str) or not pd.api.types.is_list_like(columns):
        remedy = f"; say [{columns!r}]" if isinstance(columns, str) else ""
        raise TypeError(f"{name} must be a sequence of column labels, got {columns!r}{remedy}")
    return np.array([_place(frame, label) for label in columns], np.intp)


def _place(frame: pd.DataFrame, label: Hashable) -> int:
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"df must be a DataFrame, got {type(frame).__name__}")
    if isinstance(label, pd.Series | pd.Index | np.ndarray):
        raise TypeError(f"columns are named by their labels, got {type(label).__name__}: add it to the frame first")
    try:
        place = frame.columns.get_loc(label)
    except (KeyError, TypeError):
        raise KeyError(f"no column {label!r}; there are {_some(frame.columns)}") from None
    if isinstance(place, int):
        return place
    raise ValueError(f"the frame has more than one column {label!r}: give columns labels of their own")


def column_of(frame: pd.DataFrame, label: Hashable) -> pd.Series:
    """Give the one column of that label; KeyError or ValueError if there is none, or several."""
    place = _place(frame, label)
    return frame.iloc[:, place]


def _some(labels: pd.Index) -> str:
    shown = ", ".join(map(_shown, labels[:_SHOWN]))
    return f"{shown} and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else shown


def _shown(label: Hashable) -> str:
    """Spell a label as its user would, without the type that numpy adds."""
    if isinstance(label, tuple):
        return f"({', '.join(map(_shown, label))})"
    return repr(label.item() if isinstance(label, np.integer | np.floating | np.bool_ | np.str_) else label)


_REMEDY = 'align them, or keep the rows in both with join="inner"'


def _differing(ours: pd.Index, theirs: pd.Index, whose: str = "the frame's", remedy: str = _REMEDY) -> str:
    """Show where two indexes part."""
    if len(ours) != len(theirs):
        return f"the index is not {whose}: {len(theirs)} rows against {len(ours)}; {remedy}"
    differ = np.flatnonzero([a != b and not (pd.isna(a) and pd.isna(b)) for a, b in zip(ours, theirs, strict=True)])
    if not differ.size:
        return f"the index is not {whose}: {theirs.dtype} against {ours.dtype}; {remedy}"
    at = int(differ[0])
    return f"the index is not {whose}: row {at} is {_shown(theirs[at])} against {_shown(ours[at])}; {remedy}"


def _numeric(dtype: Any) -> np.dtype[Any] | None:
    """Give the dtype in which a column's values are scored; None if they are no numbers."""
    plain = isinstance(dtype, np.dtype)
    found = dtype if plain else getattr(dtype, "numpy_dtype", None)
    if not isinstance(found, np.dtype) or found.kind not in "biuf" or found.itemsize > 8:
        return None
    # A missing integer is a NaN, and integers are scored in double precision in any case.
    return found if plain or found.kind == "f" else np.dtype(np.float64)


def _not_numbers(name: str, label: Hashable, dtype: Any) -> str:
    remedies: dict[type, str] = {
        pd.CategoricalDtype: "its values are counted by series.kb.value_entropy()",
        pd.SparseDtype: "make it dense first (series.sparse.to_dense())",
    }
    remedy = next((words for kind, words in remedies.items() if isinstance(dtype, kind)), "")
    if not remedy:
        remedy = "choose the columns of numbers with columns=, or convert it (series.astype(float))"
    return f"{name} {label!r} has dtype {dtype}, where integers, booleans or floating-point numbers are read: {remedy}"


def numbers_of(series: pd.Series, *, dropna: bool) -> tuple[Numbers, pd.Index | range]:
    """Give each distinct value of a series a number.

    Parameters
    ----------
    series : Series
        The values.
    dropna : bool
        Whether missing values are left out or are a value of their own.

    Returns
    -------
    numbers : Numbers
        Which value each row has.
    values : Index or range
        The values in the order of their numbers; without the missing one.

    Raises
    ------
    TypeError
        If values cannot be told apart.
    """
    if isinstance(series.dtype, pd.CategoricalDtype):
        categories = series.cat.categories
        codes = series.cat.codes.to_numpy()
        if dropna or not (codes < 0).any():
            return Numbers(codes, 0, len(categories)), categories
        return Numbers(codes, -1, len(categories) + 1), categories
    span = _span(series)
    if span is not None:
        return Numbers(series.to_numpy(), span.start, len(span)), span
    if isinstance(series.dtype, pd.StringDtype) and hasattr(series.array, "__arrow_array__"):
        codes, firsts = _core.number_strings(series.array.__arrow_array__())
        values = pd.Index(series.take(firsts), name=None)
        missing = not dropna and bool((codes < 0).any())
        return Numbers(codes, -missing, len(values) + missing), values
    try:
        codes, values = pd.factorize(series, use_na_sentinel=dropna)
    except TypeError as error:
        whose = "the series" if series.name is None else repr(series.name)
        remedy = "make each a string or a tuple first"
        raise TypeError(f"{whose} has values that cannot be told apart ({error}): {remedy}") from None
    return Numbers(codes, 0, len(values)), pd.Index(values)


_SPAN = 1 << 20
"""Integers that span no more than this are numbered as they are, without a hash table: a table of counts of 8 MB."""


def _span(series: pd.Series) -> range | None:
    """Give the range of a column of integers if it is small."""
    dtype = series.dtype
    if not isinstance(dtype, np.dtype) or dtype.kind not in "iub" or not len(series):
        return None
    values = series.to_numpy()
    if dtype.kind == "b":
        return range(2)
    low, high = int(values.min()), int(values.max())
    return (
        range(low, high + 1) if high - low < min(_SPAN, max(len(values), 256)) and high < 2**62 < low + 2**63 else None
    )


def groups_of(df: pd.DataFrame, by: Hashable | list[Hashable]) -> tuple[Numbers, pd.Index]:
    """Give each group of a frame's rows a number, in ascending order.

    Parameters
    ----------
    df : DataFrame
        The rows.
    by : label or list of labels
        The columns that make the groups.

    Returns
    -------
    numbers : Numbers
        The group of each row; a row where one of the columns is missing has none.
    index : Index
        What the groups are called; some may not occur.
    """
    labels = by if isinstance(by, list) else [by]
    if not labels:
        raise ValueError("by is empty: name the column that makes the groups, or several")
    numbered = [_ordered(column_of(df, label)) for label in labels]
    if len(numbered) == 1:
        numbers, index = numbered[0]
        return numbers, index.rename(labels[0])
    codes = [numbers.from_zero() for numbers, _ in numbered]
    kept = np.logical_and.reduce([code >= 0 for code in codes])
    combined, present = np.zeros(len(df), np.int64), np.zeros(1, np.int64)
    places: list[NDArray[np.int64]] = []
    for code, (numbers, _) in zip(codes, numbered, strict=True):
        # Numbering anew after every column keeps the numbers below the rows' times the column's.
        combined, found = _renumbered(combined * numbers.count + code, kept, len(present) * numbers.count)
        before, place = np.divmod(found, max(numbers.count, 1))
        places, present = [*(earlier[before] for earlier in places), place], found
    arrays = [index.take(place) for (_, index), place in zip(numbered, places, strict=True)]
    return Numbers(np.where(kept, combined, -1), 0, len(present)), pd.MultiIndex.from_arrays(arrays, names=labels)


def _renumbered(
    codes: NDArray[np.int64], kept: NDArray[np.bool_], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give the kept codes, all below `count`, numbers from 0 in order; also give which codes there are."""
    if count > max(_SPAN, len(codes)):
        present, numbers = np.unique(codes[kept], return_inverse=True)
        result = np.zeros(len(codes), np.int64)
        result[kept] = numbers
        return result, present
    seen = np.bincount(codes[kept], minlength=count) > 0
    return (np.cumsum(seen) - 1)[np.where(kept, codes, 0)] if count else codes, np.flatnonzero(seen)


def _ordered(series: pd.Series) -> tuple[Numbers, pd.Index]:
    """Give each distinct value of a column a number, in ascending order."""
    numbers, values = numbers_of(series, dropna=True)
    if isinstance(values, range):
        return numbers, pd.Index(np.arange(values.start, values.stop).astype(series.dtype))
    if isinstance(series.dtype, pd.CategoricalDtype):
        return numbers, pd.CategoricalIndex(values, dtype=series.dtype)
    try:
        order = np.asarray(values.argsort())
    except TypeError:  # values of several kinds have no order: as they come
        return numbers, values
    place = np.full(len(order) + 1, -1)
    place[order] = np.arange(len(order))
    return Numbers(place[numbers.codes], 0, len(order)), values.take(order)
