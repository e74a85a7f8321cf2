"""Two models on the same rows: every measure of their difference from one reading of both matrices."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback import _core
from kullback._accumulate import COLUMNS, EXACT_ROWS, LABELLED, Accumulator
from kullback._coerce import Blocks, frame_of
from kullback._render import render_html, render_markdown, render_text

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Comparison", "compare", "render_html", "render_markdown", "render_text"]

_Given = Literal["probs", "counts", "log_probs", "logits"]
_Spaces = _Given | tuple[_Given, _Given]

_SAMPLED_ROWS = 256
_SAMPLED_VALUES = 1 << 20
"""At most so many rows, and about so many values, are looked at to tell probabilities from logits."""


def compare(
    base: ArrayLike | Blocks,
    other: ArrayLike | Blocks,
    labels: ArrayLike | None = None,
    *,
    given: _Spaces = "logits",
    dtype: Literal["bfloat16"] | None = None,
    axis: int = -1,
    temperature: float | tuple[float, float] = 1.0,
    num_classes: int | None = None,
    where: ArrayLike | None = None,
    rows: ArrayLike | None = None,
    ignore_index: int = -100,
    groups: ArrayLike | None = None,
    columns: Iterable[str] | None = None,
    on_invalid: Literal["raise", "nan"] = "raise",
    check: bool = True,
    threads: int | None = None,
) -> Comparison:
    r"""Compare two models' outputs on the same rows.

    With p the distribution of a row under `base` and q that under `other`, over C classes, the columns are, in nats:

    ==================  ====================================================================================
    ``kl``              :math:`\mathrm{KL}(p\|q) = \sum_i p_i \ln (p_i / q_i)`
    ``kl_reverse``      :math:`\mathrm{KL}(q\|p)`
    ``js``              Jensen-Shannon divergence :math:`\frac12 \mathrm{KL}(p\|m) + \frac12 \mathrm{KL}(q\|m)`,
                        :math:`m = (p + q) / 2`
    ``tv``              total variation :math:`\frac12 \sum_i |p_i - q_i|` (no unit); 1 - tv is the acceptance rate
                        of speculative decoding
    ``entropy_base``    :math:`H(p) = -\sum_i p_i \ln p_i`
    ``entropy_other``   :math:`H(q)`
    ``cross_entropy``   :math:`H(p, q) = -\sum_i p_i \ln q_i`
    ``same_top``        whether both have their largest value at the same class (the first one, if there are several)
    ``nll_base``        :math:`-\ln p_y` of the label y
    ``nll_other``       :math:`-\ln q_y`
    ``delta_p``         :math:`q_y - p_y` (no unit)
    ==================  ====================================================================================

    Parameters
    ----------
    base, other : array
        Rows lie along `axis`, one distribution each; the other axes broadcast against each other. Floating-point
        (float16, bfloat16, float32, float64) or integer, in any memory layout, also memory-mapped. They are read once
        and not copied. Data frames must have the same columns and the same index, which `Comparison.to_frame` keeps.
    labels : array of int, optional
        The class that was right, of each row: of the shape of `base` without `axis`. Nothing is shifted: in a language
        model, row i must already stand beside the token that follows.
    given : {"logits", "probs", "log_probs", "counts"} or pair of them
        What the rows hold. Unlike in the rest of the package the default is ``"logits"``.
    dtype : {"bfloat16"}, optional
        What arrays of uint16 hold: the bits of bfloat16. Other arrays stay what they are.
    axis : int
        The axis of the classes, the last one unless said otherwise.
    temperature : float or pair of float
        Logits are divided by it.
    num_classes : int, optional
        Compare the first `num_classes` classes only, where vocabularies were padded to different lengths.
    where : array of bool, optional
        Which classes count: of length C, or of the shape of `base`. Those that are left are renormalised.
    rows : array of bool, optional
        Which rows count, of the shape of `labels`. The others are not read and count as ignored.
    ignore_index : int
        Rows with this label are left out of everything.
    groups : array of int or str, optional
        The sequence or document of each row, broadcast to the shape of `labels`. Standard errors then allow for
        correlation within a group.
    columns : iterable of str, optional
        Which columns to compute; all that are possible if None.
    on_invalid : {"raise", "nan"}
        Whether a row outside what `given` accepts is an error or is left out as invalid. Rows that hold a NaN or have
        no mass are left out as invalid in either case.
    check : bool
        Refuse logits whose rows are all non-negative and sum to 1: taking the softmax of probabilities makes any two
        models look alike.
    threads : int, optional
        How many threads to use; None for the package's setting.

    Returns
    -------
    Comparison
        The columns, and their statistics: NumPy's arrays of whatever the inputs are, because they are there to be
        summed up, merged and saved. ``torch.from_numpy(c.kl)`` is a tensor of the same memory.

    Raises
    ------
    ValueError
        If numbers of classes or shapes do not match, a row is invalid, an option is unknown, or `check` finds
        probabilities given as logits.
    IndexError
        If a label is out of range.
    TypeError
        If an argument has the wrong type.

    Examples
    --------
    >>> import numpy as np
    >>> import kullback as kb
    >>> base = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]])
    >>> other = np.array([[2.0, 1.0, 0.5], [1.5, 1.0, 1.0]])
    >>> both = kb.compare(base, other, labels=[0, 1])
    >>> both.kl.round(4)
    array([0.0117, 0.7491])
    >>> both.same_top
    array([ True, False])
    >>> round(both.summary()["perplexity"]["ratio"], 4)
    1.8052
    """
    axis = _integer("axis", axis)
    arrays = {"base": _rows("base", base), "other": _rows("other", other)}
    frames = [(name, frame) for name, x in (("base", base), ("other", other)) if (frame := frame_of(x)) is not None]
    if len(frames) == 2:
        frames[0][1].agree("base", frames[1][1], "other")
    shapes, classes = {}, {}
    for name, array in arrays.items():
        if not -len(array.shape) <= axis < len(array.shape):
            raise ValueError(f"axis {axis} is out of range for {name} of shape {array.shape}")
        classes[name] = array.shape[axis]
        shapes[name] = _without(array.shape, axis)
    try:
        shape = np.broadcast_shapes(*shapes.values())
    except ValueError:
        raise ValueError(
            f"base and other do not have the same rows: their shapes are {arrays['base'].shape} and "
            f"{arrays['other'].shape}, with classes along axis {axis}"
        ) from None
    chosen = _chosen_columns(columns, labelled=labels is not None)
    wanted_labels = None if labels is None else _row_array("labels", labels, shape, kinds="iu")
    wanted_rows = None if rows is None else _row_array("rows", rows, shape, kinds="b")
    wanted_groups = None if groups is None else _group_array(groups, shape)
    if check:
        read = _rows_read(wanted_labels, wanted_rows, ignore_index)
        for (name, array), space in zip(arrays.items(), _spaces(given), strict=True):
            if space == "logits":
                _refuse_probabilities(name, array, axis, shape, read, dtype)

    _check_classes(classes, num_classes, axis)
    classes_read = None if where is None else _core.as_ndarray(where, "where")
    if num_classes is not None:
        arrays = {name: _first_classes(array, axis, num_classes) for name, array in arrays.items()}
        if classes_read is not None:
            classes_read = _first_classes(classes_read, axis if classes_read.ndim > 1 else -1, num_classes)
    values, status = _core.compare_columns(
        arrays["base"],
        arrays["other"],
        wanted_labels,
        given=given,
        dtype=dtype,
        axis=axis,
        temperature=temperature,
        where=classes_read,
        rows=wanted_rows,
        ignore_index=ignore_index,
        columns=chosen,
        on_invalid=on_invalid,
        threads=threads,
    )
    index = frames[0][1].index if frames and status.shape == frames[0][1].index.shape else None
    return Comparison(values, status, wanted_groups, index=index)


class Comparison(Mapping[str, NDArray[Any]]):
    """Columns of two models' differences, one value a row, and their statistics.

    What `compare` returns. Each column is an item and an attribute: ``c["kl"]`` is ``c.kl``. Rows that were not scored
    hold NaN (``same_top``: False); `status` tells why.

    Parameters
    ----------
    columns : mapping of str to ndarray
        Columns of one shape, named as in `compare`.
    status : ndarray of uint8
        Of each row: 0 scored, 1 ignored, 2 invalid.
    groups : ndarray, optional
        The group of each row.
    index : pandas.Index, optional
        What `to_frame` calls the rows.

    Attributes
    ----------
    status : ndarray of uint8
        Of each row: 0 scored, 1 ignored, 2 invalid.
    groups : ndarray or None
        The group of each row.

    Examples
    --------
    >>> import numpy as np
    >>> import kullback as kb
    >>> rng = np.random.default_rng(0)
    >>> base = rng.normal(size=(1000, 50)).astype(np.float32)
    >>> other = base + 0.1 * rng.normal(size=(1000, 50)).astype(np.float32)
    >>> both = kb.compare(base, other)
    >>> list(both)
    ['kl', 'kl_reverse', 'js', 'tv', 'entropy_base', 'entropy_other', 'cross_entropy', 'same_top']
    >>> both.kl.shape, both.kl.dtype
    ((1000,), dtype('float32'))
    >>> 0.004 < both.summary()["kl"]["mean"] < 0.006
    True
    """

    # Columns are arrays, for which equality is not one answer.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __init__(
        self,
        columns: Mapping[str, NDArray[Any]],
        status: NDArray[np.uint8],
        groups: NDArray[Any] | None = None,
        *,
        index: pd.Index | None = None,
    ) -> None:
        self._columns = dict(columns)
        self.status = status
        self.groups = groups
        self._index = index
        self._summary: dict[str, Any] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of every column: that of the inputs without the axis of the classes."""
        return self.status.shape

    def __getitem__(self, name: str) -> NDArray[Any]:
        try:
            return self._columns[name]
        except KeyError:
            raise KeyError(self._why_not(name)) from None

    def __getattr__(self, name: str) -> NDArray[Any]:
        # Looked up in __dict__, because unpickling asks for attributes before there are any.
        columns: dict[str, NDArray[Any]] = self.__dict__.get("_columns", {})
        if name in columns:
            return columns[name]
        raise AttributeError(
            self._why_not(name) if name in COLUMNS else f"{type(self).__name__!r} object has no attribute {name!r}"
        )

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._columns]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __repr__(self) -> str:
        return render_text(self._summarised())

    def _repr_html_(self) -> str:
        table = render_html(self._summarised())
        picture = self._picture()
        return table if picture is None else f"{table}\n{picture}"

    def _picture(self) -> str | None:
        """Draw how KL is distributed, where matplotlib is installed."""
        if "kl" not in self._columns or not (self.status == 0).any():
            return None
        from kullback._plot import inline_picture

        columns = {name: values.reshape(-1) for name, values in self._columns.items()}
        return inline_picture(columns, self._summarised())

    def _repr_markdown_(self) -> str:
        return render_markdown(self._summarised())

    def summary(self) -> dict[str, Any]:
        """Give the statistics of all scored rows: means with standard errors, percentiles, perplexities.

        Returns
        -------
        dict
            As described for `Accumulator.summary`. Percentiles are exact, however many rows there are.
        """
        # A copy, so that what a caller does to it is not seen by the next one.
        return {key: dict(value) if isinstance(value, dict) else value for key, value in self._summarised().items()}

    def merge(self, other: Comparison) -> Comparison:
        """Join the rows of both, this one's first.

        Parameters
        ----------
        other : Comparison
            Of the same columns, and with groups if this one has them. Equal groups are the same group.

        Returns
        -------
        Comparison
            A new one. Where both have the same shape but for the first axis, they are joined along it; otherwise the
            result is one-dimensional.
        """
        if set(self) != set(other):
            raise ValueError(
                "comparisons of different columns cannot be merged: "
                f"this one has {', '.join(self)}; the other has {', '.join(other)}"
            )
        if (self.groups is None) != (other.groups is None):
            raise ValueError("one of the comparisons has groups and the other has none: they cannot be merged")
        aligned = len(self.shape) > 0 and len(other.shape) > 0 and self.shape[1:] == other.shape[1:]

        def joined(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
            return np.concatenate([a, b] if aligned else [a.reshape(-1), b.reshape(-1)])

        columns = {name: joined(values, other[name]) for name, values in self.items()}
        no_groups = self.groups is None or other.groups is None
        return Comparison(
            columns,
            joined(self.status, other.status),
            None if no_groups else joined(self.groups, other.groups),  # type: ignore[arg-type]
            index=None if self._index is None or other._index is None else self._index.append(other._index),
        )

    def to_frame(self) -> pd.DataFrame:
        """Give the columns as a pandas data frame, one row a row.

        Returns
        -------
        DataFrame
            The columns, then ``status`` and, if there are any, ``group``. The index is that of the frames compared,
            if they were frames; rows of more than one axis are indexed by their places along each.

        Raises
        ------
        ImportError
            Without pandas.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("Comparison.to_frame needs pandas: pip install 'kullback[pandas]'") from error
        data = {**self._columns, "status": self.status}
        if self.groups is not None:
            data["group"] = self.groups
        index = self._index
        if index is None and len(self.shape) > 1:
            names = [f"axis_{i}" for i in range(len(self.shape))]
            index = pd.MultiIndex.from_product([range(length) for length in self.shape], names=names)
        return pd.DataFrame({name: values.reshape(-1) for name, values in data.items()}, index=index)

    def _summarised(self) -> dict[str, Any]:
        if self._summary is None:
            # The columns are in memory anyway, so percentiles may as well be exact.
            accumulator = Accumulator(self._columns, _exact_rows=max(EXACT_ROWS, self.status.size))
            accumulator.update(self._columns, self.status, self.groups)
            self._summary = accumulator.summary()
        return self._summary

    def _why_not(self, name: str) -> str:
        if name in LABELLED:
            return f"no column {name!r}: it needs labels, and columns= must not leave it out"
        return f"no column {name!r}; there are {', '.join(self._columns)}"


def _integer(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be one integer, not {value!r}") from None


def _rows(name: str, value: Any) -> NDArray[Any] | Blocks:
    rows = value if isinstance(value, np.ndarray) else _core.as_rows(value, name)
    if not rows.shape:
        raise ValueError(f"{name} must have at least one axis, the classes of a row; it is the number {rows}")
    return rows


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    axis %= len(shape)
    return shape[:axis] + shape[axis + 1 :]


def _spaces(given: _Spaces) -> tuple[str, str]:
    """One space for each matrix; what they are called is checked where they are used."""
    if isinstance(given, str):
        return given, given
    if len(given) != 2:
        raise ValueError(f"given must be one space or a pair of them, not {given!r}")
    return given[0], given[1]


def _chosen_columns(columns: Iterable[str] | None, *, labelled: bool) -> tuple[str, ...]:
    if columns is None:
        return tuple(name for name in COLUMNS if labelled or name not in LABELLED)
    if isinstance(columns, str):
        raise TypeError(f"columns must be a sequence of names, not the string {columns!r}; say [{columns!r}]")
    chosen = tuple(dict.fromkeys(columns))
    for name in chosen:
        if name not in COLUMNS:
            raise ValueError(f"unknown column {name!r}; the columns are {', '.join(COLUMNS)}")
        if name in LABELLED and not labelled:
            raise ValueError(f"column {name!r} needs labels")
    if not chosen:
        raise ValueError(f"columns is empty; the columns are {', '.join(COLUMNS)}")
    return chosen


def _row_array(name: str, value: ArrayLike, shape: tuple[int, ...], *, kinds: str) -> NDArray[Any]:
    array = value if isinstance(value, np.ndarray) else _core.as_ndarray(value, name)
    if array.dtype.kind not in kinds and array.size:
        what = "integers, one class a row" if "i" in kinds else "booleans"
        raise TypeError(f"{name} must be {what}, not {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, the rows have shape {shape}: it needs one value a row")
    return array.astype(np.int64 if "i" in kinds else np.bool_, copy=False) if not array.size else array


def _group_array(groups: ArrayLike, shape: tuple[int, ...]) -> NDArray[Any]:
    array = np.asarray(groups)
    if array.dtype.kind in "fc":
        raise TypeError(f"groups must be integers or strings, not {array.dtype}")
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(f"groups has shape {array.shape}, which does not broadcast to the rows' {shape}") from None


def _check_classes(classes: Mapping[str, int], num_classes: int | None, axis: int) -> None:
    fewest = min(classes.values())
    if num_classes is None:
        if len(set(classes.values())) > 1:
            remedy = f"; if the longer one is only padded, compare the first {fewest} of both with num_classes={fewest}"
            raise ValueError(
                f"base has {classes['base']} classes along axis {axis} and other has {classes['other']}"
                + (remedy if fewest > 1 else "")
            )
    elif _integer("num_classes", num_classes) < 1:
        raise ValueError(f"num_classes must be at least 1, not {num_classes}")
    elif num_classes > fewest:
        raise ValueError(
            f"num_classes={num_classes} is more than there are: base has {classes['base']} classes along axis {axis}, "
            f"other has {classes['other']}"
        )


@overload
def _first_classes(array: NDArray[Any], axis: int, num_classes: int) -> NDArray[Any]: ...
@overload
def _first_classes(array: NDArray[Any] | Blocks, axis: int, num_classes: int) -> NDArray[Any] | Blocks: ...
def _first_classes(array: NDArray[Any] | Blocks, axis: int, num_classes: int) -> NDArray[Any] | Blocks:
    if not isinstance(array, np.ndarray):
        if axis in (-1, len(array.shape) - 1):
            return _FirstClasses(array, num_classes)
        array = _core.as_ndarray(array, "base")
    index = [slice(None)] * array.ndim
    index[axis] = slice(num_classes)
    return array[tuple(index)]


class _FirstClasses:
    """Blocks of rows without their last classes."""

    def __init__(self, blocks: Blocks, num_classes: int) -> None:
        self._blocks = blocks
        self.shape = (*blocks.shape[:-1], num_classes)
        self.dtype = blocks.dtype

    def reach(self, start: int) -> int:
        """Give the end of what lies in one array."""
        return self._blocks.reach(start)

    def block(self, start: int, stop: int) -> NDArray[Any]:
        """Give rows ``start:stop``."""
        return self._blocks.block(start, stop)[..., : self.shape[-1]]


def _rows_read(labels: NDArray[Any] | None, rows: NDArray[Any] | None, ignore_index: int) -> NDArray[np.bool_] | None:
    """Which rows are read at all; None for all of them."""
    if labels is None:
        return rows
    labelled: NDArray[np.bool_] = labels != ignore_index
    return labelled if rows is None else labelled & rows


def _refuse_probabilities(
    name: str,
    array: NDArray[Any] | Blocks,
    axis: int,
    shape: tuple[int, ...],
    read: NDArray[np.bool_] | None,
    dtype: str | None,
) -> None:
    """Raise if the first rows that are read all are distributions already."""
    classes = array.shape[axis]
    if classes < 2 or 0 in array.shape:
        return
    many = max(1, min(_SAMPLED_ROWS, _SAMPLED_VALUES // classes))
    places = np.arange(min(many, math.prod(shape))) if read is None else np.flatnonzero(read)[:many]
    if not places.size:
        return
    if isinstance(array, np.ndarray):
        # A view: small copies of single rows are taken of it, where a reshaped one might read the whole file.
        rows = np.broadcast_to(np.moveaxis(array, axis, -1), (*shape, classes))
    elif array.shape == (*shape, classes):
        # As many along the first axis as are looked at, from the first that is read on.
        inner = math.prod(shape[1:])
        first = int(places[0]) // inner
        stop = min(first + many, shape[0])
        rows, places = array.block(first, stop), places[places < stop * inner] - first * inner
        shape = (stop - first, *shape[1:])
    else:
        return
    is_brain = dtype == "bfloat16" and array.dtype == np.uint16
    # Logits nearly always show themselves in the first row.
    for part in (places[:1], places):
        sample = rows[np.unravel_index(part, shape)] if shape else rows[None]
        sample = _from_brain(sample) if is_brain else sample.astype(np.float64)
        within = max(float(np.sqrt(2.0**-7 if is_brain else _epsilon(array.dtype))), 1e-3)
        if not ((sample >= 0).all() and (np.abs(sample.sum(axis=-1) - 1) <= within).all()):
            return
    count = "row is" if places.size == 1 else f"{places.size} rows are all"
    raise ValueError(
        f'{name} holds probabilities, not logits: its first {count} >= 0 and sum to 1. Say given="probs" (the softmax '
        "of probabilities makes any two models look alike), or check=False if these really are logits"
    )


def _from_brain(bits: NDArray[np.uint16]) -> NDArray[np.float64]:
    """Widen the bits of bfloat16, which are the upper half of float32's."""
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def _epsilon(dtype: np.dtype[Any]) -> float:
    """Spacing of numbers near 1: of float16 and bfloat16, 2⁻¹⁰ and 2⁻⁷; of integers 0."""
    if dtype.kind in "biu":
        return 0.0
    return {2: 2.0**-10 if dtype.kind == "f" else 2.0**-7, 4: 2.0**-23}.get(dtype.itemsize, 2.0**-52)
