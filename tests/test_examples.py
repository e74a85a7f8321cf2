"""The example files: all statistics against the plain script beside them, and the files against their own script."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import kullback as kb
import numpy as np
import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PAIRS = [
    (f"{name}{suffix}", f"{name}-int{bits}{suffix}", f"{name}-labels.npy")
    for name, suffix in (("digits", ".npy"), ("words", ".safetensors"))
    for bits in (8, 4)
]


def script(name: str) -> ModuleType:
    """Import one of the scripts."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check_summary = script("check_summary")


def leaves(tree: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    """Every number of a nested summary with its path."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{at}{key}.")
        else:
            yield f"{at}{key}", value


def compared(base: str, other: str, labels: str | None, dtype: type[np.floating[Any]]) -> kb.Comparison:
    """Compare two files in a dtype; the sequences of a batch are groups."""
    a, b = (check_summary.read(EXAMPLES / name).astype(dtype) for name in (base, other))
    y = None if labels is None else np.load(EXAMPLES / labels)
    groups = np.repeat(np.arange(len(a)), a.shape[1]).reshape(a.shape[:-1]) if a.ndim == 3 else None
    return kb.compare(a, b, y, groups=groups)


def expected_columns(base: str, other: str, labels: str | None) -> tuple[dict[str, Any], Any]:
    """Score two files with the plain script: columns and groups."""
    columns, groups = check_summary.score(*(name and EXAMPLES / name for name in (base, other, labels)))
    return columns, groups


def assert_same(found: Mapping[str, Any], expected: Mapping[str, Any], absolute: float = 0.0) -> None:
    """Hold a summary to the plain script's, which has neither schema nor units."""
    numbers, wanted = dict(leaves(found)), dict(leaves(expected))
    assert numbers.keys() == {"schema", "units", *wanted}
    wrong = []
    for name, value in wanted.items():
        if value is None or isinstance(value, int):
            assert numbers[name] == value, name
        elif not abs(numbers[name] - value) <= 1e-12 * abs(value) + absolute:
            wrong.append(f"{name}: {numbers[name]!r}, not {value!r}: off by {(numbers[name] - value) / value:.1e}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("labelled", [True, False], ids=["labels", "no labels"])
@pytest.mark.parametrize(("base", "other", "labels"), PAIRS)
def test_every_statistic_in_float64(base: str, other: str, labels: str, labelled: bool) -> None:
    chosen = labels if labelled else None
    columns, groups = expected_columns(base, other, chosen)
    summary = compared(base, other, chosen, np.float64).summary()
    # What the plain formulas lose when they subtract logarithms.
    assert_same(summary, check_summary.statistics(columns, groups), absolute=2e-15)


@pytest.mark.parametrize(("base", "other", "labels"), PAIRS)
def test_every_column_in_float32(base: str, other: str, labels: str) -> None:
    expected, _ = expected_columns(base, other, labels)
    found = compared(base, other, labels, np.float32)
    assert list(found) == list(expected)
    ulp = np.finfo(np.float32).eps
    largest_p = np.exp(-np.minimum(expected["nll_base"], expected["nll_other"]))
    for name, values in expected.items():
        column = found[name].reshape(-1)
        if name == "same_top":
            np.testing.assert_array_equal(column, values)
            continue
        # What the plain formulas lose; in total variation, what the kernels' normalisation of the rows leaves.
        bound = 5e-7 * np.abs(values) + (2.0**-25 if name == "tv" else 2e-15)
        if name == "delta_p":
            bound = 4 * ulp * largest_p
        error = np.abs(column - values) / bound
        worst = int(np.argmax(error))
        assert error[worst] <= 1, f"{name} of row {worst}: {column[worst]!r}, not {values[worst]!r}"


@pytest.mark.parametrize(("base", "other", "labels"), PAIRS)
def test_the_command_line_prints_the_statistics_of_the_columns(base: str, other: str, labels: str) -> None:
    found = compared(base, other, labels, np.float32)
    columns = {name: np.asarray(column, np.float64).reshape(-1) for name, column in found.items()}
    groups = None if found.groups is None else found.groups.reshape(-1)
    summary = found.summary()
    assert_same(summary, check_summary.statistics(columns, groups))

    command = [sys.executable, "-m", "kullback.cli", "compare", base, other, "--labels", labels, "--json"]
    done = subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (0, "")
    printed = json.loads(done.stdout)
    assert {name: printed[name] for name in summary} == summary


def test_the_script_makes_the_files(tmp_path: Path) -> None:
    for package in ("scikit-learn", "wordsegment"):
        pytest.importorskip({"scikit-learn": "sklearn"}.get(package, package))
    make_data = script("make_data")
    for package in ("scikit-learn", "wordsegment"):
        made_with, here = make_data.MADE_WITH[package], importlib.metadata.version(package)
        if here != made_with:
            pytest.skip(f"the files were made with {package} {made_with}; this is {here}")
    make_data.main(tmp_path)
    committed = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".npy", ".safetensors")}
    assert {path.name for path in tmp_path.iterdir()} == committed
    for name in sorted(committed):
        old, new = EXAMPLES / name, tmp_path / name
        if name.endswith(".safetensors"):
            # Both start with the same header; a last bit of float64 may tip a rounding to bfloat16.
            before, after = (np.frombuffer(path.read_bytes(), "<u2").astype(int) for path in (old, new))
            assert before.shape == after.shape
            assert np.abs(before - after).max() <= 1
            assert np.mean(before != after) < 1e-4
        elif "labels" in name or "tokens" in name:
            np.testing.assert_array_equal(np.load(new), np.load(old), err_msg=name, strict=True)
        else:
            np.testing.assert_allclose(np.load(new), np.load(old), rtol=1e-6, atol=1e-8, err_msg=name, strict=True)


def test_the_files_are_small() -> None:
    assert sum(path.stat().st_size for path in EXAMPLES.iterdir() if path.is_file()) < 2e6
