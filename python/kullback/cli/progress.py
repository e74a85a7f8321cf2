"""How far a pass over a file has come, on a terminal's standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["showing_progress"]


@contextmanager
def showing_progress(rows: int, row_bytes: float, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Show a bar with rate and time left while the body runs; nothing where standard error is no terminal.

    Parameters
    ----------
    rows : int
        Rows of the whole pass.
    row_bytes : float
        Bytes read a row, for the rate.
    quiet : bool
        Show nothing.

    Yields
    ------
    callable
        To be told the number of rows of every block done.
    """
    # Without a standard error (closed, as some daemons have it) there is no terminal either.
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield lambda count: None
        return

    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            if speed is None:
                return Text("")
            return Text(f"{_scaled(speed)}rows/s · {_scaled(speed * row_bytes)}B/s")

    columns = (BarColumn(), TaskProgressColumn(), Rate(), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=rows)
        yield lambda count: bar.advance(task, count)


def _scaled(number: float) -> str:
    for prefix in ("", "k", "M", "G"):
        if number < 1000:
            return f"{number:.3g} {prefix}"
        number /= 1000
    return f"{number:.3g} T"
