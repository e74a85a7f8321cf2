"""How a command ends: exit statuses, and the one line that says why."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

__all__ = ["FAILED_IF", "INVALID_ROWS", "missing_extra", "reporting"]

BAD_DATA = 1
INVALID_ROWS = 3
FAILED_IF = 4


@contextmanager
def reporting() -> Iterator[None]:
    """Turn what is wrong with the data or the disk into one line on standard error and exit status 1."""
    from kullback._files import FileError, WriteError

    try:
        yield
    except BrokenPipeError:
        # Whoever read the output has enough: nothing more to say.
        _drop_output()
        raise typer.Exit(BAD_DATA) from None
    except (FileError, WriteError) as error:
        _fail(str(error))
    except OSError as error:
        _drop_output()
        _fail(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error))
    except MemoryError as error:
        _fail(f"not enough memory: {error}" if str(error) else "not enough memory")


def _drop_output() -> None:
    """Drop what standard output does not take: the interpreter would try it once more at its exit, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str) -> None:
    print("kullback:", " ".join(message.split()), file=sys.stderr)
    raise typer.Exit(BAD_DATA) from None


def missing_extra(option: str, package: str, extra: str) -> typer.BadParameter:
    """Build the error of an option whose package is not installed."""
    return typer.BadParameter(f"needs {package}: pip install 'kullback[{extra}]'", param_hint=option)
