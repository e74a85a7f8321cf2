"""Entropies and divergences of millions of distributions: exact, at memory speed.

Rows are distributions over classes; results are in nats unless ``base`` says otherwise. ``kullback.functional`` has
torch's names and rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kullback import _core
from kullback._core import *
from kullback._core import get_num_threads, set_num_threads

if TYPE_CHECKING:
    from kullback._accumulate import Accumulator
    from kullback._compare import Comparison, compare
    from kullback._scan import scan

__all__ = [
    "Accumulator",
    "Comparison",
    "compare",
    "num_threads",
    "scan",
]
# Every quantity, and the settings: what the native module says is public.
__all__ += _core.__all__

_LAZY = {"Accumulator": "_accumulate", "Comparison": "_compare", "compare": "_compare", "scan": "_scan"}
_MODULES = ("functional",)


def __getattr__(name: str) -> Any:
    # What few calls need is imported when it is first asked for: importing the package stays a matter of milliseconds.
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"kullback.{name}")
    if name not in _LAZY:
        raise AttributeError(f"module 'kullback' has no attribute {name!r}")
    value = getattr(import_module(f"kullback.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})


@contextmanager
def num_threads(n: int) -> Iterator[None]:
    """Use `n` threads within a ``with`` block.

    Parameters
    ----------
    n : int
        At least 1.

    Examples
    --------
    >>> import kullback as kb
    >>> with kb.num_threads(1):
    ...     kb.get_num_threads()
    1
    """
    before = get_num_threads()
    set_num_threads(n)
    try:
        yield
    finally:
        set_num_threads(before)
