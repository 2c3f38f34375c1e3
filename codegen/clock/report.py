"""What the timing model says of an accelerator, for people."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from ..boards import Board
from ..tables import Column, text_table
from .analysis import Path, Timing, analyse
from .delays import CALIBRATIONS, Calibration, calibrated, delays_of, speed_grade
from .netlist import CORE, Netlist

MODULES = 20  # rows of the table, the slowest first
PREFIX = f"{CORE}."


@dataclass(frozen=True)
class ClockReport:
    """The estimated clock of an accelerator, and what limits it.

    Attributes:
        timing: the longest paths, in calibrated nanoseconds.
        board: whose part it is for.
        clock_mhz: that the build asks for.
    """

    timing: Timing
    board: Board
    clock_mhz: int

    @property
    def calibration(self) -> Calibration:
        """Of the part's family."""
        return CALIBRATIONS[self.board.processor]

    @property
    def estimate_mhz(self) -> float:
        """The clock at which the longest path would just do."""
        return 1000 / self.timing.longest.period

    def to_text(self, width: int | None = None) -> str:
        """As text, in lines of at most `width` characters where it is given."""
        if not self.timing.worst:
            return "The netlist has no path from register to register."
        return "\n".join(
            (
                text_table(_COLUMNS, [_row(path) for path in self.slowest()], width),
                *(line for said in self._said() for line in _wrapped(said, width)),
                "",
                f"The longest path, {self.timing.longest.period:.2f} ns:",
                *_lines(self.timing.longest, width),
                *self._handshake(width),
            )
        )

    def _said(self) -> Iterator[str]:
        part, spread = self.board.part, self.calibration.spread
        low, high = (self.estimate_mhz * (1 + sign * spread) for sign in (-1, 1))
        yield (
            f"Estimated clock: {self.estimate_mhz:.0f} MHz on {part} (speed grade "
            f"-{speed_grade(part)}); the build asks for {self.clock_mhz} MHz."
        )
        yield (
            f"An estimate, not Vivado's: {low:.0f} to {high:.0f} MHz. Delays are those of data "
            f"sheets and published reports; logic and wires are divided by "
            f"{self.calibration.factor} (docs/clock.md)."
        )

    def slowest(self) -> list[Path]:
        """The longest path of each module, the slowest modules first, MODULES of them."""
        paths = sorted(self.timing.worst.values(), key=lambda path: -path.period)
        return paths[:MODULES]

    def _handshake(self, width: int | None) -> Iterator[str]:
        path = self.timing.handshake
        if path is not None:
            yield ""
            yield f"The longest path by way of a handshake, {path.period:.2f} ns:"
            yield from _lines(path, width)


_COLUMNS = (
    Column("module", words=True),
    Column("ns"),
    Column("levels"),
    Column("wires"),
    Column("from", words=True),
    Column("to", words=True),
)


def _row(path: Path) -> tuple[str, ...]:
    first, last = path.steps[0], path.steps[-1]
    return (
        _short(path.module) or "top",
        f"{path.period:.2f}",
        str(path.levels),
        f"{path.wires / path.period:.0%}",
        _short(first.net) or first.kind,
        f"{_short(last.net) or last.kind}{f'.{path.pin}' if path.pin else ''}",
    )


def _wrapped(said: str, width: int | None) -> list[str]:
    return [said] if width is None else textwrap.wrap(said, width)


def _lines(path: Path, width: int | None) -> Iterator[str]:
    rows = (
        (step.kind, _short(step.module), f"{step.wire:.2f}", f"{step.cell:.2f}", _short(step.net))
        for step in path.steps
    )
    heads = (Column("cell", words=True), Column("module", words=True))
    yield text_table(
        (*heads, Column("wire ns"), Column("cell ns"), Column("drives", words=True)),
        list(rows),
        width,
    )


def _short(name: str) -> str:
    return name.removeprefix(PREFIX)


def clock_report(netlist: Netlist, board: Board, clock_mhz: int) -> ClockReport:
    """Analyses an accelerator's netlist for the part of `board`.

    Raises:
        ToolError: a cell of an unknown kind, or a loop without a register.
    """
    delays = calibrated(
        delays_of(board.processor, board.part), CALIBRATIONS[board.processor].factor
    )
    return ClockReport(analyse(netlist, delays), board, clock_mhz)
