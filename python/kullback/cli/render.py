"""Documents of the commands as text: JSON, a terminal's table, Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kullback._render import render_markdown, render_text
from kullback.cli.llama import render_llama

__all__ = ["render"]

_Document = Mapping[str, Any]

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
    rows = document["rows"]
    head = " · ".join(f"{name} {count:,}".replace(",", " ") for name, count in rows.items())
    measures = [name for name in ("entropy", "nll") if name in document]
    lines = [["mean ± error", *(_with_error(document[name]["mean"], document[name]["se"]) for name in measures)]]
    for key in ("min", *_PERCENTS, "max"):
        lines.append([_label(key), *(_number(document[name][key]) for name in measures)])
    text = f"{head.replace('total', 'rows')} · {document['units']}\n\n{table(['', *measures], lines)}"
    if "perplexity" in document:
        text += f"\n\nperplexity {_with_error(document['perplexity']['value'], document['perplexity']['se'])}"
    groups = document[measures[0]]["groups"]
    among = "rows independent of each other" if groups is None else f"clustered by {groups:,} groups".replace(",", " ")
    notes = [f"± standard errors, {among}"]
    notes += [f"damaged, and not all scored: {file['path']}" for file in document.get("damaged", ())]
    return "\n".join([f"{text}\n", *notes])


def _topk(document: _Document, table: _Table) -> str:
    kl, same, tail = document["kl_topk"], document["same_top"], document["tail"]
    lines = [["mean ± error", _with_error(kl["mean"], kl["se"])]]
    lines += [[_label(key), _number(kl[key])] for key in ("min", *_PERCENTS, "max")]
    lines.append(["same top-1, %", _with_error(100 * same["share"], 100 * same["se"])])
    lines.append(["tokens in both lists", _number(document["tokens_in_both"])])
    lines += [[f"tail of {name}", f"{_number(of['mean'])}, at most {_number(of['max'])}"] for name, of in tail.items()]
    note = "kl_topk: what the lists share, and the rest as one class: a lower bound of KL"
    return f"rows {_grouped(document['rows']['total'])} · nats\n\n{table(['', 'kl_topk'], lines)}\n\n{note}"


def _inspected(document: _Document, table: _Table) -> str:
    heads = ["array", "shape", "dtype", "bytes", "looks like", "values", "row sums", "NaN", "inf", "rows seen"]
    lines = []
    for tensor in document["tensors"]:
        values, sums = tensor.get("values", {}), tensor.get("row_sums", {})
        lines.append(
            [
                tensor["name"],
                " × ".join(map(str, tensor["shape"])) or "–",
                tensor["dtype"],
                _bytes(tensor["bytes"]),
                tensor.get("looks_like", "–"),
                _span(values),
                _span(sums),
                str(values.get("nan", "–")),
                str(values.get("inf", "–")),
                f"{tensor['sampled_rows']:,}".replace(",", " ") if "sampled_rows" in tensor else "–",
            ]
        )
    reasons = {t["looks_like"]: t["because"] for t in document["tensors"] if "because" in t}
    notes = [f"{kind}: {why}" for kind, why in reasons.items()]
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


def _grouped(count: int) -> str:
    return f"{count:,}".replace(",", " ")


def _span(ends: _Document) -> str:
    if not ends or math.isnan(ends["min"]):
        return "–"
    return f"{_number(ends['min'])} … {_number(ends['max'])}"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.5g}"


def _with_error(value: float, error: float) -> str:
    return f"{_number(value)} ± {'–' if math.isnan(error) else f'{error:.2g}'}"


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
