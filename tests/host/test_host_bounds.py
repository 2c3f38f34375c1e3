"""Programs that reach for memory which is not theirs; no pynq, no simulator.

What host/bounds.py knows of the encoding is held to the compiler's tables here.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from host_support import SMALL, vouch
from vitessera.codegen import isa
from vitessera.codegen.builddir import read_build
from vitessera.codegen.config import HardwareConfig, Memory
from vitessera.codegen.errors import ConfigError
from vitessera.codegen.program import INSTRUCTION_BYTES
from vitessera.host import bounds
from vitessera.host.build import read_compiled
from vitessera.host.errors import BuildDirectoryError

Instructions = list[isa.Instruction]
KINDS: dict[int, type[isa.Instruction]] = {bounds.LOAD: isa.Load, bounds.STORE: isa.Store}


def encode(instructions: Instructions) -> bytes:
    words = (instruction.encode() for instruction in instructions)
    return b"".join(word.to_bytes(INSTRUCTION_BYTES, "little") for word in words)


# --- The encoding is the compiler's


def test_opcodes() -> None:
    assert sorted(bounds.OPCODES) == sorted(kind.OPCODE for kind in isa.INSTRUCTIONS)
    assert {kind.OPCODE for kind in KINDS.values()} == bounds.FIELDS.keys() == KINDS.keys()
    assert isa.End.OPCODE == bounds.END
    assert bounds.Field(0, isa.OPCODE_BITS) == bounds.OPCODE
    assert bounds.INSTRUCTION_BYTES == INSTRUCTION_BYTES


@pytest.mark.parametrize("opcode", KINDS)
def test_fields(opcode: int) -> None:
    found = {f.name: bounds.Field(f.low, f.width) for f in isa.fields(KINDS[opcode])}
    used = {"target", "region", "words", "offset"} & found.keys()
    assert {name: found[name] for name in used} == bounds.FIELDS[opcode]


def test_codes() -> None:
    assert [target.name.lower() for target in isa.LoadTarget] == list(bounds.TARGETS)
    assert [region.name.lower() for region in isa.Region] == list(bounds.REGIONS)
    assert Memory.RESIDUAL.value == bounds.STORED
    assert isa.Region.OUTPUT.name.lower() == bounds.WRITABLE


def test_bytes_per_word() -> None:
    compared = 0
    sizes = itertools.product((4, 8, 16), (2, 4, 8), (2, 4, 8, 16), (64, 128))
    for tile, depth, lanes, bus_bits in sizes:
        try:
            config = HardwareConfig(tile=tile, depth=depth, lanes=lanes, bus_bits=bus_bits)
        except ConfigError:
            continue
        found = bounds.bytes_per_word(vars(config))
        assert found == {name: config.dram_bytes_per_word(Memory(name)) for name in bounds.TARGETS}
        compared += 1
    assert compared > 30


# --- Random accesses, one by one, as the instruction set defines them


def is_inside(step: isa.Load | isa.Store, sizes: dict[str, int], config: HardwareConfig) -> bool:
    memory = Memory.RESIDUAL
    if isinstance(step, isa.Load):
        memory = Memory[isa.LoadTarget(step.target).name]
    elif step.region != isa.Region.OUTPUT:
        return False
    end = step.offset + step.words * config.dram_bytes_per_word(memory)
    size = sizes[isa.Region(step.region).name.lower()]
    return end <= size and step.offset % (config.bus_bits // 8) == 0


@pytest.mark.parametrize("bus_bits", [64, 128])
def test_random_accesses(bus_bits: int) -> None:
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    print("seed", seed)
    rng = np.random.default_rng(seed)
    config = HardwareConfig(tile=8, depth=2, lanes=4, bus_bits=bus_bits)
    sizes = {"weights": 1 << 22, "input": 1 << 14, "output": 1 << 12}
    verdicts = []
    for _ in range(3000):
        shared = {
            "region": int(rng.integers(3)),
            "words": int(2 ** rng.uniform(0, 18)),
            "offset": int(2 ** rng.uniform(0, 32)) & ~int(rng.choice([0, 7, 15])),
        }
        store = rng.random() < 0.4
        step = isa.Store(**shared) if store else isa.Load(target=int(rng.integers(5)), **shared)
        reason = bounds.why_not(encode([step, isa.End()]), sizes, vars(config))
        assert (reason is None) == is_inside(step, sizes, config), (step, reason)
        verdicts.append(reason is None)
    assert 50 < sum(verdicts) < 2950


# --- Build directories whose programs were changed, checksums and all


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A build directory, to be changed."""
    return Path(shutil.copytree(folder, tmp_path / "build"))


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(BuildDirectoryError) as caught:
        read_compiled(folder)
    for word in words:
        assert word in str(caught.value)


def changed(kind: type[isa.Instruction], **fields: int) -> Callable[[Instructions], Instructions]:
    """Changes the last instruction of that kind."""

    def change(program: Instructions) -> Instructions:
        index = max(i for i, step in enumerate(program) if isinstance(step, kind))
        return [*program[:index], replace(program[index], **fields), *program[index + 1 :]]

    return change


FAR = 0xFFFF_FF00  # with a base, all of a Pynq-Z2's DRAM
ATTACKS: dict[str, tuple[Callable[[Instructions], Instructions], str]] = {
    "reads far away": (changed(isa.Load, offset=FAR), ", LOAD, reaches byte 4,294,96"),
    "reads too much": (changed(isa.Load, words=(1 << 18) - 1), ", LOAD, reaches byte"),
    "writes far away": (changed(isa.Store, offset=FAR), ", STORE, reaches byte 4,294,96"),
    "writes too much": (changed(isa.Store, words=4096), "of the output buffer, which has"),
    "writes weights": (
        changed(isa.Store, region=isa.Region.WEIGHTS),
        ", STORE, writes to the weights buffer",
    ),
    "writes input": (changed(isa.Store, region=isa.Region.INPUT), "writes to the input buffer"),
    "reads half beats": (
        changed(isa.Load, offset=4, words=1),
        ", LOAD, starts at byte 4, in the midst of a bus beat",
    ),
    "never ends": (lambda program: [*program[:-1], program[0]], "END is not once its last"),
    "ends early": (lambda program: [isa.End(), *program[1:]], "END is not once its last"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_programs_that_leave_their_buffers(copy: Path, attack: str) -> None:
    change, words = ATTACKS[attack]
    program = list(read_build(copy, check_rtl=False).program.instructions)
    vouch(copy, "program/program.bin", encode(change(program)))
    refused(copy, "the program in program/program.bin must not be run", words)


# Words that no assembler makes: which bits of the program's first, a LOAD, are replaced by what.
FORGERIES = {
    0xF: (7, "instruction 0 has the unknown opcode 7"),
    0x7 << 20: (5 << 20, "instruction 0, LOAD, names no memory, no buffer or no words"),
    0x3 << 23: (3 << 23, "instruction 0, LOAD, names no memory, no buffer or no words"),
    0x3FFFF << 43: (0, "instruction 0, LOAD, names no memory, no buffer or no words"),
}


@pytest.mark.parametrize("mask", FORGERIES)
def test_words_that_are_no_instructions(copy: Path, mask: int) -> None:
    bits, words = FORGERIES[mask]
    content = (copy / "program" / "program.bin").read_bytes()
    first = int.from_bytes(content[:INSTRUCTION_BYTES], "little")
    assert isinstance(isa.decode(first), isa.Load)
    forged = (first & ~mask | bits).to_bytes(INSTRUCTION_BYTES, "little")
    vouch(copy, "program/program.bin", forged + content[INSTRUCTION_BYTES:])
    refused(copy, words)


@pytest.mark.parametrize("content", [b"", b"\x0f"])
def test_programs_of_no_whole_instructions(content: bytes) -> None:
    reason = bounds.why_not(content, dict.fromkeys(bounds.REGIONS, 64), vars(SMALL))
    assert reason == f"its {len(content)} bytes are not instructions of 32"


def test_buffers_that_are_smaller_than_the_program_needs(copy: Path) -> None:
    """What the host allocates follows from files, too."""
    weights = (copy / "program" / "weights.bin").read_bytes()
    vouch(copy, "program/weights.bin", weights[:-8])
    refused(copy, "of the weights buffer, which has")
