"""Readers that walk an array front to back in blocks of rows.

A reader holds one block at a time: a mapped array lends views and gives back the pages already read, a compressed
archive member is inflated block by block. Resident memory is therefore set by the block, never by the file.
"""

from __future__ import annotations

import math
import mmap
import shutil
import tempfile
import zipfile
import zlib
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kullback._files.llama import Packed, PackedRows
from kullback._files.npy import read_header
from kullback._files.tables import Columns, TableRows
from kullback._files.tensor import DamagedError, FileError, Tensor

__all__ = ["Rows", "open_rows"]


class Rows(Protocol):
    """Rows of one array in C order of its leading axes, read front to back.

    Attributes
    ----------
    random_access : bool
        Whether rows can be read in any order.
    batch : int
        How many rows come at once, so that blocks of as many are not put together from pieces; 0 if any number does.
    """

    random_access: bool
    batch: int

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start:stop``; the array stays valid until the next call of `release`."""

    def release(self) -> None:
        """Give back the memory behind the rows read so far."""

    def close(self) -> None:
        """Close the file."""


def open_rows(tensor: Tensor, axis: int | None) -> Rows:
    """Open an array for reading by rows.

    Parameters
    ----------
    tensor : Tensor
        The array.
    axis : int or None
        The axis of the classes; None for arrays of one number a row, such as labels.

    Returns
    -------
    Rows
        Blocks of shape (rows, classes), or (rows,) without a class axis.

    Raises
    ------
    FileError
        If the file is missing, shorter than the array, or a damaged archive.
    """
    last = axis is None or axis in (-1, len(tensor.shape) - 1)
    try:
        if isinstance(tensor.place, int):
            return MappedRows(tensor, tensor.place, axis)
        if isinstance(tensor.place, Columns):
            return TableRows(tensor, tensor.place, axis)
        if isinstance(tensor.place, Packed):
            return PackedRows(tensor, tensor.place, axis)
        if last and not tensor.fortran:
            return InflatedRows(tensor, tensor.place, axis)
        return _spooled(tensor, tensor.place, axis)
    except OSError as error:
        raise FileError(f"{tensor.path}: {error.strerror or error}") from error


class MappedRows:
    """Rows of an array that lies in a file as it lies in memory.

    Parameters
    ----------
    tensor : Tensor
        The array.
    offset : int
        Byte position of its first element.
    axis : int or None
        The axis of the classes, or None.
    file : IO[bytes], optional
        An open file to map instead of ``tensor.path``.
    """

    random_access = True
    batch = 0

    def __init__(self, tensor: Tensor, offset: int, axis: int | None, file: IO[bytes] | None = None) -> None:
        self._tensor = tensor
        self._end = offset + tensor.nbytes
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        self._lead = offset - start
        self._map: mmap.mmap | None = None
        if tensor.nbytes == 0:
            array: NDArray[Any] = np.empty(tensor.shape, tensor.dtype)
        elif file is not None:
            array = self._mapped(file, start)
        else:
            with tensor.path.open("rb") as opened:
                array = self._mapped(opened, start)
        if axis is not None:
            array = np.moveaxis(array, axis, -1)
        tail = array.shape[len(array.shape) - (axis is not None) :]
        self._leading = array.shape[: len(array.shape) - (axis is not None)]
        self._row_bytes = math.prod(tail) * tensor.dtype.itemsize
        self._ordered = bool(array.flags.c_contiguous)
        self._flat = self._ordered or len(self._leading) == 1
        self._array = array.reshape(math.prod(self._leading), *tail) if self._ordered else array
        self._read = 0
        self._dropped = 0

    def _mapped(self, file: IO[bytes], start: int) -> NDArray[Any]:
        length = self._lead + self._tensor.nbytes
        try:
            self._map = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ, offset=start)
        except ValueError:  # shorter than the array
            raise self._short(file.seek(0, 2)) from None
        count = math.prod(self._tensor.shape)
        raw = np.frombuffer(self._map, np.uint8, count * self._tensor.dtype.itemsize, self._lead)
        return raw.view(self._tensor.dtype).reshape(self._tensor.shape, order="F" if self._tensor.fortran else "C")

    def _short(self, size: int) -> FileError:
        return FileError(
            f"{self._tensor.label}: ends after {size} bytes where the array needs {self._end}: "
            "the file is cut short, write or copy it again"
        )

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start:stop``, a view of the file wherever the leading axes lie in C order."""
        if self._map is not None and (size := self._map.size()) < self._end:
            raise self._short(size)
        self._read = max(self._read, stop)
        self._ahead(stop, stop + (stop - start))
        if self._flat:
            return self._array[start:stop]
        index = np.unravel_index(np.arange(start, stop), self._leading)
        block: NDArray[Any] = self._array[index]
        return block

    def _ahead(self, start: int, stop: int) -> None:
        """Ask for the next rows while the caller works on these."""
        if self._map is None or not self._ordered or not hasattr(mmap, "MADV_WILLNEED"):
            return
        first = self._page(self._lead + start * self._row_bytes)
        last = min(self._lead + stop * self._row_bytes, len(self._map))
        if first < last:
            self._map.madvise(mmap.MADV_WILLNEED, first, last - first)

    def release(self) -> None:
        """Unmap the pages of the rows read so far; they stay in the page cache."""
        if self._map is None or not hasattr(mmap, "MADV_DONTNEED"):
            return
        if not self._ordered:
            self._map.madvise(mmap.MADV_DONTNEED)
            return
        end = self._page(self._lead + self._read * self._row_bytes)
        if end > self._dropped:
            self._map.madvise(mmap.MADV_DONTNEED, self._dropped, end - self._dropped)
            self._dropped = end

    @staticmethod
    def _page(position: int) -> int:
        return position - position % mmap.PAGESIZE

    def close(self) -> None:
        """Let go of the mapping; views still held keep it alive."""
        self._array = np.empty(0, self._tensor.dtype)
        self._map = None


class InflatedRows:
    """Rows of a compressed archive member, inflated block by block.

    Parameters
    ----------
    tensor : Tensor
        An array in C order with the classes last.
    member : str
        The member of the archive that holds it.
    axis : int or None
        The axis of the classes, or None.
    """

    random_access = False
    batch = 0

    def __init__(self, tensor: Tensor, member: str, axis: int | None) -> None:
        self._tensor = tensor
        self._tail = () if axis is None else tensor.shape[-1:]
        self._row_bytes = math.prod(self._tail) * tensor.dtype.itemsize
        self._archive, self._member = _open_member(tensor, member)
        self._position = 0

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start:stop``, where `start` is not before the end of the last read."""
        if start < self._position:
            raise ValueError(f"rows of a compressed member are read in order: {start} after {self._position}")
        for _ in range(self._position, start):
            self._fill(np.empty(self._row_bytes, np.uint8))
        block = np.empty((stop - start) * self._row_bytes, np.uint8)
        self._fill(block)
        self._position = stop
        return block.view(self._tensor.dtype).reshape(stop - start, *self._tail)

    def _fill(self, buffer: NDArray[np.uint8]) -> None:
        view = buffer.data
        while view:
            try:
                count = self._member.readinto(view)  # type: ignore[attr-defined]
            except (zlib.error, zipfile.BadZipFile, EOFError, OSError) as error:
                raise DamagedError(
                    self._tensor.path, f"{self._tensor.label}: damaged archive ({error}): write it again"
                ) from error
            if not count:
                raise DamagedError(
                    self._tensor.path, f"{self._tensor.label}: the member ends early: write the archive again"
                )
            view = view[count:]

    def release(self) -> None:
        """Blocks are fresh arrays: nothing to give back."""

    def close(self) -> None:
        """Close the archive."""
        self._member.close()
        self._archive.close()


def _open_member(tensor: Tensor, member: str) -> tuple[zipfile.ZipFile, IO[bytes]]:
    """Open an archive member and skip its array header."""
    archive = zipfile.ZipFile(tensor.path)
    opened = archive.open(member)
    read_header(opened, tensor.path)
    return archive, opened


def _spooled(tensor: Tensor, member: str, axis: int | None) -> MappedRows:
    """Inflate a member whose rows do not follow one another into an unnamed temporary file and map that."""
    archive, opened = _open_member(tensor, member)
    with archive, opened, tempfile.TemporaryFile() as spool:
        shutil.copyfileobj(opened, spool, 1 << 20)
        spool.flush()
        return MappedRows(tensor, 0, axis, spool)
