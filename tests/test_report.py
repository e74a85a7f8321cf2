"""``--html`` and notebooks: one file that needs nothing else, with the rows that differ most."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import kullback as kb
import numpy as np
import pytest
from arrays import generator
from test_cli import refused, run

VOID = {"meta", "img", "br"}
PNG = b"\x89PNG\r\n"


class Page(HTMLParser):
    """Checks that tags close in order, and collects cells and pictures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.pictures: list[bytes] = []
        self.title = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "img":
            found = dict(attrs)
            assert found["alt"]
            kind, _, data = str(found["src"]).partition(",")
            assert kind == "data:image/png;base64"
            self.pictures.append(base64.b64decode(data, validate=True))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        if self.open and self.open[-1] == "h1":
            self.title += data


def pair(folder: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = generator("report", shape)
    base = (2 * rng.standard_normal(shape)).astype(np.float32)
    other = (base + rng.random((*shape[:-1], 1)) * rng.standard_normal(shape)).astype(np.float32)
    labels = rng.integers(0, shape[-1], shape[:-1])
    for name, rows in (("base", base), ("<other>", other), ("labels", labels)):
        np.save(folder / f"{name}.npy", rows)
    return base, other, labels


@pytest.mark.parametrize("shape", [(7, 90, 30), (400, 30)])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_page_shows_the_rows_that_differ_most(tmp_path: Path, shape: tuple[int, ...], temperature: float) -> None:
    base, other, labels = pair(tmp_path, shape)
    page = tmp_path / "page.html"
    arguments = ["compare", tmp_path / "base.npy", tmp_path / "<other>.npy", "--labels", tmp_path / "labels.npy"]
    result = run(*arguments, "--html", page, "--temperature", temperature)
    assert result.exit_code == 0, result.stderr
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"(?:src|href)=[\"'](?!data:)|https?:|<script", text)
    found = Page(text)
    assert found.title == "base.npy against <other>.npy"
    assert len(found.pictures) == 2 and all(picture.startswith(PNG) for picture in found.pictures)
    both = kb.compare(base, other, labels, temperature=temperature)
    kl = both.kl.reshape(-1)
    worst = np.argsort(-kl, kind="stable")[:20]
    heads = next(i for i, row in enumerate(found.rows) if "row" in row)
    sequences = len(shape) > 2
    shown = found.rows[heads + 1 :]
    assert [int(row[0]) for row in shown] == worst.tolist()
    for row, i in zip(shown, worst, strict=True):
        if sequences:
            assert [int(row[1]), int(row[2])] == list(divmod(int(i), shape[1]))
        cells = row[1 + 2 * sequences :]
        assert cells[0] == f"{kl[i]:.4g}" and int(cells[1]) == labels.reshape(-1)[i]
        for cell, rows in zip(cells[-2:], (base, other), strict=True):
            logits = rows.reshape(-1, shape[-1])[i].astype(np.float64) / temperature
            probs = np.exp(logits) / np.exp(logits).sum()
            best = np.argsort(-probs, kind="stable")[:5]
            classes = [f"{c}: {100 * probs[c]:.3g} %".replace(" ", "\N{NO-BREAK SPACE}") for c in best]
            assert cell == "\N{NO-BREAK SPACE}· ".join(classes)


def test_pages_of_little_and_of_nothing(tmp_path: Path) -> None:
    pair(tmp_path, (3, 4))
    page = tmp_path / "page.html"
    assert run("compare", tmp_path / "base.npy", tmp_path / "base.npy", "--html", page).exit_code == 0
    assert len(Page(page.read_text(encoding="utf-8")).pictures) == 2
    np.save(tmp_path / "mask.npy", np.zeros(3, bool))
    options = ["--mask", tmp_path / "mask.npy", "--html", page]
    assert run("compare", tmp_path / "base.npy", tmp_path / "base.npy", *options).exit_code == 0
    assert Page(page.read_text(encoding="utf-8")).pictures == []
    assert run("compare", tmp_path / "base.npy", tmp_path / "base.npy", "--html", tmp_path / "x.pdf").exit_code == 2
    page.unlink()
    np.save(tmp_path / "bad.npy", np.full((4, 4), 0.25))
    assert "different rows" in refused(run("compare", tmp_path / "base.npy", tmp_path / "bad.npy", "--html", page))
    assert not page.exists()


def test_a_notebook_shows_table_and_picture() -> None:
    rng = generator("notebook")
    base = rng.standard_normal((3, 50, 8))
    both = kb.compare(base, base + 0.1 * rng.standard_normal(base.shape), rng.integers(0, 8, (3, 50)))
    page = Page(both._repr_html_())
    assert len(page.pictures) == 1 and page.rows
    assert Page(kb.compare(base, base, columns=["js"])._repr_html_()).pictures == []
