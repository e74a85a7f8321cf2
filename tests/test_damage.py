"""Inputs that are not what they were: damaged files among several, and files that change while they are read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from arrays import generator
from kullback.cli import inputs
from numpy.typing import NDArray
from test_cli import SCHEMA, refused, run
from test_cli import document as whole_document

ROWS, PARTS = 60, 3


@pytest.fixture
def rows() -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    rng = generator("damage")
    base = rng.standard_normal((ROWS * PARTS, 20)).astype(np.float32)
    other = base + 0.1 * rng.standard_normal(base.shape).astype(np.float32)
    return base, other, rng.integers(0, 20, len(base))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """Change bytes past the middle, where nothing but a checksum tells."""
    data = bytearray(path.read_bytes())
    at = len(data) * 5 // 8
    data[at : at + 8] = bytes(byte ^ 0xFF for byte in data[at : at + 8])
    path.write_bytes(data)


def save(folder: Path, array: NDArray[Any], kind: str) -> Path:
    """Write an array in three parts; give what the command line takes for all of them."""
    folder.mkdir()
    parts = np.split(array, PARTS)
    index = folder / "model.safetensors.index.json"
    for i, part in enumerate(parts):
        if kind == ".npy":
            np.save(folder / f"part{i}.npy", part)
        elif kind == ".npz":
            np.savez_compressed(folder / f"part{i}.npz", x=part)
        elif kind == ".parquet":
            pq.write_table(pa.table({"x": list(part)}), folder / f"part{i}.parquet", write_page_checksum=True)
        else:
            safetensors.numpy.save_file({f"x{i}": part}, folder / f"part{i}.safetensors")
    if kind == "index":
        index.write_text(json.dumps({"weight_map": {f"x{i}": f"part{i}.safetensors" for i in range(PARTS)}}))
        return index
    return folder


def document(*arguments: str | Path) -> dict[str, Any]:
    """Run a command that meets damage, and read what it prints."""
    result = run(*arguments, "--json")
    assert result.exit_code == 3, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    if arguments[0] == "compare":
        jsonschema.validate(found, SCHEMA)
    assert [f"kullback: {file['message']}" for file in found["damaged"]] == result.stderr.splitlines()
    return found


KINDS = [".npy", ".npz", ".parquet", ".safetensors", "index"]
HURTS: dict[str, Callable[[Path], None]] = {"cut": cut, "empty": lambda path: path.write_bytes(b"")}


@pytest.mark.parametrize("hurt", HURTS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_others_are_scored(tmp_path: Path, rows: Any, kind: str, hurt: str) -> None:
    base, other, _ = rows
    first, second = save(tmp_path / "base", base, kind), save(tmp_path / "other", other, kind)
    [hurt_file] = (tmp_path / "base").glob("part1.*")
    HURTS[hurt](hurt_file)
    left = np.r_[0:ROWS, 2 * ROWS : 3 * ROWS]
    plain = ".safetensors" if kind == "index" else kind  # the same names, which are groups
    save(tmp_path / "less", base[np.r_[left, left[:ROWS]]], plain)
    save(tmp_path / "less other", other[np.r_[left, left[:ROWS]]], plain)
    for name in ("less", "less other"):
        (tmp_path / name / f"part2{plain}").unlink()
    for asked, expected in (
        (["score", first], ["score", tmp_path / "less"]),
        (["compare", first, second], ["compare", tmp_path / "less", tmp_path / "less other"]),
        (["compare", second, first], ["compare", tmp_path / "less other", tmp_path / "less"]),
    ):
        found, wanted = document(*asked), whole_document(*expected)
        [file] = found.pop("damaged")
        assert file["path"] == str(hurt_file) and "; left out" in file["message"]
        assert {**found, "inputs": None} == {**wanted, "inputs": None}
        shown = run(*asked)
        assert (
            f"damaged, and not all scored: {hurt_file}" in shown.stdout
            and f"kullback: {file['message']}" in shown.stderr
        )
        assert hurt_file.name in refused(run(*asked, "--on-invalid", "raise"))


def test_one_array_for_all_rows_needs_all_rows(tmp_path: Path, rows: Any) -> None:
    folder = save(tmp_path / "base", rows[0], ".npy")
    np.save(tmp_path / "labels.npy", rows[2])
    save(tmp_path / "labels", rows[2], ".npy")
    cut(folder / "part1.npy")
    message = refused(run("score", folder, "--labels", tmp_path / "labels.npy"))
    assert "the rows are 120" in message and f"not among the rows: {folder / 'part1.npy'}" in message
    expected = np.delete(rows[2], np.s_[ROWS : 2 * ROWS])
    found = document("score", folder, "--labels", tmp_path / "labels")
    assert found["rows"]["scored"] == len(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_where_nothing_is_left_that_is_refused(tmp_path: Path, rows: Any, kind: str) -> None:
    path = save(tmp_path / "base", rows[0], kind)
    for file in (tmp_path / "base").glob("part*"):
        cut(file)
    assert "part0" in refused(run("score", path))
    other = save(tmp_path / "other", rows[1], kind)
    assert "part0" in refused(run("compare", other, path))


@pytest.mark.parametrize("kind", [".npz", ".parquet"])
def test_what_shows_while_a_file_is_read(tmp_path: Path, rows: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "BLOCK_BYTES", 4 * 20 * 25)
    base, other, labels = rows
    first, second = save(tmp_path / "base", base, kind), save(tmp_path / "other", other, kind)
    np.save(tmp_path / "labels.npy", labels)
    hurt = tmp_path / "other" / f"part1{kind}"
    if kind == ".parquet":
        table = pq.read_table(hurt)
        pq.write_table(table, hurt, row_group_size=20, write_page_checksum=True, use_dictionary=False)
        column = pq.ParquetFile(hurt).metadata.row_group(2).column(0)
        data = bytearray(hurt.read_bytes())
        data[column.data_page_offset + 200] ^= 0xFF
        hurt.write_bytes(data)
        # Of 60 rows the width of a column of lists is looked up in the first 64.
        monkeypatch.setattr("kullback._files.tables._width", lambda *_: 20)
    else:
        flip(hurt)
    asked = ["compare", first, second, "--labels", tmp_path / "labels.npy", "--html", tmp_path / "page.html"]
    found = document(*asked, "--out", tmp_path / "out.npy")
    out = np.load(tmp_path / "out.npy")
    bad = np.flatnonzero(np.isnan(out["kl"]))
    assert bad.size and bad[0] >= ROWS and bad.tolist() == list(range(bad[0], 2 * ROWS))
    assert found["rows"] == {"total": 180, "scored": 180 - len(bad), "ignored": 0, "invalid": len(bad), "kl_inf": 0}
    assert out["row"].tolist() == list(range(180))
    [file] = found["damaged"]
    assert file["path"] == str(hurt) and f"its rows from {bad[0]} on are invalid" in file["message"]
    assert str(hurt) in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert hurt.name in refused(run(*asked, "--on-invalid", "raise"))
    # In parts, and where some of these are lost: the same numbers and the same bytes.
    folder = tmp_path / "parts.npy"
    again = [*asked, "--out", folder, "--shard-rows", 30]
    assert document(*again) == found
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for first_lost in (1, 3, 5):
        for path in sorted(folder.glob("part-*"))[first_lost:]:
            path.unlink()
        assert document(*again) == found
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("which", ["base", "other", "labels"])
def test_a_file_that_changes_meanwhile_is_refused(
    tmp_path: Path, rows: Any, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, array in zip(("base", "other", "labels"), rows, strict=True):
        np.save(tmp_path / f"{name}.npy", array)
    base, other, labels = (tmp_path / f"{name}.npy" for name in ("base", "other", "labels"))
    asked = ["compare", base, other, "--labels", labels]
    outputs = ["--out", tmp_path / "out.csv", "--plot", tmp_path / "kl.png", "--html", tmp_path / "page.html"]
    assert run(*asked, *outputs).exit_code == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    @contextmanager
    def touching(*_: object, **__: object) -> Iterator[Callable[[int], None]]:
        yield lambda _: os.utime(tmp_path / f"{which}.npy", (1, 1))

    monkeypatch.setattr("kullback.cli.scan.showing_progress", touching)
    changed = tmp_path / f"{which}.npy"
    assert f"{changed}: changed while it was read" in refused(run(*asked, *outputs, "--temperature", "2"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
