"""How fast are torch's losses on tensors, forward and with their gradients: against torch itself.

Answers are held against torch's before they are timed, and the two run in turn in one process. Exits with 1 if an
answer is wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import kullback as kb
import kullback.functional as F
import torch
import torch.nn.functional as TF
from harness import Race, cpu_model, load, markdown, race, race_statements, significant

SHAPES: tuple[tuple[int, ...], ...] = ((4, 16), (8192, 1000), (1_000_000, 10), (64, 128_256), (8, 19, 128, 128))
TINY = (4, 16)
"""Calls of microseconds, which are timed in loops."""


def cases(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Make pairs of calls: ours and torch's."""
    n, c, *inner = shape
    x, y = (torch.randn(shape).to(dtype) for _ in range(2))
    labels = torch.randint(0, c, (n, *inner))
    wanted_x, wanted_y = (v.clone().requires_grad_() for v in (x, y))
    probabilities = torch.rand(shape).to(dtype)

    def backward(function: Callable[..., Any], *leaves: Any) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(function(*leaves), leaves)

    def theirs_kl(a: Any, b: Any) -> Any:
        return TF.kl_div(TF.log_softmax(b, 1), TF.log_softmax(a, 1), reduction="sum", log_target=True)

    def ours_kl(a: Any, b: Any) -> Any:
        return kb.kl_divergence(a, b, given="logits", axis=1, reduction="sum")

    found = {
        "cross_entropy": (lambda: F.cross_entropy(x, labels), lambda: TF.cross_entropy(x, labels)),
        "cross_entropy backward": (
            backward(lambda v: F.cross_entropy(v, labels), wanted_x),
            backward(lambda v: TF.cross_entropy(v, labels), wanted_x),
        ),
        "KL of logits": (lambda: ours_kl(x, y), lambda: theirs_kl(x, y)),
        "KL of logits backward": (backward(ours_kl, wanted_x, wanted_y), backward(theirs_kl, wanted_x, wanted_y)),
        "softmax": (lambda: F.softmax(x, 1), lambda: TF.softmax(x, 1)),
    }
    if shape == TINY:
        found["kl_div"] = (
            lambda: F.kl_div(x, probabilities, reduction="batchmean"),
            lambda: TF.kl_div(x, probabilities, reduction="batchmean"),
        )
        found["binary_cross_entropy"] = (
            lambda: F.binary_cross_entropy(probabilities, probabilities),
            lambda: TF.binary_cross_entropy(probabilities, probabilities),
        )
    return found


def same(ours: Any, theirs: Any, dtype: torch.dtype) -> bool:
    """Whether answers agree, relative to the largest, to what torch keeps: in bfloat16 it rounds every step."""
    both = [x if isinstance(x, tuple) else (x,) for x in (ours, theirs)]
    share = {torch.float32: 1e-4, torch.bfloat16: 0.05}[dtype]
    return all(bool((a - b).abs().max() <= share * b.abs().max()) for a, b in zip(*both, strict=True))


def timed(calls: dict[str, Callable[[], Any]], tiny: bool, smoke: bool) -> Race:
    """Time the two in turn."""
    if tiny:
        statements = {name: f"{name}()" for name in calls}
        return race_statements(statements, calls, rounds=1 if smoke else 21, loop_seconds=1e-3 if smoke else 2e-2)
    return race(calls, rounds=1 if smoke else None, budget=3.0)


def main() -> int:
    """Race everything and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, one round")
    smoke = parser.parse_args().smoke
    torch.manual_seed(0)
    threads = f"{torch.get_num_threads()} and {kb.get_num_threads()} threads"
    print(f"{cpu_model()}, torch {torch.__version__} and kullback on {threads}, load {load()}\n")
    lines: list[list[str]] = []
    wrong: list[str] = []
    for shape in ((4, 16), (20, 300), (2, 19, 3, 5)) if smoke else SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            for name, (ours, theirs) in cases(shape, dtype).items():
                title = [f"{name}, {' × '.join(f'{k:,}' for k in shape)}", str(dtype).removeprefix("torch.")]
                if not same(ours(), theirs(), dtype):
                    wrong.append(" ".join(title))
                found = timed({"kullback": ours, "torch": theirs}, shape == TINY, smoke)
                microseconds = [significant(1e6 * found.median(who)) for who in ("kullback", "torch")]
                lines.append([*title, *microseconds, significant(found.ratio("torch", "kullback"))])
    print(markdown(["", "dtype", "kullback, µs", "torch, µs", "torch / kullback"], lines))
    for differs in wrong:
        print(f"WRONG: {differs} differs from torch")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
