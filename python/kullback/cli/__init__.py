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
    # What ends a batch job or closes its terminal ends this one as Ctrl-C does: with its unfinished files removed.
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows knows no SIGHUP, and nohup wants it ignored
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _terminate)
    # matplotlib warns about its own font cache, on its first run and wherever it cannot write one.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        try:
            from typer import Exit

            from kullback.cli.app import app
            from kullback.cli.outcome import reporting
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] not in _NEEDED:
                raise
            sys.exit(f"kullback: the command line needs {error.name}: pip install 'kullback[cli]'")
        try:
            with reporting():  # of --help and --version, which no command reports
                app(prog_name="kullback")
        except Exit as end:
            sys.exit(end.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def _terminate(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
