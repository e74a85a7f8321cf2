"""Dumps of the k best tokens: kl_topk is the divergence of the coarse rows, never more than that of the whole."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import kullback as kb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from arrays import generator, matrix
from test_cli import document, refused, run

ROWS, CLASSES = 60, 40


def pair() -> tuple[np.ndarray, np.ndarray]:
    base = matrix(ROWS, CLASSES, "logits", np.float64, scale=2.5)
    other = base + 0.3 * generator("topk").standard_normal(base.shape)
    return tuple(x - np.log(np.exp(x).sum(axis=1, keepdims=True)) for x in (base, other))  # type: ignore[return-value]


def best(log_probs: np.ndarray, k: int) -> list[list[tuple[int, float]]]:
    return [[(int(i), float(row[i])) for i in np.argsort(-row)[:k]] for row in log_probs]


def dump(path: Path, lists: list[list[tuple[int, float]]], form: str) -> Path:
    named = [[(f"tok{i}", x) for i, x in row] for row in lists]
    entries = [
        {"token": row[0][0], "logprob": row[0][1], "top_logprobs": [{"token": t, "logprob": x} for t, x in row]}
        for row in named
    ]
    match form:
        case "objects":
            lines: list[Any] = [dict(row) for row in named]
        case "lists":
            lines = [[{"token": token, "logprob": x} for token, x in row] for row in named]
        case "server":
            lines = [{"id": i, "logprobs": {"content": entries[i : i + 7]}} for i in range(0, len(entries), 7)]
        case "chat":
            choice = {"index": 0, "message": {"content": "text"}, "logprobs": {"content": entries}}
            lines = [{"id": "1", "object": "chat.completion", "choices": [choice]}]
        case "stream":
            lines = [
                {"id": "1", "choices": [{"delta": {"content": "x"}, "logprobs": {"content": [e]}}]} for e in entries
            ]
            lines.append({"id": "1", "choices": [{"delta": {}, "logprobs": None, "finish_reason": "stop"}]})
        case "events":
            chunks = [{"choices": [{"delta": {"content": "x"}, "logprobs": {"content": [e]}}]} for e in entries]
            events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
            path.write_text(f": open\n\n{''.join(events)}data: [DONE]\n\n", encoding="utf-8")
            return path
        case "responses":
            content = {"type": "output_text", "text": "text", "annotations": [], "logprobs": entries}
            refusal = {"type": "refusal", "refusal": "no"}
            output = [
                {"id": "1", "type": "reasoning", "summary": []},
                {"id": "2", "type": "message", "role": "assistant", "content": [content, refusal]},
            ]
            lines = [{"id": "3", "object": "response", "top_logprobs": 10, "output": output, "usage": {}}]
        case "responses events":
            text = {"type": "output_text", "logprobs": entries}
            deltas = [{"type": "response.output_text.delta", "delta": "x", "logprobs": [entry]} for entry in entries]
            repeated = [
                {"type": "response.output_text.done", "text": "text", "logprobs": entries},
                {"type": "response.completed", "response": {"output": [{"type": "message", "content": [text]}]}},
            ]
            events = [f"event: {event['type']}\ndata:{json.dumps(event)}\n\n" for event in deltas + repeated]
            path.write_text("".join(events), encoding="utf-8")
            return path
        case "completion":
            both = {"tokens": ["x"] * len(named), "top_logprobs": [dict(row) for row in named]}
            lines = [{"choices": [{"text": "text", "logprobs": both}]}]
        case "prompt":
            prompt = [{t: {"logprob": x, "rank": 1, "decoded_token": t} for t, x in row} for row in named]
            lines = [{"prompt_logprobs": [None, *prompt], "choices": [{"text": "text", "logprobs": None}]}]
        case "slots":
            lines = [{"content": "text", "completion_probabilities": entries}]
        case "sglang":
            top = [[[x, i, None] for i, x in row] for row in lists]
            lines = [{"text": "t", "meta_info": {"id": "1", "input_top_logprobs": [], "output_top_logprobs": top}}]
        case "sglang prompt":
            top = [[[x, i, f"tok{i}"] for i, x in row] for row in lists]
            of_prompt = {"input_top_logprobs": [None, *top], "output_top_logprobs": top[:3]}
            chosen = [[row[0][1], row[0][0], None] for row in lists]
            lines = [[{"text": "t", "meta_info": {"output_token_logprobs": chosen, **of_prompt}}]]
        case "triples":
            lines = [[[x, i, f"tok{i}"] for i, x in row] for row in lists]
        case "usage":
            lines = [{"choices": [{"logprobs": {"content": entries}}]}, {"choices": [], "usage": {"total_tokens": 9}}]
        case "parquet":
            ids, values = ([[pair[i] for pair in row] for row in lists] for i in (0, 1))
            pq.write_table(pa.table({"token_ids": ids, "logprobs": values}), path)
            return path
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def coarse(base: list[list[tuple[int, float]]], other: list[list[tuple[int, float]]]) -> np.ndarray:
    """The divergence of what both lists know, in plain sums."""
    values = []
    for left, right in zip(base, other, strict=True):
        p, q = dict(left), dict(right)
        both = [token for token in p if token in q]
        kl = math.fsum(math.exp(p[t]) * (p[t] - q[t]) for t in both)
        rest = [1 - math.fsum(math.exp(x[t]) for t in both) for x in (p, q)]
        values.append(kl + (rest[0] * math.log(rest[0] / rest[1]) if rest[0] > 0 else 0))
    return np.array(values)


FORMS = ["objects", "lists", "server", "chat", "stream", "completion", "prompt", "slots", "usage"]
FORMS += ["events", "responses", "responses events", "sglang", "sglang prompt", "triples", "parquet"]


@pytest.mark.parametrize("form", FORMS)
def test_the_divergence_is_that_of_the_coarse_rows(tmp_path: Path, form: str) -> None:
    base, other = pair()
    ending = ".parquet" if form == "parquet" else ".jsonl"
    lists = best(base, 10), best(other, 10)
    a, b = (dump(tmp_path / f"{name}{ending}", rows, form) for name, rows in zip("ab", lists, strict=True))
    found = document("compare", a, b)
    expected = coarse(*lists)
    assert found["schema"] == "kullback.topk/1" and "kl" not in found
    ignored = int(form in ("prompt", "sglang prompt"))
    assert found["rows"] == {"total": ROWS + ignored, "scored": ROWS, "ignored": ignored, "invalid": 0}
    assert found["kl_topk"]["mean"] == pytest.approx(expected.mean(), rel=1e-12)
    assert found["kl_topk"]["max"] == pytest.approx(expected.max(), rel=1e-12)
    assert found["same_top"]["share"] == np.mean(base.argmax(1) == other.argmax(1))
    whole = kb.kl_divergence(base, other, given="log_probs")
    assert found["kl_topk"]["mean"] < whole.mean()
    assert 0 < found["tail"]["base"]["mean"] < found["tail"]["base"]["max"] < 1
    assert document("compare", a, a)["kl_topk"]["max"] == 0
    assert run("compare", a, b, "--fail-if", "kl_topk.mean>0").exit_code == 4
    assert "a lower bound" in run("compare", a, b).stdout


def test_lists_of_all_tokens_give_the_divergence_itself(tmp_path: Path) -> None:
    base, other = pair()
    a, b = (dump(tmp_path / f"{i}.jsonl", best(x, CLASSES), "lists") for i, x in enumerate((base, other)))
    expected = kb.kl_divergence(base, other, given="log_probs")
    assert document("compare", a, b)["kl_topk"]["mean"] == pytest.approx(expected.mean(), rel=1e-9)


def test_what_rounding_leaves_is_no_infinite_divergence(tmp_path: Path) -> None:
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    a.write_text('{"x": -0.6931471824645996, "y": -0.6931471824645996}\n{"x": -1.0, "y": -1.0}\n')
    b.write_text('{"x": -0.6931471824645996, "y": -0.6931472}\n{"x": -0.6931471805599453, "y": -0.6931471805599453}\n')
    found = document("compare", a, b)["kl_topk"]
    assert found["min"] < 1e-12 and 0 < found["max"] < math.inf


def test_more_of_the_lists_is_never_less_divergence(tmp_path: Path) -> None:
    base, other = pair()
    means = []
    for k in (1, 3, 10, 30):
        a, b = (dump(tmp_path / f"{i}.jsonl", best(x, k), "objects") for i, x in enumerate((base, other)))
        means.append(document("compare", a, b)["kl_topk"]["mean"])
    assert all(x > 0 for x in means) and means[0] < means[-1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1: not JSON"),
        ('{"a": -1}\n[1, 2]', "line 2: no list of tokens and log-probabilities; accepted are {"),
        ('{"a": 0.5}', "line 1: 'a' has 0.5"),
        ('{"a": -0.1, "b": -0.2}', "line 1: its probabilities sum to 1.7"),
        ('[{"logprob": -1}]', "line 1: an entry has no"),
        ('{"a": "x"}', "line 1: 'a' has 'x'"),
        ("[[-0.5, 7, null], [-3.0, 9]]", "line 1: no list of tokens"),
        ("[[-0.5, null, null]]", "line 1: the token None is neither a text nor an id"),
        ("[[null, 7, null]]", "line 1: 7 has None, where log-probabilities are numbers <= 0; accepted are"),
        ('{"content": [{"token": "a", "logprob": -1, "top_logprobs": []}]}', "line 1: 'top_logprobs' is empty: ask"),
        ('{"completion_probabilities": [{"id": 7, "prob": 0.5, "top_probs": []}]}', "accepted are"),
        ('{"type": "text", "logprob": -1}', "line 1: 'type' has 'text', where"),
        ("data: {", "line 1: not JSON"),
        ("data: [DONE]", "no line has log-probabilities"),
        ('{"choices": [{"text": "no", "logprobs": null}]}', "no line has log-probabilities: were they asked for?"),
        (f'{{"a": "{"x" * 999}"}}', f"'a' has '{'x' * 59} …, where"),
    ],
)
def test_damaged_lines_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    assert message in refused(run("compare", path, path))


@pytest.mark.parametrize("form", ["objects", "triples", "prompt", "parquet"])
def test_inspect_describes_all_of_a_dump(tmp_path: Path, form: str) -> None:
    base, _ = pair()
    lists = [row[: 3 + i % 5] for i, row in enumerate(best(base, 10))]
    path = dump(tmp_path / ("a.parquet" if form == "parquet" else "a.jsonl"), lists, form)
    found = document("inspect", path)["tensors"][0]
    empty = int(form == "prompt")
    assert (found["looks_like"], found["shape"]) == ("top-k", [ROWS + empty, 7])
    assert found["dtype"] == ("texts" if form in ("objects", "prompt") else "ids")
    assert found["because"].startswith("lists of 3 to 7 tokens") and ("1 of no token" in found["because"]) == empty
    every = [x for row in lists for _, x in row]
    assert found["values"] == {"min": min(every), "max": max(every), "nan": 0, "inf": 0}
    masses = [math.fsum(math.exp(x) for _, x in row) for row in lists]
    assert found["row_sums"] == {"min": min(masses), "max": max(masses)}
    assert max(map(len, run("inspect", path).stdout.splitlines())) <= 80
    assert "compared with each other, or inspected" in refused(run("score", dump(tmp_path / "b.jsonl", lists, "lists")))


def test_inspect_lists_what_lies_beside_a_dump_and_dumps_of_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"prompt": ["x", "y"], "token_ids": [[1], None], "logprobs": [[-math.inf], None]}), path)
    dumped, prompt = document("inspect", path)["tensors"]
    assert (dumped["shape"], dumped["values"]["min"], dumped["values"]["inf"]) == ([2, 1], None, 1)
    assert prompt["name"] == "prompt"
    path = tmp_path / "a.jsonl"
    path.write_text("")
    assert document("inspect", path)["tensors"][0]["shape"] == [0, 0]


def test_dumps_of_different_lengths_and_foreign_options_are_refused(tmp_path: Path) -> None:
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    a.write_text('{"x": -0.5}\n' * 3)
    b.write_text('{"x": -0.5}\n' * 2)
    assert f"{b}: ends after 2 positions, and {a} goes on" in refused(run("compare", a, b))
    assert f"{b}: ends after 2 positions, and {a} goes on" in refused(run("compare", b, a))
    assert "no such file" in refused(run("compare", a, tmp_path / "c.jsonl")).lower()
    assert run("compare", a, a, "--labels", "y.npy").exit_code == 2
    assert run("compare", a, a, "--format", "llama").exit_code == 2


def test_ids_are_ids_whoever_writes_them(tmp_path: Path) -> None:
    a, b, c, text = (tmp_path / f"{name}.jsonl" for name in ("a", "b", "c", "text"))
    a.write_text('{"meta_info": {"output_top_logprobs": [[[-0.5, 7, null], [-2.0, 12, null]]]}}')
    entries = {"7": {"logprob": -0.6, "decoded_token": "x"}, "12": {"logprob": -3, "decoded_token": ""}}
    b.write_text(json.dumps({"prompt_logprobs": [entries]}))
    c.write_text('[{"token": "token_id:7", "logprob": -0.6}, {"token": "token_id:12", "logprob": -3}]')
    text.write_text('[{"token": "7", "logprob": -0.6}]')
    expected = coarse([[(7, -0.5), (12, -2.0)]], [[(7, -0.6), (12, -3.0)]])[0]
    for other in (b, c):
        assert document("compare", a, other)["kl_topk"]["mean"] == pytest.approx(expected, rel=1e-12)
    assert f"{a} has tokens as ids and {text} as texts" in refused(run("compare", text, a))


def test_parts_of_characters_are_told_apart_by_their_bytes_or_not_at_all(tmp_path: Path) -> None:
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"

    def line(first: list[int] | None, second: list[int] | None) -> str:
        entries = [("\ufffd", -1.0, first), ("\ufffd", -1.5, second), ("x", -2.0, [120])]
        return json.dumps([{"token": token, "logprob": x, "bytes": raw} for token, x, raw in entries])

    a.write_text(line([0xE2], [0xE3]))
    b.write_text(line([0xE3], [0xE2]))
    known = [[(0xE2, -1.0), (0xE3, -1.5), (1, -2.0)]], [[(0xE3, -1.0), (0xE2, -1.5), (1, -2.0)]]
    assert document("compare", a, b)["kl_topk"]["mean"] == pytest.approx(coarse(*known)[0], rel=1e-12)
    for unknown in (None, list("\ufffd".encode())):
        a.write_text(line(unknown, unknown))
        b.write_text(line(unknown, unknown))
        assert document("compare", a, b)["tokens_in_both"] == 1
