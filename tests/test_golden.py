"""The same bits everywhere: every instruction set, layout and number of threads gives the hashes of golden.json."""

from __future__ import annotations

from collections.abc import Callable

import golden
import numpy as np
import pytest
from kullback import _core

RECORDED = golden.recorded()
ORDER = [(space, dtype) for space in golden.SPACES for dtype in golden.DTYPES]


def swapped(x: np.ndarray) -> np.ndarray:
    return x.astype(x.dtype.newbyteorder()) if x.dtype.kind == "f" and x.dtype.itemsize > 1 else x


def reversed_columns(x: np.ndarray) -> np.ndarray:
    return x[:, ::-1].copy()[:, ::-1]


def every_second(x: np.ndarray) -> np.ndarray:
    wide = np.full((2 * len(x), 3 * x.shape[1]), np.nan, np.float32).astype(x.dtype)
    wide[::2, ::3] = x
    return wide[::2, ::3]


def unaligned(x: np.ndarray) -> np.ndarray:
    raw = np.zeros(x.nbytes + 1, np.uint8)
    out: np.ndarray = raw[1:].view(x.dtype).reshape(x.shape)
    out[...] = x
    return out


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rows": golden.usual,
    "columns": np.asfortranarray,
    "every second row and third column": every_second,
    "columns reversed": reversed_columns,
    "byte-swapped": swapped,
    "unaligned": unaligned,
}


def compare(found: dict[str, str], what: str) -> None:
    lines = golden.folded(found)
    different = [key for key, value in lines.items() if RECORDED[key] != value]
    assert not different, (
        f"{what}: other bits than golden.json in {len(different)} of {len(lines)} lines, such as {different[:6]}; "
        f"if the change is meant, `python tests/golden.py` writes the file anew"
    )


@pytest.mark.parametrize(("space", "dtype"), ORDER, ids=str)
def test_every_instruction_set(space: str, dtype: str, level: str) -> None:
    compare(dict(golden.digests(space, dtype)), level)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("space", "dtype"), ORDER, ids=str)
def test_every_layout(space: str, dtype: str, layout: str) -> None:
    compare(dict(golden.digests(space, dtype, LAYOUTS[layout])), layout)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(("space", "dtype"), ORDER, ids=str)
def test_any_number_of_threads(space: str, dtype: str, threads: int) -> None:
    compare(dict(golden.digests(space, dtype, threads=threads)), f"{threads} threads")


def test_the_file_holds_every_line() -> None:
    expected = {
        f"{name}, {space}, {dtype}"
        for space in golden.SPACES
        for dtype in golden.DTYPES
        for name in golden.functions(space)
    }
    assert set(RECORDED) == expected
    assert _core.simd_level() in _core.simd_levels()
