"""What the figures should reach, and whether they do. The targets are stated in docs/performance.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from harness import Race
from libraries import Measure
from work import Case

# Sizes in MB that count as 'from memory' and as 'in cache'.
FROM_MEMORY = 100.0
IN_CACHE = 2.0
ENTROPY_OF_LOGITS_OR_NLL = {Measure.CROSS_ENTROPY, Measure.ENTROPY_LOGITS}


@dataclass(frozen=True)
class Run:
    """A case, its times, and the worst relative error of each contender's answers."""

    case: Case
    race: Race
    errors: dict[str, float]


@dataclass(frozen=True)
class Target:
    """A figure that was measured, and the least (or the greatest) it should be."""

    what: str
    measured: float
    need: float
    greatest: bool = False

    @property
    def holds(self) -> bool:
        """Whether the target is met."""
        return self.measured <= self.need if self.greatest else self.measured >= self.need


def geometric_mean(ratios: Iterable[float]) -> float:
    """Return exp of the mean logarithm."""
    logs = [math.log(x) for x in ratios]
    return math.exp(sum(logs) / len(logs))


def _ratios(runs: list[Run], slow: str, keep: Callable[[Case], bool], fast: str = "kullback") -> list[float]:
    both = [run for run in runs if slow in run.race.seconds and fast in run.race.seconds]
    return [run.race.ratio(slow, fast) for run in both if keep(run.case)]


def _large(case: Case) -> bool:
    return case.suite == "limits" and case.megabytes > FROM_MEMORY


def targets(runs: list[Run], latency: dict[str, Race]) -> list[Target]:
    """Return the targets for which something was measured."""
    found: list[Target] = []

    def least(
        what: str, need: float, slow: str | tuple[str, ...], keep: Callable[[Case], bool], fast: str = "kullback"
    ) -> None:
        names = (slow,) if isinstance(slow, str) else slow
        ratios = [ratio for name in names for ratio in _ratios(runs, name, keep, fast)]
        if ratios:
            found.append(Target(what, min(ratios), need))

    for library, need in (("torch", 12.0), ("scipy", 25.0)):
        ratios = _ratios(runs, library, lambda case: case.suite == "core")
        if ratios:
            mean = geometric_mean(ratios)
            found.append(Target(f"geometric mean over {len(ratios)} core cases against {library}", mean, need))
    least("least over the core cases against torch", 5, "torch", lambda case: case.suite == "core")

    def simd(case: Case) -> bool:
        return case.suite == "core" and case.measure is Measure.KL_PROBS and case.dtype == "float32"

    rivals = ("NumKong", "SimSIMD")
    least("KL of probabilities, float32, one thread, against NumKong and SimSIMD", 1, rivals, simd, "1 thread")
    least("the same, all threads", 1.9, rivals, simd)

    for measure, pair, need in [
        (Measure.ENTROPY_PROBS, "near", 0.75),
        (Measure.KL_PROBS, "near", 0.75),
        (Measure.CROSS_ENTROPY, "near", 0.6),
        (Measure.KL_LOGITS, "near", 0.6),
        (Measure.KL_LOGITS, "far", 0.45),
    ]:
        label = f"{measure}, {pair}" if measure is Measure.KL_LOGITS else str(measure)

        def kept(case: Case, measure: Measure = measure, pair: str = pair) -> bool:
            return _large(case) and case.measure is measure and case.pair == pair

        least(f"share of the read limit from memory: {label}", need, "read limit", kept)

    def of_classes(low: int, high: int, measures: set[Measure]) -> Callable[[Case], bool]:
        def kept(case: Case) -> bool:
            in_memory = case.suite == "short" and case.megabytes > IN_CACHE
            return in_memory and low <= case.classes <= high and case.measure in measures

        return kept

    least("2 to 6 classes against torch", 5, "torch", of_classes(2, 6, ENTROPY_OF_LOGITS_OR_NLL))
    least("7 to 15 classes against torch", 10, "torch", of_classes(7, 15, ENTROPY_OF_LOGITS_OR_NLL))
    least("16 to 32 classes, cross entropy, against torch", 5, "torch", of_classes(16, 32, {Measure.CROSS_ENTROPY}))
    least("16 to 32 classes, entropy, against torch", 10, "torch", of_classes(16, 32, {Measure.ENTROPY_LOGITS}))
    least(
        "16 to 64 classes in cache, cross entropy, against torch",
        2.5,
        "torch",
        lambda case: case.suite == "short" and case.megabytes <= IN_CACHE,
    )

    def layout(order: str, cached: bool) -> Callable[[Case], bool]:
        def kept(case: Case) -> bool:
            small = case.rows * case.classes <= 1_000_000
            return case.suite == "layouts" and case.order == order and small == cached

        return kept

    least("speed of column-major against row-major, from memory", 0.7, "row-major", layout("F", False))
    least("the same in cache", 0.9, "row-major", layout("F", True))
    least("speed of 16-bit input against float32, from memory", 1.4, "float32", layout("C", False))
    least("the same in cache", 0.9, "float32", layout("C", True))

    def compute_bound(case: Case) -> bool:
        return case.suite == "limits" and case.pair == "far" and 10 < case.megabytes < FROM_MEMORY

    least("all threads against one, compute-bound", 1.85, "1 thread", compute_bound)
    for name, need in (("entropy", 0.5), ("KL", 0.6)):
        if name in latency:
            found.append(Target(f"µs for {name} of one row of 10", latency[name].median("kullback") * 1e6, need, True))
    return found
