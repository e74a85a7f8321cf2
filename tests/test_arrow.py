"""Arrow by its capsules, and what has buffers: bits of the contiguous copy, and no copy where none is needed."""

from __future__ import annotations

import array
import itertools
import mmap
import tracemalloc
from pathlib import Path
from typing import Any

import kullback as kb
import ml_dtypes
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from arrays import generator, matrix
from hypothesis import given
from hypothesis import strategies as st
from kullback import _core

TYPES = {np.float64: pa.float64(), np.float32: pa.float32(), np.float16: pa.float16(), np.int32: pa.int32()}


class Capsules:
    """Only the capsules of an object: what a library that we have never heard of offers."""

    def __init__(self, inner: Any) -> None:
        for name in ("__arrow_c_array__", "__arrow_c_stream__"):
            if hasattr(inner, name):
                setattr(self, name, getattr(inner, name))


def lists(rows: np.ndarray, kind: str) -> Any:
    """The rows in one of Arrow's forms."""
    flat = pa.array(rows.reshape(-1))
    width = rows.shape[1]
    fixed = pa.FixedSizeListArray.from_arrays(flat, width)
    match kind:
        case "fixed":
            return fixed
        case "fixed, sliced":
            padded = np.concatenate([rows[:2], rows, rows[:3]])
            return pa.FixedSizeListArray.from_arrays(pa.array(padded.reshape(-1)), width)[2 : 2 + len(rows)]
        case "list":
            return fixed.cast(pa.list_(flat.type))
        case "list, sliced":
            padded = np.concatenate([rows[:2], rows, rows[:3]])
            whole = pa.FixedSizeListArray.from_arrays(pa.array(padded.reshape(-1)), width)
            return whole.cast(pa.list_(flat.type))[2 : 2 + len(rows)]
        case "large list":
            return fixed.cast(pa.large_list(flat.type))
        case "chunks":
            return pa.chunked_array([fixed[:3], fixed[3:3], fixed[3:]])
        case "list column":
            return pa.table({"p": fixed})
        case "columns":
            return pa.record_batch({f"c{i}": np.ascontiguousarray(rows[:, i]) for i in range(width)})
        case "columns, sliced":
            batch = pa.record_batch({f"c{i}": np.append(rows[:1, i], rows[:, i]) for i in range(width)})
            return batch[1:]
        case "columns in chunks":
            table = lists(rows, "columns")
            return pa.Table.from_batches([table[:5], table[5:]])
    raise AssertionError(kind)


ALONG = ("fixed", "fixed, sliced", "list", "list, sliced", "large list", "list column")
STAGED = ("chunks", "columns", "columns, sliced", "columns in chunks")


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", [*ALONG, *STAGED])
def test_bits_are_those_of_the_contiguous_copy(kind: str, dtype: type) -> None:
    p, q = (matrix(41, 6, "counts", np.float64, seed=seed).astype(dtype) for seed in (1, 2))
    held = Capsules(lists(p, kind))
    result = kb.entropy(held, given="counts")
    assert type(result) is np.ndarray
    assert result.tobytes() == kb.entropy(p, given="counts").tobytes()
    for other in (q, Capsules(lists(q, "fixed"))):
        assert (
            kb.kl_divergence(held, other, given="counts").tobytes() == kb.kl_divergence(p, q, given="counts").tobytes()
        )
    labels = generator("labels").integers(0, 6, 41)
    expected = kb.nll(p, labels, given="counts")
    assert kb.nll(held, Capsules(pa.array(labels)), given="counts").tobytes() == expected.tobytes()
    both = kb.compare(held, q, pa.array(labels), given="counts")
    assert both.kl.tobytes() == kb.compare(p, q, labels, given="counts").kl.tobytes()


def pieces(p: np.ndarray, kind: str) -> Any:
    """Rows of which a few megabytes do not lie in one array."""
    cuts = sorted([0, 1, 1, 5, 3000, 3001, len(p) // 2, len(p)])
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(p.reshape(-1)), p.shape[1])
    parts = [fixed[a:b] for a, b in itertools.pairwise(cuts)]
    match kind:
        case "chunks":
            return pa.chunked_array(parts)
        case "list chunks":
            return pa.chunked_array([part.cast(pa.list_(parts[0].type.value_type)) for part in parts])
        case "polars chunks":
            return pl.concat([pl.Series("p", p[a:b]) for a, b in itertools.pairwise(cuts)], rechunk=False)
        case "columns":
            return pa.table({f"c{i}": p[:, i] for i in range(p.shape[1])})
        case "columns in chunks":
            table = pieces(p, "columns")
            return pa.concat_tables([table[a:b] for a, b in itertools.pairwise(cuts)])
        case "frame of blocks":
            return pd.concat([pd.DataFrame({f"c{i}": p[:, i]}) for i in range(p.shape[1])], axis=1)
        case "nullable frame":
            return pd.DataFrame(p).astype("Float32" if p.dtype == np.float32 else "Float64")
    raise AssertionError(kind)


PIECES = ("chunks", "list chunks", "polars chunks", "columns", "columns in chunks", "frame of blocks", "nullable frame")


def plain(result: Any) -> np.ndarray:
    return np.asarray(result.to_numpy() if hasattr(result, "to_numpy") else result)


@pytest.mark.parametrize("kind", PIECES)
@pytest.mark.parametrize(("dtype", "classes"), [(np.float32, 40), (np.float64, 300)])
def test_pieces_give_the_bits_of_the_whole(kind: str, dtype: type, classes: int) -> None:
    rows = 30_011 if classes == 40 else 4001
    p, q = (matrix(rows, classes, "probs", np.float64, seed=seed).astype(dtype) for seed in (1, 2))
    held = pieces(p, kind)
    rng = generator(kind)
    labels, counted = rng.integers(0, classes, rows), rng.random(rows) < 0.7
    some = rng.random((rows, classes)) < 0.9
    some[:, 3] = True
    for call in (
        lambda x: kb.entropy(x),
        lambda x: kb.entropy(x, rows=counted, base=2),
        lambda x: kb.entropy(x, where=some),
        lambda x: kb.entropy(x, where=some[0]),
        lambda x: kb.nll(x, labels),
        lambda x: kb.nll(x, np.where(counted, labels, -1), ignore_index=-1, reduction="mean"),
        lambda x: kb.kl_divergence(x, q),
        lambda x: kb.kl_divergence(q, x),
        lambda x: kb.js_distance(x, q[0]),
        lambda x: kb.cross_entropy(x, q, rows=counted, reduction="sum"),
        lambda x: kb.entropy(x, reduction="mean"),
        lambda x: kb.entropy(x, given="logits", temperature=0.7, reduction="sum"),
        lambda x: kb.entropy(x, axis=0, given="counts"),
        lambda x: kb.entropy(x, out=np.empty(rows, dtype)),
        lambda x: kb.kl_divergence(x, np.stack([q, p])),
    ):
        found, expected = plain(call(held)), np.asarray(call(p))
        assert found.dtype == expected.dtype and found.shape == expected.shape
        assert found.tobytes() == expected.tobytes()
    assert plain(kb.entropy(held, keepdims=True)).tobytes() == kb.entropy(p).tobytes()
    expected_both = kb.compare(p, q, labels, given="probs", rows=counted)
    for base, other in ((held, q), (held, pieces(q, "chunks")), (p, pieces(q, kind))):
        both = kb.compare(base, other, labels, given="probs", rows=counted)
        assert all(both[name].tobytes() == expected_both[name].tobytes() for name in expected_both)
    assert (
        kb.compare(held, q, given="logits", num_classes=30, check=False).kl.tobytes()
        == kb.compare(p, q, given="logits", num_classes=30, check=False).kl.tobytes()
    )


@pytest.mark.parametrize("kind", PIECES)
def test_pieces_are_not_copied_whole(kind: str) -> None:
    p = matrix(40_000, 200, "probs", np.float32)  # 32 MB
    held, other = pieces(p, kind), pieces(p, "chunks")
    for call in (
        lambda: kb.entropy(held),
        lambda: kb.entropy(held, reduction="mean"),
        lambda: kb.kl_divergence(held, p),
        lambda: kb.compare(held, p, given="probs"),
        lambda: kb.compare(held, p if isinstance(held, pd.DataFrame) else other, given="probs"),
    ):
        call()
        tracemalloc.start()
        try:
            call()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        # The results, and a block of two megabytes or two.
        assert peak < 9e6, peak


def test_messages_about_pieces_count_all_rows() -> None:
    p = matrix(60_000, 20, "probs", np.float64)
    bad = [7, 31_000, 59_999]
    p[bad, 2] = -1
    with pytest.raises(ValueError, match="row 7 column 2 is -1") as whole:
        kb.entropy(p)
    for kind in PIECES:
        with pytest.raises(ValueError, match="row 7 column 2 is -1") as error:
            kb.entropy(pieces(p, kind))
        assert str(error.value) == str(whole.value) and "3 rows" in str(error.value)
        for reduction in ("none", "mean"):
            with pytest.raises(IndexError, match="label 20 of row 50001"):
                labels = np.zeros(60_000, int)
                labels[50_001:] = 20
                kb.nll(pieces(p, kind), labels, on_invalid="nan", reduction=reduction)
        assert np.isnan(plain(kb.entropy(pieces(p, kind), on_invalid="nan"))).sum() == 3
        with pytest.raises(ValueError, match="compare|base: row 7"):
            kb.compare(pieces(p, kind), p, given="probs")


def test_probabilities_in_pieces_are_not_taken_for_logits() -> None:
    p = matrix(10_000, 30, "probs", np.float64)
    for kind in PIECES:
        with pytest.raises(ValueError, match="holds probabilities, not logits"):
            kb.compare(pieces(p, kind), pieces(p, kind))
        labels = np.full(10_000, -100)
        labels[9_000:] = 1
        with pytest.raises(ValueError, match="holds probabilities, not logits"):
            kb.compare(p * 3, pieces(p, kind), labels, given="logits")


def test_uint16_as_bfloat16() -> None:
    p = matrix(200, 30, "probs", np.float32)
    brain = p.astype(ml_dtypes.bfloat16)
    bits = brain.view(np.uint16)
    q = matrix(200, 30, "probs", np.float32, seed=2)
    labels = generator("bf16").integers(0, 30, 200)
    swapped = bits.astype(bits.dtype.newbyteorder())
    chunked = pa.chunked_array(
        [pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 30) for x in (bits[:9], bits[9:])]
    )
    for held in (bits, swapped, np.asfortranarray(bits), bits[:, ::-1][:, ::-1], chunked):
        assert kb.entropy(held, dtype="bfloat16").tobytes() == kb.entropy(brain).tobytes()
        found = kb.kl_divergence(held, q, dtype="bfloat16")
        assert found.dtype == np.float32 and found.tobytes() == kb.kl_divergence(brain, q).tobytes()
        assert kb.nll(held, labels, dtype="bfloat16").tobytes() == kb.nll(brain, labels).tobytes()
        both = kb.compare(held, brain, labels, given="probs", dtype="bfloat16")
        assert both.nll_base.tobytes() == kb.compare(brain, brain, labels, given="probs").nll_base.tobytes()
    assert kb.entropy(brain, dtype="bfloat16").tobytes() == kb.entropy(brain).tobytes()
    with pytest.raises(ValueError, match="holds probabilities, not logits"):
        kb.compare(bits, bits, dtype="bfloat16")
    with pytest.raises(TypeError, match="says what arrays of uint16 hold, and p is none"):
        kb.entropy(p, dtype="bfloat16")
    with pytest.raises(ValueError, match='dtype must be one of "bfloat16", got "float16"'):
        kb.entropy(bits, dtype="float16")
    with pytest.raises(TypeError, match="dtype must be a string"):
        kb.entropy(bits, dtype=np.float32)
    assert kb.entropy(bits, given="counts").dtype == np.float64  # without it, uint16 are numbers


def test_frames_give_series() -> None:
    p = matrix(30, 6, "probs", np.float64)
    df = pd.DataFrame(p, columns=list("abcdef"), index=[f"r{i}" for i in range(30)])
    result = kb.entropy(df)
    assert isinstance(result, pd.Series) and result.name == "entropy" and result.index.equals(df.index)
    assert kb.js_distance(df, p[0]).name == "js_distance"
    assert kb.kl_divergence(p, df).index.equals(df.index)
    assert kb.nll(df, np.zeros(30, int)).name == "nll"
    assert kb.entropy(df, reduction="sum") == kb.entropy(p, reduction="sum")
    columns = kb.entropy(df, axis=0, given="counts")
    assert columns.index.tolist() == list("abcdef") and np.array_equal(columns, kb.entropy(p, axis=0, given="counts"))
    kept = kb.entropy(df, keepdims=True)
    assert kept.shape == (30, 1) and kept.index.equals(df.index) and list(kept.columns) == ["entropy"]
    across = kb.entropy(df, axis=0, given="counts", keepdims=True)
    assert across.shape == (1, 6) and list(across.columns) == list("abcdef")
    out = np.empty(30)
    assert kb.entropy(df, out=out) is out
    assert type(kb.kl_divergence(df, np.stack([p, p]))) is np.ndarray
    square = pd.DataFrame(p[:6], columns=list("abcdef"))
    assert kb.entropy(square, axis=0, given="counts").index.tolist() == list("abcdef")
    assert kb.entropy(df.iloc[:0]).index.tolist() == []
    assert isinstance(kb.functional.softmax(df, -1), np.ndarray)


def test_frames_are_not_lined_up_silently() -> None:
    p = matrix(30, 6, "probs", np.float64)
    df = pd.DataFrame(p, columns=list("abcdef"))
    assert kb.kl_divergence(df, df.copy()).eq(0).all()
    for call in (kb.kl_divergence, lambda a, b: kb.compare(a, b, given="probs")):
        with pytest.raises(ValueError, match="different columns: 'a' stands where .* has 'f'"):
            call(df, df[list("fedcba")])
        with pytest.raises(ValueError, match="the index is not that of"):
            call(df, df.iloc[::-1])
    with pytest.raises(ValueError, match="number of classes must be equal"):
        kb.kl_divergence(df, df[["a", "b"]])
    with pytest.raises(TypeError, match="do not mix"):
        kb.kl_divergence(df, pl.Series("p", p))
    both = kb.compare(df.set_index(np.arange(30) + 5), p, given="probs")
    assert both.to_frame().index.tolist() == list(range(5, 35))


def address(obj: Any) -> int:
    return int(np.asarray(_core.as_ndarray(obj, "p")).ctypes.data)


@pytest.mark.parametrize("kind", ALONG)
def test_rows_that_lie_one_after_another_are_not_copied(kind: str) -> None:
    held = lists(matrix(50, 8, "probs", np.float32), kind)
    assert address(held) == address(held)
    view = _core.as_ndarray(held, "p")
    assert not view.flags.writeable and view.shape == (50, 8)
    del held
    assert np.isfinite(view).all()


def test_what_has_a_buffer_is_not_copied(tmp_path: Path) -> None:
    p = matrix(50, 8, "probs", np.float64)
    flat = array.array("d", p.reshape(-1).tobytes())
    for held in (memoryview(p), flat, memoryview(flat).cast("B").cast("d", (50, 8)), pa.array(p.reshape(-1))):
        assert address(held) == address(held)
    assert kb.entropy(memoryview(p)).tobytes() == kb.entropy(p).tobytes()
    assert kb.entropy(flat, given="counts") == kb.entropy(p.reshape(-1), given="counts")
    path = tmp_path / "rows"
    path.write_bytes(p.tobytes())
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = memoryview(mapped).cast("d", (50, 8))
        assert kb.entropy(view).tobytes() == kb.entropy(p).tobytes()
        view.release()
    bits = p.astype(ml_dtypes.bfloat16).view(np.uint16)
    brain = bits.view(ml_dtypes.bfloat16)
    assert kb.entropy(brain).dtype == np.float32


@given(data=st.data())
def test_nulls_are_nan_and_null_lists_are_rows_of_nan(data: st.DataObject) -> None:
    width = data.draw(st.integers(1, 4))
    number = st.one_of(st.none(), st.integers(0, 5))
    row = st.one_of(st.none(), st.lists(number, min_size=width, max_size=width))
    rows = data.draw(st.lists(row, min_size=1, max_size=12))
    value, wide = data.draw(st.sampled_from([(pa.float32(), "f4"), (pa.float64(), "f8"), (pa.int16(), "f8")]))
    kind = data.draw(st.sampled_from([pa.list_(value), pa.large_list(value), pa.list_(value, width)]))
    nan = float("nan")
    dense = np.array([[nan] * width if r is None else [nan if x is None else x for x in r] for r in rows], wide)
    cut = data.draw(st.integers(0, len(rows)))
    whole = pa.array(rows, kind)
    for held in (whole, whole[cut:], pa.chunked_array([whole[:cut], whole[cut:]])):
        expected = dense[cut:] if held is not whole and isinstance(held, pa.Array) else dense
        # Integers without a null stay integers; the scores are the same.
        found = _core.as_ndarray(Capsules(held), "p")
        if not len(expected):
            assert len(found) == 0
            continue
        if any(r is not None for r in held.to_pylist()) or pa.types.is_fixed_size_list(kind):
            assert found.shape == expected.shape
            assert np.array_equal(found.astype(wide), expected, equal_nan=True)
            assert (
                kb.entropy(held, given="counts").astype(wide).tobytes()
                == kb.entropy(expected, given="counts").tobytes()
            )
        else:
            assert len(found) == len(expected)
    if all(r is not None for r in rows):
        columns = {f"c{i}": [r[i] for r in rows] for i in range(width)}  # type: ignore[index]
        table = pa.table({name: pa.array(column, value) for name, column in columns.items()})
        assert np.array_equal(_core.as_ndarray(Capsules(table), "p").astype(wide), dense, equal_nan=True)


def test_columns_of_several_dtypes_promote() -> None:
    table = pa.table({"a": pa.array([1, 2], pa.int8()), "b": pa.array([0.5, 2.5], pa.float32()), "c": [True, False]})
    dense = np.array([[1, 0.5, 1], [2, 2.5, 0]], np.float32)
    assert _core.as_ndarray(table, "p").dtype == np.float32
    assert kb.entropy(table, given="counts").tobytes() == kb.entropy(dense, given="counts").tobytes()
    wide = table.append_column("d", pa.array([2**40, 3]))
    assert _core.as_ndarray(wide, "p").dtype == np.float64
    flags = pa.array([True, False, True] * 7)[1:]
    assert _core.as_ndarray(flags, "rows").tolist() == flags.to_pylist()


def test_lists_of_lists_have_axes() -> None:
    rows = matrix(24, 5, "probs", np.float32)
    inner = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), 5)
    nested = pa.FixedSizeListArray.from_arrays(inner, 4)
    assert kb.entropy(nested).tobytes() == kb.entropy(rows.reshape(6, 4, 5)).tobytes()
    assert kb.entropy(nested[2:5]).tobytes() == kb.entropy(rows.reshape(6, 4, 5)[2:5]).tobytes()


def test_no_rows() -> None:
    for kind, shape in ((pa.list_(pa.float32(), 3), (0, 3)), (pa.list_(pa.float32()), (0, 0)), (pa.int64(), (0,))):
        for held in (pa.array([], kind), pa.chunked_array([], kind), pa.chunked_array([pa.array([], kind)] * 2)):
            assert _core.as_ndarray(Capsules(held), "p").shape == shape
    table = pa.table({"a": pa.array([], pa.float32()), "b": pa.array([], pa.float32())})
    assert _core.as_ndarray(table, "p").shape == (0, 2)
    assert _core.as_ndarray(pa.table({}), "p").shape == (0, 0)


def test_polars_answers_in_kind() -> None:
    p = matrix(30, 6, "probs", np.float32)
    series = pl.Series("p", p)
    frame = pl.DataFrame(p, schema=[f"c{i}" for i in range(6)])
    for held in (series, series.arr.to_list(), frame):
        result = kb.entropy(held)
        assert isinstance(result, pl.Series) and result.to_numpy().tobytes() == kb.entropy(p).tobytes()
    assert address(series) == address(series)
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match="of one kind"):
        kb.kl_divergence(series, torch.tensor(p))


def test_pandas_frames_of_every_dtype_are_read() -> None:
    p = matrix(30, 6, "probs", np.float64)
    frame = pd.DataFrame(p)
    for held in (frame, frame.astype("Float64"), frame.astype("double[pyarrow]")):
        assert kb.entropy(held).to_numpy().tobytes() == kb.entropy(p).tobytes()
    assert address(frame) == address(frame)
    with pytest.raises(TypeError, match="column 'x' has dtype"):
        kb.entropy(frame.assign(x="a"))


@pytest.mark.parametrize(
    ("held", "error", "message"),
    [
        (pa.array([[1.0], [0.5, 0.5]]), ValueError, "row 0 has 1 classes and row 1 has 2"),
        (pa.chunked_array([[[1.0]], [[0.5, 0.5]]]), ValueError, "rows of different lengths"),
        (pa.array(["a", "b"]), TypeError, "p must hold integers.*, got strings"),
        (pa.array([b"a", b"b"]), TypeError, 'p must hold integers.*, got Arrow\'s format "z"'),
        (pa.table({"p": [[1.0]], "q": [[1.0]]}), TypeError, "among several columns: pass one column of lists"),
        (pa.table({"p": [1.0], "q": pa.array([[1.0]], pa.list_(pa.float32(), 1))}), TypeError, "pass one column of"),
        (pa.array(["a", "b"]).dictionary_encode(), TypeError, "dictionary"),
        (pa.table({"a": [1.0], "b": ["x"]}), TypeError, "p must hold"),
        (pa.array([{"a": 1.0}, None]), TypeError, "structures that are null"),
    ],
)
def test_what_cannot_be_read_is_named(held: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        kb.entropy(Capsules(held))


def test_a_stream_that_breaks_is_an_error() -> None:
    def batches() -> Any:
        yield pa.record_batch({"a": [0.5], "b": [0.5]})
        raise OSError("the disk is gone")

    schema = pa.schema([("a", pa.float64()), ("b", pa.float64())])
    reader = pa.RecordBatchReader.from_batches(schema, batches())
    with pytest.raises(OSError, match="p cannot be read as an Arrow stream: .*the disk is gone"):
        kb.entropy(Capsules(reader))
