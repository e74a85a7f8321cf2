"""Results in a folder of parts, so that what was interrupted can go on: at any moment, killed or not.

A part appears under its name when it is whole, and then in ``_manifest.json``, which is replaced at once. What the
manifest does not name does not count. The same command goes on after the last part that is as it was written.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._files.tensor import FileError
from kullback._files.writers import AtomicFile, WriteError, open_writer

__all__ = ["SHARD_EXTENSIONS", "Shards"]

SHARD_EXTENSIONS = (".npy", ".parquet")
"""Endings of folders whose parts can be read back bit for bit."""

_SCHEMA = "kullback.parts/1"

_CHUNK = 1 << 20


class Shards:
    """A folder of parts, each of about as many rows.

    Parameters
    ----------
    folder : Path
        Its ending says of what kind the parts are. Made if it is not there.
    columns : mapping of str to dtype
        The columns of every part.
    identity : mapping
        What the results depend on: a folder that was begun with another is refused.
    rows : int
        A part ends with the block that brings it to so many rows.
    damaged : list of dict
        What is known of damaged files, kept in the manifest: filled from it, and written as it stands then.

    Raises
    ------
    FileError
        If the folder was begun with something else, or its manifest is damaged.
    WriteError
        If the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        columns: Mapping[str, np.dtype[Any]],
        identity: Mapping[str, Any],
        rows: int,
        damaged: list[dict[str, str]],
    ) -> None:
        self._folder = folder
        self._columns = dict(columns)
        self._rows = rows
        self._identity = json.loads(json.dumps(identity))
        self._damaged = damaged
        self._manifest = folder / "_manifest.json"
        try:
            folder.mkdir(exist_ok=True)
            # What a killed run left behind is none of the parts.
            for stray in folder.glob(".*.part"):
                stray.unlink()
        except OSError as error:
            raise WriteError(f"{folder}: cannot be written: {error.strerror or error}") from error
        self._parts = list(self._begun())
        self._complete = False
        self._held: list[Mapping[str, NDArray[Any]]] = []
        self._count = 0
        # Before the first part, which would otherwise stand in a folder that says nothing of itself.
        self._write_manifest()

    def _begun(self) -> Iterator[dict[str, Any]]:
        """Give the parts that are as they were written, up to the first that is not."""
        if not self._manifest.exists():
            if any(self._folder.iterdir()):
                raise FileError(f"{self._folder}: is not empty and has no _manifest.json: give another folder")
            return
        try:
            manifest = json.loads(self._manifest.read_bytes())
            begun, parts, damaged = manifest["identity"], manifest["parts"], manifest.get("damaged", [])
            known = manifest["schema"] == _SCHEMA
        except (ValueError, KeyError, TypeError) as error:
            raise FileError(f"{self._manifest}: damaged ({error}): remove the folder and start again") from error
        if not known:
            raise FileError(f"{self._manifest}: is not of {_SCHEMA}: give another folder")
        if begun != self._identity:
            changed = [key for key in {**begun, **self._identity} if begun.get(key) != self._identity.get(key)]
            raise FileError(
                f"{self._folder}: was begun with other {', '.join(sorted(changed))}: the same command goes on; "
                "for another one give another folder"
            )
        self._damaged += damaged
        for part in parts:
            path = self._folder / part["file"]
            if not path.is_file() or path.stat().st_size != part["bytes"] or _checksum(path) != part["crc32"]:
                return
            yield part

    @property
    def done(self) -> int:
        """Rows in the parts that there are."""
        return sum(part["rows"] for part in self._parts)

    def read_back(self) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        """Give each part that there is: the number of its first row, and its columns."""
        first = 0
        for part in self._parts:
            path = self._folder / part["file"]
            yield first, _read(path, self._columns)
            first += part["rows"]

    def write(self, block: Mapping[str, NDArray[Any]]) -> None:
        """Add the rows of a block; the part is finished if that makes it long enough."""
        self._held.append({name: np.array(values) for name, values in block.items()})
        self._count += len(next(iter(block.values())))
        if self._count >= self._rows:
            self._finish_part()

    def finish(self) -> None:
        """Finish the last part, and say that there are no more."""
        if self._count:
            self._finish_part()
        self._complete = True
        self._write_manifest()

    def _finish_part(self) -> None:
        path = self._folder / f"part-{len(self._parts):05d}{self._folder.suffix}"
        with AtomicFile(path) as out, open_writer(out, self._columns, self._count) as writer:
            for block in self._held:
                writer.write(block)
        size = path.stat().st_size
        self._parts.append({"file": path.name, "rows": self._count, "bytes": size, "crc32": _checksum(path)})
        self._held, self._count = [], 0
        self._write_manifest()

    def _write_manifest(self) -> None:
        manifest = {"schema": _SCHEMA, "complete": self._complete, "identity": self._identity, "parts": self._parts}
        if self._damaged:
            manifest["damaged"] = self._damaged
        with AtomicFile(self._manifest) as out:
            out.file.write((json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode())


def _checksum(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            crc = zlib.crc32(piece, crc)
    return crc


def _read(path: Path, columns: Mapping[str, np.dtype[Any]]) -> dict[str, NDArray[Any]]:
    if path.suffix == ".npy":
        records = np.load(path)
        return {name: np.ascontiguousarray(records[name]) for name in columns}
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=list(columns))
    return {name: table[name].to_numpy().astype(dtype, copy=False) for name, dtype in columns.items()}
