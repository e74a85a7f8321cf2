"""Every public name is documented, with an example that runs (pytest itself finds only those written in Python)."""

from __future__ import annotations

import doctest
import importlib
import inspect
from typing import Any

import pytest

MODULES = ("kullback", "kullback.functional")
PUBLIC = sorted(f"{module}.{name}" for module in MODULES for name in importlib.import_module(module).__all__)


def named(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


CALLABLE = [path for path in PUBLIC if callable(named(path))]
NATIVE = [path for path in CALLABLE if inspect.isbuiltin(named(path))]


@pytest.mark.parametrize("path", CALLABLE)
def test_has_a_docstring_with_an_example(path: str) -> None:
    doc = inspect.getdoc(named(path)) or ""
    assert ">>>" in doc
    assert "Parameters\n----------" in doc or not inspect.signature(named(path)).parameters


@pytest.mark.parametrize("path", NATIVE)
def test_the_examples_of_native_functions(path: str) -> None:
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    runner = doctest.DocTestRunner(optionflags=flags)
    report: list[str] = []
    for test in doctest.DocTestFinder(recurse=False).find(named(path), path, globs={}):
        runner.run(test, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)
