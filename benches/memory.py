"""Compare two large files with the command line and watch what it keeps in memory.

Writes two .npy files of float32 logits and one of labels, runs ``kullback compare base other --labels labels.npy --out
rows.npy --plot kl.png`` on them (without the picture where matplotlib is missing), samples the process's memory while
it runs, and removes the files again. What counts is RssAnon (with RssShmem): memory of its own, as against RssFile,
pages of the files that the system's page cache holds anyway.

    python benches/memory.py                       two files of 2 GB each, at 1000 and at 10 classes
    python benches/memory.py --gigabytes 0.1       a quick pass
    python benches/memory.py --out rows.parquet    the results in another format
    python benches/memory.py --sparse              files with holes: nothing is written, every logit is 0
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from harness import cpu_model, markdown, usable_cpus

# Elements that are drawn; the files repeat them.
BLOCK = 8_000_000
SAMPLE_SECONDS = 0.005
LIMIT_MB = 300
PLOTS = find_spec("matplotlib") is not None


@dataclass
class Outcome:
    """One run of the command."""

    classes: int
    rows: int
    gigabytes: float
    seconds: float
    read_seconds: float
    own_mb: float
    peak_mb: float
    out_mb: float
    status: int
    error: str = ""

    @property
    def holds(self) -> bool:
        """Whether the run ended well and stayed within the limit."""
        return self.status == 0 and self.own_mb <= LIMIT_MB


def write(path: Path, rows: int, classes: int, seed: int, sparse: bool) -> None:
    """Write a .npy file of rows of logits: a block of normal deviates, over and over."""
    if sparse:
        np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, classes)).flush()
        return
    block_rows = max(1, min(rows, BLOCK // classes))
    base = np.random.default_rng(1).standard_normal((block_rows, classes), dtype=np.float32) * np.float32(3)
    if seed:
        base += np.random.default_rng(seed).standard_normal(base.shape, dtype=np.float32) * np.float32(0.1)
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, classes)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, rows, block_rows):
            base[: min(block_rows, rows - start)].tofile(file)


def read_through(paths: list[Path]) -> float:
    """Seconds to read the files once more, 8 MB at a time: it also brings them into the page cache."""
    buffer = bytearray(8 << 20)
    start = time.perf_counter()
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - start


def memory_of(process: int) -> dict[str, float]:
    """Megabytes by kind, from /proc."""
    found: dict[str, float] = {}
    try:
        with open(f"/proc/{process}/status", encoding="ascii", errors="replace") as lines:
            for line in lines:
                name, _, value = line.partition(":")
                if name in ("RssAnon", "RssShmem", "VmHWM"):
                    found[name] = int(value.split()[0]) / 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def command() -> list[str]:
    """Return the command line under test: the script beside this interpreter, else the module."""
    script = Path(sys.executable).with_name("kullback")
    found = str(script) if script.exists() else shutil.which("kullback")
    return [found] if found else [sys.executable, "-m", "kullback.cli"]


def run(folder: Path, classes: int, gigabytes: float, sparse: bool, threads: int | None, out: str) -> Outcome:
    """Make the files, compare them and watch."""
    rows = int(gigabytes * 1e9 / 4 / classes)
    base, other, labels, rows_file = (folder / name for name in ("base.npy", "other.npy", "labels.npy", out))
    write(base, rows, classes, 0, sparse)
    write(other, rows, classes, 2, sparse)
    np.lib.format.open_memmap(labels, mode="w+", dtype=np.int64, shape=(rows,)).flush()
    read_through([base, other, labels])
    read_seconds = read_through([base, other])
    arguments = [*command(), "compare", str(base), str(other), "--labels", str(labels), "--out", str(rows_file)]
    arguments += ["--plot", str(folder / "kl.png")] * PLOTS
    arguments += ["--quiet"]
    arguments += ["--threads", str(threads)] * (threads is not None)
    own = peak = 0.0
    with tempfile.TemporaryFile("w+", dir=folder) as complaints:
        start = time.perf_counter()
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=complaints)
        while process.poll() is None:
            memory = memory_of(process.pid)
            own = max(own, memory.get("RssAnon", 0) + memory.get("RssShmem", 0))
            peak = max(peak, memory.get("VmHWM", 0))
            time.sleep(SAMPLE_SECONDS)
        seconds = time.perf_counter() - start
        complaints.seek(0)
        error = complaints.read().strip()
    out_mb = sum(path.stat().st_size for path in folder.glob(f"{rows_file.stem}*")) / 1e6
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()
    return Outcome(classes, rows, gigabytes, seconds, read_seconds, own, peak, out_mb, process.returncode, error)


def main(arguments: list[str] | None = None) -> int:
    """Run the check and return the exit status: 1 if a run failed or kept more than the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of each of the two files (2)")
    parser.add_argument("--classes", type=int, nargs="+", default=[1000, 10])
    parser.add_argument("--sparse", action="store_true")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", default="rows.npy", help="name of the per-row output: its ending chooses the format")
    parser.add_argument("--folder", type=Path, help="where the files go; default: the system's temporary folder")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    if not Path("/proc/self/status").exists():
        parser.error("memory is read from /proc, which this system does not have")
    outcomes = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for classes in options.classes:
            free = shutil.disk_usage(folder).free / 1e9
            need = options.gigabytes * (2 * (not options.sparse) + 20 / classes)
            if free < need:
                parser.error(f"{folder} has {free:.0f} GB free, {need:.0f} are needed: choose another --folder")
            outcomes.append(run(Path(folder), classes, options.gigabytes, options.sparse, options.threads, options.out))
    rows = [
        [
            f"2 × {o.gigabytes:g} GB: " + f"{o.rows:,} × {o.classes}".replace(",", "\N{NO-BREAK SPACE}"),
            f"{o.seconds:.1f}",
            f"{2 * o.gigabytes / o.seconds:.2f}",
            f"{2 * o.gigabytes / o.read_seconds:.2f}",
            f"{o.own_mb:.0f}",
            f"{o.peak_mb:.0f}",
            f"{o.out_mb:.0f}",
            "yes" if o.holds else "no",
        ]
        for o in outcomes
    ]
    print(f"{cpu_model()}, {usable_cpus()} CPUs; {' '.join(command())}\n")
    what = f"with --labels, --out {options.out}" + ", --plot" * PLOTS
    header = [what, "s", "GB/s", "plain read GB/s", "own MB", "peak MB with page cache", "out MB"]
    print(markdown([*header, f"≤ {LIMIT_MB} MB"], rows))
    for outcome in outcomes:
        if outcome.status:
            print(f"\n{outcome.classes} classes: exit status {outcome.status}: {outcome.error}")
    if options.json:
        options.json.write_text(json.dumps([asdict(o) for o in outcomes], indent=1), encoding="utf-8")
    return 0 if all(outcome.holds for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
