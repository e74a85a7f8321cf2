"""``kullback compare``: two inputs with the same rows."""

from __future__ import annotations

from collections.abc import Sequence
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
from kullback.cli.checks import Space, check_space
from kullback.cli.fail_if import numbers
from kullback.cli.inputs import Block, Part, described, parts
from kullback.cli.scan import Options, Selection, result_dtype, scan

__all__ = ["Request", "compare_files", "summary_names"]


@dataclass(frozen=True, kw_only=True)
class Request(Options):
    """What the user asked for; the attributes are the arguments and options."""

    base: str
    other: str
    given: tuple[Space, Space]
    plot: Path | None


def compare_files(request: Request) -> dict[str, Any]:
    """Compare two inputs in one reading.

    Parameters
    ----------
    request : Request
        What the user asked for.

    Returns
    -------
    dict
        The JSON form of the comparison, with non-finite numbers as they are.

    Raises
    ------
    FileError, WriteError
        If an input cannot be read as asked, or a result cannot be written.
    """
    every = parts(pair_matrices(request.base, request.other), request.axis)
    _check_classes(every, request.num_classes)
    selection = Selection(every, request)
    if request.check:
        for part in every:
            for tensor, given in zip(part.tensors, request.given, strict=True):
                check_space(tensor, part.axis, given, request.num_classes)

    names = _columns(labelled=selection.labels is not None)

    def kernel(
        block: Block, labels: NDArray[Any] | None, mask: NDArray[Any] | None
    ) -> tuple[dict[str, NDArray[Any]], NDArray[np.uint8]]:
        base, other = block.matrices
        return _core.compare_columns(
            base,
            other,
            labels,
            given=request.given,
            temperature=request.temperature,
            rows=mask,
            ignore_index=request.ignore_index,
            columns=names,
            on_invalid=request.on_invalid,
            threads=request.threads,
        )

    dtype = result_dtype(every)
    accumulator = Accumulator(names, expected_rows=sum(part.rows for part in every))
    histograms = Histograms() if request.plot else None

    def update(columns: dict[str, NDArray[Any]], status: NDArray[np.uint8], groups: NDArray[Any] | None) -> None:
        accumulator.update(columns, status, groups)
        if histograms is not None:
            histograms.update(columns)

    with ExitStack() as stack:
        out = stack.enter_context(AtomicFile(request.out)) if request.out else None
        picture = stack.enter_context(AtomicFile(request.plot)) if request.plot else None
        scan(
            every,
            selection,
            kernel,
            {name: np.dtype(bool) if name == "same_top" else dtype for name in names},
            update,
            out,
            request,
        )
        document = _document(request, every, accumulator.summary())
        if histograms is not None and picture is not None:
            title = f"{Path(request.base).name} against {Path(request.other).name}"
            with picture.reporting():
                histograms.draw(picture.file, document, title=title, kind=picture.path.suffix[1:])
    return document


def summary_names(*, labelled: bool) -> list[str]:
    """Name every number of the summary of a comparison, as ``kl.mean``."""
    return [name for name, _ in numbers(Accumulator(_columns(labelled=labelled)).summary())]


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
            raise FileError(f"{labels}: {counts} classes; --num-classes {fewest} compares the first {fewest}")


def _document(request: Request, every: Sequence[Part], summary: dict[str, Any]) -> dict[str, Any]:
    inputs = {}
    for place, (name, spec) in enumerate((("base", request.base), ("other", request.other))):
        inputs[name] = described([part.tensors[place] for part in every], spec, request.given[place])
    head = {"schema": summary["schema"], "version": kullback.__version__, "units": summary["units"], "inputs": inputs}
    return {**head, **summary, **{name: summary.get(name) for name in ("top_k", "perplexity", "delta_p")}}
