"""``kullback inspect``: what is in a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import kullback
from kullback._files import DamagedError, FileError, Tensor, as_stored, list_tensors
from kullback.cli.checks import look
from kullback.cli.damage import Damage

__all__ = ["inspect_file"]


def inspect_file(spec: str, columns: Sequence[str] | None, dtype: str | None) -> dict[str, Any]:
    """Describe every array of an input from a sample of its rows.

    Parameters
    ----------
    spec : str
        ``PATH``, ``PATH::NAME``, a folder, a glob or a shard index.
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
    tensors = [_described(tensor, damage) for tensor in as_stored(list_tensors(spec, columns, damage.unlisted), dtype)]
    head = {"schema": "kullback.inspect/1", "version": kullback.__version__}
    return {**head, "tensors": tensors, **damage.summary()}


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
