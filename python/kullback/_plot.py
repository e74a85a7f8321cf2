"""The picture of a comparison: how KL is distributed over the rows, and how the label's probability moved.

Rows are counted block by block in bins fixed beforehand, so the picture costs the same memory for a thousand rows and
for a billion. matplotlib is imported only to draw.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["BLUE", "Histograms", "dress", "inline_picture"]

_LOWEST, _HIGHEST = -18, 5
"""Decades of KL with bins of their own: from below what f64 resolves to beyond any gap of f16 logits (65 504)."""

_PER_DECADE = 120
"""Bins of a decade, 1.9 % wide each; drawn bars span a whole number of them."""

_STEPS = 1 << 18
"""Bins of Δp over [-1, 1]: 7.6e-6 wide, so that a spread of ±0.1 % still fills over two hundred."""

_BARS = 80
"""Bars across a panel of many rows; fewer of few rows (see `_bars`)."""

_INK, _QUIET, _RULE = "#1f2933", "#616e7c", "#cbd2d9"
BLUE, _RED, _GREEN = "#4477aa", "#c2553f", "#3f8f6b"

_Marks = Sequence[tuple[str, float]]


class Histograms:
    """Counts of KL on a logarithmic scale and of Δp on a linear one, in a fixed number of bins.

    Attributes
    ----------
    zero, infinite : int
        Rows whose KL is exactly 0, and +inf: a logarithmic axis has no place for them.

    Examples
    --------
    >>> import numpy as np
    >>> from kullback._plot import Histograms
    >>> seen = Histograms()
    >>> seen.update({"kl": np.array([0.0, 1e-3, 2e-3, np.inf, np.nan])})
    >>> seen.rows, seen.zero, seen.infinite
    (4, 1, 1)
    """

    def __init__(self) -> None:
        self._kl = np.zeros((_HIGHEST - _LOWEST) * _PER_DECADE, np.int64)
        self._delta = np.zeros(_STEPS, np.int64)
        self.zero = 0
        self.infinite = 0

    @property
    def rows(self) -> int:
        """Rows counted: those whose KL is not NaN."""
        return int(self._kl.sum()) + self.zero + self.infinite

    def update(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Count the rows of one block.

        Parameters
        ----------
        columns : mapping of str to ndarray
            ``kl`` and, if there are labels, ``delta_p``. NaN is left out.
        """
        kl = columns["kl"]
        self.zero += int(np.count_nonzero(kl == 0))
        self.infinite += int(np.count_nonzero(kl == np.inf))
        inside = kl[(kl > 0) & (kl < np.inf)]
        self._kl += _counted((np.log10(inside) - _LOWEST) * _PER_DECADE, self._kl.size)
        if "delta_p" in columns:
            delta = columns["delta_p"]
            self._delta += _counted((delta[np.isfinite(delta)] + 1.0) * (_STEPS / 2), _STEPS)

    def draw(self, file: IO[bytes], summary: Mapping[str, Any], *, title: str, kind: str = "png") -> None:
        """Draw what was counted.

        Parameters
        ----------
        file : binary file
            Where the picture goes.
        summary : mapping
            The comparison's summary in its JSON form: means and percentiles are taken from there, the bins know them
            only roughly.
        title : str
            What was compared.
        kind : str
            A format of matplotlib: ``"png"``, ``"svg"``, ``"pdf"``.
        """
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        labelled = bool(self._delta.any()) and summary.get("delta_p") is not None
        layout = ConstrainedLayoutEngine(h_pad=0.1, hspace=0.06)
        figure = Figure(figsize=(8.0, 6.6 if labelled else 3.9), dpi=150, layout=layout, facecolor="white")
        figure.suptitle(title, x=0.012, ha="left", fontsize=11, color=_INK)
        panels = figure.subplots(2 if labelled else 1, 1, squeeze=False)[:, 0]
        self._draw_kl(panels[0], summary["kl"])
        if labelled:
            self._draw_delta(panels[1], summary["delta_p"])
        figure.savefig(file, format=kind)

    def _draw_kl(self, axes: Axes, summary: Mapping[str, Any]) -> None:
        dress(axes, "KL(base‖other) of each row", "nats, log scale", "rows")
        filled = np.flatnonzero(self._kl)
        if not filled.size:
            axes.set(xticks=[], yticks=[])
            words = "every row's KL is exactly 0" if self.zero else "no row has a finite KL"
            axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color=_QUIET)
            return
        width = max(1, round((filled[-1] - filled[0] + 1) / _bars(int(self._kl.sum()))))
        first, bars = filled[0], -(-(filled[-1] - filled[0] + 1) // width)
        counts = _between(self._kl, first + width * np.arange(bars + 1))
        edges = 10.0 ** (_LOWEST + (first + width * np.arange(bars + 1)) / _PER_DECADE)
        axes.set_xscale("log")
        axes.stairs(counts, edges, fill=True, color=BLUE)
        axes.set(xlim=(edges[0], edges[-1]), ylim=(0, counts.max() * 1.5))
        axes.yaxis.set_major_formatter(lambda rows, _: f"{rows:,.0f}".replace(",", " ") if rows == int(rows) else "")
        percentiles = [("median", "p50"), ("90 %", "p90"), ("95", "p95"), ("99", "p99"), ("99.9", "p99.9")]
        _mark(axes, [(words, _number(summary, key)) for words, key in percentiles], 0.99, ":")
        _mark(axes, [("mean", _number(summary, "mean"))], 0.83, "-")
        left_out = [(self.zero, "at exactly 0"), (self.infinite, "at infinity")]
        _note(axes, [f"{_grouped(rows)} {where}" for rows, where in left_out if rows])

    def _draw_delta(self, axes: Axes, summary: Mapping[str, Any]) -> None:
        dress(axes, "Δp = p_other(label) − p_base(label) of each row", "percentage points", "rows, log scale")
        ends = [abs(_number(summary, key)) for key in ("p0.1", "p99.9")]
        reach = max((end for end in ends if math.isfinite(end)), default=1.0)
        half = min(max(math.ceil(1.1 * reach * _STEPS / 2), _BARS // 2), _STEPS // 2)
        width = max(1, round(2 * half / _bars(int(self._delta.sum()))))
        sides = -(-half // width)
        steps = np.arange(-sides, sides + 1) * width
        counts = _between(self._delta, np.clip(steps + _STEPS // 2, 0, _STEPS))
        edges = steps * (100.0 * 2 / _STEPS)
        axes.set_yscale("log")
        for side, colour in ((slice(None, sides), _RED), (slice(sides, None), _GREEN)):
            ends_of_side = edges[: sides + 1] if side.start is None else edges[sides:]
            axes.stairs(counts[side], ends_of_side, fill=True, color=colour, baseline=0.5)
        axes.set(xlim=(edges[0], edges[-1]), ylim=(0.5, 2.0 * float(counts.max()) ** 1.4))
        percentiles = [("1 %", "p1"), ("5", "p5"), ("median", "p50"), ("95", "p95"), ("99", "p99")]
        _mark(axes, [(words, 100 * _number(summary, key)) for words, key in percentiles], 0.99, ":")
        _mark(axes, [("mean", 100 * _number(summary, "mean"))], 0.83, "-")
        beyond = int(self._delta.sum() - counts.sum())
        _note(axes, [f"{_grouped(beyond)} further out"] if beyond else [])


def inline_picture(columns: Mapping[str, NDArray[Any]], summary: Mapping[str, Any]) -> str | None:
    """Draw a comparison as an element of HTML.

    Parameters
    ----------
    columns : mapping of str to ndarray
        ``kl`` and, if there are labels, ``delta_p``, of shape (rows,).
    summary : mapping
        The comparison's summary.

    Returns
    -------
    str or None
        An ``img`` that holds its picture; None without matplotlib.
    """
    if find_spec("matplotlib") is None:
        return None
    seen = Histograms()
    seen.update(columns)
    file = io.BytesIO()
    seen.draw(file, summary, title="")
    picture = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="How KL is distributed over the rows" width="600" src="data:image/png;base64,{picture}">'


def _counted(place: NDArray[Any], bins: int) -> NDArray[np.int64]:
    """Count positions measured in bins; what lies beyond an end counts there."""
    return np.bincount(np.clip(place, 0, bins - 1).astype(np.int64), minlength=bins)


def _bars(rows: int) -> int:
    """How many bars `rows` rows fill: Rice's rule (2 ∛n) doubled, since a log axis spreads the tail thin."""
    return min(_BARS, max(10, round(4 * math.cbrt(rows))))


def _between(counts: NDArray[np.int64], edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sum the counts between one edge and the next."""
    total = np.concatenate([[0], np.cumsum(counts)])
    return np.diff(total[np.minimum(edges, counts.size)])


def _number(summary: Mapping[str, Any], key: str) -> float:
    value = summary.get(key)
    return math.nan if value is None else float(value)


def _grouped(rows: int) -> str:
    return f"{rows:,} row{'s' * (rows != 1)}".replace(",", " ")


def dress(axes: Axes, title: str, along: str, up: str) -> None:
    """Write the title and what the axes are, in the manner of all pictures.

    Parameters
    ----------
    axes : Axes
        matplotlib's axes.
    title, along, up : str
        What is above the picture, below it and beside it.
    """
    axes.set_title(title, loc="left", fontsize=10, color=_INK)
    axes.set_xlabel(along, fontsize=9, color=_QUIET)
    axes.set_ylabel(up, fontsize=9, color=_QUIET)
    axes.tick_params(labelsize=8.5, colors=_QUIET, which="both", width=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_RULE)


def _mark(axes: Axes, marks: _Marks, height: float, style: str) -> None:
    """Draw a line at each value that lies inside the panel, its name beside the line's top.

    Names that would run into the one before them go a line lower.
    """
    low, high = axes.get_xlim()
    logarithmic = axes.get_xscale() == "log"
    placed = [-1.0, -1.0, -1.0]
    for words, value in marks:
        if not low <= value <= high:
            continue
        part = math.log(value / low) / math.log(high / low) if logarithmic else (value - low) / (high - low)
        width = 0.0135 * len(words) + 0.012
        level = next((i for i, end in enumerate(placed) if part >= end), len(placed) - 1)
        placed[level] = part + width
        top = height - 0.08 * level
        axes.axvline(value, ymax=top, color=_INK, linewidth=0.9, linestyle=style)
        axes.annotate(
            words,
            (value, top),
            xycoords=("data", "axes fraction"),
            xytext=(3, 0),
            textcoords="offset points",
            va="top",
            fontsize=8,
            color=_INK,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6},
        )


def _note(axes: Axes, parts: Sequence[str]) -> None:
    """Say at the upper right what the panel does not show."""
    if parts:
        axes.set_title("not drawn: " + ", ".join(parts), loc="right", fontsize=8, color=_QUIET)
