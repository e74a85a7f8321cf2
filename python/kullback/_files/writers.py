"""Results a row, streamed to a file that appears under its name only when it is whole."""

from __future__ import annotations

import glob
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

if sys.platform != "win32":
    import fcntl

__all__ = ["OUT_EXTENSIONS", "AtomicFile", "RowWriter", "WriteError", "open_writer"]

Block = Mapping[str, NDArray[Any]]

_ROW_GROUP = 1 << 17
"""Rows of a Parquet row group: 9 MB of the comparison's columns."""


_DIGITS = {"f4": "%.9g", "f8": "%.17g"}
"""Decimal digits that give the same binary number back; integers and booleans are written as integers."""

_LINES = 1 << 13
"""Lines of text made at a time: as Python numbers and strings they take ten times what they take in the file."""


class WriteError(OSError):
    """A result that could not be written; the message starts with the file's name."""


class AtomicFile:
    """A file written beside its final name and renamed when it is complete.

    As a context manager it commits on success and removes what was written on an error.

    Parameters
    ----------
    path : str or Path
        The final name. An existing file is replaced at the end, not before.

    Raises
    ------
    WriteError
        If the folder is missing or not writable.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._partial = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.part")
        with self.reporting():
            for stray in self.path.parent.glob(f".{glob.escape(self.path.name)}.????????.part"):
                _remove_stray(stray)
            self.file: IO[bytes] = self._partial.open("xb", buffering=1 << 20)
            _lock(self.file)

    def reporting(self) -> _Reporting:
        """Context that turns an `OSError` into a `WriteError` naming the file."""
        return _Reporting(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.discard()
            return
        try:
            with self.reporting():
                self.file.flush()
                os.fsync(self.file.fileno())
                self.file.close()
                os.replace(self._partial, self.path)
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Close and remove what was written."""
        with suppress(OSError):  # what is buffered may not fit on the disk either
            self.file.close()
        with suppress(OSError):
            self._partial.unlink(missing_ok=True)


def _lock(file: IO[bytes]) -> bool:
    """Mark a file as being written, for as long as it is open; False if another process does that already."""
    if sys.platform == "win32":
        return False  # what a killed run left stays
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False  # also of a file system without locks, where nothing is removed then
    return True


def _remove_stray(path: Path) -> None:
    """Remove what a killed run left: a file that nobody is writing."""
    with suppress(OSError), path.open("rb") as file:
        if _lock(file):
            path.unlink()


class _Reporting:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError) and not isinstance(error, WriteError):
            raise WriteError(f"{self._path}: cannot be written: {error.strerror or error}") from error


class RowWriter(Protocol):
    """Takes blocks of equally long columns, always the same names in the same order."""

    def write(self, block: Block) -> None:
        """Append the rows of one block."""

    def finish(self) -> None:
        """Write what is still held back."""

    def abandon(self) -> None:
        """Let go of the file, which is about to be removed."""


@contextmanager
def open_writer(out: AtomicFile, columns: Mapping[str, np.dtype[Any]], rows: int) -> Iterator[RowWriter]:
    """Fill a file with results in the format that its name asks for.

    Parameters
    ----------
    out : AtomicFile
        Where to; its ending is one of `OUT_EXTENSIONS`.
    columns : mapping of str to dtype
        The columns in order.
    rows : int
        How many rows will come.

    Yields
    ------
    RowWriter
        To be given every block.

    Raises
    ------
    WriteError
        If the file cannot be written.
    """
    writer = _WRITERS[out.path.suffix](out, columns, rows)
    try:
        yield writer
    except BaseException:
        writer.abandon()
        raise
    writer.finish()


class _NpyWriter:
    """A structured array: one packed record a row."""

    def __init__(self, out: AtomicFile, columns: Mapping[str, np.dtype[Any]], rows: int) -> None:
        self._out = out
        self._dtype = np.dtype(list(columns.items()))
        self._records = np.empty(0, self._dtype)
        header = {"descr": self._dtype.descr, "fortran_order": False, "shape": (rows,)}
        with out.reporting():
            np.lib.format.write_array_header_1_0(out.file, header)

    def write(self, block: Block) -> None:
        rows = len(next(iter(block.values())))
        if rows > len(self._records):
            self._records = np.empty(rows, self._dtype)
        records = self._records[:rows]
        for name, column in block.items():
            records[name] = column
        with self._out.reporting():
            self._out.file.write(records.view(np.uint8).data)

    def finish(self) -> None:
        """Do nothing: records are written as they come."""

    def abandon(self) -> None:
        """Do nothing: only the file is open."""


class _CsvWriter:
    """Comma-separated text with a header; as many digits as give the same number back."""

    def __init__(self, out: AtomicFile, columns: Mapping[str, np.dtype[Any]], rows: int) -> None:
        self._out = out
        self._line = ",".join(_DIGITS.get(dtype.str[1:], "%d") for dtype in columns.values()) + "\n"
        with out.reporting():
            out.file.write((",".join(columns) + "\n").encode())

    def write(self, block: Block) -> None:
        line = self._line
        columns = list(block.values())
        for start in range(0, len(columns[0]), _LINES):
            rows = zip(*(column[start : start + _LINES].tolist() for column in columns), strict=True)
            text = "".join([line % row for row in rows])
            with self._out.reporting():
                self._out.file.write(text.encode())

    def finish(self) -> None:
        """Do nothing: lines are written as they come."""

    def abandon(self) -> None:
        """Do nothing: only the file is open."""


class _ParquetWriter:
    """Parquet with row groups of a fixed size, whatever the size of the blocks."""

    def __init__(self, out: AtomicFile, columns: Mapping[str, np.dtype[Any]], rows: int) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._out = out
        self._arrow = pa
        self._schema = pa.schema([(name, pa.from_numpy_dtype(dtype)) for name, dtype in columns.items()])
        self._held: list[Any] = []
        self._count = 0
        with out.reporting():
            # Hardly two numbers of a column are equal: a dictionary would only cost time and memory.
            self._writer = pq.ParquetWriter(out.file, self._schema, use_dictionary=False)

    def write(self, block: Block) -> None:
        columns = [self._column(column, field.type) for column, field in zip(block.values(), self._schema, strict=True)]
        self._held.append(self._arrow.table(columns, schema=self._schema))
        self._count += self._held[-1].num_rows
        if self._count >= _ROW_GROUP:
            self._flush()

    def _column(self, column: NDArray[Any], kind: Any) -> Any:
        """Wrap a column as it lies in memory (``pyarrow.array`` would import pandas to ask whether it is one)."""
        bits = np.packbits(column, bitorder="little") if column.dtype == bool else np.ascontiguousarray(column)
        return self._arrow.Array.from_buffers(kind, len(column), [None, self._arrow.py_buffer(bits)])

    def _flush(self) -> None:
        if self._count:
            table = self._arrow.concat_tables(self._held).combine_chunks()
            with self._out.reporting():
                self._writer.write_table(table, row_group_size=_ROW_GROUP)
        self._held, self._count = [], 0

    def finish(self) -> None:
        self._flush()
        with self._out.reporting():
            self._writer.close()

    def abandon(self) -> None:
        # It would close itself later, when there is no file any more, and complain.
        with suppress(OSError):
            self._writer.close()
        self._writer.is_open = False


_WRITERS: dict[str, type[_NpyWriter | _CsvWriter | _ParquetWriter]] = {
    ".npy": _NpyWriter,
    ".csv": _CsvWriter,
    ".parquet": _ParquetWriter,
}

OUT_EXTENSIONS = tuple(_WRITERS)
"""Endings that `open_writer` accepts."""
