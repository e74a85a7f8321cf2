"""Hold the divergences to Gibbs' inequality on many random pairs, down to one ulp apart.

Every pair is checked for KL(p || q) >= 0, KL(q || p) >= 0, 0 <= JS(p, q) <= ln 2 and NaN, every eighth chunk of them
also for KL(p, p) = 0.0, JS(p, q) = JS(q, p) and H(p, p) = H(p), the last two bit for bit. A sample of every kind of
pair is compared with an extended-precision reference within the bounds of docs/numerics.md. A final max(0, .) can hide
a negative sum but not its error: where the reference is above the bound's floor, a result of 0 is an error of 100 %,
and such results are counted.

    python benches/gibbs.py                  ten million pairs of at most 16 classes, and longer ones: a minute
    python benches/gibbs.py --pairs 1e9      the run that docs/numerics.md tells of: half an hour on one thread
    python benches/gibbs.py --pairs 1e5      a quick pass
    python benches/gibbs.py --seed 7         other pairs
    python benches/gibbs.py --every-pair     the reference for all of them, not for a sample: half an hour
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import extended
import numpy as np
from harness import markdown
from numpy.typing import NDArray

Array = NDArray[Any]

# Pairs by number of classes, for each pair asked for: most are short, where a single rounding error weighs most.
SHARES = {2: 0.3, 3: 0.2, 5: 0.2, 10: 0.2, 16: 0.1, 17: 0.02, 100: 0.02, 1000: 0.01, 50_257: 0.000_1}
# Distances on the logits' scale; "ulp" moves every class, "one" a single class, by one ulp up or down.
DISTANCES: tuple[float | str, ...] = ("ulp", "one", 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 30.0)
# Elements of a chunk, which stays in cache, and of the sample of each kind of pair, from its first chunks, that the
# reference computes.
CHUNK = 250_000
SAMPLE = 40_000
# Normal numbers that rows are cut from, each time at another place: drawing all of them anew would take most of the
# time.
POOL = 1 << 22
# Totals of counts, p's and q's.
TOTALS = (1.0, 3.0, 1e3, 1e6)
# The largest value of each dtype that does not exceed ln 2.
LN2 = {"float32": np.nextafter(np.float32(np.log(2)), np.float32(0)), "float64": np.float64(np.log(2))}

# Relative bound, and the value below which it is an absolute one (--floor raises that): the table of docs/numerics.md.
BOUNDS = {
    ("logits", "float32"): (5e-7, 1e-29),
    ("probs", "float32"): (2e-6, 1e-17),
    ("counts", "float32"): (2e-6, 1e-15),
    ("logits", "float64"): (1e-13, 1e-12),
    ("probs", "float64"): (1e-13, 1e-12),
    # The reference knows the logarithm of a ratio of totals to 1e-18; the tests hold smaller values.
    ("counts", "float64"): (1e-13, 1e-8),
}
# What may be left of a divergence of one distribution stored as two rows that differ.
LEFT = 1e-15
KL = {"logits": extended.kl_of_logits, "probs": extended.kl_of_probs, "counts": extended.kl_of_probs}
JS = {"logits": extended.js_of_logits, "probs": extended.js_of_probs, "counts": extended.js_of_probs}


@dataclass
class Tally:
    """Counts over the pairs of one space, dtype and number of classes."""

    given: str
    dtype: str
    classes: int
    pairs: int = 0
    negative: int = 0
    self_not_zero: int = 0
    nan: int = 0
    js_outside: int = 0
    js_asymmetric: int = 0
    cross_entropy_differs: int = 0
    checked: int = 0
    zero_hides: int = 0
    floor: float = 0.0
    worst: dict[str, float] = field(default_factory=lambda: {"KL": 0.0, "JS": 0.0})
    examples: dict[str, str] = field(default_factory=dict)

    @property
    def bound(self) -> float:
        """Relative bound of the results."""
        return BOUNDS[self.given, self.dtype][0]

    @property
    def failures(self) -> int:
        """Pairs that broke a rule, and sampled results beyond the bound."""
        counted = (self.negative, self.self_not_zero, self.nan, self.js_outside, self.js_asymmetric)
        beyond = sum(error > self.bound for error in self.worst.values())
        return sum(counted) + self.cross_entropy_differs + self.zero_hides + beyond


class Numbers:
    """Random numbers, quickly: pieces of a pool, at random places."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self._normal: dict[str, Array] = {"float32": rng.standard_normal(POOL, dtype=np.float32)}
        self._normal["float64"] = rng.standard_normal(POOL)
        self._sign: dict[str, Array] = {"float32": rng.choice(np.array([-1, 1], np.int32), POOL)}
        self._sign["float64"] = self._sign["float32"].astype(np.int64)

    def _piece(self, pool: Array, shape: tuple[int, int]) -> Array:
        size = shape[0] * shape[1]
        start = int(self.rng.integers(POOL - size))
        return pool[start : start + size].reshape(shape)

    def normal(self, dtype: str, shape: tuple[int, int]) -> Array:
        """Return standard normal numbers, not to be written to."""
        return self._piece(self._normal[dtype], shape)

    def sign(self, dtype: str, shape: tuple[int, int]) -> Array:
        """Return 1 and -1 as integers of the same size, not to be written to."""
        return self._piece(self._sign[dtype], shape)


def ulp_apart(x: Array, numbers: Numbers, single: bool) -> Array:
    """Every class, or one class of each row, moved to a neighbouring number."""
    step = numbers.sign(x.dtype.name, x.shape)
    if single:
        rows = np.arange(len(x))
        chosen = numbers.rng.integers(x.shape[1], size=len(x))
        only = np.zeros_like(step)
        only[rows, chosen] = step[rows, chosen]
        step = only
    # The neighbours of a number are those of its bits; 0 stays.
    moved = (x.view(step.dtype) + step).view(x.dtype)
    return np.asarray(np.where(x == 0, x, moved))


def pairs(
    given: str, dtype: str, rows: int, classes: int, distance: float | str, numbers: Numbers
) -> tuple[Array, Array]:
    """Two arrays of rows at a distance: flat, peaked and offset rows alternate, and every fifth has few values."""
    real, shape = np.dtype(dtype), (rows, classes)

    def column(*values: float) -> Array:
        return np.resize(np.array(values, real), rows)[:, None]

    a = numbers.normal(dtype, shape) * column(0.01, 1, 3, 12)
    # Equal classes, at the maximum too.
    a[4::5] = np.rint(2 * a[4::5]) / 2
    if given == "logits":
        a += column(0, 0, 0, 0, 5, -300, 1e4)
    if isinstance(distance, str):
        p = a if given == "logits" else softmax(a, *column_of_totals(given, rows, numbers, real))
        q = ulp_apart(p, numbers, distance == "one")
        return p, q
    b = numbers.normal(dtype, shape) * real.type(distance)
    b += a
    if given == "logits":
        b += column(0, 0, 2.5)
        return a, b
    return tuple(softmax(x, *column_of_totals(given, rows, numbers, real)) for x in (a, b))  # type: ignore[return-value]


def column_of_totals(given: str, rows: int, numbers: Numbers, real: np.dtype[Any]) -> tuple[Array, ...]:
    """Return what rows of counts sum to; nothing for probabilities."""
    return (numbers.rng.choice(np.array(TOTALS, real), (rows, 1)),) if given == "counts" else ()


def softmax(x: Array, total: Array | None = None) -> Array:
    """Rows of probabilities, times a total; the smallest are zeros where they underflow, as they are in practice."""
    e = x - x.max(axis=-1, keepdims=True)
    np.exp(e, out=e)
    e /= e.sum(axis=-1, keepdims=True)
    if total is not None:
        e *= total
    return np.asarray(e)


def same_bits(a: Array, b: Array) -> Array:
    """Equal element by element, NaN equal to NaN."""
    return np.asarray((a == b) | (np.isnan(a) & np.isnan(b)))


def errors(got: Array, truth: Array, floor: float, bound: float) -> NDArray[np.float64]:
    """abs(got - truth) / max(truth, floor), 0 where both are the same; of 0, the bound at `LEFT`."""
    with np.errstate(invalid="ignore", divide="ignore"):
        least = np.where(truth == 0, max(floor, LEFT / bound), floor)
        relative = np.abs(got.astype(np.longdouble) - truth) / np.maximum(truth, least)
    return np.where(got == truth, 0, np.where(np.isnan(relative), np.inf, relative)).astype(np.float64)


def examine(tally: Tally, p: Array, q: Array, chunk: int, threads: int | None, every_pair: bool) -> None:
    """Add a chunk of pairs to a tally."""
    kb: Any = importlib.import_module("kullback")
    how = {"given": tally.given, "threads": threads}
    kl, reverse, js = kb.kl_divergence(p, q, **how), kb.kl_divergence(q, p, **how), kb.js_divergence(p, q, **how)
    tally.pairs += len(p)
    # Signs and NaN by the extremes, in one reading: a minimum is NaN if anything is.
    if not (kl.min() >= 0 and reverse.min() >= 0):
        tally.negative += int((kl < 0).sum() + (reverse < 0).sum())
        tally.nan += int(np.isnan(kl).sum() + np.isnan(reverse).sum())
    if not (js.min() >= 0 and js.max() <= LN2[tally.dtype]):
        tally.nan += int(np.isnan(js).sum())
        tally.js_outside += int(((js < 0) | (js > LN2[tally.dtype])).sum())
    if chunk % 8 == 0:
        itself, mirrored = kb.kl_divergence(p, p, **how), kb.js_divergence(q, p, **how)
        tally.self_not_zero += int((itself != 0).sum() + np.signbit(itself).sum())
        tally.js_asymmetric += int((~same_bits(js, mirrored)).sum())
        tally.cross_entropy_differs += int((~same_bits(kb.cross_entropy(p, p, **how), kb.entropy(p, **how))).sum())
    # The reference takes a thousand times as long.
    if (chunk >= 8 and not every_pair) or (tally.dtype == "float64" and extended.EPSILON > 1e-18):
        return
    sample = len(p) if every_pair else max(1, min(len(p), SAMPLE // 8 // tally.classes))
    chosen = np.unique(np.linspace(0, len(p) - 1, sample).astype(np.intp))
    tally.checked += len(chosen)
    floor = tally.floor
    for name, formula, got in (("KL", KL[tally.given], kl[chosen]), ("JS", JS[tally.given], js[chosen])):
        truth = formula(p[chosen], q[chosen])
        off = errors(got, truth, floor, tally.bound)
        tally.zero_hides += int(((got == 0) & (truth > floor) & (off > tally.bound)).sum())
        worst = int(off.argmax())
        if off[worst] > max(tally.bound, tally.worst[name]):
            row = chosen[worst]
            shown = f"p = {p[row, :6].tolist()}, q = {q[row, :6].tolist()}" + ", ..." * (tally.classes > 6)
            values = f"{name} {got[worst]!r}, reference {truth[worst]:.9g}, error {off[worst]:.2g}"
            tally.examples[name] = f"{tally.given} {tally.dtype}, {tally.classes} classes: {shown}: {values}"
        tally.worst[name] = max(tally.worst[name], float(off[worst]))


def chunks(total: int, classes: int) -> Iterator[int]:
    """Split a number of rows into chunks of `CHUNK` elements."""
    step = max(1, CHUNK // classes)
    for start in range(0, total, step):
        yield min(step, total - start)


def run(total: float, seed: int, least: float, threads: int | None, every_pair: bool) -> list[Tally]:
    """Examine `total` pairs of at most 16 classes, and longer ones, and return the tallies."""
    numbers = Numbers(np.random.default_rng(seed))
    tallies = []
    for (given, dtype), (_, floor) in BOUNDS.items():
        for classes, share in SHARES.items():
            tally = Tally(given, dtype, classes, floor=max(floor, least))
            each = max(1, round(total * share / len(BOUNDS) / len(DISTANCES)))
            for distance in DISTANCES:
                for chunk, rows in enumerate(chunks(each, classes)):
                    p, q = pairs(given, dtype, rows, classes, distance, numbers)
                    examine(tally, p, q, chunk, threads, every_pair)
            tallies.append(tally)
            print(f"{given} {dtype}, {classes} classes: {tally.failures} failures", file=sys.stderr, flush=True)
    return tallies


def table(tallies: list[Tally]) -> str:
    """Return the tallies as Markdown."""
    header = ["rows", "classes", "pairs", "KL < 0", "KL(p, p) ≠ 0", "NaN", "JS outside", "JS(p, q) ≠ JS(q, p)"]
    header += ["H(p, p) ≠ H(p)", "checked", "0 for > 0", "worst KL", "worst JS", "bound"]
    rows = []
    for t in tallies:
        counts = [t.pairs, t.negative, t.self_not_zero, t.nan, t.js_outside, t.js_asymmetric, t.cross_entropy_differs]
        cells = [f"{t.given}, {t.dtype}", str(t.classes), *map(str, counts), str(t.checked), str(t.zero_hides)]
        rows.append([*cells, f"{t.worst['KL']:.1e}", f"{t.worst['JS']:.1e}", f"{t.bound:.0e}"])
    return markdown(header, rows)


def main(arguments: list[str] | None = None) -> int:
    """Run the check and return the exit status: 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=float, default=1e7)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--floor", type=float, default=0.0, help="value below which errors are relative to it (0)")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--every-pair", action="store_true", help="hold all against the reference, not a sample")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    tallies = run(options.pairs, options.seed, options.floor, options.threads, options.every_pair)
    text = table(tallies) + "\n"
    print(text)
    if extended.EPSILON > 1e-18:
        print("longdouble is no wider than float64 here: float64 results were not held against the reference")
    for tally in tallies:
        for example in tally.examples.values():
            print(example)
    total, failed = sum(t.pairs for t in tallies), sum(t.failures for t in tallies)
    print(f"{total:,} pairs, {failed} failures, {time.perf_counter() - start:.0f} s")
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    if options.json:
        options.json.write_text(json.dumps([asdict(t) for t in tallies], indent=1), encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
