"""Which words of which memory an instruction reads and writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .. import isa
from ..config import HardwareConfig, Memory
from ..errors import missing_case
from ..gathering import pixel_words, read_pixels

# A range where possible: indexing with it copies nothing.
Words = slice | npt.NDArray[np.int64]


@dataclass(frozen=True)
class Access:
    """Words of one memory that an instruction reads or writes.

    Attributes:
        memory: which.
        write: or read.
        words: as an index; may hold a word more than once.
        stop: past the highest word.
    """

    memory: Memory
    write: bool
    words: Words
    stop: int


def accesses(instruction: isa.Instruction, config: HardwareConfig) -> tuple[Access, ...]:
    """Everything on chip that `instruction` touches.

    Raises:
        MissingCaseError: an unknown instruction: without accesses it would get no semaphores.
    """
    match instruction:
        case isa.Load():
            memory = Memory[isa.LoadTarget(instruction.target).name]
            return (_write(memory, instruction.address, (instruction.words, 1)),)
        case isa.Store():
            return (_read(Memory.RESIDUAL, instruction.address, (instruction.words, 1)),)
        case isa.Compute():
            return _compute(instruction)
        case isa.Epilogue():
            return tuple(_epilogue(instruction, config))
        case isa.Norm():
            return tuple(_norm(instruction, config))
        case isa.Gather():
            return tuple(_gather(instruction, config))
        case isa.End():
            return ()
        case _:
            raise missing_case(instruction, "The table of memory accesses")


def _compute(compute: isa.Compute) -> tuple[Access, ...]:
    left = Memory[isa.LeftSource(compute.left_source).name]
    return (
        _read(
            left,
            compute.left_base,
            (compute.outer, compute.left_outer),
            (compute.inner, compute.left_inner),
            (compute.depth, compute.left_step),
        ),
        _read(
            Memory.RIGHT,
            compute.right_base,
            (compute.outer, compute.right_outer),
            (compute.inner, compute.right_inner),
            (compute.depth, compute.right_step),
        ),
    )


def _epilogue(epilogue: isa.Epilogue, config: HardwareConfig) -> Iterator[Access]:
    yield _read(
        Memory.PARAMETER,
        epilogue.parameter,
        (epilogue.outer, epilogue.parameter_outer),
        (epilogue.inner, epilogue.parameter_inner),
        (config.beats_per_row, 1),
    )
    memory, words = {
        isa.EpilogueTarget.LEFT: (Memory.LEFT, config.words_per_tile),
        isa.EpilogueTarget.RIGHT: (Memory.RIGHT, config.words_per_tile),
        isa.EpilogueTarget.RESIDUAL: (Memory.RESIDUAL, config.beats_per_tile),
        isa.EpilogueTarget.SOFTMAX: (Memory.PROBABILITY, config.words_per_tile),
    }[isa.EpilogueTarget(epilogue.target)]
    levels = (
        (epilogue.outer, epilogue.outer_stride),
        (epilogue.inner, epilogue.inner_stride),
        (words, 1),
    )
    if epilogue.accumulate and memory is Memory.PROBABILITY:
        tiles = epilogue.outer * epilogue.inner
        yield _read(Memory.RESIDUAL, epilogue.addend, (tiles * config.beats_per_tile, 1))
    elif epilogue.accumulate:
        yield _read(Memory.RESIDUAL, epilogue.address, *levels)
    yield _write(memory, epilogue.address, *levels)


def _norm(norm: isa.Norm, config: HardwareConfig) -> Iterator[Access]:
    yield _read(
        Memory.RESIDUAL,
        norm.base,
        (norm.outer, norm.base_outer),
        (norm.inner * config.beats_per_tile, 1),
    )
    yield _read(Memory.NORM, norm.parameter, (norm.inner * config.beats_per_row, 1))
    yield _write(
        Memory[isa.NormTarget(norm.target).name],
        norm.address,
        (norm.outer, norm.outer_stride),
        (norm.inner, norm.inner_stride),
        (config.words_per_tile, 1),
    )


def _gather(gather: isa.Gather, config: HardwareConfig) -> Iterator[Access]:
    words = pixel_words(gather, read_pixels(gather, config), config).reshape(-1)
    if words.size:
        yield Access(Memory.RESIDUAL, False, words, int(words.max()) + 1)
    yield _read(Memory.NORM, gather.parameter, (gather.inner * config.beats_per_row, 1))
    yield _write(
        Memory.LEFT,
        gather.address,
        (gather.outer, gather.outer_stride),
        (gather.inner * config.words_per_tile, 1),
    )


def _read(memory: Memory, base: int, *levels: tuple[int, int]) -> Access:
    return Access(memory, False, *_nest(base, levels))


def _write(memory: Memory, base: int, *levels: tuple[int, int]) -> Access:
    return Access(memory, True, *_nest(base, levels))


def _nest(base: int, levels: tuple[tuple[int, int], ...]) -> tuple[Words, int]:
    """The words base + sum of index * stride over the loop nest, and past the highest."""
    moving = sorted((stride, count) for count, stride in levels if stride and count > 1)
    stop = base + sum(stride * (count - 1) for stride, count in moving) + 1
    run = 1  # consecutive words that the innermost levels make up
    while moving and moving[0][0] == run:
        run *= moving.pop(0)[1]
    if not moving:
        return slice(base, base + run), stop
    words = base + np.arange(run, dtype=np.int64)
    for stride, count in moving:
        words = (np.arange(count, dtype=np.int64)[:, None] * stride + words).reshape(-1)
    return words, stop
