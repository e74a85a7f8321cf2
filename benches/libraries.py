"""How each library is asked for each quantity: one line per library and measure, as its documentation spells it.

A library that is not installed is left out. ``convert`` turns an array into the library's own type and is never timed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Measure(StrEnum):
    """What is computed: a value per row."""

    ENTROPY_PROBS = "entropy of probabilities"
    ENTROPY_LOGITS = "entropy from logits"
    CROSS_ENTROPY = "cross entropy, logits, index labels"
    KL_PROBS = "KL of probabilities"
    KL_LOGITS = "KL of two logit rows"
    JS_LOGITS = "JS of two logit rows"
    JS_PROBS = "JS distance of probabilities"
    JS_COUNTS = "JS distance of counts"
    JS_PAIRWISE = "pairwise JS distance"


@dataclass(frozen=True)
class Library:
    """A library: its name, version, measures, and the dtypes (numpy's names) it takes."""

    name: str
    version: str
    measures: dict[Measure, Callable[..., Any]]
    convert: Callable[[Array], Any] = np.asarray
    dtypes: frozenset[str] = frozenset({"float32", "float64"})
    threads: str = "as set"

    def takes(self, measure: Measure, dtype: str) -> bool:
        """Whether the library computes the measure on arrays of this dtype."""
        return measure in self.measures and dtype in self.dtypes


def optional(module: str) -> Any | None:
    """Import a module, or return None where it is not installed; one that is but does not load raises."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module + ".").startswith(error.name + "."):
            return None
        raise


def version_of(distribution: str) -> str:
    """Return the installed version, or 'unknown'."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def values(result: Any) -> NDArray[np.float64]:
    """Any library's result as float64 values."""
    if hasattr(result, "detach"):
        result = result.detach().double().numpy()
    return np.asarray(result).astype(np.float64)


def kullback(threads: int) -> Library:
    """Bind the package under test, set to ``threads`` threads."""
    kb = importlib.import_module("kullback")
    kb.set_num_threads(threads)
    everything = {"float16", "float32", "float64", "bfloat16"}
    return Library(
        name="kullback",
        version=version_of("kullback"),
        dtypes=frozenset(everything),
        measures={
            Measure.ENTROPY_PROBS: lambda p, **kw: kb.entropy(p, **kw),
            Measure.ENTROPY_LOGITS: lambda x, **kw: kb.entropy(x, given="logits", **kw),
            Measure.CROSS_ENTROPY: lambda x, labels, **kw: kb.nll(x, labels, given="logits", **kw),
            Measure.KL_PROBS: lambda p, q, **kw: kb.kl_divergence(p, q, **kw),
            Measure.KL_LOGITS: lambda a, b, **kw: kb.kl_divergence(a, b, given="logits", **kw),
            Measure.JS_LOGITS: lambda a, b, **kw: kb.js_divergence(a, b, given="logits", **kw),
            Measure.JS_PROBS: lambda p, q, **kw: kb.js_distance(p, q, **kw),
            Measure.JS_COUNTS: lambda p, q, **kw: kb.js_distance(p, q, given="counts", **kw),
            Measure.JS_PAIRWISE: lambda p, q, **kw: kb.js_distance(p[:, None], q[None], **kw),
        },
    )


def torch(threads: int) -> Library | None:
    """Eager torch."""
    th = optional("torch")
    if th is None:
        return None
    th.set_num_threads(threads)
    th.set_grad_enabled(False)
    f = th.nn.functional

    def convert(x: Array) -> Any:
        if x.dtype.name == "bfloat16":
            return th.from_numpy(x.view(np.uint16)).view(th.bfloat16)
        return th.from_numpy(x)

    def entropy_logits(x: Any) -> Any:
        log_p = f.log_softmax(x, dim=-1)
        return -(log_p.exp() * log_p).sum(-1)

    def kl_logits(a: Any, b: Any) -> Any:
        log_p, log_q = f.log_softmax(a, dim=-1), f.log_softmax(b, dim=-1)
        return f.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)

    def js_of_log_probs(log_p: Any, log_q: Any) -> Any:
        log_m = ((log_p.exp() + log_q.exp()) / 2).log()
        first = f.kl_div(log_m, log_p, log_target=True, reduction="none").sum(-1)
        second = f.kl_div(log_m, log_q, log_target=True, reduction="none").sum(-1)
        return (first + second) / 2

    def js_distance(p: Any, q: Any) -> Any:
        log_m = ((p + q) / 2).log()
        first = f.kl_div(log_m, p, reduction="none").sum(-1)
        second = f.kl_div(log_m, q, reduction="none").sum(-1)
        return ((first + second) / 2).sqrt()

    return Library(
        name="torch",
        version=version_of("torch"),
        convert=convert,
        dtypes=frozenset({"float16", "float32", "float64", "bfloat16"}),
        measures={
            Measure.ENTROPY_PROBS: lambda p: th.special.entr(p).sum(-1),
            Measure.ENTROPY_LOGITS: entropy_logits,
            Measure.CROSS_ENTROPY: lambda x, labels: f.cross_entropy(x, labels, reduction="none"),
            Measure.KL_PROBS: lambda p, q: f.kl_div(q.log(), p, reduction="none").sum(-1),
            Measure.KL_LOGITS: kl_logits,
            Measure.JS_LOGITS: lambda a, b: js_of_log_probs(f.log_softmax(a, dim=-1), f.log_softmax(b, dim=-1)),
            Measure.JS_PROBS: js_distance,
            Measure.JS_COUNTS: lambda p, q: js_distance(p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)),
        },
    )


def scipy() -> Library | None:
    """Scipy's array functions, which are faster than ``stats.entropy``: that one is timed on a single row only."""
    if optional("scipy") is None:
        return None
    special = importlib.import_module("scipy.special")
    distance = importlib.import_module("scipy.spatial.distance")

    def cross_entropy(x: Array, labels: Array) -> Any:
        return -np.take_along_axis(special.log_softmax(x, axis=-1), labels[..., None], axis=-1)[..., 0]

    def entropy_logits(x: Array) -> Any:
        return special.entr(special.softmax(x, axis=-1)).sum(-1)

    def kl_logits(a: Array, b: Array) -> Any:
        log_p, log_q = special.log_softmax(a, axis=-1), special.log_softmax(b, axis=-1)
        return (np.exp(log_p) * (log_p - log_q)).sum(-1)

    def js_logits(a: Array, b: Array) -> Any:
        return distance.jensenshannon(special.softmax(a, axis=-1), special.softmax(b, axis=-1), axis=-1) ** 2

    return Library(
        name="scipy",
        version=version_of("scipy"),
        threads="1",
        measures={
            Measure.ENTROPY_PROBS: lambda p: special.entr(p).sum(-1),
            Measure.ENTROPY_LOGITS: entropy_logits,
            Measure.CROSS_ENTROPY: cross_entropy,
            Measure.KL_PROBS: lambda p, q: special.rel_entr(p, q).sum(-1),
            Measure.KL_LOGITS: kl_logits,
            Measure.JS_LOGITS: js_logits,
            Measure.JS_PROBS: lambda p, q: distance.jensenshannon(p, q, axis=-1),
            Measure.JS_COUNTS: lambda p, q: distance.jensenshannon(p, q, axis=-1),
            Measure.JS_PAIRWISE: lambda p, q: distance.cdist(p, q, "jensenshannon"),
        },
    )


def simd_distances(module: str, name: str, distribution: str) -> Library | None:
    """Bind NumKong, or SimSIMD as it was called before: row pairs of probabilities in one call, one thread."""
    nk = optional(module)
    if nk is None:
        return None
    return Library(
        name=name,
        version=version_of(distribution),
        threads="1",
        measures={
            Measure.KL_PROBS: lambda p, q: nk.kullbackleibler(p, q),
            Measure.JS_PROBS: lambda p, q: nk.jensenshannon(p, q),
            Measure.JS_PAIRWISE: lambda p, q: nk.cdist(p, q, metric="jensenshannon"),
        },
    )


def jax(threads: int, available: int) -> Library | None:
    """jax, jitted. Its thread pool has the size of the machine: it is left out of runs on fewer threads."""
    jx = optional("jax") if threads == available else None
    if jx is None:
        return None
    jnp = jx.numpy

    def kl_logits(a: Any, b: Any) -> Any:
        log_p, log_q = jx.nn.log_softmax(a), jx.nn.log_softmax(b)
        return (jnp.exp(log_p) * (log_p - log_q)).sum(-1)

    def entropy_logits(x: Any) -> Any:
        log_p = jx.nn.log_softmax(x)
        return -(jnp.exp(log_p) * log_p).sum(-1)

    def cross_entropy(x: Any, labels: Any) -> Any:
        return -jnp.take_along_axis(jx.nn.log_softmax(x), labels[..., None], axis=-1)[..., 0]

    def jitted(f: Callable[..., Any]) -> Callable[..., Any]:
        compiled = jx.jit(f)
        return lambda *rows: compiled(*rows).block_until_ready()

    return Library(
        name="jax",
        version=version_of("jax"),
        convert=jnp.asarray,
        dtypes=frozenset({"float32", "bfloat16"}),
        threads="its own pool",
        measures={
            Measure.KL_LOGITS: jitted(kl_logits),
            Measure.ENTROPY_LOGITS: jitted(entropy_logits),
            Measure.CROSS_ENTROPY: jitted(cross_entropy),
        },
    )


def polars() -> Library | None:
    """polars, for the edge cases: its entropy takes one series."""
    pl = optional("polars")
    if pl is None:
        return None
    return Library(
        name="polars",
        version=version_of("polars"),
        threads="as set",
        measures={Measure.ENTROPY_PROBS: lambda p: pl.Series(np.ravel(p)).entropy()},
    )


def peers(threads: int, available: int) -> list[Library]:
    """Return the libraries that are installed, in the order of the tables' columns."""
    found = [
        torch(threads),
        scipy(),
        simd_distances("numkong", "NumKong", "numkong"),
        simd_distances("simsimd", "SimSIMD", "simsimd"),
        jax(threads, available),
    ]
    return [library for library in found if library is not None]
