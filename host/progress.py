"""How far a run over many images has come, said where somebody looks on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

Progress = Callable[[int], None]  # called with the number of images done

FIRST_SECONDS = 2.0  # that a run takes before it is worth a word
EVERY_SECONDS = 0.2  # between two words


def progress_of(wanted: Progress | bool | None, total: int) -> Progress | None:
    """What is to be called as images are done.

    Args:
        wanted: a function; True for a line on standard error; False for nothing; None for the line
            if standard error is a terminal's or a notebook's.
        total: images.
    """
    if callable(wanted):
        return wanted
    if wanted is None:
        wanted = sys.stderr.isatty() or "ipykernel" in sys.modules
    return _Line(total) if wanted else None


class _Line:
    """A line on standard error that is written again and again."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._next = time.monotonic() + FIRST_SECONDS
        self._shown = False

    def __call__(self, done: int) -> None:
        now, is_last = time.monotonic(), done == self._total
        if now < self._next and not (self._shown and is_last):
            return
        self._next, self._shown = now + EVERY_SECONDS, True
        end = "\n" if is_last else ""
        print(f"\r{done} of {self._total} images", end=end, file=sys.stderr, flush=True)
