"""Dumps of the k best tokens of each position, as inference servers write them.

JSON lines, one position a line or a list of positions a line, each an object ``{token: log-probability}`` or
``{token: {"logprob": …}}`` or a list of ``{"token": …, "logprob": …}`` (``"id"`` or ``"token_id"`` for the token will
do) or of sglang's ``[log-probability, id, text]``; or whole responses, which nest such lists under ``choices``,
``logprobs``, ``prompt_logprobs``, ``meta_info`` and the like, also as the lines of a stream of server-sent events. Or
Parquet with two columns of lists, of token ids and of log-probabilities.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kullback._files.tables import open_parquet
from kullback._files.tensor import FileError

__all__ = ["Position", "is_topk", "read_topk", "topk_columns"]

Position = dict[Any, float]
"""The log-probability of each token of a list, by its id (an int), its text, or the bytes of a part of a character.

Empty where a server gives none, as for the first.
"""

_NESTED = (
    "prompt_logprobs",
    "input_top_logprobs",
    "choices",
    "output",
    "meta_info",
    "completion_probabilities",
    "output_top_logprobs",
    "content",
    "top_logprobs",
    "logprobs",
)
"""Where servers put lists; what they say of the prompt, the same for both models, before what they generated."""

_ACCEPTED = (
    'accepted are {"token": log-probability}, [{"token": …, "logprob": …}, …], [[log-probability, id, text], …], and '
    "responses of OpenAI's APIs, vLLM, sglang and llama.cpp's server that hold them"
)

_TOKEN = ("token_id", "id", "token")
_IDS = ("token_ids", "ids", "tokens", "indices")
_LOGPROBS = ("logprobs", "log_probs", "logprob")

_TOKEN_ID = "token_id:"
"""What vLLM puts before the number under ``return_tokens_as_token_ids``."""

_EVENT = re.compile(r"data:(?P<data>.*)|(?:event|id|retry)?:.*", re.DOTALL)
"""A line of a stream of server-sent events; JSON starts with none of these words."""

_PIECE = "response.output_text.delta"
"""The events of OpenAI's Responses API with something new: the later ones repeat the whole."""

_LAST = "[DONE]"
"""What OpenAI's streams end with."""

_UNKNOWN = "\ufffd"
"""What servers write for a part of a character: different tokens have the same text."""

_LONG = 60
"""Characters of a value that messages quote."""

_ROWS = 1 << 12
"""Rows of a Parquet batch: as Python numbers they take thirty times what they take in the file."""


def is_topk(spec: str) -> bool:
    """Whether a path is such a dump: by its ending, and for Parquet by its columns."""
    path = Path(spec)
    if path.suffix == ".jsonl":
        return True
    return path.suffix == ".parquet" and path.is_file() and topk_columns(path) is not None


def topk_columns(path: Path) -> tuple[str, str] | None:
    """Give the columns of ids and of log-probabilities of a Parquet file, if there are such columns of lists."""
    try:
        import pyarrow as pa
    except ImportError:
        return None  # whoever reads it will say what is missing, and what is wrong
    try:
        schema = open_parquet(path).schema_arrow
    except (pa.ArrowException, OSError):
        return None
    lists = {field.name for field in schema if pa.types.is_nested(field.type)}
    ids = next((name for name in _IDS if name in lists), None)
    logprobs = next((name for name in _LOGPROBS if name in lists), None)
    return None if ids is None or logprobs is None else (ids, logprobs)


def read_topk(spec: str) -> Iterator[Position]:
    """Read the positions of a dump, in order.

    Parameters
    ----------
    spec : str
        The file.

    Yields
    ------
    dict
        What is known of each position.

    Raises
    ------
    FileError
        If a line is no such list, or a log-probability is above 0 or NaN; the message names the line.
    """
    path = Path(spec)
    try:
        if path.suffix == ".parquet":
            yield from _read_parquet(path)
            return
        lines = positions = 0
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    lines += 1
                    for position in _of_line(line, f"{path}: line {number}"):
                        positions += 1
                        yield position
        if lines and not positions:
            raise FileError(f"{path}: no line has log-probabilities: were they asked for?")
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: is not text in UTF-8 ({error.reason})") from error


def _read_parquet(path: Path) -> Iterator[Position]:
    pair = topk_columns(path)
    if pair is None:
        raise FileError(f"{path}: has no columns of lists of token ids and of log-probabilities")
    first = 0
    for batch in open_parquet(path).iter_batches(batch_size=_ROWS, columns=list(pair)):
        ids, logprobs = (batch.column(name).to_pylist() for name in pair)
        for row, (tokens, values) in enumerate(zip(ids, logprobs, strict=True), first):
            place = f"{path}: row {row}"
            if tokens is None and values is None:
                yield {}
                continue
            if tokens is None or values is None or len(tokens) != len(values):
                raise FileError(f"{place}: {pair[0]} and {pair[1]} are not lists of one length")
            yield _checked(list(zip(tokens, values, strict=True)), place)
        first += batch.num_rows


def _of_line(line: str, place: str) -> Iterator[Position]:
    event = _EVENT.fullmatch(line)
    data = line if event is None else event["data"] or ""
    if not data.strip() or data.strip() == _LAST:
        return
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{place}: not JSON ({error})") from None
    yield from _positions(found, place)


def _positions(found: Any, place: str) -> Iterator[Position]:
    """Give the positions in what a line holds: a position, a list of them, or either under a known name."""
    if found is None:
        yield {}
    elif isinstance(found, dict):
        kind = found.get("type")
        if isinstance(kind, str) and kind.startswith("response.") and kind != _PIECE:
            return
        # A server's entry for a position names its own token beside the list of the best.
        nested = [key for key in _NESTED if isinstance(found.get(key), list | dict | None) and key in found]
        for key in nested:
            if found[key] and any(found[key]):
                yield from _positions(found[key], place)
                return
        if "logprob" in found and nested:
            raise FileError(f"{place}: {nested[0]!r} is empty: ask the server for more than the token it chose")
        if nested or (isinstance(kind, str) and "logprob" not in found):
            return  # the end of a stream, or a model's reasoning, which have none
        if found and all(isinstance(entry, dict) and "logprob" in entry for entry in found.values()):
            yield _checked([_numbered(token, entry) for token, entry in found.items()], place)
        else:
            yield _checked(list(found.items()), place)
    elif isinstance(found, list) and found and all(map(_is_entry, found)):
        yield _checked([_entry(entry, place) for entry in found], place)
    elif isinstance(found, list) and found and all(isinstance(entry, dict | list | None) for entry in found):
        for entry in found:
            yield from _positions(entry, place)
    else:
        raise FileError(f"{place}: no list of tokens and log-probabilities; {_ACCEPTED}")


def _is_entry(entry: Any) -> bool:
    """Whether this is one of the best tokens of a position, and not a position."""
    if isinstance(entry, dict):
        return "logprob" in entry and not any(isinstance(entry.get(key), list) for key in _NESTED)
    # Of sglang: the log-probability, the id, and the text or None.
    return isinstance(entry, list) and len(entry) == 3 and not any(isinstance(part, dict | list) for part in entry)


def _entry(entry: dict[str, Any] | list[Any], place: str) -> tuple[Any, Any]:
    if isinstance(entry, list):
        logprob, token, _ = entry
        return token, logprob
    token = next((entry[key] for key in _TOKEN if entry.get(key) is not None), None)
    if token is None:
        raise FileError(f"{place}: an entry has no {' or '.join(map(repr, _TOKEN))}")
    raw = entry.get("bytes")
    if isinstance(token, str) and _UNKNOWN in token and isinstance(raw, list) and raw != list(token.encode()):
        token = tuple(raw)
    return token, entry["logprob"]


def _numbered(token: str, entry: dict[str, Any]) -> tuple[Any, Any]:
    """Read vLLM's entries of a prompt, whose keys are ids, as text because JSON has no other."""
    return int(token) if "decoded_token" in entry and token.isdecimal() else token, entry["logprob"]


def _checked(entries: list[tuple[Any, Any]], place: str) -> Position:
    """Give what a list says for certain: what two of its tokens are called is the name of neither."""
    position: Position = {}
    doubled = set()
    total = 0.0
    for name, value in entries:
        token = name
        if isinstance(name, str) and name.startswith(_TOKEN_ID) and name.removeprefix(_TOKEN_ID).isdecimal():
            token = int(name.removeprefix(_TOKEN_ID))
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value > 1e-3:
            shown = repr(value) if len(repr(value)) < _LONG else f"{repr(value)[:_LONG]} …"
            raise FileError(f"{place}: {token!r} has {shown}, where log-probabilities are numbers <= 0; {_ACCEPTED}")
        if not isinstance(token, int | str | tuple):
            raise FileError(f"{place}: the token {token!r} is neither a text nor an id; {_ACCEPTED}")
        total += math.exp(value)
        if token in position or (isinstance(token, str) and _UNKNOWN in token):
            doubled.add(token)
        position[token] = value
    if total > 1 + 1e-3:
        raise FileError(f"{place}: its probabilities sum to {total:.6g}, more than 1: are these log-probabilities?")
    return {token: value for token, value in position.items() if token not in doubled}
