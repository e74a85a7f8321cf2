"""The table *Special input* of docs/numerics.md, cell by cell: every measure, space and place in the row.

The expected outcome of a cell is read from the document, so that the two cannot drift apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from arrays import from_log, generator
from cases import CASES, CROSS_ENTROPY, DIVERGENCES, NLL, PAIRED, Case, assert_same_bits, check, on_every_level
from kullback import _core
from reference import INF, LINEAR, SPACES

DOCUMENT = Path(__file__).parents[1] / "docs" / "numerics.md"
TOLERANCE = 1e-3
BAD = 3  # the special row among ordinary ones
ROWS = 5

# Rows whose lanes are rows (one tile) and rows of three blocks, and in each the first class, one in the middle, one in
# the last whole vector or block, and the last of all, which fills no vector.
PLACES = {19: (0, 7, 15, 18), 4133: (0, 1031, 4096, 4132)}


@lru_cache(maxsize=1)
def table() -> dict[str, dict[str, str]]:
    """What the document says: the outcome by kind of row and space."""
    text = DOCUMENT.read_text(encoding="utf-8")
    lines = text.split("\n## Special input\n", 1)[1].split("\n## ", 1)[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    head, _, *body = cells
    spaces = [name.strip('`"') for name in head[1:]]
    assert tuple(spaces) == SPACES
    return {row[0]: dict(zip(spaces, row[1:], strict=True)) for row in body}


class Row(NamedTuple):
    """A special row, the mask it comes with, and the row it must equal bit for bit where the table says so."""

    row: np.ndarray
    where: np.ndarray | None = None
    like: np.ndarray | None = None


def ordinary(n: int, classes: int, space: str, dtype: Any, seed: int) -> np.ndarray:
    """Rows with no special value, sums and log-sum-exps of probabilities within rounding of 1 and 0."""
    rng = generator("special", n, classes, seed)
    return from_log(rng.standard_normal((n, classes)), space, dtype, total=4.0 * classes)


def half_at(classes: int, column: int, space: str, total: float) -> np.ndarray:
    """Half of the mass in one class, the other half spread, and the whole off by what makes it `total`."""
    mass = np.full(classes, 0.5 / max(classes - 1, 1))
    mass[column] = total - (mass.sum() - mass[column])
    return mass if space in LINEAR else np.log(mass)


def absent(space: str) -> float:
    return 0.0 if space in LINEAR else -INF


# Each kind of row: from an ordinary row, its space, the place and a sign, the special one.
def with_value(value: float) -> Callable[..., Row]:
    def make(row: np.ndarray, _space: str, column: int, _sign: int) -> Row:
        special = row.copy()
        special[column] = value
        return Row(special)

    return make


def without_class(row: np.ndarray, space: str, column: int) -> np.ndarray:
    """The row with the mass of a class moved to the next one: the sum stays what it was."""
    new, other = row.copy(), (column + 1) % len(row)
    new[other] = row[other] + row[column] if space in LINEAR else np.logaddexp(row[other], row[column])
    new[column] = absent(space)
    return new


def with_minus_infinity(row: np.ndarray, space: str, column: int, _sign: int) -> Row:
    like = without_class(row, space, column)
    special = like.copy()
    special[column] = -INF
    return Row(special, like=like)


def with_minus_zero(row: np.ndarray, space: str, column: int, _sign: int) -> Row:
    """Among probabilities no mass, among their logarithms all of it."""
    like = np.full_like(row, -INF) if space == "log_probs" else without_class(row, space, column)
    like[column] = 0.0
    special = like.copy()
    special[column] = -0.0
    return Row(special, like=like)


def with_negative(row: np.ndarray, space: str, column: int, _sign: int) -> Row:
    """The sum stays what it was: the number itself must be seen."""
    special = row.copy()
    if space in LINEAR:
        taken = row.dtype.type(0.25)
        special[(column + 1) % len(row)] += special[column] + taken
        special[column] = -taken
    return Row(special)


def off_by(share: float) -> Callable[..., Row]:
    def make(row: np.ndarray, space: str, column: int, sign: int) -> Row:
        goal = np.exp(sign * share * TOLERANCE) if space not in LINEAR else 1 + sign * share * TOLERANCE
        return Row(half_at(len(row), column, space, float(goal)).astype(row.dtype))

    return make


def only(value: float) -> Callable[..., Row]:
    def make(row: np.ndarray, _space: str, _column: int, _sign: int) -> Row:
        return Row(np.full_like(row, value))

    return make


def masked(row: np.ndarray, _space: str, _column: int, _sign: int) -> Row:
    return Row(row.copy(), where=np.zeros(len(row), bool))


def hidden(value: float) -> Callable[..., Row]:
    """A special value under the mask: the row with no mass there."""

    def make(row: np.ndarray, space: str, column: int, _sign: int) -> Row:
        special, like, where = row.copy(), row.copy(), np.ones(len(row), bool)
        special[column], where[column] = value, False
        like[column] = absent(space)
        return Row(special, where, like)

    return make


KINDS: dict[str, list[Callable[..., Row]]] = {
    "a NaN": [with_value(np.nan), with_value(-np.nan)],
    "+inf": [with_value(INF)],
    "−inf": [with_minus_infinity],
    "−0.0": [with_minus_zero],
    "a negative number": [with_negative],
    "a sum (log-sum-exp) off by 0.9 × the tolerance": [off_by(0.9)],
    "a sum (log-sum-exp) off by 1.1 × the tolerance": [off_by(1.1)],
    "zeros only": [only(0.0), only(-0.0)],
    "−inf only": [only(-INF)],
    "any value under `where`": [hidden(np.nan), hidden(INF), hidden(-1.0)],
    "masked classes only": [masked],
}
SHAPES = ("no class", "one class")


def test_the_document_and_this_file_know_the_same_rows() -> None:
    assert list(table()) == [*KINDS, *SHAPES]
    outcomes = {outcome for row in table().values() for outcome in row.values()}
    assert outcomes == {"NaN", "error", "value", "as 0", "as −inf", "as without mass", "0"}


def outcome_of(kind: str, space: str) -> str:
    return table()[kind][space]


def special_rows(kind: str, space: str, dtype: Any) -> Iterator[tuple[str, int, int, Row, np.ndarray, np.ndarray]]:
    """Every special row of a kind, its column, which operand it replaces, and ordinary rows."""
    for classes, columns in PLACES.items():
        p, q = (ordinary(ROWS, classes, space, dtype, seed) for seed in (0, 1))
        for column in columns:
            for i, make in enumerate(KINDS[kind]):
                for sign in (1, -1) if "off by" in kind else (1,):
                    row = make(p[BAD], space, column, sign)
                    yield f"{classes} classes, column {column}, variant {i}, {sign:+d}", column, classes, row, p, q


def message_names(error: ValueError, case: Case, which: int, row: Row, column: int, space: str, kind: str) -> None:
    """The error names the argument, the row, the column or the sum, the value, what is accepted and the remedy."""
    text = str(error)
    name = case.arguments[which]
    assert text.startswith(f"{name}: row {BAD} "), text
    assert f'given="{space}" accepts' in text and 'on_invalid="nan"' in text, text
    if kind in ("+inf", "−inf", "a negative number", "−inf only"):
        at = 0 if kind == "−inf only" else column
        value = float(row.row[at])
        assert re.search(rf"\bcolumn {at} is {re.escape(f'{value:g}')}(,|\b)", text), text
        if value < 0 and space in LINEAR:
            assert 'given="log_probs" or given="logits"' in text, text
    elif space in LINEAR:
        total = float(re.search(r"sums to ([-+\d.e]+)", text)[1])  # type: ignore[index]
        assert total == pytest.approx(float(row.row.astype(np.float64).sum()), rel=1e-6), text
        assert f"within {TOLERANCE}" in text and 'given="counts"' in text, text
    else:
        found = float(re.search(r"log-sum-exp ([-+\d.e]+)", text)[1])  # type: ignore[index]
        assert found == pytest.approx(float(np.log(np.exp(row.row.astype(np.float64)).sum())), rel=1e-4), text
        assert f"within {TOLERANCE}" in text and 'given="logits"' in text, text


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_special_row(case: Case, kind: str, space: str, dtype: str) -> None:
    outcome = outcome_of(kind, space)
    for what, column, classes, special, p, q in special_rows(kind, space, dtype):
        # The label of the special row is the special class.
        labels = np.array([0, 1, classes - 1, column, 5])
        whole = case(p, q, labels=labels, given=space)
        for which in range(case.rows):
            rows = [p.copy(), q.copy()]
            rows[which][BAD] = special.row
            keywords: dict[str, Any] = {"given": space}
            if special.where is not None:
                keywords["where"] = np.ones((ROWS, classes), bool)
                keywords["where"][BAD] = special.where

            def compute(rows: Any = rows, labels: Any = labels, keywords: Any = keywords, **more: Any) -> Any:
                return case(*rows, labels=labels, **keywords, **more)

            about = (case, kind, space, what, which)
            if outcome == "error":
                before = _core.simd_level()
                for level in _core.simd_levels():
                    _core.set_simd_level(level)
                    with pytest.raises(ValueError) as caught:
                        compute()
                    message_names(caught.value, case, which, special, column, space, kind)
                _core.set_simd_level(before)
            lenient = on_every_level(lambda compute=compute: compute(on_invalid="nan"), *about)
            assert_same_bits(np.delete(lenient, BAD), np.delete(whole, BAD), *about)
            if outcome == "error":
                assert np.isnan(lenient[BAD]), about
                continue
            got = on_every_level(compute, *about)
            assert_same_bits(got, lenient, *about)
            if outcome == "NaN":
                assert_same_bits(got[BAD], np.asarray(np.nan, got.dtype)[()], *about)
                continue
            if special.like is not None:
                rows[which][BAD] = special.like
                if special.where is not None and case.rows == 2:
                    rows[1 - which][BAD, column] = absent(space)
                # What is left of a row need not sum to 1.
                keywords = {"given": {"probs": "counts", "log_probs": "logits"}.get(space, space)}
                assert_same_bits(case(*rows, labels=labels, **keywords)[BAD], got[BAD], *about)
            # The oracle takes 40 ms for a long row: of those, the ones whose last class is special.
            if classes == 19 or column == classes - 1:
                one = [x[BAD : BAD + 1] for x in rows]
                exact = case.exact(*one, labels=labels[BAD : BAD + 1], given=space)
                check(case, got[BAD : BAD + 1], exact, space, tuple(one), [str(about)])


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("case", [case for case in CASES if case is not NLL], ids=str)
def test_no_class(case: Case, space: str, dtype: str) -> None:
    assert outcome_of("no class", space) == "NaN"
    for rows in (1, ROWS, 40):
        p = np.empty((rows, 0), dtype)
        for mode in ("raise", "nan"):
            got = on_every_level(lambda p=p, mode=mode: case(p, p, given=space, on_invalid=mode), case, space)
            assert_same_bits(got, np.full(rows, np.nan, dtype), case, space)


def test_no_class_has_no_label() -> None:
    for space in SPACES:
        for mode in ("raise", "nan"):
            with pytest.raises(IndexError, match="label 0 of row 0 is out of range for 0 classes"):
                NLL(np.empty((2, 0)), labels=[0, 0], given=space, on_invalid=mode)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_class(case: Case, space: str, dtype: str) -> None:
    assert outcome_of("one class", space) == "0"
    one = {"probs": 1.0, "counts": 7.0, "log_probs": 0.0, "logits": -3.5}[space]
    for rows in (1, ROWS, 40):
        p = np.full((rows, 1), one, dtype)
        for mode in ("raise", "nan"):
            got = on_every_level(
                lambda p=p, mode=mode: case(p, p, labels=np.zeros(len(p), int), given=space, on_invalid=mode), case
            )
            assert_same_bits(got, np.zeros(rows, dtype), case, space)


@pytest.mark.parametrize("given", [g for g in PAIRED[0].spaces() if g[0] != g[1]], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", PAIRED, ids=str)
def test_each_row_of_a_mixed_pair_by_its_own_column_of_the_table(case: Case, kind: str, given: tuple[str, str]) -> None:
    p, q = (ordinary(ROWS, 19, space, "f4", seed) for seed, space in enumerate(given))
    whole = case(p, q, given=given)
    for which, space in enumerate(given):
        outcome = outcome_of(kind, space)
        for make in KINDS[kind]:
            special = make((p, q)[which][BAD], space, 7, 1)
            rows = [p.copy(), q.copy()]
            rows[which][BAD] = special.row
            keywords: dict[str, Any] = {"given": given}
            if special.where is not None:
                keywords["where"] = np.ones((ROWS, 19), bool)
                keywords["where"][BAD] = special.where
            about = (case, kind, given, which)
            if outcome == "error":
                with pytest.raises(ValueError) as caught:
                    case(*rows, **keywords)
                message_names(caught.value, case, which, special, 7, space, kind)
            got = on_every_level(lambda r=rows, k=keywords: case(*r, on_invalid="nan", **k), *about)
            assert_same_bits(np.delete(got, BAD), np.delete(whole, BAD), *about)
            if outcome in ("error", "NaN"):
                assert np.isnan(got[BAD]), about
                continue
            if special.like is not None:
                rows[which][BAD] = special.like
                if special.where is not None:
                    rows[1 - which][BAD, 7] = absent(given[1 - which])
            one = [x[BAD : BAD + 1] for x in rows]
            check(case, got[BAD : BAD + 1], case.exact(*one, given=given), given, tuple(one), [str(about)])


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("space", SPACES)
def test_a_nan_outweighs_what_else_is_wrong_with_its_row(space: str, dtype: str) -> None:
    """NaN is no error in either mode, wherever the row also holds what is."""
    for classes, columns in PLACES.items():
        p, q = (ordinary(ROWS, classes, space, dtype, seed) for seed in (0, 1))
        for column in columns:
            for which in (0, 1):
                rows = [p.copy(), q.copy()]
                rows[which][BAD, [column, (column + 2) % classes]] = np.nan, INF
                for case in (CROSS_ENTROPY, *DIVERGENCES):
                    got = on_every_level(lambda case=case, rows=rows: case(*rows, given=space), case, space, column)
                    assert np.array_equal(np.isnan(got), np.arange(ROWS) == BAD)
