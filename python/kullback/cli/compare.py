"""``kullback compare``: two inputs with the same rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kullback
from kullback import _core
from kullback._accumulate import COLUMNS, LABELLED, Accumulator
from kullback._files import AtomicFile, FileError, pair_matrices
from kullback._plot import Histograms
from kullback.cli.buckets import (
    TAIL_COLUMNS,
    Tail,
    bucketed,
    check_labels,
    has_tail,
    known_columns,
    labels_in_tail,
    spaces_of,
)
from kullback.cli.checks import Space
from kullback.cli.damage import Damage
from kullback.cli.fail_if import numbers
from kullback.cli.inputs import Block, Part, described, parts
from kullback.cli.llama import LLAMA_COLUMNS, LlamaStatistics, llama_columns
from kullback.cli.overlap import Overlap
from kullback.cli.report import Report
from kullback.cli.scan import Options, Selection, result_dtype, scan

__all__ = ["Request", "compare_files", "summary_names"]


@dataclass(frozen=True, kw_only=True)
class Request(Options):
    """What the user asked for; the attributes are the arguments and options."""

    base: str
    other: str
    given: tuple[Space, Space]
    top_k: tuple[int, ...]
    plot: Path | None
    html: Path | None
    llama: bool


def compare_files(request: Request, without_labels: Callable[[], None]) -> dict[str, Any]:
    """Compare two inputs in one reading.

    Parameters
    ----------
    request : Request
        What the user asked for.
    without_labels : callable
        Called before the rows are read if nothing gives them labels; may raise.

    Returns
    -------
    dict
        The JSON form of the comparison, with non-finite numbers as they are.

    Raises
    ------
    FileError, WriteError
        If an input cannot be read as asked, or a result cannot be written.
    """
    damage = Damage(request.on_invalid)
    matched = pair_matrices(request.base, request.other, request.columns, request.dtype, damage.unlisted)
    every = parts(matched, request.axis)
    _check_classes(every, request.num_classes)
    with damage.explaining():
        selection = Selection(every, request)
    if selection.labels is None:
        without_labels()
    spaces = [spaces_of(part, request.given, request.temperature) for part in every]
    if request.check:
        damage.check(every, spaces, request.num_classes)
    if request.llama and selection.labels is None:
        raise FileError(f"{request.base}: --format llama needs the tokens that follow: --labels or --tokens")

    names = _columns(labelled=selection.labels is not None)
    tail = Tail() if has_tail(every) else None
    total = sum(part.rows for part in every)
    llama = LlamaStatistics(total) if request.llama else None
    if request.top_k:
        _check_top_k(every, request)
    overlap = Overlap(request.top_k, total) if request.top_k else None
    by_sequence = selection.by_sequence
    longest = max(part.length for part in every) if by_sequence else total
    report = None
    if request.html:
        report = Report(longest, by_sequence=by_sequence, temperature=request.temperature)

    def kernel(
        block: Block, labels: NDArray[Any] | None, mask: NDArray[Any] | None
    ) -> tuple[dict[str, NDArray[Any]], NDArray[np.uint8]]:
        given = spaces[block.index]
        counted = np.ones(block.rows, bool) if mask is None else mask
        if labels is not None:
            counted = counted & (labels != request.ignore_index)
        merged = None
        if block.is_packed:
            check_labels(block, labels, counted)
            merged = bucketed(block, given, request.threads)
        matrices = block.matrices if merged is None else merged.matrices
        columns, status = _core.compare_columns(
            matrices[0],
            matrices[1],
            labels,
            given=(given[0], given[1]),
            temperature=request.temperature,
            rows=mask,
            ignore_index=request.ignore_index,
            columns=names,
            on_invalid=request.on_invalid,
            threads=request.threads,
        )
        scored = status == 0
        if merged is not None:
            known_columns(block, merged.tops, given, labels, columns, scored)
        if tail is not None:
            columns["tail"] = np.zeros(block.rows) if merged is None else merged.mass
            columns["label_in_tail"] = labels_in_tail(block, labels, scored)
        if overlap is not None:
            columns |= overlap.shares(*block.matrices)
        if llama is not None and labels is not None:
            columns |= llama_columns(block, given, labels, scored, request.temperature, request.threads)
        return columns, status

    dtype = result_dtype(every)
    accumulator = Accumulator(names, expected_rows=total)
    histograms = Histograms() if request.plot else None

    def update(
        block: Block, columns: dict[str, NDArray[Any]], status: NDArray[np.uint8], groups: NDArray[Any] | None
    ) -> None:
        accumulator.update({name: columns[name] for name in names}, status, groups)
        if tail is not None:
            tail.update(columns, status == 0)
        if overlap is not None:
            overlap.update(columns, status, groups)
        if llama is not None:
            llama.update(columns, status == 0)
        if histograms is not None:
            histograms.update(columns)
        if report is not None:
            report.update(block, columns, status)

    stored = {name: np.dtype(bool) if name == "same_top" else dtype for name in names}
    if tail is not None:
        stored |= TAIL_COLUMNS
    if overlap is not None:
        stored |= overlap.columns
    if llama is not None:
        stored |= LLAMA_COLUMNS
    with ExitStack() as stack:
        single = request.out is not None and request.shard_rows is None
        out = stack.enter_context(AtomicFile(request.out)) if request.out and single else None
        picture = stack.enter_context(AtomicFile(request.plot)) if request.plot else None
        page = stack.enter_context(AtomicFile(request.html)) if request.html else None
        scan(
            every,
            selection,
            kernel,
            stored,
            update,
            out,
            request,
            damage,
        )
        document = _document(request, every, spaces[0], accumulator.summary()) | damage.summary()
        if overlap is not None:
            document["top_k"] = overlap.summary()
        if tail is not None:
            document["tail"] = tail.summary()
        if llama is not None:
            document["llama"] = llama.summary()
        title = f"{Path(request.base).name} against {Path(request.other).name}"
        if report is not None and page is not None:
            report.look_up(every, selection, spaces, request.num_classes)
            with page.reporting():
                page.file.write(report.page(document, title=title).encode())
        if histograms is not None and picture is not None:
            with picture.reporting():
                histograms.draw(picture.file, document, title=title, kind=picture.path.suffix[1:])
    return document


def summary_names(*, labelled: bool, top_k: Sequence[int] = ()) -> list[str]:
    """Name every number of the summary of a comparison, as ``kl.mean``."""
    summary = Accumulator(_columns(labelled=labelled)).summary()
    return [name for name, _ in numbers({**summary, "top_k": Overlap(top_k, 0).summary()})]


def _check_top_k(every: Sequence[Part], request: Request) -> None:
    fewest = min(request.num_classes or min(part.classes) for part in every)
    if max(request.top_k) > fewest:
        raise FileError(f"{request.base}: --top-k {max(request.top_k)} is more than the {fewest} classes there are")


def _columns(*, labelled: bool) -> tuple[str, ...]:
    return tuple(name for name in COLUMNS if labelled or name not in LABELLED)


def _check_classes(every: Sequence[Part], wanted: int | None) -> None:
    """Check that the matrices have the same classes, or enough of them."""
    for part in every:
        fewest = min(part.classes)
        labels = " and ".join(tensor.label for tensor in part.tensors)
        if wanted is not None and wanted > fewest:
            raise FileError(f"{labels}: --num-classes {wanted} is more than the {fewest} classes there are")
        if wanted is None and len(set(part.classes)) > 1:
            counts = " against ".join(map(str, part.classes))
            remedy = f"; --num-classes {fewest} compares the first {fewest}" if fewest > 1 else ""
            raise FileError(f"{labels}: {counts} classes{remedy}")


def _document(
    request: Request, every: Sequence[Part], spaces: Sequence[Space], summary: dict[str, Any]
) -> dict[str, Any]:
    inputs = {}
    for place, (name, spec) in enumerate((("base", request.base), ("other", request.other))):
        inputs[name] = described([part.tensors[place] for part in every], spec, spaces[place])
    head = {"schema": summary["schema"], "version": kullback.__version__, "units": summary["units"], "inputs": inputs}
    return {**head, **summary, **{name: summary.get(name) for name in ("top_k", "perplexity", "delta_p")}}
