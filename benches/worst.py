"""Search for the rows on which results are worst, and print the table of docs/numerics.md.

For every measure, space and dtype: rows of all the awkward families (flat, peaked, mostly zeros, a common offset,
subnormal masses, an ulp apart, one class far away, totals 1 : 1e6 ...) of 1 to 2 million classes, then a climb from the
worst of them: classes are nudged by ulps, moved, swapped and stretched, and what makes the error larger is kept. Every
error is against rigorous enclosures (python-flint, through tests/reference.py), in units of the bound that the tests
hold. The other libraries answer the same rows of the families (the climb is against kullback alone).

    python benches/worst.py                              all of it: a quarter of an hour
    python benches/worst.py --only kl_divergence,logits  the lines that hold these words
    python benches/worst.py --seconds 60 --seed 3        longer climbs, other rows

Exits with 1 if a bound is exceeded; the rows that do are printed in hexadecimal.
"""

from __future__ import annotations

import argparse
import importlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import libraries
import numpy as np
from gibbs import BOUNDS
from harness import markdown
from libraries import Library, Measure
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
cases: Any = importlib.import_module("cases")
reference: Any = importlib.import_module("reference")

Array = NDArray[Any]

LINEAR = ("probs", "counts")
SPACES = ("probs", "counts", "log_probs", "logits")
SHORT = (1, 2, 3, 5, 17)
LONG = (100, 1000, 2049)
VAST = 1000  # distinct classes of the longest rows, each VAST_TIMES over
VAST_TIMES = 2048
TEMPERATURES = (1.0, 1.0, 1.0, 1e-3, 0.1, 0.7, 3.0, 1e3)
KEPT = 8  # rows that a climb starts from
BRANCHES = 12  # neighbours of each that one step of it tries

# What the other libraries are asked for, where they have it; JS of probabilities as the square of their distance.
ASKED = {
    ("entropy", "probs"): Measure.ENTROPY_PROBS,
    ("entropy", "logits"): Measure.ENTROPY_LOGITS,
    ("nll", "logits"): Measure.CROSS_ENTROPY,
    ("kl_divergence", "probs"): Measure.KL_PROBS,
    ("kl_divergence", "logits"): Measure.KL_LOGITS,
    ("js_divergence", "probs"): Measure.JS_PROBS,
    ("js_divergence", "logits"): Measure.JS_LOGITS,
}


@dataclass
class Found:
    """A pair of rows, and how far the result is off."""

    share: float  # of the error that is allowed
    error: float  # in ulp, or relative
    family: str
    p: Array
    q: Array
    label: int
    temperature: float

    def shown(self) -> str:
        """Return the pair in hexadecimal, or what it is."""
        what = f"{self.family}, {self.p.shape[-1]} classes" + f", T = {self.temperature:g}" * (self.temperature != 1)
        if self.p.shape[-1] > 6:
            return what
        rows = " | ".join(", ".join(float(v).hex() for v in row) for row in (self.p, self.q))
        return f"{what}: {rows}" + f", label {self.label}" * (self.label >= 0)


@dataclass
class Line:
    """One line of the table."""

    case: Any
    space: str
    dtype: str
    tried: int = 0
    best: list[Found] = field(default_factory=list)
    others: dict[str, list[float]] = field(default_factory=dict)

    @property
    def in_ulp(self) -> bool:
        """Whether errors are counted in units in the last place (else relative to the value)."""
        return bool(self.target.ulps)

    @property
    def target(self) -> Any:
        """What the tests hold."""
        return (self.case.linear if self.space in LINEAR else self.case.logarithmic)[self.dtype]

    @property
    def bound(self) -> float:
        """The error allowed, in ulp or relative."""
        return float(self.target.ulps or self.target.relative)

    @property
    def floor(self) -> float:
        """The value below which the error is relative to it: of divergences only."""
        space = "probs" if self.space in LINEAR else "logits"
        return 0.0 if self.in_ulp else BOUNDS[space, np.dtype(self.dtype).name][1]

    @property
    def name(self) -> str:
        """What is measured."""
        return f"{self.case.name}, {self.space}, {np.dtype(self.dtype).name}"


# ------------------------------------------------------------------------------------------------------------ families


def families(c: int, rng: np.random.Generator, space: str, dtype: str) -> Iterator[tuple[str, Array, Array, float]]:
    """Unnormalised logarithms of two rows (of masses, where the name says so), and the ratio of their totals."""
    wide = dtype == "f8"

    def normal(scale: float = 1.0) -> Array:
        return scale * rng.standard_normal(c)

    def at(column: int, height: float) -> Array:
        out = np.zeros(c)
        out[column % c] = height
        return out

    def gone(share: float) -> Array:
        out = np.where(rng.random(c) < share, -np.inf, 0.0)
        out[rng.integers(c)] = 0.0
        return out

    where = int(rng.integers(c))
    heights = (4.0, 10.0, 30.0, 69.0) if wide or space not in LINEAR else (4.0, 10.0, 30.0)
    yield "unrelated", normal(), normal(), 1
    yield "spread", normal(4), normal(4), 1
    yield "logits 1 to 2 apart", normal(1), normal(1) + rng.uniform(1, 2, c) * rng.choice([-1, 1], c), 1
    yield "flat", np.zeros(c), normal(10 ** rng.uniform(-7, 0)), 1
    yield "flat against far", np.zeros(c), normal(8), 1
    for height in heights:
        yield f"peaked by {height:g}", normal() + at(where, height), normal() + at(where, height), 1
    yield "peaked late", normal() + at(-1, 12), normal() + at(-1, 13), 1
    yield "peaked apart", normal() + at(where, 12), normal() + at(where + 1, 12), 1
    yield "99 % zeros", normal() + gone(0.99), normal() + gone(0.99), 1
    both = gone(0.5)
    yield "zeros in both", normal() + both, normal() + both, 1
    base = normal(2)
    yield "one class far away", base, base + at(where, -40.0 if wide or space not in LINEAR else -12.0), 1
    for low in (-7, -5, -3, -2, -1, -0.3):
        step = 10 ** (low + rng.uniform(0, 1))
        yield f"near {10.0**low:g}", base, base + normal(step), 1
        yield f"near {10.0**low:g} in one class", base, base + at(where, step), 1
    yield "one ulp", base, base, 0
    yield "one ulp, flat", np.zeros(c), np.zeros(c), 0
    if space == "counts":
        for ratio in (3.0, 1e3, 1e6):
            yield f"totals 1 : {ratio:g}", base, base + normal(10 ** rng.uniform(-4, 0)), ratio
    if space in LINEAR:
        depth = 720.0 if wide else 95.0
        yield "subnormal masses", base + at(where, depth), base + at(where, depth + 1), 1
    else:
        for offset in (1e2, -1e4):
            yield f"offset {offset:g}", base + offset, base + offset + normal(10 ** rng.uniform(-3, 0)), 1
            yield f"offset {offset:g}, one ulp", base + offset, base + offset, 0


def store(weights: Array, space: str, dtype: str, total: float) -> Array:
    """Rows of a space from unnormalised logarithms."""
    log = weights - weights.max()
    log = np.minimum(log - np.log(np.exp(log).sum()), 0.0)
    stored = {"logits": weights, "log_probs": log}.get(space)
    if stored is None:
        stored = np.exp(log) * (total if space == "counts" else 1.0)
    return np.asarray(stored, dtype)


def ulps(x: Array, rng: np.random.Generator, chosen: Any = True) -> Array:
    """Every chosen number a neighbour of itself."""
    to = np.where(rng.random(x.shape) < 0.5, -np.inf, np.inf).astype(x.dtype)
    moved = np.where(np.isfinite(x) & (x != 0) & chosen, np.nextafter(x, to), x)
    return np.asarray(moved, x.dtype)


def draw(line: Line, c: int, rng: np.random.Generator) -> Iterator[tuple[str, Array, Array, int, float]]:
    """One pair of rows of each family."""
    for name, a, b, ratio in families(c, rng, line.space, line.dtype):
        total = float(rng.choice([1.0, c, 1e4]))
        p = store(a, line.space, line.dtype, total)
        q = ulps(p, rng) if ratio == 0 else store(b, line.space, line.dtype, total * ratio)
        if rng.random() < 0.5:
            p, q = q, p
        if line.space == "probs":
            q = np.abs(q)
        label = int(rng.choice([p.argmax(), p.argmin(), rng.integers(c)]))
        yield name, p, q, label, float(rng.choice(TEMPERATURES)) if line.space == "logits" else 1.0


# -------------------------------------------------------------------------------------------------------------- errors


def judge(
    line: Line, family: list[str], p: Array, q: Array, labels: Array, temperature: float, repeat: int = 1
) -> tuple[list[Found], Any]:
    """Judge rows of one length, each class `repeat` times over: that adds ln(repeat) to all but divergences."""
    case = line.case
    keywords: dict[str, Any] = {"given": line.space}
    if line.space == "logits":
        keywords["temperature"] = temperature
    exact = case.exact(p, q, labels=labels, **keywords)
    rows: tuple[Array, ...] = (p, q)
    if repeat > 1:
        share = repeat if line.space == "probs" else 1
        rows = tuple(np.tile(x / x.dtype.type(share), (1, repeat)) for x in rows)
        if case.name not in ("kl_divergence", "js_divergence"):
            more = exact.hi + math.log(repeat)
            exact = reference.Exact(more, (exact.hi - more) + math.log(repeat) + exact.lo)
    got = case(*rows, labels=labels, on_invalid="nan", **keywords)
    allowed = np.maximum(cases.allowance(case, exact, line.space, rows, got.dtype), line.bound * line.floor)
    found = []
    for i, name in enumerate(family):
        # The climb may leave what a space accepts; that is not its business.
        if np.isnan(got[i]) or (np.isinf(exact.hi[i]) and got[i] == exact.hi[i]):
            continue
        error = float(exact.error(got)[i])
        size = float(reference.ulp(exact.hi[i], got.dtype)) if line.in_ulp else abs(float(exact.hi[i]))
        off = error / max(size, line.floor, 1e-300) if error else 0.0
        # An entropy of less is not held to its last digit, and an ulp of it is no measure.
        if line.in_ulp and abs(float(exact.hi[i])) < (1e-33 if line.dtype == "f4" else 1e-290):
            off = 0.0
        found.append(
            Found(error / float(allowed[i]) if error else 0.0, off, name, p[i], q[i], int(labels[i]), temperature)
        )
    line.tried += len(family)
    return found, exact


def neighbour(x: Found, space: str, rng: np.random.Generator) -> tuple[Array, Array]:
    """Make a pair of rows near another one."""
    p, q = x.p.copy(), x.q.copy()
    c = len(p)
    chosen = rng.random(c) < rng.choice([1.0, 0.5, 1.5 / c])
    if not chosen.any():
        chosen[rng.integers(c)] = True
    for row in (p, q) if rng.random() < 0.3 else ((p,) if rng.random() < 0.5 else (q,)):
        kind = rng.integers(5)
        size = row.dtype.type(10 ** rng.uniform(-7, 0.3) * rng.choice([-1, 1]))
        if kind == 0:
            row[:] = ulps(row, rng, chosen)
        elif kind == 1 and space in LINEAR:
            row[chosen] *= row.dtype.type(abs(1 + size))
        elif kind == 1:
            row[chosen] += size
        elif kind == 2 and c > 1:
            i, j = rng.choice(c, 2, replace=False)
            row[[i, j]] = row[[j, i]]
        elif kind == 3 and c > 1 and space == "probs":
            i, j = rng.choice(c, 2, replace=False)
            moved = row[i] * row.dtype.type(min(abs(size), 1))
            row[i], row[j] = row[i] - moved, row[j] + moved
        elif kind == 3 and space in ("counts", "logits"):
            row[:] = row * row.dtype.type(abs(1 + size))
        else:
            # Nearer to the other row, or farther from it.
            other = q if row is p else p
            with np.errstate(invalid="ignore"):
                row[chosen] = np.nan_to_num(row + size * (other - row), nan=-np.inf if space not in LINEAR else 0)[
                    chosen
                ]
    if space in LINEAR:
        p, q = np.abs(p), np.abs(q)
    with np.errstate(over="ignore"):
        return np.where(p == np.inf, x.p, p), np.where(q == np.inf, x.q, q)


def compare(line: Line, others: list[Library], p: Array, q: Array, labels: Array, exact: Any) -> None:
    """Add what the other libraries make of the same rows."""
    measure = ASKED.get((line.case.name, line.space))
    for library in others:
        name = np.dtype(line.dtype).name
        if measure is None or not library.takes(measure, name):
            continue
        rows = (p, labels) if line.case.labels else (p, q)[: line.case.rows]
        with np.errstate(all="ignore"):
            got = libraries.values(library.measures[measure](*(library.convert(x) for x in rows)))
        if measure is Measure.JS_PROBS:
            got = got**2
        size = reference.ulp(exact.hi, line.dtype) if line.in_ulp else np.abs(exact.hi)
        with np.errstate(all="ignore"):
            error = np.where(got == exact.hi, 0, exact.error(got) / np.maximum(size, 1e-300))
        # Where the value is next to nothing there is no telling digits from none.
        plain = np.isfinite(exact.hi) & (exact.hi > (1e-29 if line.dtype == "f4" else 1e-12))
        line.others.setdefault(library.name, []).extend(np.where(np.isnan(error), np.inf, error)[plain].tolist())


# ---------------------------------------------------------------------------------------------------------------- runs


def search(line: Line, rng: np.random.Generator, seconds: float, others: list[Library]) -> None:
    """Families of all lengths, then the climb."""
    found: list[Found] = []
    start = time.perf_counter()
    for c, rounds in [(c, 12) for c in SHORT] + [(c, 1) for c in LONG]:
        for _ in range(rounds):
            drawn = list(draw(line, c, rng))
            for temperature in {d[4] for d in drawn}:
                names, ps, qs, labels, _t = zip(*(d for d in drawn if d[4] == temperature), strict=True)
                p, q, of = np.array(ps), np.array(qs), np.array(labels)
                some, exact = judge(line, list(names), p, q, of, temperature)
                found += some
                if temperature == 1.0:
                    compare(line, others, p, q, of, exact)
            if time.perf_counter() - start > seconds:
                break
    if line.space != "log_probs":
        drawn = [d for d in draw(line, VAST, rng) if d[0] in ("unrelated", "near 0.001", "peaked late", "one ulp")]
        for name, row_p, row_q, label, _ in drawn:
            some, _ = judge(line, [name], row_p[None], row_q[None], np.array([label]), 1.0, VAST_TIMES)
            for x in some:
                x.family += f" of {VAST * VAST_TIMES:,} classes, each {VAST_TIMES} times"
            line.best += some
    found.sort(key=lambda x: -x.share)
    line.best += found[:KEPT]
    pool = [x for x in found if len(x.p) <= max(SHORT)][:KEPT]
    start = time.perf_counter()
    while pool and time.perf_counter() - start < seconds:
        grown = list(pool)
        for temperature, c in {(x.temperature, len(x.p)) for x in pool}:
            parents = [x for x in pool if (x.temperature, len(x.p)) == (temperature, c) for _ in range(BRANCHES)]
            moved = [neighbour(x, line.space, rng) for x in parents]
            p, q = (np.array(rows) for rows in zip(*moved, strict=True))
            some, _ = judge(line, [x.family for x in parents], p, q, np.array([x.label for x in parents]), temperature)
            grown += some
        grown.sort(key=lambda x: -x.share)
        # Of one family and length the two worst: the climb keeps several hills.
        pool = []
        seen: dict[Any, int] = {}
        for x in grown:
            key = (x.family, len(x.p), x.temperature)
            seen[key] = seen.get(key, 0) + 1
            if seen[key] <= 2 and len(pool) < KEPT:
                pool.append(x)
    line.best = sorted(line.best + pool, key=lambda x: -x.share)


def figure(x: float) -> str:
    """Two digits."""
    return "inf" if math.isinf(x) else f"{x:.2f}" if 0.01 < x < 100 else f"{x:.1e}" if x else "0"


def table(lines: list[Line], others: list[Library]) -> str:
    """Return the lines as Markdown: the worst of each, and median and worst of the others."""
    head = ["measure, space, dtype", "unit", "bound", "rows", "kullback: worst", "at"]
    head += [f"{x.name}: median, worst" for x in others]
    rows = []
    for line in lines:
        worst = max(line.best, key=lambda x: x.error)
        what = f"{worst.family}, {worst.p.shape[-1]} classes" if "classes" not in worst.family else worst.family
        cells = [
            line.name,
            "ulp" if line.in_ulp else "relative",
            f"{line.bound:g}",
            str(line.tried),
        ]
        cells += [figure(worst.error), what + f", T = {worst.temperature:g}" * (worst.temperature != 1)]
        for x in others:
            errors = line.others.get(x.name)
            cells.append(f"{figure(float(np.median(errors)))}, {figure(max(errors))}" if errors else "–")
        rows.append(cells)
    return markdown(head, rows)


def main(arguments: list[str] | None = None) -> int:
    """Search, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="words, separated by commas, that a line must hold")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each climb (10)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    wanted: Callable[[Line], bool] = lambda line: all(word in line.name for word in options.only.split(","))
    scored = (cases.ENTROPY, cases.CROSS_ENTROPY, cases.NLL, cases.KL, cases.JS)
    lines = [Line(case, space, dtype) for case in scored for space in SPACES for dtype in ("f4", "f8")]
    lines = [line for line in lines if wanted(line)]
    others = [x for x in libraries.peers(1, 2) if x.name in ("torch", "scipy", "NumKong")]
    for i, line in enumerate(lines):
        search(line, np.random.default_rng([options.seed, i]), options.seconds, others)
        worst = line.best[0]
        print(f"{line.name}: {worst.share:.3f} of the bound, {figure(worst.error)}: {worst.shown()}", flush=True)
    text = table(lines, others) + "\n"
    print("\n" + text)
    kb: Any = importlib.import_module("kullback")
    versions = [f"{x.name} {x.version}" for x in others] + [f"numpy {np.__version__}"]
    print(f"kullback {kb.__version__}, " + ", ".join(versions) + f", python-flint {reference.flint.__version__}")
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    beyond = [line for line in lines if line.best[0].share > 1]
    print(f"{len(beyond)} of {len(lines)} bounds exceeded: {', '.join(line.name for line in beyond)}")
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
