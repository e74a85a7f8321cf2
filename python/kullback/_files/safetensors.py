"""The safetensors format: an 8-byte length, a JSON header, the arrays one after another."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from kullback._files.tensor import DamagedError, FileError, Tensor, bfloat16

__all__ = ["list_safetensors", "list_shards"]

_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}

_LONGEST_HEADER = 100_000_000
"""The format's own limit on the JSON header, in bytes."""


def list_safetensors(path: Path) -> list[Tensor]:
    """Describe the arrays of a safetensors file whose dtypes numpy can hold.

    Raises
    ------
    FileError
        If the header is damaged, or an array lies outside the file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise _damaged(path, f"a header of {length} bytes in a file of {size}")
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"the header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise _damaged(path, "the header is not a JSON object")
    tensors = [
        tensor
        for name, entry in header.items()
        if name != "__metadata__" and (tensor := _tensor(path, name, entry, 8 + length, size)) is not None
    ]
    if header and not tensors and "__metadata__" not in header:
        raise FileError(f"{path}: no array of a known dtype; known are {', '.join([*_DTYPES, 'BF16'])}")
    return tensors


def _tensor(path: Path, name: str, entry: Any, start: int, size: int) -> Tensor | None:
    """Describe one entry of the header, or None for a dtype that is neither a number nor a label (FP8, FP4)."""
    match entry:
        case {"dtype": str(kind), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
            pass
        case _:
            raise _damaged(path, f"the entry of {name!r} lacks dtype, shape or data_offsets")
    if not all(isinstance(length, int) and length >= 0 for length in shape) or not 0 <= begin <= end:
        raise _damaged(path, f"the entry of {name!r} has shape {shape} and offsets {begin} to {end}")
    if kind == "BF16":
        dtype = bfloat16(path)
    elif kind in _DTYPES:
        dtype = np.dtype(_DTYPES[kind])
    else:
        return None
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise _damaged(path, f"{name!r} takes {end - begin} bytes, its shape {shape} in {kind} needs another number")
    if start + end > size:
        raise DamagedError(
            path,
            f"{path}: cut short: {name!r} ends at byte {start + end} and the file at {size}: write or copy it again",
        )
    return Tensor(path, name, tuple(shape), dtype, start + begin)


def list_shards(path: Path, damaged: list[DamagedError]) -> list[Tensor]:
    """Describe the arrays of the shards that an index (``*.safetensors.index.json``) names.

    Parameters
    ----------
    path : Path
        The index.
    damaged : list of DamagedError
        Takes what is wrong with shards.

    Raises
    ------
    FileError
        If the index is damaged, or an array is of an unknown dtype.
    """
    try:
        weight_map = json.loads(path.read_bytes())["weight_map"]
        shards = {name: path.parent / file for name, file in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"no weight_map: {error}") from error
    tensors: list[Tensor] = []
    for shard in sorted(set(shards.values())):
        try:
            if not os.path.exists(shard):
                raise DamagedError(shard, f"{path}: names the shard {shard}, which does not exist")
            tensors += [tensor for tensor in list_safetensors(shard) if shards.get(tensor.name) == shard]
        except DamagedError as error:
            damaged.append(error)
    return tensors


def _damaged(path: Path, reason: str) -> DamagedError:
    return DamagedError(path, f"{path}: damaged ({reason}): write or copy it again")
