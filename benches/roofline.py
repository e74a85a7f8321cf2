"""How near each quantity comes to reading the data once, by the number of classes, of rows and of threads.

    python benches/roofline.py                      three tables, about three minutes on two cores
    python benches/roofline.py --plot roofline.png  and the first two as a picture
    python benches/roofline.py --smoke              does it run: tiny arrays, one round

The read limit is torch's maximum over the same bytes, labels included, on the same threads; it takes turns with what
is held against it. Before anything is timed, a sample of its answers is held against a reference in extended precision;
a wrong one makes the exit status 1.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import harness
import libraries
import numpy as np
import torch
from harness import markdown, significant
from libraries import Measure
from peers import BUSY, READ, progress, read_once
from work import Array, Case, Data, relative_error, sample_truth

CLASSES = (2, 3, 5, 7, 10, 16, 24, 32, 48, 64, 100, 128, 129, 256, 1000, 4096, 32_000, 128_256)
COUNTS = "entropy of counts"
QUANTITIES = {
    "entropy of probabilities": Measure.ENTROPY_PROBS,
    COUNTS: Measure.ENTROPY_PROBS,
    "entropy from logits": Measure.ENTROPY_LOGITS,
    "cross entropy with labels": Measure.CROSS_ENTROPY,
    "KL of probabilities": Measure.KL_PROBS,
    "KL of two logit rows": Measure.KL_LOGITS,
    "JS of two logit rows": Measure.JS_LOGITS,
}
OF_ROWS = ("entropy of probabilities", "KL of probabilities")
OF_THREADS = ("KL of two logit rows", "entropy of probabilities")
# Okabe and Ito's colours, which colour-blind readers tell apart.
COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#D55E00", "#000000", "#CC79A7", "#E69F00")

Curves = dict[str, dict[int, float]]


@dataclass
class Bench:
    """What the tables share."""

    options: argparse.Namespace
    ours: libraries.Library
    data: Data = field(default_factory=Data)
    wrong: list[str] = field(default_factory=list)

    def prepared(self, name: str, rows: int, classes: int) -> tuple[partial[Any], tuple[Array, ...]]:
        """Return kullback's call and its inputs, having checked the answers."""
        case = Case("roofline", QUANTITIES[name], rows, classes)
        inputs = self.data.inputs(case)
        call = partial(self.ours.measures[case.measure], *inputs)
        if name == COUNTS:
            counts = np.floor(np.exp(self.data.inputs(Case("roofline", Measure.ENTROPY_LOGITS, rows, classes))[0]) * 20)
            counts[:, 0] += 1  # No row is without mass.
            inputs, call = (counts,), partial(self.ours.measures[case.measure], counts, given="counts")
        index, truth = sample_truth(case, inputs)
        error = float(relative_error(call()[index], truth).max())
        if error > case.bound:
            self.wrong.append(f"{name}, {rows} × {classes}: off by {error:.2g}, allowed {case.bound:.2g}")
        return call, inputs

    def race(self, calls: dict[str, harness.Call], budget: float) -> harness.Race:
        """Time in turn: one round of a smoke test, else as many as fit the budget."""
        return harness.race(calls, rounds=1 if self.options.smoke else self.options.rounds, budget=budget)


def reading(inputs: tuple[Array, ...], threads: int) -> harness.Call:
    """Return the read limit on so many threads, which torch may have to start: that takes less than 0.1 ms."""
    read = read_once(tuple(x.view(np.float64) if x.dtype.kind == "i" else x for x in inputs), threads)
    assert read is not None

    def run() -> Any:
        torch.set_num_threads(threads)
        return read()

    return run


def by_classes(bench: Bench) -> tuple[str, Curves]:
    """Gigabytes a second by the number of classes, and in brackets the share of the read limit."""
    curves: Curves = {name: {} for name in (*QUANTITIES, READ)}
    table = []
    for classes in CLASSES[::3] if bench.options.smoke else CLASSES:
        rows = max(1, round(bench.options.megabytes * 1e6 / (4 * classes)))
        cells, limits = [], []
        for name in QUANTITIES:
            call, inputs = bench.prepared(name, rows, classes)
            race = bench.race({name: call, READ: reading(inputs, bench.options.threads)}, bench.options.budget)
            gigabytes = sum(x.nbytes for x in inputs) / 1e9
            curves[name][classes] = gigabytes / race.median(name)
            limits.append(gigabytes / race.median(READ))
            cells.append(f"{significant(curves[name][classes])} ({significant(race.ratio(READ, name), 2)})")
        curves[READ][classes] = statistics.median(limits)
        table.append([str(classes), significant(curves[READ][classes]), *cells])
        progress(f"{rows} × {classes}: {', '.join(cells)}")
    return markdown(["classes; GB/s (share of the read limit)", READ, *QUANTITIES], table), curves


def by_rows(bench: Bench) -> tuple[str, Curves]:
    """Microseconds by the number of rows of ten classes, in loops and without torch: its threads spin after a call."""
    curves: Curves = {name: {} for name in OF_ROWS}
    table = []
    rounds, seconds = (1, 1e-4) if bench.options.smoke else (bench.options.rounds or 21, 3e-3)
    for rows in [10**k for k in range(4 if bench.options.smoke else 7)]:
        calls = {f"call{i}": bench.prepared(name, rows, 10)[0] for i, name in enumerate(OF_ROWS)}
        statements = {name: f"{call}()" for name, call in zip(OF_ROWS, calls, strict=True)}
        race = harness.race_statements(statements, calls, rounds=rounds, loop_seconds=seconds)
        for name in OF_ROWS:
            curves[name][rows] = race.median(name) * 1e6
        table.append([str(rows), *(significant(curves[name][rows]) for name in OF_ROWS)])
    return markdown(["rows of 10; µs", *OF_ROWS], table), curves


def by_threads(bench: Bench) -> str:
    """Milliseconds by the number of threads, all of them in turn, and in brackets one thread's time over it."""
    most = bench.options.threads
    counts = [n for n in range(1, most + 1) if n <= 8 or n % 8 == 0 or n == most]
    shape = (100 if bench.options.smoke else 10_000, 1000)
    columns: dict[str, list[str]] = {}
    for name in OF_THREADS:
        call, inputs = bench.prepared(name, *shape)
        calls: dict[str, harness.Call] = {}
        for n in counts:
            calls |= {f"{name} {n}": partial(call, threads=n), f"{READ}: {name} {n}": reading(inputs, n)}
            if not np.array_equal(calls[f"{name} {n}"](), call()):
                bench.wrong.append(f"{name}: {n} threads give other answers")
        race = bench.race(calls, 2 * bench.options.budget * len(counts))
        for title in (name, f"{READ}: {name}"):
            times = {f"{title} {n}": race.ratio(f"{title} 1", f"{title} {n}") for n in counts}
            columns[title] = [f"{significant(race.median(key) * 1e3)} ({gain:.2f}×)" for key, gain in times.items()]
    table = [[str(n), *cells] for n, *cells in zip(counts, *columns.values(), strict=True)]
    return markdown([f"threads; ms for {shape[0]} × {shape[1]} (times one thread's speed)", *columns], table)


def draw(path: Path, title: str, speeds: Curves, times: Curves) -> None:
    """Draw speed against classes and time against rows, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), dpi=100, layout="constrained", facecolor="white")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    colours = dict(zip(QUANTITIES, COLOURS, strict=True))
    for axes, curves in ((left, speeds), (right, times)):
        for name, curve in curves.items():
            dash, marker = ("--", "") if name == READ else ("-", "o")
            style = {"linestyle": dash, "marker": marker, "markersize": 4, "color": colours.get(name, "#777777")}
            axes.loglog(list(curve), list(curve.values()), label=name, **style)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    left.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}".replace(",", "\N{NO-BREAK SPACE}"))
    # Room for the legend below the lines.
    left.set_ylim(bottom=left.get_ylim()[0] / 4)
    left.legend(fontsize=10, frameon=False, ncols=2, loc="lower right")
    right.legend(fontsize=10, frameon=False, loc="upper left")
    left.set(xlabel="classes", ylabel="GB/s")
    right.set(xlabel="rows of 10 classes", ylabel="µs")
    figure.savefig(path, format="png", pil_kwargs={"optimize": True})


def main(arguments: list[str] | None = None) -> int:
    """Run and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=40.0, help="size of an array (40)")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--budget", type=float, default=0.7, help="seconds a case (0.7)")
    parser.add_argument("--threads", type=int, default=harness.usable_cpus())
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, one round")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    options = parser.parse_args(arguments)
    if options.smoke:
        options.megabytes = 0.05
    start, load = time.perf_counter(), harness.load() or 0.0
    bench = Bench(options, libraries.kullback(options.threads))
    title = f"{harness.cpu_model()}, {options.threads} threads; float32, {options.megabytes:g} MB an array"
    print(f"{title}; load {load:.1f} at the start" + " (busy: do not quote these figures)" * (load > BUSY))
    table, speeds = by_classes(bench)
    print(f"\n{table}", flush=True)
    table, times = by_rows(bench)
    print(f"\n{table}\n\n{by_threads(bench)}")
    if options.plot:
        draw(options.plot, title, speeds, times)
    for line in bench.wrong:
        progress(f"WRONG {line}")
    progress(f"{time.perf_counter() - start:.0f} s")
    return 1 if bench.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
