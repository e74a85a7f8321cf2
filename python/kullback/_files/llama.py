"""llama.cpp's files of log-probabilities, as ``llama-perplexity --kl-divergence-base`` writes them.

A header (``_logits_``, then n_ctx, n_vocab and n_chunk as 32-bit numbers), the tokens of n_chunk contexts, and for each
context n_ctx - 1 - n_ctx // 2 rows of 16-bit codes: the second half of a context is scored, and row i of it belongs to
the token n_ctx // 2 + i and predicts the one after. A row starts with two float32, a step and a minimum, and a code
stands for the log-probability step * code + minimum. What lies more than 16 below the largest is stored as code 0.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._files.tensor import DamagedError, FileError, Tensor, stamp

__all__ = ["Codes", "Packed", "PackedRows", "is_llama", "list_llama"]

_MAGIC = b"_logits_"
_HEADER = 20
_CLAMP = 16.0
"""How far below the largest logit llama.cpp stores; the step is this over 65 535 then."""

_CODES = 65_535
_HEAD = 4
"""Codes in whose place a row's step and minimum stand."""


@dataclass(frozen=True)
class Packed:
    """Where rows of codes lie, or the labels among the tokens.

    Attributes
    ----------
    offset : int
        Byte position of the first row, or of the first token.
    context : int
        Tokens of a context.
    labels : bool
        Whether these are the tokens that the rows predict.
    """

    offset: int
    context: int
    labels: bool = False


def is_llama(path: Path) -> bool:
    """Whether a file starts as these do."""
    return _head(stamp(path)) == _MAGIC


@lru_cache(maxsize=64)
def _head(stamped: tuple[Path, int, int, int]) -> bytes:
    """Read the first bytes, once until the file changes."""
    with stamped[0].open("rb") as file:
        return file.read(len(_MAGIC))


def list_llama(path: Path) -> list[Tensor]:
    """Describe the arrays of a file: ``log_probs``, ``tokens``, and as ``labels`` the token that each row predicts.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    list of Tensor
        Of shapes (contexts, rows, classes), (contexts, n_ctx) and (contexts, rows).

    Raises
    ------
    FileError
        If the header makes no sense, or the file is shorter than it says.
    """
    with path.open("rb") as file:
        header = file.read(_HEADER)
        size = file.seek(0, 2)
    if len(header) < _HEADER:
        raise DamagedError(path, f"{path}: cut short in its header: write or copy it again")
    context, classes, contexts = np.frombuffer(header, "<i4", 3, len(_MAGIC)).tolist()
    if context < 4 or classes < 2 or contexts < 1:
        raise DamagedError(
            path,
            f"{path}: damaged: its header says {contexts} contexts of {context} tokens and {classes} classes: write it "
            "again",
        )
    rows = context - 1 - context // 2
    start = _HEADER + 4 * context * contexts
    end = start + contexts * rows * _row_bytes(classes)
    if size < end:
        whole = max(0, (size - start) // (rows * _row_bytes(classes)))
        raise DamagedError(
            path,
            f"{path}: cut short: {contexts} contexts of {rows} rows of {classes} classes need {end} bytes and {size} "
            f"are there, {whole} contexts: write or copy it again",
        )
    single = np.dtype(np.float32)
    tokens = np.dtype("<i4")
    return [
        Tensor(path, "log_probs", (contexts, rows, classes), single, Packed(start, context)),
        Tensor(path, "labels", (contexts, rows), tokens, Packed(_HEADER, context, labels=True)),
        Tensor(path, "tokens", (contexts, context), tokens, _HEADER),
    ]


def _row_bytes(classes: int) -> int:
    return 2 * (2 * ((classes + 1) // 2) + 4)


class Codes:
    """Consecutive rows of codes as they lie in the file.

    Parameters
    ----------
    packed : ndarray of uint16, shape (rows, words)
        The rows, each with its step and minimum in front.
    classes : int
        How many classes of each row are looked at.

    Attributes
    ----------
    packed, classes
        The parameters.
    """

    def __init__(self, packed: NDArray[np.uint16], classes: int) -> None:
        self.packed = packed
        self.classes = classes
        self._step, self._minimum = np.ascontiguousarray(packed[:, :_HEAD]).view("<f4").T

    def __len__(self) -> int:
        return len(self.packed)

    def values(self) -> NDArray[np.float32]:
        """Decode the rows to log-probabilities, as llama.cpp does; clamped entries have their row's minimum."""
        codes = self.packed[:, _HEAD : _HEAD + self.classes]
        values: NDArray[np.float32] = self._step[:, None] * codes + self._minimum[:, None]
        return values

    def at(self, rows: NDArray[np.intp], classes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Decode one entry of each of some rows."""
        values: NDArray[np.float32] = self._step[rows] * self.packed[rows, _HEAD + classes] + self._minimum[rows]
        return values

    def clamped_at(self, rows: NDArray[np.intp], classes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell which of these entries stand for "at most this" instead of for a number."""
        clamped: NDArray[np.bool_] = self._reaching(rows) & (self.packed[rows, _HEAD + classes] == 0)
        return clamped

    def clamped_mass(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Give the most that the clamped entries of some rows can have together."""
        counts = np.count_nonzero(self.packed[rows, _HEAD : _HEAD + self.classes] == 0, axis=1)
        mass: NDArray[np.float64] = self._reaching(rows) * counts * np.exp(self._minimum[rows].astype(np.float64))
        return mass

    def _reaching(self, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        # A row that reaches 16 below its largest has the step 16 / 65 535, up to rounding.
        reaching: NDArray[np.bool_] = self._step[rows].astype(np.float64) * _CODES >= _CLAMP * (1 - 1e-4)
        return reaching

    def damaged(self) -> int | None:
        """Give the first row whose step or minimum makes no sense; None if there is none."""
        right = np.isfinite(self._step) & np.isfinite(self._minimum) & (self._step >= 0)
        return None if right.all() else int(np.flatnonzero(~right)[0])


class PackedRows:
    """Rows of such a file, decoded to float32 as llama.cpp does.

    Parameters
    ----------
    tensor : Tensor
        ``log_probs`` or ``labels``.
    place : Packed
        Where it lies.
    axis : int or None
        The axis of the classes, the last; None for the labels.
    """

    random_access = True
    batch = 0

    def __init__(self, tensor: Tensor, place: Packed, axis: int | None) -> None:
        if axis not in (None, -1, len(tensor.shape) - 1):
            raise FileError(f"{tensor.label}: --axis {axis}: its rows lie along the last axis")
        self._tensor = tensor
        self._place = place
        self._read = self._dropped = 0
        with tensor.path.open("rb") as file:
            self._map: mmap.mmap | None = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        contexts, rows = tensor.shape[:2]
        if place.labels:
            count = contexts * place.context
            tokens = np.frombuffer(self._map, "<i4", count, place.offset).reshape(contexts, place.context)
            labels = tokens[:, place.context // 2 + 1 :]
            self._labels: NDArray[Any] = labels.reshape(-1) if axis is None else labels
            return
        self._row = _row_bytes(tensor.shape[2])
        count = contexts * rows * self._row // 2
        self._packed = np.frombuffer(self._map, "<u2", count, place.offset).reshape(contexts * rows, -1)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start:stop``; clamped entries have their row's minimum."""
        if self._place.labels:
            return self._labels[start:stop]
        return self.codes(start, stop).values()

    def codes(self, start: int, stop: int, classes: int | None = None) -> Codes:
        """Give rows as they lie in the file, or the first classes of them."""
        assert self._map is not None
        if self._map.size() < self._place.offset + stop * self._row:
            raise FileError(f"{self._tensor.label}: was cut short while it was read: write or copy it again")
        self._read = max(self._read, stop)
        codes = Codes(self._packed[start:stop], classes or self._tensor.shape[2])
        row = codes.damaged()
        if row is not None:
            raise DamagedError(
                self._tensor.path,
                f"{self._tensor.label}: row {start + row} has no scale: damaged, write or copy it again",
            )
        return codes

    def release(self) -> None:
        """Unmap the pages of the rows read so far."""
        if self._map is None or self._place.labels or not hasattr(mmap, "MADV_DONTNEED"):
            return
        end = self._place.offset + self._read * self._row
        end -= end % mmap.PAGESIZE
        if end > self._dropped:
            self._map.madvise(mmap.MADV_DONTNEED, self._dropped, end - self._dropped)
            self._dropped = end

    def close(self) -> None:
        """Let go of the mapping; views still held keep it alive."""
        self._labels = np.empty(0, np.int32)
        self._packed = np.empty((0, 0), np.uint16)
        self._map = None
