"""Operations before they have addresses and semaphores, and their order.

A stage is a piece of work and the loads it needs. An anchor is a stage with streamed operands: a
column chunk of a product. The loads of everything up to the next anchor are put in front of the
present one, so that DRAM traffic hides behind its computation: software pipelining.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..config import Memory
from ..isa import Instruction


@dataclass(frozen=True)
class Tensor:
    """A block of words in one memory.

    Attributes:
        name: unique in its memory.
        memory: where.
        words: how many.
        stream: for an operand that is streamed through a double buffer, its turn; else None.
    """

    name: str
    memory: Memory
    words: int
    stream: int | None = None


@dataclass(frozen=True, eq=False)
class Operation:
    """An instruction whose addresses count from the start of tensors.

    Attributes:
        instruction: without semaphores.
        operands: (address field, tensor it counts from).
        layer: name of the QuantNode it belongs to.
        group: among loads, which row group they serve; loads of lower groups go first.
    """

    instruction: Instruction
    operands: tuple[tuple[str, Tensor], ...]
    layer: str
    group: int = -1


@dataclass
class Stage:
    """Loads, and the operations that need them."""

    loads: list[Operation] = field(default_factory=list)
    body: list[Operation] = field(default_factory=list)
    anchor: bool = False


def pipeline(stages: Sequence[Stage]) -> tuple[Operation, ...]:
    """The operations of `stages` in program order."""
    segments = _segments(stages)
    loads = [
        sorted((load for stage in segment for load in stage.loads), key=lambda load: load.group)
        for segment in segments
    ]
    order = list(loads[0]) if loads else []
    for segment, ahead in zip(segments, [*loads[1:], []], strict=True):
        order += ahead
        order += [operation for stage in segment for operation in stage.body]
    return tuple(order)


def _segments(stages: Sequence[Stage]) -> list[list[Stage]]:
    """Stages cut after each anchor."""
    segments: list[list[Stage]] = [[]]
    for stage in stages:
        segments[-1].append(stage)
        if stage.anchor:
            segments.append([])
    return segments if segments[-1] else segments[:-1]
