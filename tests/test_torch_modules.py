"""``kullback.nn``: torch's modules, saved, copied and trained with."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import numpy as np
import pytest
from tensors import DTYPES, assert_close, doubled, is_floating, mapped, seeded

torch = pytest.importorskip("torch")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    ["BCELoss", "BCEWithLogitsLoss", "CrossEntropyLoss", "KLDivLoss", "NLLLoss", "Softmax", "LogSoftmax", "Softmin"],
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_torchs_module_inputs(name: str, dtype: Any) -> None:
    from kullback import nn
    from torch.testing._internal.common_modules import module_db

    infos = [info for info in module_db if info.module_cls is getattr(torch.nn, name)]
    assert infos
    for info in infos:
        for sample in info.module_inputs_func(info, "cpu", dtype, requires_grad=False, training=True):
            args, kwargs = sample.constructor_input.args, sample.constructor_input.kwargs
            ours, theirs = getattr(nn, name)(*args, **kwargs), getattr(torch.nn, name)(*args, **kwargs)
            assert repr(ours) == repr(theirs)
            inputs = sample.forward_input.args
            expected = theirs(*inputs)
            exact = theirs.double()(*mapped(doubled, inputs))
            assert_close(ours(*inputs), exact, expected.dtype, 100.0)


MODULES: dict[str, tuple[dict[str, Any], tuple[Any, ...]]] = {
    "KLDivLoss": ({"reduction": "batchmean", "log_target": True}, (seeded(4, 3), seeded(4, 3))),
    "CrossEntropyLoss": (
        {"weight": seeded(3).exp(), "label_smoothing": 0.1, "reduction": "sum", "ignore_index": 2},
        (seeded(4, 3), torch.tensor([0, 2, 1, 0])),
    ),
    "NLLLoss": ({"weight": seeded(3).exp(), "ignore_index": 1}, (seeded(4, 3), torch.tensor([0, 2, 1, 0]))),
    "BCELoss": ({"weight": seeded(3).exp(), "reduction": "none"}, (seeded(4, 3).sigmoid(), seeded(3, 4).T.sigmoid())),
    "BCEWithLogitsLoss": (
        {"weight": seeded(3).exp(), "pos_weight": seeded(3).exp()},
        (seeded(4, 3), seeded(3, 4).T.sigmoid()),
    ),
    "Softmax": ({"dim": 0}, (seeded(4, 3),)),
    "LogSoftmax": ({"dim": -1}, (seeded(4, 3),)),
    "Softmin": ({"dim": 1}, (seeded(4, 3),)),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_saved_and_copied(name: str) -> None:
    from kullback import nn

    assert set(MODULES) == set(nn.__all__)
    options, inputs = MODULES[name]
    module, theirs = getattr(nn, name)(**options), getattr(torch.nn, name)(**options)
    expected = module(*inputs)
    torch.testing.assert_close(expected, theirs(*inputs))
    assert repr(module) == repr(theirs) and isinstance(module, type(theirs))
    assert list(module.state_dict()) == list(theirs.state_dict())
    buffer = io.BytesIO()
    torch.save(theirs.state_dict(), buffer)
    other = getattr(nn, name)(**{k: torch.zeros_like(v) if is_floating(v) else v for k, v in options.items()})
    other.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    for copied in (other, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(copied(*inputs), expected)
    single = module.float()(*(x.float() if is_floating(x) else x for x in inputs))
    assert single.dtype == torch.float32


def test_training_is_the_same_step_for_step() -> None:
    from kullback import nn
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    curves = []
    for library in (torch.nn, nn):
        torch.manual_seed(0)
        model = torch.nn.Linear(64, 10)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        loss = library.CrossEntropyLoss()  # type: ignore[attr-defined]
        curve = []
        for step in range(60):
            batch = slice(step * 29 % 1700, step * 29 % 1700 + 97)
            optimizer.zero_grad()
            value = loss(model(x[batch]), y[batch])
            value.backward()
            optimizer.step()
            curve.append((float(value.detach()), int((model(x).argmax(1) == y).sum())))
        curves.append(curve)
    theirs, ours = (np.array(c) for c in curves)
    np.testing.assert_allclose(ours[:, 0], theirs[:, 0], rtol=1e-5)
    np.testing.assert_array_equal(ours[:, 1], theirs[:, 1])
