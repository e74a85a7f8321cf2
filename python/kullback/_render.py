"""Summaries of comparisons for people: a terminal's table, Markdown and HTML."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

__all__ = [
    "among",
    "count",
    "counted",
    "damaged",
    "number",
    "render_html",
    "render_markdown",
    "render_text",
    "with_error",
]

_WIDTH = 78
"""Columns of a line to which two more may come: a terminal has 80."""

_ROWS = {"total": "rows", "scored": "scored", "ignored": "ignored", "invalid": "invalid", "kl_inf": "KL = inf"}
_DIVERGENCES = {"kl": "KL(base‖other)", "kl_reverse": "KL(other‖base)", "js": "JS", "tv": "TV"}
_SHORT = {"kl": "KL", "kl_reverse": "reverse KL", "js": "JS", "tv": "TV"}
_ENTROPIES = {"entropy_base": "base", "entropy_other": "other", "cross_entropy": "cross"}
_ENDS = {"p50": "median", "p90": "90 %", "p95": "95 %", "p99": "99 %", "p99.9": "99.9 %", "max": "max"}
_SPREAD = {"min": "min", "p0.1": "0.1 %", "p1": "1 %", "p5": "5 %", "p10": "10 %", **_ENDS}

_Summary = Mapping[str, Any]


def render_text(summary: _Summary) -> str:
    """Format a summary for a terminal, at most 80 columns wide.

    Parameters
    ----------
    summary : mapping
        What ``Comparison.summary()`` or ``Accumulator.summary()`` gives, or the JSON of ``kullback compare``: a number
        that is None is read as NaN, a quantity that is None as not there.

    Returns
    -------
    str
        Lines, the last without a newline.

    Examples
    --------
    >>> import numpy as np
    >>> import kullback as kb
    >>> rows = kb.Accumulator()
    >>> rows.update({"kl": np.array([0.25, 0.5, 0.75]), "same_top": np.array([True, True, False])}, np.zeros(3, int))
    >>> print(render_text(rows.summary()))
    rows 3 · scored 3 · ignored 0 · invalid 0 · KL = inf 0 · nats
    <BLANKLINE>
                     mean ± error     median    90 %    95 %    99 %  99.9 %     max
    KL                0.50 ± 0.14      0.500   0.700   0.725   0.745   0.750   0.750
    same top-1   67 ± 27 %
    <BLANKLINE>
    ± standard errors, rows independent of each other
    """
    lines = [counted(summary), ""]
    shown = [name for name in _SHORT if summary.get(name)]
    if shown:
        lines.append(f"{'mean ± error':>29}   " + "".join(f"{head:>8}" for head in _ENDS.values()))
    for name in shown:
        ends = "".join(f"{number(summary[name].get(key)):>8}" for key in _ENDS)
        lines.append(f"{_SHORT[name]:10}{with_error(summary[name], 'mean', 'se', most=5):>19}   {ends}")
    for label, facts in _facts(summary):
        lines += [f"{head:13}{fact}" for head, fact in zip([label, *[""] * len(facts)], facts, strict=False)]
    notes = _notes(summary)
    return "\n".join([*lines, "", *notes] if notes else lines)


def render_markdown(summary: _Summary) -> str:
    """Format a summary as Markdown tables, with every percentile.

    Parameters
    ----------
    summary : mapping
        As for `render_text`.

    Returns
    -------
    str
        Lines, the last without a newline.

    Examples
    --------
    >>> import numpy as np
    >>> import kullback as kb
    >>> rows = kb.Accumulator()
    >>> rows.update({"same_top": np.array([True, True, False, True])}, np.zeros(4, int))
    >>> print(render_markdown(rows.summary()))
    rows 4 · scored 4 · ignored 0 · invalid 0 · nats
    <BLANKLINE>
    | | |
    |---|---|
    | same top-1 | 75 ± 22 % |
    <BLANKLINE>
    ± standard errors, rows independent of each other
    """
    parts = [counted(summary)]
    heads, rows = _table(summary)
    if rows:
        rule = ["---", *["---:"] * (len(heads) - 1)]
        parts.append("\n".join(_markdown_row(cells) for cells in [heads, rule, *rows]))
    facts = [f"| {label} | {_joined('<br>'.join(facts))} |" for label, facts in _facts(summary)]
    if facts:
        parts.append("\n".join(["| | |", "|---|---|", *facts]))
    return "\n\n".join([*parts, *_notes(summary)])


def render_html(summary: _Summary) -> str:
    """Format a summary as HTML tables, with every percentile, for notebooks.

    Parameters
    ----------
    summary : mapping
        As for `render_text`.

    Returns
    -------
    str
        One ``div``.
    """
    heads, rows = _table(summary)
    parts = [f"<p>{escape(counted(summary))}</p>"]
    if rows:
        parts += ["<table>", "<thead>", _html_row("th", heads), "</thead>", "<tbody>"]
        parts += [*(_html_row("td", cells) for cells in rows), "</tbody>", "</table>"]
    facts = _facts(summary)
    if facts:
        parts.append("<table><tbody>")
        for label, lines in facts:
            words = "<br>".join(escape(_joined(line)) for line in lines)
            parts.append(f'<tr><th>{escape(label)}</th><td style="text-align: left">{words}</td></tr>')
        parts.append("</tbody></table>")
    parts += [f"<p>{escape(note)}</p>" for note in _notes(summary)]
    return "\n".join(["<div>", *parts, "</div>"])


def _joined(line: str) -> str:
    """Put a point where a terminal's line has spaces, of which Markdown and HTML show one."""
    return line.replace("   ", " · ")


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _html_row(tag: str, cells: Sequence[str]) -> str:
    head, *rest = (escape(cell) for cell in cells)
    return f"<tr><th>{head}</th>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in rest) + "</tr>"


def counted(summary: _Summary) -> str:
    """Count the rows, in lines that fit a terminal however many there are."""
    rows = summary["rows"]
    words = [f"{word} {count(rows[key])}" for key, word in _ROWS.items() if rows.get(key) is not None]
    line, *rest = *words, summary.get("units", "nats")
    for word in rest:
        joined = f"{line} · {word}"
        line = joined if len(joined.split("\n")[-1]) <= _WIDTH else f"{line} ·\n{word}"
    return line


def _table(summary: _Summary) -> tuple[list[str], list[list[str]]]:
    """Mean, error and spread of the divergences and of Δp."""
    names = {**_DIVERGENCES, "delta_p": "Δp, %"}
    rows = []
    for name, label in names.items():
        if summary.get(name):
            factor = 100.0 if name == "delta_p" else 1.0
            spread = [number(summary[name].get(key), factor) for key in _SPREAD]
            rows.append([label, with_error(summary[name], "mean", "se", factor), *spread])
    return ["", "mean ± error", *_SPREAD.values()], rows


def _facts(summary: _Summary) -> list[tuple[str, list[str]]]:
    """List what is no distribution over rows, a label and one or two lines each."""
    return list(_each_fact(summary))


def _each_fact(summary: _Summary) -> Iterator[tuple[str, list[str]]]:
    if summary.get("same_top"):
        shares = [_percent(summary["same_top"], "share", "se")]
        if summary.get("top_k"):
            overlaps = [f"top-{k} {_percent(values, 'share', 'se')}" for k, values in summary["top_k"].items()]
            shares += [f"overlap of {' · '.join(overlaps[i : i + 2])}" for i in range(0, len(overlaps), 2)]
        yield "same top-1", shares
    if summary.get("perplexity"):
        values = summary["perplexity"]
        both = " → ".join(with_error(values, name, f"{name}_se") for name in ("base", "other"))
        ratio, difference = (with_error(values, name, f"{name}_se") for name in ("ratio", "difference"))
        correlation = f"correlation of ln p {number(values['correlation'], 100.0, 4)} %"
        yield "perplexity", [f"{both}   {correlation}", f"ratio {ratio}   difference {difference}"]
    if summary.get("delta_p"):
        values = summary["delta_p"]
        low, high, least, most = (number(values.get(key), 100.0) for key in ("p0.1", "p99.9", "min", "max"))
        yield (
            "Δp",
            [
                f"mean {_percent(values, 'mean', 'se')}   RMS {_percent(values, 'rms', 'rms_se')}",
                f"0.1 … 99.9 %: {low} … {high} %   range {least} … {most} %",
            ],
        )
    if summary.get("tail"):
        tail = summary["tail"]
        labels = f"   labels in it {count(tail['labels'])}" if tail.get("labels") is not None else ""
        yield "tail", [f"mean mass {number(tail['mean'])}   largest {number(tail['max'])}{labels}"]
    entropies = [
        f"{word} {with_error(summary[name], 'mean', 'se')}" for name, word in _ENTROPIES.items() if summary.get(name)
    ]
    if entropies:
        yield "entropy", ["   ".join(entropies)]


def _notes(summary: _Summary) -> list[str]:
    quantities = [values for key, values in summary.items() if isinstance(values, Mapping) and "groups" in values]
    notes = []
    if quantities:
        notes.append(among(quantities[0]["groups"]))
    rank_error = max((values.get("rank_error") or 0.0 for values in quantities), default=0.0)
    if rank_error > 0:
        notes.append(f"percentiles from a histogram, their ranks off by {number(rank_error, 100.0, 2)} % at most")
    if summary.get("tail"):
        notes.append("what llama.cpp clamps is one class, the tail: divergences are lower bounds")
    notes += damaged(summary)
    infinite = summary["rows"].get("kl_inf")
    if infinite:
        notes.append(f"in {count(infinite)} rows other gives 0 where base does not: KL and its mean are inf")
    return notes


def among(groups: int | None) -> str:
    """Say what standard errors suppose of the rows."""
    rows = "rows independent of each other" if groups is None else f"clustered by {count(groups)} groups"
    return f"± standard errors, {rows}"


def damaged(summary: _Summary) -> list[str]:
    """Name the files of which not all rows are scored, a note each."""
    return [f"damaged, and not all scored: {file['path']}" for file in summary.get("damaged", ())]


def _value(values: _Summary, key: str, factor: float = 1.0) -> float:
    value = values.get(key)
    return math.nan if value is None else float(value) * factor


def count(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def _percent(values: _Summary, key: str, error: str) -> str:
    return f"{with_error(values, key, error, 100.0)} %"


def number(value: float | None, factor: float = 1.0, digits: int = 3) -> str:
    """Write a few significant digits in at most `digits` + 4 characters (5 with a sign)."""
    if value is None or not math.isfinite(value):
        return "–" if value is None or math.isnan(value) else str(value)
    value *= factor
    if value == 0:
        return "0"
    for kept in range(digits, 0, -1):
        words = f"{value:#.{kept}g}".removesuffix(".")
        if "e" in words or abs(value) < 1e-3:
            mantissa, exponent = f"{value:.{kept - 1}e}".split("e")
            words = f"{mantissa}e{int(exponent)}"
        if len(words.removeprefix("-")) <= digits + 4:
            break
    return words


def with_error(values: _Summary, key: str, error: str, factor: float = 1.0, most: int = 12) -> str:
    """Write a value and its error to the last digit that is certain: one of the error's, or two if its first is 1.

    With more than `most` decimals to write, the value is cut to five digits.
    """
    mean, off = _value(values, key, factor), _value(values, error, factor)
    if not math.isfinite(mean):
        return number(mean)
    if not math.isfinite(off) or off == 0:
        return f"{number(mean, 1.0, 5)} ± {number(off)}"
    exponent = 0
    if not 1e-3 <= max(abs(mean), off) < 1e6:
        exponent = max(math.floor(math.log10(max(abs(mean), off))), -300)
        mean, off = mean / 10.0**exponent, off / 10.0**exponent
    mantissa, off_exponent = f"{off:.1e}".split("e")
    decimals = max(0, -int(off_exponent) + mantissa.startswith("1"))
    if decimals > most:
        return f"{number(mean, 10.0**exponent, 5)} ± {number(off, 10.0**exponent, 1)}"
    # An error far below the value needs fewer characters as a power of ten.
    words = f"{mean:.{decimals}f} ± " + (f"{off:.{decimals}f}" if decimals <= 5 else number(off, 1.0, 1))
    return f"({words})e{exponent}" if exponent else words
