"""``--html``: a comparison as one file that needs nothing else: statistics, pictures, and the rows that differ most."""

from __future__ import annotations

import base64
import heapq
import io
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kullback
from kullback import functional
from kullback._files import open_rows
from kullback._plot import BLUE, Histograms, dress
from kullback._render import render_html
from kullback.cli.checks import Space
from kullback.cli.inputs import Block, Part
from kullback.cli.overlap import best_classes
from kullback.cli.scan import Selection

__all__ = ["Report"]

_WORST = 20
"""Rows that are shown."""

_BEST = 5
"""Classes of each row that are shown."""

_POINTS = 256
"""Points of the line along the sequence at most: one a pixel pair."""

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; font-size: 0.9em; }
th, td { padding: 0.2rem 0.3rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #8884; }
th:first-child { text-align: left; }
img { max-width: 100%; height: auto; background: white; }
.best { text-align: left; white-space: normal; min-width: 11rem; }
.small { opacity: 0.75; font-size: 0.9em; }
"""


class Report:
    """What a page about a comparison shows beside its summary.

    Parameters
    ----------
    length : int
        Positions of the longest sequence, or rows where there is only one sequence.
    by_sequence : bool
        Whether positions are those in a sequence.
    temperature : float
        What logits are divided by.
    """

    def __init__(self, length: int, *, by_sequence: bool, temperature: float = 1.0) -> None:
        self._by_sequence = by_sequence
        self._temperature = temperature
        self._step = max(1, -(-length // _POINTS))
        bins = max(1, -(-length // self._step))
        self._sums, self._counts = np.zeros(bins), np.zeros(bins, np.int64)
        self._worst: list[tuple[float, int, dict[str, Any]]] = []
        self._histograms = Histograms()

    def update(self, block: Block, columns: Mapping[str, NDArray[Any]], status: NDArray[np.uint8]) -> None:
        """Add the rows of a block.

        Parameters
        ----------
        block : Block
            Base and other.
        columns, status
            What was computed of the rows.
        """
        self._histograms.update(columns)
        places = block.places()
        kl = columns["kl"].astype(np.float64)
        scored = np.flatnonzero((status == 0) & ~np.isnan(kl))
        at = places["position" if self._by_sequence else "row"][scored] // self._step
        finite = np.isfinite(kl[scored])
        self._sums += np.bincount(at[finite], kl[scored][finite], len(self._sums))
        self._counts += np.bincount(at[finite], minlength=len(self._counts))
        least = self._worst[0][0] if len(self._worst) == _WORST else -math.inf
        candidates = scored[kl[scored] > least]
        for i in candidates[np.argsort(-kl[candidates], kind="stable")][:_WORST].tolist():
            row = {name: int(values[i]) for name, values in places.items()} | {"part": block.index}
            found = {name: float(columns[name][i]) for name in ("kl", "nll_base", "nll_other") if name in columns}
            # Of equal rows, the first ones stay.
            entry = (float(kl[i]), -row["row"], {**row, **found})
            if len(self._worst) < _WORST:
                heapq.heappush(self._worst, entry)
            else:
                heapq.heappushpop(self._worst, entry)

    def look_up(
        self,
        every: Sequence[Part],
        selection: Selection,
        spaces: Sequence[Sequence[Space]],
        num_classes: int | None,
    ) -> None:
        """Read the rows that differ most once more, for their labels and best classes.

        Parameters
        ----------
        every : sequence of Part
            The matrices.
        selection : Selection
            Where the labels come from.
        spaces : sequence of sequence of str
            What the matrices of each part hold.
        num_classes : int or None
            Look only at this many classes.
        """
        for index, part in enumerate(every):
            found = sorted((row for _, _, row in self._worst if row["part"] == index), key=lambda row: row["row"])
            if not found:
                continue
            with ExitStack() as stack:
                readers = [open_rows(tensor, part.axis) for tensor in part.tensors]
                for reader in readers:
                    stack.callback(reader.close)
                if selection.labels is not None:
                    stack.callback(selection.labels.close)
                for row in found:
                    at = row["row"] - part.first
                    row["label"] = None
                    if selection.labels is not None:
                        row["label"] = int(selection.labels.read(index, at, at + 1)[0])
                    for name, reader, space in zip(("base", "other"), readers, spaces[index], strict=True):
                        values = reader.read(at, at + 1)[:, :num_classes]
                        probs = _probs(values, space, self._temperature)[0]
                        best = best_classes(probs[None], min(_BEST, len(probs)))[0]
                        row[name] = [(int(c), float(probs[c])) for c in best]

    def page(self, document: Mapping[str, Any], *, title: str) -> str:
        """Write the page.

        Parameters
        ----------
        document : mapping
            The JSON form of the comparison.
        title : str
            What was compared.

        Returns
        -------
        str
            HTML, the pictures within it.
        """
        summary = {name: value for name, value in document.items() if value is not None}
        parts = [f"<h1>{escape(title)}</h1>", _inputs(document), render_html(summary)]
        if self._histograms.rows:
            parts.append(_image(self._drawn(document), "How KL is distributed over the rows"))
        if np.count_nonzero(self._counts) > 1:
            parts.append(_image(self._line(), "Mean KL along the sequence"))
        if self._worst:
            parts += [f"<h2>The {len(self._worst)} rows that differ most</h2>", self._table()]
        parts.append(f'<p class="small">kullback {escape(kullback.__version__)}</p>')
        head = f"<meta charset='utf-8'><title>{escape(title)}</title><style>{_STYLE}</style>"
        size = '<meta name="viewport" content="width=device-width, initial-scale=1">'
        return "\n".join(
            [f'<!doctype html><html lang="en"><head>{head}{size}</head><body>', *parts, "</body></html>\n"]
        )

    def _drawn(self, document: Mapping[str, Any]) -> bytes:
        file = io.BytesIO()
        self._histograms.draw(file, document, title="", kind="png")
        return file.getvalue()

    def _line(self) -> bytes:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8.0, 2.8), dpi=150, layout="constrained", facecolor="white")
        axes = figure.subplots()
        filled = np.flatnonzero(self._counts)
        axes.plot(filled * self._step, self._sums[filled] / self._counts[filled], color=BLUE, linewidth=1.2)
        words = "position in the sequence" if self._by_sequence else "row"
        along = words + (f", a point for every {self._step}" if self._step > 1 else "")
        dress(axes, f"mean KL(base‖other) by {words}", along, "nats")
        axes.set_ylim(bottom=0)
        file = io.BytesIO()
        figure.savefig(file, format="png")
        return file.getvalue()

    def _table(self) -> str:
        worst = [row for _, _, row in sorted(self._worst, key=lambda entry: (-entry[0], -entry[1]))]
        labelled = worst[0]["label"] is not None
        heads = ["row"] + ["sequence", "position"] * self._by_sequence + ["KL"]
        heads += ["label", "p base", "p other"] * labelled + ["base: best classes", "other: best classes"]
        lines = []
        for row in worst:
            cells = [str(row["row"])] + [str(row[name]) for name in ("sequence", "position") if self._by_sequence]
            cells.append(f"{row['kl']:.4g}")
            if labelled:
                cells += [str(row["label"]), *(f"{math.exp(-row[name]):.3g}" for name in ("nll_base", "nll_other"))]
            # Lines break between classes only.
            best = [" · ".join(f"{c}: {100 * p:.3g} %" for c, p in row[name]) for name in ("base", "other")]
            best = [cell.replace(" ", "\N{NO-BREAK SPACE}").replace("·\N{NO-BREAK SPACE}", "· ") for cell in best]
            line = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
            lines.append(line + "".join(f'<td class="best">{escape(cell)}</td>' for cell in best))
        marked = [f"<th>{escape(word)}</th>" for word in heads[:-2]]
        head = "".join([*marked, *(f'<th class="best">{escape(word)}</th>' for word in heads[-2:])])
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _inputs(document: Mapping[str, Any]) -> str:
    words = []
    for name, of in document["inputs"].items():
        dtypes = [of["dtype"]] if isinstance(of["dtype"], str) else sorted(set(of["dtype"]))
        words.append(f"{name}: {of['path']} ({', '.join(dtypes)}, {of['given']})")
    return f'<p class="small">{"<br>".join(escape(word) for word in words)}</p>'


def _image(picture: bytes, words: str) -> str:
    return f'<p><img alt="{escape(words)}" src="data:image/png;base64,{base64.b64encode(picture).decode()}"></p>'


def _probs(rows: NDArray[Any], space: Space, temperature: float) -> NDArray[np.float64]:
    values = rows.astype(np.float64) / (temperature if space == "logits" else 1.0)
    linear = space in ("probs", "counts")
    probs: NDArray[np.float64] = (
        values / values.sum(axis=1, keepdims=True) if linear else functional.softmax(values, -1)
    )
    return probs
