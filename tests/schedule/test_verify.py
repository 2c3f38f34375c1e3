"""The checker finds what a scheduler could do wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
from builders import Shape, config, vision_transformer
from vitessera.codegen import isa
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.errors import ProgramError
from vitessera.codegen.program import Program, parse_program
from vitessera.codegen.schedule import schedule, verify

Instructions = list[isa.Instruction]


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "biased"])
def program(request: pytest.FixtureRequest) -> Program:
    shape = Shape(tokens=17, channels=32, heads=2, hidden=64, blocks=1, patch=4, bias=request.param)
    # Small memories: words are used again and again. Two blocks of a bias have room.
    hardware = HardwareConfig(
        tile=8,
        depth=4,
        lanes=8,
        right_words=200,
        parameter_words=20,
        left_words=100,
        residual_words=144,
    )
    return schedule(vision_transformer(np.random.default_rng(20), shape), hardware)


def changed(program: Program, index: int, **fields: int) -> Instructions:
    instructions = list(program.instructions)
    instructions[index] = dataclasses.replace(instructions[index], **fields)
    return instructions


def single_semaphores(program: Program) -> Iterator[tuple[int, str, int]]:
    for index, instruction in enumerate(program.instructions):
        for field in ("wait", "signal"):
            mask = getattr(instruction, field)
            for bit in range(8):
                if mask >> bit & 1:
                    yield index, field, mask ^ 1 << bit


def test_every_dropped_wait_or_signal_is_found(program: Program) -> None:
    count = 0
    for index, field, mask in single_semaphores(program):
        with pytest.raises(ProgramError):
            verify(changed(program, index, **{field: mask}), program.config)
        count += 1
    assert count > 150


def semaphore_pairs(program: Program) -> Iterator[tuple[int, int, isa.Source, isa.Unit]]:
    """Index that raises, index that takes, and which counter."""
    for source in isa.Source:
        for unit in isa.Unit:
            raised = [
                index
                for index, entry in enumerate(program.instructions)
                if not isinstance(entry, isa.End)
                and entry.source == source
                and entry.signal >> unit & 1
            ]
            taken = [
                index
                for index, entry in enumerate(program.instructions)
                if unit == entry.UNIT and entry.wait >> source & 1
            ]
            for signal, wait in zip(raised, taken, strict=True):
                yield signal, wait, source, unit


def test_every_dropped_semaphore_is_found(program: Program) -> None:
    """Both ends at once, so that counters stay balanced: none is superfluous, none unseen."""
    count = 0
    for signal, wait, source, unit in semaphore_pairs(program):
        instructions = list(program.instructions)
        sender, receiver = instructions[signal], instructions[wait]
        instructions[signal] = dataclasses.replace(sender, signal=sender.signal ^ 1 << unit)
        receiver = instructions[wait]
        instructions[wait] = dataclasses.replace(receiver, wait=receiver.wait ^ 1 << source)
        with pytest.raises(ProgramError, match=r"races with|does not wait"):
            verify(instructions, program.config)
        count += 1
    assert count > 75


def test_a_bias_of_another_block_is_found(program: Program) -> None:
    """The next one is still being loaded."""
    scores = [
        index
        for index, entry in enumerate(program.instructions)
        if isinstance(entry, isa.Epilogue) and entry.target == isa.EpilogueTarget.SOFTMAX
    ]
    first = program.instructions[scores[0]]
    assert isinstance(first, isa.Epilogue)
    if first.accumulate:
        with pytest.raises(ProgramError, match=f"Instruction {scores[0]} races with load"):
            verify(changed(program, scores[0], addend=first.addend + 24), program.config)
    else:
        with pytest.raises(ProgramError, match=f"Instruction {scores[0]} races with"):
            verify(changed(program, scores[0], accumulate=1, addend=60), program.config)


def test_moved_operands_are_found(program: Program) -> None:
    compute = next(
        index
        for index, entry in enumerate(program.instructions)
        if isinstance(entry, isa.Compute) and index > 40
    )
    moved = {"left_base": program.config.left_words - 1}
    with pytest.raises(ProgramError, match=f"Instruction {compute} (races|leaves)"):
        verify(changed(program, compute, **moved), program.config)


COMPUTE = "compute outer=1 inner=1 depth=1"
EPILOGUE = "epilogue outer=1 inner=1 scale=1"
PROBABILITIES = f"{COMPUTE} left_source=probability"
SCORES = f"{COMPUTE}\n{EPILOGUE} target=softmax"
MIX = f"{PROBABILITIES}\n{EPILOGUE} row_scale=1"
FIVE_BLOCKS = (SCORES.replace("outer=1", "outer=5"), MIX)
# One more than the queue of compute holds before epilogue gets any.
MANY = config().queue_depth + 1
TOO_MANY = [*[COMPUTE] * MANY, *[EPILOGUE] * MANY, "end"]
UNSCALED = f"{PROBABILITIES}\n{EPILOGUE}"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["load words=1"], "END at"),
        (["end", "end"], "END at"),
        ([COMPUTE, "end"], "1 computes and 0 epilogues"),
        ([COMPUTE, "epilogue outer=2 inner=1", "end"], "other loop counts than compute 0"),
        (["load words=1 signal=norm", "end"], "load → norm is raised 1 times more"),
        (["load words=1 wait=compute", "end"], "compute → load is raised -1 times more"),
        (["load words=1 wait=load signal=load", "end"], "Instruction 0 can never finish"),
        (
            [f"{COMPUTE} signal=epilogue", f"{EPILOGUE} wait=compute", "end"],
            "can never finish: a deadlock",
        ),
        (["load words=1", "load words=1", f"{COMPUTE}", f"{EPILOGUE}", "end"], "races with load"),
        (["store words=1 region=output", "end"], "does not wait for the last store"),
        (["norm outer=1 inner=999 channels=1", "end"], "needs 7992 of 4096 words of row buffer"),
        (["load words=1", "end"], "does not wait for the last load"),
        (TOO_MANY, "Instruction 0 can never finish"),
        ([*[SCORES] * 5, *[MIX] * 5, "end"], "Instruction 9 can leave more than 4"),
        ([*FIVE_BLOCKS, "end"], "Instruction 1 can leave more than 4"),
        ([MIX, SCORES, "end"], "Instruction 0 takes 1 softmax blocks, there are 0"),
        ([SCORES, UNSCALED, "end"], "leaves 1 softmax blocks that epilogue must take"),
        (["load words=1 signal=load"] * 256 + ["load words=1 wait=load"] * 256 + ["end"], "to 256"),
    ],
)
def test_wrong_programs_are_named(lines: list[str], reason: str) -> None:
    listing = parse_program("\n".join(lines))
    with pytest.raises(ProgramError, match=reason):
        verify(listing.instructions, config())


def test_255_semaphores_are_fine() -> None:
    lines = ["load words=1 signal=load"] * 255 + ["load words=1 wait=load"] * 254
    lines += ["load words=1 wait=load signal=control", "end wait=load"]
    verify(parse_program("\n".join(lines)).instructions, config())
