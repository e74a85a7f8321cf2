"""What a command reads: matrices of rows side by side, and the numbers that go one with each row."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._files import Codes, DamagedError, FileError, PackedRows, Rows, Tensor, open_rows, select_aligned

__all__ = ["Aligned", "Block", "Labels", "Part", "blocks", "described", "in_terms_of_options", "parts", "sample"]

BLOCK_BYTES = 16 << 20
"""Bytes of a matrix read at once: a few ms of work a block against about 0.2 ms of Python around it."""

PACKED_BYTES = 4 << 20
"""The same for llama.cpp's rows, as float32: what they are decoded to is read again and should still be in cache."""

BLOCK_ROWS = 1 << 17
"""Rows of a block at most: with few classes the results, up to 88 bytes a row, weigh more than what is read."""

_SAMPLED_RUNS, _SAMPLED_RUN = 32, 16
"""The sample: this many runs of this many rows, spread evenly."""

_SAMPLED_BYTES = 8 << 20


@dataclass(frozen=True)
class Part:
    """Matrices of the same rows: one of every input, with the classes along `axis`.

    Attributes
    ----------
    tensors : tuple of Tensor
        One of each input.
    axis : int
        The axis of the classes, counted from the front.
    first : int
        Rows of the parts before this one.
    first_sequence : int
        Sequences of the parts before this one.
    """

    tensors: tuple[Tensor, ...]
    axis: int
    first: int
    first_sequence: int

    @property
    def leading(self) -> tuple[int, ...]:
        """The shape without the classes."""
        shape = self.tensors[0].shape
        return shape[: self.axis] + shape[self.axis + 1 :]

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return math.prod(self.leading)

    @property
    def length(self) -> int:
        """Rows of a sequence: the last leading axis."""
        return self.leading[-1]

    @property
    def sequences(self) -> int:
        """Sequences of the matrices; a plain matrix is one."""
        return math.prod(self.leading[:-1])

    @property
    def classes(self) -> tuple[int, ...]:
        """Classes of each matrix."""
        return tuple(tensor.shape[self.axis] for tensor in self.tensors)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of all matrices together."""
        return sum(tensor.shape[self.axis] * tensor.dtype.itemsize for tensor in self.tensors)


def parts(matched: Sequence[tuple[Tensor, ...]], axis: int) -> list[Part]:
    """Line up matrices that have the same rows.

    Parameters
    ----------
    matched : sequence of tuple of Tensor
        For every part, one matrix of each input.
    axis : int
        The axis of the classes, as numpy counts.

    Returns
    -------
    list of Part
        With the rows and sequences counted through.

    Raises
    ------
    FileError
        If an array lacks the axis, or arrays have different rows.
    """
    found: list[Part] = []
    first = first_sequence = 0
    for tensors in matched:
        for tensor in tensors:
            if not -len(tensor.shape) <= axis < len(tensor.shape):
                raise FileError(f"{tensor.label}: --axis {axis} is none of its {len(tensor.shape)} axes")
        part = Part(tensors, axis % len(tensors[0].shape), first, first_sequence)
        for tensor in tensors[1:]:
            place = axis % len(tensor.shape)
            if tensor.shape[:place] + tensor.shape[place + 1 :] != part.leading:
                raise FileError(
                    f"{tensors[0].label} and {tensor.label}: different rows: {_shape(tensors[0])} against "
                    f"{_shape(tensor)}; choose the arrays with PATH::NAME"
                )
        found.append(part)
        first += part.rows
        first_sequence += part.sequences
    return found


def _shape(tensor: Tensor) -> str:
    return " × ".join(map(str, tensor.shape))


def described(tensors: Sequence[Tensor], spec: str, given: str) -> dict[str, Any]:
    """Describe one input in a summary; of several arrays, shapes and dtypes are lists."""
    shapes, dtypes = [list(tensor.shape) for tensor in tensors], [tensor.dtype.name for tensor in tensors]
    return {
        "path": spec,
        "tensors": [tensor.name for tensor in tensors],
        "shape": shapes[0] if len(tensors) == 1 else shapes,
        "dtype": dtypes[0] if len(tensors) == 1 else dtypes,
        "given": given,
    }


class Aligned:
    """Numbers that go one with each row: labels, a mask, groups.

    Parameters
    ----------
    spec : str
        What the user typed.
    every : sequence of Part
        The matrices they go with: one array for all, or one of the same name for each.
    what : str
        What they are, for messages.
    accepted : callable
        Which arrays can be it.

    Raises
    ------
    FileError
        If no array fits, or its shape is not that of the rows.
    """

    def __init__(self, spec: str, every: Sequence[Part], what: str, accepted: Callable[[Tensor], bool]) -> None:
        self.tensors = select_aligned(spec, [part.tensors[0] for part in every], what, accepted)
        self._every = every
        self._shared = len(self.tensors) == 1
        self._open: tuple[int, Rows] | None = None
        total = sum(part.rows for part in every)
        if self._shared:
            leading = every[0].leading if len(every) == 1 else (total,)
            self._check(self.tensors[0], {(total,), leading})
        else:
            for tensor, part in zip(self.tensors, every, strict=True):
                self._check(tensor, {(part.rows,), part.leading})

    @staticmethod
    def _check(tensor: Tensor, wanted: set[tuple[int, ...]]) -> None:
        if tensor.shape not in wanted:
            rows = " or ".join(" × ".join(map(str, shape)) for shape in sorted(wanted, key=len, reverse=True))
            raise FileError(f"{tensor.label}: shape {_shape(tensor) or '()'} where the rows are {rows}")

    def read(self, part: int, start: int, stop: int) -> NDArray[Any]:
        """Give the numbers of rows ``start:stop`` of a part."""
        which = 0 if self._shared else part
        if self._open is None or self._open[0] != which:
            self.close()
            self._open = which, open_rows(self.tensors[which], None)
        first = self._every[part].first if self._shared else 0
        return self._open[1].read(first + start, first + stop)

    def release(self) -> None:
        """Give back the memory behind what was read."""
        if self._open is not None:
            self._open[1].release()

    def close(self) -> None:
        """Close the file that is open."""
        if self._open is not None:
            self._open[1].close()
            self._open = None


class Labels:
    """The label of each row: given as such, or as the tokens of a text, where row i predicts token i + 1.

    Parameters
    ----------
    spec : str
        What the user typed.
    every : sequence of Part
        The matrices they go with.
    tokens : bool
        Whether these are tokens; the last row of each sequence then has no label.
    ignore_index : int
        The label that leaves a row out.
    """

    def __init__(self, spec: str, every: Sequence[Part], *, tokens: bool, ignore_index: int) -> None:
        what = "the tokens" if tokens else "the labels"
        self._aligned = Aligned(spec, every, what, lambda tensor: tensor.is_integer and tensor.dtype.kind != "b")
        self._every = every
        self._tokens = tokens
        self._ignore = ignore_index

    @property
    def tensors(self) -> list[Tensor]:
        """The arrays that are read."""
        return self._aligned.tensors

    @property
    def label(self) -> str:
        """The file, for messages."""
        return self._aligned.tensors[0].label

    def read(self, part: int, start: int, stop: int) -> NDArray[Any]:
        """Give the labels of rows ``start:stop`` of a part."""
        if not self._tokens:
            return self._aligned.read(part, start, stop)
        length = self._every[part].length
        labels = np.full(stop - start, self._ignore, np.int64)
        following = self._aligned.read(part, start + 1, min(stop + 1, self._every[part].rows))
        labels[: len(following)] = following
        labels[(length - 1 - start) % length :: length] = self._ignore
        return labels

    def release(self) -> None:
        """Give back the memory behind what was read."""
        self._aligned.release()

    def close(self) -> None:
        """Close the file that is open."""
        self._aligned.close()


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a part.

    Attributes
    ----------
    part : Part
        Where they come from.
    index : int
        Its number.
    start : int
        The first row within the part.
    held : list of ndarray or Codes
        Of each input, an array of shape (rows, classes), or rows of codes that are not decoded yet.
    """

    part: Part
    index: int
    start: int
    held: list[NDArray[Any] | Codes]

    @cached_property
    def matrices(self) -> list[NDArray[Any]]:
        """Arrays of shape (rows, classes), one of each input."""
        return [held.values() if isinstance(held, Codes) else held for held in self.held]

    @property
    def is_packed(self) -> bool:
        """Whether some input holds codes, and with them entries that stand for "at most this"."""
        return any(isinstance(held, Codes) for held in self.held)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.held[0])

    @property
    def stop(self) -> int:
        """The row after the last one, within the part."""
        return self.start + self.rows

    def places(self) -> dict[str, NDArray[np.int64]]:
        """Give each row's number, the number of its sequence and its position in it."""
        within = np.arange(self.start, self.stop)
        sequence, position = np.divmod(within, self.part.length)
        return {"row": within + self.part.first, "sequence": sequence + self.part.first_sequence, "position": position}


def blocks(
    every: Sequence[Part],
    classes: int | None,
    also: Sequence[Aligned | Labels],
    first: int = 0,
    damaged: Callable[[DamagedError, int], None] | None = None,
) -> Generator[Block, None, None]:
    """Walk the rows of all parts.

    Parameters
    ----------
    every : sequence of Part
        The matrices.
    classes : int or None
        Give only this many classes of each row.
    also : sequence of Aligned or Labels
        What is read along: released with every block, closed at the end.
    first : int
        Start with this row, which has to start a block.
    damaged : callable, optional
        Takes what is wrong with one of several parts, and the first row that cannot be read: this and what follows it
        in the part are given as NaN. Without it, that is raised.

    Yields
    ------
    Block
        Valid until the next one is asked for.
    """
    with ExitStack() as stack:
        for aligned in also:
            stack.callback(aligned.close)
        for index, part in enumerate(every):
            if part.first + part.rows <= first:
                continue
            with ExitStack() as opened:
                readers = [open_rows(tensor, part.axis) for tensor in part.tensors]
                for reader in readers:
                    opened.callback(reader.close)
                widest = max(tensor.shape[part.axis] * tensor.dtype.itemsize for tensor in part.tensors)
                packed = any(isinstance(reader, PackedRows) for reader in readers)
                step = min(max(1, (PACKED_BYTES if packed else BLOCK_BYTES) // max(widest, 1)), BLOCK_ROWS)
                step = min([step, *(reader.batch for reader in readers if reader.batch)])
                whole = True
                for start in range(max(first - part.first, 0), part.rows, step):
                    stop = min(start + step, part.rows)
                    held: list[NDArray[Any] | Codes] = []
                    try:
                        held += [_held(reader, start, stop, classes) for reader in readers if whole]
                    except DamagedError as error:
                        if damaged is None or len(every) == 1:
                            raise
                        damaged(error, part.first + start)
                        whole = False
                    if not whole:
                        held += [_unread(tensor, part.axis, stop - start, classes) for tensor in part.tensors]
                    yield Block(part, index, start, held)
                    for source in (*readers, *also):
                        source.release()


def _held(reader: Rows, start: int, stop: int, classes: int | None) -> NDArray[Any] | Codes:
    if isinstance(reader, PackedRows):
        return reader.codes(start, stop, classes)
    return reader.read(start, stop)[:, :classes]


def _unread(tensor: Tensor, axis: int, rows: int, classes: int | None) -> NDArray[Any]:
    dtype = tensor.dtype if tensor.is_float else np.dtype(np.float64)
    return np.full((rows, min(classes or tensor.shape[axis], tensor.shape[axis])), np.nan, dtype)


def sample(tensor: Tensor, axis: int | None) -> NDArray[Any]:
    """Copy a few hundred rows: spread over the array where it can be read anywhere, from its front otherwise.

    Parameters
    ----------
    tensor : Tensor
        The array.
    axis : int or None
        The axis of the classes; None for one number a row.

    Returns
    -------
    ndarray
        Of shape (rows, classes), or (rows,).
    """
    classes = 1 if axis is None else tensor.shape[axis]
    total = math.prod(tensor.shape) // max(classes, 1)
    run = _SAMPLED_RUN
    wanted = min(_SAMPLED_RUNS * run, _SAMPLED_BYTES // max(1, classes * tensor.dtype.itemsize))
    with ExitStack() as stack:
        reader = open_rows(tensor, axis)
        stack.callback(reader.close)
        if total <= max(wanted, 1) or not reader.random_access:
            starts, run = [0], min(max(wanted, 1), total)
        else:
            run = min(run, max(wanted, 1))
            starts = np.linspace(0, total - run, max(wanted // run, 1)).astype(np.int64).tolist()
        copies = []
        for start in starts:
            copies.append(np.array(reader.read(start, start + run)))
            reader.release()
    return np.concatenate(copies)


def in_terms_of_options(message: str, block: Block | None = None) -> str:
    """Say what the library says of a block in the words of the command line.

    Parameters
    ----------
    message : str
        A message of the library, which names rows of the block and keyword arguments.
    block : Block, optional
        Where rows are counted from; rows of a sample stay as they are.

    Returns
    -------
    str
        The message with rows counted from the beginning of the input, and options.

    Examples
    --------
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from kullback._files import Tensor
    >>> from kullback.cli.inputs import Block, Part, in_terms_of_options
    >>> part = Part((Tensor(Path("x.npy"), "", (3, 4, 2), np.dtype("f4"), 128),), 2, 0, 0)
    >>> block = Block(part, 0, 5, [np.zeros((7, 2))])
    >>> in_terms_of_options("label 2 of row 1 is out of range for 2 classes", block)
    'label 2 of row 6 (sequence 1, position 2) is out of range for 2 classes'
    >>> in_terms_of_options('for counts pass given="counts"')
    'for counts pass --given counts'
    """

    def counted(match: re.Match[str]) -> str:
        assert block is not None
        within = block.start + int(match[1])
        sequence, position = divmod(within, block.part.length)
        place = f" (sequence {block.part.first_sequence + sequence}, position {position})"
        return f"row {block.part.first + within}" + place * (len(block.part.leading) > 1)

    if block is not None:
        message = re.sub(r"\brow (\d+)", counted, message)
    return re.sub(r'\b([a-z_]+)="(\w+)"', lambda match: f"--{match[1].replace('_', '-')} {match[2]}", message)
