"""Runs what a user wrote, and says in one sentence what went wrong in it."""

from __future__ import annotations

import traceback
from pathlib import Path
from types import TracebackType

import torch

from ravine.errors import UserError, WorkError

_OURS = (str(Path(__file__).resolve().parents[1]), str(Path(torch.__file__).parent), "<")  # "<": made at run time


class UserCode:
    """Context in which a user's code runs: whatever it raises but a WorkError, sys.exit included, is one UserError.

    The sentence is "WHAT: KIND: MESSAGE (FILE, line N); MEND", where the line is the deepest one that is neither
    ours nor torch's. The original exception stays attached as the cause.
    """

    def __init__(self, what: str, mend: str = "") -> None:
        self.what = what
        self.mend = mend

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, (Exception, SystemExit)) or isinstance(error, WorkError):
            return
        where = _line_of(error, trace)
        if isinstance(error, UserError):
            if where and where not in str(error):
                raise UserError(f"{error}{where}") from error
            return
        lines = str(error).strip().splitlines()
        message = f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
        mend = f"; {self.mend}" if self.mend else ""
        raise UserError(f"{self.what}: {message}{where}{mend}") from error


def _line_of(error: BaseException, trace: TracebackType | None) -> str:
    """' (FILE, line N)' of the user's line that raised, or '' if none of the lines is the user's."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({Path(error.filename).name}, line {error.lineno})"
    for frame in reversed(traceback.extract_tb(trace)):
        if not frame.filename.startswith(_OURS):
            return f" ({Path(frame.filename).name}, line {frame.lineno})"
    return ""
