"""``kullback score``: the rows of one input by themselves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kullback
from kullback._accumulate import EXACT_ROWS, Accumulator
from kullback._files import AtomicFile, Codes, FileError, select_matrices
from kullback._percentiles import PERCENTS, Percentiles
from kullback._sums import exp
from kullback.cli.buckets import bucketed, check_labels, label_nll, spaces_of
from kullback.cli.checks import Space
from kullback.cli.damage import Damage
from kullback.cli.fail_if import numbers
from kullback.cli.inputs import Block, described, parts
from kullback.cli.scan import Options, Selection, result_dtype, scan

__all__ = ["Request", "score_file", "summary_names"]

_COLUMN = {"entropy": "entropy_base", "nll": "cross_entropy"}
"""Which column of a comparison a measure is: −ln q(label) is the cross entropy of the label's one-hot row."""


@dataclass(frozen=True, kw_only=True)
class Request(Options):
    """What the user asked for; the attributes are the arguments and options.

    No measures are entropy, and nll if there are labels.
    """

    file: str
    measures: tuple[str, ...]
    given: Space


def score_file(request: Request, without_labels: Callable[[], None]) -> dict[str, Any]:
    """Score an input in one reading.

    Parameters
    ----------
    request : Request
        What the user asked for.
    without_labels : callable
        Called before the rows are read if nothing gives them labels; refuses nll.

    Returns
    -------
    dict
        The JSON form, with non-finite numbers as they are.

    Raises
    ------
    FileError, WriteError
        If an input cannot be read as asked, or a result cannot be written.
    """
    damage = Damage(request.on_invalid)
    matrices = select_matrices(request.file, request.columns, request.dtype, damage.unlisted)
    every = parts([(tensor,) for tensor in matrices], request.axis)
    for part in every:
        if request.num_classes is not None and request.num_classes > part.classes[0]:
            raise FileError(
                f"{part.tensors[0].label}: --num-classes {request.num_classes} is more than its {part.classes[0]}"
            )
    with damage.explaining():
        selection = Selection(every, request)
    if selection.labels is None:
        without_labels()
    measures = request.measures or (("entropy",) if selection.labels is None else ("entropy", "nll"))
    spaces = [spaces_of(part, (request.given,), request.temperature) for part in every]
    if request.check:
        damage.check(every, spaces, request.num_classes)

    def kernel(
        block: Block, labels: NDArray[Any] | None, mask: NDArray[Any] | None
    ) -> tuple[dict[str, NDArray[Any]], NDArray[np.uint8]]:
        (held,), (given,) = block.held, spaces[block.index]
        counted = np.ones(block.rows, bool) if mask is None else mask
        if labels is not None:
            counted = counted & (labels != request.ignore_index)
        if isinstance(held, Codes):
            check_labels(block, labels, counted)
            matrix = bucketed(block, (given,), request.threads).matrices[0]
        else:
            matrix = held
        options: dict[str, Any] = {
            "given": given,
            "temperature": request.temperature,
            "rows": None if counted.all() else counted,
            "on_invalid": request.on_invalid,
            "threads": request.threads,
        }
        columns = {}
        for measure in measures:
            if measure == "nll":
                assert labels is not None
                columns[measure] = kullback.nll(matrix, labels, ignore_index=request.ignore_index, **options)
                if isinstance(held, Codes):
                    columns[measure][counted] = label_nll(held, labels, counted, given)
            else:
                columns[measure] = kullback.entropy(matrix, **options)
        invalid = np.logical_or.reduce([np.isnan(column) for column in columns.values()])
        return columns, np.where(counted, np.where(invalid, 2, 0), 1).astype(np.uint8)

    statistics = _Statistics(measures, sum(part.rows for part in every))
    dtype = result_dtype(every)
    with ExitStack() as stack:
        single = request.out is not None and request.shard_rows is None
        out = stack.enter_context(AtomicFile(request.out)) if request.out and single else None
        scan(
            every,
            selection,
            kernel,
            dict.fromkeys(measures, dtype),
            lambda block, columns, status, groups: statistics.update(columns, status, groups),
            out,
            request,
            damage,
        )
    inputs = described([part.tensors[0] for part in every], request.file, spaces[0][0])
    head = {"schema": "kullback.score/1", "version": kullback.__version__, "units": "nats", "inputs": {"file": inputs}}
    return {**head, **statistics.summary(), **damage.summary()}


def summary_names(measures: Sequence[str]) -> list[str]:
    """Name every number of the summary of these measures, as ``entropy.mean``."""
    return [name for name, _ in numbers(_Statistics(measures, 0).summary())]


class _Statistics:
    """Means, errors and percentiles of measures of one row."""

    def __init__(self, measures: Sequence[str], rows: int) -> None:
        self._measures = measures
        self._means = Accumulator([_COLUMN[measure] for measure in measures], expected_rows=rows)
        self._percentiles = {name: Percentiles(EXACT_ROWS, binned=rows > EXACT_ROWS) for name in measures}
        self._extremes = dict.fromkeys(measures, (math.inf, -math.inf))

    def update(self, columns: dict[str, NDArray[Any]], status: NDArray[np.uint8], groups: NDArray[Any] | None) -> None:
        """Add the rows of a block."""
        self._means.update({_COLUMN[name]: columns[name] for name in self._measures}, status, groups)
        scored = status == 0
        if not scored.any():
            return
        for name in self._measures:
            values = columns[name][scored]
            low, high = self._extremes[name]
            self._extremes[name] = min(low, float(values.min())), max(high, float(values.max()))
            self._percentiles[name].add(values)

    def summary(self) -> dict[str, Any]:
        """Summarise all rows so far."""
        means = self._means.summary()
        rows = {name: means["rows"][name] for name in ("total", "scored", "ignored", "invalid")}
        summary: dict[str, Any] = {"rows": rows}
        for name in self._measures:
            values, rank_error = self._percentiles[name].at(PERCENTS)
            low, high = self._extremes[name] if rows["scored"] else (math.nan, math.nan)
            spread = {f"p{percent:g}": value for percent, value in zip(PERCENTS, values.tolist(), strict=True)}
            summary[name] = {**means[_COLUMN[name]], "min": low, **spread, "max": high, "rank_error": rank_error}
        if "nll" in summary:
            perplexity = exp(summary["nll"]["mean"])
            summary["perplexity"] = {"value": perplexity, "se": perplexity * summary["nll"]["se"]}
        return summary
