"""The floating-point environment of this thread, as glibc keeps it; None elsewhere."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

LIBM: Any = ctypes.CDLL("libm.so.6") if sys.platform == "linux" else None


def current() -> Any:
    """What `restore` takes: an fenv_t, of at most 32 bytes."""
    if LIBM is None:
        return None
    found = ctypes.create_string_buffer(64)
    LIBM.fegetenv(found)
    return found


def restore(saved: Any) -> None:
    """Set the environment again."""
    if saved is not None:
        LIBM.fesetenv(saved)
