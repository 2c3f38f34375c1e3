"""The scheduler: from a quantised network to a program for one accelerator.

In the order in which data passes through: `layout` (where matrices stand), `lower` (nodes to
stages of operations), `stages` (their order, and what streams), `memory` (addresses),
`synchronize` (semaphores), `verify` (an independent proof). Aside: `split` cuts hidden layers into
parts where memories are small, `product` makes benchmark programs of one product, `timing`
estimates cycles.
"""

from __future__ import annotations

import dataclasses

from .. import isa
from ..config import HardwareConfig, Memory
from ..program import (
    Allocation,
    InputDescription,
    OutputDescription,
    Program,
    StoredValue,
)
from ..quantgraph import QuantGraph
from .lower import Lowered, Placement, Stored, Tuning, lower
from .memory import Lifetime, Places, allocate, lifetimes, ring_words
from .stages import Operation, pipeline
from .synchronize import synchronize
from .verify import verify

__all__ = ["Tuning", "schedule", "verify"]

_UNLIMITED = dict.fromkeys(Memory, 1 << 30)


def schedule(graph: QuantGraph, config: HardwareConfig, tuning: Tuning | None = None) -> Program:
    """The program that runs `graph` on the accelerator `config`.

    Args:
        graph: the quantised network.
        config: the accelerator.
        tuning: choices of speed, not of results.

    Raises:
        CapacityError: a memory is too small.
        UnsupportedModelError: a combination of nodes that has no instructions.
    """
    tuning = tuning or Tuning()
    # What does not stream decides how much room is left for what does.
    rough = pipeline(lower(graph, config, tuning, _UNLIMITED).stages, _UNLIMITED, config)
    rings = ring_words(lifetimes(rough.operations), config)
    lowered = lower(graph, config, tuning, rings)
    ordered = pipeline(lowered.stages, rings, config)
    operations = ordered.operations
    alive = lifetimes(operations)
    places = allocate(alive, config, ordered.places)
    instructions = synchronize([_placed(operation, places) for operation in operations], config)
    verify(instructions, config)
    return Program(
        config=config,
        instructions=instructions,
        labels=(*(operation.layer for operation in operations), ""),
        weights=lowered.weights,
        input=_input(graph, lowered),
        outputs=tuple(_output(graph, *output) for output in lowered.outputs),
        layers=lowered.layers,
        allocations=tuple(_allocation(life, places) for life in alive),
        values=_values(lowered.values, operations, places),
    )


def _placed(operation: Operation, places: Places) -> isa.Instruction:
    addresses = {
        name: getattr(operation.instruction, name) + places[tensor]
        for name, tensor in operation.operands
    }
    return dataclasses.replace(operation.instruction, **addresses)


def _input(graph: QuantGraph, lowered: Lowered) -> InputDescription:
    node = lowered.input
    return InputDescription(
        name=graph.image.name,
        image=graph.image.shape,
        patch=node.patch,
        prefix=node.prefix,
        tokens=node.value.tokens,
        channels=node.value.channels,
        scale=tuple(float(scale) for scale in node.value.scale),
        size=lowered.input_size,
        window=node.window,
    )


def _output(graph: QuantGraph, name: str, where: Placement, start: int) -> OutputDescription:
    value = graph[dict(graph.outputs)[name]].value
    return OutputDescription(
        name=name,
        start=start,
        words=where.grid.words,
        tokens=value.tokens,
        channels=value.channels,
        row=where.row,
        scale=tuple(float(scale) for scale in value.scale),
        offset=int(value.offset),
    )


def _allocation(life: Lifetime, places: Places) -> Allocation:
    tensor = life.tensor
    return Allocation(
        tensor.memory,
        tensor.name,
        places[tensor],
        tensor.words,
        life.first,
        life.last,
        tensor.streamed,
    )


def _values(
    stored: tuple[Stored, ...], operations: tuple[Operation, ...], places: Places
) -> tuple[StoredValue, ...]:
    index = {operation: i for i, operation in enumerate(operations)}
    return tuple(_value(entry, index[entry.operation], places) for entry in stored)


def _value(entry: Stored, index: int, places: Places) -> StoredValue:
    where = entry.placement
    memory: Memory = where.tensor.memory
    return StoredValue(
        name=entry.name,
        memory=memory,
        address=places[where.tensor] + where.start,
        transposed=where.grid.place.transposed,
        tokens=where.tokens,
        channels=where.channels.count,
        row=where.row,
        heads=where.channels.heads,
        padded_tokens=where.grid.row_tiles * where.grid.config.tile,
        padded_channels=where.channels.padded,
        instruction=index,
    )
