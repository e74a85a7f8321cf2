"""Fixtures: threads and instruction set are restored after every test, and tests may ask for every instruction set."""

from __future__ import annotations

from collections.abc import Iterator

import kullback as kb
import pytest
from kullback import _core


@pytest.fixture(autouse=True)
def settings_restored() -> Iterator[None]:
    """Threads and instruction set are process-wide: no test leaves them changed."""
    threads, level = kb.get_num_threads(), _core.simd_level()
    yield
    kb.set_num_threads(threads)
    _core.set_simd_level(level)


@pytest.fixture(params=_core.simd_levels())
def level(request: pytest.FixtureRequest, settings_restored: None) -> str:
    """Each instruction set this machine can run."""
    name: str = request.param
    _core.set_simd_level(name)
    return name
