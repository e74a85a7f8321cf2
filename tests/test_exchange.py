"""Tensors and other producers of DLPack come in without a copy, and results go out as what came in."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import kullback as kb
import ml_dtypes
import numpy as np
import pytest
from arrays import matrix
from cases import CASES
from kullback import _core

torch = pytest.importorskip("torch")

FLOATS = {"f2": torch.float16, "bf16": torch.bfloat16, "f4": torch.float32, "f8": torch.float64}
INTEGERS = {
    name: getattr(torch, name) for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
}
FUNCTIONS: dict[str, tuple[Any, int]] = {case.name: (case.function, case.rows) for case in CASES if not case.labels}


def array_of(tensor: Any) -> np.ndarray:
    """The tensor's numbers as an ndarray of its dtype, by torch's own means."""
    if tensor.dtype == torch.bfloat16:
        return np.asarray(tensor.contiguous().view(torch.uint16).numpy().view(ml_dtypes.bfloat16))
    return np.asarray(tensor.numpy())


def same(got: Any, expected: Any) -> None:
    assert type(got) is torch.Tensor and got.device.type == "cpu"
    expected = np.asarray(expected)
    assert got.dtype == {4: torch.float32, 8: torch.float64}[expected.dtype.itemsize]
    assert tuple(got.shape) == expected.shape
    np.testing.assert_array_equal(got.numpy(), expected)


def logits(n: int = 5, c: int = 7, seed: int = 0) -> Any:
    return torch.from_numpy(matrix(n, c, "logits", "f8", seed))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", FLOATS.values(), ids=FLOATS)
def test_tensors_give_what_arrays_give(name: str, dtype: Any) -> None:
    function, inputs = FUNCTIONS[name]
    tensors = [logits(seed=i).to(dtype) for i in range(inputs)]
    arrays = [array_of(x) for x in tensors]
    for keywords in ({}, {"axis": 0}, {"reduction": "mean"}, {"reduction": "sum"}, {"keepdims": True}, {"base": 2}):
        same(function(*tensors, given="logits", **keywords), function(*arrays, given="logits", **keywords))
    # One row is a tensor without axes, not a number.
    same(function(*(x[0] for x in tensors), given="logits"), function(*(x[0] for x in arrays), given="logits"))


@pytest.mark.parametrize("dtype", INTEGERS.values(), ids=INTEGERS)
def test_integer_and_boolean_tensors(dtype: Any) -> None:
    counts = torch.arange(1, 13).reshape(3, 4).to(dtype)
    same(kb.entropy(counts, given="counts"), kb.entropy(array_of(counts), given="counts"))
    labels = torch.tensor([0, 3, 1]).to(dtype)
    x = logits(3, 4)
    same(kb.nll(x, labels, given="logits"), kb.nll(x.numpy(), array_of(labels), given="logits"))
    where = torch.tensor([True, False, True, True])
    same(kb.entropy(x, given="logits", where=where), kb.entropy(x.numpy(), given="logits", where=where.numpy()))
    same(kb.entropy(where, given="counts"), kb.entropy(where.numpy(), given="counts"))


VIEWS = {
    "transposed": lambda x: x.t().contiguous().t(),
    "strided": lambda x: torch.stack([x, x + 1], -1)[..., 0],
    "sliced": lambda x: torch.cat([x, x])[: len(x)],
    "expanded": lambda x: x[:1].expand(len(x), -1),
    "offset": lambda x: torch.cat([x, x])[len(x) :],
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("dtype", FLOATS.values(), ids=FLOATS)
def test_views(view: Any, dtype: Any) -> None:
    x = view(logits().to(dtype))
    same(kb.entropy(x, given="logits"), kb.entropy(array_of(x), given="logits"))


def test_empty_tensors() -> None:
    same(kb.entropy(torch.ones(0, 3)), kb.entropy(np.ones((0, 3), np.float32)))
    same(kb.entropy(torch.ones(2, 0)), kb.entropy(np.ones((2, 0), np.float32)))
    with pytest.raises(ValueError, match="p must have at least one axis"):
        kb.entropy(torch.tensor(1.0))


def test_arrays_and_lists_take_the_tensors_kind() -> None:
    p, q = torch.softmax(logits(), -1), torch.softmax(logits(seed=1), -1)
    expected = kb.kl_divergence(p.numpy(), q.numpy())
    for pair in ((p, q), (p.numpy(), q), (p, q.numpy()), (p, q.tolist())):
        same(kb.kl_divergence(*pair), expected)


def test_memory_is_shared_and_unchanged() -> None:
    x = logits()
    before = x.clone()
    view = _core.as_ndarray(x, "x")
    assert view.__array_interface__["data"][0] == x.data_ptr() and not view.flags.writeable
    x[0, 0] = 7
    assert view[0, 0] == 7
    x[0, 0] = before[0, 0]
    kb.entropy(x, given="logits")
    assert torch.equal(x, before)
    half = _core.as_ndarray(x.to(torch.bfloat16), "x")
    assert half.dtype == ml_dtypes.bfloat16
    # The array keeps the memory of a tensor that nobody else holds.
    kept = _core.as_ndarray(torch.full((1000,), 3.0), "x")
    torch.zeros(1000)
    assert (kept == 3).all()


def test_a_parameter_and_other_subclasses() -> None:
    weights = torch.nn.Parameter(logits(), requires_grad=False)
    same(kb.entropy(weights, given="logits"), kb.entropy(weights.numpy(), given="logits"))


def test_out_may_be_a_tensor() -> None:
    x = logits()
    out = torch.empty(5, dtype=torch.float64)
    assert kb.entropy(x, given="logits", out=out) is out
    same(out, kb.entropy(x.numpy(), given="logits"))
    column = torch.empty(5, 2, dtype=torch.float64)[:, 1]
    assert kb.entropy(x, given="logits", out=column) is column
    same(column, out.numpy())
    with pytest.raises(TypeError, match="out must have dtype float64, got torch.float32"):
        kb.entropy(x, given="logits", out=torch.empty(5))
    with pytest.raises(ValueError, match="out must have the result's shape"):
        kb.entropy(x, given="logits", out=torch.empty(4, dtype=torch.float64))
    with pytest.raises(ValueError, match="out must share no memory with p"):
        kb.entropy(x, given="logits", out=x[:, 0])
    with pytest.raises(TypeError, match="out must be a numpy array or a tensor of float64"):
        kb.entropy(x, given="logits", out=[0.0] * 5)


REFUSED = {
    "meta": (lambda: torch.ones(2, 3, device="meta"), "p must be on the CPU, got device meta"),
    "sparse": (lambda: torch.eye(3).to_sparse(), "p must be dense, got layout torch.sparse_coo"),
    "complex": (lambda: torch.ones(3, dtype=torch.complex64), "p must hold .*, got dtype torch.complex64"),
    "float8": (
        lambda: torch.ones(3).to(torch.float8_e4m3fn),
        # torch 2.4 has no name for it in DLPack.
        "p must hold .*, got dtype torch.float8_e4m3fn|p cannot be read: float8 types are not supported by dlpack",
    ),
}


def test_a_sparse_matrix_is_told_how_to_be_dense() -> None:
    sparse = pytest.importorskip("scipy.sparse").csr_matrix(np.eye(3))
    with pytest.raises(
        TypeError, match=r"must be an array of numbers, got csr_matrix \(dtype object\): pass p.toarray"
    ):
        kb.entropy(sparse)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(TypeError, match=message):
        kb.entropy(make(), given="counts")


def test_a_lazily_negated_tensor_is_read_as_it_is_seen() -> None:
    x = torch.tensor([1 - 2j, 3 - 1j]).conj().imag
    assert x.is_neg()
    same(kb.entropy(x, given="counts"), kb.entropy(np.array([2.0, 1.0], "f4"), given="counts"))


def test_of_fake_tensors_a_fake_tensor() -> None:
    with torch._subclasses.fake_tensor.FakeTensorMode():
        found = kb.entropy(torch.ones(2, 3, dtype=torch.float64), given="counts")
    assert type(found).__name__ == "FakeTensor" and found.shape == (2,) and found.dtype == torch.float64


class Producer:
    """A producer of DLPack that says that its memory is elsewhere, or knows the protocol before versions only."""

    def __init__(self, array: np.ndarray, device: tuple[int, int] = (1, 0), versions: bool = True) -> None:
        self.array, self.place, self.versions = array, device, versions

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.place

    def __dlpack__(self, **keywords: Any) -> Any:
        if keywords and not self.versions:
            raise TypeError("unexpected keyword argument")
        return self.array.__dlpack__(**keywords)


def test_other_producers_of_dlpack() -> None:
    x = matrix(5, 7, "logits", "f4")
    for versions in (True, False):
        got = kb.entropy(Producer(x, versions=versions), given="logits")
        assert type(got) is np.ndarray
        np.testing.assert_array_equal(got, kb.entropy(x, given="logits"))
    locked = x.copy()
    locked.flags.writeable = False
    np.testing.assert_array_equal(kb.entropy(Producer(locked), given="logits"), kb.entropy(x, given="logits"))
    with pytest.raises(TypeError, match=r"p must be on the CPU, got DLPack device \(2, 0\)|p must be on the CPU"):
        kb.entropy(Producer(x, device=(2, 0)), given="logits")


def test_jax() -> None:
    jax = pytest.importorskip("jax")
    for dtype in (jax.numpy.float32, jax.numpy.bfloat16, jax.numpy.float16):
        x = jax.numpy.asarray(matrix(5, 7, "logits", "f4")).astype(dtype)
        got = kb.entropy(x, given="logits")
        assert isinstance(got, jax.Array) and got.dtype == jax.numpy.float32
        np.testing.assert_array_equal(np.asarray(got), kb.entropy(np.asarray(x), given="logits"))
        with pytest.raises(TypeError, match="p and q must be of one kind"):
            kb.kl_divergence(x, logits(), given="logits")


def test_two_models_as_tensors() -> None:
    base, other = logits().to(torch.bfloat16), logits(seed=1).to(torch.bfloat16)
    labels, rows = torch.arange(5), torch.tensor([True, True, False, True, True])
    got = kb.compare(base, other, labels, rows=rows, num_classes=6)
    expected = kb.compare(array_of(base), array_of(other), labels.numpy(), rows=rows.numpy(), num_classes=6)
    assert list(got) == list(expected)
    for name in got:
        np.testing.assert_array_equal(got[name], expected[name])


def test_importing_the_package_and_scoring_a_list_does_not_import_torch() -> None:
    code = (
        "import sys, kullback as kb, kullback.functional as F; kb.entropy([0.5, 0.5]);"
        "F.softmax([0.0, 1.0], dim=0); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
