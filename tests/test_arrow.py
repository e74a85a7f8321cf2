"""Arrow by its capsules, and what has buffers: bits of the contiguous copy, and no copy where none is needed."""

from __future__ import annotations

import array
import mmap
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
        assert kb.entropy(held).tobytes() == kb.entropy(p).tobytes()
    assert address(frame) == address(frame)
    with pytest.raises(TypeError, match="column 'x' has dtype"):
        kb.entropy(frame.assign(x="a"))


@pytest.mark.parametrize(
    ("held", "error", "message"),
    [
        (pa.array([[1.0], [0.5, 0.5]]), ValueError, "row 0 has 1 classes and row 1 has 2"),
        (pa.chunked_array([[[1.0]], [[0.5, 0.5]]]), ValueError, "rows of different lengths"),
        (pa.array(["a", "b"]), TypeError, "p must hold integers.*format"),
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
