"""Statistics of compared rows, gathered in one pass, in any order, on any number of machines."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback import _core
from kullback._percentiles import PERCENTS, Percentiles
from kullback._sums import Groups, Moments, covariance, exact, exp, quotient, root

__all__ = ["COLUMNS", "LABELLED", "SCHEMA", "Accumulator"]

SCHEMA = "kullback.compare/1"
"""What a summary's keys mean; it changes with them."""

LABELLED = ("nll_base", "nll_other", "delta_p")
"""Columns that need the label of each row."""

COLUMNS = (
    "kl", "kl_reverse", "js", "tv", "entropy_base", "entropy_other", "cross_entropy", "same_top", *LABELLED,
)  # fmt: skip
"""Everything that is known of a pair of rows."""

EXACT_ROWS = 10**7
"""Up to so many rows percentiles are exact: 40 MB of float32 a column."""

_DIVERGENCES = ("kl", "kl_reverse", "js", "tv")
_ENTROPIES = ("entropy_base", "entropy_other", "cross_entropy")
_RANKED = (*_DIVERGENCES, "delta_p")
_SQUARED = "delta_p_squared"
"""Not a column of its own: what the root mean square of Δp and its error are made of."""

_NLL_PAIRS = (("nll_base", "nll_base"), ("nll_base", "nll_other"), ("nll_other", "nll_other"))
_SCORED, _IGNORED, _INVALID = 0, 1, 2


class Accumulator:
    r"""Summary of any number of compared rows in bounded memory (200 MB, and some 500 bytes a group).

    Sums, sums of squares and sums of products are exact: rows may come in any order and in any chunks, and
    accumulators of parts of them may be merged in any order, without a bit of the summary changing.

    Parameters
    ----------
    columns : iterable of str, optional
        Which columns to summarise; None takes those of the first `update`.
    expected_rows : int, optional
        How many rows will come, if that is known. It changes no sum; with more than 10⁷, percentiles come from a
        histogram from the start instead of keeping values until there are too many.

    Notes
    -----
    A mean over n rows has the standard error

    .. math:: \mathrm{se}^2 = \frac{G}{G-1} \frac{1}{n^2} \sum_{g=1}^{G} \Bigl(\sum_{i \in g} (x_i - \bar x)\Bigr)^2,

    where G groups of rows may be correlated within themselves and are independent of each other: the cluster-robust
    (sandwich) variance of a mean with the small-sample factor of CR1 [1]_. Without groups each row is a group of its
    own, which makes it the usual s²/n. The error of a share of rows without groups is the binomial one,
    p(1 − p)/n. Errors of perplexities, their ratio and difference and of the root mean square follow by the delta
    method. An error is NaN where it is undefined: fewer than two rows (groups), or a value that is infinite.

    A row whose value is infinite counts: the mean of its column is then infinite, and the percentiles, for which
    +inf is the largest value, show how much of the column is. ``rows["kl_inf"]`` counts such rows for ``kl``.

    Percentiles interpolate linearly between order statistics. They are exact up to 10⁷ scored rows (``rank_error`` 0)
    and beyond that come from a histogram with bins 2.4e-4 wide relative to the value; ``rank_error`` then bounds how
    far the rank of a reported value can be from the one it stands for, as a share of the rows.

    References
    ----------
    .. [1] A. C. Cameron and D. L. Miller, "A practitioner's guide to cluster-robust inference", Journal of Human
       Resources 50 (2015), 317-372, section II.

    Examples
    --------
    >>> import numpy as np
    >>> import kullback as kb
    >>> first, second = kb.Accumulator(), kb.Accumulator()
    >>> first.update({"kl": np.array([0.25, 0.5])}, np.array([0, 0]))
    >>> second.update({"kl": np.array([0.75, np.nan])}, np.array([0, 1]))
    >>> summary = first.merge(second).summary()
    >>> summary["rows"]
    {'total': 4, 'scored': 3, 'ignored': 1, 'invalid': 0, 'kl_inf': 0}
    >>> summary["kl"]["mean"], summary["kl"]["p50"]
    (0.5, 0.5)
    """

    def __init__(
        self,
        columns: Iterable[str] | None = None,
        *,
        expected_rows: int | None = None,
        _exact_rows: int = EXACT_ROWS,
    ) -> None:
        if expected_rows is not None and expected_rows < 0:
            raise ValueError(f"expected_rows must be None or an int >= 0, got {expected_rows}")
        self._exact_rows = _exact_rows
        self._binned = expected_rows is not None and expected_rows > _exact_rows
        self._total = 0
        self._scored = 0
        self._ignored = 0
        self._infinite = 0
        self._moments: dict[str, Moments] = {}
        self._percentiles: dict[str, Percentiles] = {}
        self._products: _core.ExactSum | None = None
        self._groups: Groups | None = None
        self._columns: tuple[str, ...] | None = None
        if columns is not None:
            self._choose(columns)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns summarised, in their usual order; empty until they are known."""
        return self._columns or ()

    def __repr__(self) -> str:
        return f"<kullback.Accumulator of {self._total} rows: {', '.join(self.columns) or 'no columns yet'}>"

    def update(self, columns: Mapping[str, ArrayLike], status: ArrayLike, groups: ArrayLike | None = None) -> None:
        """Add rows.

        Parameters
        ----------
        columns : mapping of str to array
            Values of each column, float32 or float64 (``same_top`` boolean), all of one shape. Others than those
            summarised are left alone.
        status : array of int
            Of each row: 0 scored, 1 ignored, 2 invalid. Only scored rows are read.
        groups : array, optional
            The group (sequence, document) of each row: integers or strings. Equal values are the same group, in every
            update and every accumulator. Given always or never.

        Raises
        ------
        ValueError
            If a column is missing, shapes differ, a status is unknown, a scored value is NaN, or groups are given
            to some updates and not to others.
        TypeError
            If a column or the groups have the wrong type.
        """
        names = self._columns or tuple(name for name in COLUMNS if name in columns)
        status = np.asarray(status)
        scored, ignored = _count_status(status)
        chosen = None if scored == status.size else status.reshape(-1) == _SCORED
        arrays = {name: _scored_values(name, columns, status.shape, chosen) for name in names}
        ids = None if groups is None else _scored_groups(groups, status.shape, chosen)
        if self._columns is None:
            self._choose(names)
        self._agree_on_groups(status.size, ids is not None)

        self._total += status.size
        self._scored += scored
        self._ignored += ignored
        if not scored:
            return
        if "kl" in arrays:
            self._infinite += int(np.count_nonzero(arrays["kl"] == np.inf))
        if "delta_p" in arrays:
            # The square of a float32 is exact in float64.
            arrays[_SQUARED] = np.square(arrays["delta_p"], dtype=np.float64)
        for name, moments in self._moments.items():
            moments.add(arrays[name])
        for name, percentiles in self._percentiles.items():
            percentiles.add(arrays[name])
        if self._products is not None:
            self._products.add_product(*_of_one_dtype(arrays["nll_base"], arrays["nll_other"]))
        if self._groups is not None and ids is not None:
            self._groups.add(arrays, ids)

    def merge(self, other: Accumulator) -> Accumulator:
        """Add the rows of another accumulator to this one.

        Parameters
        ----------
        other : Accumulator
            Of the same columns, and with groups if this one has them. It is left as it is.

        Returns
        -------
        Accumulator
            This one.

        Raises
        ------
        ValueError
            If the columns differ, or only one of the two has groups.
        """
        if other is self:
            raise ValueError("other is this very accumulator; merge a copy of it (copy.deepcopy) to count rows twice")
        if other._columns is None:
            return self
        if self._columns is None:
            self._choose(other._columns)
        if self._columns != other._columns:
            raise ValueError(
                f"accumulators of different columns cannot be merged: this one has {', '.join(self.columns)}; "
                f"the other has {', '.join(other.columns)}"
            )
        self._agree_on_groups(other._total, other._groups is not None)
        self._total += other._total
        self._scored += other._scored
        self._ignored += other._ignored
        self._infinite += other._infinite
        for name, moments in self._moments.items():
            moments.merge(other._moments[name])
        for name, percentiles in self._percentiles.items():
            percentiles.merge(other._percentiles[name])
        if self._products is not None and other._products is not None:
            self._products.merge(other._products)
        if self._groups is not None and other._groups is not None:
            self._groups.merge(other._groups)
        return self

    def summary(self) -> dict[str, Any]:
        """Give the statistics of all rows so far.

        Returns
        -------
        dict
            Nested, of plain numbers, as the JSON of ``kullback compare`` has them: ``schema``, ``units`` (nats),
            ``rows`` (``total``, ``scored``, ``ignored``, ``invalid``, ``kl_inf``), then what the columns allow.
            ``kl``, ``kl_reverse``, ``js``, ``tv``: ``mean``, ``se``, ``groups`` (how many; None without), ``min``,
            ``p0.1``, ``p1``, ``p5``, ``p10``, ``p50``, ``p90``, ``p95``, ``p99``, ``p99.9``, ``max``, ``rank_error``.
            ``entropy_base``, ``entropy_other``, ``cross_entropy``: ``mean``, ``se``, ``groups``.
            ``same_top``: ``share``, ``se``, ``groups``. ``perplexity``: ``base``, ``other``, ``ratio`` (other over
            base), ``difference`` (other minus base) and ``mean_ln_ratio``, each also with ``_se``, then
            ``correlation`` (of ln p of the label under the two models) and ``groups``. ``delta_p``: as ``kl``, with
            ``rms`` and ``rms_se``. Undefined numbers are NaN.
        """
        groups = None if self._groups is None else len(self._groups)
        rows: dict[str, int | None] = {
            "total": self._total,
            "scored": self._scored,
            "ignored": self._ignored,
            "invalid": self._total - self._scored - self._ignored,
            "kl_inf": self._infinite if "kl" in self.columns else None,
        }
        result: dict[str, Any] = {"schema": SCHEMA, "units": "nats", "rows": rows}
        for name in (*_DIVERGENCES, *_ENTROPIES):
            if name in self._moments:
                result[name] = {"mean": self._mean(name), "se": self._error(name), "groups": groups}
                if name in self._percentiles:
                    result[name] |= self._spread(name)
        if "same_top" in self.columns:
            result["same_top"] = {"share": self._mean("same_top"), "se": self._share_error(), "groups": groups}
        if self._products is not None:
            result["perplexity"] = {**self._perplexity(), "groups": groups}
        if "delta_p" in self._moments:
            rms = math.sqrt(self._mean(_SQUARED))
            of_square = self._error(_SQUARED)
            result["delta_p"] = {
                "mean": self._mean("delta_p"),
                "se": self._error("delta_p"),
                "groups": groups,
                "rms": rms,
                # Where every Δp is 0 so is the error of their squares.
                "rms_se": of_square / (2 * rms) if rms else of_square,
                **self._spread("delta_p"),
            }
        return result

    def _choose(self, columns: Iterable[str]) -> None:
        wanted = list(columns)
        unknown = [name for name in wanted if name not in COLUMNS]
        if unknown:
            raise ValueError(f"unknown column {unknown[0]!r}; the columns are {', '.join(COLUMNS)}")
        self._columns = tuple(name for name in COLUMNS if name in wanted)
        summed = [*self._columns, _SQUARED] if "delta_p" in self._columns else self._columns
        self._moments = {name: Moments() for name in summed}
        self._percentiles = {
            name: Percentiles(self._exact_rows, binned=self._binned) for name in _RANKED if name in summed
        }
        if "nll_base" in summed and "nll_other" in summed:
            self._products = _core.ExactSum()

    def _agree_on_groups(self, rows: int, given: bool) -> None:
        """Take groups with the first rows or never."""
        if self._total == 0:
            self._groups = Groups(self._moments) if given else None
        elif rows and given != (self._groups is not None):
            before, now = ("no groups", "groups") if given else ("groups", "none")
            raise ValueError(
                f"groups must be given for all rows or for none: the rows so far have {before}, these {now}"
            )

    def _mean(self, name: str) -> float:
        total = self._moments[name].total
        value = exact(total)
        return total.value() if value is None else quotient(value, self._scored)

    def _covariance(self, a: str, b: str) -> Fraction | None:
        """Estimate the covariance of two columns' means (of one: its variance); None where undefined."""
        if self._groups is not None:
            return self._groups.covariance(a, b)
        return self._covariance_of_rows(a, b)

    def _covariance_of_rows(self, a: str, b: str) -> Fraction | None:
        products = self._moments[a].squares if a == b else self._products
        if products is None:
            return None
        return covariance(self._scored, self._moments[a].total, self._moments[b].total, products)

    def _error(self, name: str) -> float:
        return _error(self._covariance(name, name))

    def _spread(self, name: str) -> dict[str, float]:
        moments = self._moments[name]
        values, rank_error = self._percentiles[name].at(PERCENTS)
        low, high = (moments.low, moments.high) if self._scored else (math.nan, math.nan)
        # A histogram knows values only to the width of a bin, which may reach beyond the extremes.
        percents = {
            f"p{percent:g}": value for percent, value in zip(PERCENTS, values.clip(low, high).tolist(), strict=True)
        }
        return {"min": low, **percents, "max": high, "rank_error": rank_error}

    def _share_error(self) -> float:
        """Of the share of rows with the same top: the binomial one, or between groups."""
        if self._groups is not None:
            return self._error("same_top")
        total = exact(self._moments["same_top"].total)
        return _error(total * (self._scored - total) / self._scored**3 if total is not None and self._scored else None)

    def _perplexity(self) -> dict[str, float]:
        ln_base, ln_other = self._mean("nll_base"), self._mean("nll_other")
        base_sum, other_sum = exact(self._moments["nll_base"].total), exact(self._moments["nll_other"].total)
        if base_sum is None or other_sum is None:
            ln_ratio = ln_other - ln_base
        else:
            ln_ratio = quotient(other_sum - base_sum, self._scored)
        base, other, ratio = exp(ln_base), exp(ln_other), exp(ln_ratio)
        variances = [self._covariance(*pair) for pair in _NLL_PAIRS]

        def error(weight_base: float, weight_other: float) -> float:
            """Of a weighted sum of the two means."""
            if not math.isfinite(weight_base) or not math.isfinite(weight_other):
                return math.nan
            b, o = Fraction(weight_base), Fraction(weight_other)
            total = Fraction(0)
            for weight, variance in zip((b * b, 2 * b * o, o * o), variances, strict=True):
                if weight and variance is None:
                    return math.nan
                total += weight * (variance or 0)
            return root(total)

        return {
            "base": base,
            "base_se": error(base, 0.0),
            "other": other,
            "other_se": error(0.0, other),
            "ratio": ratio,
            "ratio_se": error(-ratio, ratio),
            "difference": other - base,
            "difference_se": error(-base, other),
            "mean_ln_ratio": ln_ratio,
            "mean_ln_ratio_se": error(-1.0, 1.0),
            "correlation": self._correlation(),
        }

    def _correlation(self) -> float:
        """Of ln p of the label under the two models, row by row."""
        of_base, of_both, of_other = (self._covariance_of_rows(*pair) for pair in _NLL_PAIRS)
        if not of_base or not of_other or of_both is None:
            return math.nan
        return math.copysign(root(of_both * of_both / (of_base * of_other)), of_both)


def _error(variance: Fraction | None) -> float:
    return math.nan if variance is None else root(variance)


def _count_status(status: NDArray[Any]) -> tuple[int, int]:
    """How many rows are scored and how many ignored."""
    if status.dtype.kind not in "iu":
        raise TypeError(f"status must be integers (0 scored, 1 ignored, 2 invalid), not {status.dtype}")
    scored = status.size - int(np.count_nonzero(status))
    ignored, invalid = (int(np.count_nonzero(status == code)) for code in (_IGNORED, _INVALID))
    if scored + ignored + invalid < status.size:
        at = int(np.flatnonzero((status < _SCORED) | (status > _INVALID))[0])
        raise ValueError(f"status of row {at} is {status.flat[at]}; known are 0 scored, 1 ignored, 2 invalid")
    return scored, ignored


def _scored_values(
    name: str, columns: Mapping[str, ArrayLike], shape: tuple[int, ...], chosen: NDArray[np.bool_] | None
) -> NDArray[Any]:
    """Take a column's scored rows as one contiguous array of float32 or float64."""
    if name not in columns:
        raise ValueError(f"column {name!r} is missing; there are {', '.join(columns) or 'none'}")
    values = np.asarray(columns[name])
    if values.shape != shape:
        raise ValueError(f"column {name!r} has shape {values.shape}, status has shape {shape}")
    if values.dtype.kind != ("b" if name == "same_top" else "f") or values.dtype.itemsize > 8:
        wanted = "booleans" if name == "same_top" else "float32 or float64"
        raise TypeError(f"column {name!r} must be {wanted}, not {values.dtype}")
    values = values.reshape(-1)
    if chosen is not None:
        values = values[chosen]
    values = np.require(values, np.float64 if values.dtype.itemsize == 8 else np.float32, ["C", "A"])
    # The minimum of values that hold a NaN is NaN.
    if values.size and np.isnan(values.min()):
        at = np.flatnonzero(np.isnan(values))[0]
        row = at if chosen is None else np.flatnonzero(chosen)[at]
        raise ValueError(
            f"column {name!r} is NaN in row {row}, whose status is 0 (scored); "
            "a row without values has status 1 (ignored) or 2 (invalid)"
        )
    return values


def _scored_groups(groups: ArrayLike, shape: tuple[int, ...], chosen: NDArray[np.bool_] | None) -> NDArray[Any]:
    ids = np.asarray(groups)
    if ids.shape != shape:
        raise ValueError(f"groups has shape {ids.shape}, status has shape {shape}")
    if ids.dtype.kind in "fc":
        raise TypeError(f"groups must be integers or strings, not {ids.dtype}")
    ids = ids.reshape(-1)
    return ids if chosen is None else ids[chosen]


def _of_one_dtype(a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    dtype = np.result_type(a, b)
    return a.astype(dtype, copy=False), b.astype(dtype, copy=False)
