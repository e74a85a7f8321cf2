"""The work that is timed: what is computed, on how many rows of how many classes, of which dtype and layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import extended
import numpy as np
from libraries import Measure, optional
from numpy.typing import NDArray

Array = NDArray[Any]

# Classes of a reduced case, in elements: what a smoke test computes.
SMOKE_ELEMENTS = 16_000
# Elements of the rows that are checked against the reference.
CHECKED_ELEMENTS = 150_000

REFERENCE: dict[Measure, Callable[..., Any]] = {
    Measure.ENTROPY_PROBS: extended.entropy_of_probs,
    Measure.ENTROPY_LOGITS: extended.entropy_of_logits,
    Measure.CROSS_ENTROPY: extended.nll_of_logits,
    Measure.KL_PROBS: extended.kl_of_probs,
    Measure.KL_LOGITS: extended.kl_of_logits,
    Measure.JS_LOGITS: extended.js_of_logits,
    Measure.JS_PROBS: extended.js_distance_of_probs,
    Measure.JS_COUNTS: extended.js_distance_of_probs,
    Measure.JS_PAIRWISE: lambda p, q: extended.js_distance_of_probs(p[:, None], q[None]),
}

OF_PROBS = {Measure.ENTROPY_PROBS, Measure.KL_PROBS, Measure.JS_PROBS, Measure.JS_PAIRWISE}
OF_TWO = {Measure.KL_PROBS, Measure.KL_LOGITS, Measure.JS_LOGITS, Measure.JS_PROBS, Measure.JS_PAIRWISE}

# Relative error allowed for kullback's results, by storage; docs/numerics.md has the bounds in ulp.
BOUND = {"float64": 1e-13}
BOUND_F32 = {
    Measure.ENTROPY_PROBS: 3.6e-7,
    Measure.ENTROPY_LOGITS: 4.8e-7,
    Measure.CROSS_ENTROPY: 4.8e-7,
    Measure.KL_PROBS: 2e-6,
    Measure.KL_LOGITS: 5e-7,
    Measure.JS_LOGITS: 5e-7,
    Measure.JS_PROBS: 2e-6,
    Measure.JS_PAIRWISE: 2e-6,
}


@dataclass(frozen=True)
class Case:
    """One row of a table.

    Attributes
    ----------
    suite
        Table the case belongs to.
    measure, rows, classes, dtype
        What is computed on how much; `rows` is the number on each side where pairs are all against all.
    pair
        Whether the second row is the first with noise of 0.1 on its logits, or unrelated.
    order
        Memory order of the inputs.
    peers
        Whether the other libraries take part.
    versus
        Further settings of kullback on the same values: "1 thread", "row-major", "float32", or an instruction set.
    """

    suite: str
    measure: Measure
    rows: int
    classes: int
    dtype: str = "float32"
    pair: Literal["near", "far"] = "near"
    order: Literal["C", "F"] = "C"
    peers: bool = True
    versus: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Title, as in the first column of the table."""
        rows = f"{self.rows:,}".replace(",", "\N{NO-BREAK SPACE}")
        parts = [self.measure.value, f"{rows} × {self.classes}"]
        if self.measure is Measure.JS_PAIRWISE:
            parts[1] = f"{rows} × {rows} × {self.classes}"
        parts += [self.dtype] * (self.dtype != "float32")
        parts += ["unrelated rows"] * (self.pair == "far")
        parts += ["column-major"] * (self.order == "F")
        return ", ".join(parts)

    @property
    def bound(self) -> float:
        """Relative error allowed for kullback."""
        return BOUND.get(self.dtype, BOUND_F32[self.measure])

    @property
    def megabytes(self) -> float:
        """Size of one input array."""
        return self.rows * self.classes * {"float64": 8, "float32": 4}.get(self.dtype, 2) / 1e6

    def reduced(self) -> Case:
        """Return the case with few rows."""
        if self.measure is Measure.JS_PAIRWISE:
            return replace(self, rows=12)
        return replace(self, rows=max(1, min(self.rows, SMOKE_ELEMENTS // self.classes)))


class Data:
    """Inputs of cases, cut from two buffers of normal deviates that only grow."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(20_26)
        self._buffers = [np.empty(0, np.float32), np.empty(0, np.float32)]

    def _logits(self, stream: int, rows: int, classes: int) -> Array:
        size = rows * classes
        if self._buffers[stream].size < size:
            self._buffers[stream] = self._rng.standard_normal(size, dtype=np.float32) * np.float32(3)
        return self._buffers[stream][:size].reshape(rows, classes)

    def inputs(self, case: Case) -> tuple[Array, ...]:
        """Return the arrays of a case: one or two of rows, and labels where the measure takes them."""
        first = self._logits(0, case.rows, case.classes)
        arrays = [first]
        if case.measure in OF_TWO:
            other = self._logits(1, case.rows, case.classes)
            near = case.pair == "near" and case.measure is not Measure.JS_PAIRWISE
            arrays.append(first + other * np.float32(0.1 / 3) if near else other)
        if case.measure in OF_PROBS:
            arrays = [probabilities(x, case.dtype) for x in arrays]
        arrays = [np.asarray(x.astype(numpy_dtype(case.dtype), copy=False), order=case.order) for x in arrays]
        if case.measure is Measure.CROSS_ENTROPY:
            arrays.append(np.random.default_rng(7).integers(0, case.classes, case.rows))
        return tuple(arrays)


def probabilities(logits: Array, dtype: str) -> Array:
    """Softmax in the storage dtype, for logits that cannot overflow."""
    p = np.exp(logits, dtype=np.float64 if dtype == "float64" else np.float32)
    p /= p.sum(axis=-1, keepdims=True)
    return p


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the dtype of that name; bfloat16 needs ml_dtypes."""
    if name != "bfloat16":
        return np.dtype(name)
    ml_dtypes = optional("ml_dtypes")
    if ml_dtypes is None:
        raise ModuleNotFoundError("bfloat16 needs the ml_dtypes package")
    found: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return found


def sample_truth(case: Case, inputs: tuple[Array, ...]) -> tuple[Any, NDArray[np.longdouble]]:
    """Return an index of evenly spaced results and their reference values."""
    count = max(1, min(case.rows, CHECKED_ELEMENTS // case.classes))
    if case.measure is Measure.JS_PAIRWISE:
        side = slice(0, max(1, min(case.rows, int(count**0.5))))
        return (side, side), REFERENCE[case.measure](*(x[side] for x in inputs))
    index = np.linspace(0, case.rows - 1, count).astype(np.intp)
    return index, REFERENCE[case.measure](*(x[index] for x in inputs))


def relative_error(got: Array, truth: Array) -> NDArray[np.float64]:
    """abs(got - truth) / abs(truth): 0 where both are equal (inf too), inf where only one is NaN, infinite or 0."""
    wide = got.astype(np.longdouble)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.where(wide == truth, 0, np.abs(wide - truth) / np.abs(truth))
    return np.asarray(np.where(np.isnan(error), np.inf, error).astype(np.float64))


def core() -> Iterator[Case]:
    """Return the table of work, on which the geometric means are taken."""
    sizes = [(1_000_000, 10), (100_000, 100), (10_000, 1000)]
    for measure in (Measure.ENTROPY_PROBS, Measure.KL_PROBS):
        for rows, classes in sizes:
            yield Case("core", measure, rows, classes, versus=("1 thread",))
        yield Case("core", measure, 10_000, 1000, "float64", versus=("1 thread",))
    for rows, classes in [(1_000_000, 10), (10_000, 1000), (200, 128_256)]:
        yield Case("core", Measure.CROSS_ENTROPY, rows, classes)
    yield Case("core", Measure.ENTROPY_LOGITS, 10_000, 1000)
    for rows, classes in [(1_000_000, 10), (10_000, 1000), (200, 128_256)]:
        yield Case("core", Measure.KL_LOGITS, rows, classes)
    yield Case("core", Measure.KL_LOGITS, 200, 128_256, "bfloat16")
    yield Case("core", Measure.JS_LOGITS, 10_000, 1000)
    yield Case("core", Measure.JS_PROBS, 100_000, 100, "float64")
    yield Case("core", Measure.JS_PAIRWISE, 1000, 100, "float64")


def limits(levels: tuple[str, ...]) -> Iterator[Case]:
    """Return the read-limit cases: 4 and 40 MB at 1000 classes, 160 MB at 100 to 128 256, one array of 512 MB."""
    measures: list[tuple[Measure, Literal["near", "far"]]] = [
        (Measure.ENTROPY_PROBS, "near"),
        (Measure.KL_PROBS, "near"),
        (Measure.CROSS_ENTROPY, "near"),
        (Measure.KL_LOGITS, "near"),
        (Measure.KL_LOGITS, "far"),
    ]
    for rows, classes in [(1000, 1000), (10_000, 1000), (400_000, 100), (40_000, 1000), (312, 128_256)]:
        for measure, pair in measures:
            versus = ("1 thread", *levels[1:])
            yield Case("limits", measure, rows, classes, pair=pair, peers=False, versus=versus)
    yield Case("limits", Measure.ENTROPY_PROBS, 128_000, 1000, peers=False, versus=("1 thread", *levels[1:]))


def short() -> Iterator[Case]:
    """Rows of few classes: 8 million elements, and for 16 to 64 classes also 1 MB that stays in cache."""
    for measure in (Measure.CROSS_ENTROPY, Measure.ENTROPY_LOGITS):
        for classes in (2, 3, 5, 7, 10, 15, 16, 24, 32):
            yield Case("short", measure, 8_000_000 // classes, classes)
    for classes in (16, 32, 64):
        yield Case("short", Measure.CROSS_ENTROPY, 250_000 // classes, classes)


def layouts() -> Iterator[Case]:
    """Column-major against row-major of the same shape, 16-bit against float32: 1 MB in cache, 40 to 160 MB not."""
    for measure in (Measure.ENTROPY_PROBS, Measure.KL_LOGITS):
        for elements in (250_000, 40_000_000):
            for classes in (10, 100):
                rows = elements // classes
                yield Case("layouts", measure, rows, classes, order="F", peers=False, versus=("row-major",))
    for dtype in ("bfloat16", "float16"):
        for measure in (Measure.ENTROPY_LOGITS, Measure.KL_LOGITS):
            for rows in (250, 40_000):
                yield Case("layouts", measure, rows, 1000, dtype, peers=False, versus=("float32",))


SUITES = ("core", "short", "limits", "layouts")


def cases(suites: set[str], levels: tuple[str, ...]) -> list[Case]:
    """Return the cases of the suites, in the order of the tables."""
    everything = {"core": core(), "short": short(), "limits": limits(levels), "layouts": layouts()}
    return [case for suite in SUITES if suite in suites for case in everything[suite]]
