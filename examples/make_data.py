"""Make the example data: the outputs of two small models and of the same models with quantised weights.

``python examples/make_data.py [FOLDER]`` writes the files that README.md beside this script describes (default: this
folder). It needs scikit-learn and wordsegment, both of which ship their data, and no network. Everything is seeded,
and both models are the solutions of well-posed problems (a strictly convex loss solved to its optimum, a
truncated singular value decomposition), so that another machine gives the same files up to the last bit or two.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import wordsegment
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MADE_WITH = {"numpy": "2.4.6", "scikit-learn": "1.9.1", "scipy": "1.17.1", "wordsegment": "1.3.1"}
"""The versions that made the committed files."""


def quantise(weights: Floats, bits: int, block: int) -> Floats:
    """Round each block of weights to the multiples of a scale of its own: signed integers of `bits` bits, symmetric."""
    blocks = weights.reshape(-1, block)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
    scale[scale == 0.0] = 1.0
    rounded: Floats = (np.rint(blocks / scale) * scale).reshape(weights.shape)
    return rounded


def digits() -> tuple[dict[str, NDArray[np.float32]], Ints]:
    """Score scikit-learn's digits that a logistic regression was not trained on: logits by model, and the labels."""
    images, labels = load_digits(return_X_y=True)
    train, test, train_labels, test_labels = train_test_split(
        images / 16.0, labels, test_size=0.3, random_state=0, stratify=labels
    )
    model = LogisticRegression(C=10.0, solver="newton-cholesky", tol=1e-12, max_iter=100).fit(train, train_labels)
    weights = {
        "digits": model.coef_,
        "digits-int8": quantise(model.coef_, bits=8, block=64),
        "digits-int4": quantise(model.coef_, bits=4, block=64),
    }
    logits = {name: (test @ weight.T + model.intercept_).astype(np.float32) for name, weight in weights.items()}
    return logits, test_labels.astype(np.int64)


VOCABULARY = 2048
HIDDEN = 128
# A sequence starts with one of these words and is continued by sampling from the model.
PROMPTS = ("the", "we", "if", "he", "there", "when", "new", "many")
LENGTH = 16
# Share of the word-frequency model in the smoothed counts, and weight of the word before the last one.
BACKOFF = 0.2
SKIP = 0.3


class LogBilinear:
    """A language model: logits = bias + output @ (hidden[last word] + SKIP · hidden[the word before]).

    Its matrices factorise ln P(word | last word) − ln P(word) of the smoothed bigram counts.
    """

    def __init__(self, hidden: Floats, output: Floats, bias: Floats) -> None:
        self.hidden, self.output, self.bias = hidden, output, bias

    @classmethod
    def from_counts(cls, unigrams: Floats, bigrams: Floats) -> LogBilinear:
        """Factorise the counts to HIDDEN dimensions."""
        frequency = unigrams / unigrams.sum()
        total = bigrams.sum(axis=1, keepdims=True)
        following = np.divide(bigrams, total, out=np.zeros_like(bigrams), where=total > 0)
        # ln [(BACKOFF · frequency + (1 − BACKOFF) · following) / (BACKOFF · frequency)]: 0 where no pair was counted.
        association = np.log1p((1.0 - BACKOFF) / BACKOFF * following / frequency)
        left, scale, right = svds(csr_array(association), k=HIDDEN, v0=np.ones(len(frequency)), tol=0)
        root = np.sqrt(scale)
        return cls(left * root, right.T * root, np.log(frequency))

    def quantised(self, bits: int, block: int = 32) -> LogBilinear:
        """Quantise both weight matrices."""
        return LogBilinear(quantise(self.hidden, bits, block), quantise(self.output, bits, block), self.bias)

    def logits(self, text: Ints) -> Floats:
        """Score every word of the vocabulary as the one that follows `text`."""
        state = self.hidden[text[-1]]
        if len(text) > 1:
            state = state + SKIP * self.hidden[text[-2]]
        row: Floats = self.bias + self.output @ state
        return row

    def continued(self, text: Ints, length: int, rng: np.random.Generator) -> Ints:
        """Append `length` words to `text`, each drawn from the model's distribution."""
        for _ in range(length):
            logits = self.logits(text)
            cumulative = np.cumsum(np.exp(logits - logits.max()))
            word = np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")
            text = np.append(text, word)
        return text


def read_counts(name: str) -> list[tuple[str, float]]:
    """Read one of wordsegment's count files: the unigrams come most frequent first."""
    path = Path(wordsegment.__file__).with_name(name)
    pairs = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines())
    return [(text, float(count)) for text, count in pairs]


def words() -> tuple[Ints, dict[str, NDArray[np.uint16]]]:
    """Sample texts of LENGTH + 1 words; give them, and logits [text, position, word] after all but the last word."""
    unigrams = read_counts("unigrams.txt")[:VOCABULARY]
    index = {word: i for i, (word, _) in enumerate(unigrams)}
    bigrams = np.zeros((VOCABULARY, VOCABULARY))
    for pair, count in read_counts("bigrams.txt"):
        first, second = pair.split(" ")
        if first in index and second in index:
            bigrams[index[first], index[second]] = count
    base = LogBilinear.from_counts(np.array([count for _, count in unigrams]), bigrams)

    rng = np.random.default_rng(0)
    texts = [base.continued(np.array([index[word]]), LENGTH, rng) for word in PROMPTS]
    models = {"words": base, "words-int8": base.quantised(bits=8), "words-int4": base.quantised(bits=4)}
    tensors = {
        name: to_bfloat16(np.array([[model.logits(text[: i + 1]) for i in range(LENGTH)] for text in texts]))
        for name, model in models.items()
    }
    return np.array(texts), tensors


def to_bfloat16(values: Floats) -> NDArray[np.uint16]:
    """Round to the nearest bfloat16, ties to even; give its bits."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_safetensors(path: Path, name: str, bits: NDArray[np.uint16]) -> None:
    """Write one bfloat16 tensor: the length of a JSON header, the header padded to 8 bytes, the data."""
    data = np.ascontiguousarray(bits, "<u2").tobytes()
    tensor = {"dtype": "BF16", "shape": list(bits.shape), "data_offsets": [0, len(data)]}
    header = json.dumps({"__metadata__": {"made by": "examples/make_data.py"}, name: tensor}).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def main(folder: Path) -> None:
    """Write every example file into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    logits, labels = digits()
    for name, rows in logits.items():
        np.save(folder / f"{name}.npy", rows)
    np.save(folder / "digits-labels.npy", labels)
    texts, tensors = words()
    for name, bits in tensors.items():
        write_safetensors(folder / f"{name}.safetensors", "logits", bits)
    np.save(folder / "words-tokens.npy", texts[:, :-1])
    np.save(folder / "words-labels.npy", texts[:, 1:])


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
