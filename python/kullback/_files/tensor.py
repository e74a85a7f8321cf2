"""What an array of a file is and where it lies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from kullback._files.llama import Packed
    from kullback._files.tables import Columns

__all__ = ["DamagedError", "FileError", "Tensor", "bfloat16"]


class FileError(ValueError):
    """A file that cannot be read as what it claims to be; the message starts with the file's name."""


class DamagedError(FileError):
    """A file that does not hold what it claims, where others beside it may.

    Parameters
    ----------
    path : Path
        The file.
    message : str
        What is wrong with it.
    """

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.path = path


@dataclass(frozen=True)
class Tensor:
    """Where one array lies and what it is; nothing is read yet.

    Attributes
    ----------
    path : Path
        The file.
    key : str
        Its name inside the file; empty where a file holds a single array.
    shape, dtype
        As stored. bfloat16 is the dtype of ``ml_dtypes``.
    place : int, str, Columns or Packed
        Byte position of the first element, the name of a compressed archive member, columns of a table, or rows packed
        as llama.cpp does.
    fortran : bool
        The first axis runs fastest.
    alias : str
        A name for it among several files, where keys alone would clash.
    """

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    place: int | str | Columns | Packed
    fortran: bool = False
    alias: str = ""

    @property
    def name(self) -> str:
        """The name by which arrays of two inputs pair up."""
        return self.alias or self.key or self.path.stem

    @property
    def label(self) -> str:
        """The array as a user would ask for it: ``PATH`` or ``PATH::KEY``."""
        return f"{self.path}::{self.key}" if self.key else str(self.path)

    @property
    def nbytes(self) -> int:
        """Bytes of the array's elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def is_float(self) -> bool:
        """Whether the elements are floating-point numbers, bfloat16 included."""
        return self.dtype.kind == "f" or self.dtype.name == "bfloat16"

    @property
    def is_integer(self) -> bool:
        """Whether the elements are integers or booleans."""
        return self.dtype.kind in "iub"


def stamp(path: Path) -> tuple[Path, int, int, int]:
    """Give what tells whether a file is the one whose head was read: its path, inode, size and time of last change.

    Parameters
    ----------
    path : Path
        The file.
    """
    found = path.stat()
    return path, found.st_ino, found.st_size, found.st_mtime_ns


def bfloat16(path: Path) -> np.dtype[Any]:
    """Return numpy's bfloat16, which ``ml_dtypes`` provides.

    Parameters
    ----------
    path : Path
        The file that needs it, for the message.

    Raises
    ------
    FileError
        If ``ml_dtypes`` is not installed.
    """
    try:
        import ml_dtypes
    except ImportError:
        raise FileError(f"{path}: reading bfloat16 needs ml_dtypes: pip install 'kullback[cli]'") from None
    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype
