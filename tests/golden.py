"""The bits of results: `golden.json` holds a hash of them per function, space, dtype and number of classes.

    python tests/golden.py            write the file anew, after a change that is meant to change bits
    python tests/golden.py --check    print what differs from it, and exit with 1 if anything does

The rows are made of whole numbers by additions, divisions and one rounding, never by a library's `exp` or `log`, so
that they are the same on every platform. One hash stands for every layout, number of threads and instruction set: they
must all give it (tests/test_golden.py).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import kullback as kb
import ml_dtypes
import numpy as np
from kullback import _core, functional

FILE = Path(__file__).with_name("golden.json")
SPACES = ("probs", "counts", "log_probs", "logits")
DTYPES = {"f2": np.dtype("f2"), "bf16": np.dtype(ml_dtypes.bfloat16), "f4": np.dtype("f4"), "f8": np.dtype("f8")}
# Short rows and their tails, the ends of vectors, tiles and blocks, and a vocabulary.
CLASSES = (1, 2, 3, 10, 16, 17, 64, 65, 128, 129, 1000, 2048, 2049, 50257, 140_003)
DIGITS = 10


def whole(n: int, classes: int, bits: int, seed: int) -> np.ndarray:
    """Random whole numbers of so many bits, straight from the generator's stream."""
    raw = np.random.PCG64(seed).random_raw(n * classes)
    return (raw >> np.uint64(64 - bits)).astype(np.int64).reshape(n, classes)


@lru_cache(maxsize=64)
def rows(space: str, dtype: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows: unrelated, near, peaked, far apart, with classes that are absent, equal, and ulps apart."""
    n = 6 if classes > 5000 else 24
    a, b, small = (whole(n, classes, bits, seed) for bits, seed in ((12, 1), (12, 2), (6, 3)))
    kind = np.arange(n) % 6
    b = np.where((kind == 1)[:, None], 16 * a + small % 32, 16 * b)  # near
    a = 16 * a
    b[kind == 4] = a[kind == 4]
    b[kind == 5] = a[kind == 5] + (small[kind == 5] > 31)
    gone = small < 12
    gone[:, classes // 2] = False
    gone &= (kind == 3)[:, None]
    if space in ("probs", "counts"):
        p, q = a + 1, b + 1
        # Half precision ends at 65504.
        peak = 6 if dtype == "f2" else 20
        p[kind == 2, classes - 1] <<= peak
        q[kind == 2, 0] <<= peak
        p, q = np.where(gone, 0, p).astype("f8"), np.where(gone[::-1], 0, q).astype("f8")
        if space == "probs":
            p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
        else:
            p, q = p / 4096.0, q / 512.0
    else:
        # Multiples of 2^-13 between -4 and 4.
        p, q = a / 8192.0 - 4.0, b / 8192.0 - 4.0
        p[kind == 2, classes - 1] += 14.0
        q[kind == 2, 0] += 30.0
        p, q = np.where(gone, -np.inf, p), np.where(gone[::-1], -np.inf, q)
        if space == "log_probs":
            p, q = (_normalised(x) for x in (p, q))
    return p.astype(DTYPES[dtype]), q.astype(DTYPES[dtype])


def _normalised(x: np.ndarray) -> np.ndarray:
    """Less the log-sum-exp to a multiple of 2^-12: a platform's last bit is rounded away."""
    top = x.max(-1, keepdims=True)
    return x - np.round((top + np.log(np.exp(x - top).sum(-1, keepdims=True))) * 4096) / 4096


def counts(x: np.ndarray) -> np.ndarray:
    """Logits of at least -4 as counts, exactly but for one rounding; what is absent stays so."""
    return np.where(x == -np.inf, x.dtype.type(0), x + x.dtype.type(5))


def labels(n: int, classes: int) -> np.ndarray:
    """A class per row."""
    return (np.arange(n) * 7919) % classes


Call = Callable[..., Any]


def call_of(name: str) -> Call:
    """Make a call of a quantity."""
    function, arguments = getattr(kb, name), _core.QUANTITIES[name]

    def call(p: np.ndarray, q: np.ndarray, space: str, **how: Any) -> Any:
        values = {"p": p, "q": q, "labels": labels(*q.shape)}
        return function(*(values[argument] for argument in arguments), given=space, **how)

    return call


FUNCTIONS: dict[str, Call] = {name: call_of(name) for name in _core.QUANTITIES} | {
    "mean kl": lambda p, q, space, **how: kb.kl_divergence(p, q, given=space, reduction="mean", **how),
}
LOGITS_ONLY: dict[str, Call] = {
    "kl at 0.7": lambda p, q, space, **how: kb.kl_divergence(p, q, given=space, temperature=0.7, **how),
    "js at 0.7": lambda p, q, space, **how: kb.js_divergence(p, q, given=space, temperature=0.7, **how),
    "cross_entropy against counts": lambda p, q, space, **how: kb.cross_entropy(
        p, counts(q), given=(space, "counts"), **how
    ),
    "cross_entropy of counts": lambda p, q, space, **how: kb.cross_entropy(
        counts(p), q, given=("counts", space), **how
    ),
    "kl of counts": lambda p, q, space, **how: kb.kl_divergence(counts(p), q, given=("counts", space), **how),
    "kl at 0.7, 3": lambda p, q, space, **how: kb.kl_divergence(p, q, given=space, temperature=(0.7, 3.0), **how),
}
ELEMENTWISE: dict[str, Call] = {
    "softmax": lambda p, _q, _space, **_how: functional.softmax(p, dim=-1),
    "log_softmax": lambda p, _q, _space, **_how: functional.log_softmax(p, dim=-1),
}


def functions(space: str) -> dict[str, Call]:
    """What is computed of rows of a space."""
    return FUNCTIONS | (LOGITS_ONLY | ELEMENTWISE if space == "logits" else {})


def digest(result: Any) -> str:
    """A hash of the bytes of a result, in little-endian order."""
    array = np.ascontiguousarray(result)
    return hashlib.sha256(array.astype(array.dtype.newbyteorder("<")).tobytes()).hexdigest()[:DIGITS]


def usual(x: np.ndarray) -> np.ndarray:
    """Rows as they stand."""
    return x


def digests(
    space: str, dtype: str, layout: Callable[[np.ndarray], np.ndarray] = usual, **how: Any
) -> Iterator[tuple[str, str]]:
    """Keys and hashes of everything computed of a space and a dtype."""
    for classes in CLASSES:
        p, q = (layout(x) for x in rows(space, dtype, classes))
        for name, function in functions(space).items():
            if classes > 2049 and name in ELEMENTWISE:
                continue
            yield f"{name}, {space}, {dtype}, {classes}", digest(function(p, q, space, **how))


def everything() -> dict[str, str]:
    """All keys and hashes."""
    return {key: value for space in SPACES for dtype in DTYPES for key, value in digests(space, dtype)}


def folded(found: dict[str, str]) -> dict[str, str]:
    """One line per function, space and dtype: its hashes by number of classes."""
    lines: dict[str, list[str]] = {}
    for key, value in found.items():
        lines.setdefault(key.rsplit(", ", 1)[0], []).append(value)
    return {key: " ".join(values) for key, values in lines.items()}


def recorded() -> dict[str, str]:
    """What the file holds, one line per function, space and dtype."""
    text: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    assert text["classes"] == list(CLASSES), "the file is of other rows: write it anew"
    return dict(text["hashes"])


def main() -> int:
    """Write or check the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    found = folded(everything())
    if not parser.parse_args().check:
        FILE.write_text(json.dumps({"classes": CLASSES, "hashes": found}, indent=1) + "\n", encoding="utf-8")
        print(f"{FILE.name}: {len(found)} lines")
        return 0
    before = recorded()
    different = [key for key in before.keys() | found.keys() if before.get(key) != found.get(key)]
    print(*sorted(different), f"{len(different)} of {len(before)} lines differ", sep="\n")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
