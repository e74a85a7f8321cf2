"""Every shape against reading the data once, and against the shapes next to it.

    python benches/grid.py                  500 cases drawn from the grid with a fixed seed, about half an hour
    python benches/grid.py --cases 60       the first 60 of them
    python benches/grid.py --cliffs         C against C - 1 and C + 1 at equal bytes, across the change of driver
    python benches/grid.py --smoke          does it run: tiny arrays, one round

The grid: classes, megabytes, dtype, space, layout, quantity. A case whose answer is wrong makes the exit status 1.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import harness
import kullback as kb
import numpy as np
from harness import markdown, significant
from peers import progress, read_once
from targets import geometric_mean
from work import Array, numpy_dtype

CLASSES = (2, 3, 7, 10, 16, 31, 33, 61, 100, 128, 257, 1000, 4096, 32_000, 50_257, 128_256, 151_936)
MEGABYTES = (4, 40, 512)
DTYPES = ("float32", "float64", "bfloat16", "float16")
SPACES = ("probs", "logits", "counts")
LAYOUTS = ("row-major", "column-major", "strided", "one reference row")
QUANTITIES = ("entropy", "nll", "cross_entropy", "kl_divergence", "js_divergence", "compare")
OF_ONE = {"entropy", "nll"}

SEED = 20_26
# Fewer or more classes at equal bytes should not cost more than this without a reason written down.
CLIFF = 1.5
AROUND = (3, 8, 10, 15, 16, 17, 31, 32, 33, 39, 40, 64, 127, 128, 129, 256, 1000, 2048, 2049, 4096)
# Elements whose results are held against double precision before they are timed, and how far they may be off: the
# exact bounds are the tests'.
CHECKED = 200_000
CLOSE = 1e-5

_normal: Array = np.empty(0, np.float32)


@dataclass(frozen=True)
class Shape:
    """A point of the grid."""

    quantity: str
    space: str
    dtype: str
    layout: str
    classes: int
    megabytes: float

    @property
    def rows(self) -> int:
        """As many as make up the size."""
        return max(1, round(self.megabytes * 1e6 / (self.classes * numpy_dtype(self.dtype).itemsize)))

    @property
    def name(self) -> str:
        """Title."""
        where = f"{self.megabytes:g} MB, {self.rows} × {self.classes}, {self.dtype}, {self.layout}"
        return f"{self.quantity} of {self.space}, {where}"


def grid() -> Iterator[Shape]:
    """Return all points that make sense: labels are for one row, a reference row for two."""
    for quantity, space, dtype, layout, classes, megabytes in itertools.product(
        QUANTITIES, SPACES, DTYPES, LAYOUTS, CLASSES, MEGABYTES
    ):
        if layout == "one reference row" and quantity in OF_ONE:
            continue
        if dtype in ("float16", "bfloat16") and space == "counts":
            continue
        yield Shape(quantity, space, dtype, layout, classes, megabytes)


def normal(stream: int, rows: int, classes: int) -> Array:
    """Logits, the same for all cases; the second stream is the first read from elsewhere."""
    global _normal
    size, skip = rows * classes, 7919 * stream
    if _normal.size < size + skip:
        _normal = np.random.default_rng(SEED).standard_normal(size + 2 * 7919, dtype=np.float32)
    return _normal[skip : skip + size].reshape(rows, classes)


def rows_of(shape: Shape, stream: int) -> Array:
    """Rows in the space, dtype and memory order of a case."""
    rows = 1 if stream and shape.layout == "one reference row" else shape.rows
    x = normal(stream, rows, shape.classes)
    if shape.space == "probs":
        x = np.exp(x)
        x /= x.sum(axis=1, keepdims=True, dtype=np.float64)
    elif shape.space == "counts":
        x = np.floor(np.exp(x) * 20)
    dtype = numpy_dtype(shape.dtype)
    if shape.layout == "column-major":
        return np.asfortranarray(x.astype(dtype))
    if shape.layout == "strided":
        wide = np.empty((rows, 2 * shape.classes), dtype)
        wide[:, ::2] = x
        return wide[:, ::2]
    return x.astype(dtype)


def call(shape: Shape, arrays: list[Array], threads: int | None = None) -> Callable[[], Any]:
    """Return kullback's call."""
    given: Any = shape.space
    if shape.quantity == "compare":
        return lambda: kb.compare(arrays[0], arrays[1], given=given, threads=threads).kl
    if shape.quantity == "nll":
        labels = np.random.default_rng(3).integers(0, shape.classes, len(arrays[0]))
        return lambda: kb.nll(arrays[0], labels, given=given, on_invalid="nan", threads=threads)
    quantity = getattr(kb, shape.quantity)
    return lambda: quantity(*arrays, given=given, on_invalid="nan", threads=threads)


def is_right(shape: Shape, arrays: list[Array]) -> bool:
    """Hold results of the first rows against those of the same numbers in double precision, one layout, one thread."""
    count = max(1, min(shape.rows, CHECKED // shape.classes))
    some = [x[: min(len(x), count)] for x in arrays]
    wide = [np.ascontiguousarray(np.broadcast_to(x.astype(np.float64), (count, shape.classes))) for x in some]
    got, want = (np.asarray(call(shape, x, 1)(), np.float64) for x in (some, wide))
    with np.errstate(invalid="ignore", over="ignore"):
        # What rounding of the inputs of a sum near 1 may do to the checks of rows is not the matter here.
        good = (np.abs(got - want) <= CLOSE * np.abs(want)) | (got == want) | np.isnan(want)
    return bool(good.all())


def measure(shape: Shape, rounds: int | None, budget: float, threads: int) -> tuple[float, float] | None:
    """Return nanoseconds a byte, and the share of the speed of reading; None if the answer is wrong."""
    arrays = [rows_of(shape, k) for k in range(1 if shape.quantity in OF_ONE else 2)]
    if not is_right(shape, arrays):
        return None
    # Of a strided array what lies between is read too; the one reference row stays in cache.
    whole = [x if x.flags.forc or x.base is None else x.base for x in arrays if len(x) == shape.rows]
    read = read_once(tuple(whole), threads)
    calls: dict[str, harness.Call] = {"kullback": call(shape, arrays)}
    if read is not None:
        calls["read"] = read
    race = harness.race(calls, rounds=rounds, budget=budget)
    share = race.ratio("read", "kullback") if read is not None else float("nan")
    return race.median("kullback") * 1e9 / sum(x.nbytes for x in whole), share


def summary(shares: dict[Shape, float]) -> str:
    """Geometric means of the shares by what they depend on."""
    rows = []
    for field in ("quantity", "space", "dtype", "layout", "megabytes", "classes"):
        groups: dict[Any, list[float]] = defaultdict(list)
        for shape, share in shares.items():
            groups[getattr(shape, field)].append(share)
        for value, some in sorted(groups.items(), key=lambda group: str(group[0]).rjust(20)):
            cells = [significant(x, 2) for x in (geometric_mean(some), min(some), max(some))]
            rows.append([f"{field} {value}", str(len(some)), *cells])
    return markdown(["share of the read limit", "cases", "geometric mean", "least", "most"], rows)


def cliffs(options: argparse.Namespace) -> int:
    """Print nanoseconds a byte around every size at which something changes, and what exceeds the bound."""
    wrong = 0
    rows, found = [], []
    around = sorted({c + d for c in AROUND for d in (-1, 0, 1) if c + d > 1})
    for quantity, space in [("entropy", "probs"), ("entropy", "logits"), ("kl_divergence", "logits")]:
        pace: dict[int, float] = {}
        for classes in around[:6] if options.smoke else around:
            shape = Shape(quantity, space, "float32", "row-major", classes, 0.05 if options.smoke else 4)
            got = measure(shape, 1 if options.smoke else options.rounds, options.budget, options.threads)
            if got is None:
                progress(f"WRONG {shape.name}")
                wrong += 1
                continue
            pace[classes] = got[0]
        for classes, here in pace.items():
            beside = [pace[c] for c in (classes - 1, classes + 1) if c in pace]
            worst = max((here / x for x in beside), default=1.0)
            rows.append([f"{quantity} of {space}, {classes}", significant(here), significant(worst, 2)])
            if worst > CLIFF:
                found.append(f"{quantity} of {space}: {classes} classes take {worst:.2f} times their neighbours'")
    print(markdown(["float32, row-major, 4 MB", "ns a byte", "against C ± 1"], rows))
    print("\n".join(["", *found]) if found else f"\nNo cliff above {CLIFF}.")
    return 1 if wrong else 0


def drawn(count: int) -> Iterable[Shape]:
    """Return the first cases of the draw."""
    every = list(grid())
    return random.Random(SEED).sample(every, min(count, len(every)))


def main(arguments: list[str] | None = None) -> int:
    """Run and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--cliffs", action="store_true")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--budget", type=float, default=1.0, help="seconds a case (1.0)")
    parser.add_argument("--threads", type=int, default=harness.usable_cpus())
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args(arguments)
    kb.set_num_threads(options.threads)
    if options.cliffs:
        return cliffs(options)
    shares: dict[Shape, float] = {}
    wrong = 0
    for shape in drawn(12 if options.smoke else options.cases):
        if options.smoke:
            shape = Shape(shape.quantity, shape.space, shape.dtype, shape.layout, min(shape.classes, 5000), 0.05)
        got = measure(shape, 1 if options.smoke else options.rounds, options.budget, options.threads)
        if got is None:
            progress(f"WRONG {shape.name}")
            wrong += 1
            continue
        pace, shares[shape] = got
        progress(f"{shape.name}: {significant(pace)} ns a byte, {significant(shares[shape], 2)} of the read limit")
    print(summary(shares))
    slowest = sorted(shares.items(), key=lambda item: item[1])[:20]
    print("\n" + markdown(["slowest", "share"], [[shape.name, significant(share, 2)] for shape, share in slowest]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
