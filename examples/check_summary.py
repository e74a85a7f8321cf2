"""Every statistic of ``kullback compare``, in plain float64 numpy and without kullback.

``python examples/check_summary.py BASE OTHER [--labels FILE]`` prints what ``kullback compare BASE OTHER
[--labels FILE] --json`` prints, less its header. The formulas are those of a textbook, on whole matrices: slow, greedy
for memory, and off by about 1e-15 absolute, which is much of a divergence of 1e-10. They share nothing with what they
check.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

PERCENTILES = (0.1, 1.0, 5.0, 10.0, 50.0, 90.0, 95.0, 99.0, 99.9)


def read(path: Path) -> Floats:
    """Read a .npy file, or the only tensor of a .safetensors file, in float64."""
    if path.suffix == ".npy":
        return np.asarray(np.load(path), np.float64)
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    (tensor,) = (value for name, value in json.loads(data[8:start]).items() if name != "__metadata__")
    if tensor["dtype"] != "BF16":
        raise SystemExit(f"{path}: {tensor['dtype']} is not read here, only BF16")
    # A bfloat16 is the upper half of a float32.
    upper = np.frombuffer(data, "<u2", offset=start).astype(np.uint32) << 16
    return upper.view(np.float32).astype(np.float64).reshape(tensor["shape"])


def log_softmax(logits: Floats) -> Floats:
    """Logarithms of the probabilities of each row."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), np.float64)


def columns(base: Floats, other: Floats, labels: Ints | None) -> dict[str, NDArray[Any]]:
    """Score two matrices of logits row by row."""
    log_p, log_q = log_softmax(base), log_softmax(other)
    p, q = np.exp(log_p), np.exp(log_q)
    log_m = np.log((p + q) / 2)
    found = {
        "kl": (p * (log_p - log_q)).sum(-1),
        "kl_reverse": (q * (log_q - log_p)).sum(-1),
        "js": (p * (log_p - log_m)).sum(-1) / 2 + (q * (log_q - log_m)).sum(-1) / 2,
        "tv": np.abs(p - q).sum(-1) / 2,
        "entropy_base": -(p * log_p).sum(-1),
        "entropy_other": -(q * log_q).sum(-1),
        "cross_entropy": -(p * log_q).sum(-1),
        "same_top": base.argmax(-1) == other.argmax(-1),
    }
    if labels is not None:
        at = np.arange(len(labels)), labels
        found |= {"nll_base": -log_p[at], "nll_other": -log_q[at], "delta_p": q[at] - p[at]}
    return found


def standard_error(values: Floats, groups: Ints | None) -> float:
    """Estimate the standard error of a mean; with groups, allow for any dependence within a group."""
    rest = values - values.mean()
    if groups is not None:
        rest = np.array([rest[groups == group].sum() for group in np.unique(groups)])
    n = len(rest)
    return float(np.sqrt(n / (n - 1) * (rest**2).sum()) / len(values))


def mean(values: NDArray[Any], groups: Ints | None) -> dict[str, float | int | None]:
    """Summarise a column by its mean."""
    count = None if groups is None else len(np.unique(groups))
    return {"mean": float(values.mean()), "se": standard_error(values, groups), "groups": count}


def spread(values: Floats) -> dict[str, float]:
    """Order statistics of a column, interpolated linearly between neighbours."""
    percentiles = {f"p{percent:g}": float(np.percentile(values, percent)) for percent in PERCENTILES}
    return {"min": float(values.min()), **percentiles, "max": float(values.max()), "rank_error": 0.0}


def perplexity(nll_base: Floats, nll_other: Floats, groups: Ints | None) -> dict[str, float | int | None]:
    """Perplexities and what relates them. Errors go through the derivatives of each by the two means."""
    base, other = float(np.exp(nll_base.mean())), float(np.exp(nll_other.mean()))
    ratio = float(np.exp((nll_other - nll_base).mean()))
    return {
        "base": base,
        "base_se": standard_error(base * nll_base, groups),
        "other": other,
        "other_se": standard_error(other * nll_other, groups),
        "ratio": ratio,
        "ratio_se": standard_error(ratio * (nll_other - nll_base), groups),
        "difference": other - base,
        "difference_se": standard_error(other * nll_other - base * nll_base, groups),
        "mean_ln_ratio": float((nll_other - nll_base).mean()),
        "mean_ln_ratio_se": standard_error(nll_other - nll_base, groups),
        "correlation": float(np.corrcoef(nll_base, nll_other)[0, 1]),
        "groups": None if groups is None else len(np.unique(groups)),
    }


def statistics(found: Mapping[str, NDArray[Any]], groups: Ints | None = None) -> dict[str, Any]:
    """Summarise columns, all of whose rows are scored; groups have an entry for each row."""
    rows = len(found["kl"])
    kl_inf = int(np.isposinf(found["kl"]).sum())
    result: dict[str, Any] = {"rows": {"total": rows, "scored": rows, "ignored": 0, "invalid": 0, "kl_inf": kl_inf}}
    for name in ("kl", "kl_reverse", "js", "tv"):
        result[name] = mean(found[name], groups) | spread(found[name])
    for name in ("entropy_base", "entropy_other", "cross_entropy"):
        result[name] = mean(found[name], groups)
    same = mean(found["same_top"], groups)
    share = float(found["same_top"].mean())
    binomial = float(np.sqrt(share * (1 - share) / rows))
    result["same_top"] = {"share": share, "se": binomial if groups is None else same["se"], "groups": same["groups"]}
    if "delta_p" in found:
        result["perplexity"] = perplexity(found["nll_base"], found["nll_other"], groups)
        delta = found["delta_p"]
        rms = float(np.sqrt((delta**2).mean()))
        of_rms = {"rms": rms, "rms_se": standard_error(delta**2, groups) / (2 * rms)}
        result["delta_p"] = mean(delta, groups) | of_rms | spread(delta)
    return result


def score(base: Path, other: Path, labels: Path | None = None) -> tuple[dict[str, NDArray[Any]], Ints | None]:
    """Score two files: the columns, and the group of each row, which is its index on the first of three axes."""
    a, b = read(base), read(other)
    classes = a.shape[-1]
    groups = np.repeat(np.arange(a.shape[0]), a.shape[1]) if a.ndim == 3 else None
    y = None if labels is None else np.load(labels).reshape(-1)
    return columns(a.reshape(-1, classes), b.reshape(-1, classes), y), groups


def main() -> None:
    """Print the summary of the files named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--labels", type=Path)
    arguments = parser.parse_args()
    print(json.dumps(statistics(*score(arguments.base, arguments.other, arguments.labels)), indent=2))


if __name__ == "__main__":
    main()
