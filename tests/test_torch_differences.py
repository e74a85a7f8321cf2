"""Where ``kullback.functional`` differs from torch on purpose: what docs/torch.md lists."""

from __future__ import annotations

import kullback.functional as F
import numpy as np
import pytest
from tensors import LONG, OLDEST, seeded

torch = pytest.importorskip("torch")
TF = torch.nn.functional


def test_half_precision_is_accumulated_wide() -> None:
    flat, labels = torch.zeros(16384, 64, dtype=torch.float16), torch.zeros(16384, dtype=LONG)
    assert TF.cross_entropy(flat, labels).isinf()
    assert F.cross_entropy(flat, labels) == torch.tensor(np.log(64.0), dtype=torch.float16)


def test_small_losses_keep_their_digits() -> None:
    x, y = torch.tensor([[20.0, 0.0]]), torch.tensor([0])
    assert TF.cross_entropy(x, y) == 0
    assert float(F.cross_entropy(x, y)) == pytest.approx(2.061153620e-09, rel=1e-6)
    x, y = torch.tensor([-20.0]), torch.tensor([0.0])
    assert TF.binary_cross_entropy_with_logits(x, y) == 0
    assert float(F.binary_cross_entropy_with_logits(x, y)) == pytest.approx(2.061153620e-09, rel=1e-6)


def test_bfloat16_is_rounded_once() -> None:
    p = torch.tensor([1 / 3, 2 / 3], dtype=torch.bfloat16).expand(64, 2)
    log_p = p.log()
    exact = TF.kl_div(log_p.double(), p.double(), reduction="sum")
    assert TF.kl_div(log_p, p, reduction="sum") == 0
    assert F.kl_div(log_p, p, reduction="sum") == exact.bfloat16() == torch.tensor(-0.0288, dtype=torch.bfloat16)
    logits, y = torch.tensor([[0.0, 1.0]], dtype=torch.bfloat16).expand(100, 2), torch.zeros(100, dtype=LONG)
    exact = TF.cross_entropy(logits.double(), y, reduction="sum")
    assert F.cross_entropy(logits, y, reduction="sum") == exact.bfloat16() == 131
    assert TF.cross_entropy(logits, y, reduction="sum") == 130


def test_an_infinite_target_of_kl_div_is_infinite_and_a_binary_one_gives_no_number() -> None:
    x, t = torch.zeros(1), torch.tensor([torch.inf])
    assert TF.kl_div(x, t, reduction="sum").isnan() and F.kl_div(x, t, reduction="sum") == torch.inf
    x = torch.ones(1)
    assert TF.binary_cross_entropy_with_logits(x, t) == -torch.inf
    assert F.binary_cross_entropy_with_logits(x, t).isnan()


@pytest.mark.parametrize("weight", [torch.inf, -torch.inf])
def test_an_infinite_weight_of_the_positives(weight: float) -> None:
    p = torch.tensor([weight])
    for x in (-2.0, 0.0, 1.0):
        for t in (0.5, 1.0):
            args = torch.tensor([x]), torch.tensor([t])
            expected = TF.binary_cross_entropy_with_logits(*args, pos_weight=p)
            assert F.binary_cross_entropy_with_logits(*args, pos_weight=p) == expected == weight
            for function, slope in (
                (TF.binary_cross_entropy_with_logits, torch.nan),
                (F.binary_cross_entropy_with_logits, -weight),
            ):
                leaves = [arg.clone().requires_grad_() for arg in args]
                grads = torch.autograd.grad(function(*leaves, pos_weight=p), leaves)
                np.testing.assert_array_equal(torch.cat(grads), [slope, weight])
        negative = torch.tensor([x]), torch.zeros(1)
        assert TF.binary_cross_entropy_with_logits(*negative, pos_weight=p).isnan()
        assert F.binary_cross_entropy_with_logits(*negative, pos_weight=p).isnan()


def test_a_weight_of_the_positives_of_bytes_or_booleans_is_a_number() -> None:
    x, t = seeded(3, dtype=torch.float32), torch.tensor([0.0, 0.5, 1.0])
    for weight in (torch.tensor([0, 1, 0]), torch.tensor([1, 1, 0])):
        expected = F.binary_cross_entropy_with_logits(x, t, pos_weight=weight.float())
        torch.testing.assert_close(TF.binary_cross_entropy_with_logits(x, t, pos_weight=weight), expected)
        for dtype in (torch.uint8, torch.bool):
            assert F.binary_cross_entropy_with_logits(x, t, pos_weight=weight.to(dtype)) == expected
        # 0 - 1 is 255 there.
        assert TF.binary_cross_entropy_with_logits(x, t, pos_weight=weight.byte()) > 2 * expected
        with pytest.raises(RuntimeError, match="Subtraction"):
            TF.binary_cross_entropy_with_logits(x, t, pos_weight=weight.bool())


def test_a_class_weight_has_one_axis() -> None:
    x, y, weight = seeded(2, 3, 4), torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]]), torch.ones(1, 3).double()
    assert TF.nll_loss(x, y, weight).isfinite()
    with pytest.raises(RuntimeError, match="weight tensor should be defined either for all"):
        F.nll_loss(x, y, weight)


def test_of_two_errors_either_is_raised() -> None:
    integers, probabilities = torch.ones(2, 3, dtype=LONG), torch.ones(2)
    theirs = "not implemented for 'Long'" if OLDEST else "expected target dtype to be Long or Byte, but got Float"
    with pytest.raises(RuntimeError, match=theirs):
        TF.nll_loss(integers, probabilities)
    with pytest.raises(NotImplementedError, match="not implemented for 'Long'"):
        F.nll_loss(integers, probabilities)


def test_an_axis_that_is_no_integer_is_a_type_error() -> None:
    x = seeded(2, 3)
    for function in (torch.logsumexp, F.logsumexp, TF.softmax, F.softmax, TF.log_softmax, F.log_softmax):
        with pytest.raises(TypeError):
            function(x, 1.5)
    with pytest.raises(TypeError):
        TF.softmax(x, True)
    assert torch.equal(F.softmax(x, True), F.softmax(x, 1))


def test_infinite_weights_and_probabilities_give_no_number() -> None:
    x, w = seeded(2, 3), torch.tensor([1.0, torch.inf, 1.0]).double()
    for t, weight in ((x.exp(), w), (x.exp() * w, None)):
        assert TF.cross_entropy(x, t, weight).isinf()
        assert F.cross_entropy(x, t, weight).isnan()


def test_the_log_sum_exp_of_infinity_has_no_gradient() -> None:
    for function, expected in ((torch.logsumexp, [torch.nan, 0.0]), (F.logsumexp, [torch.nan, torch.nan])):
        x = torch.tensor([torch.inf, 0.0], requires_grad=True)
        np.testing.assert_array_equal(torch.autograd.grad(function(x, 0), x)[0], expected)


def test_labels_of_bytes_are_labels_everywhere() -> None:
    x, y = seeded(2, 3, 4), torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])
    for name in ("cross_entropy", "nll_loss"):
        with pytest.raises(RuntimeError, match="expected scalar type Long but found Byte"):
            getattr(TF, name)(x, y.byte())
        assert torch.equal(getattr(F, name)(x, y.byte()), getattr(F, name)(x, y))


def test_one_row_may_have_its_label_in_an_array_of_one() -> None:
    x, y = seeded(3).requires_grad_(), torch.tensor([1])
    with pytest.raises(RuntimeError, match="size mismatch"):
        TF.cross_entropy(x, y).backward()
    F.cross_entropy(x, y).backward()
    torch.testing.assert_close(x.grad, torch.autograd.grad(F.cross_entropy(x, y[0]), x)[0])
    with pytest.raises(RuntimeError, match="size mismatch" if OLDEST else "doesn't match the broadcast shape"):
        TF.cross_entropy(x, y, label_smoothing=0.1)
    assert F.cross_entropy(x, y, label_smoothing=0.1) == F.cross_entropy(x, y[0], label_smoothing=0.1)


def test_the_gradient_of_a_row_that_is_ignored_is_zero_whatever_it_holds() -> None:
    logits = torch.tensor([[torch.nan, 0.0], [1.0, 2.0]], requires_grad=True)
    F.cross_entropy(logits, torch.tensor([-100, 1])).backward()
    assert logits.grad is not None and torch.equal(logits.grad[0], torch.zeros(2))
    assert logits.grad[1].isfinite().all()
