"""Layout, dtype, broadcasting and masks choose how a row is read, never what comes out: all is bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kullback as kb
import numpy as np
import pytest
from arrays import DTYPES, INTEGERS, awkward, generator, matrix
from cases import CASES, PAIRED, Case, assert_same_bits, bits
from hypothesis import given as hypothesis_given
from hypothesis import settings
from hypothesis import strategies as st
from reference import LINEAR, SPACES

pytestmark = pytest.mark.usefixtures("level")

# Lengths around the vectors and blocks, and numbers of rows around the tiles of the driver that goes across rows.
SHAPES = [(1, 1), (1, 17), (2, 3), (5, 16), (16, 2), (17, 7), (33, 65), (40, 100), (130, 10), (3, 2049), (0, 4), (4, 0)]


def labels_for(n: int, c: int) -> np.ndarray:
    return generator("labels", n, c).integers(0, max(c, 1), n)


def frozen(*arrays: np.ndarray) -> list[tuple[np.ndarray, bytes]]:
    """What must not change during a call."""
    return [(x, x.tobytes()) for x in arrays]


def assert_unmodified(before: list[tuple[np.ndarray, bytes]], *what: Any) -> None:
    for x, content in before:
        assert x.tobytes() == content, (*what, "was modified")


def compare_layouts(case: Case, p: np.ndarray, q: np.ndarray, **keywords: Any) -> None:
    """Each layout of each argument against the contiguous copies."""
    n, c = p.shape
    if case.labels and c == 0:
        return
    labels = labels_for(n, c)
    expected = case(p, q, labels=labels, **keywords)
    for which in range(case.rows):
        for name, layout in awkward((p, q)[which]):
            rows = (layout, q) if which == 0 else (p, layout)
            before = frozen(*rows)
            got = case(*rows, labels=labels, **keywords)
            assert_same_bits(got, expected, case, name, (p, q)[which].dtype, p.shape, keywords)
            assert_unmodified(before, case, name)
    if case.rows == 2:
        others = dict(awkward(q))
        for name, one in awkward(p):
            if name in others:
                assert_same_bits(case(one, others[name], **keywords), expected, case, "both", name, p.dtype, p.shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_layout_gives_what_its_contiguous_copy_gives(
    case: Case, dtype: str, space: str, shape: tuple[int, int]
) -> None:
    p, q = (matrix(max(shape[0], 1), max(shape[1], 1), space, dtype, seed)[: shape[0], : shape[1]] for seed in (0, 1))
    compare_layouts(case, np.ascontiguousarray(p), np.ascontiguousarray(q), given=space)


@pytest.mark.parametrize("name", ["f2", "bf16"])
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("shape", [(1, 17), (17, 7), (20, 100)], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_half_precision_is_widened_where_it_is_read(case: Case, shape: tuple[int, int], space: str, name: str) -> None:
    p, q = (matrix(*shape, space, DTYPES[name], seed) for seed in (0, 1))
    compare_layouts(case, p, q, given=space)
    # The same numbers in f32 (whose tolerance of a row's sum is narrower: read them as counts or logits).
    wide = {"probs": "counts", "log_probs": "logits"}.get(space, space)
    labels = labels_for(*shape)
    got = case(p, q, labels=labels, given=space)
    assert_same_bits(got, case(p.astype(np.float32), q.astype(np.float32), labels=labels, given=wide), case, name)


@pytest.mark.parametrize("integer", [*INTEGERS, "?"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_integers_are_converted_exactly(case: Case, integer: str) -> None:
    rng = generator("integers", integer)
    info = np.iinfo(integer) if integer != "?" else None
    top = 2 if info is None else min(int(info.max), 1 << 40)
    for shape in ((3, 2), (17, 33)):
        p, q = (rng.integers(0, top, shape).astype(integer) for _ in range(2))
        p[:, 0] = q[:, 0] = 1
        compare_layouts(case, p, q, given="counts")
        labels = labels_for(*shape)
        wide = case(p.astype(np.float64), q.astype(np.float64), labels=labels, given="counts")
        assert_same_bits(case(p, q, labels=labels, given="counts"), wide, case, integer)
        if info is not None and info.min < 0:
            x, y = ((z - z // 2 * 2 * (z % 3)).astype(integer) for z in (p, q))
            got = case(x, y, labels=labels, given="logits")
            assert_same_bits(got, case(x.astype("f8"), y.astype("f8"), labels=labels, given="logits"), case, integer)


def test_the_largest_integers_keep_their_sign() -> None:
    x = np.array([[2**64 - 1, 2**64 - 1, 2**63]], np.uint64)
    assert_same_bits(kb.entropy(x, given="counts"), kb.entropy(x.astype(np.float64), given="counts"))
    x = np.array([[-(2**63), 2**63 - 1]], np.int64)
    assert_same_bits(kb.entropy(x, given="logits"), kb.entropy(x.astype(np.float64), given="logits"))


def test_zero_strides(space: str = "logits") -> None:
    row, column = matrix(1, 33, space), matrix(40, 1, space)
    for view in (
        np.broadcast_to(row, (40, 33)),
        np.broadcast_to(column, (40, 33)),
        np.broadcast_to(row[0, 0], (40, 33)),
    ):
        for case in CASES:
            labels = labels_for(40, 33)
            expected = case(view.copy(), view.copy(), labels=labels, given=space)
            assert_same_bits(case(view, view, labels=labels, given=space), expected, case, view.strides)
            if case.rows == 2:
                other = matrix(40, 33, space, seed=3)
                assert_same_bits(case(view, other, given=space), case(view.copy(), other, given=space), case)
                assert_same_bits(case(other, view, given=space), case(other, view.copy(), given=space), case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_memory_maps(case: Case, tmp_path: Path) -> None:
    x = matrix(50, 33, "logits")
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    labels = labels_for(50, 33)
    got = case(mapped, mapped, labels=labels, given="logits")
    assert type(got) is np.ndarray
    assert_same_bits(got, case(x, x, labels=labels, given="logits"))


# ------------------------------------------------------------------------------------------------------ axes and shapes


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_axis_may_be_anywhere(case: Case, space: str) -> None:
    base = [matrix(6 * 5, 17, space, seed=seed).reshape(6, 5, 17) for seed in (0, 1)]
    labels = labels_for(30, 17).reshape(6, 5)
    expected = case(*base, labels=labels, given=space)
    assert expected.shape == (6, 5)
    for position in (0, 1, 2, -1, -2, -3):
        moved = [np.moveaxis(x, -1, position) for x in base]
        for rows in (moved, [np.ascontiguousarray(x) for x in moved], [np.asfortranarray(x) for x in moved]):
            assert_same_bits(case(*rows, labels=labels, given=space, axis=position), expected, case, position)
            kept = case(*rows, labels=labels, given=space, axis=position, keepdims=True)
            assert_same_bits(kept, np.expand_dims(expected, position), case, position, "keepdims")


# Classes on the middle axis, as images have them: rows are neighbours on the last one, of lengths around the tiles and
# the batches, or on none long enough to fill a tile.
INNER = [(3, 5, 7), (2, 19, 130), (2, 19, 64), (5, 10, 10), (2, 130, 33), (2, 150, 300), (3, 129, 16), (2, 2100, 18)]


@pytest.mark.parametrize("shape", INNER, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows_that_are_neighbours_on_an_inner_axis(case: Case, dtype: str, shape: tuple[int, int, int]) -> None:
    n, c, m = shape
    flat = [matrix(n * m, c, "logits", DTYPES[dtype], seed=seed) for seed in (0, 1)]
    labels = labels_for(n * m, c)
    inner = [np.ascontiguousarray(x.reshape(n, m, c).transpose(0, 2, 1)) for x in flat]
    inner_labels = labels.reshape(n, m)
    expected = case(*flat, labels=labels, given="logits").reshape(n, m)
    assert_same_bits(case(*inner, labels=inner_labels, given="logits", axis=1), expected, case, dtype, shape)
    # One operand lies so, the other class by class; or one row serves all.
    mixed = [inner[0], flat[1].reshape(n, m, c).transpose(0, 2, 1)]
    assert_same_bits(case(*mixed, labels=inner_labels, given="logits", axis=1), expected, case, dtype, "mixed")
    one = [inner[0], np.broadcast_to(flat[1][:1].reshape(1, c, 1), inner[0].shape)]
    alone = case(flat[0], flat[1][:1], labels=labels, given="logits").reshape(n, m) if case.rows == 2 else expected
    assert_same_bits(case(*one, labels=inner_labels, given="logits", axis=1), alone, case, dtype, "one")
    # Rows left out, so that those that count are no neighbours.
    some = generator("inner", n, m).random((n, m)) < 0.7
    got = case(*inner, labels=inner_labels, given="logits", axis=1, rows=some)
    assert_same_bits(got, np.where(some, expected, np.nan), case, dtype, "some")
    mask = generator("mask", n, c, m).random((n, m, c)) < 0.8
    got = case(*inner, labels=inner_labels, given="logits", axis=1, where=mask.transpose(0, 2, 1))
    masked = case(*flat, labels=labels, given="logits", where=mask.reshape(n * m, c)).reshape(n, m)
    assert_same_bits(got, masked, case, dtype, "masked")


@pytest.mark.parametrize("c", [2, 3, 8, 12])
def test_rows_of_overlapping_windows(c: int) -> None:
    """Every c-th row: where each follows the last without a gap, though the array ends soon after."""
    x = np.lib.stride_tricks.sliding_window_view(matrix(1, 121 + c, "logits")[0], c)
    some = np.zeros(len(x), bool)
    some[::c] = True
    for case in CASES:
        labels = labels_for(len(x), c)
        expected = case(np.ascontiguousarray(x), x[::-1], labels=labels, given="logits")
        got = case(x, x[::-1], labels=labels, given="logits", rows=some)
        assert_same_bits(got, np.where(some, expected, np.nan), case)


@hypothesis_given(st.data())
@settings(max_examples=60, deadline=None)
def test_rows_of_any_axes_and_strides(data: st.DataObject) -> None:
    lengths = st.sampled_from([1, 2, 3, 7, 16, 17, 33, 64, 65, 130, 150])
    shape = data.draw(st.lists(lengths, min_size=2, max_size=4).filter(lambda s: np.prod(s) < 60_000))
    axis = data.draw(st.integers(0, len(shape) - 1))
    case = data.draw(st.sampled_from(CASES))
    dtype = DTYPES[data.draw(st.sampled_from(list(DTYPES)))]
    random = generator("any", shape, axis)
    rows = []
    for _ in range(2):
        # Axes in any order of memory, backwards, and with gaps between them.
        order = data.draw(st.permutations(range(len(shape))))
        gaps = [data.draw(st.sampled_from([0, 0, 1])) for _ in shape]
        steps = tuple(slice(None, None, data.draw(st.sampled_from([1, 1, -1]))) for _ in shape)
        room = random.normal(size=[shape[i] + gaps[i] for i in order]).astype(dtype).transpose(np.argsort(order))
        rows.append(room[tuple(slice(n) for n in shape)][steps])
    lead = tuple(np.delete(shape, axis))
    c = shape[axis]
    labels = random.integers(0, c, lead)
    got = case(*rows, labels=labels, given="logits", axis=axis)
    flat = [np.ascontiguousarray(np.moveaxis(x, axis, -1)).reshape(-1, c) for x in rows]
    assert_same_bits(np.reshape(got, lead), case(*flat, labels=labels.reshape(-1), given="logits").reshape(lead), case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_many_axes(case: Case) -> None:
    base = [matrix(2 * 3 * 4 * 5, 7, "logits", seed=seed).reshape(2, 3, 4, 5, 7) for seed in (0, 1)]
    labels = labels_for(120, 7).reshape(2, 3, 4, 5)
    expected = case(*(x.reshape(-1, 7) for x in base), labels=labels.reshape(-1), given="logits").reshape(2, 3, 4, 5)
    assert_same_bits(case(*base, labels=labels, given="logits"), expected)
    order = (3, 1, 0, 2)
    shuffled = [x.transpose(*order, 4) for x in base]
    got = case(*shuffled, labels=labels.transpose(order), given="logits")
    assert_same_bits(got, expected.transpose(order))
    sliced = [x[::-1, :, ::2, 1:4] for x in base]
    got = case(*sliced, labels=labels[::-1, :, ::2, 1:4], given="logits")
    assert_same_bits(got, expected[::-1, :, ::2, 1:4])


def test_a_single_row_is_a_scalar() -> None:
    for case in CASES:
        for dtype in ("f4", "f8"):
            x = matrix(1, 9, "probs", dtype)[0]
            got = case(x, x, labels=np.int64(3))
            assert isinstance(got, np.dtype(dtype).type), (case, type(got))
            assert_same_bits(got, case(x[None], x[None], labels=np.array([3]))[0])
            kept = case(x, x, labels=np.int64(3), keepdims=True)
            assert isinstance(kept, np.ndarray) and kept.shape == (1,)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((40, 33), (33,)),
        ((33,), (40, 33)),
        ((40, 33), (1, 33)),
        ((1, 33), (40, 33)),
        ((5, 1, 33), (8, 33)),
        ((5, 1, 33), (1, 8, 33)),
        ((5, 8, 33), (8, 33)),
        ((1, 1, 33), (5, 8, 33)),
        ((2, 1, 4, 33), (3, 1, 33)),
        ((0, 33), (1, 33)),
        ((0, 33), (33,)),
        ((5, 0, 33), (5, 1, 33)),
    ],
    ids=str,
)
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("case", PAIRED, ids=str)
def test_leading_axes_broadcast(case: Case, space: str, one: tuple[int, ...], other: tuple[int, ...]) -> None:
    p = matrix(int(np.prod(one[:-1])), 33, space).reshape(one)
    q = matrix(int(np.prod(other[:-1])), 33, space, seed=1).reshape(other)
    full = np.broadcast_arrays(p, q)
    expected = case(*(np.ascontiguousarray(x) for x in full), given=space)
    assert_same_bits(case(p, q, given=space), expected)
    assert_same_bits(case(np.asfortranarray(p), np.asfortranarray(q), given=space), expected)
    assert_same_bits(case(*full, given=space), expected)


@pytest.mark.parametrize("case", PAIRED, ids=str)
def test_rows_down_the_columns_broadcast(case: Case) -> None:
    p, q = matrix(40, 33, "logits"), matrix(1, 33, "logits", seed=1)
    expected = case(p, q, given="logits")
    for order in ("C", "F"):
        columns = [np.asarray(x.T, order=order) for x in (p, q)]
        assert_same_bits(case(*columns, given="logits", axis=0), expected, order)
        assert_same_bits(case(*columns, given="logits", axis=-2), expected, order)


@pytest.mark.parametrize("given", [("probs", "logits"), ("log_probs", "counts"), ("logits", "probs")], ids=str)
@pytest.mark.parametrize("case", PAIRED, ids=str)
def test_layouts_of_mixed_pairs(case: Case, given: tuple[str, str]) -> None:
    p, q = (matrix(20, 17, space, seed=i) for i, space in enumerate(given))
    compare_layouts(case, p, q, given=given)


@pytest.mark.parametrize(("one", "other"), [("f4", "f8"), ("f2", "f4"), ("i2", "f8"), ("bf16", "f4")], ids=str)
@pytest.mark.parametrize("case", PAIRED, ids=str)
def test_layouts_of_two_dtypes(case: Case, one: str, other: str) -> None:
    p, q = (matrix(20, 17, "counts", "f8", i).astype(DTYPES.get(d, d)) for i, d in enumerate((one, other)))
    p[:, 0] = q[:, 0] = 1
    compare_layouts(case, p, q, given="counts")


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize(
    ("given", "temperature"),
    [
        ("logits", (0.7, 3.0)),
        ("logits", (1.0, 0.5)),
        (("probs", "logits"), (1.0, 0.7)),
        (("logits", "counts"), (3.0, 1.0)),
    ],
    ids=str,
)
@pytest.mark.parametrize("case", PAIRED, ids=str)
def test_layouts_at_two_temperatures(case: Case, given: Any, temperature: tuple[float, float], dtype: str) -> None:
    """Logits are then staged less the first of their row: of whole tiles of rows in columns, too."""
    spaces = given if isinstance(given, tuple) else (given, given)
    for shape in ((20, 17), (33, 3), (20, 200)):
        p, q = (matrix(*shape, space, DTYPES[dtype], seed=i) for i, space in enumerate(spaces))
        compare_layouts(case, p, q, given=given, temperature=temperature)


@settings(max_examples=60)
@hypothesis_given(data=st.data())
def test_any_view(data: st.DataObject) -> None:
    """Slices with any step, transposes and broadcasts of one block of memory."""
    block = matrix(24, 24, "logits", seed=9).reshape(6, 4, 24)
    view = block.transpose(data.draw(st.permutations((0, 1, 2))))
    slices = []
    for length in view.shape:
        start, stop = sorted(data.draw(st.tuples(st.integers(0, length), st.integers(0, length))))
        step = data.draw(st.sampled_from((1, 1, 2, 3, -1, -2)))
        slices.append(slice(start, stop, step) if step > 0 else slice(stop - 1, start - 1 if start else None, step))
    view = view[tuple(slices)] if all(s.stop != s.start for s in slices) else view
    axis = data.draw(st.integers(-3, 2))
    case = data.draw(st.sampled_from([case for case in CASES if not case.labels]))
    order = data.draw(st.sampled_from("CF"))
    expected = case(view.copy(order=order), view[...].copy(), given="logits", axis=axis)
    assert_same_bits(case(view, view, given="logits", axis=axis), expected, case, view.strides, axis)
    assert_same_bits(case(view, view.copy(), given="logits", axis=axis), expected, case, view.strides, axis)


# ---------------------------------------------------------------------------------------------------------------- masks


def absent(given: str) -> float:
    """What a class without mass looks like."""
    return 0.0 if given in LINEAR else -np.inf


def unchecked(given: str) -> str:
    """The space with the same formula whose rows may have any total."""
    return {"probs": "counts", "log_probs": "logits"}.get(given, given)


@pytest.mark.parametrize("shape", [(1, 2), (5, 3), (17, 16), (20, 65), (40, 100), (2, 4097)], ids=str)
@pytest.mark.parametrize("dtype", ["f4", "f8", "bf16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_masked_class_is_a_class_without_mass_bit_for_bit(case: Case, dtype: str, shape: tuple[int, int]) -> None:
    n, c = shape
    rng = generator("mask", shape)
    masks = {
        "one class": np.arange(c) != c // 2,
        "the first": np.arange(c) > 0,
        "the last": np.arange(c) < c - 1,
        "half": rng.random(c) < 0.5,
        "every row its own": rng.random(shape) < 0.7,
        "one row": (rng.random(shape) < 0.7) | (np.arange(n) != n // 2)[:, None],
        "none": np.ones(c, bool),
        "all": np.zeros(c, bool),
        "all of one row": np.broadcast_to((np.arange(n) != n - 1)[:, None], shape),
    }
    labels = labels_for(n, c)
    for space in SPACES:
        p, q = (matrix(n, c, space, DTYPES[dtype], seed) for seed in (0, 1))
        for name, mask in masks.items():
            # What is masked is not looked at, not even when it is no number.
            hidden = [np.where(mask, x, np.asarray(np.nan, x.dtype)).astype(x.dtype) for x in (p, q)]
            plain = [np.where(mask, x, np.asarray(absent(space), x.dtype)).astype(x.dtype) for x in (p, q)]
            expected = case(*plain, labels=labels, given=unchecked(space))
            for rows in ((p, q), hidden, [np.asfortranarray(x) for x in hidden]):
                got = case(*rows, labels=labels, given=space, where=mask)
                assert_same_bits(got, expected, case, space, name)
            order = np.asfortranarray(mask) if mask.ndim == 2 else mask[::-1].copy()[::-1]
            assert_same_bits(case(p, q, labels=labels, given=space, where=order), expected, case, space, name, "layout")


@pytest.mark.parametrize("case", PAIRED, ids=str)
@pytest.mark.parametrize("given", [("probs", "logits"), ("log_probs", "counts"), ("logits", "log_probs")], ids=str)
def test_masks_of_mixed_pairs(case: Case, given: tuple[str, str]) -> None:
    mask = generator("mixed").random((9, 33)) < 0.6
    p, q = (matrix(9, 33, space, seed=i) for i, space in enumerate(given))
    plain = [np.where(mask, x, np.float32(absent(space))) for x, space in zip((p, q), given, strict=True)]
    expected = case(*plain, given=(unchecked(given[0]), unchecked(given[1])))
    assert_same_bits(case(p, q, given=given, where=mask), expected)


def test_a_mask_hides_what_would_be_refused() -> None:
    mask = np.array([True, True, False])
    for case in CASES:
        for bad in (-1.0, np.inf, -np.inf, np.nan):
            x = np.array([[0.25, 0.75, bad]])
            assert_same_bits(
                case(x, x, labels=np.array([0]), where=mask),
                case(np.array([[0.25, 0.75, 0]]), np.array([[0.25, 0.75, 0]]), labels=np.array([0])),
            )
            assert np.isnan(case(x, x, labels=np.array([0]), on_invalid="nan")[0])


def test_a_masked_label_has_no_mass() -> None:
    q = matrix(3, 5, "logits")
    got = kb.nll(q, np.array([0, 1, 2]), given="logits", where=np.arange(5) != 1)
    assert got[1] == np.inf and np.isfinite(got[[0, 2]]).all()


def test_a_mask_along_another_axis_and_broadcast() -> None:
    x = matrix(12, 33, "counts").reshape(3, 4, 33)
    mask = generator("axis").random((3, 4, 33)) < 0.6
    for case in CASES:
        labels = labels_for(12, 33).reshape(3, 4)
        expected = case(x, x[:, ::-1], labels=labels, given="counts", where=mask)
        for axis in (0, 1):
            rows = [np.moveaxis(z, -1, axis) for z in (x, x[:, ::-1])]
            got = case(*rows, labels=labels, given="counts", axis=axis, where=np.moveaxis(mask, -1, axis))
            assert_same_bits(got, expected, case, axis)
            classes = mask[0, 0]
            got = case(*rows, labels=labels, given="counts", axis=axis, where=classes)
            assert_same_bits(got, case(x, x[:, ::-1], labels=labels, given="counts", where=classes), case, axis)
        # As many axes as p, some of them of length 1.
        for part in (mask[:1], mask[:, :1], mask[:1, :1]):
            got = case(x, x[:, ::-1], labels=labels, given="counts", where=part)
            full = np.broadcast_to(part, x.shape).copy()
            assert_same_bits(got, case(x, x[:, ::-1], labels=labels, given="counts", where=full), case)


def test_masked_classes_may_as_well_be_dropped() -> None:
    """To the bound, not to the bit."""
    p, q = matrix(20, 65, "logits"), matrix(20, 65, "logits", seed=1)
    mask = generator("drop").random(65) < 0.5
    for case in CASES:
        kept = [np.ascontiguousarray(x[:, mask]) for x in (p, q)]
        labels = np.flatnonzero(mask)[:20]
        got = case(p, q, labels=labels, given="logits", where=mask)
        expected = case(*kept, labels=np.arange(20), given="logits")
        np.testing.assert_allclose(got, expected, rtol=1.1e-6)


@pytest.mark.parametrize("shape", [(40,), (5, 8)], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows_that_do_not_count_are_not_read(case: Case, shape: tuple[int, ...]) -> None:
    p, q = (matrix(40, 33, "probs", seed=seed).reshape(*shape, 33) for seed in (0, 1))
    labels = labels_for(40, 33).reshape(shape)
    counting = generator("rows").random(shape) < 0.6
    whole = case(p, q, labels=labels)
    for bad in (np.nan, np.inf, -1.0):
        rows = [np.where(counting[..., None], x, np.float32(bad)) for x in (p, q)]
        targets = np.where(counting, labels, 1000)
        for one in (rows, [np.asfortranarray(x) for x in rows]):
            got = case(*one, labels=targets, rows=counting)
            assert np.isnan(got[~counting]).all()
            assert_same_bits(got[counting], whole[counting], case)
            for reduction in ("sum", "mean"):
                got = case(*one, labels=targets, rows=counting, reduction=reduction)
                kept = case(p[counting], q[counting], labels=labels[counting], reduction=reduction)
                np.testing.assert_allclose(got, kept, rtol=1.2e-7)
    nobody = np.zeros(shape, bool)
    assert np.isnan(case(p, q, labels=labels, rows=nobody)).all()
    assert case(p, q, labels=labels, rows=nobody, reduction="sum") == 0
    assert np.isnan(case(p, q, labels=labels, rows=nobody, reduction="mean"))
    assert_same_bits(case(p, q, labels=labels, rows=np.ones(shape, bool)), whole)


# ------------------------------------------------------------------------------------------------------------------ out


@pytest.mark.parametrize("case", CASES, ids=str)
def test_results_go_into_any_writeable_layout(case: Case) -> None:
    p, q = (matrix(20, 17, "logits", seed=seed).reshape(4, 5, 17) for seed in (0, 1))
    labels = labels_for(20, 17).reshape(4, 5)
    expected = case(p, q, labels=labels, given="logits")
    poison = np.float32(-7)
    for make in (
        lambda: np.full((4, 5), poison),
        lambda: np.full((5, 4), poison).T,
        lambda: np.full((8, 15), poison)[::2, ::3],
        lambda: np.full((4, 5), poison)[::-1],
        lambda: np.full((4, 5), poison)[:, ::-1],
        lambda: np.full((4, 5, 3), poison)[..., 1],
    ):
        out = make()
        base = out if out.base is None else out.base
        got = case(p, q, labels=labels, given="logits", out=out)
        assert got is out
        assert_same_bits(np.ascontiguousarray(out), expected, case, out.strides)
        # Nothing but the result was written.
        assert np.count_nonzero(base == poison) == base.size - out.size
    kept = np.full((4, 1, 5), poison)
    moved = [np.moveaxis(x, -1, 1) for x in (p, q)]
    assert case(*moved, labels=labels, given="logits", axis=1, keepdims=True, out=kept) is kept
    assert_same_bits(kept[:, 0], expected)
    zero = np.full((), poison)
    got = case(p[0, 0], q[0, 0], labels=labels[0, 0], given="logits", out=zero)
    assert got is zero and zero[()] == expected[0, 0]


def test_results_are_fresh_and_contiguous() -> None:
    x = matrix(20, 17, "probs")
    for case in CASES:
        got = case(x, x, labels=np.zeros(20, int))
        assert got.flags.c_contiguous and got.flags.writeable and got.flags.aligned
        assert not np.shares_memory(got, x)
        assert bits(got).shape == (20, 4)
