#!/usr/bin/env python3
"""Generate the polynomial coefficients and the reference vectors of `src/math`.

Usage (needs only mpmath)::

    python src/math/generate.py            # rewrites coefficients.rs and vectors.csv beside this file
    python src/math/generate.py --degrees  # prints the approximation error of neighbouring degrees
    python src/math/generate.py --dense 100 FILE   # a hundred times as many vectors, into FILE, for
    VECTORS=FILE cargo test --release reference_vectors -- --nocapture

A polynomial is fitted in relative error by Lawson's iteration (reweighted least squares, which tends to the minimax
polynomial) on Chebyshev nodes. Its coefficients are then rounded to the working precision one by one from the
constant term upwards, and those that are still free are fitted again after every rounding, so that they absorb
what the rounding left. Leading coefficients that must be exact (the value at 0) are given.
"""

from __future__ import annotations

import argparse
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mpmath import mp, mpf

mp.dps = 90
HERE = Path(__file__).parent
SINGLE, DOUBLE = 24, 53
TINY = mpf(10) ** -30  # nearer to 0 than this a function is its limit
TIMES = 1  # how many times the random points of vectors.csv


# ------------------------------------------------------------------------------------------------ functions
def phi(d: mpf) -> mpf:
    """(e^d - 1 - d) / d^2."""
    return mpf(1) / 2 if abs(d) < TINY else (mp.expm1(d) - d) / d**2


def ln_tail(f: mpf) -> mpf:
    """ln(1 + f) - f."""
    return mp.log1p(f) - f


def ln_tail_over_square(f: mpf) -> mpf:
    """(ln(1 + f) - f) / f^2."""
    return -mpf(1) / 2 if abs(f) < TINY else ln_tail(f) / f**2


def js_far(x: mpf) -> mpf:
    """G(x) = 1/2 [(1 + t)(ln 2 - ln(1 + t)) - t x], t = e^-x."""
    t = mp.exp(-x)
    return ((1 + t) * (mp.ln2 - mp.log1p(t)) - t * x) / 2


def js_middle(y: mpf) -> mpf:
    """G(2 + y)."""
    return js_far(y + 2)


def js_log(x: mpf) -> mpf:
    """G(x) / x^2."""
    return mpf(1) / 8 if abs(x) < TINY else js_far(x) / (x * x)


def js_lin(w: mpf) -> mpf:
    """((1 + z) ln(1 + z) + (1 - z) ln(1 - z)) / z^2 with z^2 = w."""
    if abs(w) < TINY:
        return mpf(1)
    z = mp.sqrt(w)
    return ((1 + z) * mp.log1p(z) + (1 - z) * mp.log1p(-z)) / w


def atanh_tail(w: mpf) -> mpf:
    """(2 atanh(s) - 2 s) / s^3 with s^2 = w."""
    if abs(w) < TINY:
        return mpf(2) / 3
    s = mp.sqrt(w)
    return 2 * (mp.atanh(s) - s) / (s * w)


# ------------------------------------------------------------------------------------------------ fitting
def rounded(x: mpf, bits: int) -> mpf:
    """Round x to `bits` significant bits."""
    with mp.workprec(bits):
        return +x


def solve(matrix: list[list[mpf]], rhs: list[mpf]) -> list[mpf]:
    """Cholesky solution of the (small, symmetric, positive definite) normal equations."""
    n = len(rhs)
    low = [[mpf(0)] * n for _ in range(n)]
    for i in range(n):
        for j in range(i + 1):
            rest = matrix[i][j] - mp.fdot(low[i][:j], low[j][:j])
            low[i][j] = mp.sqrt(rest) if i == j else rest / low[j][j]
    y: list[mpf] = []
    for i in range(n):
        y.append((rhs[i] - mp.fdot(low[i][:i], y)) / low[i][i])
    x = [mpf(0)] * n
    for i in reversed(range(n)):
        x[i] = (y[i] - mp.fdot((low[k][i] for k in range(i + 1, n)), (x[k] for k in range(i + 1, n)))) / low[i][i]
    return x


def horner(coefficients: Sequence[mpf], x: mpf) -> mpf:
    """Value of the polynomial, coefficients from the constant term upwards."""
    y = mpf(0)
    for c in reversed(coefficients):
        y = y * x + c
    return y


def fit(
    target: Callable[[mpf], mpf], lo: mpf, hi: mpf, degree: int, exact: Sequence[mpf], bits: int | None
) -> tuple[list[mpf], mpf]:
    """Coefficients (rounded to `bits` unless None) and the largest relative error on the interval."""
    count = 5 * (degree + 1)
    nodes = [(lo + hi) / 2 + (hi - lo) / 2 * mp.cos(mp.pi * (2 * i + 1) / (2 * count)) for i in range(count)]
    values = [target(x) for x in nodes]
    weights = [mpf(1)] * count
    powers = [[x**k for k in range(degree + 1)] for x in nodes]
    done = [mpf(c) for c in exact]
    rounds = 25
    while len(done) <= degree:
        first = len(done)
        left = [v - mp.fdot(done, p[:first]) for v, p in zip(values, powers, strict=True)]
        for _ in range(rounds):
            scaled = [w / (v * v) for w, v in zip(weights, values, strict=True)]
            columns = [[p[k] for p in powers] for k in range(first, degree + 1)]
            weighted = [[s * c for s, c in zip(scaled, column, strict=True)] for column in columns]
            gram = [[mp.fdot(a, b) for b in columns] for a in weighted]
            free = solve(gram, [mp.fdot(a, left) for a in weighted])
            errors = [abs((y - mp.fdot(free, p[first:])) / v) for y, p, v in zip(left, powers, values, strict=True)]
            total = mp.fdot(weights, errors)
            weights = [w * e / total + mpf(10) ** -12 / count for w, e in zip(weights, errors, strict=True)]
        if bits is None:
            done += free
        else:
            done.append(rounded(free[0], bits))
            rounds = 2
    grid = [lo + (hi - lo) * i / 1500 for i in range(1501)]
    worst = max(abs(horner(done, x) / target(x) - 1) for x in grid)
    return done, worst


@dataclass(frozen=True)
class Polynomial:
    """One block of constants: what is approximated, where, and with which degree in each precision."""

    name: str
    what: str
    target: Callable[[mpf], mpf]
    lo: mpf
    hi: mpf
    exact: tuple[mpf, ...]
    single: int | None
    double: int | None
    skip: int = 0  # leading coefficients that the code writes itself


HALF = mpf(1) / 2
LN_LO, LN_HI = mpf("-0.2930"), mpf("0.4143")
POLYNOMIALS = [
    Polynomial("EXP", "e^r", mp.exp, mpf("-0.36"), mpf("0.36"), (mpf(1), mpf(1)), 6, 11),
    Polynomial("PHI", "(e^d - 1 - d)/d^2", phi, mpf(-1), mpf(1), (HALF,), 7, 13),
    Polynomial("LN", "-1/2 + f P(f) = (ln(1 + f) - f)/f^2", ln_tail_over_square, LN_LO, LN_HI, (-HALF,), 9, 20, 1),
    Polynomial("JS_LOG", "G(x)/x^2", js_log, mpf(0), mpf(1), (HALF / 4,), 6, 13),
    Polynomial("JS_MIDDLE", "G(2 + y)", js_middle, mpf(-1), mpf(1), (), 8, 17),
    Polynomial("JS_LIN", "((1+z)ln(1+z) + (1-z)ln(1-z))/z^2, w = z^2", js_lin, mpf(0), HALF / 2, (mpf(1),), 5, 12),
    Polynomial("ATANH", "(2 atanh(s) - 2s)/s^3, w = s^2", atanh_tail, mpf(0), mpf(1) / 9, (), None, 9),
]


def degrees() -> None:
    """Print the relative error of the unrounded and rounded polynomial in ulp (2^-24, 2^-53) for near degrees."""
    for p in POLYNOMIALS:
        for bits, degree in ((SINGLE, p.single), (DOUBLE, p.double)):
            for n in range(degree - 1, degree + 2) if degree else ():
                free = fit(p.target, p.lo, p.hi, n, p.exact, None)[1]
                kept = fit(p.target, p.lo, p.hi, n, p.exact, bits)[1]
                unit = mpf(2) ** -bits
                print(p.name, bits, n, mp.nstr(free / unit, 4), mp.nstr(kept / unit, 4), flush=True)


# ------------------------------------------------------------------------------------------------ coefficients.rs
def to_single(x: mpf) -> str:
    """Shortest decimal that reads back as the f32 x."""
    value = struct.unpack("<f", struct.pack("<f", float(x)))[0]
    assert mpf(value) == x, x
    for digits in range(1, 10):
        text = f"{value:.{digits}g}"
        if struct.pack("<f", float(text)) == struct.pack("<f", value):
            break
    return literal(text)


def to_double(x: mpf) -> str:
    """Shortest decimal that reads back as the f64 x."""
    assert mpf(float(x)) == x, x
    return literal(repr(float(x)))


def literal(text: str) -> str:
    """Make a Rust float literal: 1e-07 -> 1e-7, 1 -> 1.0."""
    if "e" in text:
        mantissa, exponent = text.split("e")
        return f"{mantissa}e{int(exponent)}"
    return text if "." in text else text + ".0"


def ln2_parts(high: int, bits: int) -> tuple[mpf, mpf]:
    """Cut ln 2 to `high` bits, and round the rest to `bits`."""
    scale = mpf(2) ** high
    hi = mp.floor(mp.ln2 * scale) / scale
    return hi, rounded(mp.ln2 - hi, bits)


def write_coefficients() -> None:
    """Write coefficients.rs."""
    out = [
        "//! Generated by `generate.py`: change that, not this.",
        "//!",
        "//! Coefficients run from the constant term upwards, and are fitted in relative error on the interval stated.",
        "//! The error stated is that of the rounded coefficients, in units of u = 2^-24 (f32) or 2^-53 (f64), half an",
        "//! ulp of 1. What evaluation in floating point adds is measured by the tests and stated with the functions.",
        "",
    ]
    for suffix, bits, show, high in (("F32", SINGLE, to_single, 13), ("F64", DOUBLE, to_double, 42)):
        element = suffix.lower()
        hi, lo = ln2_parts(high, bits)
        miss = mp.log(abs(hi + lo - mp.ln2), 2)
        out += [
            f"/// The first {high} bits of ln 2: its product with an integer of up to 11 bits is exact.",
            f"pub(super) const LN2_HI_{suffix}: {element} = {show(hi)};",
            f"/// ln 2 less the above; the two miss ln 2 by 2^{mp.nstr(miss, 4)}.",
            f"pub(super) const LN2_LO_{suffix}: {element} = {show(lo)};",
            "",
        ]
    for p in POLYNOMIALS:
        for suffix, bits, show, degree in (("F32", SINGLE, to_single, p.single), ("F64", DOUBLE, to_double, p.double)):
            if degree is None:
                continue
            coefficients, worst = fit(p.target, p.lo, p.hi, degree, p.exact, bits)
            out += [
                (
                    f"/// {p.what}: degree {degree} on [{mp.nstr(p.lo, 4)}, {mp.nstr(p.hi, 4)}], "
                    f"relative error {mp.nstr(worst * mpf(2) ** bits, 2)} u."
                ),
                f"pub(super) const {p.name}_{suffix}: [{suffix.lower()}; {degree + 1 - p.skip}] = [",
                *(f"    {show(c)}," for c in coefficients[p.skip :]),
                "];",
                "",
            ]
    (HERE / "coefficients.rs").write_text("\n".join(out[:-1]) + "\n")


# ------------------------------------------------------------------------------------------------ vectors.csv
def bits_of(x: float) -> int:
    """Bit pattern of a double."""
    return int.from_bytes(struct.pack("<d", x), "little")


def expected(y: mpf) -> tuple[float, int]:
    """Round y to the nearest double; also what is missing to y in 2^-16 ulp."""
    if not mp.isfinite(y) or abs(y) >= mpf(2) ** 1024 * (1 - mpf(2) ** -54):
        return float(mp.inf if y > 0 else -mp.inf), 0
    if y == 0:
        return 0.0, 0
    exponent = max(int(mp.floor(mp.log(abs(y), 2))) - 52, -1074)
    unit = mpf(2) ** exponent
    hi = mp.nint(y / unit)
    return float(hi * unit), int(mp.nint((y / unit - hi) * 65536))


def uniform(rng: random.Random, lo: float, hi: float, count: int) -> list[float]:
    """Both ends and `count` random points between them."""
    return [lo, hi] + [rng.uniform(lo, hi) for _ in range(count * TIMES)]


def scales(rng: random.Random, lo: int, hi: int, count: int) -> list[float]:
    """Positive numbers whose binary exponent is spread evenly over [lo, hi]."""
    count *= TIMES
    return [rng.uniform(1.0, 2.0) * 2.0 ** (lo + (hi - lo) * i // max(count - 1, 1)) for i in range(count)]


def both(points: list[float]) -> list[float]:
    """Add the negatives of the points."""
    return points + [-x for x in points]


def around(centres: Sequence[float], steps: int = 1) -> list[float]:
    """List the nearest doubles around each centre (breakpoints of a reduction)."""
    out = []
    for c in centres:
        b = bits_of(c)
        out += [struct.unpack("<d", struct.pack("<Q", b + i))[0] for i in range(-steps, steps + 1)]
    return out


def write_vectors(path: Path) -> None:
    """Write vectors.csv: function, bits of x, k, bits of the nearest double, remainder in 2^-16 ulp."""
    rng = random.Random(20240229)
    late = random.Random(20240301)  # what came later leaves the points of the others where they were
    ln2 = float(mp.ln2)
    edge = [2.0**0.5, 0.5**0.5, 2.0**0.5 / 4, 2.0**10.5]
    half_steps = [(n + 0.5) * ln2 for n in (-1074, -1022, -300, -3, -2, -1, 0, 1, 2, 60, 1022)]
    # Wherever the reduction of an exponential takes another integer.
    every_half_step = [(n + 0.5) * ln2 for n in range(-1074, 1024)] if TIMES > 1 else []
    subnormal = [struct.unpack("<d", struct.pack("<Q", b))[0] for b in (1, 2, 3, 0xFFFFF, 2**52 - 1, 2**52, 2**51 + 7)]
    one_p = [x - 1 for x in around(edge[:2], 2)]
    points: dict[str, tuple[Callable[[mpf], mpf], list[float]]] = {
        "exp_reduced": (mp.exp, uniform(rng, -0.36, 0.36, 200) + both(scales(rng, -60, -3, 20)) + [0.0]),
        "ln_tail": (
            ln_tail,
            uniform(rng, 0.5**0.5 - 1, 2.0**0.5 - 1, 200) + both(scales(rng, -100, -3, 30)),
        ),
        "phi": (phi, uniform(rng, -1.0, 1.0, 200) + both(scales(rng, -60, -2, 20)) + [0.0]),
        "js_log": (js_log, uniform(rng, 0.0, 1.0, 200) + scales(rng, -60, -2, 30)),
        "js_lin": (js_lin, uniform(rng, 0.0, 0.25, 200) + scales(rng, -60, -3, 30)),
        "ln": (
            mp.log,
            uniform(rng, 0.5, 2.0, 120)
            + around(edge, 2)
            + scales(rng, -1022, 1023, 80)
            + subnormal
            + around([1.0], 4)
            + [1 + x for x in both(scales(rng, -40, -4, 30))]
            + scales(rng, -4, 4, 60),
        ),
        "exp": (
            mp.exp,
            uniform(rng, -745.2, 709.8, 120)
            + both(scales(rng, -60, 9, 50))
            + around(half_steps + every_half_step, 1)
            + uniform(rng, -746.0, -708.0, 40)
            + uniform(rng, -1.0, 1.0, 60)
            + [709.782712893384, 709.782712893385],
        ),
        "ln_1p": (
            mp.log1p,
            uniform(rng, -0.999, 3.0, 120)
            + both(scales(rng, -80, -2, 60))
            + scales(rng, 0, 1023, 60)
            + one_p
            + [x - 1 for x in scales(rng, -53, -1, 40)]
            + uniform(rng, -0.3, 0.5, 60),
        ),
        "ln_1p_minus": (
            ln_tail,
            uniform(rng, -0.999, 3.0, 150)
            + both(scales(rng, -80, -2, 50))
            + scales(rng, 0, 1023, 40)
            + one_p
            + [x - 1 for x in scales(rng, -53, -1, 40)]
            + around([-0.5, 1.0], 2)
            + uniform(rng, -0.55, -0.25, 40)
            + uniform(rng, 0.9, 1.1, 40),
        ),
        "exp_m1_minus": (
            lambda x: mp.expm1(x) - x,
            uniform(rng, -3.0, 3.0, 150)
            + both(scales(rng, -80, 9, 60))
            + around([-1.0, 1.0, 45.0, -45.0, -60.0], 2)
            + around(half_steps[3:9], 1)
            + uniform(rng, 1.0, 60.0, 60)
            + uniform(rng, -70.0, -1.0, 40)
            + [-1e300, 709.5],
        ),
        "js_far": (
            js_far,
            uniform(late, 1.0, 3.0, 150) + uniform(late, 3.0, 60.0, 150) + around([3.0], 2) + [1.0, 60.0],
        ),
        "exp_minus": (
            lambda x: mp.exp(-x),
            uniform(late, 0.0, 60.0, 200) + scales(late, -60, 5, 30) + [0.0, 60.0] + around(every_half_step[1074:1160]),
        ),
        "phi_times": (lambda d: d * phi(d), uniform(late, -1.0, 1.0, 200) + both(scales(late, -60, -2, 20))),
        "js_log_times": (lambda x: x * js_log(x), uniform(late, 0.0, 1.0, 200) + scales(late, -60, -2, 30)),
    }
    rows = []
    for name, (function, xs) in points.items():
        for x in sorted(set(xs)):
            hi, rest = expected(function(mpf(x)))
            rows.append(f"{name},{bits_of(x):x},0,{bits_of(hi):x},{rest}")
    shifts = [(x, round(-x / ln2) + rng.randint(-1090, 1030)) for x in uniform(rng, -2000.0, 2000.0, 150)]
    shifts += [(x, k) for x in (1e308, -1e308, 4000.0, -4000.0, 2772.5, -2772.5) for k in (-4000, 0, 4000)]
    shifts += [(x, round(-x / ln2)) for x in uniform(rng, -2772.0, 2772.0, 100)]
    for x, k in shifts:
        if abs(k) <= 4000:
            hi, rest = expected(mp.exp(max(min(mpf(x), 9000), -9000)) * mpf(2) ** k)
            rows.append(f"exp_scaled,{bits_of(x):x},{k},{bits_of(hi):x},{rest}")
    path.write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--degrees", action="store_true", help="print the error of neighbouring degrees and stop")
    parser.add_argument("--dense", nargs=2, metavar=("TIMES", "FILE"), help="write so many times the vectors and stop")
    options = parser.parse_args()
    if options.degrees:
        degrees()
    elif options.dense:
        TIMES = int(options.dense[0])
        write_vectors(Path(options.dense[1]))
    else:
        write_coefficients()
        write_vectors(HERE / "vectors.csv")
