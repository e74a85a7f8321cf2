"""Race kullback against other libraries and against reading the data once.

Every row of a table interleaves its contenders in one process, A B C A B C ..., and shows the median time of each and
the median over the rounds of its ratio to kullback's. Before a case is timed, the answers of all are held against an
extended-precision reference; a case that kullback gets wrong is reported and makes the exit status 1.

    python benches/peers.py                         all tables, about four minutes on two cores
    python benches/peers.py --suite core latency    the table of work against the peers, one row of 10
    python benches/peers.py --only 'KL.*128'        the cases whose title matches
    python benches/peers.py --smoke                 does it run: tiny sizes, one round
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import sys
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import harness
import libraries
import numpy as np
from edges import WRONG, examine
from harness import Race, markdown, significant
from libraries import Library, Measure, optional, values
from targets import Run, Target, geometric_mean, targets
from work import SUITES, Array, Case, Data, cases, relative_error, sample_truth

SCHEMA = "kullback.benches.peers/1"
ALL_SUITES = (*SUITES, "latency", "edges")
TITLES = {
    "core": "Against other libraries",
    "short": "Rows of few classes",
    "limits": "Against reading the data once",
    "layouts": "Layouts and 16-bit input",
}
READ = "read limit"
# Runnable processes over the minute before the start, above which somebody else is using the machine.
BUSY = 0.7


@dataclass
class Report:
    """What was measured."""

    machine: dict[str, Any]
    runs: list[Run] = field(default_factory=list)
    latency: dict[str, Race] = field(default_factory=dict)
    edges: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def as_floats(x: Array) -> Array:
    """All bytes of a contiguous array as one axis of floats (but for up to three odd ones)."""
    flat = x.ravel(order="K")
    if flat.dtype in (np.float32, np.float64):
        return flat
    flat = flat.view(np.uint8)
    return flat[: flat.size // 4 * 4].view(np.float32)


def read_once(arrays: tuple[Array, ...], threads: int) -> harness.Call | None:
    """Return a call that finds maxima over the same bytes on the same threads: nothing is read faster."""
    flats = [as_floats(x) for x in arrays if x.dtype.kind != "i"]
    th = optional("torch")
    if th is None:
        return None
    pieces = [th.from_numpy(x[: x.size // threads * threads]).view(threads, -1) for x in flats]
    return lambda: [th.amax(piece, 1) for piece in pieces]


def at_level(core: Any, level: str, call: harness.Call) -> harness.Call:
    """Return the call on an instruction set that the machine has but would not choose."""
    best = core.simd_level()

    def run() -> Any:
        core.set_simd_level(level)
        try:
            return call()
        finally:
            core.set_simd_level(best)

    return run


def variant(ours: Library, case: Case, inputs: tuple[Array, ...], name: str) -> harness.Call:
    """Kullback on the same values in another setting."""
    measure = ours.measures[case.measure]
    if name == "1 thread":
        return partial(measure, *inputs, threads=1)
    if name == "row-major":
        return partial(measure, *map(np.ascontiguousarray, inputs))
    if name == "float32":
        return partial(measure, *(x.astype(np.float32) for x in inputs))
    return at_level(optional("kullback._core"), name, partial(measure, *inputs))


def contenders(
    case: Case, inputs: tuple[Array, ...], ours: Library, peers: list[Library], threads: int
) -> dict[str, harness.Call]:
    """Return the calls of a case by name, in the order in which they run."""
    calls: dict[str, harness.Call] = {"kullback": partial(ours.measures[case.measure], *inputs)}
    if case.measure is not Measure.JS_PAIRWISE:
        read = read_once(inputs, threads)
        if read is not None:
            calls[READ] = read
    for name in case.versus:
        if name != "1 thread" or threads > 1:
            calls[name] = variant(ours, case, inputs, name)
    for library in peers:
        if case.peers and library.takes(case.measure, case.dtype):
            calls[library.name] = partial(library.measures[case.measure], *map(library.convert, inputs))
    return calls


def check(case: Case, inputs: tuple[Array, ...], calls: dict[str, harness.Call], report: Report) -> dict[str, float]:
    """Hold every contender's answers against the reference and kullback's; return the worst relative errors."""
    index, truth = sample_truth(case, inputs)
    answers = {name: values(call()) for name, call in calls.items() if name != READ}
    errors = {name: float(relative_error(answer[index], truth).max()) for name, answer in answers.items()}
    for name in ("kullback", *case.versus):
        if errors.get(name, 0) > case.bound:
            report.wrong.append(f"{case.name}: {name} is off by {errors[name]:.2g}, allowed {case.bound:.2g}")
    for name, answer in answers.items():
        apart = int(np.sum(relative_error(answer, answers["kullback"]) > WRONG))
        if apart and errors[name] <= WRONG:
            where = f"on {apart} of {answer.size} rows, none of them among the checked ones"
            report.notes.append(f"{case.name}: {name} and kullback differ by more than {WRONG} {where}")
    return errors


def time_latency(report: Report, smoke: bool) -> None:
    """One row of 10 classes, in and out, checks included: microseconds a call."""
    names: dict[str, Any] = {"kb": optional("kullback")}
    rng = np.random.default_rng(3)
    for p in ("p", "q"):
        row = rng.random((1, 10), dtype=np.float32)
        names[p] = row / row.sum()
    names["y"] = np.array([4])
    statements: dict[str, dict[str, str]] = {
        "entropy": {"kullback": "kb.entropy(p)"},
        "KL": {"kullback": "kb.kl_divergence(p, q)"},
        "cross entropy, logits, label": {"kullback": "kb.nll(p, y, given='logits')"},
    }
    if (th := optional("torch")) is not None:
        names |= {"torch": th, "F": th.nn.functional, **{f"t{k}": th.from_numpy(names[k]) for k in ("p", "q", "y")}}
        statements["entropy"]["torch"] = "torch.special.entr(tp).sum(-1)"
        statements["KL"]["torch"] = "F.kl_div(tq.log(), tp, reduction='none').sum(-1)"
        statements["cross entropy, logits, label"]["torch"] = "F.cross_entropy(tp, ty, reduction='none')"
    if optional("scipy") is not None:
        names |= {"special": optional("scipy.special"), "stats": optional("scipy.stats")}
        statements["entropy"] |= {"scipy": "special.entr(p).sum(-1)", "scipy.stats": "stats.entropy(p, axis=-1)"}
        statements["KL"] |= {"scipy": "special.rel_entr(p, q).sum(-1)", "scipy.stats": "stats.entropy(p, q, axis=-1)"}
    for module, label in (("numkong", "NumKong"), ("simsimd", "SimSIMD")):
        if (names.setdefault(module, optional(module))) is not None:
            statements["KL"][label] = f"{module}.kullbackleibler(p, q)"
    for name, racing in statements.items():
        report.latency[name] = harness.race_statements(
            racing, names, rounds=1 if smoke else 21, loop_seconds=1e-4 if smoke else 3e-3
        )


def describe(ours: Library, peers: list[Library], threads: int) -> dict[str, Any]:
    """Machine, threads and versions."""
    core: Any = optional("kullback._core")
    return {
        "cpu": harness.cpu_model(),
        "cpus": harness.usable_cpus(),
        "threads": threads,
        "simd": core.simd_level() if hasattr(core, "simd_level") else "unknown",
        "load": harness.load(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            **{library.name: library.version for library in (ours, *peers)},
        },
        "peer_threads": {library.name: library.threads for library in peers},
    }


def as_json(report: Report, reached: list[Target]) -> dict[str, Any]:
    """Return the report as JSON's types; what is not finite is written as a string."""

    def one(run: Run) -> dict[str, Any]:
        case, race = run.case, run.race
        times = {
            name: {
                "seconds": race.median(name),
                "ratio": race.ratio(name, "kullback"),
                "ratio_quartiles": race.quartiles(name, "kullback"),
                "worst_relative_error": run.errors.get(name),
            }
            for name in race.seconds
        }
        return {**asdict(case), "name": case.name, "rounds": race.rounds, "contenders": times}

    def finite(x: Any) -> Any:
        if isinstance(x, dict):
            return {key: finite(value) for key, value in x.items()}
        if isinstance(x, list | tuple):
            return [finite(value) for value in x]
        return str(x) if isinstance(x, float) and not np.isfinite(x) else x

    document = {
        "schema": SCHEMA,
        "machine": report.machine,
        "cases": [one(run) for run in report.runs],
        "latency": {
            name: {contender: race.median(contender) for contender in race.seconds}
            for name, race in report.latency.items()
        },
        "edge_cases": report.edges,
        "targets": [{**asdict(target), "holds": target.holds} for target in reached],
        "notes": report.notes,
        "wrong": report.wrong,
    }
    return dict(finite(document))


def columns(names: list[set[str]]) -> list[str]:
    """Union of names, in the order of the tables."""
    order = ["kullback", READ, "1 thread", "row-major", "float32", "avx2", "neon", "portable"]
    order += ["torch", "scipy", "scipy.stats", "NumKong", "SimSIMD", "jax", "polars"]
    return [name for name in order if any(name in some for some in names)]


def ratio_text(ratio: float) -> str:
    """Return how many times kullback's duration something takes."""
    return f"{significant(ratio, 2 if ratio < 100 else 3)}×"


def times_table(runs: list[Run]) -> str:
    """Milliseconds, and the ratio to kullback's."""
    shown = columns([set(run.race.seconds) for run in runs])
    rows = []
    for case, race in ((run.case, run.race) for run in runs):
        cells = [case.name, f"{significant(case.megabytes, 2)}"]
        for name in shown:
            if name not in race.seconds:
                cells.append("–")
            elif name == "kullback":
                cells.append(significant(race.median(name) * 1e3))
            else:
                ratio = ratio_text(race.ratio(name, "kullback"))
                cells.append(f"{significant(race.median(name) * 1e3)} ({ratio})")
        rows.append(cells)
    return markdown(["ms (times kullback's)", "MB an array", *shown], rows)


def errors_table(runs: list[Run]) -> str:
    """Worst relative error over the rows that were checked; wrong answers in bold."""
    shown = [name for name in columns([set(run.errors) for run in runs]) if name != "1 thread"]

    def cell(errors: dict[str, float], name: str) -> str:
        if name not in errors:
            return "–"
        return f"**{errors[name]:.1e}**" if errors[name] > WRONG else f"{errors[name]:.1e}"

    rows = [[run.case.name, *(cell(run.errors, name) for name in shown)] for run in runs]
    return markdown([f"worst relative error (above {WRONG} in bold)", *shown], rows)


def as_markdown(report: Report, reached: list[Target]) -> str:
    """Return the report as Markdown."""
    machine = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    alone = ", ".join(f"{name}: {n}" for name, n in machine["peer_threads"].items() if n != "as set")
    but = f" (but {alone})" if alone else ""
    load = "" if machine["load"] is None else f", load {machine['load']:.1f} at the start"
    parts = [f"{machine['cpu']}, {machine['simd']}, {machine['threads']} threads{but}{load}; {versions}."]
    for suite in SUITES:
        runs = [run for run in report.runs if run.case.suite == suite]
        if runs:
            parts += [f"## {TITLES[suite]}", times_table(runs)]
        for library in ("torch", "scipy"):
            ratios = [run.race.ratio(library, "kullback") for run in runs if library in run.race.seconds]
            if suite == "core" and ratios:
                parts.append(f"Geometric mean against {library}: {geometric_mean(ratios):.1f}×.")
    if report.latency:
        shown = columns([set(race.seconds) for race in report.latency.values()])
        rows = [
            [name, *(significant(race.median(c) * 1e6) if c in race.seconds else "–" for c in shown)]
            for name, race in report.latency.items()
        ]
        parts += ["## One row of 10, µs", markdown(["one row of 10, float32", *shown], rows)]
    answered = [run for run in report.runs if run.case.suite in ("core", "short")]
    if answered:
        parts += ["## Answers", errors_table(answered)]
    if report.edges:
        parts += ["## Edge cases", edges_table(report.edges)]
    if reached:
        rows = [
            [t.what, significant(t.measured), f"{'≤' if t.greatest else '≥'} {t.need:g}", "yes" if t.holds else "no"]
            for t in reached
        ]
        parts += ["## Targets", markdown(["what", "measured", "target", "holds"], rows)]
    if report.notes or report.wrong:
        parts += ["## Notes", "\n".join(f"- {note}" for note in [*report.wrong, *report.notes])]
    return "\n\n".join(parts) + "\n"


def edges_table(rows: list[dict[str, Any]]) -> str:
    """Each library's answer to each question, wrong ones in bold."""
    shown = columns([set(row["answers"]) for row in rows])

    def cell(answers: dict[str, Any], name: str) -> str:
        if name not in answers:
            return "–"
        value = answers[name]["value"]
        text = value if isinstance(value, str) else significant(value, 4)
        return text if answers[name]["right"] else f"**{text}**"

    body = [[row["question"], significant(row["truth"], 4), *(cell(row["answers"], n) for n in shown)] for row in rows]
    return markdown(["question (wrong answers in bold)", "right", *shown], body)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", nargs="+", choices=ALL_SUITES, default=ALL_SUITES)
    parser.add_argument("--only", metavar="PATTERN", help="cases whose title matches this regular expression")
    parser.add_argument("--rounds", type=int, help="rounds a case; default: as many as fit its budget, 7 to 41")
    parser.add_argument("--budget", type=float, default=2.5, help="seconds a case, if there are no --rounds (2.5)")
    parser.add_argument("--threads", type=int, default=harness.usable_cpus())
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, one round")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    return parser.parse_args(arguments)


def progress(text: str) -> None:
    """Write a line to stderr."""
    print(text, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark and return the exit status."""
    options = parse(arguments)
    start = time.perf_counter()
    ours = libraries.kullback(options.threads)
    peers = libraries.peers(options.threads, harness.usable_cpus())
    report = Report(describe(ours, peers, options.threads))
    if (report.machine["load"] or 0) > BUSY:
        report.notes.append(f"the machine was busy (load {report.machine['load']:.1f}): do not quote these figures")
    missing = {"torch", "scipy", "NumKong", "SimSIMD", "jax"} - {library.name for library in peers}
    report.notes += [f"{name} left out: not installed, or not on this number of threads" for name in sorted(missing)]
    core: Any = optional("kullback._core")
    levels = tuple(core.simd_levels()) if hasattr(core, "simd_levels") else ("unknown",)
    levels = tuple(level for level in levels if level != "portable")
    data = Data()
    for case in cases(set(options.suite), levels):
        if options.only and not re.search(options.only, case.name):
            continue
        case = case.reduced() if options.smoke else case
        try:
            inputs = data.inputs(case)
        except ModuleNotFoundError as error:
            report.notes.append(f"{case.name} left out: {error}")
            continue
        calls = contenders(case, inputs, ours, peers, options.threads)
        errors = check(case, inputs, calls, report)
        rounds = 1 if options.smoke else options.rounds
        race = harness.race(calls, rounds=rounds, budget=options.budget)
        report.runs.append(Run(case, race, errors))
        shown = ", ".join(f"{name} {ratio_text(race.ratio(name, 'kullback'))}" for name in calls if name != "kullback")
        progress(f"{case.name}: {significant(race.median('kullback') * 1e3)} ms; {shown} ({race.rounds} rounds)")
    if "latency" in options.suite and not options.only:
        time_latency(report, options.smoke)
    if "edges" in options.suite and not options.only:
        report.edges = examine([ours, *peers, *filter(None, [libraries.polars()])])
        report.wrong += [
            f"edge case: {row['question']}" for row in report.edges if not row["answers"]["kullback"]["right"]
        ]
    reached = [] if options.smoke else targets(report.runs, report.latency)
    text = as_markdown(report, reached)
    print(text)
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    if options.json:
        options.json.write_text(json.dumps(as_json(report, reached), indent=1, ensure_ascii=False), encoding="utf-8")
    progress(f"{time.perf_counter() - start:.0f} s")
    for line in report.wrong:
        progress(f"WRONG {line}")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
