"""Interleaved timing, the machine's description, and tables."""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
import timeit
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

# Idle time before each measurement: OpenMP's workers spin after a parallel region (torch's for 3 ms on two cores of an
# EPYC 9005) and would take a core from whoever comes next.
SETTLE_SECONDS = 0.01
# A contender faster than this is called several times within a round and the median is taken.
SHORT_SECONDS = 0.004
MAX_REPEATS = 5

Call = Callable[[], Any]


@dataclass(frozen=True)
class Race:
    """Seconds of each contender, round by round."""

    seconds: dict[str, list[float]]

    @property
    def rounds(self) -> int:
        """Number of rounds."""
        return len(next(iter(self.seconds.values())))

    def median(self, name: str) -> float:
        """Median seconds of a contender."""
        return statistics.median(self.seconds[name])

    def ratio(self, slow: str, fast: str) -> float:
        """Median over the rounds of seconds(slow) / seconds(fast)."""
        return statistics.median(self.ratios(slow, fast))

    def ratios(self, slow: str, fast: str) -> list[float]:
        """Return the ratio in each round."""
        return [a / b for a, b in zip(self.seconds[slow], self.seconds[fast], strict=True)]

    def quartiles(self, slow: str, fast: str) -> tuple[float, float]:
        """Lower and upper quartile of the ratio over the rounds."""
        ratios = self.ratios(slow, fast)
        if len(ratios) < 2:
            return ratios[0], ratios[0]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return low, high


def clock(call: Call, repeats: int = 1) -> float:
    """Median seconds of one call."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def race(contenders: dict[str, Call], *, rounds: int | None, budget: float) -> Race:
    """Time the contenders in turn, A B C A B C ..., after one call each that does not count.

    Parameters
    ----------
    contenders
        Calls by name, in the order they run.
    rounds
        Number of rounds; None: as many as fit in `budget` seconds, from 7 to 41.
    budget
        Seconds the race may take.
    """
    for call in contenders.values():
        call()
    once = {name: clock(call) for name, call in contenders.items()}
    repeats = {name: max(1, min(MAX_REPEATS, int(SHORT_SECONDS / max(t, 1e-9)))) for name, t in once.items()}
    one_round = sum(once[name] * repeats[name] + SETTLE_SECONDS for name in contenders)
    count = rounds if rounds is not None else max(7, min(41, int(budget / one_round)))
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(count):
        for name, call in contenders.items():
            time.sleep(SETTLE_SECONDS)
            seconds[name].append(clock(call, repeats[name]))
    return Race(seconds)


def race_statements(statements: dict[str, str], names: dict[str, Any], *, rounds: int, loop_seconds: float) -> Race:
    """Time statements of about a microsecond with `timeit`, in loops of about `loop_seconds`, in turn.

    Parameters
    ----------
    statements
        Python source by contender.
    names
        What the statements refer to.
    rounds
        Number of rounds.
    loop_seconds
        Length of one loop.
    """
    timers = {name: timeit.Timer(statement, globals=names) for name, statement in statements.items()}
    loops = {name: max(1, int(loop_seconds / (timer.timeit(50) / 50))) for name, timer in timers.items()}
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, timer in timers.items():
            seconds[name].append(timer.timeit(loops[name]) / loops[name])
    return Race(seconds)


def cpu_model() -> str:
    """Return the processor's name as the system gives it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def load() -> float | None:
    """Return the mean number of runnable processes over the last minute, where the system tells."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def usable_cpus() -> int:
    """Return the number of processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose first column is text and whose other columns are numbers."""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *rows])


def significant(x: float, digits: int = 3) -> str:
    """Return a number to so many significant digits, without an exponent between 1e-3 and 1e6.

    Examples
    --------
    >>> significant(0.01234), significant(1234.5), significant(3e-9)
    ('0.0123', '1234', '3e-09')
    """
    if x == 0 or not math.isfinite(x):
        return str(x)
    if not 1e-3 <= abs(x) < 1e6:
        return f"{x:.{digits - 1}g}"
    whole = len(str(int(abs(x)))) if abs(x) >= 1 else 0
    if abs(x) >= 1:
        return f"{x:.{max(0, digits - whole)}f}"
    return f"{x:.{digits}g}"
