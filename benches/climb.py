"""Climb to the rows on which results are worst, thousands of neighbours at a step.

`worst.py` looks in all families of rows, of any length, with rigorous enclosures, which take a millisecond a row. Here
the numbers of random rows are nudged, stretched and moved, what makes the error larger is kept, and errors are against
long doubles, so that ten seconds try a million rows. Roundings that are independent in rows as they come are lined up
one by one: what is found is near the most that can be.

    python benches/climb.py                              the table of docs/numerics.md: a quarter of an hour
    python benches/climb.py --only kl_divergence,logits  the lines that hold these words
    python benches/climb.py --seconds 60 --seed 3        longer climbs, from other rows
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import extended
import kullback as kb
import numpy as np
from harness import markdown
from numpy.typing import NDArray

Array = NDArray[Any]

# Classes that differ, and how often each is repeated: 16 alike fill the lanes, 64 a chain of four of each lane, so that
# no two roundings differ.
SHAPES = ((2, 1), (3, 1), (5, 1), (16, 1), (33, 1), (65, 1), (3, 16), (3, 64))
POPULATION = 2000
# A sixth of a population has five children each.
KEPT = POPULATION // 6
# What no climb may exceed, for float32 and float64: in ulp, or relative.
LIMITS = {
    ("entropy", "counts"): (2, 4),
    ("cross_entropy", "counts"): (2, 4),
    ("entropy", "logits"): (4, 8),
    ("cross_entropy", "logits"): (5, 8),
    ("kl_divergence", "counts"): (2e-6, 1e-13),
    ("kl_divergence", "logits"): (7e-7, 1e-13),
    ("js_divergence", "counts"): (2e-6, 1e-13),
    ("js_divergence", "logits"): (5e-7, 1e-13),
}
# Below these values an error is not counted: there the long doubles have too few digits left.
LEAST = {"f4": 1e-12, "f8": 1e-8}


@dataclass(frozen=True)
class Measured:
    """A measure of rows of one space: ours, and the reference."""

    name: str
    space: str
    value: Callable[..., Array]
    truth: Callable[..., Array]
    in_ulp: bool
    both: bool = True


MEASURES = (
    Measured("entropy", "counts", kb.entropy, extended.entropy_of_probs, True, both=False),
    Measured("cross_entropy", "counts", kb.cross_entropy, extended.cross_entropy_of_probs, True),
    Measured("entropy", "logits", kb.entropy, extended.entropy_of_logits, True, both=False),
    Measured("cross_entropy", "logits", kb.cross_entropy, extended.cross_entropy_of_logits, True),
    Measured("kl_divergence", "counts", kb.kl_divergence, extended.kl_of_probs, False),
    Measured("kl_divergence", "logits", kb.kl_divergence, extended.kl_of_logits, False),
    Measured("js_divergence", "counts", kb.js_divergence, extended.js_of_probs, False),
    Measured("js_divergence", "logits", kb.js_divergence, extended.js_of_logits, False),
)


def drawn(space: str, dtype: str, classes: int, rng: np.random.Generator) -> list[Array]:
    """Rows from flat to peaked, and others from near to far."""
    shape = (POPULATION, classes)
    a = rng.standard_normal(shape) * rng.choice([0.1, 0.5, 1, 3, 8], (POPULATION, 1))
    b = a + rng.standard_normal(shape) * rng.choice([0.001, 0.03, 0.1, 0.3, 1, 3, 8], (POPULATION, 1))
    return [np.asarray(np.exp(x) if space == "counts" else x, dtype) for x in (a, b)]


def moved(x: Array, space: str, rng: np.random.Generator) -> Array:
    """Every row with some of its numbers elsewhere: a few ulps, a small share of itself, a step."""
    kind = rng.random((len(x), 1))
    ulps = x + np.spacing(np.abs(x)) * rng.integers(-60, 61, x.shape)
    share = x * (1 + rng.standard_normal(x.shape) * rng.choice([1e-9, 1e-6, 1e-4, 1e-2], (len(x), 1)))
    step = rng.standard_normal(x.shape) * rng.choice([0.01, 0.1, 0.5], (len(x), 1))
    far = x * np.exp(step) if space == "counts" else x + step
    to = np.where(kind < 0.4, ulps, np.where(kind < 0.7, share, far))
    return np.asarray(np.where(rng.random(x.shape) < 0.4, np.abs(to) if space == "counts" else to, x), x.dtype)


def errors(measured: Measured, rows: list[Array], times: int) -> Array:
    """Errors of the rows, each class so many times over: in ulp, or relative."""
    rows = [np.repeat(x, times, axis=1) for x in rows[: 1 + measured.both]]
    got = measured.value(*rows, given=measured.space, on_invalid="nan")
    with np.errstate(all="ignore"):
        truth = measured.truth(*rows)
        size = np.spacing(truth.astype(got.dtype)) if measured.in_ulp else truth
        off = np.abs((got.astype(np.longdouble) - truth) / size).astype(np.float64)
        counts = np.isfinite(off) & (truth > (1e-30 if measured.in_ulp else LEAST[got.dtype.str[1:]]))
    return np.asarray(np.where(counts, off, 0))


def climb(measured: Measured, dtype: str, shape: tuple[int, int], seconds: float, seed: int) -> tuple[float, Array]:
    """Return the worst error met, and its rows."""
    rng = np.random.default_rng(seed)
    classes, times = shape
    rows = drawn(measured.space, dtype, classes, rng)
    off = errors(measured, rows, times)
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        best = np.argsort(-off)[:KEPT]
        parents = [x[best] for x in rows]
        children = [moved(np.tile(x, (5, 1)), measured.space, rng) for x in parents]
        off = np.concatenate([off[best], errors(measured, children, times)])
        rows = [np.concatenate(pair) for pair in zip(parents, children, strict=True)]
    worst = int(off.argmax())
    return float(off[worst]), np.array([x[worst] for x in rows[: 1 + measured.both]])


def main(arguments: list[str] | None = None) -> int:
    """Climb, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="words, separated by commas, that a line must hold")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each climb (6)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    if extended.EPSILON > 1e-18:
        print("longdouble is no wider than float64 here: float64 rows are left out")
    dtypes = ("f4",) if extended.EPSILON > 1e-18 else ("f4", "f8")
    table, beyond = [], []
    for measured in MEASURES:
        for dtype in dtypes:
            name = f"{measured.name}, {measured.space}, {np.dtype(dtype).name}"
            if not all(word in name for word in options.only.split(",")):
                continue
            limit = LIMITS[measured.name, measured.space][dtype == "f8"]
            cells = [name, "ulp" if measured.in_ulp else "relative", f"{limit:g}"]
            for classes, times in SHAPES:
                error, rows = climb(measured, dtype, (classes, times), options.seconds, options.seed)
                cells.append(f"{error:.2f}" if measured.in_ulp else f"{error:.1e}")
                beyond += [name] * (error > limit)
                shown = " | ".join(", ".join(float(x).hex() for x in row) for row in rows) * (classes < 6)
                print(f"{name}, {classes} × {times}: {cells[-1]}: {shown}", flush=True)
            table.append(cells)
    head = ["measure, space, dtype", "unit", "limit"]
    head += [f"{classes}" if times == 1 else f"{classes} × {times}" for classes, times in SHAPES]
    text = markdown(head, table) + "\n"
    print("\n" + text)
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    print(f"{len(beyond)} climbs beyond their limit: {', '.join(beyond)}")
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
