"""Tables and llama.cpp's base files on the command line: the numbers of the arrays they hold, and refusals."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kullback as kb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from arrays import generator, matrix
from kullback._files import tables
from kullback._files.llama import _CLAMP
from test_cli import document, refused, run, same_numbers

KINDS = (".parquet", ".arrow", ".arrows", ".feather", ".csv")


def write(path: Path, table: pa.Table) -> Path:
    match path.suffix:
        case ".parquet":
            pq.write_table(table, path, row_group_size=37)
        case ".arrow":
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table, max_chunksize=41)
        case ".arrows":
            with pa.ipc.new_stream(path, table.schema) as writer:
                writer.write_table(table, max_chunksize=41)
        case ".feather":
            pa.feather.write_feather(table, path, compression="zstd")
        case ".csv":
            lists = [name for name in table.column_names if pa.types.is_list(table.schema.field(name).type)]
            for name in lists:
                text = [str([repr(x) for x in row]).replace("'", "") for row in table[name].to_pylist()]
                table = table.set_column(table.column_names.index(name), name, pa.array(text))
            pa.csv.write_csv(table, path)
    return path


def pair() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    base, other = (matrix(101, 7, "logits", np.float64, seed=seed, scale=3.0) for seed in (1, 2))
    return base, other, generator("labels").integers(0, 7, 101)


def table_of(rows: np.ndarray, labels: np.ndarray, form: str) -> pa.Table:
    if form == "columns":
        columns = {f"class{i}": rows[:, i] for i in range(rows.shape[1])}
    else:
        columns = {"logits": pa.array(list(rows), pa.list_(pa.from_numpy_dtype(rows.dtype)))}
    return pa.table({**columns, "label": labels, "name": [f"s{i // 10}" for i in range(len(rows))]})


@pytest.mark.parametrize("form", ["columns", "list"])
@pytest.mark.parametrize("ending", KINDS)
def test_tables_give_the_numbers_of_their_arrays(
    tmp_path: Path, ending: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_BATCH_BYTES", 8 * 7 * 9)  # batches of 9 rows
    base, other, labels = pair()
    a, b = (write(tmp_path / f"{i}{ending}", table_of(x, labels, form)) for i, x in enumerate((base, other)))
    # In text, a column of integers may be anything.
    which = ["--columns", "class*"] if (ending, form) == (".csv", "columns") else []
    found = document("compare", a, b, "--labels", f"{a}::label", "--groups", f"{a}::name", *which)
    same_numbers(found, kb.compare(base, other, labels, groups=np.arange(101) // 10).summary())
    assert found["inputs"]["base"]["shape"] == [101, 7]
    out = tmp_path / "out.npy"
    assert run("score", a, "--out", out, *which).exit_code == 0
    assert np.load(out)["entropy"].tobytes() == kb.entropy(base, given="logits").tobytes()
    seen = {tensor["name"]: tensor for tensor in document("inspect", a)["tensors"]}
    assert seen["label"]["looks_like"] == "labels"
    assert which or seen["logits" if form == "list" else "0"]["looks_like"] == "logits"


def test_fixed_size_lists_of_single_precision_stay_so(tmp_path: Path) -> None:
    p = matrix(60, 5, "probs", np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(p.reshape(-1)), 5)
    path = write(tmp_path / "p.parquet", pa.table({"p": column, "q": column, "half": pa.array(p[:, 0].astype("f2"))}))
    out = tmp_path / "out.npy"
    assert run("score", f"{path}::p", "--given", "probs", "--out", out).exit_code == 0
    assert np.load(out)["entropy"].tobytes() == kb.entropy(p).tobytes()
    assert document("compare", f"{path}::p", f"{path}::q", "--given", "probs")["kl"]["max"] == 0


def test_columns_choose_the_classes(tmp_path: Path) -> None:
    counts = generator("counts").integers(1, 9, (40, 4))
    table = pa.table({"id": np.arange(40.0), **{f"n_{i}": counts[:, i] for i in range(4)}, "x": np.ones(40)})
    path, out = write(tmp_path / "t.parquet", table), tmp_path / "out.npy"
    for columns, chosen in (("n_*", [0, 1, 2, 3]), ("n_3, n_1", [3, 1]), ("n_2,n_*", [2, 0, 1, 3])):
        result = run("score", path, "--columns", columns, "--given", "counts", "--out", out)
        assert result.exit_code == 0, result.stderr
        expected = kb.entropy(counts[:, chosen], given="counts")
        assert np.load(out)["entropy"].tobytes() == expected.tobytes()
    assert "no column 'm_*'; it has 'id', 'n_0'" in refused(run("score", path, "--columns", "m_*"))
    np.save(tmp_path / "a.npy", counts)
    assert "--columns is for tables" in refused(run("score", tmp_path / "a.npy", "--columns", "a"))


def test_folders_of_parts_pair_up_by_file(tmp_path: Path) -> None:
    base, other, labels = pair()
    for name, rows in (("base", base), ("other", other)):
        (tmp_path / name).mkdir()
        for i, cut in enumerate(np.array_split(np.arange(101), 3)):
            write(tmp_path / name / f"part-{i}.parquet", table_of(rows[cut], labels[cut], "list"))
    found = document("compare", tmp_path / "base", tmp_path / "other", "--labels", f"{tmp_path / 'base'}::label")
    same_numbers(found, kb.compare(base, other, labels).summary())
    groups = f"{tmp_path / 'base'}::label"
    found = document("compare", tmp_path / "base", tmp_path / "other", "--groups", groups)
    same_numbers(found, kb.compare(base, other, groups=labels).summary())


def test_footers_are_read_once_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, other, labels = pair()
    read: list[Path] = []
    read_metadata = pq.read_metadata
    monkeypatch.setattr(pq, "read_metadata", lambda path: read.append(path) or read_metadata(path))
    a, b = (write(tmp_path / f"{i}.parquet", table_of(x, labels, "list")) for i, x in enumerate((base, other)))
    document("compare", a, b, "--labels", f"{a}::label")
    assert sorted(read) == [a, b]
    write(a, table_of(other[:50], labels[:50], "list"))
    assert document("score", a)["rows"]["total"] == 50
    assert sorted(read) == [a, a, b]


def test_a_table_with_several_columns_of_lists_has_to_be_told_which(tmp_path: Path) -> None:
    base, other, labels = pair()
    table = pa.table({"p": list(base), "q": list(other), "ids": list(np.argsort(base, axis=1)), "label": labels})
    (tmp_path / "parts").mkdir()
    path = write(tmp_path / "parts" / "t.parquet", table)
    message = f"{path}: which column of lists holds the rows? choose one with --columns p or PATH::p of 'p' (101 × 7 "
    for file in (path, tmp_path / "parts"):
        assert message in refused(run("score", file))
        assert "'q' (101 × 7 float64)" in refused(run("compare", file, file))
        with pytest.raises(ValueError, match="which column of lists"):
            next(kb.scan(file))
        expected = kb.entropy(base, given="logits").mean()
        for which in ([file, "--columns", "p"], [file, "--columns", "p*"], [f"{file}::p"]):
            assert document("score", *which)["entropy"]["mean"] == pytest.approx(expected, rel=1e-12)
    assert "'ids'" not in refused(run("score", path))


def test_scan_gives_every_row_once_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kullback.cli import inputs

    monkeypatch.setattr(inputs, "BLOCK_BYTES", 8 * 7 * 10)
    base, _, labels = pair()
    (tmp_path / "parts").mkdir()
    for i, cut in enumerate(np.array_split(np.arange(101), 3)):
        write(tmp_path / "parts" / f"part-{i}.parquet", table_of(base[cut], labels[cut], "columns"))
    np.save(tmp_path / "a.npy", base.reshape(1, 101, 7).transpose(2, 0, 1))
    for file, options in ((tmp_path / "parts", {}), (str(tmp_path / "a.npy"), {"axis": 0})):
        seen = [(start, rows.copy()) for start, rows in kb.scan(file, **options)]
        assert [start for start, _ in seen] == np.cumsum([0, *(len(rows) for _, rows in seen)])[:-1].tolist()
        assert len(seen) > 10 and np.array_equal(np.concatenate([rows for _, rows in seen]), base)
    (start, rows), *_ = kb.scan(tmp_path / "parts", columns=["class1", "class5"], num_classes=1)
    assert start == 0 and rows.shape[1] == 1 and rows[0, 0] == base[0, 1]
    with pytest.raises(ValueError, match="no such file"):
        next(kb.scan(tmp_path / "nothing.npy"))


def test_csv_without_names_and_with_late_fractions(tmp_path: Path) -> None:
    rows = np.ones((5000, 3))
    rows[4000:] = [0.5, 1.25, 7]
    path, out = tmp_path / "t.csv", tmp_path / "out.npy"
    np.savetxt(path, rows, delimiter=",", fmt="%g")
    assert run("score", path, "--given", "counts", "--out", out).exit_code == 0
    assert np.load(out)["entropy"].tobytes() == kb.entropy(rows, given="counts").tobytes()
    named = tmp_path / "n.csv"
    named.write_text("id,a,b\n1,0.5,0.5\n2,0.25,0.75\n")
    assert "--columns says which columns are classes" in refused(run("score", named, "--given", "probs"))
    assert run("score", named, "--given", "probs", "--columns", "a,b").exit_code == 0
    spaced = tmp_path / "spaced.csv"
    spaced.write_text('p\n"[0.5 0.5]"\n"[ 0.25, 0.75 ]"\n')
    assert document("score", spaced, "--given", "probs")["rows"]["scored"] == 2


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("\ufeff.5,.5\n.25,.75\n", 2),
        ("\ufeffa,b\n.5,.5\n.25,.75\n", 2),
        (",.5\n.25,.75\n", 2),
        ("nan,NA\n.25,.75\n", 2),
        ('"[.5, .5]"\n"[0.25, 0.75]"\n', 2),
        ("0,1\n.5,.5\n.25,.75\n", 2),
        ("0,1\n1.0,0.0\n", 1),
        ("0,1,2\n1,0\n", None),
        ("0,1,2\n", None),
        ("1,0\n0,1\n", 2),
        (",a\n.5,.5\n", 1),
    ],
)
def test_the_first_line_of_text_is_a_row_or_names(tmp_path: Path, text: str, rows: int | None) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text, encoding="utf-8")
    if rows is None:
        assert "first line, 0, 1, 2 …, may be a row or pandas' names" in refused(run("inspect", path))
    else:
        assert [rows, 2] in [tensor["shape"] for tensor in document("inspect", path)["tensors"]]


def test_what_pandas_writes_as_text_is_read(tmp_path: Path) -> None:
    frame = pd.DataFrame(generator("text").dirichlet(np.ones(5), 9))
    expected = kb.entropy(frame).to_numpy()
    for i, index in enumerate((False, True)):
        path, out = tmp_path / f"{i}.csv", tmp_path / f"{i}.npy"
        frame.to_csv(path, index=index)
        columns = ["--columns", "0,1,2,3,4"] * index
        assert run("score", path, "--given", "probs", "--out", out, *columns).exit_code == 0
        assert np.load(out)["entropy"].tobytes() == expected.tobytes()


def test_nulls_and_ragged_rows(tmp_path: Path) -> None:
    rows: list[Any] = [[0.5, 0.5], None, [0.5, None], [0.25, 0.75]]
    path = write(tmp_path / "t.parquet", pa.table({"p": rows, "y": [0, None, 1, 0]}))
    found = document("score", path, "--given", "probs", status=3)
    assert found["rows"] == {"total": 4, "scored": 2, "ignored": 0, "invalid": 2}
    assert "row 1 is null" in refused(run("score", path, "--given", "probs", "--labels", f"{path}::y"))
    ragged = write(tmp_path / "r.parquet", pa.table({"p": [[0.5, 0.5], [0.2, 0.3, 0.5]]}))
    assert "rows of different lengths" in refused(run("score", ragged, "--given", "probs"))


def test_damaged_and_misread_tables_are_refused(tmp_path: Path) -> None:
    for ending in KINDS[:-1]:
        broken = tmp_path / f"b{ending}"
        broken.write_bytes(b"PAR1 this is no table")
        assert "not a readable" in refused(run("inspect", broken))
    words = write(tmp_path / "w.parquet", pa.table({"a": ["x", "y"]}))
    assert "no numeric array of two or more axes" in refused(run("score", words))
    path = write(tmp_path / "t.parquet", table_of(*pair()[:1], pair()[2], "list"))
    assert "lie along its last axis" in refused(run("score", path, "--axis", "0", "--no-check"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_long_table_is_read_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.parquet"
    chunk = pa.FixedSizeListArray.from_arrays(pa.array(np.full(100 * 20_000, 0.01, np.float32)), 100)
    with pq.ParquetWriter(path, pa.schema([("p", chunk.type)]), compression="none", use_dictionary=False) as writer:
        for _ in range(40):
            writer.write_table(pa.table({"p": chunk}), row_group_size=200_000)
    assert path.stat().st_size > 300e6
    code = """
import re, sys
from pathlib import Path
from kullback.cli import main
sys.argv[1:] = ["score", sys.argv[1], "--given", "probs", "--json"]
try:
    main()
finally:
    print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1], file=sys.stderr)
"""
    result = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert '"scored": 800000' in result.stdout
    assert int(result.stderr.split()[-1]) < 300_000  # kB


# llama.cpp's base files.


def llama_file(path: Path, logits: np.ndarray, tokens: np.ndarray) -> Path:
    """What llama.cpp writes of logits of shape (contexts, n_ctx, classes), in its single precision."""
    contexts, n_ctx, classes = logits.shape
    first = n_ctx // 2
    with path.open("wb") as file:
        file.write(b"_logits_")
        np.array([n_ctx, classes, contexts], "<i4").tofile(file)
        tokens.astype("<i4").tofile(file)
        for context in logits.astype(np.float32):
            for row in context[first : n_ctx - 1]:
                high = row.max()
                low = max(row.min(), np.float32(high - np.float32(_CLAMP)))
                log_sum = np.float32(np.log(np.exp(row - high, dtype=np.float32).sum(dtype=np.float64)))
                step = np.float32((high - low) / np.float32(65535))
                codes = np.where(row > low, np.rint((row - low) / step), 0).astype("<u2")
                np.array([step, low - high - log_sum], "<f4").tofile(file)
                np.pad(codes, (0, classes % 2)).tofile(file)
    return path


def llama_pair(spread: float = 3.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = generator("llama", spread)
    base = spread * rng.standard_normal((3, 16, 301))
    tokens = rng.integers(0, 301, (3, 16))
    return base, base + 0.2 * rng.standard_normal(base.shape), tokens


def scored(logits: np.ndarray) -> np.ndarray:
    return logits[:, logits.shape[1] // 2 : -1].astype(np.float32)


def own_statistics(base: np.ndarray, other: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """llama.cpp's formulas in f64 and loops, of log-probabilities."""
    klds, deltas, nlls, nll_bases, same = [], [], [], [], 0
    for p, q, label in zip(base, other, labels, strict=True):
        klds.append(sum(math.exp(a) * (a - b) for a, b in zip(p.tolist(), q.tolist(), strict=True) if a > -16.0))
        deltas.append(100 * (math.exp(q[label]) - math.exp(p[label])))
        nlls.append(-float(q[label]))
        nll_bases.append(-float(p[label]))
        same += int(p.argmax() == q.argmax())
    n = len(klds)

    def error(values: list[float]) -> float:
        return float(np.std(values) / math.sqrt(n - 1))

    return {
        "Mean    KLD": float(np.mean(klds)),
        "Mean    KLD ±": error(klds),
        "Maximum KLD": max(klds),
        "90.0%   KLD": float(np.percentile(klds, 90)),
        "Median  KLD": float(np.median(klds)),
        " 0.1%   KLD": float(np.percentile(klds, 0.1)),
        "Minimum KLD": min(klds),
        "Mean PPL(Q)": math.exp(np.mean(nlls)),
        "Mean PPL(Q) ±": math.exp(np.mean(nlls)) * error(nlls),
        "Mean PPL(base)": math.exp(np.mean(nll_bases)),
        "Cor(ln(PPL(Q)), ln(PPL(base)))": 100 * float(np.corrcoef(nlls, nll_bases)[0, 1]),
        "Mean ln(PPL(Q)/PPL(base))": float(np.mean(nlls) - np.mean(nll_bases)),
        "Mean PPL(Q)-PPL(base)": math.exp(np.mean(nlls)) - math.exp(np.mean(nll_bases)),
        "Mean    Δp": float(np.mean(deltas)),
        "75.0%   Δp": float(np.percentile(deltas, 75)),
        "Minimum Δp": min(deltas),
        "RMS Δp": math.sqrt(np.mean(np.square(deltas))),
        "Same top p": 100 * same / n,
    }


def decoded(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Decode a file by the book, in f64 but for llama.cpp's own single-precision step."""
    contexts, n_ctx, classes = shape
    words = np.fromfile(path, "<u2", offset=20 + 4 * contexts * n_ctx)
    words = words.reshape(-1, 2 * ((classes + 1) // 2) + 4)
    scale = np.ascontiguousarray(words[:, :4]).view("<f4").astype(np.float32)
    return (scale[:, :1] * words[:, 4 : 4 + classes].astype(np.float32) + scale[:, 1:]).astype(np.float64)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.reshape(-1, logits.shape[-1]).astype(np.float64)
    wide = wide - wide.max(axis=1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("spread", [1.0, 3.0, 6.0])
@pytest.mark.parametrize("against", ["logits", "file"])
def test_llama_statistics_are_those_of_its_own_formulas(tmp_path: Path, spread: float, against: str) -> None:
    base, other, tokens = llama_pair(spread)
    path = llama_file(tmp_path / "base.kld", base, tokens)
    log_base = decoded(path, base.shape)
    if against == "file":
        second = llama_file(tmp_path / "other.kld", other, tokens)
        log_other = decoded(second, base.shape)
    else:
        second = tmp_path / "other.npy"
        np.save(second, scored(other))
        log_other = log_softmax(scored(other))
    result = run("compare", path, second, "--format", "llama")
    assert result.exit_code == 0, result.stderr
    found = {}
    for line in result.stdout.splitlines():
        head, _, words = line.rpartition(":")
        if head:
            numbers = words.replace("%", "").split("±")
            found[head.rstrip()] = float(numbers[0])
            if len(numbers) > 1:
                found[f"{head.rstrip()} ±"] = float(numbers[1])
    labels = tokens[:, 9:].reshape(-1)
    for name, value in own_statistics(log_base, log_other, labels).items():
        digits = 1e-2 if "Cor" in name else 1e-3 if "Δp" in name or "Same" in name else 1e-6
        assert abs(found[name] - value) <= 0.51 * digits + 1e-6 * abs(value), (name, found[name], value)
    assert found["kullback KL"] >= 0


def coarse_kl(log_base: np.ndarray, log_other: np.ndarray, unknown: np.ndarray, tail: np.ndarray) -> np.ndarray:
    """KL in f64 with all that is unknown as one class, whose mass in the base is what the rest leaves."""
    p = np.append(np.where(unknown, 0, np.exp(log_base)), tail[:, None], axis=1)
    q = np.exp(log_other)
    q = np.append(np.where(unknown, 0, q), np.where(unknown, q, 0).sum(axis=1)[:, None], axis=1)
    p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 0, p * np.log(p / q), 0).sum(axis=1)


@pytest.mark.parametrize("spread", [1.0, 6.0])
def test_what_llama_clamps_is_one_class(tmp_path: Path, spread: float) -> None:
    base, other, tokens = llama_pair(spread)
    path = llama_file(tmp_path / "base.kld", base, tokens)
    np.save(tmp_path / "other.npy", scored(other))
    out = tmp_path / "rows.npy"
    found = document("compare", path, tmp_path / "other.npy", "--out", out)
    log_base, log_other = decoded(path, base.shape), log_softmax(scored(other))
    full = log_softmax(scored(base))
    unknown = full < full.max(axis=1, keepdims=True) - 16.0
    assert unknown.any() == (spread == 6.0)
    rows = np.load(out)
    left = 1 - np.where(unknown, 0, np.exp(log_base)).sum(axis=1)
    tail = np.clip(left, 0, np.where(unknown, np.exp(log_base), 0).sum(axis=1))
    # Where rounding leaves nothing, the tail is the other's, as far as the bound and the rounding allow.
    theirs, most = (np.where(unknown, np.exp(x), 0).sum(axis=1) for x in (log_other, log_base))
    least = np.where(tail > 0, tail, np.minimum(np.minimum(theirs, most), 1e-4))
    expected = coarse_kl(log_base, log_other, unknown, least)
    assert np.allclose(rows["kl"], expected, rtol=2e-4, atol=0)
    labels = tokens[:, 9:].reshape(-1)
    assert np.allclose(rows["nll_base"], -log_base[np.arange(21), labels], rtol=1e-6)
    assert np.allclose(rows["nll_other"], -log_other[np.arange(21), labels], rtol=1e-6)
    assert rows["same_top"].tolist() == (log_base.argmax(1) == log_other.argmax(1)).tolist()
    assert found["tail"]["labels"] == np.count_nonzero(unknown[np.arange(21), labels])
    assert found["tail"]["mean"] == pytest.approx(tail.mean(), rel=1e-6, abs=1e-12)
    assert found["inputs"]["base"]["given"] == "log_probs" and found["inputs"]["base"]["shape"] == [3, 7, 301]
    # The tokens in the file are labels for conditions too.
    assert run("compare", path, path, "--fail-if", "perplexity.ratio!=1").exit_code == 0
    # The file's rows, scored as they stand, against themselves.
    assert document("compare", path, path)["kl"]["max"] == 0
    alone = document("score", path)
    assert alone["nll"]["mean"] == pytest.approx(rows["nll_base"].mean(), rel=1e-6)
    entropy = alone["entropy"]
    assert entropy["mean"] == pytest.approx(-np.sum(np.exp(full) * full, axis=1).mean(), rel=1e-3)


@pytest.mark.parametrize("spread", [4.0, 5.0, 6.0])
def test_two_llama_files_are_at_most_as_far_apart_as_their_models(tmp_path: Path, spread: float) -> None:
    """Also where the rounding of the others leaves nothing for a tail, whose divergence must not be infinite."""
    base, other, tokens = llama_pair(spread)
    a, b = llama_file(tmp_path / "a.kld", base, tokens), llama_file(tmp_path / "b.kld", other, tokens)
    log_p, log_q = log_softmax(scored(base)).reshape(21, -1), log_softmax(scored(other)).reshape(21, -1)
    found = {}
    for files in ((a, b), (b, a)):
        assert run("compare", *files, "--out", tmp_path / "rows.npy").exit_code == 0
        found[files] = np.load(tmp_path / "rows.npy")
    assert any(np.any(rows["tail"] == 0) for rows in found.values())
    for (p, q), rows in (((log_p, log_q), found[a, b]), ((log_q, log_p), found[b, a])):
        for (x, y), name in (((p, q), "kl"), ((q, p), "kl_reverse")):
            whole = np.sum(np.exp(x) * (x - y), axis=1)
            # The file's steps of 2.4e-4 nats move a divergence of 0.01 by less than this.
            assert np.all(rows[name] <= whole * (1 + 2e-2)), (rows[name] / whole).max()


def test_llama_files_say_what_is_wrong(tmp_path: Path) -> None:
    base, other, tokens = llama_pair()
    path = llama_file(tmp_path / "base.kld", base, tokens)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3000])
    assert "cut short: 3 contexts of 7 rows of 301 classes" in refused(run("inspect", path))
    path.write_bytes(whole[:12])
    assert "cut short in its header" in refused(run("inspect", path))
    path.write_bytes(whole[:8] + bytes(12) + whole[20:])
    assert "damaged: its header says 0 contexts" in refused(run("inspect", path))
    path.write_bytes(whole)
    np.save(tmp_path / "all.npy", other.astype(np.float32))
    assert "different rows: 3 × 7 × 301 against 3 × 16 × 301" in refused(run("compare", path, tmp_path / "all.npy"))
    np.save(tmp_path / "other.npy", scored(other))
    assert "--temperature cannot divide" in refused(
        run("compare", path, tmp_path / "other.npy", "--temperature", "2")
    )  # fmt: skip
    plain = run("compare", tmp_path / "other.npy", tmp_path / "other.npy", "--format", "llama")
    assert "needs the tokens that follow" in refused(plain)
    assert [t["name"] for t in document("inspect", path)["tensors"]] == ["labels", "log_probs", "tokens"]
    assert "tail" in run("compare", path, tmp_path / "other.npy").stdout


def test_rows_that_come_without_labels_have_no_statistics_of_labels(tmp_path: Path) -> None:
    base, _, tokens = llama_pair()
    path = llama_file(tmp_path / "base.kld", base, tokens)
    assert {"entropy", "nll"} <= document("score", path).keys()
    counts = (f"{path}::tokens", "--given", "counts")
    assert "nll" not in document("score", *counts)
    for command in (["score", *counts, "--measure", "nll"], ["score", *counts, "--fail-if", "nll.mean>1"],
                    ["compare", f"{path}::tokens", *counts, "--fail-if", "delta_p.rms>1"]):  # fmt: skip
        result = run(*command)
        assert result.exit_code == 2 and result.stdout == ""
        assert "--labels or --tokens" in re.sub(r"[│\s]+", " ", result.stderr)


@pytest.mark.parametrize("form", ["table", "markdown", "json", "llama"])
def test_forms_of_the_summary(tmp_path: Path, form: str, capsys: Callable[[], Any]) -> None:
    base, other, tokens = llama_pair()
    path = llama_file(tmp_path / "base.kld", base, tokens)
    second = llama_file(tmp_path / "other.kld", other, tokens)
    result = run("compare", path, second, "--format", form)
    assert result.exit_code == 0 and result.stdout
    assert run("score", path, "--format", "llama").exit_code == 2
