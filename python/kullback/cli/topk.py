"""``kullback compare`` of dumps of the k best tokens: what is certain of the divergence, and how much is not known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kullback
from kullback._accumulate import Accumulator
from kullback._files import FileError, Position, read_topk
from kullback.cli.fail_if import numbers

__all__ = ["Request", "compare_topk", "summary_names"]

_ROWS = 1 << 12
"""Positions scored at a time."""

_CERTAIN = 1e-6
"""Servers give log-probabilities in single precision: what a list leaves of 1 is known to about this."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for."""

    base: str
    other: str
    threads: int | None


def compare_topk(request: Request) -> dict[str, Any]:
    """Compare two dumps position by position.

    The tokens that both lists of a position have are a class each, and all others one class together, whose
    probability is what those leave of 1. The divergence of such coarse rows is at most that of the whole ones.

    Parameters
    ----------
    request : Request
        What the user asked for.

    Returns
    -------
    dict
        The JSON form.

    Raises
    ------
    FileError
        If a file is damaged, or they have different numbers of positions.
    """
    accumulator = Accumulator(("kl", "same_top"))
    tails: dict[str, list[float]] = {"base": [0.0, 0.0], "other": [0.0, 0.0]}
    common = rows = 0
    pairs = zip_longest(read_topk(request.base), read_topk(request.other))
    while block := list(islice(pairs, _ROWS)):
        for i, (base, other) in enumerate(block):
            if base is None or other is None:
                short, long = (request.base, request.other) if base is None else (request.other, request.base)
                raise FileError(f"{short}: ends after {rows + i} positions, and {long} goes on")
        numbered = [{isinstance(token, int) for pair in block for token in pair[side]} for side in (0, 1)]
        if all(numbered) and not numbered[0] & numbered[1]:
            ids, texts = (request.base, request.other) if True in numbered[0] else (request.other, request.base)
            raise FileError(f"{ids} has tokens as ids and {texts} as texts: dump both in one way")
        p, q, same, shared = _coarse(block)
        kl = kullback.kl_divergence(p, q, given="counts", threads=request.threads)
        # Where neither says anything, as of a text's first token, there is nothing to compare.
        empty = np.array([not base and not other for base, other in block])
        accumulator.update({"kl": kl, "same_top": same}, empty.astype(np.uint8))
        for name, masses in (("base", p[~empty, -1]), ("other", q[~empty, -1])):
            tails[name] = [tails[name][0] + float(masses.sum()), max(tails[name][1], float(masses.max(initial=0.0)))]
        common += shared
        rows += len(block)
    return _document(request, accumulator.summary(), tails, common)


def summary_names() -> list[str]:
    """Name every number of the summary, as ``kl_topk.mean``."""
    request = Request(base="", other="", threads=None)
    summary = Accumulator(("kl", "same_top")).summary()
    return [name for name, _ in numbers(_document(request, summary, {"base": [0, 0], "other": [0, 0]}, 0))]


def _coarse(
    block: list[tuple[Position, Position]],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_], int]:
    """Lay positions in rows: the tokens in both lists, zeros, and last the mass of all other tokens."""
    shared = [[token for token in base if token in other] for base, other in block]
    width = max(map(len, shared)) + 1
    p, q = (np.zeros((len(block), width)) for _ in range(2))
    same = np.zeros(len(block), bool)
    for i, ((base, other), tokens) in enumerate(zip(block, shared, strict=True)):
        for rows, position in ((p, base), (q, other)):
            rows[i, : len(tokens)] = [math.exp(position[token]) for token in tokens]
            rows[i, -1] = max(0.0, 1.0 - math.fsum(rows[i, : len(tokens)]))
        # Of what the rests can be, these make the divergence smallest, so that it stays a bound.
        if p[i, -1] < _CERTAIN:
            p[i, -1] = 0.0
        if q[i, -1] < _CERTAIN:
            q[i, -1] = _CERTAIN if p[i, -1] else 0.0
        same[i] = bool(base and other) and max(base, key=base.__getitem__) == max(other, key=other.__getitem__)
    return p, q, same, sum(map(len, shared))


def _document(request: Request, summary: dict[str, Any], tails: dict[str, list[float]], common: int) -> dict[str, Any]:
    rows = summary["rows"]["scored"]

    def mean(total: float) -> float:
        return total / rows if rows else math.nan

    return {
        "schema": "kullback.topk/1",
        "version": kullback.__version__,
        "units": "nats",
        "inputs": {name: {"path": getattr(request, name)} for name in ("base", "other")},
        "rows": {name: summary["rows"][name] for name in ("total", "scored", "ignored", "invalid")},
        "kl_topk": summary["kl"],
        "tail": {name: {"mean": mean(total), "max": most} for name, (total, most) in tails.items()},
        "tokens_in_both": mean(common),
        "same_top": summary["same_top"],
    }
