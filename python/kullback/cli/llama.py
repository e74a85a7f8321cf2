"""llama.cpp's own statistics, under its names, evaluated in double precision.

They differ from ours: the divergence leaves out what the base gives less than exp(-16), does not normalise, and so can
be negative; errors take all rows for independent; percentiles are of every row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback import _core, functional
from kullback._accumulate import EXACT_ROWS
from kullback._files import Codes
from kullback._percentiles import Percentiles
from kullback._sums import exp
from kullback.cli.checks import Space
from kullback.cli.inputs import Block

__all__ = ["LLAMA_COLUMNS", "LlamaStatistics", "llama_columns", "render_llama"]

LLAMA_COLUMNS = dict.fromkeys(("llama_kld", "llama_nll_base", "llama_nll_other"), np.dtype(np.float64))
"""What llama.cpp's figures are made of, row by row."""

_KL_PERCENTS = (99.9, 99.0, 95.0, 90.0, 50.0, 10.0, 5.0, 1.0, 0.1)
_P_PERCENTS = (99.9, 99.0, 95.0, 90.0, 75.0, 50.0, 25.0, 10.0, 5.0, 1.0, 0.1)


class LlamaStatistics:
    """Sums over rows from which llama.cpp's figures are made.

    Parameters
    ----------
    rows : int
        How many rows will come: with more than 10⁷, percentiles come from a histogram.
    """

    def __init__(self, rows: int) -> None:
        self._count = 0
        self._same = 0
        self._sums = np.zeros(10)
        self._ends = {"kld": (math.inf, -math.inf), "delta_p": (math.inf, -math.inf)}
        self._percentiles = {name: Percentiles(EXACT_ROWS, binned=rows > EXACT_ROWS) for name in self._ends}

    def update(self, columns: Mapping[str, NDArray[Any]], scored: NDArray[np.bool_]) -> None:
        """Add the scored rows of a block.

        Parameters
        ----------
        columns : mapping of str to ndarray
            ``same_top`` and what `llama_columns` gives.
        scored : ndarray of bool
            Which rows count.
        """
        if not scored.any():
            return
        kld, nll_base, nll = (columns[name][scored] for name in LLAMA_COLUMNS)
        delta = np.exp(-nll) - np.exp(-nll_base)
        self._count += len(kld)
        self._same += int(np.count_nonzero(columns["same_top"][scored]))
        sums = (nll, nll**2, nll_base, nll_base**2, nll * nll_base, kld, kld**2, delta, delta**2, delta**4)
        self._sums += [column.sum() for column in sums]
        for name, values in (("kld", kld), ("delta_p", delta)):
            low, high = self._ends[name]
            self._ends[name] = min(low, float(values.min())), max(high, float(values.max()))
            self._percentiles[name].add(values)

    def summary(self) -> dict[str, Any]:
        """Give every figure, Δp in per cent."""
        n = max(self._count, 1)
        nll, nll2, base, base2, both, kld, kld2, delta, delta2, delta4 = (self._sums / n).tolist()
        ln_q, ln_base, kl = (_with_error(*pair, n) for pair in ((nll, nll2), (base, base2), (kld, kld2)))
        mean_delta, square = _with_error(delta, delta2, n), _with_error(delta2, delta4, n)
        covariance = (both - nll * base) / (n - 1) if n >= 10 else 0.0
        ratio = ln_q[0] - ln_base[0]
        ratio_error = _root(ln_q[1] ** 2 + ln_base[1] ** 2 - 2 * covariance)
        q, p = (exp(mean) for mean, _ in (ln_q, ln_base))
        q_error, p_error = q * ln_q[1], p * ln_base[1]
        rms = math.sqrt(max(delta2, 0.0))
        same = self._same / n
        spread = {}
        for name, percents, unit in (("kld", _KL_PERCENTS, 1.0), ("delta_p", _P_PERCENTS, 100.0)):
            low, high = self._ends[name]
            values = self._percentiles[name].at(percents)[0].tolist() if self._count else [math.nan] * len(percents)
            inner = {f"p{percent:g}": unit * value for percent, value in zip(percents, values, strict=True)}
            spread[name] = {"max": unit * high, **inner, "min": unit * low}
        denominator = ln_q[1] * ln_base[1]
        return {
            "count": self._count,
            "ppl": (q, q_error),
            "ppl_base": (p, p_error),
            "correlation": 100 * covariance / denominator if denominator else math.nan,
            "ln_ratio": (ratio, ratio_error),
            "ratio": (exp(ratio), exp(ratio) * ratio_error),
            "difference": (q - p, _root(q_error**2 + p_error**2 - 2 * q * p * covariance)),
            "kld": {"mean": kl, **spread["kld"]},
            "delta_p": {
                "mean": (100 * mean_delta[0], 100 * mean_delta[1]),
                **spread["delta_p"],
                "rms": (100 * rms, 100 * 0.5 / rms * square[1] if rms else 0.0),
            },
            "same_top": (100 * same, 100 * _root(same * (1 - same) / max(n - 1, 1))),
        }


def llama_columns(
    block: Block,
    spaces: Sequence[Space],
    labels: NDArray[Any],
    scored: NDArray[np.bool_],
    temperature: float,
    threads: int | None,
) -> dict[str, NDArray[np.float64]]:
    """Evaluate llama.cpp's divergence and -ln p of the labels, in double precision.

    Parameters
    ----------
    block : Block
        Base and other.
    spaces : sequence of str
        What they hold.
    labels : ndarray of int
        The token that followed.
    scored : ndarray of bool
        Which rows count; the others are NaN.
    temperature : float
        What logits are divided by.
    threads : int or None
        How many threads to use.

    Returns
    -------
    dict of str to ndarray
        The columns of `LLAMA_COLUMNS`.
    """
    rows = np.flatnonzero(scored)
    at = labels[rows].astype(np.int64)
    matrices: list[NDArray[Any]] = []
    shifts: list[NDArray[np.float64]] = []
    likelihoods: list[NDArray[np.float64]] = []
    classes = 0
    for held, space in zip(block.held, spaces, strict=True):
        if isinstance(held, Codes):
            matrices.append(held.packed)
            shifts.append(np.zeros(block.rows))
            likelihoods.append(-held.at(rows, at).astype(np.float64))
            classes = held.classes
        else:
            logs, shift = _logarithms(held, space, temperature)
            matrices.append(logs)
            shifts.append(shift)
            likelihoods.append(shift[rows] - logs[rows, at])
            classes = logs.shape[1]
    kld = _core.clipped_divergence(matrices[0], matrices[1], shifts[0], shifts[1], classes, threads)
    found = {name: np.full(block.rows, np.nan) for name in LLAMA_COLUMNS}
    for name, values in zip(LLAMA_COLUMNS, (kld[rows], *likelihoods), strict=True):
        found[name][rows] = values
    return found


def _logarithms(
    rows: NDArray[Any], space: Space, temperature: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give logarithms of masses, and what to subtract of each row."""
    values = rows.astype(np.float64)
    nothing = np.zeros(len(values))
    if space in ("probs", "counts"):
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(values / values.sum(axis=1, keepdims=True)), nothing
    if space == "log_probs":
        return values, nothing
    values /= temperature
    return values, functional.logsumexp(values, dim=-1)


def _with_error(mean: float, square: float, n: int) -> tuple[float, float]:
    spread = square - mean * mean
    return mean, math.sqrt(spread / (n - 1)) if spread > 0 and n > 10 else 0.0


def _root(value: float) -> float:
    return math.sqrt(max(value, 0.0))


def render_llama(figures: dict[str, Any], kl: dict[str, Any]) -> str:
    """Lay the figures out as llama.cpp prints them, our divergence beside its own.

    Parameters
    ----------
    figures : dict
        What `LlamaStatistics.summary` gives.
    kl : dict
        The ``kl`` of the comparison's summary.

    Returns
    -------
    str
        Lines, the last without a newline.
    """
    kld, delta = figures["kld"], figures["delta_p"]
    lines = ["====== Perplexity statistics ======"]
    for key, name in _PERPLEXITIES.items():
        value = figures[key]
        words = f"{value:6.2f}%" if key == "correlation" else f"{value[0]:10.6f} ± {value[1]:10.6f}"
        lines.append(f"{name:30}: {words}")
    lines += ["", "====== KL divergence statistics ======"]
    lines.append(f"{'Mean':8}KLD: {kld['mean'][0]:10.6f} ± {kld['mean'][1]:10.6f}")
    lines += [f"{_head(key):8}KLD: {kld[key]:10.6f}" for key in kld if key != "mean"]
    lines.append(f"{'kullback KL':11}: {kl['mean']:10.6f} ± {kl['se']:10.6f}")
    lines += ["", "====== Token probability statistics ======"]
    lines.append(f"{'Mean':8}Δp: {delta['mean'][0]:6.3f} ± {delta['mean'][1]:5.3f} %")
    lines += [f"{_head(key):8}Δp: {delta[key]:6.3f}%" for key in delta if key not in ("mean", "rms")]
    lines.append(f"RMS Δp    : {delta['rms'][0]:6.3f} ± {delta['rms'][1]:5.3f} %")
    lines.append(f"Same top p: {figures['same_top'][0]:6.3f} ± {figures['same_top'][1]:5.3f} %")
    return "\n".join(lines)


_PERPLEXITIES = {
    "ppl": "Mean PPL(Q)",
    "ppl_base": "Mean PPL(base)",
    "correlation": "Cor(ln(PPL(Q)), ln(PPL(base)))",
    "ln_ratio": "Mean ln(PPL(Q)/PPL(base))",
    "ratio": "Mean PPL(Q)/PPL(base)",
    "difference": "Mean PPL(Q)-PPL(base)",
}


def _head(key: str) -> str:
    return {"max": "Maximum", "min": "Minimum", "p50": "Median"}.get(key) or f"{float(key[1:]):4.1f}%"
