"""The one reading of the inputs: every block is computed, counted, drawn and written while it is in cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import kullback
from kullback._files import AtomicFile, FileError, Packed, Shards, Tensor, open_writer
from kullback.cli.damage import Damage
from kullback.cli.inputs import Aligned, Block, Labels, Part, blocks, in_terms_of_options
from kullback.cli.progress import showing_progress

__all__ = ["Kernel", "Options", "Selection", "result_dtype", "scan"]

Columns = dict[str, NDArray[Any]]

_PLACES = ("row", "sequence", "position")

Kernel = Callable[[Block, NDArray[Any] | None, NDArray[Any] | None], tuple[Columns, NDArray[np.uint8]]]
"""Computes the columns and the status of a block from its labels and its mask."""

Update = Callable[[Block, Columns, NDArray[np.uint8], NDArray[Any] | None], None]
"""Takes a block, its columns, its status and its groups."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user asked of a reading; the attributes are the options of the command line."""

    columns: tuple[str, ...] | None
    dtype: str | None
    labels: str | None
    tokens: str | None
    mask: str | None
    groups: str | None
    axis: int
    temperature: float
    num_classes: int | None
    ignore_index: int
    on_invalid: Literal["nan", "raise"]
    check: bool
    out: Path | None
    shard_rows: int | None
    threads: int | None
    quiet: bool


class Selection:
    """Which rows are scored, against what label, and in which group.

    Parameters
    ----------
    every : sequence of Part
        The matrices.
    options : Options
        What the user asked for.
    """

    def __init__(self, every: Sequence[Part], options: Options) -> None:
        self.ignore_index = options.ignore_index
        self.labels: Labels | None = None
        self.mask: Aligned | None = None
        self.groups: Aligned | None = None
        given = options.tokens if options.labels is None else options.labels
        if given is not None:
            self.labels = Labels(given, every, tokens=options.labels is None, ignore_index=options.ignore_index)
        elif packed := [tensor for part in every for tensor in part.tensors if isinstance(tensor.place, Packed)]:
            # llama.cpp's files carry the tokens that their rows predict.
            self.labels = Labels(f"{packed[0].path}::labels", every, tokens=False, ignore_index=options.ignore_index)
        if options.mask is not None:
            self.mask = Aligned(options.mask, every, "the mask", lambda tensor: tensor.is_integer)
        if options.groups is not None:
            self.groups = Aligned(options.groups, every, "the groups", _can_group)
        # Files that hold one name each, or none, are parts of one data set.
        named = {part.tensors[0].key for part in every}
        self.by_sequence = len(named) > 1 or any(len(part.leading) > 1 for part in every)

    @property
    def sources(self) -> list[Aligned | Labels]:
        """What is read along with the matrices."""
        return [source for source in (self.labels, self.mask, self.groups) if source is not None]

    def of(self, block: Block, sequence: NDArray[np.int64]) -> tuple[NDArray[Any] | None, ...]:
        """Labels, mask and groups of a block, each an array or None.

        Without ``--groups``, rows of a sequence are a group; the rows of a plain matrix, also in several files, are
        independent.
        """
        where = block.index, block.start, block.stop
        labels = self.labels.read(*where) if self.labels else None
        mask = self.mask.read(*where) != 0 if self.mask else None
        groups = sequence if self.by_sequence else None
        if self.groups:
            groups = self.groups.read(*where)
        return labels, mask, groups


def _can_group(tensor: Tensor) -> bool:
    return tensor.is_integer or tensor.dtype.kind in "US"


def result_dtype(every: Sequence[Part]) -> np.dtype[Any]:
    """Tell what numbers come out: float32 of floating-point rows of at most 32 bits, float64 of all others."""
    narrow = all(tensor.is_float and tensor.dtype.itemsize <= 4 for part in every for tensor in part.tensors)
    return np.dtype(np.float32 if narrow else np.float64)


def scan(
    every: Sequence[Part],
    selection: Selection,
    kernel: Kernel,
    columns: Mapping[str, np.dtype[Any]],
    update: Update,
    out: AtomicFile | None,
    options: Options,
    damage: Damage,
) -> None:
    """Read everything once.

    Parameters
    ----------
    every : sequence of Part
        The matrices.
    selection : Selection
        Which rows, labels and groups.
    kernel : callable
        What to compute of a block.
    columns : mapping of str to dtype
        What the kernel gives.
    update : callable
        Takes every block, its columns, status and groups.
    out : AtomicFile or None
        Takes the results of every row.
    options : Options
        How many classes of a row are read, and whether progress is shown.
    damage : Damage
        Takes what is wrong with some of several files, unless rows that are invalid are refused.

    Raises
    ------
    FileError
        If a file turns out to be damaged, or a row is refused; the message names file and row. Also if an input changed
        meanwhile.
    WriteError
        If `out` cannot be written.
    """
    if options.out is not None and options.shard_rows is not None:
        _scan_shards(every, selection, kernel, columns, update, options, damage)
        return
    stamps = _stamps(every, selection)
    rows = sum(part.rows for part in every)
    row_bytes = sum(part.rows * part.row_bytes for part in every) / max(rows, 1)
    places = dict.fromkeys(_PLACES, np.dtype(np.int64))
    with ExitStack() as stack:
        writer = stack.enter_context(open_writer(out, {**places, **columns}, rows)) if out else None
        walk = blocks(every, options.num_classes, selection.sources, damaged=damage.unread)
        stack.callback(walk.close)
        advance = stack.enter_context(showing_progress(rows, row_bytes, quiet=options.quiet))
        for block in walk:
            place = block.places()
            results, _ = _scored(block, place["sequence"], selection, kernel, update)
            if writer is not None:
                writer.write({**place, **{name: results[name] for name in columns}})
            advance(block.rows)
        _refuse_changed(stamps, _stamps(every, selection))


def _scan_shards(
    every: Sequence[Part],
    selection: Selection,
    kernel: Kernel,
    columns: Mapping[str, np.dtype[Any]],
    update: Update,
    options: Options,
    damage: Damage,
) -> None:
    """Read what no part of the results has yet, and add what the parts have."""
    assert options.out is not None and options.shard_rows is not None
    rows = sum(part.rows for part in every)
    row_bytes = sum(part.rows * part.row_bytes for part in every) / max(rows, 1)
    stored = {**dict.fromkeys(_PLACES, np.dtype(np.int64)), **columns, "status": np.dtype(np.uint8)}
    identity = _identity(every, selection, columns, options)
    shards = Shards(options.out, stored, identity, options.shard_rows, damage.found)
    with ExitStack() as stack:
        advance = stack.enter_context(showing_progress(rows, row_bytes, quiet=options.quiet))
        for first, results in shards.read_back():
            for index, part in enumerate(every):
                start, stop = max(first, part.first), min(first + len(results["row"]), part.first + part.rows)
                if start >= stop:
                    continue
                # The rows without what was read of them: their places and groups are what is asked for.
                nothing = np.empty((stop - start, 0))
                block = Block(part, index, start - part.first, [nothing])
                kept = {name: values[start - first : stop - first] for name, values in results.items()}
                _, _, groups = selection.of(block, kept["sequence"])
                update(block, {name: kept[name] for name in columns}, kept["status"], groups)
                advance(block.rows)
        walk = blocks(every, options.num_classes, selection.sources, shards.done, damage.unread)
        stack.callback(walk.close)
        for block in walk:
            place = block.places()
            results, status = _scored(block, place["sequence"], selection, kernel, update)
            shards.write({**place, **{name: results[name] for name in columns}, "status": status})
            advance(block.rows)
        _refuse_changed(identity["files"], _stamps(every, selection))
        shards.finish()


def _scored(
    block: Block,
    sequence: NDArray[np.int64],
    selection: Selection,
    kernel: Kernel,
    update: Update,
) -> tuple[Columns, NDArray[np.uint8]]:
    """Compute the columns and the status of a block, and add it to the summary."""
    labels, mask, groups = selection.of(block, sequence)
    try:
        results, status = kernel(block, labels, mask)
    except (ValueError, IndexError, TypeError) as error:
        raise FileError(_located(error, block, selection)) from error
    update(block, results, status, groups)
    return results, status


def _inputs(every: Sequence[Part], selection: Selection) -> list[Tensor]:
    along = [tensor for source in selection.sources for tensor in source.tensors]
    return [tensor for part in every for tensor in part.tensors] + along


def _stamps(every: Sequence[Part], selection: Selection) -> dict[str, list[int]]:
    """Give the size and the time of the last change of every file that is read."""
    stamps = {}
    for path in sorted({tensor.path for tensor in _inputs(every, selection)}):
        found = path.stat()
        stamps[str(path)] = [found.st_size, found.st_mtime_ns]
    return stamps


def _refuse_changed(before: dict[str, list[int]], after: dict[str, list[int]]) -> None:
    for path, stamp in before.items():
        if after[path] != stamp:
            raise FileError(f"{path}: changed while it was read: start again")


def _identity(
    every: Sequence[Part], selection: Selection, columns: Mapping[str, np.dtype[Any]], options: Options
) -> dict[str, Any]:
    """Give all that the results depend on: inputs as they are now, and options."""
    ours = {"out", "threads", "quiet", "check", "plot", "html"}
    asked = {name: value for name, value in vars(options).items() if name not in ours}
    return {
        "version": kullback.__version__,
        "files": _stamps(every, selection),
        "arrays": [tensor.label for tensor in _inputs(every, selection)],
        "results": {name: dtype.str for name, dtype in columns.items()},
        **json.loads(json.dumps(asked, default=str)),
    }


def _located(error: Exception, block: Block, selection: Selection) -> str:
    """Name the file and the row of what the library refuses of a block."""
    message = in_terms_of_options(str(error), block)
    if isinstance(error, IndexError) and selection.labels:
        ignored = f"rows to be left out have the label {selection.ignore_index} (--ignore-index)"
        return f"{selection.labels.label}: {message}; {ignored}"
    argument, _, rest = message.partition(": ")
    labels = [tensor.label for tensor in block.part.tensors]
    places = {"base": 0, "other": 1, "p": 0, "q": 0}
    return f"{labels[places[argument]]}: {rest}" if argument in places else f"{' and '.join(labels)}: {message}"
