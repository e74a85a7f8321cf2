"""``kullback inspect``: what is in a file."""

from __future__ import annotations

from typing import Any

import kullback
from kullback._files import Tensor, list_tensors
from kullback.cli.checks import look

__all__ = ["inspect_file"]


def inspect_file(spec: str) -> dict[str, Any]:
    """Describe every array of an input from a sample of its rows.

    Parameters
    ----------
    spec : str
        ``PATH``, ``PATH::TENSOR``, a folder, a glob or a shard index.

    Returns
    -------
    dict
        The JSON form, with non-finite numbers as they are.

    Raises
    ------
    FileError
        If a file cannot be read.
    """
    tensors = [_described(tensor) for tensor in list_tensors(spec)]
    return {"schema": "kullback.inspect/1", "version": kullback.__version__, "tensors": tensors}


def _described(tensor: Tensor) -> dict[str, Any]:
    described: dict[str, Any] = {
        "path": str(tensor.path),
        "name": tensor.name,
        "shape": list(tensor.shape),
        "dtype": tensor.dtype.name,
        "bytes": tensor.nbytes,
    }
    if tensor.shape and (tensor.is_float or tensor.is_integer):
        seen = look(tensor)
        described |= {
            "looks_like": seen.kind,
            "because": seen.why,
            "sampled_rows": seen.rows,
            "values": {"min": seen.values[0], "max": seen.values[1], "nan": seen.nans, "inf": seen.infinities},
            "row_sums": {"min": seen.sums[0], "max": seen.sums[1]},
        }
    return described
