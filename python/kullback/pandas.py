"""Scores of the rows of pandas data frames, and of the values in their columns.

Importing this module gives every data frame and series the accessor ``kb``:

* ``df.kb.entropy()``, ``df.kb.kl_divergence(other)`` and so on read each row as a distribution over the columns and
  return a series with the frame's index.
* ``series.kb.value_entropy()`` counts values instead; `group_value_entropy` and `group_value_divergence` do so for
  every group of a frame.

Examples
--------
>>> import pandas as pd
>>> import kullback.pandas
>>> df = pd.DataFrame({"cat": [0.9, 0.5], "dog": [0.1, 0.5]}, index=["a.png", "b.png"])
>>> df.kb.entropy().round(4)
a.png    0.3251
b.png    0.6931
Name: entropy, dtype: float64
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

import kullback
from kullback import _values
from kullback._frames import Call, column_of, groups_of, numbers_of

if TYPE_CHECKING:
    from kullback._compare import Comparison

__all__ = ["FrameAccessor", "SeriesAccessor", "group_value_divergence", "group_value_entropy"]

_Given = Literal["probs", "counts", "log_probs", "logits"]
_Spaces = _Given | tuple[_Given, _Given]
_Join = Literal["equal", "inner"]
_Invalid = Literal["raise", "nan"]

_NO_LABEL = -(2**62)
"""Stands for a missing label where the caller named none to ignore."""


@pd.api.extensions.register_dataframe_accessor("kb")
class FrameAccessor:
    """Scores of the rows of a data frame: ``df.kb``.

    A row is a distribution over the frame's columns, or over those that ``columns=`` names. Columns may be integers,
    booleans and floating-point numbers, NumPy's, pandas' nullable ones or Arrow's, also mixed; a missing value makes
    its row's result NaN, as a NaN does. A frame of one block (all columns of one NumPy dtype) is read where it lies;
    any other is brought together a few thousand rows at a time.

    `other` is an array with the same rows, one row, a series indexed by column (one row), or a frame. The columns of
    a frame are matched by label, in whatever order they come. Its index has to be the same, unless
    ``join="inner"`` keeps the rows whose index is in both.

    Parameters
    ----------
    frame : DataFrame
        What pandas calls the accessor on.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame

    def entropy(
        self,
        *,
        columns: Sequence[Hashable] | None = None,
        given: _Given = "probs",
        base: float | None = None,
        temperature: float = 1.0,
        where: ArrayLike | None = None,
        rows: ArrayLike | None = None,
        on_invalid: _Invalid = "raise",
        threads: int | None = None,
    ) -> pd.Series:
        """Entropy of each row, in nats, as `kullback.entropy` defines it.

        Parameters
        ----------
        columns : sequence of labels, optional
            The classes; all columns if None.
        given, base, temperature, on_invalid, threads
            As for `kullback.entropy`.
        where : array or Series of bool, optional
            Which classes count; a series is matched by column label.
        rows : array or Series of bool, optional
            Which rows count; a series has the frame's index. The others give NaN.

        Returns
        -------
        Series
            With the frame's index, named ``entropy``.

        Raises
        ------
        TypeError
            If a column does not hold numbers, or an option has the wrong type.
        ValueError
            If a row is invalid, or an option is unknown.
        KeyError
            If a column is not there.

        Examples
        --------
        >>> import pandas as pd
        >>> import kullback.pandas
        >>> df = pd.DataFrame({"who": ["x", "y"], "yes": [3, 0], "no": [1, 7]})
        >>> df.kb.entropy(columns=["yes", "no"], given="counts").round(4).tolist()
        [0.5623, 0.0]
        """
        options = {"given": given, "base": base, "temperature": temperature, "on_invalid": on_invalid}
        call = Call(self._frame, columns)
        return call.series("entropy", kullback.entropy, where, rows, {**options, "threads": threads})

    def cross_entropy(
        self,
        other: Any,
        *,
        columns: Sequence[Hashable] | None = None,
        join: _Join = "equal",
        given: _Spaces = "probs",
        base: float | None = None,
        temperature: float | tuple[float, float] = 1.0,
        where: ArrayLike | None = None,
        rows: ArrayLike | None = None,
        on_invalid: _Invalid = "raise",
        threads: int | None = None,
    ) -> pd.Series:
        """Cross entropy of each row p with that of `other`, q, in nats, as `kullback.cross_entropy` defines it.

        Parameters
        ----------
        other : DataFrame, Series or array
            The rows q, or one row; see the class.
        columns : sequence of labels, optional
            The classes; all columns if None.
        join : {"equal", "inner"}
            Whether the index of a frame has to be the same, or rows in both are kept.
        given, base, temperature, on_invalid, threads
            As for `kullback.cross_entropy`.
        where, rows
            As for `entropy`.

        Returns
        -------
        Series
            With the frame's index (of the rows kept), named ``cross_entropy``.

        Raises
        ------
        TypeError, ValueError, KeyError
            As for `entropy`; ValueError also if columns or index do not match.

        Examples
        --------
        >>> import pandas as pd
        >>> import kullback.pandas
        >>> df = pd.DataFrame({"a": [0.5, 1.0], "b": [0.5, 0.0]})
        >>> df.kb.cross_entropy([0.25, 0.75]).round(4).tolist()
        [0.837, 1.3863]
        """
        options = {"given": given, "base": base, "temperature": temperature, "on_invalid": on_invalid}
        call = Call(self._frame, columns, other, join)
        return call.series("cross_entropy", kullback.cross_entropy, where, rows, {**options, "threads": threads})

    def kl_divergence(
        self,
        other: Any,
        *,
        columns: Sequence[Hashable] | None = None,
        join: _Join = "equal",
        given: _Spaces = "probs",
        base: float | None = None,
        temperature: float | tuple[float, float] = 1.0,
        where: ArrayLike | None = None,
        rows: ArrayLike | None = None,
        on_invalid: _Invalid = "raise",
        threads: int | None = None,
    ) -> pd.Series:
        """KL divergence of each row from that of `other`, in nats, as `kullback.kl_divergence` defines it.

        Parameters
        ----------
        other, columns, join, given, base, temperature, where, rows, on_invalid, threads
            As for `cross_entropy`.

        Returns
        -------
        Series
            With the frame's index (of the rows kept), named ``kl_divergence``.

        Raises
        ------
        TypeError, ValueError, KeyError
            As for `cross_entropy`.

        Examples
        --------
        >>> import pandas as pd
        >>> import kullback.pandas
        >>> today = pd.DataFrame({"a": [0.5, 0.9], "b": [0.5, 0.1]}, index=["x", "y"])
        >>> before = pd.DataFrame({"b": [0.5, 0.5], "a": [0.5, 0.5]}, index=["y", "z"])
        >>> today.kb.kl_divergence(before, join="inner").round(4)
        y    0.3681
        Name: kl_divergence, dtype: float64
        """
        options = {"given": given, "base": base, "temperature": temperature, "on_invalid": on_invalid}
        call = Call(self._frame, columns, other, join)
        return call.series("kl_divergence", kullback.kl_divergence, where, rows, {**options, "threads": threads})

    def js_divergence(
        self,
        other: Any,
        *,
        columns: Sequence[Hashable] | None = None,
        join: _Join = "equal",
        given: _Spaces = "probs",
        base: float | None = None,
        temperature: float | tuple[float, float] = 1.0,
        where: ArrayLike | None = None,
        rows: ArrayLike | None = None,
        on_invalid: _Invalid = "raise",
        threads: int | None = None,
    ) -> pd.Series:
        """Jensen-Shannon divergence of each row and that of `other`, in nats: see `kullback.js_divergence`.

        Parameters
        ----------
        other, columns, join, given, base, temperature, where, rows, on_invalid, threads
            As for `cross_entropy`.

        Returns
        -------
        Series
            With the frame's index (of the rows kept), named ``js_divergence``.

        Raises
        ------
        TypeError, ValueError, KeyError
            As for `cross_entropy`.

        Examples
        --------
        >>> import pandas as pd
        >>> import kullback.pandas
        >>> df = pd.DataFrame({"a": [1.0, 0.5], "b": [0.0, 0.5]})
        >>> df.kb.js_divergence([0.0, 1.0], base=2).round(4).tolist()
        [1.0, 0.3113]
        """
        options = {"given": given, "base": base, "temperature": temperature, "on_invalid": on_invalid}
        call = Call(self._frame, columns, other, join)
        return call.series("js_divergence", kullback.js_divergence, where, rows, {**options, "threads": threads})

    def js_distance(
        self,
        other: Any,
        *,
        columns: Sequence[Hashable] | None = None,
        join: _Join = "equal",
        given: _Spaces = "probs",
        base: float | None = None,
        temperature: float | tuple[float, float] = 1.0,
        where: ArrayLike | None = None,
        rows: ArrayLike | None = None,
        on_invalid: _Invalid = "raise",
        threads: int | None = None,
    ) -> pd.Series:
        """Jensen-Shannon distance of each row and that of `other`: see `kullback.js_distance`.

        Parameters
        ----------
        other, columns, join, given, base, temperature, where, rows, on_invalid, threads
            As for `cross_entropy`.

        Returns
        -------
        Series
            With the frame's index (of the rows kept), named ``js_distance``.

        Raises
        ------
        TypeError, ValueError, KeyError
            As for `cross_entropy`.

        Examples
        --------
        >>> import pandas as pd
        >>> import kullback.pandas
        >>> df = pd.DataFrame({"a": [1.0, 0.5], "b": [0.0, 0.5]})
        >>> df.kb.js_distance([0.0, 1.0]).round(4).tolist()
        [0.8326, 0.4645]
        """
        options = {"given": given, "base": base, "temperature": temperature, "on_invalid": on_invalid}
        call = Call(self._frame, columns, other, join)
        return call.series("js_distance", kullback.js_distance, where, rows, {**options, "threads": threads})

    def nll(
        self,
        labels: ArrayLike,
        *,
        columns: Sequence[Hashable] | None = None,
        ignore_index: int | None = None,
        given: _Given = "probs",
        base: float | None = None,
        temperature: float = 1.0,
        where: ArrayLike | None = None,
        rows: ArrayLike | None = None,
        on_invalid: _Invalid = "raise",
        threads: int | None = None,
    ) -> pd.Series:
        """Negative log-likelihood of a label under each row, in nats, as `kullback.nll` defines it.

        Parameters
        ----------
        labels : array or Series
            The class of each row: column labels where those are strings or categories, and positions among the
            columns where they are integers. A series has the frame's index.
        columns : sequence of labels, optional
            The classes; all columns if None.
        ignore_index : int, optional
            The position that marks rows that do not count; they give NaN. So do missing column labels.
        given, base, temperature, on_invalid, threads
            As for `kullback.nll`.
        where, rows
            As for `entropy`.

        Returns
        -------
        Series
            With the frame's index, named ``nll``.

        Raises
        ------
        TypeError, ValueError, KeyError
            As for `entropy`; KeyError if a label is no column, ValueError if integers might be positions or labels.
        IndexError
            If a position is out of range.

        Examples
        --------
        >>> import pandas as pd
        >>> import kullback.pandas
        >>> df = pd.DataFrame({"cat": [0.1, 0.5], "dog": [0.9, 0.5]})
        >>> df.kb.nll(["dog", "cat"]).round(4).tolist()
        [0.1054, 0.6931]
        """
        call = Call(self._frame, columns)
        options = {"given": given, "base": base, "temperature": temperature, "on_invalid": on_invalid}
        codes, missing = call.labels(labels)
        if missing is not None:
            ignore_index = _NO_LABEL if ignore_index is None else ignore_index
            codes = np.where(missing, ignore_index, codes)
        options |= {"ignore_index": ignore_index, "threads": threads}
        return call.series("nll", kullback.nll, where, rows, options, codes)

    def compare(
        self,
        other: Any,
        labels: ArrayLike | None = None,
        *,
        columns: Sequence[Hashable] | None = None,
        join: _Join = "equal",
        measures: Sequence[str] | None = None,
        given: _Spaces = "logits",
        temperature: float | tuple[float, float] = 1.0,
        where: ArrayLike | None = None,
        rows: ArrayLike | None = None,
        ignore_index: int = -100,
        groups: ArrayLike | None = None,
        on_invalid: _Invalid = "raise",
        check: bool = True,
        threads: int | None = None,
    ) -> Comparison:
        """Compare two models' outputs on the same rows, as `kullback.compare` does; the frame is the base.

        Parameters
        ----------
        other, columns, join, where, rows
            As for `cross_entropy`.
        labels : array or Series, optional
            The class that was right, as for `nll`; missing ones are left out.
        measures : sequence of str, optional
            Which columns of the comparison to compute; all that are possible if None.
        given, temperature, ignore_index, groups, on_invalid, check, threads
            As for `kullback.compare`.

        Returns
        -------
        Comparison
            Its `to_frame` has this frame's index.

        Raises
        ------
        TypeError, ValueError, KeyError, IndexError
            As for `cross_entropy`, `nll` and `kullback.compare`.

        Examples
        --------
        >>> import pandas as pd
        >>> import kullback.pandas
        >>> base = pd.DataFrame({"a": [2.0, 0.0], "b": [0.0, 1.0]}, index=["x", "y"])
        >>> base.kb.compare(base + [0.5, 0.0], labels=["a", "b"]).to_frame()[["kl", "same_top"]].round(4)
               kl  same_top
        x  0.0116      True
        y  0.0263      True
        """
        call = Call(self._frame, columns, other, join)
        codes = None
        if labels is not None:
            codes, missing = call.labels(labels)
            codes = codes if missing is None else np.where(missing, ignore_index, codes)
        return call.comparison(
            codes,
            groups,
            where,
            rows,
            {
                "given": given,
                "temperature": temperature,
                "ignore_index": ignore_index,
                "columns": measures,
                "on_invalid": on_invalid,
                "check": check,
                "threads": threads,
            },
        )


@pd.api.extensions.register_series_accessor("kb")
class SeriesAccessor:
    """Scores of the values of a series: ``series.kb``.

    Parameters
    ----------
    series : Series
        What pandas calls the accessor on.
    """

    def __init__(self, series: pd.Series) -> None:
        self._series = series

    def value_entropy(self, *, dropna: bool = True, base: float | None = None) -> float:
        r"""Entropy of the shares of the series' distinct values, in nats.

        :math:`-\sum_v \frac{n_v}{n} \ln \frac{n_v}{n}` with :math:`n_v` the number of times v occurs.

        Parameters
        ----------
        dropna : bool
            Leave missing values out; otherwise they are one value more.
        base : float, optional
            Base of the logarithms; natural ones by default.

        Returns
        -------
        float
            NaN if there is no value at all.

        Raises
        ------
        TypeError
            If values cannot be told apart (lists, sets).
        ValueError
            If the base is not a number > 0 other than 1.

        Examples
        --------
        >>> import pandas as pd
        >>> import kullback.pandas
        >>> pd.Series(["a", "b", "a", None]).kb.value_entropy(base=2).round(4)
        np.float64(0.9183)
        """
        numbers, _ = numbers_of(self._series, dropna=dropna)
        if not numbers.count:  # no class, as a row needs
            return np.float64(np.nan)
        return kullback.entropy(numbers.counted(), given="counts", base=base)  # type: ignore[no-any-return]


def group_value_entropy(
    df: pd.DataFrame, by: Hashable | list[Hashable], column: Hashable, *, dropna: bool = True, base: float | None = None
) -> pd.Series:
    r"""Entropy of the values of a column within each group, in nats.

    :math:`-\sum_v \frac{n_{gv}}{n_g} \ln \frac{n_{gv}}{n_g}` with :math:`n_{gv}` the rows of group g with value v.

    Parameters
    ----------
    df : DataFrame
        The rows.
    by : label or list of labels
        The columns that make the groups; rows where one of them is missing belong to none.
    column : label
        The column whose values are counted: categories, integers, booleans, strings, dates.
    dropna : bool
        Leave missing values out; otherwise they are one value more.
    base : float, optional
        Base of the logarithms; natural ones by default.

    Returns
    -------
    Series
        Named as the column, indexed by group in ascending order. A group without a value gives NaN.

    Raises
    ------
    KeyError
        If a column is not there.
    ValueError
        If a label stands for several columns, or `by` is empty.
    TypeError
        If values cannot be told apart (lists, sets).

    Examples
    --------
    >>> import pandas as pd
    >>> from kullback.pandas import group_value_entropy
    >>> df = pd.DataFrame({"shop": [1, 1, 2, 2], "item": ["tea", "jam", "tea", "tea"]})
    >>> group_value_entropy(df, "shop", "item").round(4)
    shop
    1    0.6931
    2    0.0000
    Name: item, dtype: float64
    """
    groups, index = groups_of(df, by)
    values, _ = numbers_of(column_of(df, column), dropna=dropna)
    entropies, present = _values.group_entropy(groups, values, base=base)
    return pd.Series(entropies, index=index[present], name=column)


def group_value_divergence(
    df: pd.DataFrame,
    by: Hashable | list[Hashable],
    column: Hashable,
    *,
    against: Hashable = None,
    measure: Literal["kl_divergence", "js_divergence", "js_distance"] = "kl_divergence",
    dropna: bool = True,
    base: float | None = None,
) -> pd.Series:
    """Divergence of each group's distribution of values from that of all rows, or of one group.

    Parameters
    ----------
    df : DataFrame
        The rows.
    by : label or list of labels
        The columns that make the groups; rows where one of them is missing belong to none.
    column : label
        The column whose values are counted: categories, integers, booleans, strings, dates.
    against : label, optional
        The group to compare with, as it stands in the result's index; the rows of all groups together if None.
    measure : {"kl_divergence", "js_divergence", "js_distance"}
        Which divergence. KL(group‖reference) is finite against the whole, and infinite where a group has a value
        that the reference lacks.
    dropna : bool
        Leave missing values out; otherwise they are one value more.
    base : float, optional
        Base of the logarithms; natural ones by default.

    Returns
    -------
    Series
        Named after the measure, indexed by group in ascending order. A group without a value gives NaN.

    Raises
    ------
    KeyError
        If a column or the group is not there.
    ValueError
        If a label stands for several columns, `by` is empty or the measure is unknown.
    TypeError
        If values cannot be told apart (lists, sets).

    Examples
    --------
    >>> import pandas as pd
    >>> from kullback.pandas import group_value_divergence
    >>> df = pd.DataFrame({"year": [1, 1, 1, 2, 2, 2], "item": ["tea", "jam", "tea", "tea", "jam", "jam"]})
    >>> group_value_divergence(df, "year", "item", against=1).round(4)
    year
    1    0.000
    2    0.231
    Name: kl_divergence, dtype: float64
    """
    groups, index = groups_of(df, by)
    values, _ = numbers_of(column_of(df, column), dropna=dropna)
    place = None if against is None else _group_place(groups, index, against)
    divergences, present = _values.group_divergence(groups, values, against=place, measure=measure, base=base)
    return pd.Series(divergences, index=index[present], name=measure)


def _group_place(groups: _values.Numbers, index: pd.Index, label: Hashable) -> int:
    try:
        place = index.get_loc(label)
    except (KeyError, TypeError):
        place = -1
    if not isinstance(place, int):
        raise KeyError(f"against={label!r} names several groups: give one of each of {list(index.names)}")
    if place < 0 or not groups.counted()[place]:
        raise KeyError(f"against={label!r} is none of the groups")
    return place
