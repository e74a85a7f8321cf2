"""Conditions such as ``kl.mean>0.01`` on the numbers of a summary."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Condition", "numbers", "parse_condition"]

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}

_CONDITION = re.compile(r"\s*(?P<name>[A-Za-z_][\w.]*?)\s*(?P<sign><=|>=|==|!=|<|>)\s*(?P<limit>\S+)\s*")


@dataclass(frozen=True)
class Condition:
    """A number of the summary against a limit.

    Attributes
    ----------
    name : str
        Where the number stands in the JSON form, as ``kl.mean`` or ``kl.p99.9``.
    sign : str
        One of ``< <= > >= == !=``.
    limit : float
        What it is compared with.
    """

    name: str
    sign: str
    limit: float

    def __str__(self) -> str:
        """Write it as it was given."""
        return f"{self.name}{self.sign}{self.limit:g}"

    def holds(self, value: float) -> bool:
        """Whether `value` meets the condition; NaN, which shows nothing to be within a limit, counts as meeting it."""
        return math.isnan(value) or _OPERATORS[self.sign](value, self.limit)


def parse_condition(text: str) -> Condition:
    """Read a condition.

    Parameters
    ----------
    text : str
        ``NAME SIGN NUMBER``; spaces do not matter.

    Returns
    -------
    Condition
        What was read.

    Raises
    ------
    ValueError
        If it is nothing of the kind.

    Examples
    --------
    >>> from kullback.cli.fail_if import parse_condition
    >>> parse_condition("kl.p99.9 >= 0.01")
    Condition(name='kl.p99.9', sign='>=', limit=0.01)
    """
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not of the form NAME SIGN NUMBER, as 'kl.mean>0.01'; signs are < <= > >= == !=")
    try:
        limit = float(match["limit"])
    except ValueError:
        raise ValueError(f"{text!r}: {match['limit']!r} is not a number") from None
    return Condition(match["name"], match["sign"], limit)


def numbers(summary: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Give every number of a nested summary with its dotted name; None is NaN.

    Examples
    --------
    >>> from kullback.cli.fail_if import numbers
    >>> dict(numbers({"kl": {"mean": 0.5, "p99.9": 2}, "units": "nats"}))
    {'kl.mean': 0.5, 'kl.p99.9': 2.0}
    """
    for key, value in summary.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{prefix}{key}.")
        elif value is None:
            yield prefix + key, math.nan
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield prefix + key, float(value)
