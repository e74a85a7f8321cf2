"""From what the user typed to the arrays meant: ``PATH``, ``PATH::NAME``, a folder, a glob, an index, columns."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from kullback._files.llama import is_llama, list_llama
from kullback._files.npy import list_npy, list_npz
from kullback._files.safetensors import list_safetensors, list_shards
from kullback._files.tables import TABLES, list_table
from kullback._files.tensor import DamagedError, FileError, Tensor, bfloat16

__all__ = [
    "EXTENSIONS",
    "as_stored",
    "list_tensors",
    "pair_matrices",
    "select_aligned",
    "select_matrices",
]

_READERS: dict[str, Callable[[Path], list[Tensor]]] = {
    ".npy": list_npy,
    ".npz": list_npz,
    ".safetensors": list_safetensors,
}

_INDEX = ".safetensors.index.json"

EXTENSIONS = (*_READERS, _INDEX, *TABLES)
"""Endings of the files that are read."""

_LISTED = 8
"""Arrays that an error message spells out."""


def list_tensors(
    spec: str, columns: Sequence[str] | None = None, damaged: list[DamagedError] | None = None
) -> list[Tensor]:
    """List every array of a file, folder, glob or shard index, in natural order.

    Parameters
    ----------
    spec : str
        ``PATH`` or ``PATH::NAME``; the latter keeps the one array, of several files each file's.
    columns : sequence of str, optional
        Columns of a table, or patterns of them, that are the classes of one matrix.
    damaged : list of DamagedError, optional
        Takes what is wrong with some of several files; without it, that is raised.

    Returns
    -------
    list of Tensor
        Arrays of different files that share a name get their file's name in front.

    Raises
    ------
    FileError
        If nothing is there, the ending is unknown, a file is damaged, or there is no array of that name.
    """
    pattern, name = _split(spec)
    files = _files(pattern)
    broken: list[DamagedError] = []
    tensors = [tensor for file in files for tensor in _list_file(file, columns, broken)]
    if broken and (damaged is None or not tensors):
        raise broken[0]
    if damaged is not None:
        damaged += broken
    counts = Counter(tensor.name for tensor in tensors)
    # What a damaged file calls its arrays is not known: probably what the others do.
    hidden = bool(broken) and len(files) > 1
    tensors = [
        replace(tensor, alias=_alias(tensor)) if counts[tensor.name] > 1 or (hidden and tensor.key) else tensor
        for tensor in tensors
    ]
    tensors.sort(key=lambda tensor: _natural(tensor.name))
    if name is None:
        return tensors
    chosen = [tensor for tensor in tensors if name in (tensor.name, tensor.key)]
    if not chosen:
        raise FileError(f"{pattern}: has no array {name!r}; it has {_spelled(tensors)}")
    return chosen


def _alias(tensor: Tensor) -> str:
    return f"{tensor.path.stem}/{tensor.key}" if tensor.key else f"{tensor.path.parent.name}/{tensor.path.stem}"


def _split(spec: str) -> tuple[str, str | None]:
    if "::" not in spec or os.path.exists(spec):
        return spec, None
    path, _, name = spec.rpartition("::")
    return path, name


def _files(pattern: str) -> list[Path]:
    if os.path.isdir(pattern):
        found = [
            file for file in Path(pattern).iterdir() if file.suffix in EXTENSIONS and not file.name.startswith(".")
        ]
        if not found:
            raise FileError(f"{pattern}: the folder has no file ending in {_or(_plain_endings())}")
    elif os.path.exists(pattern):
        return [Path(pattern)]
    elif glob.has_magic(pattern):
        found = [Path(file) for file in glob.glob(pattern, recursive=True)]
        if not found:
            raise FileError(f"{pattern}: no file matches")
    else:
        raise FileError(f"{pattern or repr(pattern)}: no such file")
    return sorted(found, key=lambda file: _natural(str(file)))


def _list_file(path: Path, columns: Sequence[str] | None, damaged: list[DamagedError]) -> list[Tensor]:
    if path.exists() and not path.is_file():
        raise FileError(f"{path}: is a pipe or a device, which cannot be mapped: write it to a file first")
    try:
        if path.suffix in TABLES:
            return list_table(path, columns)
        if columns is not None:
            raise FileError(f"{path}: --columns is for tables: {_or(TABLES)}")
        if path.suffix == ".jsonl":
            raise FileError(
                f"{path}: dumps of the k best tokens are compared with each other, or inspected, one file each"
            )
        if path.name.endswith(_INDEX):
            return list_shards(path, damaged)
        for ending, read in _READERS.items():
            if path.name.endswith(ending):
                return read(path)
        # llama.cpp leaves the name to its user, and marks the file.
        if is_llama(path):
            return list_llama(path)
    except DamagedError as error:
        damaged.append(error)
        return []
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from error
    raise FileError(f"{path}: unknown kind of file; read are {_or(EXTENSIONS)} and llama.cpp's KL base files")


def select_matrices(
    spec: str,
    columns: Sequence[str] | None = None,
    dtype: str | None = None,
    damaged: list[DamagedError] | None = None,
) -> list[Tensor]:
    """Choose the matrices of rows: floating arrays of two or more axes, integer ones where there is no floating one.

    Parameters
    ----------
    spec, columns, damaged
        What `list_tensors` takes; with columns, only the matrix that they make.
    dtype : {"bfloat16"}, optional
        What matrices of uint16 hold.

    Returns
    -------
    list of Tensor
        One or more, in natural order.

    Raises
    ------
    FileError
        If there is none, or a table has several columns of lists; the message lists what there is.
    """
    tensors = as_stored(list_tensors(spec, columns, damaged), dtype)
    if columns is not None:
        first: dict[Path, Tensor] = {}
        for tensor in tensors:
            if len(tensor.shape) == 2 and (not tensor.key or any(fnmatchcase(tensor.key, word) for word in columns)):
                first.setdefault(tensor.path, tensor)
        tensors = list(first.values())
    wide = [tensor for tensor in tensors if len(tensor.shape) >= 2]
    matrices = [tensor for tensor in wide if tensor.is_float] or [tensor for tensor in wide if tensor.is_integer]
    if not matrices:
        hint = "; --columns says which columns are classes" if any(t.path.suffix in TABLES for t in tensors) else ""
        raise FileError(f"{spec}: has no numeric array of two or more axes; it has {_spelled(tensors)}{hint}")
    for path in {tensor.path for tensor in matrices if tensor.path.suffix in TABLES}:
        lists = [tensor for tensor in matrices if tensor.path == path]
        if len(lists) > 1:
            raise FileError(
                f"{path}: which column of lists holds the rows? choose one with --columns {lists[0].key} or "
                f"PATH::{lists[0].key} of {_spelled(lists, key=True)}"
            )
    return matrices


def as_stored(tensors: list[Tensor], dtype: str | None) -> list[Tensor]:
    """Say that matrices of uint16 hold the bits of bfloat16, if `dtype` does."""
    if dtype is None:
        return tensors
    return [replace(t, dtype=bfloat16(t.path)) if t.dtype == np.uint16 and len(t.shape) >= 2 else t for t in tensors]


def pair_matrices(
    base: str,
    other: str,
    columns: Sequence[str] | None = None,
    dtype: str | None = None,
    damaged: list[DamagedError] | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """Pair up the matrices of two inputs: one with one whatever their names, several by equal names or equal files.

    Where files are damaged, what lies in files of their names has no partner, and is left out.

    Parameters
    ----------
    base, other : str
        What `list_tensors` takes.
    columns : sequence of str, optional
        The columns of tables that make the rows of either.
    dtype : {"bfloat16"}, optional
        What matrices of uint16 hold.
    damaged : list of DamagedError, optional
        As for `list_tensors`.

    Raises
    ------
    FileError
        If names are left without a partner; the message lists them.
    """
    broken: list[DamagedError] = []
    left, right = (select_matrices(spec, columns, dtype, None if damaged is None else broken) for spec in (base, other))
    if len(left) == len(right) == 1 and not broken:
        return [(left[0], right[0])]
    if damaged is not None:
        damaged += broken
    stems = {error.path.stem for error in broken}
    # By name; where that says nothing, by file: one column each of the files of a folder.
    keys: tuple[Callable[[Tensor], object], ...] = (
        lambda tensor: tensor.name,
        lambda tensor: (tensor.path.stem, tensor.key),
        lambda tensor: tensor.path.stem,
    )
    for key in keys:
        ours, theirs = ({key(tensor): tensor for tensor in tensors} for tensors in (left, right))
        pairs = [(tensor, theirs[word]) for word, tensor in ours.items() if word in theirs]
        alone = [ours.get(word, theirs.get(word)) for word in ours.keys() ^ theirs.keys()]
        unique = len(ours) == len(left) and len(theirs) == len(right)
        if pairs and unique and all(tensor.path.stem in stems for tensor in alone if tensor):
            return pairs
    if broken:
        raise broken[0]
    raise FileError(
        f"{base} and {other}: their arrays do not pair up by name: {_spelled(left)} against {_spelled(right)}; "
        "choose one of each with PATH::NAME"
    )


def select_aligned(
    spec: str, matrices: Sequence[Tensor], what: str, accepted: Callable[[Tensor], bool]
) -> list[Tensor]:
    """Choose the arrays of one number a row that go with the matrices.

    Parameters
    ----------
    spec : str
        What `list_tensors` takes.
    matrices : sequence of Tensor
        What they go with: several arrays must have their names, or lie one in each of files with their files' names.
    what : str
        What the array is, for messages.
    accepted : callable
        Which arrays can be it.

    Returns
    -------
    list of Tensor
        One for all rows, or one for each matrix.

    Raises
    ------
    FileError
        If the choice is not clear; the message lists what there is.
    """
    tensors = list_tensors(spec)
    found = [tensor for tensor in tensors if accepted(tensor)]
    if len(found) == 1:
        return found
    by_name = {tensor.name: tensor for tensor in found}
    if found and all(matrix.name in by_name for matrix in matrices):
        return [by_name[matrix.name] for matrix in matrices]
    by_file = {tensor.path.stem: tensor for tensor in found}
    files = [matrix.path.stem for matrix in matrices]
    if len(by_file) == len(found) == len(set(files)) == len(files) and all(file in by_file for file in files):
        return [by_file[file] for file in files]
    if not found:
        raise FileError(f"{spec}: has no array that can be {what}; it has {_spelled(tensors)}")
    raise FileError(f"{spec}: which array is {what}? choose one with PATH::NAME of {_spelled(found)}")


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key that counts: layer2 before layer10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def _spelled(tensors: Sequence[Tensor], *, key: bool = False) -> str:
    words = [
        f"{(t.key if key else t.name)!r} ({' × '.join(map(str, t.shape)) or 'one'} {t.dtype.name})"
        for t in tensors[:_LISTED]
    ]
    if len(tensors) > _LISTED:
        words.append(f"{len(tensors) - _LISTED} more")
    return ", ".join(words) or "nothing"


def _plain_endings() -> list[str]:
    return [ending for ending in EXTENSIONS if ending.count(".") == 1]


def _or(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last
