"""Fixtures: settings are restored after every test, and tests may ask for every instruction set."""

from __future__ import annotations

from collections.abc import Iterator

import environment
import kullback as kb
import pytest
from kullback import _core

# Its assertions say what they compared, as those of tests do.
pytest.register_assert_rewrite("tensors")


@pytest.fixture(autouse=True)
def settings_restored() -> Iterator[None]:
    """Threads and instruction set are process-wide: no test leaves them changed.

    Nor the floating-point environment of this thread, in which NumPy evaluates what is expected: what torch 2.4
    compiles flushes subnormal numbers from when it is loaded.
    """
    threads, level, saved = kb.get_num_threads(), _core.simd_level(), environment.current()
    yield
    environment.restore(saved)
    kb.set_num_threads(threads)
    _core.set_simd_level(level)


@pytest.fixture(params=_core.simd_levels())
def level(request: pytest.FixtureRequest, settings_restored: None) -> str:
    """Each instruction set this machine can run."""
    name: str = request.param
    _core.set_simd_level(name)
    return name
