"""Arrays that no one should pass, and calls that no one should make: a clear answer each, and never a crash."""

from __future__ import annotations

import mmap
import multiprocessing
import pickle
import subprocess
import sys
import threading
from typing import Any

import kullback as kb
import numpy as np
import pytest
from arrays import awkward, generator, matrix
from cases import CASES, JS, KL, NLL, PAIRED, Case, assert_same_bits
from hypothesis import given as hypothesis_given
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from kullback import _core, functional
from numpy.lib.stride_tricks import as_strided
from reference import SPACES, ulp

ANSWERS = (TypeError, ValueError, IndexError)


def repeated(value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """One number, as often as one likes."""
    return as_strided(np.asarray(value), shape, (0,) * len(shape), writeable=False)


# ------------------------------------------------------------------------------------------------------ vast and absent


def test_more_classes_than_32_bits_count() -> None:
    classes = 2**31 + 1
    got = kb.entropy(repeated(np.int8(3), (classes,)), given="counts")
    assert abs(float(got) - np.log(float(classes))) <= 4 * ulp(21.4, np.float64)


def test_pairs_and_labels_beyond_what_32_bits_count() -> None:
    classes = 2**31 + 1
    p, q = (repeated(np.float32(x), (classes,)) for x in (3, 3e6))
    assert kb.kl_divergence(p, q, given="counts") <= 1e-15
    got = kb.nll(repeated(np.float32(0.5), (classes,)), classes - 1, given="logits")
    assert abs(float(got) - np.log(float(classes))) <= 4 * ulp(21.4, np.float32)
    with pytest.raises(IndexError, match=str(classes)):
        kb.nll(p, classes, given="logits")


def test_a_row_of_2_to_the_33_bytes_in_memory() -> None:
    """Mapped and never written to but for the last class, whose place is beyond 32 bits however it is counted."""
    try:
        memory = mmap.mmap(-1, 2**33)
    except OSError:
        pytest.skip("no address space for 2^33 bytes")
    x = np.frombuffer(memory, np.float32)
    x[-1] = 40.0
    others = (len(x) - 1) * np.exp(-40.0)
    expected = np.log1p(others) + 40 * others / (1 + others)
    got = kb.entropy(x, given="logits")
    assert abs(float(got) - expected) <= 4 * ulp(expected, np.float32)
    assert kb.nll(x, len(x) - 1, given="logits") == pytest.approx(np.log1p(others), rel=1e-6)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_two_to_the_33_bytes(dtype: str) -> None:
    x = repeated(np.array(0.5, dtype), (2**10, 2**33 // 2**10 // np.dtype(dtype).itemsize))
    assert x.nbytes == 2**33
    expected = np.log(float(x.shape[1]))
    got = kb.entropy(x[:8], given="logits")
    np.testing.assert_allclose(got, np.full(8, expected), rtol=8 * np.finfo(dtype).eps)
    # The whole of it, as short rows: the leading axes are counted in 64 bits.
    rows = repeated(np.array(0.5, dtype), (2**20, 2**33 // 2**20 // np.dtype(dtype).itemsize))
    mean = kb.entropy(rows[:: 2**10], given="logits", reduction="mean")
    assert abs(float(mean) - np.log(float(rows.shape[1]))) <= 8 * ulp(9.0, dtype)


@pytest.mark.parametrize("shape", [(2**58, 1), (2**30, 2**28, 1), (2**20, 2**20, 2**18, 1)], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_result_that_no_memory_holds_is_a_memory_error(case: Case, shape: tuple[int, ...]) -> None:
    x, labels = repeated(np.float32(1), shape), repeated(0, shape[:-1])
    with pytest.raises(MemoryError):
        case(x, x, labels=labels)
    # Nothing was kept: the next call works.
    assert np.array_equal(case(np.ones((2, 1)), np.ones((2, 1)), labels=[0, 0]), [0, 0])


def test_a_sum_of_more_rows_than_partial_sums_are_kept_of() -> None:
    rows = 2**28
    q = repeated(np.float64(0), (rows, 2))
    for function in (kb.nll, lambda q, labels, **keywords: functional.cross_entropy(q, labels, reduction="sum")):
        assert function(q, repeated(0, (rows,)), given="logits", reduction="sum") == rows * np.log(2)


def test_a_comparison_that_no_memory_holds_is_a_memory_error() -> None:
    for rows in (2**58, 2**45):
        x = repeated(np.float32(1), (rows, 1))
        with pytest.raises(MemoryError):
            _core.compare_columns(x, x, columns=["kl", "same_top"])


def test_softmax_that_no_memory_holds_is_a_memory_error() -> None:
    x = repeated(np.float32(1), (2**40, 2**18))
    for function in (functional.softmax, functional.log_softmax):
        with pytest.raises(MemoryError):
            function(x, dim=-1)


def test_broadcasting_to_a_vast_shape_is_a_memory_error() -> None:
    p, q = repeated(np.float32(1), (2**30, 1, 1)), repeated(np.float32(1), (1, 2**29, 1))
    for case in PAIRED:
        with pytest.raises(MemoryError):
            case(p, q)
    # More rows than 64 bits count.
    p, q = repeated(np.float32(1), (2**40, 1, 1)), repeated(np.float32(1), (1, 2**40, 1))
    for case in PAIRED:
        with pytest.raises((MemoryError, ValueError)):
            case(p, q)


# --------------------------------------------------------------------------------------------------- what comes as rows


class Tagged(np.ndarray):
    """A subclass that would notice being used."""

    def __array_finalize__(self, obj: Any) -> None:
        self.tag = getattr(obj, "tag", None)

    def __array_ufunc__(self, *_args: Any, **_kwargs: Any) -> Any:
        raise AssertionError("no ufunc was asked for")

    def __getitem__(self, index: Any) -> Any:
        raise AssertionError("nothing was indexed")


def test_subclasses_are_read_as_arrays() -> None:
    p, q = (matrix(20, 7, "probs", "f8", seed) for seed in (0, 1))
    labels = np.zeros(20, int)
    for kind in (Tagged, np.matrix, np.recarray):
        for case in CASES:
            got = case(p.view(kind), q.view(kind), labels=labels)
            assert type(got) is np.ndarray
            assert_same_bits(got, case(p, q, labels=labels), case, kind)


class Raises:
    def __array__(self, *_args: Any, **_kwargs: Any) -> Any:
        raise RuntimeError("not today")


class Lies:
    """Says that it is an array, and gives something else."""

    def __init__(self, what: Any) -> None:
        self.what = what

    def __array__(self, *_args: Any, **_kwargs: Any) -> Any:
        return self.what


@pytest.mark.parametrize("case", CASES, ids=str)
def test_objects_that_only_pretend_to_be_arrays(case: Case) -> None:
    good = np.full((2, 2), 0.5)
    for which in range(case.rows):
        operands = [good, good]
        operands[which] = Raises()  # type: ignore[call-overload]
        with pytest.raises((RuntimeError, TypeError)):
            case(*operands, labels=[0, 0])
        for what in ("text", None, {"a": 1}, np.array([object()]), [0.5, 0.5]):
            operands[which] = Lies(what)  # type: ignore[call-overload]
            with pytest.raises(ANSWERS):
                case(*operands, labels=[0, 0])


def test_a_list_that_contains_itself() -> None:
    endless: list[Any] = []
    endless.append(endless)
    for case in CASES:
        with pytest.raises((ValueError, TypeError, RecursionError)):
            case(endless, endless, labels=[0])


def test_arrays_that_another_thread_changes() -> None:
    """What comes out is anything that some mixture of the numbers gives, or an error: but it comes out."""
    x = np.abs(matrix(2000, 100, "counts", "f4"))
    stop = threading.Event()

    def scribble() -> None:
        rng = generator("scribble")
        special = np.array([0, 1, np.nan, np.inf, -1, 1e-45, 3e38], np.float32)
        while not stop.is_set():
            x[rng.integers(2000, size=50), rng.integers(100, size=50)] = rng.choice(special, 50)

    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        for _ in range(20):
            for case in CASES:
                got = case(x, x[::-1], labels=np.zeros(2000, int), given="counts", threads=2, on_invalid="nan")
                assert got.shape == (2000,) and not (got < 0).any()
                try:
                    case(x, x[::-1], labels=np.zeros(2000, int), given="counts", threads=2)
                except ValueError as error:
                    assert "row" in str(error)
            both = kb.compare(x, x[::-1], np.zeros(2000, int), on_invalid="nan", threads=2)
            assert len(both["kl"]) == 2000
            for function in (functional.softmax, functional.log_softmax):
                assert function(x, dim=-1).shape == x.shape
    finally:
        stop.set()
        thread.join()


hostile_dtypes = st.one_of(
    hnp.scalar_dtypes(),
    hnp.byte_string_dtypes(),
    hnp.unicode_string_dtypes(),
    hnp.datetime64_dtypes(),
    hnp.timedelta64_dtypes(),
    hnp.array_dtypes(),
    st.sampled_from([np.dtype(object), np.dtype("V3"), np.dtype([("x", "f4"), ("y", "f4", 3)])]),
)


@settings(max_examples=300)
@hypothesis_given(data=st.data())
def test_any_array_of_any_dtype_gets_an_answer(data: st.DataObject) -> None:
    case = data.draw(st.sampled_from(CASES))
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    operands = []
    for _ in range(2):
        x = np.zeros(shape, data.draw(hostile_dtypes))
        raw = x.view(np.uint8) if x.flags.c_contiguous and x.ndim and not x.dtype.hasobject else None
        if raw is not None and raw.size:
            raw.reshape(-1)[...] = np.frombuffer(data.draw(st.binary(min_size=raw.size, max_size=raw.size)), np.uint8)
        operands.append(x)
    labels: Any = data.draw(st.sampled_from([0, np.zeros(shape[:-1], int), np.zeros(shape, "i1"), [0.5], "x", None]))
    keywords: dict[str, Any] = {
        "given": data.draw(st.sampled_from([*SPACES, ("probs", "logits"), "nonsense", None, 3])),
        "axis": data.draw(st.sampled_from([-1, 0, 2, -5, 2**40, None, (0, 1)])),
        "on_invalid": data.draw(st.sampled_from(["raise", "nan", "nan", "?"])),
        "where": data.draw(st.sampled_from([None, True, np.ones(shape, bool), np.zeros(3, bool), np.ones(shape)])),
        "threads": data.draw(st.sampled_from([None, 1, 2, 0, -1, 2**70])),
        "base": data.draw(st.sampled_from([None, 2, 10, 0, 1, -3, float("nan"), "e"])),
    }
    with np.errstate(all="ignore"):
        try:
            got = case(*operands, labels=labels, **keywords)
        except (*ANSWERS, OverflowError) as error:
            assert str(error)
            return
    assert np.asarray(got).dtype in (np.float32, np.float64)


@settings(max_examples=150)
@hypothesis_given(data=st.data())
def test_any_bits_as_numbers_in_any_layout(data: st.DataObject) -> None:
    """Every float there is, NaN payloads and subnormal numbers included, through every layout: the same bits."""
    dtype = data.draw(st.sampled_from([np.float16, np.float32, np.float64]))
    n, c = data.draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    size = n * c * np.dtype(dtype).itemsize
    p, q = (np.frombuffer(data.draw(st.binary(min_size=size, max_size=size)), dtype).reshape(n, c) for _ in range(2))
    space = data.draw(st.sampled_from(SPACES))
    if space in ("probs", "counts") and data.draw(st.booleans()):
        p, q = np.abs(p), np.abs(q)
    case = data.draw(st.sampled_from([*PAIRED, CASES[0]]))
    keywords = {"given": space, "on_invalid": "nan"}
    expected = case(p.copy(), q.copy(), **keywords)
    assert not (expected < 0).any()
    other = dict(awkward(q))
    for name, view in awkward(p):
        assert_same_bits(case(view, other[name], **keywords), expected, case, name)


# ------------------------------------------------------------------------------------------------ processes and pickles


def test_everything_public_pickles() -> None:
    for module in (kb, functional):
        for name in module.__all__:
            if not name.startswith("__") and callable(getattr(module, name)):
                thing = getattr(module, name)
                assert pickle.loads(pickle.dumps(thing)) is thing, name


def score(seed: int) -> bytes:
    x = generator("spawn", seed).standard_normal((300, 50), np.float32)
    return bytes(kb.kl_divergence(x, x[::-1], given="logits", threads=2).tobytes())


@pytest.mark.parametrize("method", sorted(set(multiprocessing.get_all_start_methods()) - {"fork"}))
def test_processes_that_do_not_fork(method: str) -> None:
    kb.entropy(np.ones((5000, 100)), given="counts", threads=2)
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map_async(score, range(4)).get(120) == [score(seed) for seed in range(4)]


def test_a_subinterpreter_is_refused_or_works() -> None:
    """Numpy may refuse them itself; what must not happen is a crash."""
    code = """
import sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
import numpy, kullback
here = interpreters.create()
run = getattr(interpreters, "run_string")
try:
    failed = run(here, "import kullback; assert abs(kullback.entropy([0.5, 0.5]) - 0.6931471805599453) < 1e-15")
    print("refused" if failed else "works")
except Exception:
    print("refused")
print(kullback.entropy([0.5, 0.5]))
"""
    got = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert got.returncode == 0, got.stderr
    assert got.stdout.split() in (["works", "0.6931471805599453"], ["refused", "0.6931471805599453"])


def test_two_threads_with_the_same_out_and_different_rows() -> None:
    """Whoever is let in writes whole results: the array holds one of them, or a mixture of whole numbers."""
    x = [matrix(5000, 20, "logits", seed=seed) for seed in (0, 1)]
    expected = [kb.entropy(rows, given="logits") for rows in x]
    out = np.full(5000, -1, np.float32)
    seen: list[str] = []

    def call(which: int) -> None:
        for _ in range(20):
            try:
                kb.entropy(x[which], given="logits", out=out, threads=2)
            except ValueError as error:
                seen.append(str(error))

    threads = [threading.Thread(target=call, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all("out" in message for message in seen)
    assert ((out == expected[0]) | (out == expected[1])).all()


def test_labels_and_masks_of_hostile_layout() -> None:
    q = matrix(30, 19, "logits")
    labels = np.arange(30) % 19
    wide = np.full((30, 3), -7, np.int64)
    wide[::-1, 1] = labels
    assert_same_bits(NLL(q, labels=wide[::-1, 1], given="logits"), NLL(q, labels=labels, given="logits"))
    keep = generator("keep").random((30, 19)) < 0.7
    keep[:, 3] = True
    mask = np.zeros((60, 57), bool)
    mask[::-2, ::-3] = keep
    for case in (KL, JS):
        one = case(q, q[::-1], given="logits", where=keep)
        assert_same_bits(case(q, q[::-1], given="logits", where=mask[::-2, ::-3]), one)
    with pytest.raises(TypeError):
        kb.entropy(q, given="logits", where=keep.astype(np.uint8))
    # A boolean that is neither 0 nor 1 counts as true.
    odd = np.where(keep, 2, 0).astype(np.uint8).view(bool)
    assert_same_bits(kb.entropy(q, given="logits", where=odd), kb.entropy(q, given="logits", where=keep))
