"""llama.cpp's own statistics, under its names, evaluated in double precision.

They differ from ours: the divergence leaves out what the base gives less than exp(-16), does not normalise, and so can
be negative; errors take all rows for independent; percentiles are of every row.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback import functional
from kullback._accumulate import EXACT_ROWS
from kullback._percentiles import Percentiles
from kullback.cli.checks import Space
from kullback.cli.inputs import Block

__all__ = ["LlamaStatistics", "render_llama"]

_LEAST = -16.0
"""Log-probabilities of the base from which on a term counts."""

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

    def update(self, block: Block, spaces: tuple[Space, ...], labels: NDArray[Any], scored: NDArray[np.bool_]) -> None:
        """Add the scored rows of a block.

        Parameters
        ----------
        block : Block
            Base and other.
        spaces : tuple of str
            What they hold.
        labels : ndarray of int
            The token that followed.
        scored : ndarray of bool
            Which rows count.
        """
        if not scored.any():
            return
        base, other = (_log_probs(rows[scored], space) for rows, space in zip(block.matrices, spaces, strict=True))
        at = labels[scored][:, None].astype(np.int64)
        counted = base > _LEAST
        with np.errstate(invalid="ignore"):
            kld = np.where(counted, np.exp(base) * (base - other), 0.0).sum(axis=1)
        nll_base, nll = (-np.take_along_axis(x, at, 1)[:, 0] for x in (base, other))
        delta = np.exp(-nll) - np.exp(-nll_base)
        self._count += len(kld)
        self._same += int(np.count_nonzero(base.argmax(axis=1) == other.argmax(axis=1)))
        columns = (nll, nll**2, nll_base, nll_base**2, nll * nll_base, kld, kld**2, delta, delta**2, delta**4)
        self._sums += [column.sum() for column in columns]
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
        q, p = (_exp(mean) for mean, _ in (ln_q, ln_base))
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
            "ratio": (_exp(ratio), _exp(ratio) * ratio_error),
            "difference": (q - p, _root(q_error**2 + p_error**2 - 2 * q * p * covariance)),
            "kld": {"mean": kl, **spread["kld"]},
            "delta_p": {
                "mean": (100 * mean_delta[0], 100 * mean_delta[1]),
                **spread["delta_p"],
                "rms": (100 * rms, 100 * 0.5 / rms * square[1] if rms else 0.0),
            },
            "same_top": (100 * same, 100 * _root(same * (1 - same) / max(n - 1, 1))),
        }


def _log_probs(rows: NDArray[Any], space: Space) -> NDArray[np.float64]:
    values = rows.astype(np.float64)
    if space in ("probs", "counts"):
        with np.errstate(divide="ignore"):
            logs: NDArray[np.float64] = np.log(values / values.sum(axis=1, keepdims=True))
        return logs
    if space == "log_probs":
        return values
    normalised: NDArray[np.float64] = functional.log_softmax(values, dim=-1)
    return normalised


def _with_error(mean: float, square: float, n: int) -> tuple[float, float]:
    spread = square - mean * mean
    return mean, math.sqrt(spread / (n - 1)) if spread > 0 and n > 10 else 0.0


def _root(value: float) -> float:
    return math.sqrt(max(value, 0.0))


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


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
