"""The scheduler's notion of what an instruction touches is the reference's."""

from __future__ import annotations

import numpy as np
import pytest
from builders import Shape, config, vision_transformer
from gathers import Gathers, Step, gather, steps
from vitessera.codegen import isa
from vitessera.codegen.config import HardwareConfig, Memory
from vitessera.codegen.program import Program
from vitessera.codegen.reference import Machine, Reference
from vitessera.codegen.schedule import schedule
from vitessera.codegen.schedule.accesses import accesses

Touched = dict[tuple[Memory, bool], set[int]]


def predicted(instruction: isa.Instruction, hardware: HardwareConfig) -> Touched:
    return {
        (access.memory, access.write): set(np.arange(access.stop)[access.words].tolist())
        for access in accesses(instruction, hardware)
    }


def observed(program: Program, monkeypatch: pytest.MonkeyPatch) -> list[Touched]:
    """What the reference touches with each instruction."""
    now: Touched = {}
    history: list[Touched] = []
    check_read, mark_written = Machine._check_read, Machine._mark_written

    def read(machine: Machine, memory: Memory, addresses: np.ndarray) -> None:
        now.setdefault((memory, False), set()).update(addresses.reshape(-1).tolist())
        check_read(machine, memory, addresses)

    def write(machine: Machine, memory: Memory, addresses: np.ndarray) -> None:
        now.setdefault((memory, True), set()).update(addresses.reshape(-1).tolist())
        mark_written(machine, memory, addresses)

    monkeypatch.setattr(Machine, "_check_read", read)
    monkeypatch.setattr(Machine, "_mark_written", write)

    def tap(*_: object) -> None:
        history.append(dict(now))
        now.clear()

    source = program.input
    Reference(program, tap).run(np.ones((source.tokens, source.channels), np.int8))
    return history


@pytest.mark.parametrize("size", [(4, 4, 4), (8, 4, 4), (16, 4, 16)])
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "biased"])
def test_accesses(size: tuple[int, int, int], bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = Shape(blocks=1, pool="mean", channels=24, bias=bias)
    program = schedule(vision_transformer(np.random.default_rng(40), shape), config(*size))
    assert_predicted(program, monkeypatch)


@pytest.mark.parametrize("size", [(4, 4, 4), (8, 4, 4), (16, 4, 16)])
def test_accesses_of_gathers(size: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    hardware = config(*size)
    assert_predicted(Gathers(hardware, steps(hardware)).program, monkeypatch)


def test_a_gather_that_sees_nothing_reads_no_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    beyond: Step = gather(config(), 0, 8, plain=1, x=100)
    program = Gathers(config(), (beyond,)).program
    assert_predicted(program, monkeypatch)
    (found,) = (i for i in program.instructions if isinstance(i, isa.Gather))
    memories = [access.memory for access in accesses(found, program.config)]
    assert memories == [Memory.NORM, Memory.LEFT]


def assert_predicted(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each instruction touches what `accesses` says."""
    for instruction, touched in zip(
        program.instructions, observed(program, monkeypatch), strict=True
    ):
        assert predicted(instruction, program.config) == touched, instruction
