"""Questions with one right answer that not every library gives: each is put to all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from libraries import Library, Measure, values
from work import REFERENCE, Array, relative_error

# An answer that differs by more than this, relatively, is wrong; four digits are shown.
WRONG = 1e-3


@dataclass(frozen=True)
class Edge:
    """A question: the inputs, and what is read off the answer.

    Attributes
    ----------
    title
        What is asked.
    measure, inputs
        What is computed of which arrays.
    truth
        The right value; None: the reference's.
    read
        Reduces the results to the value shown; by default there is one result.
    """

    title: str
    measure: Measure
    inputs: tuple[Array, ...]
    truth: float | None = None
    read: Callable[[Array], float] = lambda results: float(np.ravel(results)[0])

    def right(self) -> float:
        """Return the right value."""
        return self.read(REFERENCE[self.measure](*self.inputs)) if self.truth is None else self.truth

    def ask(self, library: Library) -> float | str:
        """Return the library's value, or the name of the error it raised."""
        try:
            with np.errstate(all="ignore"):
                return self.read(values(library.measures[self.measure](*map(library.convert, self.inputs))))
        except Exception as error:  # noqa: BLE001 - whatever a library raises is its answer
            return type(error).__name__


def edges() -> Iterator[Edge]:
    """Return the questions of docs/numerics.md, in its order."""
    rng = np.random.default_rng(1)
    row = np.array([[0.0, 0.5, 0.5]], np.float32)
    yield Edge("entropy of [0, ½, ½]", Measure.ENTROPY_PROBS, (row,))

    half, one = np.array([[0.5, 0.5]], np.float32), np.array([[1.0, 0.0]], np.float32)
    yield Edge("KL([½, ½] ‖ [1, 0]): no support", Measure.KL_PROBS, (half, one), np.inf)

    yield Edge("JS distance of disjoint rows", Measure.JS_PROBS, (one, one[:, ::-1].copy()))

    holes = np.where(rng.random((2, 1, 1000)) < 0.3, 0, rng.random((2, 1, 1000)))
    holes /= holes.sum(axis=-1, keepdims=True)
    yield Edge("JS distance, 30 % zeros in each row", Measure.JS_PROBS, (holes[0], holes[1]))

    weights = rng.random((1000, 100))
    yield Edge(
        "JS distance of weights and their triple: share of NaN",
        Measure.JS_COUNTS,
        (weights, 3 * weights),
        0.0,
        lambda results: float(np.isnan(results.astype(np.float64)).mean()),
    )

    tiny = np.array([[1e-310, 0.5, 0.5]]), np.array([[0.2, 0.3, 0.5]])
    yield Edge("JS distance with a subnormal", Measure.JS_PROBS, tiny)

    p, q = rng.dirichlet(np.ones(1000), (2, 1))
    yield Edge("KL of 1000 Dirichlet classes, f64", Measure.KL_PROBS, (p, q))

    masked = np.array([[0.0, -np.inf, 1.0]], np.float32), np.array([[0.5, -np.inf, 0.0]], np.float32)
    yield Edge("KL of logits, −inf in both rows", Measure.KL_LOGITS, masked)

    a = 3 * rng.standard_normal((1000, 1000), dtype=np.float32)
    b = a + np.float32(1e-4) * rng.standard_normal(a.shape, dtype=np.float32)
    yield Edge(
        "KL of logits 1e-4 apart: share below 0",
        Measure.KL_LOGITS,
        (a, b),
        0.0,
        lambda results: float((results < 0).mean()),
    )
    yield Edge("KL of the first two of those rows", Measure.KL_LOGITS, (a[:1], b[:1]))

    sure = np.array([[20.0, 0.0, 0.0]], np.float32)
    yield Edge("cross entropy of [20, 0, 0], label 0", Measure.CROSS_ENTROPY, (sure, np.array([0])))
    yield Edge("entropy of softmax [20, 0, 0]", Measure.ENTROPY_LOGITS, (sure,))


def is_right(value: float | str, truth: float) -> bool:
    """Whether an answer is within `WRONG` of the truth."""
    if isinstance(value, str):
        return False
    return bool(relative_error(np.asarray(value), np.asarray(truth))[()] <= WRONG)


def examine(libraries: list[Library]) -> list[dict[str, Any]]:
    """Put every question to every library that has the measure."""
    table = []
    for edge in edges():
        truth = edge.right()
        asked = {library.name: edge.ask(library) for library in libraries if edge.measure in library.measures}
        answers = {name: {"value": value, "right": is_right(value, truth)} for name, value in asked.items()}
        table.append({"question": edge.title, "truth": truth, "answers": answers})
    return table
