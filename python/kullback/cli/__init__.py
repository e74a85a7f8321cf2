"""The command line: ``kullback compare``, ``score``, ``inspect`` and ``info``."""

from __future__ import annotations

import sys

__all__ = ["main"]

_NEEDED = ("rich", "typer")


def main() -> None:
    """Run the command line and exit with its status."""
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
