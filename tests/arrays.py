"""Rows to score: pairs at every distance in every space and dtype, and awkward memory layouts of one array."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from reference import LINEAR, LOGARITHMIC

BF16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = {name: BF16 if name == "bf16" else np.dtype(name) for name in ("f2", "bf16", "f4", "f8")}
INTEGERS = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")


class Pairs(NamedTuple):
    """Two matrices of rows, and what each pair of rows is."""

    kinds: list[str]
    p: np.ndarray
    q: np.ndarray


def generator(*seed: Any) -> np.random.Generator:
    """A generator seeded by anything that prints."""
    return np.random.default_rng(list(repr(seed).encode()))


def from_log(weights: np.ndarray, given: str, dtype: Any, total: float = 1.0) -> np.ndarray:
    """Store rows of unnormalised f64 logarithms in a space and a dtype (`total` is the sum of a row of counts)."""
    if given == "logits":
        return weights.astype(dtype)
    log = weights - weights.max(-1, keepdims=True)
    log = np.minimum(log - np.log(np.exp(log).sum(-1, keepdims=True)), 0.0)
    if given == "log_probs":
        return log.astype(dtype)
    return (np.exp(log) * (total if given == "counts" else 1.0)).astype(dtype)


def matrix(n: int, classes: int, given: str, dtype: Any = np.float32, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Random rows, one space, one dtype."""
    rng = generator("matrix", n, classes, given, seed)
    return from_log(scale * rng.standard_normal((n, classes)), given, dtype, total=8.0 * classes)


def nudge(x: np.ndarray, rng: np.random.Generator, chosen: Any = True) -> np.ndarray:
    """Every chosen finite, non-zero value one ulp up or down."""
    to = np.where(rng.random(x.shape) < 0.5, -np.inf, np.inf).astype(x.dtype)
    return np.where(np.isfinite(x) & (x != 0) & chosen, np.nextafter(x, to), x)


@lru_cache(maxsize=32)
def pairs(
    classes: int, given: tuple[str, str], dtype: Any, seed: int = 0, kinds: tuple[str, ...] | None = None
) -> Pairs:
    """Pairs of rows at every distance: independent, peaked, flat, far, close down to one ulp, with and without support.

    Parameters
    ----------
    classes
        The length of a row.
    given
        The spaces of the two rows.
    dtype
        Of both matrices.
    seed
        Another draw.
    kinds
        Keep only these.
    """
    dtype = np.dtype(dtype)
    rng = generator("pairs", classes, dtype.str, seed)
    same = given[0] == given[1]
    linear = any(space in LINEAR for space in given)
    wide = dtype.itemsize == 8 or not linear
    c = classes

    def noise(scale: float = 1.0) -> np.ndarray:
        return scale * rng.standard_normal(c)

    def bump(at: int, height: float) -> np.ndarray:
        out = np.zeros(c)
        out[at] = height
        return out

    def absent(share: float) -> np.ndarray:
        gone = rng.random(c) < share
        gone[rng.integers(c)] = False
        return np.where(gone, -np.inf, 0.0)

    first, second = int(rng.integers(c)), int(rng.integers(c))
    half = dtype.itemsize == 2
    height = 6.0 if half else 14.0
    far = 1.5 if half else (30.0 if wide else 8.0)
    a = noise()
    logs: dict[str, tuple[np.ndarray, np.ndarray]] = {
        "independent": (a, noise()),
        "spread": (noise(far / 4), noise(far / 4)),
        "far": (noise(far), noise(far)),
        "peaked at one class": (noise() + bump(first, height), noise() + bump(first, height)),
        "confident": (noise(0.1) + bump(first, 1.5 * height), noise(0.1) + bump(first, 1.6 * height)),
        "peaked apart": (noise() + bump(first, height), noise() + bump(second, height)),
        "peaked at the last class": (noise() + bump(-1, height), noise() + bump(-1, height + 0.5)),
        "flat": (np.zeros(c), np.zeros(c)),
        "flat against independent": (np.zeros(c), noise()),
        "flat against far": (np.zeros(c), noise(far)),
        "flat, one outlier": (noise(1e-3), noise(1e-3) + bump(first, 0.5)),
        "two equal maxima": (np.minimum(noise(), 1.0) + bump(0, 3.0) + bump(-1, 3.0), noise()),
    }
    steps = (1e-1, 1e-2) if half else (1e-1, 1e-2, 1e-3, 1e-4, 1e-5) + ((1e-7, 1e-9) if dtype.itemsize == 8 else ())
    for step in (0.6, 0.3, *steps):
        base = noise(2.0)
        logs[f"near {step:g}"] = (base, base + noise(step))
    peaked = noise(2.0) + bump(-1, height)
    logs["peaked and near"] = (peaked, peaked + noise(1e-3) + bump(-1, 0.5))
    if c > 2:
        gap = absent(0.3)
        logs["absent in both"] = (noise() + gap, noise() + gap)
        logs["absent in p"] = (noise() + gap, noise())
        logs["absent in q"] = (noise(), noise() + gap)
        logs["absent here and there"] = (noise() + absent(0.3), noise() + absent(0.3))
        logs["one class left"] = (bump(first, 0.0) - np.where(np.arange(c) == first, 0.0, np.inf), noise())

    names = list(logs)
    p = from_log(np.array([logs[k][0] for k in names]), given[0], dtype, total=4.0 * c)
    q = from_log(np.array([logs[k][1] for k in names]), given[1], dtype, total=4.0 * c)

    def add(kind: str, row_p: np.ndarray, row_q: np.ndarray) -> None:
        nonlocal p, q
        names.append(kind)
        p, q = np.vstack([p, row_p.astype(dtype)]), np.vstack([q, row_q.astype(dtype)])

    if same and not half:
        for kind, scale in (("one ulp", 1.0), ("one ulp, spread", 3.0), ("one ulp, flat", 1e-3)):
            base = from_log(noise(scale), given[0], dtype, total=4.0 * c)
            add(kind, base, nudge(base, rng))
        base = from_log(noise(), given[0], dtype, total=4.0 * c)
        add("one ulp in one class", base, nudge(base, rng, np.arange(c) == first))
    if not half and given == ("logits", "logits"):
        add("offset", noise() + 1e4, noise() + 1e4)
        add("opposite offsets", noise() + 1e4, noise() - 1e4)
        base = (noise() + 1e4).astype(dtype)
        add("offset, one ulp", base, nudge(base, rng))
    if not half and given == ("counts", "counts"):
        for ratio in (3.0, 1000.0):
            for step in (1e-1, 1e-3):
                base = np.floor(2e4 * np.exp(noise())) + 1
                add(f"totals 1 : {ratio:g}, near {step:g}", base, np.floor(base * ratio * np.exp(noise(step))) + 1)
        few = rng.integers(1, 4096, c).astype(np.float64)
        add("times three", few, 3 * few)
        add("totals 1e20 : 1e-15", 1e20 * np.exp(noise()), 1e-15 * np.exp(noise()))
        add("poisson", rng.poisson(3.0, c) + bump(first, 1.0), rng.poisson(0.5, c) + bump(second, 1.0))
    if not half and set(given) <= set(LINEAR):
        add("nearly certain", *(from_log(np.log(r), s, dtype) for r, s in zip(_nearly_certain(c), given, strict=True)))
    if kinds is not None:
        keep = [i for i, kind in enumerate(names) if kind in kinds]
        assert len(keep) == len(kinds), set(kinds) - set(names)
        names, p, q = [names[i] for i in keep], p[keep], q[keep]
    return Pairs(names, p, q)


def _nearly_certain(c: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums a little off 1 with one class that holds all but 1e-12: H and the cross entropy are tiny."""
    p, q = np.full(c, 1e-12), np.full(c, 3e-11)
    p[0] = q[0] = 1.0
    return p, q


# -------------------------------------------------------------------------------------------------------------- layouts


def _poison(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Memory that no result may depend on."""
    out = np.empty(shape, dtype)
    out.view(np.uint8)[...] = 0xFF if dtype != np.dtype(bool) else 1
    return out


def awkward(base: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield arrays that hold the values of `base` (two axes) in every layout that can reach a function, with a name.

    Memory between the elements is filled with NaN (or the like), so that a wrong stride shows in the values.
    """
    n, c = base.shape
    dtype = base.dtype
    yield "Fortran order", np.asfortranarray(base)

    wide = _poison((n, 2 * c + 3), dtype)
    wide[:, 1 : 1 + c] = base
    yield "columns of a wider matrix", wide[:, 1 : 1 + c]
    wide = _poison((n, 2 * c), dtype)
    wide[:, ::2] = base
    yield "every second column", wide[:, ::2]
    wide = _poison((3 * n, c), dtype)
    wide[::3] = base
    yield "every third row", wide[::3]
    wide = _poison((2 * n + 1, 3 * c + 1), dtype)
    wide[1::2, 1::3] = base
    yield "every second row and third column", wide[1::2, 1::3]
    wide = _poison((2 * c, 2 * n), dtype)
    wide.T[::2, ::2] = base
    yield "strided Fortran order", wide.T[::2, ::2]
    wide = _poison((c, n + 5), dtype)
    wide.T[2 : n + 2] = base
    yield "rows of a taller Fortran matrix", wide.T[2 : n + 2]

    yield "rows reversed", base[::-1].copy()[::-1]
    yield "columns reversed", base[:, ::-1].copy()[:, ::-1]
    yield "both reversed, Fortran order", np.asfortranarray(base[::-1, ::-1])[::-1, ::-1]
    wide = _poison((n, 2 * c), dtype)
    wide[:, ::-2] = base
    yield "columns reversed, every second", wide[:, ::-2]

    packed = np.zeros(n, np.dtype([("before", "u1"), ("row", dtype, (c,))]))
    packed["row"] = base
    yield "field of a packed record", packed["row"]
    element = np.zeros((n, c), np.dtype([("x", dtype), ("after", "u1")]))
    element["x"] = base
    yield "elements of a packed record", element["x"]
    aligned = np.zeros((n, c), np.dtype([("x", dtype), ("y", dtype)], align=True))
    aligned["x"] = base
    yield "field of an aligned record", aligned["x"]
    raw = np.zeros(base.nbytes + 1, np.uint8)
    shifted = raw[1:].view(dtype).reshape(n, c) if base.size else base.copy()
    shifted[...] = base
    yield "unaligned", shifted

    if dtype.itemsize > 1 and dtype != BF16:
        swapped = base.astype(dtype.newbyteorder())
        yield "byte-swapped", swapped
        yield "byte-swapped, Fortran order", np.asfortranarray(swapped)
        yield "byte-swapped, columns reversed", swapped[:, ::-1].copy()[:, ::-1]

    locked = base.copy()
    locked.flags.writeable = False
    yield "read-only", locked
    locked = np.asfortranarray(base).copy(order="F")
    locked.flags.writeable = False
    yield "read-only, Fortran order", locked


def is_linear(given: str) -> bool:
    """Whether a space holds masses (and not their logarithms)."""
    assert given in LINEAR + LOGARITHMIC
    return given in LINEAR
