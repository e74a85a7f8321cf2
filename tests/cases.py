"""One row per quantity: its function, its oracle, and how exact it must be.

A new quantity is one more row of `CASES`: the tests of accuracy, layouts, masks, threads, instruction sets, arguments,
edges, tensors and the bits in `golden.json` take their functions from here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import kullback as kb
import numpy as np
import reference
from arrays import DTYPES
from kullback import _core
from reference import LINEAR, SPACES, Exact, ulp


@dataclass(frozen=True)
class Target:
    """The error allowed: so many units in the last place, or a share of the value (but not of less than `floor`).

    `zero` is what may be left where the true value is 0 although the stored rows differ: proportional counts, logits
    a common offset apart that is not exact. (Where they do not differ it is 0: tests/test_identities.py.)
    """

    ulps: float = 0.0
    relative: float = 0.0
    floor: float = 0.0
    zero: float = 0.0

    def allowed(self, exact: np.ndarray, dtype: Any) -> np.ndarray:
        """The largest absolute error allowed at each exact value."""
        size = np.abs(exact)
        bound = self.ulps * ulp(size, dtype) if self.ulps else self.relative * np.maximum(size, self.floor)
        return np.where(size == 0, self.zero, np.maximum(bound, np.finfo(dtype).smallest_subnormal))


LINEAR_SUM = {"f4": Target(ulps=2), "f8": Target(ulps=4)}
LOGARITHMIC_SUM = {"f4": Target(ulps=4), "f8": Target(ulps=8)}
LINEAR_DIVERGENCE = {"f4": Target(relative=2e-6, zero=1e-15), "f8": Target(relative=1e-13, floor=1e-12, zero=1e-15)}
LOGARITHMIC_DIVERGENCE = {
    "f4": Target(relative=5e-7, floor=1e-29, zero=1e-15),
    "f8": Target(relative=1e-13, floor=1e-12, zero=1e-15),
}

# Classes whose mass is below the smallest normal number times the largest count as 0, and with them at most this
# multiple of that number of an entropy (-ln of it is 87 in f32; 708 in f64, where nothing is that small).
UNDERFLOW = 90
# A pair of a linear and a logarithmic space is, for a divergence, staged through logarithms in f64: how many of their
# ulp may be lost.
STAGED = 4


@dataclass(frozen=True)
class Case:
    """A quantity under test.

    Parameters
    ----------
    function, oracle
        What is tested, and the rigorous value on normalised rows.
    rows
        How many rows it takes: 1 or 2.
    linear, logarithmic
        Its targets by result dtype, for probabilities and counts and for logarithms; mixed pairs take the worse.
    labels
        Whether it takes a class per row.
    root
        Whether the value is the root of what the targets speak of.
    divergence
        Whether it is 0 for equal rows, and only for them.
    """

    function: Callable[..., Any]
    oracle: Callable[..., Any]
    rows: int
    linear: dict[str, Target]
    logarithmic: dict[str, Target]
    labels: bool = False
    root: bool = False
    divergence: bool = False
    name: str = field(default="")

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.function.__name__)

    def __str__(self) -> str:
        return self.name

    @property
    def arguments(self) -> tuple[str, ...]:
        """The names of the rows in messages."""
        return ("q",) if self.labels else ("p", "q")[: self.rows]

    def spaces(self, mixed: bool = True) -> list[Any]:
        """Every `given` it accepts, pairs written out."""
        if self.rows == 1:
            return list(SPACES)
        return [pair for pair in product(SPACES, SPACES) if mixed or pair[0] == pair[1]]

    def left(self, space: str, dtype: Any) -> float:
        """What may be left of a value that is 0 although the stored rows differ."""
        zero = (self.linear if space in LINEAR else self.logarithmic)[np.dtype(dtype).str[1:]].zero
        return zero**0.5 if self.root else zero

    def __call__(self, *rows: Any, labels: Any = None, **keywords: Any) -> Any:
        """Call the function with as many of `rows` as it takes."""
        return self.function(*rows[: self.rows], *([labels] if self.labels else []), **keywords)

    def exact(self, *rows: np.ndarray, labels: Any = None, **keywords: Any) -> Exact:
        """Evaluate the oracle on the stored rows."""
        return reference.exact(self.oracle, *rows[: self.rows], labels=labels if self.labels else None, **keywords)

    def allowed(self, exact: Exact, given: str | tuple[str, str], dtype: Any) -> np.ndarray:
        """The error allowed at each value."""
        key = np.dtype(dtype).str[1:]
        spaces = {given} if isinstance(given, str) else set(given[: self.rows])
        tables = ([self.linear] if spaces & set(LINEAR) else []) + ([self.logarithmic] if spaces - set(LINEAR) else [])

        def bound(values: np.ndarray) -> np.ndarray:
            bounds: np.ndarray = np.max([table[key].allowed(values, dtype) for table in tables], axis=0)
            return bounds

        if not self.root:
            return bound(exact.hi)
        with np.errstate(divide="ignore", invalid="ignore"):
            squares = bound(exact.hi**2)
            return np.where(
                exact.hi > 0, np.minimum(squares / exact.hi, np.sqrt(squares)), np.sqrt(squares)
            ) + np.where(exact.hi > 0, ulp(exact.hi, dtype), 0)


SUM = (LINEAR_SUM, LOGARITHMIC_SUM)
DIVERGENCE = (LINEAR_DIVERGENCE, LOGARITHMIC_DIVERGENCE)
CASES = (
    ENTROPY := Case(kb.entropy, reference.entropy, 1, *SUM),
    CROSS_ENTROPY := Case(kb.cross_entropy, reference.cross_entropy, 2, *SUM),
    KL := Case(kb.kl_divergence, reference.kl_divergence, 2, *DIVERGENCE, divergence=True),
    JS := Case(kb.js_divergence, reference.js_divergence, 2, *DIVERGENCE, divergence=True),
    JS_DISTANCE := Case(kb.js_distance, reference.js_distance, 2, *DIVERGENCE, divergence=True, root=True),
    NLL := Case(kb.nll, reference.nll, 1, *SUM, labels=True),
)
PAIRED = tuple(case for case in CASES if case.rows == 2)
DIVERGENCES = tuple(case for case in CASES if case.divergence)


def result_dtype(*dtypes: Any) -> np.dtype:
    """The dtype of a result: numpy's promotion, f32 for f16 and bf16, f64 for integers and booleans."""
    found = np.result_type(*(np.dtype(d) for d in dtypes))
    if found in (DTYPES["f2"], DTYPES["bf16"]):
        return np.dtype(np.float32)
    return found if found.kind == "f" else np.dtype(np.float64)


def bits(x: Any) -> np.ndarray:
    """The bytes of a result, NaN and the sign of 0 included."""
    array = np.ascontiguousarray(x)
    return array.view(np.uint8).reshape(*np.shape(x), array.dtype.itemsize) if array.size else array.view(np.uint8)


def same_bits(one: Any, other: Any) -> bool:
    """Whether two results agree in shape, dtype and every bit."""
    one, other = np.asarray(one), np.asarray(other)
    return one.shape == other.shape and one.dtype == other.dtype and np.array_equal(bits(one), bits(other))


def first_difference(one: Any, other: Any) -> str:
    """Where two results differ, for a failure's message."""
    one, other = np.asarray(one), np.asarray(other)
    if one.shape != other.shape or one.dtype != other.dtype:
        return f"{one.dtype}{one.shape} against {other.dtype}{other.shape}"
    where = np.argwhere(np.atleast_2d((bits(one) != bits(other)).any(-1)))
    index = where[0]
    values = np.atleast_2d(one)[tuple(index)], np.atleast_2d(other)[tuple(index)]
    return f"{len(where)} of {one.size} differ, first at {index.tolist()}: {values[0]!r} against {values[1]!r}"


def assert_same_bits(one: Any, other: Any, *what: Any) -> None:
    """Fail with the first difference."""
    assert same_bits(one, other), f"{' '.join(map(str, what))}: {first_difference(one, other)}"


def on_every_level(call: Callable[[], Any], *what: Any) -> Any:
    """Run `call` on every instruction set of this machine; the results must agree in every bit."""
    before = _core.simd_level()
    results = {}
    try:
        for level in _core.simd_levels():
            _core.set_simd_level(level)
            results[level] = call()
    finally:
        _core.set_simd_level(before)
    first, *others = results
    for level in others:
        assert_same_bits(results[first], results[level], *what, f"{first} against {level}")
    return results[first]


def allowance(
    case: Case, exact: Exact, given: str | tuple[str, str], rows: tuple[np.ndarray, ...], dtype: Any
) -> np.ndarray:
    """The largest absolute error of each row: the targets, and what docs/numerics.md says they do not cover."""
    allowed = case.allowed(exact, given, dtype)
    spaces = set(reference.pair(given)[: case.rows])
    if spaces - set(LINEAR) or case not in DIVERGENCES:
        allowed = allowed + UNDERFLOW * rows[0].shape[-1] * float(np.finfo(dtype).tiny)
    if case in DIVERGENCES and len({space in LINEAR for space in spaces}) == 2:
        with np.errstate(divide="ignore"):
            sizes = [
                np.abs(np.log(x.astype("f8")) if space in LINEAR else x) for x, space in zip(rows, given, strict=True)
            ]
        largest = max(float(x[np.isfinite(x)].max()) for x in sizes)
        allowed = allowed + STAGED * np.finfo("f8").eps * largest * np.sqrt(2 * np.abs(exact.hi))
    return allowed


def check(
    case: Case,
    got: Any,
    exact: Exact,
    given: str | tuple[str, str],
    rows: tuple[np.ndarray, ...],
    kinds: list[str] | None = None,
    allowed: np.ndarray | None = None,
) -> None:
    """Compare results with exact values: NaN and infinities must be the same, errors within the targets.

    A failure prints the worst row.
    """
    got = np.asarray(got)
    assert got.shape == exact.hi.shape, (got.shape, exact.hi.shape)
    if allowed is None:
        allowed = allowance(case, exact, given, rows, got.dtype)
    representable = np.abs(exact.hi) <= float(np.finfo(got.dtype).max)
    expected_special = np.where(representable, 0.0, np.where(np.isnan(exact.hi), np.nan, np.copysign(np.inf, exact.hi)))
    special = np.where(np.isfinite(got), 0.0, got.astype(np.float64))
    with np.errstate(invalid="ignore"):
        error = np.where(representable & np.isfinite(got), exact.error(got), 0.0)
    wrong = ~((special == expected_special) | (np.isnan(special) & np.isnan(expected_special)))
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = np.where(wrong, np.inf, np.where(error > allowed, error / allowed, 0.0))
    if not excess.any():
        return
    flat = int(np.argmax(excess))
    where = np.unravel_index(flat, got.shape)
    unit = error[where] / ulp(exact.hi[where], got.dtype)
    relative = error[where] / abs(exact.hi[where]) if exact.hi[where] else float("inf")
    shown = "\n".join(
        f"  {name} ({np.dtype(x.dtype).name}) = {_show(x[where])}"
        for name, x in zip(case.arguments, rows, strict=False)
    )
    failing = sorted({kinds[i] for i in np.flatnonzero(excess.reshape(-1))}) if kinds else ""
    raise AssertionError(
        f"{case} given {given}: {np.count_nonzero(excess)} of {excess.size} rows exceed the target {failing}\n"
        f"  worst: row {where} {kinds[flat] if kinds else ''}: got {got[where]!r}, exact {exact.hi[where]!r}, "
        f"error {error[where]:.3g} = {unit:.3g} ulp = {relative:.3g} relative, {excess[where]:.3g} times the target\n"
        f"{shown}"
    )


def _show(row: np.ndarray) -> str:
    values = np.asarray(row, np.float64)
    text = ", ".join(float(x).hex() for x in values[:8])
    if len(values) <= 8:
        return f"[{text}]"
    return f"[{text}, …] ({len(values)} classes, maximum {values.max()!r} at {values.argmax()}, sum {values.sum()!r})"
