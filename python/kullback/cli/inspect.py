"""``kullback inspect``: what is in a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kullback
from kullback._files import DamagedError, FileError, Tensor, as_stored, is_topk, list_tensors, read_topk, topk_columns
from kullback.cli.checks import look
from kullback.cli.damage import Damage

__all__ = ["inspect_file"]


def inspect_file(spec: str, columns: Sequence[str] | None, dtype: str | None) -> dict[str, Any]:
    """Describe every array of an input from a sample of its rows, and a dump of the k best tokens from all it holds.

    Parameters
    ----------
    spec : str
        ``PATH``, ``PATH::NAME``, a folder, a glob or a shard index; or a dump.
    columns : sequence of str or None
        Columns of a table that are the classes of one array.
    dtype : {"bfloat16"} or None
        What arrays of uint16 hold.

    Returns
    -------
    dict
        The JSON form, with non-finite numbers as they are. Of several files, damaged ones are listed as such.

    Raises
    ------
    FileError
        If a file cannot be read.
    """
    damage = Damage("nan")
    head = {"schema": "kullback.inspect/1", "version": kullback.__version__}
    described = []
    lists: Sequence[str] = ()
    if columns is None and is_topk(spec):
        path = Path(spec)
        described.append(_described_topk(path))
        if path.suffix == ".jsonl":
            return {**head, "tensors": described}
        lists = topk_columns(path) or ()
    tensors = as_stored(list_tensors(spec, columns, damage.unlisted), dtype)
    described += [_described(tensor, damage) for tensor in tensors if tensor.key not in lists]
    return {**head, "tensors": described, **damage.summary()}


def _described_topk(path: Path) -> dict[str, Any]:
    """Describe a dump from all its positions: how many there are is not known before they are read."""
    kinds: dict[type, str] = {int: "ids", str: "texts", tuple: "bytes"}
    lengths, values, masses = _Span(), _Span(), _Span()
    positions = empty = infinite = 0
    tokens = set()
    for position in read_topk(str(path)):
        positions += 1
        empty += not position
        for token, value in position.items():
            tokens.add(kinds[type(token)])
            if value == -math.inf:
                infinite += 1
            else:
                values.add(value)
        if position:
            lengths.add(len(position))
            masses.add(math.fsum(map(math.exp, position.values())))
    few = f"{lengths.least} to " if lengths.least < lengths.most else ""
    most = lengths.most if positions > empty else 0
    left = f"; {empty} of no token" if empty else ""
    return {
        "path": str(path),
        "name": path.stem,
        "shape": [positions, most],
        "dtype": " and ".join(sorted(tokens)) or "–",
        "bytes": path.stat().st_size,
        "looks_like": "top-k",
        "because": f"lists of {few}{most} tokens{left}; sums are of probabilities",
        "sampled_rows": positions,
        "values": {**values.ends(), "nan": 0, "inf": infinite},
        "row_sums": masses.ends(),
    }


class _Span:
    """The extremes of numbers that come one by one."""

    def __init__(self) -> None:
        self.least, self.most = math.inf, -math.inf

    def add(self, value: float) -> None:
        self.least, self.most = min(self.least, value), max(self.most, value)

    def ends(self) -> dict[str, float]:
        known = self.least <= self.most
        return {"min": self.least if known else math.nan, "max": self.most if known else math.nan}


def _described(tensor: Tensor, damage: Damage) -> dict[str, Any]:
    described: dict[str, Any] = {
        "path": str(tensor.path),
        "name": tensor.name,
        "shape": list(tensor.shape),
        "dtype": tensor.dtype.name,
        "bytes": tensor.nbytes,
    }
    if tensor.shape and (tensor.is_float or tensor.is_integer):
        try:
            seen = look(tensor)
        except FileError as error:
            if isinstance(error, DamagedError):
                damage.found.append({"path": str(error.path), "message": str(error)})
            return {**described, "looks_like": "unreadable", "because": str(error)}
        described |= {
            "looks_like": seen.kind,
            "because": seen.why,
            "sampled_rows": seen.rows,
            "values": {"min": seen.values[0], "max": seen.values[1], "nan": seen.nans, "inf": seen.infinities},
            "row_sums": {"min": seen.sums[0], "max": seen.sums[1]},
        }
    return described
