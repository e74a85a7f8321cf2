"""Options of the commands; what they do is in the modules beside this one, imported when a command runs."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kullback.cli.fail_if import Condition, numbers, parse_condition
from kullback.cli.outcome import FAILED_IF, INVALID_ROWS, missing_extra, reporting

if TYPE_CHECKING:
    from kullback.cli.checks import Space

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Entropies and divergences of rows of logits or probabilities in files, whatever their size.",
    epilog="Files: .npy, .npz, .safetensors, .parquet, .arrow, .feather, .csv, KL base files of llama.cpp; compare and "
    "inspect: .jsonl of the k best tokens. "
    "Exit status: 0; 1 bad data; 2 usage; 3 finished, with invalid rows; 4 a --fail-if held; 130 interrupted.",
)


def _print_version(asked: bool) -> None:
    if asked:
        from kullback import __version__

        print("kullback", __version__)
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Take what is asked of the program as a whole."""


class Format(StrEnum):
    """Forms of the summary."""

    table = "table"
    json = "json"
    markdown = "markdown"


class ComparisonFormat(StrEnum):
    """Forms of the summary of a comparison."""

    table = "table"
    json = "json"
    markdown = "markdown"
    llama = "llama"


class OnInvalid(StrEnum):
    """What becomes of a row that is no distribution."""

    nan = "nan"
    fail = "raise"


def _spaces(text: str, most: int) -> tuple[Space, Space]:
    """Read ``G`` or ``G,G``: the spaces of the first and the last input."""
    from kullback.cli.checks import SPACES

    words = [word.strip() for word in text.split(",")]
    spaces = [space for word in words for space in SPACES if space == word]
    if len(words) > most or len(spaces) < len(words):
        number = "one" if most == 1 else "one or two"
        raise typer.BadParameter(f"{text!r} is not {number} of {', '.join(SPACES)}", param_hint="'--given'")
    return spaces[0], spaces[-1]


def _positive(value: float) -> float:
    if not (value > 0 and math.isfinite(value)):
        raise typer.BadParameter(f"{value} is not a finite number > 0")
    return value


def _out(path: Path | None) -> Path | None:
    """Check now what would otherwise fail after the last row."""
    from kullback._files import OUT_EXTENSIONS

    if path is None:
        return None
    if path.suffix not in OUT_EXTENSIONS:
        raise typer.BadParameter(f"{path}: written are {', '.join(OUT_EXTENSIONS)}")
    if path.suffix == ".parquet" and not _installed("pyarrow"):
        raise missing_extra("'--out'", "pyarrow", "arrow")
    return path if path.is_dir() else _place(path)


def _plot(path: Path | None) -> Path | None:
    if path is None:
        return None
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise typer.BadParameter(f"{path}: drawn are .png, .svg, .pdf")
    if not _installed("matplotlib"):
        raise missing_extra("'--plot'", "matplotlib", "plot")
    return _place(path)


def _html(path: Path | None) -> Path | None:
    if path is None:
        return None
    if path.suffix not in (".html", ".htm"):
        raise typer.BadParameter(f"{path}: written are .html, .htm")
    if not _installed("matplotlib"):
        raise missing_extra("'--html'", "matplotlib", "plot")
    return _place(path)


def _place(path: Path) -> Path:
    """Check that a file can be there."""
    if path.is_dir():
        raise typer.BadParameter(f"{path} is a folder")
    if not path.parent.is_dir():
        raise typer.BadParameter(f"{path}: there is no folder {path.parent}")
    return path


def _installed(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None


class Stored(StrEnum):
    """What the bits of an array may be."""

    bfloat16 = "bfloat16"


Given = Annotated[
    str, typer.Option(metavar="G[,G]", help="Space of the rows: probs, counts, log_probs, logits; two for a pair.")
]
StoredAs = Annotated[Stored | None, typer.Option("--dtype", help="What arrays of uint16 hold.")]
TableColumns = Annotated[
    str | None,
    typer.Option(metavar="C,C…", help="Columns of a table that are the classes of a row, or patterns such as 'p_*'."),
]
Axis = Annotated[int, typer.Option(help="Axis of the classes.")]
Temperature = Annotated[float, typer.Option(callback=_positive, help="Divides logits.")]
NumClasses = Annotated[int | None, typer.Option(min=1, metavar="N", help="Read only the first N classes of each row.")]
TopK = Annotated[
    str | None, typer.Option(metavar="K,K…", help="Overlap of the K best classes of both models, as 1,5,10.")
]
IgnoreIndex = Annotated[int, typer.Option(help="Rows with this label are left out of everything.")]
LabelFile = Annotated[str | None, typer.Option(metavar="F", help="The label of each row.")]
TokenFile = Annotated[
    str | None, typer.Option(metavar="F", help="Input ids instead of labels: row i scores token i + 1 of its sequence.")
]
MaskFile = Annotated[str | None, typer.Option(metavar="F", help="1 where a row is to be scored.")]
GroupFile = Annotated[
    str | None,
    typer.Option(
        metavar="F",
        help="Group of each row, for standard errors; default: its index on leading axes, its array's name.",
    ),
]
Invalid = Annotated[
    OnInvalid,
    typer.Option(
        help="Rows that --given does not accept, and damaged files among several: leave out and report, or stop. "
        "Rows with a NaN or without mass are left out either way."
    ),
]
NoCheck = Annotated[bool, typer.Option("--no-check", help="Do not look whether the rows fit --given.")]
Form = Annotated[Format, typer.Option("--format", help="Form of the summary.")]
Json = Annotated[bool, typer.Option("--json", help="Short for --format json.")]
Out = Annotated[
    Path | None,
    typer.Option(callback=_out, metavar="F", help="Write results a row to F.npy, F.csv or F.parquet."),
]
ShardRows = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Make --out a folder of parts of N rows or more: after an interruption, go on there."
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option(callback=_plot, metavar="F", help="Draw the distribution of KL (and Δp) to F.png, F.svg or F.pdf."),
]
Html = Annotated[
    Path | None,
    typer.Option(callback=_html, metavar="F", help="Write a page with statistics, pictures and the worst rows to F."),
]
_FAIL_IF = "Exit with 4 if COND holds, as {!r}; names as in the JSON form."
FailIf = Annotated[list[str] | None, typer.Option(metavar="COND", help=_FAIL_IF.format("kl.mean>0.01"))]
ScoreFailIf = Annotated[list[str] | None, typer.Option(metavar="COND", help=_FAIL_IF.format("entropy.p99>2"))]
Threads = Annotated[int | None, typer.Option(min=1, metavar="N", help="Threads; default: what the process may use.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]


@app.command()
def compare(
    base: Annotated[str, typer.Argument(metavar="BASE", help="PATH, PATH::NAME, a folder, a glob or a shard index.")],
    other: Annotated[str, typer.Argument(metavar="OTHER", help="The same rows from another model.")],
    columns: TableColumns = None,
    labels: LabelFile = None,
    tokens: TokenFile = None,
    mask: MaskFile = None,
    groups: GroupFile = None,
    given: Given = "logits",
    dtype: StoredAs = None,
    axis: Axis = -1,
    temperature: Temperature = 1.0,
    num_classes: NumClasses = None,
    ignore_index: IgnoreIndex = -100,
    top_k: TopK = None,
    on_invalid: Invalid = OnInvalid.nan,
    no_check: NoCheck = False,
    form: Annotated[
        ComparisonFormat, typer.Option("--format", help="Form of the summary; llama: as llama.cpp prints it.")
    ] = ComparisonFormat.table,
    as_json: Json = False,
    out: Out = None,
    shard_rows: ShardRows = None,
    plot: Plot = None,
    html: Html = None,
    fail_if: FailIf = None,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Compare two models' outputs on the same rows: KL both ways, JS, total variation, agreement, perplexities, Δp."""
    from kullback._files import is_topk
    from kullback.cli.compare import Request, compare_files, summary_names

    _exclusive("--labels", labels, "--tokens", tokens)
    if is_topk(base) and is_topk(other):
        used: dict[str, object] = {"--labels": labels, "--tokens": tokens, "--mask": mask, "--groups": groups}
        used |= {"--out": out, "--plot": plot, "--columns": columns, "--num-classes": num_classes, "--dtype": dtype}
        used |= {"--top-k": top_k, "--html": html}
        _compare_topk(base, other, used, fail_if, Format.json if as_json else form, threads)
        return
    _check_shards(out, shard_rows)
    spaces = _spaces(given, 2)
    ks = _counts(top_k)
    conditions = _conditions(fail_if, summary_names(labelled=True, top_k=ks))
    _spare_inputs({"--out": out, "--plot": plot, "--html": html}, [base, other, labels, tokens, mask, groups])
    with reporting():
        document = compare_files(
            Request(
                base=base,
                other=other,
                columns=_names(columns),
                dtype=None if dtype is None else dtype.value,
                labels=labels,
                tokens=tokens,
                mask=mask,
                groups=groups,
                given=spaces,
                axis=axis,
                temperature=temperature,
                num_classes=num_classes,
                ignore_index=ignore_index,
                on_invalid="nan" if on_invalid is OnInvalid.nan else "raise",
                check=not no_check,
                out=out,
                shard_rows=shard_rows,
                top_k=ks,
                plot=plot,
                html=html,
                llama=form is ComparisonFormat.llama,
                threads=threads,
                quiet=quiet,
            ),
            lambda: _refuse_labelled(conditions, summary_names(labelled=False, top_k=ks)),
        )
        _show(document, Format.json if as_json else form)
    _finish(document, conditions)


def _compare_topk(
    base: str,
    other: str,
    used: dict[str, object],
    fail_if: list[str] | None,
    form: Format | ComparisonFormat,
    threads: int | None,
) -> None:
    """Compare dumps, for which the options `used` say nothing."""
    from kullback.cli.topk import Request, compare_topk, summary_names

    for option, value in used.items():
        if value is not None:
            raise typer.BadParameter("is not for dumps of the k best tokens", param_hint=f"'{option}'")
    if form is ComparisonFormat.llama:
        raise typer.BadParameter("llama needs all tokens, these are the k best", param_hint="'--format'")
    conditions = _conditions(fail_if, summary_names())
    with reporting():
        document = compare_topk(Request(base=base, other=other, threads=threads))
        _show(document, form)
    _finish(document, conditions)


class Measure(StrEnum):
    """Measures of one row."""

    entropy = "entropy"
    nll = "nll"


@app.command()
def score(
    file: Annotated[str, typer.Argument(metavar="FILE", help="PATH, PATH::NAME, a folder, a glob or a shard index.")],
    measure: Annotated[
        list[Measure] | None,
        typer.Option(help="What to compute, once or more; default: entropy, and nll if there are labels."),
    ] = None,
    columns: TableColumns = None,
    labels: LabelFile = None,
    tokens: TokenFile = None,
    mask: MaskFile = None,
    groups: GroupFile = None,
    given: Annotated[str, typer.Option(help="Space of the rows: probs, counts, log_probs, logits.")] = "logits",
    dtype: StoredAs = None,
    axis: Axis = -1,
    temperature: Temperature = 1.0,
    num_classes: NumClasses = None,
    ignore_index: IgnoreIndex = -100,
    on_invalid: Invalid = OnInvalid.nan,
    no_check: NoCheck = False,
    form: Form = Format.table,
    as_json: Json = False,
    out: Out = None,
    shard_rows: ShardRows = None,
    fail_if: ScoreFailIf = None,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Score the rows of one input: entropy, and with labels −ln p(label) and perplexity."""
    from kullback.cli.score import Request, score_file, summary_names

    _exclusive("--labels", labels, "--tokens", tokens)
    measures = tuple(dict.fromkeys(of.value for of in measure or ()))
    _check_shards(out, shard_rows)
    spaces = _spaces(given, 1)
    conditions = _conditions(fail_if, summary_names(measures or [of.value for of in Measure]))

    def without_labels() -> None:
        if "nll" in measures:
            raise typer.BadParameter("nll needs --labels or --tokens", param_hint="'--measure'")
        _refuse_labelled(conditions, summary_names([Measure.entropy.value]))

    _spare_inputs({"--out": out}, [file, labels, tokens, mask, groups])
    with reporting():
        document = score_file(
            Request(
                file=file,
                measures=measures,
                columns=_names(columns),
                dtype=None if dtype is None else dtype.value,
                labels=labels,
                tokens=tokens,
                mask=mask,
                groups=groups,
                given=spaces[0],
                axis=axis,
                temperature=temperature,
                num_classes=num_classes,
                ignore_index=ignore_index,
                on_invalid="nan" if on_invalid is OnInvalid.nan else "raise",
                check=not no_check,
                out=out,
                shard_rows=shard_rows,
                threads=threads,
                quiet=quiet,
            ),
            without_labels,
        )
        _show(document, Format.json if as_json else form)
    _finish(document, conditions)


@app.command()
def inspect(
    file: Annotated[str, typer.Argument(metavar="FILE", help="PATH, PATH::NAME, a folder, a glob or a shard index.")],
    columns: TableColumns = None,
    dtype: StoredAs = None,
    form: Form = Format.table,
    as_json: Json = False,
) -> None:
    """List the arrays of a file, and what a sample of their rows looks like."""
    from kullback.cli.inspect import inspect_file

    with reporting():
        document = inspect_file(file, _names(columns), None if dtype is None else dtype.value)
        _show(document, Format.json if as_json else form)
    _finish(document, [])


@app.command()
def info(form: Form = Format.table, as_json: Json = False) -> None:
    """Show version, instruction set, threads and what else is installed."""
    from kullback.cli.info import collect_info

    with reporting():
        _show(collect_info(), Format.json if as_json else form)


def _counts(top_k: str | None) -> tuple[int, ...]:
    """Read ``K,K``."""
    words = [] if top_k is None else [word.strip() for word in top_k.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise typer.BadParameter(f"{top_k!r} is not a list of numbers >= 1, as 1,5,10", param_hint="'--top-k'")
    return tuple(sorted({int(word) for word in words}))


def _names(columns: str | None) -> tuple[str, ...] | None:
    """Read ``C,C``."""
    if columns is None:
        return None
    names = tuple(name.strip() for name in columns.split(",") if name.strip())
    if not names:
        raise typer.BadParameter("names no column", param_hint="'--columns'")
    return names


def _check_shards(out: Path | None, shard_rows: int | None) -> None:
    """Check that parts are wanted where there can be some, and a file where there is no folder."""
    from kullback._files import SHARD_EXTENSIONS

    if shard_rows is None:
        if out is not None and out.is_dir():
            raise typer.BadParameter(f"{out} is a folder: --shard-rows writes into folders", param_hint="'--out'")
        return
    hint = "'--shard-rows'"
    if out is None or out.suffix not in SHARD_EXTENSIONS:
        raise typer.BadParameter(f"needs --out FOLDER ending in {' or '.join(SHARD_EXTENSIONS)}", param_hint=hint)
    if out.exists() and not out.is_dir():
        raise typer.BadParameter(f"{out} is a file, where parts need a folder", param_hint="'--out'")


def _exclusive(first: str, first_value: object, second: str, second_value: object) -> None:
    if first_value is not None and second_value is not None:
        raise typer.BadParameter(f"use {first} or {second}, not both", param_hint=f"'{second}'")


def _conditions(texts: list[str] | None, names: Iterable[str]) -> list[Condition]:
    """Read the conditions, and refuse a name that no summary has before anything is computed."""
    known = list(names)
    conditions = []
    for text in texts or []:
        try:
            condition = parse_condition(text)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="'--fail-if'") from None
        if condition.name not in known:
            near = get_close_matches(condition.name, known, n=3, cutoff=0.3) or known
            raise typer.BadParameter(
                f"{condition.name!r} is no number of the summary; near it: {', '.join(near)}", param_hint="'--fail-if'"
            )
        conditions.append(condition)
    return conditions


def _refuse_labelled(conditions: Iterable[Condition], names: Collection[str]) -> None:
    """Refuse conditions on numbers that only labels give."""
    for condition in conditions:
        if condition.name not in names:
            raise typer.BadParameter(
                f"{condition.name!r} is no number of the summary without --labels or --tokens",
                param_hint="'--fail-if'",
            )


def _spare_inputs(outputs: dict[str, Path | None], inputs: list[str | None]) -> None:
    """Refuse to write over what is to be read."""
    for spec in filter(None, inputs):
        read = Path(spec if os.path.exists(spec) else spec.rpartition("::")[0])
        for option, path in outputs.items():
            if path is not None and path.exists() and read.is_file() and path.samefile(read):
                raise typer.BadParameter(f"{path} is one of the inputs", param_hint=f"'{option}'")


def _show(document: dict[str, Any], form: Format | ComparisonFormat) -> None:
    from kullback.cli.render import render

    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show ‖ or ± is no reason to fail
    print(render(document, form.value), flush=True)


def _finish(document: dict[str, Any], conditions: list[Condition]) -> None:
    """Exit with the status that the result asks for."""
    values = dict(numbers(document))
    for file in document.get("damaged", ()):
        print(f"kullback: {file['message']}", file=sys.stderr)
    held = [condition for condition in conditions if condition.holds(values[condition.name])]
    for condition in held:
        print(f"kullback: {condition.name} is {values[condition.name]:g}: --fail-if '{condition}'", file=sys.stderr)
    if held:
        raise typer.Exit(FAILED_IF)
    if document.get("damaged") or document.get("rows", {}).get("invalid"):
        raise typer.Exit(INVALID_ROWS)
