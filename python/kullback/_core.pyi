from typing import Any, Literal, SupportsIndex, TypeAlias, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

_Given: TypeAlias = Literal["probs", "counts", "log_probs", "logits"]
_Spaces: TypeAlias = _Given | tuple[_Given, _Given]
_Flags: TypeAlias = NDArray[np.bool_]

__version__: str
__all__ = [
    "__version__",
    "cross_entropy",
    "entropy",
    "get_num_threads",
    "js_distance",
    "js_divergence",
    "kl_divergence",
    "nll",
    "set_num_threads",
]

QUANTITIES: dict[str, tuple[str, ...]]

def as_ndarray(obj: Any, name: str) -> NDArray[Any]: ...
def as_rows(obj: Any, name: str) -> NDArray[Any] | Chunks: ...

@final
class Chunks:
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def reach(self, /, start: int) -> int: ...
    def block(self, /, start: int, stop: int) -> NDArray[Any]: ...

def number_strings(column: Any) -> list[NDArray[np.int64]]: ...
def merge_clamped(
    matrices: list[tuple[NDArray[Any], str]], classes: int, threads: int | None = None
) -> list[tuple[NDArray[Any], NDArray[np.float64], NDArray[np.int64]]]: ...
def clipped_divergence(
    base: NDArray[Any],
    other: NDArray[Any],
    base_shifts: NDArray[np.float64],
    other_shifts: NDArray[np.float64],
    classes: int,
    threads: int | None = None,
) -> NDArray[np.float64]: ...
def entropy(
    p: ArrayLike,
    *,
    given: _Spaces = "probs",
    dtype: Literal["bfloat16"] | None = None,
    axis: SupportsIndex = -1,
    keepdims: bool = False,
    base: float | None = None,
    temperature: float | tuple[float, float] = 1.0,
    reduction: Literal["none", "sum", "mean"] = "none",
    where: _Flags | None = None,
    rows: _Flags | None = None,
    on_invalid: Literal["raise", "nan"] = "raise",
    out: NDArray[Any] | None = None,
    threads: int | None = None,
) -> Any: ...
def cross_entropy(
    p: ArrayLike,
    q: ArrayLike,
    *,
    given: _Spaces = "probs",
    dtype: Literal["bfloat16"] | None = None,
    axis: SupportsIndex = -1,
    keepdims: bool = False,
    base: float | None = None,
    temperature: float | tuple[float, float] = 1.0,
    reduction: Literal["none", "sum", "mean"] = "none",
    where: _Flags | None = None,
    rows: _Flags | None = None,
    on_invalid: Literal["raise", "nan"] = "raise",
    out: NDArray[Any] | None = None,
    threads: int | None = None,
) -> Any: ...

kl_divergence = cross_entropy
js_divergence = cross_entropy
js_distance = cross_entropy

def nll(
    q: ArrayLike,
    labels: ArrayLike,
    *,
    ignore_index: int | None = None,
    given: _Spaces = "probs",
    dtype: Literal["bfloat16"] | None = None,
    axis: SupportsIndex = -1,
    keepdims: bool = False,
    base: float | None = None,
    temperature: float | tuple[float, float] = 1.0,
    reduction: Literal["none", "sum", "mean"] = "none",
    where: _Flags | None = None,
    rows: _Flags | None = None,
    on_invalid: Literal["raise", "nan"] = "raise",
    out: NDArray[Any] | None = None,
    threads: int | None = None,
) -> Any: ...
def quantity(
    save: bool,
    p: Any,
    q: Any,
    labels: Any,
    where: Any,
    rows: Any,
    name: str,
    ignore_index: int | None,
    given: _Spaces,
    axis: SupportsIndex,
    keepdims: bool,
    base: float | None,
    temperature: float | tuple[float, float],
    reduction: str,
    on_invalid: str,
    threads: int | None,
) -> tuple[Any, Any]: ...
def quantity_backward(
    wanted: tuple[bool, bool],
    grad: Any,
    saved: Any,
    p: Any,
    q: Any,
    labels: Any,
    where: Any,
    rows: Any,
    name: str,
    ignore_index: int | None,
    given: _Spaces,
    axis: SupportsIndex,
    keepdims: bool,
    base: float | None,
    temperature: float | tuple[float, float],
    reduction: str,
    threads: int | None,
) -> tuple[Any, Any]: ...
def softmax(name: str, input: Any, dim: SupportsIndex) -> Any: ...
def softmax_backward(name: str, grad: Any, result: Any, dim: SupportsIndex) -> Any: ...
def logsumexp(input: Any, dim: SupportsIndex, keepdim: bool, wide: bool = False, like: Any = None) -> Any: ...
def logsumexp_backward(grad: Any, input: Any, result: Any) -> Any: ...
def kl_div(input: Any, target: Any, reduction: str, log_target: bool) -> Any: ...
def kl_div_backward(grad: Any, input: Any, target: Any, reduction: str, log_target: bool, by_target: bool) -> Any: ...
def binary_cross_entropy(
    input: Any, target: Any, weight: Any, pos_weight: Any, reduction: str, logits: bool
) -> Any: ...
def binary_cross_entropy_backward(
    grad: Any, input: Any, target: Any, weight: Any, pos_weight: Any, reduction: str, logits: bool, by_target: bool
) -> Any: ...
def cross_entropy_loss(
    input: Any,
    target: Any,
    weight: Any,
    ignore_index: SupportsIndex,
    reduction: str,
    label_smoothing: float,
    save: bool,
    ahead: bool,
) -> tuple[Any, Any, Any]: ...
def cross_entropy_backward(
    grad: Any,
    input: Any,
    target: Any,
    weight: Any,
    ignore_index: SupportsIndex,
    reduction: str,
    label_smoothing: float,
    saved: Any,
    wanted: tuple[bool, bool, bool],
) -> tuple[Any, Any, Any]: ...
def nll_loss(
    input: Any, target: Any, weight: Any, ignore_index: SupportsIndex, reduction: str, save: bool
) -> tuple[Any, Any]: ...
def nll_loss_backward(
    grad: Any, input: Any, target: Any, weight: Any, ignore_index: SupportsIndex, reduction: str, saved: Any
) -> Any: ...
def compare_columns(
    base: Any,
    other: Any,
    labels: ArrayLike | None = None,
    *,
    given: _Spaces = "logits",
    dtype: Literal["bfloat16"] | None = None,
    axis: SupportsIndex = -1,
    temperature: float | tuple[float, float] = 1.0,
    where: _Flags | None = None,
    rows: _Flags | None = None,
    ignore_index: int | None = -100,
    columns: tuple[str, ...] | list[str],
    on_invalid: Literal["raise", "nan"] = "raise",
    threads: int | None = None,
) -> tuple[dict[str, NDArray[Any]], NDArray[np.uint8]]: ...
def count_values(
    groups: NDArray[Any], group_span: tuple[int, int], values: NDArray[Any], value_span: tuple[int, int]
) -> NDArray[np.int64]: ...
def set_num_threads(n: int) -> None: ...
def get_num_threads() -> int: ...
def simd_level() -> str: ...
def simd_levels() -> list[str]: ...
def set_simd_level(name: str) -> None: ...

@final
class ExactSum:
    def __new__(cls) -> ExactSum: ...
    def add(self, a: NDArray[np.float32] | NDArray[np.float64]) -> None: ...
    def add_product(
        self, a: NDArray[np.float32] | NDArray[np.float64], b: NDArray[np.float32] | NDArray[np.float64]
    ) -> None: ...
    def merge(self, other: ExactSum) -> None: ...
    def value(self) -> float: ...
    def __getstate__(self) -> list[int]: ...
    def __setstate__(self, state: list[int]) -> None: ...

@final
class GroupSums:
    def __new__(cls) -> GroupSums: ...
    def add(self, values: NDArray[np.float32] | NDArray[np.float64], groups: NDArray[np.uint32]) -> None: ...
    def merge(self, other: GroupSums, groups: NDArray[np.uint32]) -> None: ...
    def sums(self) -> list[int | None]: ...
    def __getstate__(self) -> list[int]: ...
    def __setstate__(self, state: list[int]) -> None: ...
