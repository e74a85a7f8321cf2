"""The command line: ``kullback compare``, ``score``, ``inspect`` and ``info``."""

from __future__ import annotations

import logging
import signal
import sys
from types import FrameType

__all__ = ["main"]

_NEEDED = ("rich", "typer")


def main() -> None:
    """Run the command line and exit with its status."""
    # What ends a batch job ends this one as Ctrl-C does: with its unfinished files removed.
    signal.signal(signal.SIGTERM, _terminate)
    # matplotlib warns about its own font cache, on its first run and wherever it cannot write one.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        try:
            from kullback.cli.app import app
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] not in _NEEDED:
                raise
            sys.exit(f"kullback: the command line needs {error.name}: pip install 'kullback[cli]'")
        app(prog_name="kullback")
    except KeyboardInterrupt:
        sys.exit(130)


def _terminate(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
