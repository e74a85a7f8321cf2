"""The same bits for any number of threads, any chunking and every instruction set; threads that survive a fork."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

import kullback as kb
import numpy as np
import pytest
from arrays import DTYPES, generator, matrix
from cases import CASES, KL, Case, assert_same_bits, on_every_level
from kullback import _core, functional
from reference import SPACES

# Lengths 0 … 4 vectors + 1, around a block, and a vocabulary.
LENGTHS = (*range(1, 66), 127, 128, 129, 2047, 2048, 2049, 4097, 6200)
# Work enough for several chunks; rows that fill no vector, no tile and no chunk.
# The last are split within a row, and make tiles of columns that span several groups of blocks.
LARGE = [(300_001, 2), (60_013, 10), (20_011, 100), (2_003, 1000), (61, 33_000), (17, 200_003)]


def labels_for(n: int, c: int) -> np.ndarray:
    return generator("labels", n, c).integers(0, c, n)


@pytest.mark.parametrize("shape", LARGE, ids=str)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("space", ["counts", "logits"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_number_of_threads(order: Any, space: str, dtype: str, shape: tuple[int, int]) -> None:
    n, c = shape
    p, q = (np.asarray(matrix(n, c, space, dtype, seed), order=order) for seed in (0, 1))
    labels = labels_for(n, c)
    for case in CASES:
        results = [case(p, q, labels=labels, given=space, threads=t) for t in (1, 2, 3)]
        for t, got in zip((2, 3), results[1:], strict=True):
            assert_same_bits(results[0], got, case, t, "threads")
        for reduction in ("sum", "mean"):
            totals = [case(p, q, labels=labels, given=space, threads=t, reduction=reduction) for t in (1, 2, 3, 2)]
            for got in totals[1:]:
                assert_same_bits(totals[0], got, case, reduction)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_one_vast_row(dtype: str, space: str) -> None:
    c = 1_000_003
    p, q = (matrix(1, c, space, dtype, seed) for seed in (0, 1))
    for case in CASES:
        one = case(p, q, labels=np.array([c - 1]), given=space, threads=1)
        for threads in (2, 3):
            assert_same_bits(one, case(p, q, labels=np.array([c - 1]), given=space, threads=threads), case, threads)
        alone = case(p[0], q[0], labels=np.array(c - 1), given=space)
        assert_same_bits(alone, one[0], case)


@pytest.mark.parametrize("c", [1, 3, 10, 16, 17, 40, 100, 300, 2049])
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_chunking_by_rows_and_any_place_in_a_batch(order: Any, space: str, c: int) -> None:
    n = 67
    p, q = (np.asarray(matrix(n, c, space, seed=seed), order=order) for seed in (0, 1))
    labels = labels_for(n, c)
    for case in CASES:
        whole = case(p, q, labels=labels, given=space)
        for size in (1, 2, 7, 16, 33):
            parts = [
                case(p[i : i + size], q[i : i + size], labels=labels[i : i + size], given=space)
                for i in range(0, n, size)
            ]
            assert_same_bits(np.concatenate(parts), whole, case, size)
        shuffled = generator("order").permutation(n)
        got = case(p[shuffled], q[shuffled], labels=labels[shuffled], given=space)
        assert_same_bits(got, whole[shuffled], case)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_every_instruction_set_at_every_length(dtype: str, space: str, case: Case) -> None:
    for c in LENGTHS:
        n = 19 if c < 200 else 2
        for scale in (1.0, 12.0):
            p, q = (matrix(n, c, space, dtype, seed, scale) for seed in (0, 1))
            labels = labels_for(n, c)
            for order in ("C", "F"):
                one, other = (np.asarray(x, order=order) for x in (p, q))
                on_every_level(
                    lambda a=one, b=other, y=labels: case(a, b, labels=y, given=space), case, space, c, order
                )
            if case is KL:
                near = p + (p.dtype.type(1e-4) * q if space == "logits" else 0)
                on_every_level(lambda a=p, b=near: KL(a, b, given=space), "near", space, c)


@pytest.mark.parametrize("dtype", ["f2", "bf16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_instruction_set_reads_half_precision(case: Case, dtype: str) -> None:
    for c in (1, 2, 15, 16, 17, 33, 100, 2049):
        p, q = (matrix(19, c, "logits", DTYPES[dtype], seed) for seed in (0, 1))
        labels = labels_for(19, c)
        on_every_level(lambda a=p, b=q, y=labels: case(a, b, labels=y, given="logits"), case, c)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_elementwise_functions_have_the_same_bits_everywhere(name: str, dtype: str) -> None:
    function = getattr(functional, name)
    for c in (*range(1, 35), 64, 65, 1000, 2049):
        x = matrix(37, c, "logits", dtype)
        expected = on_every_level(lambda x=x: function(x, dim=-1), name, c)
        assert_same_bits(function(np.asfortranarray(x), dim=-1), expected, name, c, "Fortran order")
        assert_same_bits(function(np.ascontiguousarray(x.T), dim=0).T, expected, name, c, "axis 0")
        assert_same_bits(np.concatenate([function(x[:5], dim=-1), function(x[5:], dim=-1)]), expected, name, c)
    big = matrix(4001, 300, "logits", dtype)
    results = []
    for threads in (1, 2, 3):
        with kb.num_threads(threads):
            results.append(function(big, dim=-1))
    for got in results[1:]:
        assert_same_bits(results[0], got)


def test_the_levels_of_this_machine() -> None:
    levels = _core.simd_levels()
    assert levels and set(levels) <= {"avx512", "avx2", "neon", "portable"} and levels[-1] == "portable"
    assert len(set(levels)) == len(levels)
    for level in levels:
        _core.set_simd_level(level)
        assert _core.simd_level() == level
    with pytest.raises(ValueError) as caught:
        _core.set_simd_level("mmx")
    assert all(level in str(caught.value) for level in levels)


# -------------------------------------------------------------------------------------------------- settings of threads


def test_set_and_get_num_threads() -> None:
    for n in (1, 2, 3, 8):
        kb.set_num_threads(n)
        assert kb.get_num_threads() == n
        with kb.num_threads(5):
            assert kb.get_num_threads() == 5
            with kb.num_threads(1):
                assert kb.get_num_threads() == 1
            assert kb.get_num_threads() == 5
        assert kb.get_num_threads() == n
    with pytest.raises(RuntimeError, match="inside"), kb.num_threads(7):
        raise RuntimeError("inside")
    assert kb.get_num_threads() == 8


def test_no_such_number_of_threads() -> None:
    before = kb.get_num_threads()
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="threads|n must be"):
            kb.set_num_threads(wrong)
        with pytest.raises(ValueError), kb.num_threads(wrong):
            pass
    for wrong in ("2", None, 1.5):
        with pytest.raises(TypeError):
            kb.set_num_threads(wrong)  # type: ignore[arg-type]
    assert kb.get_num_threads() == before


def start(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter."""
    names = ("KULLBACK_NUM_THREADS", "RAYON_NUM_THREADS", "OMP_NUM_THREADS", "KULLBACK_SIMD")
    clean = {k: v for k, v in os.environ.items() if k not in names}
    return subprocess.run(
        [sys.executable, "-c", code], env=clean | environment, capture_output=True, text=True, timeout=120, check=False
    )


def run(code: str, **environment: str) -> str:
    """What the code prints."""
    got = start(code, **environment)
    assert got.returncode == 0, got.stderr
    return got.stdout.strip()


SHOW = "import kullback as kb; print(kb.get_num_threads())"


def test_environment_variables_in_order() -> None:
    assert run(SHOW, KULLBACK_NUM_THREADS="3", RAYON_NUM_THREADS="4", OMP_NUM_THREADS="5") == "3"
    assert run(SHOW, RAYON_NUM_THREADS="4", OMP_NUM_THREADS="5") == "4"
    assert run(SHOW, OMP_NUM_THREADS="5") == "5"
    assert run(SHOW, OMP_NUM_THREADS="4,2") == "4"
    assert int(run(SHOW, OMP_NUM_THREADS="no number")) >= 1
    assert int(run(SHOW, OMP_NUM_THREADS="0")) >= 1


def test_our_own_variables_are_not_guessed_at() -> None:
    for name, value in (("KULLBACK_SIMD", "avx513"), ("KULLBACK_NUM_THREADS", "two"), ("KULLBACK_NUM_THREADS", "0")):
        failed = start(SHOW, **{name: value})
        assert failed.returncode == 1
        assert f"ValueError: {name} must be " in failed.stderr and f'got "{value}"' in failed.stderr
        assert run(SHOW, **{name: ""}) == run(SHOW)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinities")
def test_the_default_respects_the_affinity() -> None:
    assert 1 <= int(run(SHOW)) <= len(os.sched_getaffinity(0))
    one = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); " + SHOW
    assert run(one) == "1"


def test_the_environment_sets_the_instruction_set() -> None:
    show = (
        "import kullback as kb; from kullback import _core; print(_core.simd_level(), kb.entropy([0.25, 0.75]).hex())"
    )
    seen = {level: run(show, KULLBACK_SIMD=level).split() for level in _core.simd_levels()}
    assert {level: got[0] for level, got in seen.items()} == {level: level for level in seen}
    assert len({got[1] for got in seen.values()}) == 1
    assert run(show).split()[0] == _core.simd_levels()[0]


# ----------------------------------------------------------------------------------------------------------------- fork

FORK = """
import os, signal, sys, time
import numpy as np, kullback as kb

def work():
    x = np.random.default_rng(0).standard_normal((20000, 100), np.float32)
    return [kb.kl_divergence(x, x[::-1], given="logits", threads=t).tobytes() for t in (1, 2, 3)] + [
        kb.entropy(x, given="logits").tobytes()]

kb.set_num_threads(2)
parent = work()
status = 0
for generation in range(2):
    child = os.fork()
    if child == 0:
        # A child, and a child of a child: each works twice, on pools of its own.
        grandchild = os.fork()
        same = work() == parent and work() == parent
        if grandchild == 0:
            os._exit(0 if same else 3)
        _, code = os.waitpid(grandchild, 0)
        os._exit(0 if same and code == 0 else 4)
    # A watchdog: a child that waits for threads that it does not have waits for ever.
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done, code = os.waitpid(child, os.WNOHANG)
        if done:
            status |= code
            break
        time.sleep(0.02)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        sys.exit("a forked child hangs")
    # The parent's own pool still works.
    assert work() == parent
print("well" if status == 0 else status)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_after_a_parallel_call_works() -> None:
    assert run(FORK) == "well"


POOL = """
import multiprocessing as mp
import numpy as np, kullback as kb

def work(seed):
    x = np.random.default_rng(seed).standard_normal((5000, 100), np.float32)
    return kb.entropy(x, given="logits", threads=2).tobytes()

if __name__ == "__main__":
    here = [work(i) for i in range(4)]
    with mp.get_context("fork").Pool(2) as pool:
        there = pool.map_async(work, range(4)).get(60)
    print(here == there)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forking_pool_of_processes_works() -> None:
    assert run(POOL) == "True"


# ------------------------------------------------------------------------------------------------ threads of the caller


def test_many_callers_at_once() -> None:
    x = matrix(4001, 100, "logits")
    y = matrix(4001, 100, "logits", seed=1)
    expected = [case(x, y, labels=np.zeros(4001, int), given="logits") for case in CASES]
    wrong: list[str] = []

    def caller(threads: int) -> None:
        for _ in range(5):
            for case, value in zip(CASES, expected, strict=True):
                got = case(x, y, labels=np.zeros(4001, int), given="logits", threads=threads)
                if got.tobytes() != value.tobytes():
                    wrong.append(case.name)

    callers = [threading.Thread(target=caller, args=(1 + i % 3,)) for i in range(6)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(120)
        assert not thread.is_alive()
    assert not wrong


def test_two_callers_with_the_same_out() -> None:
    """Each gets the result or a clean ValueError: no panic, no torn array."""
    x = matrix(20_000, 100, "logits")
    expected = kb.entropy(x, given="logits")
    out = np.empty_like(expected)
    outcomes: list[str] = []
    start = threading.Barrier(2)

    def caller() -> None:
        for _ in range(10):
            start.wait(60)
            try:
                kb.entropy(x, given="logits", out=out, threads=2)
                outcomes.append("done")
            except ValueError as error:
                assert "out" in str(error)
                outcomes.append("refused")
            except BaseException as error:  # noqa: BLE001 - a panic is none of the exceptions that are caught otherwise
                outcomes.append(repr(error))

    callers = [threading.Thread(target=caller) for _ in range(2)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(120)
        assert not thread.is_alive()
    assert len(outcomes) == 20 and set(outcomes) <= {"done", "refused"} and "done" in outcomes, outcomes
    assert_same_bits(out, expected)
    kb.entropy(x, given="logits", out=out)
    assert_same_bits(out, expected)


def test_the_interpreter_runs_on_during_a_long_call() -> None:
    x = matrix(20_000, 1000, "logits")
    ticks = 0
    done = threading.Event()

    def caller() -> None:
        for _ in range(3):
            kb.entropy(x, given="logits", threads=1)
        done.set()

    thread = threading.Thread(target=caller)
    thread.start()
    while not done.wait(0.0005):
        ticks += 1
    thread.join(60)
    assert ticks >= 5


def test_flush_to_zero_elsewhere_in_the_process_costs_nothing_but_subnormals() -> None:
    """Another library may switch it on: numbers in the normal range keep their bits, others are lost but no NaN."""
    torch = pytest.importorskip("torch")
    x, y = matrix(40, 33, "logits"), matrix(40, 33, "logits", seed=1)
    p, q = matrix(40, 33, "probs"), matrix(40, 33, "probs", seed=1)
    labels = labels_for(40, 33)
    tiny = np.full((40, 33), np.finfo(np.float32).smallest_subnormal)
    tiny[:, 0] = 1

    def results() -> list[Any]:
        return [
            *(case(x, y, labels=labels, given="logits") for case in CASES),
            *(case(p, q, labels=labels) for case in CASES),
            functional.softmax(x, dim=-1),
        ]

    expected = results()
    if not torch.set_flush_denormal(True):
        pytest.skip("no flush-to-zero here")
    try:
        got = results()
        rest = [kb.entropy(tiny, given="counts"), kb.js_divergence(tiny, tiny[:, ::-1], given="counts")]
    finally:
        torch.set_flush_denormal(False)
    for one, other in zip(expected, got, strict=True):
        assert_same_bits(one, other)
    assert all(np.isfinite(values).all() for values in rest)


@pytest.mark.skipif(sys.platform != "linux", reason="threads are sent to processors on Linux only")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor")
def test_threads_of_the_pool_stay_off_the_processor_of_their_caller() -> None:
    code = """
import os
import kullback as kb, numpy as np
rows = np.full((200_000, 10), 0.1, np.float32)
allowed = os.sched_getaffinity(0)
kb.entropy(rows, threads=2)
threads = [int(thread) for thread in os.listdir("/proc/self/task")]
ours = [thread for thread in threads if open(f"/proc/self/task/{thread}/comm").read().startswith("kullback-")]
for thread in ours:
    assert os.sched_getaffinity(thread) < allowed, thread
    assert len(os.sched_getaffinity(thread)) == len(allowed) - 1, thread
assert os.sched_getaffinity(0) == allowed
os.sched_setaffinity(0, {min(allowed)})
assert kb.entropy(rows, threads=2).shape == (200_000,)
print(len(ours))
"""
    assert run(code) == "1"
