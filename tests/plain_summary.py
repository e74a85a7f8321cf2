"""The statistics of a comparison once more, plainly: whole columns in f64, rounded sums, loops over groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

PERCENTS = {"p0.1": 0.1, "p1": 1, "p5": 5, "p10": 10, "p50": 50, "p90": 90, "p95": 95, "p99": 99, "p99.9": 99.9}
RELATIVE = 1e-12
"""What two summaries may differ by: the rounding of this one, whose squares are rounded before they are summed."""


def mean(x: np.ndarray) -> float:
    return math.fsum(x) / len(x)


def covariance(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> float:
    """Of the means, between groups: G/(G - 1) Σ u_g v_g / n², u_g and v_g the sums of a group's deviations."""
    u, v = x - mean(x), y - mean(y)
    keys = sorted(set(groups.tolist()))
    members = [groups == key for key in keys]
    products = [math.fsum(u[one]) * math.fsum(v[one]) for one in members]
    return len(keys) / (len(keys) - 1) * math.fsum(products) / len(x) ** 2


def error(x: np.ndarray, groups: np.ndarray | None) -> float:
    if groups is None:
        return math.sqrt(math.fsum((x - mean(x)) ** 2) / (len(x) - 1) / len(x))
    return math.sqrt(covariance(x, x, groups))


def spread(x: np.ndarray) -> dict[str, float]:
    values = {name: float(np.percentile(x, percent)) for name, percent in PERCENTS.items()}
    return {"min": float(x.min()), **values, "max": float(x.max()), "rank_error": 0.0}


def plain_summary(
    columns: dict[str, np.ndarray], status: np.ndarray, groups: np.ndarray | None = None
) -> dict[str, Any]:
    """What ``Accumulator.summary`` should give, for at least two scored rows (groups) and finite values."""
    scored = status.ravel() == 0
    x = {name: values.ravel()[scored].astype(np.float64) for name, values in columns.items()}
    g = None if groups is None else groups.ravel()[scored]
    count = None if g is None else len(set(g.tolist()))
    n = int(scored.sum())
    rows = {"total": status.size, "scored": n, "ignored": int((status == 1).sum()), "invalid": int((status == 2).sum())}
    result: dict[str, Any] = {"schema": "kullback.compare/1", "units": "nats", "rows": {**rows, "kl_inf": 0}}
    for name in ("kl", "kl_reverse", "js", "tv"):
        result[name] = {"mean": mean(x[name]), "se": error(x[name], g), "groups": count, **spread(x[name])}
    for name in ("entropy_base", "entropy_other", "cross_entropy"):
        result[name] = {"mean": mean(x[name]), "se": error(x[name], g), "groups": count}
    share = mean(x["same_top"])
    binomial = math.sqrt(share * (1 - share) / n)
    off = binomial if g is None else error(x["same_top"], g)
    result["same_top"] = {"share": share, "se": off, "groups": count}
    if "nll_base" in x:
        # By the delta method an error is that of the mean of gradient times row.
        base, other = math.exp(mean(x["nll_base"])), math.exp(mean(x["nll_other"]))
        gain = x["nll_other"] - x["nll_base"]
        result["perplexity"] = {
            "base": base,
            "base_se": error(base * x["nll_base"], g),
            "other": other,
            "other_se": error(other * x["nll_other"], g),
            "ratio": math.exp(mean(gain)),
            "ratio_se": error(math.exp(mean(gain)) * gain, g),
            "difference": other - base,
            "difference_se": error(other * x["nll_other"] - base * x["nll_base"], g),
            "mean_ln_ratio": mean(gain),
            "mean_ln_ratio_se": error(gain, g),
            "correlation": float(np.corrcoef(x["nll_base"], x["nll_other"])[0, 1]),
            "groups": count,
        }
        delta = x["delta_p"]
        rms = math.sqrt(mean(delta**2))
        result["delta_p"] = {
            "mean": mean(delta),
            "se": error(delta, g),
            "groups": count,
            "rms": rms,
            "rms_se": error(delta**2, g) / (2 * rms),
            **spread(delta),
        }
    return result


def assert_same(got: Any, expected: Any, relative: float = RELATIVE, at: Sequence[str] = ()) -> None:
    """Equal keys in equal order, equal counts, and numbers equal up to a relative error."""
    if isinstance(expected, dict):
        assert list(got) == list(expected), ".".join(at)
        for key, value in expected.items():
            assert_same(got[key], value, relative, (*at, key))
    elif isinstance(expected, float):
        assert isinstance(got, float), at
        assert math.isclose(got, expected, rel_tol=relative), f"{'.'.join(at)}: {got!r}, expected {expected!r}"
    else:
        assert got == expected, ".".join(at)
