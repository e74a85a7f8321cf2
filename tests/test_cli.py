"""The command line, as users and scripts meet it: output, exit statuses, files left behind, memory."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import kullback as kb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from kullback.cli.app import app
from kullback.cli.fail_if import parse_condition
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
DIGITS, DIGITS4, DIGIT_LABELS = (str(EXAMPLES / f"digits{end}.npy") for end in ("", "-int4", "-labels"))
WORDS, WORDS4 = (str(EXAMPLES / f"words{end}.safetensors") for end in ("", "-int4"))
WORD_LABELS, WORD_TOKENS = (str(EXAMPLES / f"words-{end}.npy") for end in ("labels", "tokens"))
SCHEMA = json.loads((resources.files(kb) / "schema" / "compare-1.schema.json").read_text(encoding="utf-8"))

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals, limits and terminals")

COMMAND = [sys.executable, "-m", "kullback.cli"]


def run(*arguments: str | Path) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def start(command: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run(list(map(str, command)), check=False, text=True, encoding="utf-8", timeout=120, **pipes)


def run_alone(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command as a program of its own."""
    return start([*COMMAND, *arguments], **options)


def document(*arguments: str | Path, status: int = 0) -> dict[str, Any]:
    """Run a command with --json and read what it prints."""
    result = run(*arguments, "--json")
    assert result.exit_code == status, result.stderr
    assert result.stderr == ""
    found: dict[str, Any] = json.loads(result.stdout, parse_constant=pytest.fail)
    if found["schema"].startswith("kullback.compare/"):
        jsonschema.validate(found, SCHEMA)
    return found


def refused(result: Result | subprocess.CompletedProcess[str]) -> str:
    """Check that a command refused bad data with one line, and give the line."""
    status = result.exit_code if isinstance(result, Result) else result.returncode
    assert status == 1, result.stdout
    assert result.stdout == ""
    line = result.stderr.removesuffix("\n")
    assert line.startswith("kullback: ")
    assert "\n" not in line
    return line


def same_numbers(found: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
    """Compare a document's statistics to a summary, whose NaN are null there; bit for bit."""
    for name, value in summary.items():
        if isinstance(value, Mapping):
            same_numbers(found[name], value)
        elif isinstance(value, float) and not math.isfinite(value):
            assert found[name] is None, name
        else:
            assert found[name] == value, name


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., str]:
    """Save an array under a name in the test's folder and give its path."""

    def saved(name: str, array: NDArray[Any], **more: NDArray[Any]) -> str:
        path = tmp_path / name
        if path.suffix == ".npy":
            np.save(path, array)
        elif path.suffix == ".npz":
            np.savez_compressed(path, array, **more)
        else:
            safetensors.numpy.save_file({"x": array, **more}, path)
        return str(path)

    return saved


RNG = np.random.default_rng(0)
BASE = RNG.normal(size=(6, 7, 11)).astype(np.float32)
OTHER = BASE + 0.1 * RNG.normal(size=BASE.shape).astype(np.float32)
LABELS = RNG.integers(0, 11, size=BASE.shape[:-1])


class TestCompare:
    def test_the_digits(self) -> None:
        found = document("compare", DIGITS, DIGITS4, "--labels", DIGIT_LABELS)
        expected = kb.compare(np.load(DIGITS), np.load(DIGITS4), np.load(DIGIT_LABELS))
        same_numbers(found, expected.summary())
        assert found["inputs"]["base"] == {
            "path": DIGITS,
            "tensors": ["digits"],
            "shape": [540, 10],
            "dtype": "float32",
            "given": "logits",
        }

    def test_without_labels_their_statistics_are_null(self) -> None:
        found = document("compare", DIGITS, DIGITS4)
        assert found["perplexity"] is None
        assert found["delta_p"] is None
        assert found["top_k"] is None

    def test_sequences_are_groups(self, save: Callable[..., str]) -> None:
        found = document("compare", save("a.npy", BASE), save("b.npy", OTHER), "--labels", save("y.npy", LABELS))
        groups = np.arange(6)[:, None].repeat(7, axis=1)
        same_numbers(found, kb.compare(BASE, OTHER, LABELS, groups=groups).summary())

    @pytest.mark.parametrize("names", [["one", "two"], [3, -1]], ids=["names", "numbers"])
    def test_given_groups(self, save: Callable[..., str], names: list[Any]) -> None:
        groups = np.array(names)[np.arange(42) % 2].reshape(6, 7)
        found = document("compare", save("a.npy", BASE), save("b.npy", OTHER), "--groups", save("g.npy", groups))
        same_numbers(found, kb.compare(BASE, OTHER, groups=groups).summary())
        assert found["kl"]["groups"] == 2

    def test_tokens_score_the_one_before_them(self, save: Callable[..., str]) -> None:
        labels = np.concatenate([LABELS[:, 1:], np.full((6, 1), -100)], axis=1)
        for shape in (LABELS.shape, (-1,)):
            tokens = save("t.npy", LABELS.reshape(shape))
            found = document("compare", save("a.npy", BASE), save("b.npy", OTHER), "--tokens", tokens)
            groups = np.arange(6)[:, None].repeat(7, axis=1)
            same_numbers(found, kb.compare(BASE, OTHER, labels, groups=groups).summary())
            assert found["rows"] == {"total": 42, "scored": 36, "ignored": 6, "invalid": 0, "kl_inf": 0}

    def test_mask(self, save: Callable[..., str]) -> None:
        mask = (LABELS % 2).astype(np.uint8)
        flat = BASE.reshape(42, 11), OTHER.reshape(42, 11)
        found = document("compare", *(map(save, ("a.npy", "b.npy"), flat)), "--mask", save("m.npy", mask.ravel()))
        same_numbers(found, kb.compare(*flat, rows=mask.ravel() == 1).summary())

    def test_ignored_labels(self, save: Callable[..., str]) -> None:
        labels = np.where(LABELS == 3, -1, LABELS).ravel()
        flat = BASE.reshape(42, 11), OTHER.reshape(42, 11)
        arguments = [*map(save, ("a.npy", "b.npy"), flat), "--labels", save("y.npy", labels), "--ignore-index", "-1"]
        same_numbers(document("compare", *arguments), kb.compare(*flat, labels, ignore_index=-1).summary())

    @pytest.mark.parametrize(
        ("options", "keywords"),
        [
            (["--temperature", "2.5"], {"temperature": 2.5}),
            (["--num-classes", "5"], {"num_classes": 5}),
            (["--axis", "0"], {"axis": 0}),
            (["--threads", "1"], {}),
            (["--on-invalid", "raise"], {}),
        ],
    )
    def test_options(self, save: Callable[..., str], options: list[str], keywords: dict[str, Any]) -> None:
        flat = BASE.reshape(42, 11), OTHER.reshape(42, 11)
        found = document("compare", *map(save, ("a.npy", "b.npy"), flat), *options)
        same_numbers(found, kb.compare(*flat, **keywords).summary())

    def test_a_pair_of_spaces(self, save: Callable[..., str]) -> None:
        probs = np.exp(OTHER.astype(np.float64)).reshape(42, 11)
        probs /= probs.sum(axis=1, keepdims=True)
        base = BASE.reshape(42, 11)
        found = document("compare", save("a.npy", base), save("b.npy", probs), "--given", "logits,probs")
        same_numbers(found, kb.compare(base, probs, given=("logits", "probs")).summary())
        assert [found["inputs"][name]["given"] for name in ("base", "other")] == ["logits", "probs"]

    @pytest.mark.parametrize("rows", [1, 5, 42])
    def test_blocks_change_nothing(self, save: Callable[..., str], monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
        monkeypatch.setattr("kullback.cli.inputs.BLOCK_ROWS", rows)
        for name in ("a.npy", "a.npz", "a.safetensors"):
            paths = [save(name, BASE), save(f"b{name}", OTHER)]
            for option in ("--labels", "--tokens"):
                found = document("compare", *paths, option, save(f"y{name}", LABELS))
                monkeypatch.undo()
                whole = document("compare", *paths, option, save(f"y{name}", LABELS))
                assert found == whole
                monkeypatch.setattr("kullback.cli.inputs.BLOCK_ROWS", rows)

    def test_several_tensors_pair_up(self, save: Callable[..., str], tmp_path: Path) -> None:
        paths = [str(tmp_path / f"{name}.safetensors") for name in "aby"]
        for path, array in zip(paths, (BASE, OTHER, LABELS), strict=True):
            safetensors.numpy.save_file({f"s{i}": row for i, row in enumerate(array)}, path)
        out = tmp_path / "out.npy"
        found = document("compare", *paths[:2], "--labels", paths[2], "--out", out)
        groups = np.arange(6)[:, None].repeat(7, axis=1)
        columns = kb.compare(BASE, OTHER, LABELS, groups=groups)
        same_numbers(found, columns.summary())
        assert found["inputs"]["base"]["tensors"] == [f"s{i}" for i in range(6)]
        assert found["inputs"]["base"]["shape"] == [[7, 11]] * 6
        table = np.load(out)
        assert np.array_equal(table["sequence"], groups.ravel())
        assert np.array_equal(table["kl"], columns.kl.ravel())

    def test_no_rows(self, save: Callable[..., str]) -> None:
        empty = save("a.npy", np.empty((0, 4), np.float32))
        found = document("compare", empty, empty)
        assert found["rows"]["total"] == 0
        assert found["kl"]["mean"] is None

    def test_infinite_divergences_are_null_and_counted(self, save: Callable[..., str]) -> None:
        base, other = np.array([[0.5, 0.5], [0.25, 0.75]]), np.array([[1.0, 0.0], [0.5, 0.5]])
        found = document("compare", save("a.npy", base), save("b.npy", other), "--given", "probs")
        assert found["rows"]["kl_inf"] == 1
        assert found["kl"]["mean"] is None
        assert found["kl"]["max"] is None
        assert found["js"]["mean"] > 0

    def test_invalid_rows_are_counted(self, save: Callable[..., str]) -> None:
        base = BASE.reshape(42, 11).copy()
        base[5, 3], base[9, 0] = np.nan, np.inf
        arguments = ["compare", save("a.npy", base), save("b.npy", OTHER.reshape(42, 11))]
        found = document(*arguments, status=3)
        assert found["rows"] == {"total": 42, "scored": 40, "ignored": 0, "invalid": 2, "kl_inf": 0}
        line = refused(run(*arguments, "--on-invalid", "raise"))
        assert "a.npy: row 9 column 0 is inf" in line

    def test_text(self) -> None:
        lines = run("compare", WORDS, WORDS4, "--labels", WORD_LABELS).stdout.splitlines()
        assert lines[0] == "rows 128 · scored 128 · ignored 0 · invalid 0 · KL = inf 0 · nats"
        assert any(line.startswith("perplexity") for line in lines)
        assert max(map(len, lines)) <= 80

    def test_markdown(self) -> None:
        text = run("compare", WORDS, WORDS4, "--labels", WORD_LABELS, "--format", "markdown").stdout
        assert "| KL(base‖other) |" in text
        assert "\n| perplexity |" in text


class TestOut:
    @pytest.mark.parametrize("ending", [".npy", ".csv", ".parquet"])
    @pytest.mark.parametrize("block", [10, 1 << 17])
    def test_every_row(
        self, save: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, block: int
    ) -> None:
        monkeypatch.setattr("kullback.cli.inputs.BLOCK_ROWS", block)
        base = BASE.copy()
        base[2, 3, 4] = np.nan
        paths = [save("a.npy", base), save("b.npy", OTHER), "--labels", save("y.npy", LABELS)]
        out = tmp_path / f"out{ending}"
        assert run("compare", *paths, "--out", out).exit_code == 3
        columns = kb.compare(base, OTHER, LABELS, on_invalid="nan")
        if ending == ".npy":
            table = np.load(out)
            read = {name: table[name] for name in table.dtype.names}
        elif ending == ".parquet":
            parquet = pq.read_table(out)
            read = {name: parquet[name].to_numpy() for name in parquet.column_names}
        else:
            names = out.read_text().partition("\n")[0].split(",")
            read = dict(zip(names, np.loadtxt(out, delimiter=",", skiprows=1).T, strict=True))
        assert list(read) == ["row", "sequence", "position", *columns]
        assert np.array_equal(read["row"], np.arange(42))
        assert np.array_equal(read["sequence"], np.arange(42) // 7)
        assert np.array_equal(read["position"], np.arange(42) % 7)
        for name, column in columns.items():
            found = read[name].astype(column.dtype)
            assert np.array_equal(found, column.ravel(), equal_nan=name != "same_top"), name

    def test_the_old_file_stays_until_the_new_one_is_whole(self, save: Callable[..., str], tmp_path: Path) -> None:
        out = tmp_path / "out.csv"
        out.write_text("before")
        labels = np.full(42, 2)
        labels[-1] = 11
        paths = [save("a.npy", BASE.reshape(42, 11)), save("b.npy", OTHER.reshape(42, 11))]
        refused(run("compare", *paths, "--labels", save("y.npy", labels), "--out", out))
        assert out.read_text() == "before"
        assert sorted(os.listdir(tmp_path)) == ["a.npy", "b.npy", "out.csv", "y.npy"]

    @pytest.mark.parametrize("name", ["out.npy", "out.csv", "out.parquet", "plot.png"])
    @posix
    def test_a_full_disk(self, save: Callable[..., str], tmp_path: Path, name: str) -> None:
        import resource

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

        rows = RNG.normal(size=(5000, 3)).astype(np.float32)
        paths = [save("a.npy", rows), save("b.npy", rows + 1e-3 * rows**2)]
        option = "--plot" if name == "plot.png" else "--out"
        # A first run: matplotlib finds no font cache, and cannot write one either. Without fc-list, which it asks for
        # fonts: that has a cache of its own, and complains of the full disk itself.
        environment = {**os.environ, "MPLCONFIGDIR": str(tmp_path / "fonts"), "PATH": ""}
        line = refused(run_alone("compare", *paths, option, tmp_path / name, preexec_fn=limit, env=environment))
        assert line.endswith(f"{name}: cannot be written: File too large")
        assert sorted(set(os.listdir(tmp_path)) - {"fonts"}) == ["a.npy", "b.npy"]

    def test_plot(self, tmp_path: Path) -> None:
        for arguments in ([DIGITS, DIGITS4, "--labels", DIGIT_LABELS], [DIGITS, DIGITS4], [DIGITS, DIGITS]):
            path = tmp_path / "plot.png"
            assert run("compare", *arguments, "--plot", path).exit_code == 0
            assert path.read_bytes().startswith(b"\x89PNG")
        assert os.listdir(tmp_path) == ["plot.png"]


class TestRefusals:
    def test_missing_file(self, tmp_path: Path) -> None:
        assert refused(run("compare", tmp_path / "no.npy", DIGITS)).endswith("no.npy: no such file")

    def test_unknown_kind_of_file(self) -> None:
        assert "unknown kind of file; read are .npy, .npz" in refused(run("compare", __file__, DIGITS))

    def test_cut_file(self, tmp_path: Path) -> None:
        path = tmp_path / "cut.npy"
        path.write_bytes(Path(DIGITS).read_bytes()[:1000])
        assert "cut.npy: cut short: the header promises 21600 bytes" in refused(run("compare", DIGITS, path))

    def test_different_rows(self) -> None:
        line = refused(run("compare", DIGITS, WORDS))
        assert "digits.npy and " in line
        assert "different rows: 540 × 10 against 8 × 16 × 2048" in line

    def test_different_classes(self, save: Callable[..., str]) -> None:
        wide = save("wide.npy", np.zeros((540, 12)))
        assert "10 against 12 classes; --num-classes 10 compares the first 10" in refused(run("compare", DIGITS, wide))
        line = refused(run("compare", DIGITS, wide, "--num-classes", "11"))
        assert "--num-classes 11 is more than the 10 classes" in line

    def test_labels_out_of_range(self, save: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("kullback.cli.inputs.BLOCK_ROWS", 10)
        labels = LABELS.copy()
        labels[3, 2] = 11
        paths = [save("a.npy", BASE), save("b.npy", OTHER), "--labels", save("y.npy", labels)]
        assert "y.npy: label 11 of row 23 (sequence 3, position 2) is out of range for 11" in refused(
            run("compare", *paths)
        )

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (np.zeros(5, int), "y.npy: shape 5 where the rows are 540"),
            (np.zeros((270, 2), int), "y.npy: shape 270 × 2 where the rows are 540"),
            (np.zeros(540), "y.npy: has no array that can be the labels; it has 'y' (540 float64)"),
        ],
    )
    def test_labels_that_do_not_fit(self, save: Callable[..., str], labels: NDArray[Any], message: str) -> None:
        assert message in refused(run("compare", DIGITS, DIGITS4, "--labels", save("y.npy", labels)))

    def test_probabilities_as_logits(self, save: Callable[..., str]) -> None:
        probs = np.exp(BASE) / np.exp(BASE).sum(axis=-1, keepdims=True)
        for arguments in ([save("p.npy", probs), save("a.npy", BASE)], [save("a.npy", BASE), save("p.npy", probs)]):
            line = refused(run("compare", *arguments))
            assert "p.npy: --given logits, but all of 42 sampled rows" in line
            assert "use --given probs, or --no-check" in line
            assert run("compare", *arguments, "--no-check").exit_code == 0

    def test_bits_as_logits(self, save: Callable[..., str]) -> None:
        bits = save("bits.npy", (BASE.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16))
        line = refused(run("score", bits))
        assert "bits.npy: --given logits, but they are uint16: use --dtype bfloat16" in line
        assert run("score", bits, "--dtype", "bfloat16").exit_code == 0
        assert run("score", bits, "--no-check").exit_code == 0

    def test_no_valid_row(self) -> None:
        line = refused(run("compare", DIGITS, DIGITS4, "--given", "probs"))
        assert "digits.npy: --given probs fits none of 512 sampled rows" in line
        assert "--given logits" in line
        assert document("compare", DIGITS, DIGITS4, "--given", "probs", "--no-check", status=3)["rows"]["scored"] == 0

    @posix
    def test_a_pipe(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "a.npy")
        assert "a.npy: is a pipe or a device" in refused(run_alone("compare", DIGITS, tmp_path / "a.npy"))

    def test_too_few_classes_to_compare(self, save: Callable[..., str]) -> None:
        for few in (0, 1):
            line = refused(run("compare", save("a.npy", BASE), save("b.npy", BASE[..., :few])))
            assert line.endswith(f"b.npy: 11 against {few} classes")

    def test_arrays_that_do_not_pair_up(self, save: Callable[..., str]) -> None:
        line = refused(run("compare", save("m.npz", BASE, more=BASE), save("a.npy", BASE)))
        assert "'arr_0' (6 × 7 × 11 float32), 'more' (6 × 7 × 11 float32) against 'a' (6 × 7 × 11 float32)" in line
        assert "PATH::NAME" in line

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--given", "probabilities"], "is not one or two of probs, counts, log_probs, logits"),
            (["--temperature", "0"], "0.0 is not a finite number > 0"),
            (["--num-classes", "0"], "'--num-classes'"),
            (["--format", "yaml"], "'yaml' is not one of"),
            (["--out", "x.txt"], "x.txt: written are .npy, .csv, .parquet"),
            (["--out", "none/x.csv"], "there is no folder none"),
            (["--plot", "x.bmp"], "x.bmp: drawn are .png, .svg, .pdf"),
            (["--labels", "a", "--tokens", "b"], "use --labels or --tokens, not both"),
            (["--fail-if", "kl.mean"], "is not of the form NAME SIGN NUMBER"),
            (["--fail-if", "kl.men>0"], "'kl.men' is no number of the summary; near it: kl.mean"),
            (["--fail-if", "perplexity.ratio>1"], "no number of the summary without --labels or --tokens"),
            (["--frobnicate"], "No such option"),
        ],
    )
    def test_usage(self, options: list[str], message: str) -> None:
        result = run("compare", DIGITS, DIGITS4, *options)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert message in re.sub(r"[│\s]+", " ", result.stderr)

    @pytest.mark.parametrize("option", ["--labels", "--tokens", "--mask", "--groups"])
    def test_an_empty_name_is_not_no_name(self, option: str) -> None:
        refused(run("compare", DIGITS, DIGITS4, option, ""))

    def test_writing_over_an_input(self, save: Callable[..., str]) -> None:
        path = save("a.npy", BASE)
        assert run("compare", path, f"{path}", "--out", path).exit_code == 2
        assert np.array_equal(np.load(path), BASE)


class TestFailIf:
    @pytest.mark.parametrize(
        ("condition", "status"),
        [
            ("kl.mean>0.001", 4),
            ("kl.mean > 1", 0),
            ("kl.p99.9>=0.01", 4),
            ("same_top.share<0.5", 0),
            ("rows.scored!=540", 0),
            ("rows.scored == 540", 4),
        ],
    )
    def test_status(self, condition: str, status: int) -> None:
        result = run("compare", DIGITS, DIGITS4, "--fail-if", condition)
        assert result.exit_code == status
        assert ("--fail-if" in result.stderr) == (status == 4)
        assert result.stdout.startswith("rows 540")

    def test_any_of_several(self) -> None:
        conditions = ["--fail-if", "kl.mean>1", "--fail-if", "delta_p.rms>0.01"]
        assert run("compare", DIGITS, DIGITS4, "--labels", DIGIT_LABELS, *conditions).exit_code == 4

    def test_a_number_that_is_not_known_counts_as_failing(self, save: Callable[..., str]) -> None:
        empty = save("a.npy", np.empty((0, 4)))
        assert run("compare", empty, empty, "--fail-if", "kl.mean>1").exit_code == 4

    def test_infinity_is_a_number(self) -> None:
        assert parse_condition("kl.max<inf").holds(1.0)
        assert not parse_condition("kl.max<inf").holds(math.inf)
        assert parse_condition("kl.max>1e3").holds(math.inf)


class TestScore:
    def test_entropy_and_nll(self, save: Callable[..., str], tmp_path: Path) -> None:
        out = tmp_path / "out.npy"
        found = document("score", save("a.npy", BASE), "--labels", save("y.npy", LABELS), "--out", out)
        table = np.load(out)
        assert table.dtype.names == ("row", "sequence", "position", "entropy", "nll")
        for name, values in (
            ("entropy", kb.entropy(BASE, given="logits")),
            ("nll", kb.nll(BASE, LABELS, given="logits")),
        ):
            assert np.array_equal(table[name], values.ravel())
            assert found[name]["mean"] == math.fsum(values.ravel().tolist()) / 42
            assert found[name]["groups"] == 6
            assert found[name]["p50"] == np.percentile(values.astype(np.float64), 50)
            assert (found[name]["min"], found[name]["max"]) == (values.min(), values.max())
        assert found["perplexity"]["value"] == math.exp(found["nll"]["mean"])

    def test_means_and_errors_of_independent_rows(self) -> None:
        values = kb.entropy(np.load(DIGITS).astype(np.float64), given="logits")
        found = document("score", DIGITS)
        assert found["entropy"]["mean"] == pytest.approx(values.mean(), rel=1e-6)
        assert found["entropy"]["se"] == pytest.approx(values.std(ddof=1) / math.sqrt(540), rel=1e-6)
        assert "nll" not in found

    def test_rows_left_out(self, save: Callable[..., str]) -> None:
        base = BASE.copy()
        base[0, 0, 0] = np.nan
        labels, mask = LABELS.copy(), np.ones(LABELS.shape, np.int8)
        labels[0, 1], mask[0, 2] = -100, 0
        options = ["--labels", save("y.npy", labels), "--mask", save("m.npy", mask)]
        found = document("score", save("a.npy", base), *options, status=3)
        assert found["rows"] == {"total": 42, "scored": 39, "ignored": 2, "invalid": 1}

    def test_text(self) -> None:
        text = run("score", WORDS, "--tokens", WORD_TOKENS).stdout
        assert text.startswith("rows 128 · scored 120 · ignored 8 · invalid 0 · nats\n")
        assert "perplexity" in text
        assert "clustered by 8 groups" in text

    def test_usage(self) -> None:
        assert run("score", DIGITS, "--measure", "nll").exit_code == 2
        assert run("score", DIGITS, "--given", "logits,probs").exit_code == 2
        result = run("score", DIGITS, "--fail-if", "nll.mean>1")
        assert result.exit_code == 2
        assert "without --labels or --tokens" in re.sub(r"[│\s]+", " ", result.stderr)
        assert run("score", DIGITS, "--fail-if", "entropy.mean>0").exit_code == 4
        assert "--num-classes 11 is more than its 10" in refused(run("score", DIGITS, "--num-classes", "11"))


class TestInspect:
    @pytest.mark.parametrize(
        ("array", "kind"),
        [
            (BASE, "logits"),
            (np.exp(BASE) / np.exp(BASE).sum(-1, keepdims=True), "probs"),
            (BASE - np.log(np.exp(BASE).sum(-1, keepdims=True)), "log_probs"),
            (np.pad(np.exp(BASE) / np.exp(BASE).sum(-1, keepdims=True), ((0, 1), (0, 0), (0, 0))), "probs"),
            (LABELS, "counts"),
            (np.abs(BASE), "unclear"),
            (np.full((3, 3), np.nan), "unclear"),
            (LABELS.ravel(), "labels"),
            (LABELS.ravel() > 3, "mask"),
            (BASE.ravel(), "unclear"),
        ],
        ids=["logits", "probs", "log_probs", "padded", "counts", "positive", "NaN", "labels", "mask", "vector"],
    )
    def test_guesses(self, save: Callable[..., str], array: NDArray[Any], kind: str) -> None:
        (tensor,) = document("inspect", save("a.npy", array))["tensors"]
        assert tensor["looks_like"] == kind
        assert (tensor["shape"], tensor["dtype"], tensor["bytes"]) == (
            list(array.shape),
            str(array.dtype),
            array.nbytes,
        )

    def test_counts_what_is_not_finite(self, save: Callable[..., str]) -> None:
        array = np.array([[1.0, np.nan, 2.0], [0.5, -np.inf, 4.0], [1.0, 1.0, 1.5]])
        (tensor,) = document("inspect", save("a.npy", array))["tensors"]
        assert tensor["values"] == {"min": 0.5, "max": 4.0, "nan": 1, "inf": 1}
        assert tensor["row_sums"] == {"min": 3.5, "max": 3.5}
        assert tensor["looks_like"] == "logits"

    def test_an_array_that_cannot_be_read_is_one_among_others(self, tmp_path: Path) -> None:
        path = tmp_path / "t.parquet"
        pq.write_table(pa.table({"y": [0, 1234567], "p": [[0.5, 0.5], [0.2, 0.3, 0.5]]}), path)
        unreadable, labels = document("inspect", path)["tensors"]
        assert unreadable["looks_like"] == "unreadable" and "different lengths" in unreadable["because"]
        assert labels["looks_like"] == "labels"
        text = run("inspect", path).stdout
        assert "different lengths" in text and "0 … 1234567" in text

    def test_columns_and_bits(self, save: Callable[..., str], tmp_path: Path) -> None:
        path = tmp_path / "t.parquet"
        pq.write_table(pa.table({f"p_{i}": [0.25, 0.5] for i in range(3)} | {"weight": [1.0, 1.0]}), path)
        shapes = [tensor["shape"] for tensor in document("inspect", path, "--columns", "p_*")["tensors"]]
        assert [2, 3] in shapes and [2, 4] not in shapes
        bits = save("bits.npy", BASE.astype(np.float32).view(np.uint32).__rshift__(16).astype(np.uint16))
        (tensor,) = document("inspect", bits, "--dtype", "bfloat16")["tensors"]
        assert (tensor["dtype"], tensor["looks_like"]) == ("bfloat16", "logits")

    def test_damaged_files_are_named(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", BASE)
        (tmp_path / "b.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-1])
        found = run("inspect", tmp_path)
        assert found.exit_code == 3
        assert f"damaged: {tmp_path / 'b.npy'}" in found.stdout and "cut short" in found.stderr
        assert "cut short" in refused(run("inspect", tmp_path / "b.npy"))

    @pytest.mark.parametrize("path", [DIGITS, WORDS, EXAMPLES / "words*.safetensors"], ids=str)
    def test_the_table_fits_80_columns(self, path: str | Path) -> None:
        assert max(map(len, run("inspect", path).stdout.splitlines())) <= 80

    def test_lists_every_array(self) -> None:
        names = [tensor["name"] for tensor in document("inspect", EXAMPLES)["tensors"]]
        assert {"digits", "digits-int4", "digits-labels", "words/logits"} <= set(names)
        text = run("inspect", WORDS).stdout
        assert re.search(r"logits +8 × 16 × 2048 +bfloat16 +524 kB +logits", text)


class TestProgram:
    def test_version(self) -> None:
        assert run("--version").stdout == f"kullback {kb.__version__}\n"

    def test_info(self) -> None:
        found = document("info")
        assert found["version"] == kb.__version__
        assert found["simd"]["level"] in found["simd"]["available"]
        assert found["threads"] == kb.get_num_threads()
        assert found["simd"]["level"] in run("info").stdout

    def test_help_is_quick(self) -> None:
        code = (
            "import sys; from kullback.cli.app import app; from typer.testing import CliRunner\n"
            "assert 'compare' in CliRunner().invoke(app, ['--help']).stdout\n"
            "print({'matplotlib', 'pyarrow', 'pandas', 'torch'} & {name.partition('.')[0] for name in sys.modules})"
        )
        done = start([sys.executable, "-c", code])
        assert done.stdout == "set()\n", done.stderr

    def test_without_typer(self, tmp_path: Path) -> None:
        (tmp_path / "typer.py").write_text("raise ModuleNotFoundError(\"No module named 'typer'\", name='typer')")
        done = run_alone("info", env={**os.environ, "PYTHONPATH": str(tmp_path)})
        assert done.returncode == 1
        assert done.stderr == "kullback: the command line needs typer: pip install 'kullback[cli]'\n"

    def test_a_missing_extra_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("kullback.cli.app._installed", lambda package: False)
        for option, extra in (("--out=x.parquet", "arrow"), ("--plot=x.png", "plot")):
            result = run("compare", DIGITS, DIGITS4, option)
            assert result.exit_code == 2
            assert f"kullback[{extra}]" in result.stderr

    def test_a_pipe_has_no_progress_and_may_close(self) -> None:
        done = run_alone("compare", DIGITS, DIGITS4)
        assert (done.returncode, done.stderr) == (0, "")
        read, write = os.pipe()
        os.close(read)
        assert run_alone("compare", DIGITS, DIGITS4, stdout=write).stderr == ""
        os.close(write)

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
    @pytest.mark.parametrize("arguments", [("compare", DIGITS, DIGITS4), ("--help",), ("--version",)], ids=" ".join)
    def test_full_standard_output(self, arguments: tuple[str, ...]) -> None:
        with open("/dev/full", "w") as full:
            done = run_alone(*arguments, stdout=full)
        assert (done.returncode, done.stderr) == (1, "kullback: No space left on device\n")

    @posix
    def test_standard_error_may_be_closed(self) -> None:
        command = shlex.join([*COMMAND, "compare", DIGITS, DIGITS4])
        assert start(["sh", "-c", f"{command} 2>&-"]).returncode == 0

    @posix
    @pytest.mark.parametrize("quiet", [False, True])
    def test_a_terminal_has_progress(self, save: Callable[..., str], quiet: bool) -> None:
        rows = np.zeros((600_000, 10), np.float32)
        path = save("a.npy", rows)
        ours, theirs = os.openpty()
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
        command = [*COMMAND, "compare", path, path, *["--quiet"] * quiet]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env=environment) as process:
            os.close(theirs)
            seen = b""
            while True:
                try:
                    part = os.read(ours, 1 << 16)
                except OSError:  # the other side has closed
                    break
                if not part:
                    break
                seen += part
        os.close(ours)
        assert process.returncode == 0
        assert (b"%" in seen and b"rows/s" in seen) != quiet
        assert not (quiet and seen)

    @posix
    @pytest.mark.parametrize("ending", [".npy", ".csv", ".parquet"])
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP] if os.name == "posix" else [])
    def test_interruption_leaves_nothing_behind(self, tmp_path: Path, ending: str, number: signal.Signals) -> None:
        path = tmp_path / "a.npy"
        sparse(path, 2_000_000_000)
        command = [*COMMAND, "compare", path, path, "--out", tmp_path / f"out{ending}", "--plot", tmp_path / "p.png"]

        def heed() -> None:
            # The tests may run in the background or under nohup, whose children ignore some of these.
            signal.signal(number, signal.SIG_DFL)

        options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "preexec_fn": heed}
        with subprocess.Popen(command, **options) as process:
            until = time.monotonic() + 30
            while len(os.listdir(tmp_path)) < 3:
                assert time.monotonic() < until
                time.sleep(0.01)
            time.sleep(0.2)
            assert len(os.listdir(tmp_path)) == 3
            process.send_signal(number)
            # Within a tenth of a second on a machine of its own; the whole takes half a minute.
            _, complaints = process.communicate(timeout=120)
        assert process.returncode == 128 + number
        assert complaints == b""
        assert os.listdir(tmp_path) == ["a.npy"]


def sparse(path: Path, size: int, classes: int = 10) -> None:
    """Write a matrix of zeros that takes no room on the disk."""
    rows = size // (4 * classes)
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, classes)}
    if path.suffix == ".npz":
        archive = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
        with archive, archive.open("x.npy", "w") as member:
            np.lib.format.write_array_header_1_0(member, header)
            for start in range(0, rows, 1000):
                member.write(bytes(4 * classes * min(1000, rows - start)))
        return
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 4 * rows * classes)


PEAK = """
import sys
from kullback.cli.app import app
try:
    app(sys.argv[1:])
finally:
    print(*[line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")], file=sys.stderr)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("name", "classes", "out"),
    [("a.npy", 10, "out.npy"), ("a.npy", 1000, "out.parquet"), ("a.npz", 1000, "out.csv")],
)
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str, classes: int, out: str) -> None:
    path = tmp_path / name
    peaks = []
    # The smaller one is some chunks long already.
    for size in (60_000_000, 240_000_000):
        sparse(path, size, classes)
        done = start([sys.executable, "-c", PEAK, "compare", path, path, "--out", tmp_path / out])
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stderr) / 1000)
    # Percentiles keep four float32 a row up to 10⁷ rows: 72 MB for the 4.5 million more rows of 10 classes.
    kept = 72 if classes == 10 else 0
    assert peaks[1] < 300
    assert peaks[1] - peaks[0] < 40 + kept, peaks
