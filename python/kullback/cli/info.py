"""``kullback info``: what is installed and what it found."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from typing import Any

import numpy as np

import kullback
from kullback import _core

__all__ = ["collect_info"]

_OPTIONAL = ("ml_dtypes", "matplotlib", "pandas", "polars", "pyarrow", "torch")


def collect_info() -> dict[str, Any]:
    """Collect the facts that a report of a problem, or of a speed, needs.

    Returns
    -------
    dict
        The JSON form.
    """
    return {
        "schema": "kullback.info/1",
        "version": kullback.__version__,
        "simd": {"level": _core.simd_level(), "available": list(_core.simd_levels())},
        "threads": kullback.get_num_threads(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "numpy": np.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "wheel": _wheel_tag(),
        "free_threaded": not getattr(sys, "_is_gil_enabled", lambda: True)(),
        "optional": {name: _version(name) for name in _OPTIONAL},
    }


def _wheel_tag() -> str | None:
    """Tell what the native module was built for, as the installed wheel says."""
    try:
        text = metadata.distribution("kullback").read_text("WHEEL") or ""
    except metadata.PackageNotFoundError:
        return None
    return next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("Tag:")), None)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
