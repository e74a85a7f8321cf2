"""numpy's .npy files and .npz archives of them."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from kullback._files.tensor import DamagedError, FileError, Tensor, bfloat16

__all__ = ["list_npy", "list_npz", "read_header"]

_LOCAL_HEADER = struct.Struct("<26xHH")
"""A zip member's local header up to the lengths of its name and its extra field (APPNOTE.TXT 4.3.7)."""


def read_header(file: IO[bytes], path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Read the header of an .npy file.

    Parameters
    ----------
    file : IO[bytes]
        At the start of the header.
    path : Path
        For messages.

    Returns
    -------
    shape, fortran, dtype, length
        The array, and the bytes of the header.

    Raises
    ------
    FileError
        If this is no .npy file, or one of Python objects.
    """
    start = file.tell()
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(file)
    except KeyError:
        raise FileError(
            f"{path}: .npy of version {version[0]}.{version[1]}; numbers are stored as 1.0 or 2.0"
        ) from None
    except (ValueError, EOFError, SyntaxError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DamagedError(
            path, f"{path}: not a readable .npy file ({reason}): write it again with numpy.save"
        ) from error
    if any(length < 0 for length in shape):
        raise DamagedError(path, f"{path}: not a readable .npy file (shape {shape}): write it again with numpy.save")
    if dtype.hasobject:
        raise FileError(
            f"{path}: holds Python objects, which are not read: save numbers (numpy.asarray(x, dtype=float))"
        )
    if dtype == np.dtype("V2"):  # what numpy.save makes of ml_dtypes.bfloat16
        dtype = bfloat16(path)
    return shape, fortran, dtype, file.tell() - start


def list_npy(path: Path) -> list[Tensor]:
    """Describe the array of an .npy file.

    Raises
    ------
    FileError
        If the file is not what it claims to be or is shorter than its header says.
    """
    with path.open("rb") as file:
        shape, fortran, dtype, offset = read_header(file, path)
        tensor = Tensor(path, "", shape, dtype, offset, fortran)
        size = file.seek(0, 2)
    if size < offset + tensor.nbytes:
        raise DamagedError(
            path,
            f"{path}: cut short: the header promises {tensor.nbytes} bytes ({_words(shape, dtype)}) "
            f"and {size - offset} are there: write or copy it again",
        )
    return [tensor]


def _words(shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    return f"{' × '.join(map(str, shape)) or 'a number'} {dtype.name}"


def list_npz(path: Path) -> list[Tensor]:
    """Describe the members of an .npz archive; stored members are mapped, compressed ones inflated as they are read.

    Raises
    ------
    FileError
        If the archive or a member is damaged.
    """
    tensors = []
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                if not info.filename.endswith(".npy"):
                    continue
                with archive.open(info) as member:
                    shape, fortran, dtype, length = read_header(member, path)
                place: int | str = info.filename
                if info.compress_type == zipfile.ZIP_STORED:
                    file.seek(info.header_offset)
                    name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
                    place = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length + length
                tensor = Tensor(path, info.filename.removesuffix(".npy"), shape, dtype, place, fortran)
                if info.file_size != length + tensor.nbytes:
                    raise DamagedError(
                        path,
                        f"{tensor.label}: holds {info.file_size - length} bytes where {_words(shape, dtype)} "
                        f"needs {tensor.nbytes}: write the archive again",
                    )
                tensors.append(tensor)
    except (zipfile.BadZipFile, struct.error, NotImplementedError, RuntimeError) as error:
        raise DamagedError(path, f"{path}: not a readable .npz archive ({error}): write or copy it again") from error
    return tensors
