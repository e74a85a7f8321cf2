"""Tables: Parquet, Arrow's IPC format and CSV, by pyarrow.

A list column holds a row in each cell; otherwise a row takes several columns, one for each class. A reader holds one
batch at a time, however long the file is.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback import _core
from kullback._files.tensor import DamagedError, FileError, Tensor, stamp

__all__ = ["TABLES", "Columns", "TableRows", "list_table", "open_parquet"]

_BATCH_BYTES, _BATCH_ROWS = 16 << 20, 1 << 17
"""Bytes and rows of a batch at most; the block that is scored is a batch as it stands."""

_SEPARATORS = r"[\s,;]+"
"""What stands between the numbers of a list in a cell of text."""


@dataclass(frozen=True)
class Columns:
    """Where an array lies in a table.

    Attributes
    ----------
    names : tuple of str
        The columns: one of lists or of numbers, or one for each class.
    matrix : bool
        Whether several columns make the rows.
    """

    names: tuple[str, ...]
    matrix: bool = False


def list_table(path: Path, columns: Sequence[str] | None = None) -> list[Tensor]:
    """Describe the arrays of a table.

    Parameters
    ----------
    path : Path
        The file.
    columns : sequence of str, optional
        The columns, or patterns of columns, that are the classes of one matrix.

    Returns
    -------
    list of Tensor
        A matrix for every column of lists, an array for every column of numbers, booleans or strings, and, where no
        column holds lists, one matrix of all columns of floating-point numbers (of integers if there are no others).

    Raises
    ------
    FileError
        If the file is damaged, or a column is missing.
    """
    with _reporting(path):
        table = _opened(path)
        fields = table.schema()
        kinds = {field.name: kind for field in fields if (kind := _kind(field.type)) is not None}
        if len(set(fields.names)) < len(fields.names):
            doubled = next(name for name in fields.names if fields.names.count(name) > 1)
            raise FileError(f"{path}: has more than one column {doubled!r}: give columns names of their own")
        rows = table.rows()
        tensors = []
        for name, (dtype, is_list) in kinds.items():
            shape = (rows, _width(table, name)) if is_list else (rows,)
            tensors.append(Tensor(path, name, shape, dtype, Columns((name,))))
    if columns is not None:
        tensors = [_matrix(path, _expanded(path, columns, fields.names), kinds, rows), *tensors]
    elif not any(is_list for _, is_list in kinds.values()):
        names = table.classes({name: dtype for name, (dtype, _) in kinds.items()})
        if len(names) > 1:
            tensors = [_matrix(path, names, kinds, rows), *tensors]
    return tensors


def _expanded(path: Path, patterns: Sequence[str], names: Sequence[str]) -> list[str]:
    chosen: list[str] = []
    for pattern in patterns:
        found = [pattern] if pattern in names else [name for name in names if fnmatchcase(name, pattern)]
        if not found:
            shown = ", ".join(map(repr, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
            raise FileError(f"{path}: no column {pattern!r}; it has {shown or 'none'}")
        chosen += [name for name in found if name not in chosen]
    return chosen


def _matrix(path: Path, names: Sequence[str], kinds: dict[str, tuple[np.dtype[Any], bool]], rows: int) -> Tensor:
    for name in names:
        if name not in kinds or kinds[name][0].kind not in "biuf" or (kinds[name][1] and len(names) > 1):
            raise FileError(f"{path}: column {name!r} does not hold numbers, one a row, as a class has to")
    dtype = np.result_type(*(kinds[name][0] for name in names))
    if kinds[names[0]][1]:
        return next(t for t in list_table(path) if t.key == names[0])
    return Tensor(path, "", (rows, len(names)), dtype, Columns(tuple(names), matrix=True))


def _kind(kind: Any) -> tuple[np.dtype[Any], bool] | None:
    """Give numpy's dtype of a column's numbers, and whether each cell is a list of them; None for what is not read."""
    import pyarrow as pa

    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = _kind(kind.value_type)
        return None if inner is None or inner[1] or inner[0].kind == "U" else (inner[0], True)
    if pa.types.is_dictionary(kind):
        return _kind(kind.value_type)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.dtype(str), False
    if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return np.dtype(kind.to_pandas_dtype()), False
    return None


def _width(table: _Table, name: str) -> int:
    """Classes of the rows of a list column: of the first row that there is."""
    size = getattr(table.schema().field(name).type, "list_size", -1)
    if size >= 0:
        return int(size)
    for batch in table.batches((name,), 64):
        for cell in batch.column(0):
            if cell.is_valid:
                return len(cell)
    return 0


class TableRows:
    """Rows of a table, read front to back.

    Parameters
    ----------
    tensor : Tensor
        An array of a table.
    place : Columns
        Where it lies.
    axis : int or None
        The axis of the classes, the last; None for arrays of one number a row.
    """

    random_access = False

    def __init__(self, tensor: Tensor, place: Columns, axis: int | None) -> None:
        if axis not in (None, -1, len(tensor.shape) - 1):
            raise FileError(f"{tensor.label}: --axis {axis}: the rows of a table lie along its last axis")
        self._tensor = tensor
        self._place = place
        width = tensor.shape[1] if len(tensor.shape) > 1 else 1
        with _reporting(tensor.path):
            table = _opened(tensor.path)
            most = min(max(1, _BATCH_BYTES // max(1, width * tensor.dtype.itemsize)), _BATCH_ROWS)
            self.batch = _fitting(table.group(), most)
            self._batches = table.batches(place.names, self.batch)
        # Decoding the next batch while the caller works on this one: pyarrow lets go of the interpreter meanwhile.
        self._pool = ThreadPoolExecutor(1, "kullback-table")
        self._ahead = self._pool.submit(next, self._batches, None)
        self._first = 0
        self._held = self._empty()

    def _empty(self) -> NDArray[Any]:
        return np.empty((0, *self._tensor.shape[1:]), self._tensor.dtype)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start:stop``, where `start` is not before that of the last read."""
        if start < self._first:
            raise ValueError(f"rows of a table are read in order: {start} after {self._first}")
        pieces = []
        while True:
            end = self._first + len(self._held)
            if end > start:
                pieces.append(self._held[max(start - self._first, 0) : stop - self._first])
            if end >= stop:
                break
            self._first = end
            self._held = self._next(end, stop)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces or [self._empty()])

    def _next(self, first: int, wanted: int) -> NDArray[Any]:
        with _reporting(self._tensor.path):
            batch = self._ahead.result()
        if batch is None:
            raise DamagedError(
                self._tensor.path, f"{self._tensor.label}: ends after {first} rows where {wanted} were expected"
            )
        self._ahead = self._pool.submit(next, self._batches, None)
        column = batch if self._place.matrix else batch.column(0)
        if self._tensor.dtype.kind == "U":
            words: NDArray[Any] = column.to_numpy(zero_copy_only=False).astype(str)
            return words
        if not self._place.matrix and hasattr(column, "dictionary"):
            column = column.dictionary_decode()
        if self._tensor.is_integer and len(self._tensor.shape) == 1 and column.null_count:
            row = first + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            raise FileError(f"{self._tensor.label}: row {row} is null, where every row needs a number")
        try:
            rows: NDArray[Any] = _core.as_ndarray(column, "p")
        except ValueError as error:
            raise FileError(f"{self._tensor.label}: {str(error).removeprefix('p ')} (rows from {first})") from None
        if rows.ndim == 2 and rows.shape[1] != self._tensor.shape[1]:
            if not column.null_count == len(column):
                raise FileError(
                    f"{self._tensor.label}: rows from {first} on have {rows.shape[1]} classes, "
                    f"the first {self._tensor.shape[1]}: rows of one length are compared"
                )
            rows = np.full((len(rows), self._tensor.shape[1]), np.nan)
        return rows.view(self._tensor.dtype) if rows.dtype == np.uint16 else rows

    def release(self) -> None:
        """Batches are fresh arrays: nothing to give back."""

    def close(self) -> None:
        """Let go of the file."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._batches = iter(())
        self._held = self._empty()


def _fitting(group: int, most: int) -> int:
    """Give about so many rows that lie together: a batch of two row groups is a copy of both, a fifth of the reading.

    Examples
    --------
    >>> from kullback._files.tables import _fitting
    >>> _fitting(65_536, 41_943), _fitting(1000, 41_943), _fitting(65_537, 41_943), _fitting(0, 41_943)
    (32768, 41000, 41943, 41943)
    """
    if group <= most:
        return most // max(group, 1) * group or most
    fewest = -(-group // most)
    return next((group // n for n in range(fewest, 2 * fewest + 1) if group % n == 0), most)


class _Table:
    """A file of one of the formats."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def schema(self) -> Any:
        """Give the names and types of the columns."""
        raise NotImplementedError

    def rows(self) -> int:
        """Count the rows."""
        raise NotImplementedError

    def group(self) -> int:
        """Count the rows that lie together; 0 if that is not known."""
        return 0

    def classes(self, dtypes: dict[str, np.dtype[Any]]) -> list[str]:
        """Choose the columns that are the classes where nobody says: those of fractions, or else of integers."""
        for letters in ("f", "iu"):
            names = [name for name, dtype in dtypes.items() if dtype.kind in letters]
            if len(names) > 1:
                return names
        return []

    def batches(self, names: tuple[str, ...], rows: int) -> Iterator[Any]:
        """Read columns front to back, about so many rows at a time."""
        raise NotImplementedError


@lru_cache(maxsize=8)
def _footer(stamped: tuple[Path, int, int, int]) -> Any:
    """Read the footer, which of thousands of columns and row groups is long, once until the file changes."""
    import pyarrow.parquet as pq

    return pq.read_metadata(stamped[0])


def open_parquet(path: Path) -> Any:
    """Open a file as pyarrow's `ParquetFile`.

    Parameters
    ----------
    path : Path
        The file.
    """
    import pyarrow.parquet as pq

    # Buffered, and not mapped: a column chunk is read a piece at a time, and stays in memory no longer.
    options = {"pre_buffer": False, "buffer_size": 1 << 20, "page_checksum_verification": True}
    return pq.ParquetFile(path, metadata=_footer(stamp(path)), **options)


class _Parquet(_Table):
    def schema(self) -> Any:
        return open_parquet(self._path).schema_arrow

    def rows(self) -> int:
        return int(open_parquet(self._path).metadata.num_rows)

    def group(self) -> int:
        footer = open_parquet(self._path).metadata
        return int(footer.row_group(0).num_rows) if footer.num_row_groups else 0

    def batches(self, names: tuple[str, ...], rows: int) -> Iterator[Any]:
        for batch in open_parquet(self._path).iter_batches(batch_size=rows, columns=list(names)):
            yield batch.select(list(names))


class _Ipc(_Table):
    def _reader(self) -> Any:
        import pyarrow as pa
        from pyarrow import ipc

        source = pa.memory_map(str(self._path))
        if source.read(6) == b"ARROW1":
            source.seek(0)
            return ipc.open_file(source)
        source.seek(0)
        return ipc.open_stream(source)

    def _all(self) -> Iterator[Any]:
        reader = self._reader()
        if hasattr(reader, "num_record_batches"):
            for i in range(reader.num_record_batches):
                yield reader.get_batch(i)
        else:
            yield from reader

    def schema(self) -> Any:
        return self._reader().schema

    def rows(self) -> int:
        return sum(batch.num_rows for batch in self._all())

    def group(self) -> int:
        return next((batch.num_rows for batch in self._all()), 0)

    def batches(self, names: tuple[str, ...], rows: int) -> Iterator[Any]:
        for batch in self._all():
            chosen = batch.select(list(names))
            for start in range(0, chosen.num_rows, rows):
                yield chosen.slice(start, rows)


class _Csv(_Table):
    """Text with a line a row; a first line with a word, or with pandas' names of columns, names the columns."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file)
            first, second = next(lines, []), next(lines, [])
        self._headed = _is_header(path, first, second)
        names = first if self._headed else [f"f{i}" for i in range(len(first))]
        sample = second if self._headed else first
        self._lists = {name for name, word in zip(names, sample, strict=False) if _is_list(word)}

    def _open(self, names: tuple[str, ...] | None, types: dict[str, Any] | None = None) -> Any:
        from pyarrow import csv as arrow_csv

        return arrow_csv.open_csv(
            self._path,
            read_options=arrow_csv.ReadOptions(block_size=4 << 20, autogenerate_column_names=not self._headed),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=list(names) if names else None, column_types=types or {}
            ),
        )

    def schema(self) -> Any:
        import pyarrow as pa

        fields = [
            pa.field(field.name, pa.list_(pa.float64()) if field.name in self._lists else field.type)
            for field in self._open(None).schema
        ]
        return pa.schema(fields)

    def rows(self) -> int:
        return sum(batch.num_rows for batch in self._open(self._open(None).schema.names[:1]))

    def classes(self, dtypes: dict[str, np.dtype[Any]]) -> list[str]:
        """Choose all columns where they have no names; in text, a column of 0 and 1 does not say what it is."""
        numeric = [name for name, dtype in dtypes.items() if dtype.kind in "iuf"]
        mixed = len({dtypes[name].kind == "f" for name in numeric}) > 1
        return [] if self._headed and mixed else numeric

    def batches(self, names: tuple[str, ...], rows: int) -> Iterator[Any]:
        import pyarrow as pa

        # Types are guessed from the first block: integers there may become fractions further on.
        inferred = self._open(names).schema
        types = {
            field.name: pa.string() if field.name in self._lists else pa.float64()
            for field in inferred
            if field.name in self._lists or pa.types.is_floating(field.type) or len(names) > 1
        }
        for batch in self._open(names, types):
            columns = [
                _parsed(batch.column(name)) if name in self._lists else batch.column(name)
                for name in batch.schema.names
            ]
            whole = pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
            for start in range(0, whole.num_rows, rows):
                yield whole.slice(start, rows)


def _is_header(path: Path, first: list[str], second: list[str]) -> bool:
    """Tell whether the first line of text names the columns, from it and the second.

    pandas calls columns 0, 1, 2 where nobody does, after nothing for the column of its index.
    """
    from pyarrow.csv import ConvertOptions

    if any(map(_is_list, first)):
        return False
    missing = ConvertOptions().null_values
    if not all(_is_number(word) or word in missing for word in first):
        return True
    indexed = first[:1] == [""]
    names = first[indexed:]
    if len(names) < 2 or names != [str(i) for i in range(len(names))]:
        return False
    if not indexed and all(word.isdecimal() for word in second):
        raise FileError(
            f"{path}: its first line, {', '.join(names[:3])} …, may be a row or pandas' names of columns: put "
            "a line of names in front or in its place"
        )
    return True


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _is_list(word: str) -> bool:
    word = word.strip()
    if not (word.startswith("[") and word.endswith("]")):
        return False
    inside = word[1:-1].strip()
    return not inside or all(map(_is_number, re.split(_SEPARATORS, inside)))


def _parsed(column: Any) -> Any:
    """Read lists in cells of text, as ``[0.1, 0.9]``."""
    import pyarrow as pa
    import pyarrow.compute as pc

    words = pc.split_pattern_regex(pc.utf8_trim(column, characters="[] \t"), _SEPARATORS)
    return words.cast(pa.list_(pa.float64()))


_OPENED: dict[str, Callable[[Path], _Table]] = {
    ".parquet": _Parquet,
    ".arrow": _Ipc,
    ".arrows": _Ipc,
    ".feather": _Ipc,
    ".ipc": _Ipc,
    ".csv": _Csv,
}

TABLES = tuple(_OPENED)
"""Endings of the files that are tables."""


def _opened(path: Path) -> _Table:
    return _OPENED[path.suffix](path)


@contextmanager
def _reporting(path: Path) -> Iterator[None]:
    """Say what pyarrow, or its absence, says of a file."""
    try:
        import pyarrow as pa
    except ImportError:
        raise FileError(f"{path}: reading {path.suffix} needs pyarrow: pip install 'kullback[arrow]'") from None
    try:
        yield
    except FileError:
        raise
    except (pa.ArrowException, UnicodeDecodeError, csv.Error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the system's; pyarrow's own, such as of a damaged page, have no number
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DamagedError(
            path, f"{path}: not a readable {path.suffix} file ({reason}): write or copy it again"
        ) from error
