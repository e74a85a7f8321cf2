"""Documents of the commands as text: JSON, a terminal's table, Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kullback._render import among, count, counted, damaged, number, render_markdown, render_text, with_error
from kullback.cli.llama import render_llama

__all__ = ["render"]

_Document = Mapping[str, Any]

_WHOLE = 1e7

_PERCENTS = ("p0.1", "p1", "p5", "p10", "p50", "p90", "p95", "p99", "p99.9")


def render(document: _Document, form: str) -> str:
    """Format what a command found.

    Parameters
    ----------
    document : mapping
        Its JSON form; ``schema`` says what it is.
    form : {"table", "markdown", "json", "llama"}
        The form; in JSON, numbers that are not finite are null.

    Returns
    -------
    str
        Lines, the last without a newline.
    """
    if form == "json":
        return json.dumps(_finite(document), ensure_ascii=False, indent=2, allow_nan=False)
    if form == "llama":
        return render_llama(document["llama"], document["kl"])
    if document["schema"].startswith("kullback.compare/"):
        summary = {name: value for name, value in document.items() if value is not None}
        return (render_markdown if form == "markdown" else render_text)(summary)
    table = _markdown if form == "markdown" else _aligned
    return _TABLES[document["schema"]](document, table)


def _finite(value: Any) -> Any:
    """Replace numbers that JSON does not know by None, at any depth."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_Table = Callable[[Sequence[str], Sequence[Sequence[str]]], str]


def _score(document: _Document, table: _Table) -> str:
    measures = [name for name in ("entropy", "nll") if name in document]
    lines = [["mean ± error", *(with_error(document[name], "mean", "se") for name in measures)]]
    for key in ("min", *_PERCENTS, "max"):
        lines.append([_label(key), *(number(document[name][key]) for name in measures)])
    text = f"{counted(document)}\n\n{table(['', *measures], lines)}"
    if "perplexity" in document:
        text += f"\n\nperplexity {with_error(document['perplexity'], 'value', 'se')}"
    return "\n".join([f"{text}\n", among(document[measures[0]]["groups"]), *damaged(document)])


def _topk(document: _Document, table: _Table) -> str:
    kl, same, tail = document["kl_topk"], document["same_top"], document["tail"]
    lines = [["mean ± error", with_error(kl, "mean", "se")]]
    lines += [[_label(key), number(kl[key])] for key in ("min", *_PERCENTS, "max")]
    lines.append(["same top-1, %", with_error(same, "share", "se", 100.0)])
    lines.append(["tokens in both lists", number(document["tokens_in_both"])])
    lines += [[f"tail of {name}", f"{number(of['mean'])}, at most {number(of['max'])}"] for name, of in tail.items()]
    note = "kl_topk: what the lists share, and the rest as one class: a lower bound of KL"
    return f"{counted(document)}\n\n{table(['', 'kl_topk'], lines)}\n\n{note}"


def _inspected(document: _Document, table: _Table) -> str:
    heads = ["array", "shape", "dtype", "bytes", "looks like", "values", "row sums"]
    lines = []
    for tensor in document["tensors"]:
        kind, values = tensor.get("looks_like", "–"), tensor.get("values", {})
        # What is no number is named where there is any; sums of logits say nothing.
        odd = [f"{values[key]} {word}" for key, word in (("nan", "NaN"), ("inf", "inf")) if values.get(key)]
        lines.append(
            [
                tensor["name"],
                " × ".join(map(str, tensor["shape"])) or "–",
                tensor["dtype"],
                _bytes(tensor["bytes"]) if tensor["bytes"] else "–",
                kind,
                ", ".join([_span(values), *odd]),
                "–" if kind == "logits" else _span(tensor.get("row_sums", {})),
            ]
        )
    if all(line[-1] == "–" for line in lines):
        heads, lines = heads[:-1], [line[:-1] for line in lines]
    reasons = {
        t["name"] if t["looks_like"] == "unreadable" else t["looks_like"]: t["because"]
        for t in document["tensors"]
        if "because" in t
    }
    notes = [f"{what}: {why}" for what, why in reasons.items()]
    seen = max((t.get("sampled_rows", 0) for t in document["tensors"]), default=0)
    notes += [f"values and sums: of at most {count(seen)} rows of each"] * bool(seen)
    notes += [f"damaged: {file['path']}" for file in document.get("damaged", ())]
    return "\n".join([table(heads, lines), "", *notes]) if notes else table(heads, lines)


def _info(document: _Document, table: _Table) -> str:
    simd, optional = document["simd"], document["optional"]
    facts = {
        "kullback": document["version"],
        "instruction set": f"{simd['level']} (of {', '.join(simd['available'])})",
        "threads": str(document["threads"]),
        "python": document["python"] + (", free-threaded" if document["free_threaded"] else ""),
        "numpy": document["numpy"],
        "platform": document["platform"],
        "built as": document["wheel"] or "–",
    }
    facts |= {name: version or "not installed" for name, version in optional.items()}
    return table(["", ""], [list(fact) for fact in facts.items()])


_TABLES: dict[str, Callable[[_Document, _Table], str]] = {
    "kullback.score/1": _score,
    "kullback.topk/1": _topk,
    "kullback.inspect/1": _inspected,
    "kullback.info/1": _info,
}


def _aligned(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    shown = [heads, *lines] if any(heads) else lines
    widths = [max(len(line[i]) for line in shown) for i in range(len(heads))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in shown)


def _markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [heads, ["---"] * len(heads), *lines])


def _label(key: str) -> str:
    return {"p50": "median"}.get(key, f"{key[1:]} %" if key in _PERCENTS else key)


def _span(ends: _Document) -> str:
    if not ends or math.isnan(ends["min"]):
        return "–"
    # Of labels the largest counts to the last digit.
    shown = [
        f"{end:.0f}" if end == round(end) and abs(end) < _WHOLE else number(end) for end in (ends["min"], ends["max"])
    ]
    return " … ".join(shown)


def _bytes(length: int) -> str:
    size = float(length)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
