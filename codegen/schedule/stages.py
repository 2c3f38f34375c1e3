"""Operations before they have addresses and semaphores, and their order.

A stage is a piece of work and the loads it needs. An anchor is a stage with streamed operands: a
column chunk of a product. The loads of everything up to the next anchor are put in front of the
present one, so that DRAM traffic hides behind its computation: software pipelining.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..config import Memory
from ..isa import Compute, Instruction, Load


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
    if not segments:
        return ()
    _interleave_first(segments[0])
    order = _loads(segments[0])
    for segment, following in zip(segments, [*segments[1:], []], strict=True):
        body = [operation for stage in segment for operation in stage.body]
        own = [index for index, entry in enumerate(body) if isinstance(entry.instruction, Load)]
        ahead = own[-1] + 1 if own else 0  # the present segment's own loads go first
        order += [*body[:ahead], *_loads(following), *body[ahead:]]
    return tuple(order)


def _loads(segment: Sequence[Stage]) -> list[Operation]:
    loads = [load for stage in segment for load in stage.loads]
    return sorted(loads, key=lambda load: load.group)


def _interleave_first(segment: list[Stage]) -> None:
    """Puts the input's row groups between the computes that read them.

    Dispatch is in order and stops at a full queue: behind the loads of the whole input, the first
    COMPUTE would start late.
    """
    *others, anchor = segment
    computes = [
        index
        for index, operation in enumerate(anchor.body)
        if isinstance(operation.instruction, Compute)
    ]
    loads = _loads(segment)
    groups = 1 + max((load.group for load in loads), default=0)
    if not anchor.anchor or groups != len(computes) or any(stage.body for stage in others):
        return
    for stage in segment:
        stage.loads = [load for load in stage.loads if load.group <= 0]
    for group in range(groups - 1, 0, -1):
        # One group ahead of the compute that reads it.
        at = computes[group - 1]
        anchor.body[at:at] = [load for load in loads if load.group == group]


def _segments(stages: Sequence[Stage]) -> list[list[Stage]]:
    """Stages cut after each anchor."""
    segments: list[list[Stage]] = [[]]
    for stage in stages:
        segments[-1].append(stage)
        if stage.anchor:
            segments.append([])
    return segments if segments[-1] else segments[:-1]
