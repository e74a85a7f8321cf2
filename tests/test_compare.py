"""compare and Comparison: columns and statistics against plain f64, refusals, forms of output."""

from __future__ import annotations

import json
import math
import pickle
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import kullback as kb
import ml_dtypes
import numpy as np
import pytest
import reference
from arrays import BF16, DTYPES, generator, matrix
from kullback._accumulate import COLUMNS, EXACT_ROWS, LABELLED
from kullback._compare import render_html, render_markdown, render_text
from plain_summary import assert_same, plain_summary

EXAMPLES = Path(__file__).parent.parent / "examples"
UNLABELLED = tuple(name for name in COLUMNS if name not in LABELLED)


def plain_columns(base: np.ndarray, other: np.ndarray, labels: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Every column from two matrices of logits, by the book and in extended precision."""
    p, q = (rows.astype(np.longdouble) for rows in (base, other))
    ln_p, ln_q = (x - x.max(-1, keepdims=True) for x in (p, q))
    ln_p, ln_q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (ln_p, ln_q))
    p, q = np.exp(ln_p), np.exp(ln_q)
    ln_m = np.log((p + q) / 2)

    def expected(of: np.ndarray, values: np.ndarray) -> np.ndarray:
        return np.where(of > 0, of * values, 0).sum(-1)

    with np.errstate(invalid="ignore"):
        columns = {
            "kl": expected(p, ln_p - ln_q),
            "kl_reverse": expected(q, ln_q - ln_p),
            "js": (expected(p, ln_p - ln_m) + expected(q, ln_q - ln_m)) / 2,
            "tv": abs(p - q).sum(-1) / 2,
            "entropy_base": -expected(p, ln_p),
            "entropy_other": -expected(q, ln_q),
            "cross_entropy": -expected(p, ln_q),
            "same_top": base.argmax(-1) == other.argmax(-1),
        }
    if labels is not None:
        at = labels[..., None]
        columns["nll_base"] = -np.take_along_axis(ln_p, at, -1)[..., 0]
        columns["nll_other"] = -np.take_along_axis(ln_q, at, -1)[..., 0]
        columns["delta_p"] = (np.take_along_axis(q, at, -1) - np.take_along_axis(p, at, -1))[..., 0]
    return {name: values if name == "same_top" else values.astype(np.float64) for name, values in columns.items()}


def pair(n: int = 300, classes: int = 40, dtype: Any = np.float32, noise: float = 0.3) -> tuple[np.ndarray, ...]:
    """Two matrices of logits that resemble each other, and labels."""
    rng = generator("pair", n, classes)
    base = 3 * rng.standard_normal((n, classes))
    other = base + noise * rng.standard_normal((n, classes))
    labels = np.where(rng.random(n) < 0.6, base.argmax(-1), rng.integers(0, classes, n))
    return base.astype(dtype), other.astype(dtype), labels


def total_variation(p: reference.Distribution, q: reference.Distribution) -> Any:
    return sum((abs(m - n) for m, n in zip(p.mass, q.mass, strict=True)), 0) / 2


def mass(p: reference.Distribution, label: int) -> Any:
    return p.mass[label]


def oracle_columns(base: np.ndarray, other: np.ndarray, labels: np.ndarray, given: Any) -> dict[str, np.ndarray]:
    """Every column but same_top, and Δp as its two parts, rigorously to f64."""
    first, second = (given, given) if isinstance(given, str) else given
    back = (second, first)
    both = {
        "kl": reference.exact(reference.kl_divergence, base, other, given=given),
        "kl_reverse": reference.exact(reference.kl_divergence, other, base, given=back),
        "js": reference.exact(reference.js_divergence, base, other, given=given),
        "tv": reference.exact(total_variation, base, other, given=given),
        "entropy_base": reference.exact(reference.entropy, base, given=first),
        "entropy_other": reference.exact(reference.entropy, other, given=second),
        "cross_entropy": reference.exact(reference.cross_entropy, base, other, given=given),
        "nll_base": reference.exact(reference.nll, base, given=first, labels=labels),
        "nll_other": reference.exact(reference.nll, other, given=second, labels=labels),
        "p_base": reference.exact(mass, base, given=first, labels=labels),
        "p_other": reference.exact(mass, other, given=second, labels=labels),
    }
    return {name: exact.hi for name, exact in both.items()}


def assert_exact(both: kb.Comparison, expected: dict[str, np.ndarray], divergence: float, ulps: float) -> None:
    """Hold columns to the targets of docs/numerics.md: relative for divergences, in units of the last place else.

    Both rows are normalised to `known`, measured as 2e-8 in f32 and 3e-15 in f64: tv is off by as much, and the other
    divergences, flat where the rows are equal, by its square.
    """
    dtype = both.kl.dtype
    info = np.finfo(dtype)
    known = 2.0**-25 if dtype == np.float32 else 2.0**-47
    for name, values in expected.items():
        if name.startswith("p_"):
            continue
        if name in ("kl", "kl_reverse", "js", "tv"):
            allowed = divergence * np.abs(values) + (known if name == "tv" else known**2)
        else:
            # A mass below the normal numbers is none: of a row as peaked as that, m·ln m is lost.
            allowed = np.maximum(ulps * reference.ulp(values, dtype), 128 * info.smallest_normal)
        assert (np.abs(both[name] - values) <= allowed).all(), name
    # A probability is the exponential of its logarithm, and as exact as that is in absolute terms.
    larger = np.maximum(expected["p_base"], expected["p_other"])
    wanted = expected["p_other"] - expected["p_base"]
    allowed = 2 * info.eps * larger * (1 - np.log(np.maximum(larger, info.tiny)))
    assert (np.abs(both.delta_p - wanted) <= allowed).all(), "delta_p"


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("classes", [1, 2, 10, 40, 1000])
@pytest.mark.parametrize("noise", [1e-3, 0.3, 30.0])
def test_columns_are_their_definitions(name: str, classes: int, noise: float) -> None:
    base, other, labels = pair(40, classes, DTYPES[name], noise)
    both = kb.compare(base, other, labels)
    assert both.shape == both.status.shape == (40,)
    assert both.status.dtype == np.uint8
    dtype = np.float64 if name == "f8" else np.float32
    assert {column: values.dtype for column, values in both.items()} == {
        column: np.dtype(bool) if column == "same_top" else np.dtype(dtype) for column in COLUMNS
    }
    np.testing.assert_array_equal(both.same_top, base.argmax(-1) == other.argmax(-1))
    divergence, ulps = (1e-13, 8) if dtype == np.float64 else (5e-7, 4)
    assert_exact(both, oracle_columns(base, other, labels, "logits"), divergence, ulps)


@pytest.mark.parametrize("given", ["probs", "log_probs", "counts", ("logits", "probs"), ("log_probs", "logits")])
@pytest.mark.parametrize("name", ["f4", "f8"])
def test_every_space_gives_the_same_columns(given: Any, name: str) -> None:
    spaces = (given, given) if isinstance(given, str) else given
    base, other = (matrix(50, 20, space, DTYPES[name], seed=i) for i, space in enumerate(spaces))
    labels = generator("labels").integers(0, 20, 50)
    both = kb.compare(base, other, labels, given=given)
    divergence, ulps = (1e-13, 8) if name == "f8" else (2e-6, 4)
    assert_exact(both, oracle_columns(base, other, labels, given), divergence, ulps)


def test_the_first_of_several_maxima_is_the_top() -> None:
    base = np.array([[1.0, 3.0, 3.0, 0.0], [1.0, 3.0, 3.0, 0.0], [2.0, 2.0, 2.0, 2.0]])
    other = np.array([[0.0, 2.0, 1.0, 2.0], [0.0, 1.0, 2.0, 2.0], [-np.inf, 1.0, 1.0, 1.0]])
    assert kb.compare(base, other).same_top.tolist() == [True, False, False]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("grouped", [False, True])
def test_the_summary_is_the_statistics_of_the_columns(dtype: Any, grouped: bool) -> None:
    base, other, labels = pair(1000, 30, dtype)
    labels[::17] = -100
    groups = np.arange(1000) // 50 if grouped else None
    both = kb.compare(base, other, labels, groups=groups)
    assert (both.status == np.where(labels == -100, 1, 0)).all()
    assert_same(both.summary(), plain_summary(dict(both), both.status, groups))
    accumulator = kb.Accumulator()
    for rows in (slice(600, None), slice(0, 600)):
        part = kb.compare(base[rows], other[rows], labels[rows])
        accumulator.update(part, part.status, None if groups is None else groups[rows])
    assert repr(accumulator.summary()) == repr(both.summary())


@pytest.mark.parametrize("other", ["digits-int8", "digits-int4"])
def test_the_digits_example_against_a_plain_script(other: str) -> None:
    a, b, labels = (np.load(EXAMPLES / f"{name}.npy") for name in ("digits", other, "digits-labels"))
    both = kb.compare(a, b, labels)
    exact = plain_columns(a, b, labels)
    expected = plain_summary(exact, np.zeros(len(labels), np.uint8))
    # f32 columns: 2⁻²⁴ each, and the engine's 5e-7 for divergences.
    assert_close_summary(both.summary(), expected)


@pytest.mark.parametrize("other", ["words-int8", "words-int4"])
@pytest.mark.parametrize("grouped", [False, True])
def test_the_words_example_against_a_plain_script(other: str, grouped: bool) -> None:
    a, b = (read_bf16(EXAMPLES / f"{name}.safetensors") for name in ("words", other))
    labels = np.load(EXAMPLES / "words-labels.npy")
    groups = np.arange(len(labels))[:, None] if grouped else None
    both = kb.compare(a, b, labels, groups=groups)
    assert both.shape == labels.shape
    scored = labels != -100
    exact = plain_columns(a.astype(np.float64), b.astype(np.float64), np.where(scored, labels, 0))
    spread = None if groups is None else np.broadcast_to(groups, labels.shape)
    expected = plain_summary(exact, np.where(scored, 0, 1).astype(np.uint8), spread)
    assert_close_summary(both.summary(), expected)


def read_bf16(path: Path) -> np.ndarray:
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    entry = json.loads(data[8:start])["logits"]
    assert entry["dtype"] == "BF16"
    return np.frombuffer(data[start:], BF16).reshape(entry["shape"])


def assert_close_summary(got: dict[str, Any], expected: dict[str, Any]) -> None:
    """Equal up to the rounding of columns to f32: relative, of differences relative to the numbers subtracted."""
    assert got["rows"] == expected["rows"]
    assert_same(got["same_top"], expected["same_top"], 1e-12)
    differences = {"tv": 1.0, "perplexity": expected["perplexity"]["base"], "delta_p": 1.0}
    for quantity, values in expected.items():
        if quantity in ("schema", "units", "rows", "same_top"):
            continue
        absolute = 5e-8 * differences.get(quantity, 0.0)
        for key, value in values.items():
            wanted = value if value is None else pytest.approx(value, rel=2e-6, abs=absolute)
            assert got[quantity][key] == wanted, (quantity, key)


def test_rows_that_are_ignored_or_invalid_are_not_scored() -> None:
    base, other, labels = pair(100, 8)
    labels[3] = 77
    rows = np.ones(100, bool)
    rows[10:20] = False
    base[15] = np.nan
    base[40, 2] = np.nan
    other[41] = -np.inf
    both = kb.compare(base, other, labels, rows=rows, ignore_index=77, on_invalid="nan")
    status = np.zeros(100, np.uint8)
    status[3] = 1
    status[10:20] = 1
    status[40:42] = 2
    np.testing.assert_array_equal(both.status, status)
    assert both.summary()["rows"] == {"total": 100, "scored": 87, "ignored": 11, "invalid": 2, "kl_inf": 0}
    for name, values in both.items():
        outside = values[status != 0]
        assert not outside.any() if name == "same_top" else np.isnan(outside).all()
    kept = status == 0
    clean = kb.compare(base[kept], other[kept], labels[kept])
    for name, values in clean.items():
        np.testing.assert_array_equal(both[name][kept], values)


def test_mass_where_other_has_none_is_infinite() -> None:
    base, other, labels = pair(10, 5)
    other[4, 2] = -np.inf
    labels[4] = 2
    both = kb.compare(base, other, labels)
    assert np.flatnonzero(np.isinf(both.kl)).tolist() == [4]
    assert both.nll_other[4] == np.inf
    summary = both.summary()
    assert summary["rows"]["kl_inf"] == 1
    assert summary["kl"]["mean"] == math.inf == summary["perplexity"]["other"]
    assert "KL = inf 1" in repr(both)
    assert "rows other gives 0 where base does not: KL and its mean are inf" in repr(both)


def test_shapes_axes_and_broadcasting() -> None:
    base, other, labels = pair(60, 12)
    flat = kb.compare(base, other, labels, groups=np.arange(60) // 20)
    cube = base.reshape(3, 20, 12), other.reshape(3, 20, 12), labels.reshape(3, 20)
    folded = kb.compare(*cube, groups=np.arange(3)[:, None])
    assert folded.shape == (3, 20)
    assert folded.summary() == flat.summary()
    turned = kb.compare(np.moveaxis(cube[0], -1, 0), np.moveaxis(cube[1], -1, 0), cube[2], axis=0)
    for name, values in flat.items():
        np.testing.assert_array_equal(folded[name].reshape(-1), values)
        np.testing.assert_array_equal(turned[name].reshape(-1), values)
    one = kb.compare(base[7], other)
    np.testing.assert_array_equal(one.kl, kb.compare(np.broadcast_to(base[7], other.shape), other).kl)
    single = kb.compare(base[7], other[7], labels[7])
    assert single.shape == ()
    assert single.kl == flat.kl[7]
    assert single.summary()["kl"]["mean"] == flat.kl[7]
    nothing = kb.compare(base[:0], other[:0], labels[:0])
    assert nothing.shape == (0,)
    assert math.isnan(nothing.summary()["kl"]["mean"])
    assert "rows 0" in repr(nothing)


def test_options_reach_the_engine() -> None:
    base, other, labels = pair(50, 10, np.float64)
    for temperature in (2.0, (1.0, 0.5)):
        kl = kb.compare(base, other, temperature=temperature).kl
        exact = reference.exact(reference.kl_divergence, base, other, given="logits", temperature=temperature)
        np.testing.assert_allclose(kl, exact.hi, rtol=1e-13)
    where = np.arange(10) % 3 != 0
    masked = kb.compare(base, other, where=where)
    for name, values in kb.compare(base[:, where], other[:, where]).items():
        np.testing.assert_allclose(masked[name], values, rtol=1e-12, err_msg=name)
    chosen = kb.compare(base, other, labels, columns=["delta_p", "kl"], threads=1)
    assert set(chosen) == {"delta_p", "kl"}
    assert set(chosen.summary()) == {"schema", "units", "rows", "kl", "delta_p"}
    integers = kb.compare(base.round().astype(np.int8), other.round().astype(np.int16))
    np.testing.assert_allclose(integers.kl, kb.compare(base.round(), other.round()).kl, rtol=1e-13)


def test_padded_vocabularies() -> None:
    base, other, labels = pair(40, 30)
    padded = np.concatenate([other, np.full((40, 2), 5.0, np.float32)], axis=1)
    expected = kb.compare(base[:, :25], other[:, :25], labels % 25)
    cut = kb.compare(base, padded, labels % 25, num_classes=25)
    for name, values in expected.items():
        np.testing.assert_array_equal(cut[name], values)
    where = np.arange(30) % 2 == 0
    half = kb.compare(base, padded, num_classes=25, where=where[:25])
    np.testing.assert_array_equal(kb.compare(base, padded, num_classes=25, where=where).kl, half.kl)
    across = kb.compare(base.T, padded.T, axis=0, num_classes=25)
    np.testing.assert_array_equal(across.kl, expected.kl)
    with pytest.raises(ValueError, match=r"base has 30 classes along axis -1 and other has 32; .* num_classes=30"):
        kb.compare(base, padded)
    with pytest.raises(ValueError, match=r"base has 30 classes along axis -1 and other has 1$"):
        kb.compare(base, padded[:, :1])
    with pytest.raises(ValueError, match=r"num_classes=31 is more than there are: base has 30 .* other has 32"):
        kb.compare(base, padded, num_classes=31)
    with pytest.raises(ValueError, match=r"num_classes must be at least 1, not 0"):
        kb.compare(base, padded, num_classes=0)
    with pytest.raises(TypeError, match=r"num_classes must be one integer, not 2.5"):
        kb.compare(base, padded, num_classes=2.5)  # type: ignore[arg-type]
    with pytest.raises(IndexError, match=r"label 27 .* 25 classes"):
        kb.compare(base, padded, np.full(40, 27), num_classes=25)


# check=True


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_probabilities_given_as_logits_are_refused(name: str, classes: int) -> None:
    probs = matrix(300, classes, "probs", DTYPES[name])
    logits = matrix(300, classes, "logits", DTYPES[name], seed=1)
    with pytest.raises(ValueError, match=r'base holds probabilities, not logits: its first 256 rows .*given="probs"'):
        kb.compare(probs, logits)
    with pytest.raises(ValueError, match=r"other holds probabilities, not logits"):
        kb.compare(logits, probs, given=("logits", "logits"))
    kb.compare(logits, probs, check=False)
    kb.compare(logits, probs, given=("logits", "probs"))
    kb.compare(logits, logits)


def test_the_check_reads_only_rows_that_count() -> None:
    probs = matrix(20, 5, "probs")
    mixed = probs.copy()
    mixed[3] = matrix(1, 5, "logits")
    kb.compare(mixed, mixed)
    rows = np.arange(20) != 3
    with pytest.raises(ValueError, match="its first 19 rows"):
        kb.compare(mixed, mixed, rows=rows)
    labels = np.where(rows, 0, -100)
    with pytest.raises(ValueError, match="its first 19 rows"):
        kb.compare(mixed, mixed, labels)
    kb.compare(mixed, mixed, rows=np.zeros(20, bool))
    with pytest.raises(ValueError, match="its first row is"):
        kb.compare(probs[0], probs[0])


def test_the_check_lets_other_rows_be() -> None:
    base, other, _ = pair(20, 6)
    for rows in (base, np.abs(base), matrix(20, 6, "log_probs"), matrix(20, 6, "counts", np.int32), base[:, :1]):
        kb.compare(rows, rows)
    kb.compare(base[:0], other[:0])
    # Two rows are distributions and the third is not.
    kb.compare(np.array([[0.5, 0.5], [1.0, 0.0], [1.0, 1.0]]), base[:3, :2].astype(np.float64))


# Refusals


def test_bad_arguments_are_named() -> None:
    base, other, labels = pair(10, 4)
    for arguments, keywords, error, words in [
        ((base, other[:9]), {}, ValueError, r"same rows: their shapes are \(10, 4\) and \(9, 4\)"),
        ((base, other, labels[:9]), {}, ValueError, r"labels has shape \(9,\), the rows have shape \(10,\)"),
        ((base, other, base), {}, TypeError, r"labels must be integers, one class a row, not float32"),
        ((base, other), {"rows": [True]}, ValueError, r"rows has shape \(1,\)"),
        ((base, other), {"rows": labels}, TypeError, r"rows must be booleans, not int64"),
        ((base, other), {"groups": [1, 2, 3]}, ValueError, r"groups has shape \(3,\), which does not broadcast"),
        ((base, other), {"groups": labels / 2}, TypeError, r"groups must be integers or strings, not float64"),
        ((base, other), {"axis": 2}, ValueError, r"axis 2 is out of range for base of shape \(10, 4\)"),
        ((base, other), {"axis": None}, TypeError, r"axis must be one integer, not None"),
        ((base, other), {"axis": (0, 1)}, TypeError, r"axis must be one integer"),
        ((base, other), {"columns": ["kl", "hellinger"]}, ValueError, r"unknown column 'hellinger'; the columns are"),
        ((base, other), {"columns": ["nll_base"]}, ValueError, r"column 'nll_base' needs labels"),
        ((base, other), {"columns": []}, ValueError, r"columns is empty"),
        ((base, other), {"columns": "kl"}, TypeError, r"columns must be a sequence of names"),
        ((base, other), {"given": ("logits",)}, ValueError, r"given must be one space or a pair"),
        ((base, other), {"given": "softmax"}, ValueError, r"given"),
        ((base, other), {"on_invalid": "skip"}, ValueError, r"on_invalid"),
        ((base, other), {"temperature": 0.0}, ValueError, r"temperature"),
        ((3.0, other), {}, ValueError, r"base must have at least one axis"),
        ((base, other, np.full(10, 4)), {}, IndexError, r"label 4 of row 0 is out of range for 4 classes"),
        ((base, other, np.where(labels < 9, labels, 0) - 7), {}, IndexError, r"label -\d of row 0"),
    ]:
        with pytest.raises(error, match=words):
            kb.compare(*arguments, **keywords)
    base[6, 1] = np.inf
    with pytest.raises(ValueError, match=r"base.*row 6"):
        kb.compare(base, other)


def test_inputs_are_not_modified() -> None:
    base, other, labels = pair(30, 9)
    given = [array.copy() for array in (base, other, labels)]
    for array in (base, other, labels):
        array.flags.writeable = False
    repr(kb.compare(base, other, labels))
    for array, before in zip((base, other, labels), given, strict=True):
        np.testing.assert_array_equal(array, before)


# Comparison


def test_columns_are_items_and_attributes() -> None:
    base, other, _ = pair(10, 4)
    both = kb.compare(base, other)
    assert list(both) == list(both.keys()) == list(UNLABELLED)
    assert len(both) == 8 and "kl" in both and "nll_base" not in both
    assert both.kl is both["kl"]
    assert set(UNLABELLED) <= set(dir(both))
    with pytest.raises(AttributeError, match=r"no column 'delta_p': it needs labels"):
        both.delta_p  # noqa: B018
    with pytest.raises(KeyError, match=r"no column 'nll_base': it needs labels"):
        both["nll_base"]
    with pytest.raises(AttributeError, match=r"'Comparison' object has no attribute 'kll'"):
        both.kll  # noqa: B018
    with pytest.raises(AttributeError, match=r"no column 'js'; there are kl"):
        kb.compare(base, other, columns=["kl"]).js  # noqa: B018
    assert both != kb.compare(base, other)
    assert both in {both}


def test_a_changed_summary_is_the_callers_own() -> None:
    base, other, _ = pair(10, 4)
    both = kb.compare(base, other)
    summary = both.summary()
    summary["kl"]["mean"] = -1.0
    assert both.summary()["kl"]["mean"] > 0


def test_comparisons_pickle() -> None:
    base, other, labels = pair(100, 7)
    both = kb.compare(base, other, labels, groups=np.array(["a", "b"] * 50))
    again = pickle.loads(pickle.dumps(both))
    for name, values in both.items():
        np.testing.assert_array_equal(again[name], values)
    assert again.summary() == both.summary()
    assert repr(again) == repr(both)


def test_merging_joins_rows() -> None:
    base, other, labels = pair(100, 7)
    groups = np.arange(100) // 30
    whole = kb.compare(base, other, labels, groups=groups)
    parts = [
        kb.compare(base[rows], other[rows], labels[rows], groups=groups[rows])
        for rows in (slice(0, 41), slice(41, 100))
    ]
    merged = parts[0].merge(parts[1])
    for name, values in whole.items():
        np.testing.assert_array_equal(merged[name], values)
    assert merged.summary() == whole.summary()
    assert len(parts[0].kl) == 41

    cube = [kb.compare(base.reshape(4, 25, 7)[i], other.reshape(4, 25, 7)[i]) for i in range(4)]
    square = kb.compare(base.reshape(4, 25, 7), other.reshape(4, 25, 7))
    assert square.merge(square).shape == (8, 25)
    assert cube[0].merge(square).shape == (125,)
    single = kb.compare(base[0], other[0])
    assert single.merge(single).shape == (2,)
    with pytest.raises(ValueError, match=r"different columns"):
        whole.merge(single)
    with pytest.raises(ValueError, match=r"one of the comparisons has groups"):
        whole.merge(kb.compare(base, other, labels))


def test_frames_hold_a_row_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    pd = pytest.importorskip("pandas")
    base, other, labels = pair(12, 5)
    frame = kb.compare(base, other, labels).to_frame()
    assert list(frame) == [*COLUMNS, "status"]
    assert isinstance(frame.index, pd.RangeIndex)
    cube = kb.compare(base.reshape(3, 4, 5), other.reshape(3, 4, 5), groups=np.arange(3)[:, None])
    frame = cube.to_frame()
    assert list(frame) == [*UNLABELLED, "status", "group"]
    assert frame.index.names == ["axis_0", "axis_1"]
    assert frame.loc[(2, 1), "kl"] == cube.kl[2, 1]
    assert frame.loc[(2, 1), "group"] == 2
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install 'kullback\[pandas\]'"):
        cube.to_frame()


# Words


def every_look() -> list[dict[str, Any]]:
    """Summaries of many magnitudes, with and without everything."""
    looks = []
    for noise in (1e-7, 1e-3, 1.0, 30.0):
        for dtype in (np.float32, np.float64):
            base, other, labels = pair(200, 20, dtype, noise)
            labels[:7] = -100
            looks.append(kb.compare(base, other, labels, groups=np.arange(200) // 10).summary())
            other[20, 3] = -np.inf
            looks.append(kb.compare(base, other, labels).summary())
            looks.append(kb.compare(base, base, labels).summary())
            looks.append(kb.compare(base, other, columns=["same_top", "tv"]).summary())
            looks.append(kb.compare(base[:1], other[:1], labels[:1]).summary())
            looks.append(kb.compare(base[100:101], other[100:101], labels[100:101]).summary())
    return looks


def as_json(summary: Any) -> Any:
    """What comes back from JSON, where a number that is not finite is null."""
    if isinstance(summary, dict):
        return {key: as_json(value) for key, value in summary.items()}
    return None if isinstance(summary, float) and not math.isfinite(summary) else summary


def test_every_summary_fits_a_terminal() -> None:
    for summary in every_look():
        rows = {name: number and 3_000_007 * number for name, number in summary["rows"].items()}
        long = {**summary, "rows": {**rows, "ignored": 21_000_000, "invalid": 2_000_000}}
        for look in (summary, long, {"top_k": None, "perplexity": None, "delta_p": None, **as_json(summary)}):
            text = render_text(look)
            assert max(map(len, text.split("\n"))) <= 80, text
            assert not re.search(r"[ \t]\n|\s$|nan|None", text), text
            for name, label in (("kl", "KL "), ("js", "JS "), ("same_top", "same top-1"), ("perplexity", "perplexity")):
                assert (name in summary) == (f"\n{label}" in text), text


def test_a_label_of_no_classes() -> None:
    nothing = np.empty((2, 0), np.float32)
    with pytest.raises(IndexError, match=r"label 0 of row 0 is out of range for 0 classes"):
        kb.compare(nothing, nothing, np.array([0, 0]), temperature=(1.0, 2.0))


def test_the_terminal_table() -> None:
    accumulator = kb.Accumulator()
    n = 1200
    at = (np.arange(n) + 0.5) / n
    columns = {
        "kl": 0.004 * at,
        "tv": at**4 / 1e5,
        "same_top": at < 0.9781,
        "nll_base": 1.8 + at,
        "nll_other": 1.8 + at + 0.0043 + 0.002 * np.cos(np.arange(n)),
        "delta_p": 0.04 * (at - 0.505),
    }
    status = np.where(np.arange(n) % 100 == 99, 1, 0)
    accumulator.update(columns, status, np.arange(n) // 20)
    assert render_text(accumulator.summary()).split("\n") == [
        "rows 1 200 · scored 1 188 · ignored 12 · invalid 0 · KL = inf 0 · nats",
        "",
        "                 mean ± error     median    90 %    95 %    99 %  99.9 %     max",
        "KL          0.00200 ± 0.00015    0.00200 0.00360 0.00380 0.00396 0.00399 0.00400",
        "TV             (2.0 ± 0.3)e-6    6.23e-7 6.53e-6 8.12e-6 9.56e-6 9.91e-6 9.95e-6",
        "same top-1   97.9 ± 1.7 %",
        "perplexity   10.0 ± 0.4 → 10.0 ± 0.4   correlation of ln p 100.0 %",
        "             ratio 1.004309 ± 1e-5   difference 0.0430 ± 0.0016",
        "Δp           mean -0.02 ± 0.15 %   RMS 1.15 ± 0.07 %",
        "             0.1 … 99.9 %: -2.01 … 1.97 %   range -2.02 … 1.98 %",
        "",
        "± standard errors, clustered by 60 groups",
    ]


def test_markdown_is_a_table() -> None:
    base, other, labels = pair(200, 20)
    both = kb.compare(base, other, labels)
    text = both._repr_markdown_()
    assert text == render_markdown(both.summary())
    rows = [line for line in text.split("\n") if line.startswith("| ")]
    wide = [line for line in rows if line.count("|") > 3]
    assert [line.split(" | ")[0] for line in wide] == [
        "| ", "| ---", "| KL(base‖other)", "| KL(other‖base)", "| JS", "| TV", "| Δp, %",
    ]  # fmt: skip
    assert {line.count("|") for line in wide} == {14}
    for summary in every_look():
        assert not re.search("nan|None", render_markdown(as_json(summary)))


class Balanced(HTMLParser):
    """Fails on a tag that is not closed in its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[int] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag != "br":
            self.open.append(tag)
        if tag == "tr":
            self.cells.append(0)
        if tag in ("td", "th"):
            self.cells[-1] += 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_is_well_formed() -> None:
    for summary in every_look():
        page = Balanced()
        page.feed(render_html(summary))
        assert page.open == []
        assert set(page.cells) <= {13, 2}
    base, other, _ = pair(10, 4)
    both = kb.compare(base, other)
    assert both._repr_html_().startswith(render_html(both.summary()))


def test_a_histogram_is_mentioned() -> None:
    base, other, _ = pair(3000, 4)
    both = kb.compare(base, other)
    accumulator = kb.Accumulator(both, expected_rows=EXACT_ROWS + 1)
    accumulator.update(both, both.status)
    accumulator.update(both, both.status)
    words = r"percentiles from a histogram, their ranks off by [0-9.e-]+ % at most"
    assert re.search(words, render_text(accumulator.summary()))
    assert not re.search(words, repr(both))


def test_bfloat16_needs_no_import_of_its_package_by_the_user() -> None:
    base, other, _ = pair(20, 6)
    single = kb.compare(base.astype(ml_dtypes.bfloat16), other.astype(ml_dtypes.bfloat16))
    assert single.kl.dtype == np.float32


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_no_column_exceeds_what_there_can_be(dtype: str) -> None:
    rng = np.random.default_rng(31)
    for classes in (2, 3, 10, 40, 3000):
        base = rng.standard_normal((200, classes)) * 60
        other = rng.standard_normal((200, classes)) * 60
        other[::2] = np.where(base[::2] > 0, -np.inf, other[::2])
        base[::2] = np.where(base[::2] > 0, base[::2], -np.inf)
        both = kb.compare(base.astype(dtype), other.astype(dtype))
        known = ~np.isnan(both.js)
        assert (both.js[known].astype("f8") <= np.log(2.0)).all()
        assert (both.js[::2][known[::2]].astype("f8") > np.log(2.0) - 1e-7).all()
        assert (both.tv[known] <= 1).all() and (both.kl[known] >= 0).all() and (both.kl_reverse[known] >= 0).all()


@pytest.mark.parametrize(("dtype", "most"), [("f4", 3e38), ("f8", 1e308)])
def test_rows_at_the_ends_of_the_range(dtype: str, most: float) -> None:
    base = np.array([[1, -1, 0], [0.3, 0.3, -0.3], [0, 0, 0], [0.5, -1, 0.5]]) * most
    other = np.array([[-1, 1, 0.1], [0.3, 0.29, 0.9], [1, 2, 0.5], [0.5, 0.1, 0.5]]) * (most / 2)
    base, other = base.astype(dtype), other.astype(dtype)
    labels = np.array([0, 1, 2, 0])
    both = kb.compare(base, other, labels)
    tolerance = 1e-6 if dtype == "f4" else 1e-13
    for name, expected in {
        "kl": kb.kl_divergence(base, other, given="logits"),
        "kl_reverse": kb.kl_divergence(other, base, given="logits"),
        "js": kb.js_divergence(base, other, given="logits"),
        "entropy_base": kb.entropy(base, given="logits"),
        "entropy_other": kb.entropy(other, given="logits"),
        "cross_entropy": kb.cross_entropy(base, other, given="logits"),
        "nll_base": kb.nll(base, labels, given="logits"),
        "nll_other": kb.nll(other, labels, given="logits"),
    }.items():
        np.testing.assert_allclose(both[name], expected, rtol=tolerance, err_msg=name)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("first", [-1e9, -3e38, 3e38, -np.inf])
@pytest.mark.parametrize("masked", [False, True])
def test_a_first_class_far_away_costs_no_digits_at_two_temperatures(first: float, masked: bool, dtype: str) -> None:
    rng = np.random.default_rng(37)
    base, other = rng.normal(0, 3, (2, 40, 20)).astype(dtype)
    base[:, 0] = other[:, 0] = first
    other[::3] = base[::3]
    labels = rng.integers(1 if masked or first < 0 else 0, 20, 40)
    where = np.ones(20, bool)
    where[0] = not masked
    keywords = {"temperature": (1.0, 2.0), "where": where}
    both = kb.compare(base, other, labels, **keywords)
    # Temperatures do not move the largest.
    allowed = np.where(where, base, -np.inf).argmax(1) == np.where(where, other, -np.inf).argmax(1)
    np.testing.assert_array_equal(both.same_top, allowed)
    space = {"given": "logits", "where": where}
    for name, expected in {
        "kl": kb.kl_divergence(base, other, **space, temperature=(1.0, 2.0)),
        "js": kb.js_divergence(base, other, **space, temperature=(1.0, 2.0)),
        "entropy_base": kb.entropy(base, **space),
        "entropy_other": kb.entropy(other, **space, temperature=2.0),
        "cross_entropy": kb.cross_entropy(base, other, **space, temperature=(1.0, 2.0)),
        "nll_base": kb.nll(base, labels, **space),
        "nll_other": kb.nll(other, labels, **space, temperature=2.0),
    }.items():
        np.testing.assert_allclose(both[name], expected, rtol=1e-6 if dtype == "f4" else 1e-12, err_msg=name)


def test_a_row_beyond_the_range_at_two_temperatures() -> None:
    base = np.array([[-1e308, 1e308, 0.0], [1.0, 2.0, 3.0]])
    both = kb.compare(base, base, np.array([1, 2]), temperature=(1.0, 2.0))
    assert both.nll_base[0] == both.nll_other[0] == both.kl[0] == both.delta_p[0] == 0
    assert both.same_top.tolist() == [True, True]
