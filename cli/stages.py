"""What is being done, how far it is and how long it took, on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from vitessera.codegen.progress import Step, listening

from .terminal import progress_width, show_progress

TERMINAL_SECONDS = 0.1  # between two signs of progress
LOG_SECONDS = 10.0  # the same, where they are lines of a file
LINE = 78  # characters, so that a shorter text covers the one before
ENOUGH = 0.1  # share of a piece of work after which the rest is estimated


class Stages:
    """Says what is being done, and how long it took: on a terminal in place, in a log as lines."""

    def __init__(self) -> None:
        self._current: tuple[str, float] | None = None
        self._terminal = sys.stderr.isatty()
        self._shown = 0.0

    def start(self, name: str) -> None:
        """Ends the present stage and begins `name`."""
        self.finish()
        self._current = (name, time.monotonic())
        self._shown = time.monotonic()
        if self._terminal:
            show_progress(f"  {name} ...")

    def step(self, step: Step) -> None:
        """Shows how far the stage `step.work` is, which it begins if it is another."""
        if self._current is None or self._current[0] != step.work:
            self.start(step.work)
            self._shown = 0.0 if step.done == 0 else self._shown
        now = time.monotonic()
        if now - self._shown < (TERMINAL_SECONDS if self._terminal else LOG_SECONDS):
            return
        self._shown = now
        assert self._current is not None
        line = f"  {progress(step, now - self._current[1])}"
        if self._terminal:
            show_progress(f"{line:<{LINE}}")
        else:
            print(line, file=sys.stderr)

    def finish(self) -> None:
        """Ends the present stage."""
        if self._current is not None:
            name, started = self._current
            line = f"  {name:<34}{time.monotonic() - started:6.1f} s"
            covering = min(LINE, progress_width())
            print(f"{line:<{covering}}" if self._terminal else line, file=sys.stderr)
        self._current = None


def progress(step: Step, seconds: float) -> str:
    """How far a piece of work is after so many seconds, and how long the rest may take."""
    counted = f"{step.done} of {step.total} {step.unit}, " if step.total else ""
    line = f"{step.work}: {counted}{seconds:.0f} s"
    if step.part:
        line += f", now {step.part}"
    if step.done > ENOUGH * step.total:
        line += f"; about {seconds * (step.total - step.done) / step.done:.0f} s more"
    return line


@contextmanager
def shown_stages() -> Iterator[Stages]:
    """Stages that also hear of what long work tells in the block."""
    stages = Stages()
    with listening(stages.step):
        yield stages
        stages.finish()
