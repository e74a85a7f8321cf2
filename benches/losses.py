"""torch's losses on tensors against torch itself: forward, and forward with backward, in interleaved rounds."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import kullback as kb
import kullback.functional as F
import torch

TF = torch.nn.functional
SHAPES = ((4, 16), (8192, 1000), (1_000_000, 10), (64, 128_256))


def ratio(ours: Callable[[], Any], theirs: Callable[[], Any], seconds: float) -> tuple[float, float, float]:
    """Give the median time of ours and of theirs, and the median of their ratio over interleaved rounds."""
    calls = []
    for function in (ours, theirs):
        function()
        start = time.perf_counter()
        function()
        calls.append(max(1, int(0.02 / (time.perf_counter() - start))))
    times: list[tuple[float, float]] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times) < 3:
        both = []
        for function, n in zip((ours, theirs), calls, strict=True):
            start = time.perf_counter()
            for _ in range(n):
                function()
            both.append((time.perf_counter() - start) / n)
        times.append((both[0], both[1]))
    one, other = zip(*times, strict=True)
    return statistics.median(one), statistics.median(other), statistics.median(b / a for a, b in times)


def cases(shape: tuple[int, int], dtype: torch.dtype) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Make pairs of calls: ours and torch's."""
    n, c = shape
    x, y = (torch.randn(n, c).to(dtype) for _ in range(2))
    labels = torch.randint(0, c, (n,))
    wanted_x, wanted_y = (v.clone().requires_grad_() for v in (x, y))
    probabilities = torch.rand(n, c).to(dtype)

    def backward(function: Callable[..., Any], *leaves: Any) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(function(*leaves), leaves)

    def theirs_kl(a: Any, b: Any) -> Any:
        return TF.kl_div(TF.log_softmax(b, 1), TF.log_softmax(a, 1), reduction="batchmean", log_target=True)

    def ours_kl(a: Any, b: Any) -> Any:
        return kb.kl_divergence(a, b, given="logits", reduction="mean")

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
    if shape == (4, 16):
        found["kl_div"] = (
            lambda: F.kl_div(x, probabilities, reduction="batchmean"),
            lambda: TF.kl_div(x, probabilities, reduction="batchmean"),
        )
        found["binary_cross_entropy"] = (
            lambda: F.binary_cross_entropy(probabilities, probabilities),
            lambda: TF.binary_cross_entropy(probabilities, probabilities),
        )
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of interleaved rounds for each line")
    seconds = parser.parse_args().seconds
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; kullback {kb.get_num_threads()} threads")
    print("| shape | dtype | call | kullback, µs | torch, µs | torch / kullback |\n|---|---|---|---|---|---|")
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            for name, (ours, theirs) in cases(shape, dtype).items():
                a, b, factor = ratio(ours, theirs, seconds)
                print(
                    f"| {shape[0]} × {shape[1]} | {str(dtype)[6:]} | {name} | {1e6 * a:.1f} | {1e6 * b:.1f} "
                    f"| {factor:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
