"""``--top-k``: the share of the k best classes that two models have in common, against plain sorting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from arrays import generator
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from kullback.cli.overlap import best_classes
from test_cli import document, refused, run


@given(
    rows=hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 9)), elements=st.integers(-2, 2)),
    data=st.data(),
)
def test_best_classes_are_those_of_a_stable_sort(rows: np.ndarray, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, rows.shape[1]))
    assert best_classes(rows, k).tolist() == np.argsort(-rows, axis=1, kind="stable")[:, :k].tolist()


def test_a_row_with_nan_disturbs_no_other() -> None:
    rows = np.array([[np.nan, 1, 2], [3, 1, 2], [np.nan] * 3, [-np.inf, 0, -np.inf]], np.float32)
    found = best_classes(rows, 2)
    assert found[1].tolist() == [0, 2] and found[3].tolist() == [1, 0] and found.shape == (4, 2)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_overlap_is_the_share_of_common_classes(tmp_path: Path, dtype: type) -> None:
    rng = generator("overlap")
    base = rng.standard_normal((6, 40, 30)).astype(dtype)
    other = (base + 0.5 * rng.standard_normal(base.shape)).astype(dtype)
    labels = rng.integers(0, 30, (6, 40))
    labels[::2, ::3] = -100
    for name, rows in (("base", base), ("other", other), ("labels", labels)):
        np.save(tmp_path / f"{name}.npy", rows)
    arguments = ["compare", tmp_path / "base.npy", tmp_path / "other.npy", "--labels", tmp_path / "labels.npy"]
    found = document(*arguments, "--top-k", "10,1,5")["top_k"]
    assert list(found) == ["1", "5", "10"]
    orders = [np.argsort(-x.astype(np.float64), axis=-1, kind="stable") for x in (base, other)]
    for k in (1, 5, 10):
        shares = np.array([
            len({*a[:k]} & {*b[:k]}) / k
            for a, b in zip(*(x.reshape(-1, 30).tolist() for x in orders), strict=True)
        ])  # fmt: skip
        of_scored = shares[labels.reshape(-1) != -100]
        assert found[str(k)]["share"] == pytest.approx(of_scored.mean(), rel=1e-14)
        assert found[str(k)]["groups"] == 6
    assert found["1"]["share"] == document(*arguments)["same_top"]["share"]
    assert "overlap of top-1" in run(*arguments, "--top-k", "1,5").stdout
    assert run(*arguments, "--top-k", "5", "--fail-if", "top_k.5.share<1").exit_code == 4
    assert run(*arguments, "--top-k", "0").exit_code == 2
    assert "--top-k 31 is more than the 30 classes" in refused(run(*arguments, "--top-k", "31"))
