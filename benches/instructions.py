"""How many instructions representative calls take: a regression that the noise of shared machines hides.

    python benches/instructions.py           against benches/instructions.json: a minute or two
    python benches/instructions.py --write   that file anew, after a change that is meant to change it

Counted by callgrind (valgrind, Linux), in the native module alone, one thread, on the AVX2 level, the best it knows.
Exits with 1 where a call takes more than 3 % more than is on record; another compiler may move all of them a little.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import markdown, significant

RECORD = Path(__file__).with_name("instructions.json")
MORE = 0.03
CHILD = """
import numpy as np
import kullback as kb
import kullback.functional as F
kb.set_num_threads(1)
random = np.random.default_rng(0)
def logits(*shape): return random.normal(0, 3, shape).astype(np.float32)
def probs(x): e = np.exp(x); return e / e.sum(1, keepdims=True)
def near(x): return x + random.normal(0, 0.1, x.shape).astype(np.float32)
"""
# Data, and the call of it.
CASES = {
    "entropy of probabilities, 2 000 × 100": ("p = probs(logits(2000, 100))", "kb.entropy(p)"),
    "entropy from logits, 20 000 × 10": ("x = logits(20000, 10)", "kb.entropy(x, given='logits')"),
    "KL of probabilities, 2 000 × 100": (
        "x = logits(2000, 100); p, q = probs(x), probs(near(x))",
        "kb.kl_divergence(p, q)",
    ),
    "KL of two logit rows, 200 × 1000": (
        "x = logits(200, 1000); y = near(x)",
        "kb.kl_divergence(x, y, given='logits')",
    ),
    "KL of two logit rows, 200 × 1000, unrelated rows": (
        "x, y = logits(200, 1000), logits(200, 1000)",
        "kb.kl_divergence(x, y, given='logits')",
    ),
    "cross entropy, logits, index labels, 20 000 × 10": (
        "x = logits(20000, 10); y = random.integers(0, 10, 20000)",
        "kb.nll(x, y, given='logits')",
    ),
    "softmax, classes on the inner axis, 8 × 19 × 1024": ("x = logits(8, 19, 1024)", "F.softmax(x, 1)"),
    "entropy of one row of 10": ("p = probs(logits(1, 10))[0]", "kb.entropy(p)"),
}


def count(data: str, call: str, times: int = 10) -> int:
    """Count the instructions of so many calls within the native module, its initialisation included."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "callgrind.out")
        valgrind = ["valgrind", "--tool=callgrind", "--compress-strings=no", f"--callgrind-out-file={out}"]
        code = f"{CHILD}\n{data}\nfor _ in range({times}): {call}"
        environment = {**os.environ, "KULLBACK_SIMD": "avx2", "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}
        subprocess.run([*valgrind, sys.executable, "-c", code], check=True, env=environment, capture_output=True)
        total, ours, inclusive = 0, False, False
        for line in out.read_text().splitlines():
            if line.startswith("ob="):
                ours = "_core" in line.rsplit("/", 1)[-1] and "kullback" in line
            elif line.startswith("calls="):
                # The next line is what the callee took, which is counted where it is.
                inclusive = True
            elif cost := re.fullmatch(r"\S+ (\d+)", line):
                total += 0 if inclusive or not ours else int(cost[1])
                inclusive = False
    return total


def main() -> int:
    """Count, and compare or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the record anew")
    options = parser.parse_args()
    if shutil.which("valgrind") is None:
        parser.error("valgrind is not installed (Debian: apt install valgrind)")
    recorded = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    found = {name: count(*case) for name, case in CASES.items()}
    if options.write:
        RECORD.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    rows, more = [], False
    for name, instructions in found.items():
        before = recorded.get(name)
        more |= before is None or instructions > before * (1 + MORE)
        ratio = f"{instructions / before:.3f}" if before else "–"
        rows.append([name, significant(instructions / 1e6), ratio])
    print(markdown(["ten calls, millions of instructions", "", "of the record"], rows))
    return int(more and not options.write)


if __name__ == "__main__":
    sys.exit(main())
