"""What the units did when: from a trace of the RTL to intervals and causes of waiting.

The testbench writes down when instructions leave their queues and when semaphores are raised.
Program and semaphores together say what each instruction waited for: the n-th that takes from a
semaphore waited for the n-th that raised it.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..codegen.isa import Compute, End, Epilogue, EpilogueTarget, Instruction, Source, Unit
from ..codegen.program import Program

# What a unit waited for when this was the last semaphore to arrive.
CAUSES: dict[Source, str] = {
    Source.LOAD: "weights from DRAM",
    Source.COMPUTE: "memory in use by compute",
    Source.EPILOGUE: "operands from the epilogue",
    Source.RESIDUAL: "the residual stream",
    Source.SOFTMAX: "softmax",
    Source.NORM: "LayerNorm",
    Source.STORE: "results on their way to DRAM",
}
START = "start"  # before the first product
FINISH = "finish"  # after the last product
DRAIN = "accumulators not drained"
DISPATCH = "dispatch"


@dataclass(frozen=True)
class Trace:
    """Events of the first run.

    Attributes:
        issues: unit → cycles at which its instructions left the queue, in order.
        raises: (source, unit) → cycles at which that semaphore was raised.
    """

    issues: Mapping[Unit, tuple[int, ...]]
    raises: Mapping[tuple[Source, Unit], tuple[int, ...]]


@dataclass(frozen=True)
class Interval:
    """One instruction in time; cycles count as in the trace.

    Attributes:
        unit: that ran it.
        label: its layer.
        ready: when its last semaphore had been raised; 0 if it takes none.
        cause: the source of that semaphore; None if it takes none.
        start: when it left the queue.
        end: when its effects had landed; for one that signals nobody, when the unit's next one
            started.
        work: cycles that the unit must at least be busy for; known of compute.
        softmax: whether its results go through softmax before they land.
    """

    unit: Unit
    label: str
    ready: int
    cause: Source | None
    start: int
    end: int
    work: int = 0
    softmax: bool = False


def read_trace(path: Path, program: Program) -> Trace:
    """The first run of `program` in the testbench's trace."""
    counts: dict[Unit, int] = defaultdict(int)
    for instruction in program.instructions:
        counts[instruction.UNIT] += 1
    issues: dict[Unit, list[int]] = {unit: [] for unit in Unit}
    raises: dict[tuple[Source, Unit], list[int]] = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        kind, *numbers = line.split()
        cycle, *what = map(int, numbers)
        if kind == "issue" and len(issues[Unit(what[0])]) < counts[Unit(what[0])]:
            issues[Unit(what[0])].append(cycle)
        elif kind == "raise":
            raises[Source(what[0]), Unit(what[1])].append(cycle)
    return Trace(
        {unit: tuple(cycles) for unit, cycles in issues.items()},
        {pair: tuple(cycles) for pair, cycles in raises.items()},
    )


def intervals(program: Program, trace: Trace) -> tuple[Interval, ...]:
    """The program's instructions in time, in program order."""
    issues = {unit: iter(cycles) for unit, cycles in trace.issues.items()}
    following = {unit: iter(cycles[1:]) for unit, cycles in trace.issues.items()}
    raised = {pair: iter(cycles) for pair, cycles in trace.raises.items()}
    taken = {pair: iter(cycles) for pair, cycles in trace.raises.items()}
    found = []
    for instruction, label in zip(program.instructions, program.labels, strict=True):
        unit = instruction.UNIT
        start = next(issues[unit])
        waits = {source: next(taken[source, unit]) for source in _sources(instruction)}
        cause = max(waits, key=waits.__getitem__, default=None)
        ends = [next(raised[instruction.source, other]) for other in _signalled(instruction)]
        after = next(following[unit], start)
        found.append(
            Interval(
                unit=unit,
                label=label,
                ready=0 if cause is None else waits[cause],
                cause=cause,
                start=start,
                end=max(ends, default=after),
                work=_work(instruction),
                softmax=_feeds_softmax(instruction),
            )
        )
    return tuple(found)


def _sources(instruction: Instruction) -> Iterator[Source]:
    return (source for source in Source if instruction.wait >> source & 1)


def _signalled(instruction: Instruction) -> Iterator[Unit]:
    return (unit for unit in Unit if instruction.signal >> unit & 1)


def _feeds_softmax(instruction: Instruction) -> bool:
    return isinstance(instruction, Epilogue) and instruction.target == EpilogueTarget.SOFTMAX


def _work(instruction: Instruction) -> int:
    if isinstance(instruction, Compute):
        return instruction.outer * instruction.inner * instruction.depth
    return 0


def layer_cycles(program: Program, trace: Trace, cycles: int) -> dict[str, int]:
    """The run's cycles by layer: from the start of each of its products to that of the next.

    Args:
        program: what was run.
        trace: of the run.
        cycles: from start to done; what comes before the first product is under `start`.
    """
    computes, end = _computes(program, trace)
    spent: dict[str, int] = defaultdict(int)
    spent[START] = cycles - (end - computes[0].start)
    for this, following in zip(computes, [*computes[1:], None], strict=True):
        spent[this.label] += (end if following is None else following.start) - this.start
    return dict(spent)


def _computes(program: Program, trace: Trace) -> tuple[list[Interval], int]:
    """The products in time, and when END was reached."""
    times = intervals(program, trace)
    end = next(
        interval.start
        for interval, instruction in zip(times, program.instructions, strict=True)
        if isinstance(instruction, End)
    )
    return [interval for interval in times if interval.unit is Unit.COMPUTE], end


def waiting(program: Program, trace: Trace, cycles: int) -> dict[str, int]:
    """The cycles in which no operands entered the engine, by what it waited for.

    Together with the engine's work they are all of the run.

    Args:
        program: what was run.
        trace: of the run.
        cycles: from start to done.
    """
    computes, end = _computes(program, trace)
    last = computes[-1]
    causes: dict[str, int] = defaultdict(int)
    causes[START] = cycles - (end - computes[0].start)
    for this, following in itertools.pairwise(computes):
        free = min(max(this.end, this.start + this.work), following.start)
        causes[DRAIN] += free - this.start - this.work
        ready = min(max(following.ready, free), following.start)
        if following.cause is not None:
            causes[CAUSES[following.cause]] += ready - free
        causes[DISPATCH] += following.start - ready
    causes[FINISH] = end - last.start - last.work
    assert sum(causes.values()) + sum(entry.work for entry in computes) == cycles
    return {cause: count for cause, count in causes.items() if count}


# --- In a file


def to_table(times: Sequence[Interval]) -> dict[str, list[object]]:
    """`times` as JSON: a list of labels, and a row of numbers for each interval."""
    labels = list(dict.fromkeys(entry.label for entry in times))
    number = {label: index for index, label in enumerate(labels)}
    rows: list[object] = [
        [
            entry.unit.value,
            number[entry.label],
            entry.ready,
            None if entry.cause is None else entry.cause.value,
            entry.start,
            entry.end,
            entry.work,
            int(entry.softmax),
        ]
        for entry in times
    ]
    return {"labels": list(labels), "rows": rows}


def from_table(table: Mapping[str, Any]) -> tuple[Interval, ...]:
    """What `to_table` was given."""
    return tuple(
        Interval(
            Unit(unit),
            str(table["labels"][label]),
            int(ready),
            None if cause is None else Source(cause),
            int(start),
            int(end),
            int(work),
            bool(softmax),
        )
        for unit, label, ready, cause, start, end, work, softmax in table["rows"]
    )
