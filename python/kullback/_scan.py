"""Rows of a file of any length, a block at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, Literal, NamedTuple

from numpy.typing import NDArray

from kullback._files import select_matrices
from kullback.cli.inputs import blocks, parts

__all__ = ["Chunk", "scan"]


class Chunk(NamedTuple):
    """Consecutive rows of a file.

    Attributes
    ----------
    start : int
        The number of the first row, counted through all arrays.
    rows : ndarray
        Of shape (rows, classes).
    """

    start: int
    rows: NDArray[Any]


def scan(
    file: str | os.PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    dtype: Literal["bfloat16"] | None = None,
    axis: int = -1,
    num_classes: int | None = None,
) -> Iterator[Chunk]:
    """Iterate over the rows of a file in chunks of about 16 MB, whatever its length.

    Parameters
    ----------
    file : str or path
        What the command line takes: ``PATH``, ``PATH::NAME``, a folder, a glob or a shard index, of .npy, .npz,
        .safetensors, .parquet, .arrow, .feather or .csv files, or of llama.cpp's KL base files.
    columns : sequence of str, optional
        Columns of a table, or patterns such as ``"p_*"``, that are the classes of a row.
    dtype : {"bfloat16"}, optional
        What arrays of uint16 hold.
    axis : int
        The axis of the classes; the others are flattened in C order.
    num_classes : int, optional
        Give only the first classes of each row.

    Yields
    ------
    Chunk
        The number of its first row, and its rows: read-only where they lie in the file, and valid until the next chunk
        is asked for.

    Raises
    ------
    ValueError
        If the file is missing, damaged, or does not say which array is meant.

    Examples
    --------
    >>> import kullback as kb
    >>> rows = kb.Accumulator(["entropy_base"])
    >>> for start, logits in kb.scan("examples/digits.npy"):
    ...     entropy = kb.entropy(logits, given="logits")
    ...     rows.update({"entropy_base": entropy}, status=(entropy != entropy).astype(int) * 2)
    >>> round(rows.summary()["entropy_base"]["mean"], 3)
    0.136
    """
    every = parts([(tensor,) for tensor in select_matrices(os.fspath(file), columns, dtype)], axis)
    with closing(blocks(every, num_classes, [])) as walk:
        for block in walk:
            yield Chunk(block.part.first + block.start, block.matrices[0])
