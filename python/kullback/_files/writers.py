"""Results a row, streamed to a file that appears under its name only when it is whole."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["OUT_EXTENSIONS", "AtomicFile", "RowWriter", "WriteError", "open_writer"]

Block = Mapping[str, NDArray[Any]]

_ROW_GROUP = 1 << 17
"""Rows of a Parquet row group: 9 MB of the comparison's columns, wide enough to compress and to skip by."""


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
            self.file: IO[bytes] = self._partial.open("xb", buffering=1 << 20)

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


def open_writer(out: AtomicFile, columns: Mapping[str, np.dtype[Any]], rows: int) -> RowWriter:
    """Start a file of results in the format its name asks for.

    Parameters
    ----------
    out : AtomicFile
        Where to; its ending is one of `OUT_EXTENSIONS`.
    columns : mapping of str to dtype
        The columns in order.
    rows : int
        How many rows will come.

    Returns
    -------
    RowWriter
        To be given every block, then finished.
    """
    return _WRITERS[out.path.suffix](out, columns, rows)


class _NpyWriter:
    """A structured array: one packed record a row."""

    def __init__(self, out: AtomicFile, columns: Mapping[str, np.dtype[Any]], rows: int) -> None:
        self._out = out
        self._dtype = np.dtype(list(columns.items()))
        header = {"descr": self._dtype.descr, "fortran_order": False, "shape": (rows,)}
        with out.reporting():
            np.lib.format.write_array_header_1_0(out.file, header)

    def write(self, block: Block) -> None:
        records = np.empty(len(next(iter(block.values()))), self._dtype)
        for name, column in block.items():
            records[name] = column
        with self._out.reporting():
            self._out.file.write(records.view(np.uint8).data)

    def finish(self) -> None:
        """Records are written as they come."""


class _CsvWriter:
    """Comma-separated text with a header; as many digits as give the same number back."""

    _FORMATS = {"f4": "%.9g", "f8": "%.17g"}

    def __init__(self, out: AtomicFile, columns: Mapping[str, np.dtype[Any]], rows: int) -> None:
        self._out = out
        self._line = ",".join(self._FORMATS.get(dtype.str[1:], "%d") for dtype in columns.values()) + "\n"
        with out.reporting():
            out.file.write((",".join(columns) + "\n").encode())

    def write(self, block: Block) -> None:
        line = self._line
        text = "".join([line % row for row in zip(*(column.tolist() for column in block.values()), strict=True)])
        with self._out.reporting():
            self._out.file.write(text.encode())

    def finish(self) -> None:
        """Lines are written as they come."""


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
            self._writer = pq.ParquetWriter(out.file, self._schema)

    def write(self, block: Block) -> None:
        self._held.append(self._arrow.table([self._arrow.array(c) for c in block.values()], schema=self._schema))
        self._count += self._held[-1].num_rows
        if self._count >= _ROW_GROUP:
            self._flush()

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


_WRITERS: dict[str, type[_NpyWriter] | type[_CsvWriter] | type[_ParquetWriter]] = {
    ".npy": _NpyWriter,
    ".csv": _CsvWriter,
    ".parquet": _ParquetWriter,
}

OUT_EXTENSIONS = tuple(_WRITERS)
"""Endings that `open_writer` accepts."""
