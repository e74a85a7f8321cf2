"""``--shard-rows``: whatever interrupts a run, the same command ends with the same bytes."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from arrays import generator
from kullback.cli import inputs
from test_cli import COMMAND, document, refused, run
from test_tables import llama_file, llama_pair

BLOCK = 4 * 50 * 30
"""Bytes of a block of 30 rows of 50 classes."""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A comparison of 3 sequences of 211 rows, in blocks of 30 rows."""
    monkeypatch.setattr(inputs, "BLOCK_BYTES", BLOCK)
    rng = generator("shards")
    base = rng.standard_normal((3, 211, 50)).astype(np.float32)
    labels = rng.integers(0, 50, (3, 211))
    labels[:, ::7] = -100
    base[1, 5, 3] = np.nan
    np.save(tmp_path / "base.npy", base)
    np.save(tmp_path / "other.npy", base + 0.1 * rng.standard_normal(base.shape).astype(np.float32))
    np.save(tmp_path / "labels.npy", labels)
    return ["compare", tmp_path / "base.npy", tmp_path / "other.npy", "--labels", tmp_path / "labels.npy"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("ending", [".npy", ".parquet"])
def test_parts_hold_what_one_file_would(tmp_path: Path, files: list[Any], ending: str) -> None:
    whole, parts = tmp_path / f"whole{ending}", tmp_path / f"parts{ending}"
    plain = document(*files, "--out", whole, status=3)
    found = document(*files, "--out", parts, "--shard-rows", 100, status=3)
    assert found == plain
    manifest = json.loads((parts / "_manifest.json").read_text())
    assert manifest["complete"] and [part["rows"] for part in manifest["parts"]] == [120, 120, 120, 120, 120, 33]
    assert sum(part["rows"] for part in manifest["parts"]) == 633
    if ending == ".npy":
        rows = np.concatenate([np.load(parts / part["file"]) for part in manifest["parts"]])
        expected = np.load(whole)
        assert all(rows[name].tobytes() == expected[name].tobytes() for name in expected.dtype.names)
        assert np.bincount(rows["status"]).tolist()[2] == 1
    else:
        table = pq.read_table(parts, columns=pq.read_schema(whole).names)
        assert table.num_rows == 633 and len(set(table["row"].to_pylist())) == 633
    before = contents(parts)
    assert document(*files, "--out", parts, "--shard-rows", 100, status=3) == plain
    assert contents(parts) == before


@pytest.mark.parametrize("after", range(6))
def test_a_run_that_stopped_goes_on(tmp_path: Path, files: list[Any], after: int) -> None:
    first, second = tmp_path / "a.npy", tmp_path / "b.npy"
    options = ["--shard-rows", 100]
    expected = document(*files, "--out", first, *options, status=3)
    run(*files, "--out", second, *options)
    manifest = json.loads((second / "_manifest.json").read_text())
    for part in manifest["parts"][after:]:
        (second / part["file"]).unlink()
    manifest |= {"parts": manifest["parts"][:after], "complete": False}
    (second / "_manifest.json").write_text(json.dumps(manifest))
    (second / ".part-00002.npy.0badcafe.part").write_bytes(b"half")
    assert document(*files, "--out", second, *options, status=3) == expected
    assert contents(second) == contents(first)


@pytest.fixture
def llama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A comparison of llama.cpp's files with everything that looks at whole rows, in blocks of 4 rows."""
    monkeypatch.setattr(inputs, "PACKED_BYTES", 4 * 301 * 4)
    base, other, tokens = llama_pair(9.0)
    first = llama_file(tmp_path / "base.kld", base, tokens)
    second = llama_file(tmp_path / "other.kld", other, tokens)
    return ["compare", first, second, "--top-k", "1,5"]


def pages(path: Path) -> str:
    return re.sub('base64,[^"]*', "", path.read_text())


@pytest.mark.parametrize("after", [0, 1, 2, 9])
@pytest.mark.parametrize("kind", ["plain", "llama"])
def test_all_that_looks_at_rows_goes_on(tmp_path: Path, request: pytest.FixtureRequest, kind: str, after: int) -> None:
    command = request.getfixturevalue("files" if kind == "plain" else "llama")
    status = 3 if kind == "plain" else 0
    if kind == "plain":
        command = [*command, "--top-k", "1,5"]
    plain = document(*command, "--html", tmp_path / "plain.html", status=status)
    assert plain["top_k"]["5"]["share"] > 0 and (kind == "plain" or plain["tail"]["mean"] > 0)
    first, second = tmp_path / "a.npy", tmp_path / "b.npy"
    options = ["--shard-rows", 50 if kind == "plain" else 5]
    assert document(*command, "--out", first, *options, "--html", tmp_path / "a.html", status=status) == plain
    run(*command, "--out", second, *options)
    manifest = json.loads((second / "_manifest.json").read_text())
    manifest |= {"parts": manifest["parts"][:after], "complete": False}
    (second / "_manifest.json").write_text(json.dumps(manifest))
    assert document(*command, "--out", second, *options, "--html", tmp_path / "b.html", status=status) == plain
    assert contents(first) == contents(second)
    assert pages(tmp_path / "a.html") == pages(tmp_path / "b.html") == pages(tmp_path / "plain.html")
    if kind == "llama":
        text = run(*command, "--format", "llama").stdout
        out = ["--out", tmp_path / "c.npy", *options, "--format", "llama"]
        for _ in range(2):
            assert run(*command, *out).stdout == text
            manifest = json.loads((tmp_path / "c.npy" / "_manifest.json").read_text())
            manifest |= {"parts": manifest["parts"][:after], "complete": False}
            (tmp_path / "c.npy" / "_manifest.json").write_text(json.dumps(manifest))


def test_parts_span_arrays(tmp_path: Path, files: list[Any]) -> None:
    for name in ("base", "other"):
        rows = np.load(tmp_path / f"{name}.npy")
        np.savez(tmp_path / f"{name}.npz", a=rows[0], b=rows[1, :50], c=rows[2])
    command: list[Any] = ["compare", tmp_path / "base.npz", tmp_path / "other.npz"]
    plain = document(*command, status=3)
    for _ in range(2):  # computed, then read back
        assert document(*command, "--out", tmp_path / "p.npy", "--shard-rows", 150, status=3) == plain
    score: list[Any] = ["score", tmp_path / "base.npz", "--groups", tmp_path / "groups.npy"]
    np.save(tmp_path / "groups.npy", np.arange(472) // 9)
    plain = document(*score, status=3)
    for _ in range(2):
        assert document(*score, "--out", tmp_path / "s.npy", "--shard-rows", 150, status=3) == plain


@pytest.mark.parametrize("damage", ["flipped", "shorter", "missing"])
def test_a_damaged_part_is_made_again(tmp_path: Path, files: list[Any], damage: str) -> None:
    folder = tmp_path / "a.npy"
    expected = document(*files, "--out", folder, "--shard-rows", 100, status=3)
    before = contents(folder)
    part = folder / "part-00001.npy"
    data = bytearray(part.read_bytes())
    data[-1] ^= 1
    if damage == "missing":
        part.unlink()
    else:
        part.write_bytes(data if damage == "flipped" else data[:-4])
    assert document(*files, "--out", folder, "--shard-rows", 100, status=3) == expected
    assert contents(folder) == before


def test_a_folder_of_something_else_is_refused(tmp_path: Path, files: list[Any]) -> None:
    folder = tmp_path / "a.npy"
    run(*files, "--out", folder, "--shard-rows", 100)
    before = contents(folder)
    for other, word in ((["--temperature", "2"], "temperature"), (["--num-classes", "9"], "num_classes")):
        assert f"was begun with other {word}" in refused(run(*files, "--out", folder, "--shard-rows", 100, *other))
    assert "shard_rows" in refused(run(*files, "--out", folder, "--shard-rows", 200))
    os.utime(files[1], (1, 1))
    assert "was begun with other files" in refused(run(*files, "--out", folder, "--shard-rows", 100))
    assert contents(folder) == before
    (folder / "_manifest.json").write_text("{")
    assert "_manifest.json: damaged" in refused(run(*files, "--out", folder, "--shard-rows", 100))
    full = tmp_path / "full.npy"
    full.mkdir()
    (full / "mine").write_text("precious")
    assert "is not empty and has no _manifest.json" in refused(run(*files, "--out", full, "--shard-rows", 100))
    assert (full / "mine").exists()


def test_what_parts_cannot_do_is_a_usage_error(tmp_path: Path, files: list[Any]) -> None:
    out = ["--out", tmp_path / "a.npy", "--shard-rows", 9]
    for options in (["--shard-rows", 9], ["--out", tmp_path / "a.csv", "--shard-rows", 9], [*out, "--top-k", "0"]):
        assert run(*files, *options).exit_code == 2
    (tmp_path / "b.npy").mkdir()
    assert run(*files, "--out", tmp_path / "b.npy").exit_code == 2


@pytest.mark.skipif(os.name != "posix", reason="kills with SIGKILL")
def test_killed_at_any_moment_nothing_is_lost(tmp_path: Path) -> None:
    rng = generator("killed")
    base = rng.standard_normal((300_000, 60)).astype(np.float32)
    np.save(tmp_path / "base.npy", base)
    np.save(tmp_path / "other.npy", base[::-1])
    command = [*COMMAND, "compare", str(tmp_path / "base.npy"), str(tmp_path / "other.npy"), "--json"]
    options = ["--shard-rows", "60000", "--out"]
    whole = subprocess.run([*command, *options, str(tmp_path / "whole.npy")], capture_output=True, check=True)
    begin = time.monotonic()
    subprocess.run([*command, "--quiet"], capture_output=True, check=True)
    long = time.monotonic() - begin
    killed, moments = tmp_path / "killed.npy", random.Random(7)
    last = -1
    for attempt in range(60):
        process = subprocess.Popen([*command, *options, str(killed)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            text, _ = process.communicate(timeout=moments.uniform(0.3, 1.1) * long if attempt < 12 else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            if (killed / "_manifest.json").exists():
                done = len(json.loads((killed / "_manifest.json").read_bytes())["parts"])
                assert done >= last
                last = done
            continue
        assert process.returncode == 0
        break
    assert text == whole.stdout
    assert contents(killed) == contents(tmp_path / "whole.npy")
    assert sys.executable in COMMAND
