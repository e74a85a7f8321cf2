"""Reading arrays of files by rows, choosing them, and writing results a row."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from kullback import _files
from kullback._files import AtomicFile, FileError, WriteError, open_rows, open_writer
from numpy.typing import NDArray

RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(7, 5)).astype(np.float32)
BATCH = RNG.normal(size=(3, 4, 5))


def written(path: Path, arrays: dict[str, NDArray[Any]]) -> Path:
    """Write arrays in the format of the path's ending."""
    if path.suffix == ".npy":
        np.save(path, *arrays.values())
    elif path.suffix == ".npz":
        (np.savez_compressed if "compressed" in path.name else np.savez)(path, **arrays)
    else:
        safetensors.numpy.save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    return path


def read_all(tensor: _files.Tensor, axis: int | None, step: int) -> NDArray[Any]:
    """Read every row in blocks of `step`, copied before they are released."""
    rows = open_rows(tensor, axis)
    total = int(np.prod(tensor.shape)) // (1 if axis is None else tensor.shape[axis])
    blocks = []
    for start in range(0, total, step):
        blocks.append(np.array(rows.read(start, min(start + step, total))))
        rows.release()
    rows.close()
    return np.concatenate(blocks)


FORMATS = ["x.npy", "x.npz", "compressed.npz", "x.safetensors"]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("array", [MATRIX, BATCH, BATCH.astype(np.float16)], ids=["2-D", "3-D", "3-D f16"])
@pytest.mark.parametrize("step", [1, 3, 100])
def test_rows_come_in_order(tmp_path: Path, name: str, array: NDArray[Any], step: int) -> None:
    (tensor,) = _files.list_tensors(str(written(tmp_path / name, {"x": array})))
    assert (tensor.shape, tensor.dtype, tensor.name) == (array.shape, array.dtype, "x" if "x." in name else tensor.name)
    assert np.array_equal(read_all(tensor, -1, step), array.reshape(-1, array.shape[-1]))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "f2", "f4", "f8"])
def test_dtypes(tmp_path: Path, name: str, dtype: str) -> None:
    array = RNG.integers(0, 2, size=(4, 3)).astype(dtype)
    (tensor,) = _files.list_tensors(str(written(tmp_path / name, {"x": array})))
    read = read_all(tensor, None, 5)
    assert read.dtype == array.dtype
    assert np.array_equal(read, array.ravel())


@pytest.mark.parametrize("name", FORMATS)
def test_bfloat16(tmp_path: Path, name: str) -> None:
    array = MATRIX.astype(ml_dtypes.bfloat16)
    (tensor,) = _files.list_tensors(str(written(tmp_path / name, {"x": array})))
    assert tensor.dtype == array.dtype
    assert tensor.is_float
    assert np.array_equal(read_all(tensor, -1, 2).view(np.uint16), array.view(np.uint16))


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "compressed.npz"])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("fortran", [False, True])
@pytest.mark.parametrize("array", [MATRIX, BATCH, MATRIX.astype(">f4")], ids=["2-D", "3-D", "big-endian"])
def test_any_axis_and_order(tmp_path: Path, name: str, axis: int, fortran: bool, array: NDArray[Any]) -> None:
    stored = np.asfortranarray(array) if fortran else array
    (tensor,) = _files.list_tensors(str(written(tmp_path / name, {"x": stored})))
    assert tensor.fortran == fortran
    expected = np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])
    assert np.array_equal(read_all(tensor, axis, 2), expected)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (2, 0, 3)])
def test_empty_arrays(tmp_path: Path, shape: tuple[int, ...]) -> None:
    (tensor,) = _files.list_tensors(str(written(tmp_path / "x.npy", {"x": np.empty(shape)})))
    rows = open_rows(tensor, -1)
    assert rows.read(0, 0).shape == (0, shape[-1])
    rows.release()
    rows.close()


def test_a_mapped_array_lends_views(tmp_path: Path) -> None:
    (tensor,) = _files.list_tensors(str(written(tmp_path / "x.npy", {"x": BATCH})))
    rows = open_rows(tensor, -1)
    block = rows.read(2, 9)
    assert not block.flags.owndata
    assert not block.flags.writeable


def test_a_compressed_member_is_read_forwards_only(tmp_path: Path) -> None:
    (tensor,) = _files.list_tensors(str(written(tmp_path / "compressed.npz", {"x": MATRIX})))
    rows = open_rows(tensor, -1)
    assert np.array_equal(rows.read(2, 4), MATRIX[2:4])
    assert np.array_equal(rows.read(5, 7), MATRIX[5:])
    with pytest.raises(ValueError, match="in order"):
        rows.read(0, 1)
    rows.close()


@pytest.mark.skipif(os.name != "posix", reason="a mapped file cannot be shortened")
def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "x.npy", {"x": np.zeros((4096, 8))})
    (tensor,) = _files.list_tensors(str(path))
    rows = open_rows(tensor, -1)
    os.truncate(path, 5000)
    with pytest.raises(FileError, match=r"x\.npy: ends after 5000 bytes where the array needs 262272"):
        rows.read(0, 10)


def put(path: Path, data: bytes = b"") -> Path:
    """Write a file."""
    path.write_bytes(data)
    return path


def cut(path: Path, size: int) -> Path:
    """Shorten a file."""
    os.truncate(path, size)
    return path


def with_header(path: Path, header: Any, data: int = 16) -> Path:
    """Write a safetensors file with this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data))
    return path


def entry(**changes: Any) -> dict[str, Any]:
    """A header of one array of four float32, changed."""
    return {"x": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16], **changes}}


DAMAGED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nothing there": (lambda folder: folder / "x.npy", "no such file"),
    "unknown ending": (
        lambda folder: put(folder / "x.txt"),
        "unknown kind of file; read are .npy, .npz, .safetensors, .safetensors.index.json, .parquet, ",
    ),
    "empty npy": (lambda folder: put(folder / "x.npy"), "not a readable .npy file"),
    "npy cut in the header": (lambda f: cut(written(f / "x.npy", {"x": MATRIX}), 60), "not a readable .npy file"),
    "npy cut in the data": (
        lambda folder: cut(written(folder / "x.npy", {"x": MATRIX}), 200),
        "cut short: the header promises 140 bytes (7 × 5 float32) and 72 are there",
    ),
    "npz without its end": (lambda f: cut(written(f / "x.npz", {"x": MATRIX}), 200), "not a readable .npz archive"),
    "npz of one byte": (lambda f: cut(written(f / "x.npz", {"x": MATRIX}), 1), "not a readable .npz archive"),
    "safetensors of 3 bytes": (lambda f: cut(written(f / "x.safetensors", {"x": MATRIX}), 3), "damaged (a header of"),
    "safetensors cut": (
        lambda folder: cut(written(folder / "x.safetensors", {"x": MATRIX}), 100),
        "cut short: 'x' ends at byte",
    ),
    "header beyond the file": (
        lambda folder: with_header(folder / "x.safetensors", b" " * 10_000) and cut(folder / "x.safetensors", 50),
        "damaged (a header of 10000 bytes in a file of 50)",
    ),
    "header not JSON": (lambda folder: with_header(folder / "x.safetensors", b"{{{"), "the header is not JSON"),
    "header no object": (lambda folder: with_header(folder / "x.safetensors", [1]), "the header is not a JSON object"),
    "entry without offsets": (lambda f: with_header(f / "x.safetensors", {"x": {"dtype": "F32"}}), "lacks dtype"),
    "offsets the wrong way": (
        lambda folder: with_header(folder / "x.safetensors", entry(data_offsets=[16, 0])),
        "offsets 16 to 0",
    ),
    "negative shape": (lambda f: with_header(f / "x.safetensors", entry(shape=[-2, -2])), "shape [-2, -2]"),
    "shape and offsets disagree": (
        lambda folder: with_header(folder / "x.safetensors", entry(shape=[2, 3])),
        "'x' takes 16 bytes, its shape [2, 3] in F32",
    ),
    "offsets beyond the end": (
        lambda folder: with_header(folder / "x.safetensors", entry(), data=10),
        "cut short: 'x' ends at byte",
    ),
    "only unknown dtypes": (
        lambda folder: with_header(folder / "x.safetensors", entry(dtype="F8_E5M2")),
        "no array of a known dtype",
    ),
    "index without a map": (lambda folder: put(folder / "m.safetensors.index.json", b"{}"), "no weight_map"),
    "folder of nothing": (
        lambda folder: folder,
        "the folder has no file ending in .npy, .npz, .safetensors, .parquet, ",
    ),
    "glob of nothing": (lambda folder: folder / "*.npy", "no file matches"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_files_are_refused(tmp_path: Path, damage: str) -> None:
    make, message = DAMAGED[damage]
    path = make(tmp_path)
    with pytest.raises(FileError) as caught:
        _files.list_tensors(str(path))
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_python_objects_are_not_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}, None], dtype=object), allow_pickle=True)
    with pytest.raises(FileError, match="holds Python objects"):
        _files.list_tensors(str(tmp_path / "x.npy"))


@pytest.mark.parametrize("at", [0.3, 0.5, 0.7])
def test_a_changed_byte_in_a_compressed_member_is_found(tmp_path: Path, at: float) -> None:
    path = written(tmp_path / "compressed.npz", {"x": RNG.normal(size=(1000, 10))})
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 0x55
    path.write_bytes(data)
    (tensor,) = _files.list_tensors(str(path))
    with pytest.raises(FileError, match=r"compressed\.npz::x: damaged archive"):
        read_all(tensor, -1, 100)


def test_members_that_are_no_arrays_are_left_out(tmp_path: Path) -> None:
    path = written(tmp_path / "x.npz", {"x": MATRIX})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("README", "text")
    assert [tensor.name for tensor in _files.list_tensors(str(path))] == ["x"]


def names(tensors: list[_files.Tensor]) -> list[str]:
    return [tensor.name for tensor in tensors]


def test_choice_of_matrices(tmp_path: Path) -> None:
    arrays = {"b10": MATRIX, "b9": MATRIX, "ids": np.zeros((2, 2), np.int64), "bias": np.zeros(3, np.float32)}
    path = str(written(tmp_path / "x.safetensors", arrays))
    assert names(_files.select_matrices(path)) == ["b9", "b10"]
    assert names(_files.select_matrices(f"{path}::ids")) == ["ids"]
    with pytest.raises(FileError, match=r"has no numeric array of two or more axes; it has 'bias' \(3 float32\)"):
        _files.select_matrices(f"{path}::bias")
    with pytest.raises(FileError, match="has no array 'b1'; it has 'b9'"):
        _files.select_matrices(f"{path}::b1")


def test_a_colon_pair_in_a_file_name(tmp_path: Path) -> None:
    path = str(written(tmp_path / "a::b.npy", {"x": MATRIX}))
    assert names(_files.select_matrices(path)) == ["a::b"]


def test_pairs_by_name(tmp_path: Path) -> None:
    arrays = {name: MATRIX for name in ("s2", "s10", "s1")}
    left = str(written(tmp_path / "a.npz", arrays))
    right = str(written(tmp_path / "b.safetensors", arrays))
    lone = str(written(tmp_path / "c.npy", {"x": MATRIX}))
    fewer = str(written(tmp_path / "d.npz", {"s2": MATRIX, "s3": MATRIX, "s1": MATRIX}))
    assert [(a.name, b.name) for a, b in _files.pair_matrices(left, right)] == [("s1",) * 2, ("s2",) * 2, ("s10",) * 2]
    assert [(a.name, b.name) for a, b in _files.pair_matrices(f"{left}::s2", lone)] == [("s2", "c")]
    for other in (lone, fewer):
        with pytest.raises(FileError, match=r"do not pair up by name: 's1' .* against .*PATH::NAME"):
            _files.pair_matrices(left, other)


def test_folders_globs_and_shards(tmp_path: Path) -> None:
    for name in ("p2", "p10", "p1"):
        written(tmp_path / f"{name}.npy", {"x": MATRIX})
    (tmp_path / "notes.txt").touch()
    assert names(_files.select_matrices(str(tmp_path))) == ["p1", "p2", "p10"]
    assert names(_files.select_matrices(str(tmp_path / "p1*.npy"))) == ["p1", "p10"]
    assert names(_files.select_matrices(f"{tmp_path}::p2")) == ["p2"]

    shards = tmp_path / "shards"
    shards.mkdir()
    written(shards / "m-1.safetensors", {"a": MATRIX, "stale": MATRIX})
    written(shards / "m-2.safetensors", {"b": MATRIX})
    index = shards / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}))
    assert names(_files.select_matrices(str(index))) == ["a", "b"]
    os.remove(shards / "m-2.safetensors")
    with pytest.raises(FileError, match=r"index\.json: names the shard .*m-2\.safetensors, which does not exist"):
        _files.select_matrices(str(index))


def test_arrays_of_one_name_in_several_files(tmp_path: Path) -> None:
    for name in ("p1", "p2"):
        written(tmp_path / f"{name}.safetensors", {"logits": MATRIX})
    assert names(_files.select_matrices(str(tmp_path))) == ["p1/logits", "p2/logits"]


COLUMNS: dict[str, NDArray[Any]] = {
    "row": np.arange(5),
    "kl": np.array([0.1, 1e-30, np.nan, np.inf, -0.0], np.float32),
    "nll": np.array([1 / 3, 1e-300, np.nan, -np.inf, 0.0]),
    "same": np.array([True, False, True, True, False]),
}


@pytest.mark.parametrize("ending", _files.OUT_EXTENSIONS)
@pytest.mark.parametrize("pieces", [[5], [2, 0, 3]])
def test_results_are_written_as_they_are(tmp_path: Path, ending: str, pieces: list[int]) -> None:
    path = tmp_path / f"out{ending}"
    dtypes = {name: column.dtype for name, column in COLUMNS.items()}
    with AtomicFile(path) as out, open_writer(out, dtypes, 5) as writer:
        for stop, count in zip(np.cumsum(pieces), pieces, strict=True):
            writer.write({name: column[stop - count : stop] for name, column in COLUMNS.items()})
        assert not path.exists()
    assert os.listdir(tmp_path) == [path.name]

    read: dict[str, NDArray[Any]]
    if ending == ".npy":
        table = np.load(path)
        read = {name: table[name] for name in table.dtype.names}
    elif ending == ".parquet":
        read = {name: column.to_numpy() for name, column in zip(COLUMNS, pq.read_table(path).columns, strict=True)}
    else:
        head, *lines = path.read_text().splitlines()
        assert head == "row,kl,nll,same"
        read = {
            name: np.array([line.split(",")[i] for line in lines]).astype(float).astype(dtypes[name])
            for i, name in enumerate(COLUMNS)
        }
    for name, column in COLUMNS.items():
        assert read[name].dtype == column.dtype
        assert np.array_equal(read[name], column, equal_nan=column.dtype.kind == "f"), name


@pytest.mark.parametrize("ending", _files.OUT_EXTENSIONS)
def test_nothing_is_left_of_an_unfinished_file(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"out{ending}"
    path.write_text("before")
    dtypes = {name: column.dtype for name, column in COLUMNS.items()}
    with pytest.raises(KeyboardInterrupt), AtomicFile(path) as out, open_writer(out, dtypes, 10) as writer:
        writer.write(COLUMNS)
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == [path.name]
    assert path.read_text() == "before"


@pytest.mark.skipif(os.name != "posix", reason="needs locks of files")
def test_what_a_killed_run_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out[1].npy"
    stray, other = tmp_path / ".out[1].npy.0badcafe.part", tmp_path / ".out1.npy.0badcafe.part"
    stray.write_bytes(b"half")
    other.write_bytes(b"half")
    with AtomicFile(path) as first:
        first.file.write(b"1")
        with AtomicFile(path) as second:
            second.file.write(b"2")
            assert len(list(tmp_path.iterdir())) == 3 and not stray.exists()
        assert path.read_bytes() == b"2"
    assert path.read_bytes() == b"1"
    assert set(tmp_path.iterdir()) == {path, other}


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match=r"out\.npy: cannot be written: No such file or directory"):
        AtomicFile(tmp_path / "none" / "out.npy")
