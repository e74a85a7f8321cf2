"""The caller's floating-point environment: whatever it is, results are those of the default one, and it stays as it is.

A library that is linked with `-ffast-math` has subnormal numbers flushed to zero from the moment it is loaded, in the
thread that loads it; what torch 2.4 compiles is one.
"""

from __future__ import annotations

import ctypes
import platform
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import environment
import kullback as kb
import kullback.functional as F
import numpy as np
import pytest
from cases import assert_same_bits

# Where the C library's fenv_t holds MXCSR or FPCR, and the bits that flush subnormal results (and inputs).
REGISTER = {"x86_64": (28, 0x8040), "aarch64": (0, 1 << 24)}

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in REGISTER, reason="glibc's fenv_t on x86-64 and aarch64"
)


def setting() -> int:
    """What the register holds, but for exceptions that were raised."""
    value: int = struct.unpack_from("<I", environment.current().raw, REGISTER[platform.machine()][0])[0]
    return value & ~0x3F if platform.machine() == "x86_64" else value


@contextmanager
def flushing() -> Iterator[None]:
    at, bits = REGISTER[platform.machine()]
    before = environment.current()
    changed = ctypes.create_string_buffer(before.raw, len(before))
    struct.pack_into("<I", changed, at, struct.unpack_from("<I", before.raw, at)[0] | bits)
    environment.restore(changed)
    try:
        yield
    finally:
        environment.restore(before)


# Subnormal numbers of float32 among the masses, and an entropy that is one.
PROBS = np.array([[1.0, 1e-40, 2e-41], [0.5, 0.5, 1e-41]], "f4")
TINY = np.array([[1e-40, 0.5]], "f4")
ONE_TINY = np.array([[1e-40, 0.0]], "f4")
CALLS: dict[str, Callable[[], Any]] = {
    "entropy": lambda: kb.entropy(PROBS),
    "mean entropy": lambda: kb.entropy(PROBS[:1], reduction="mean"),
    "cross_entropy": lambda: kb.cross_entropy(PROBS[::-1], PROBS),
    "kl_divergence": lambda: kb.kl_divergence(PROBS[::-1], PROBS),
    "nll": lambda: kb.nll(PROBS, [1, 2]),
    "kl_div": lambda: F.kl_div(np.zeros_like(TINY), TINY, reduction="none"),
    "nll_loss": lambda: F.nll_loss(-TINY, np.array([0])),
    "binary_cross_entropy": lambda: F.binary_cross_entropy(TINY, np.ones_like(TINY), reduction="none"),
    "cross_entropy of probabilities": lambda: F.cross_entropy(np.zeros_like(TINY), ONE_TINY),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_caller_that_flushes_subnormal_numbers(name: str, level: str) -> None:
    expected = CALLS[name]()
    with flushing():
        got = CALLS[name]()
    assert_same_bits(got, expected, name)


def test_threads_that_such_a_caller_starts() -> None:
    p = np.tile(PROBS, (50_000, 1))
    expected = kb.entropy(p, threads=1)
    with flushing():
        # More than any other test asks for: they are started here.
        got = kb.entropy(p, threads=41)
    assert_same_bits(got, expected)


def test_the_environment_of_the_caller_is_left_as_it_is() -> None:
    before = setting()
    with flushing():
        inside = setting()
        for call in CALLS.values():
            call()
        assert setting() == inside != before
    assert setting() == before
    with pytest.raises(ValueError), flushing():
        kb.entropy([[-1.0, 2.0]])
    assert setting() == before
