"""Damaged files among several: named, and the others scored, unless invalid rows are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from kullback._files import DamagedError, FileError, Packed
from kullback.cli.checks import Space, check_space
from kullback.cli.inputs import Part

__all__ = ["Damage"]


class Damage:
    """What is wrong with some of several files.

    Parameters
    ----------
    on_invalid : {"nan", "raise"}
        With the latter, nothing is put up with.

    Attributes
    ----------
    unlisted : list of DamagedError or None
        Takes what is wrong with files of which not even the arrays are known.
    unread : callable or None
        Takes what is wrong with a file and the first row that cannot be read; see `kullback.cli.inputs.blocks`.
    found : list of dict
        The damaged files in the order in which they were met: ``path`` and ``message``.
    """

    def __init__(self, on_invalid: Literal["nan", "raise"]) -> None:
        tolerant = on_invalid == "nan"
        self.unlisted: list[DamagedError] | None = [] if tolerant else None
        self.unread: Callable[[DamagedError, int], None] | None = self._unread if tolerant else None
        self.found: list[dict[str, str]] = []

    def check(self, every: Sequence[Part], spaces: Sequence[Sequence[Space]], classes: int | None) -> None:
        """Refuse matrices that are plainly not in the space the user says.

        Parameters
        ----------
        every : sequence of Part
            The matrices.
        spaces : sequence of sequence of str
            What the matrices of each part are said to hold.
        classes : int or None
            Look only at this many classes.

        Raises
        ------
        FileError
            As `kullback.cli.checks.check_space`.
        """
        for part, of_part in zip(every, spaces, strict=True):
            for tensor, given in zip(part.tensors, of_part, strict=True):
                if isinstance(tensor.place, Packed):
                    continue
                try:
                    check_space(tensor, part.axis, given, classes)
                except DamagedError:
                    if self.unread is None or len(every) == 1:
                        raise
                    # Its rows are read again, and named then.

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Say which files are not among the rows where something else does not fit those."""
        try:
            yield
        except FileError as error:
            if not self.unlisted:
                raise
            missing = ", ".join(str(broken.path) for broken in self.unlisted)
            raise FileError(f"{error}; damaged, and not among the rows: {missing}") from error

    def summary(self) -> dict[str, Any]:
        """Give what a document says of it: nothing where nothing is damaged."""
        unlisted = [{"path": str(e.path), "message": f"{e}; left out"} for e in self.unlisted or ()]
        found = unlisted + self.found
        return {"damaged": found} if found else {}

    def _unread(self, error: DamagedError, row: int) -> None:
        entry = {"path": str(error.path), "message": f"{error}; its rows from {row} on are invalid"}
        if entry not in self.found:
            self.found.append(entry)
