"""Program: packing for the host, saving and loading, the assembler text."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from vitessera.codegen import isa
from vitessera.codegen.config import HardwareConfig, Memory
from vitessera.codegen.errors import BuildDirectoryError, HostBufferError, ProgramError
from vitessera.codegen.graph import Window
from vitessera.codegen.packing import (
    from_dram,
    pack_norm,
    pack_operand,
    pack_parameters,
    pack_residual,
    to_dram,
    unpack_operand,
    unpack_residual,
)
from vitessera.codegen.program import (
    Allocation,
    InputDescription,
    Layer,
    OutputDescription,
    Program,
    StoredValue,
    load_program,
    pack_input,
    parse_program,
    print_program,
    save_program,
    unpack_outputs,
)

CONFIG = HardwareConfig(tile=8, depth=4, lanes=4)


def random_instruction(kind: type[isa.Instruction], rng: np.random.Generator) -> isa.Instruction:
    values = {}
    for field in isa.fields(kind):
        value = int(rng.integers(field.least, field.highest + 1))
        values[field.name] = field.enum(value % len(field.enum)) if field.enum else value
    return kind(**values)


def small_program() -> Program:
    rng = np.random.default_rng(1)
    kinds = (*isa.INSTRUCTIONS[:-1], *isa.INSTRUCTIONS)
    instructions = tuple(random_instruction(kind, rng) for kind in kinds)
    return Program(
        config=CONFIG,
        instructions=instructions,
        labels=(*(f"layer{i}" for i in range(len(instructions) - 1)), ""),
        weights=bytes(range(64)),
        input=InputDescription("image", (1, 4, 6), (1, 2, 2), 1, 7, 4, (0.5,) * 4, 512),
        outputs=(OutputDescription("logits", 16, 32, 2, 10, 3, (0.25,) * 10, 1),),
        layers=(Layer("query0", "Product", 12),),
        allocations=(Allocation(Memory.LEFT, "x", 3, 5, 0, 2),),
        values=(StoredValue("x", Memory.LEFT, 3, False, 7, 4, 0, 1, 8, 8, 2),),
    )


def test_norm_and_gather_have_what_they_share_in_the_same_place() -> None:
    """The kernels read these fields without looking at the opcode."""
    norm, gather = (
        {f.name: (f.low, f.width) for f in isa.fields(kind)} for kind in (isa.Norm, isa.Gather)
    )
    shared = {name for name in norm if name in gather and name != "inner"}
    assert {name: norm[name] for name in shared} == {name: gather[name] for name in shared}
    assert len(shared) == 13


def test_operand_word_holds_rows_then_channels() -> None:
    matrix = np.arange(9 * 5, dtype=np.int8).reshape(9, 5)
    words = pack_operand(matrix, CONFIG)
    assert words.shape == (2 * 2, 8, 4)
    assert words[1, 2, 0] == matrix[2, 4]
    assert words[2, 0, 3] == matrix[8, 3]
    np.testing.assert_array_equal(unpack_operand(words, 8)[:9, :5], matrix)


def test_residual_words_follow_rows_within_a_tile() -> None:
    matrix = np.arange(9 * 13, dtype=np.int16).reshape(9, 13)
    words = pack_residual(matrix, CONFIG)
    assert words.shape == (2 * 2 * 16, 4)
    assert words[16 + 3 * 2, 1] == matrix[3, 9]
    np.testing.assert_array_equal(unpack_residual(words, 16, CONFIG)[:9, :13], matrix)


def test_lanes_lie_low_bits_first() -> None:
    parameters = pack_parameters(
        np.array([1, -2, 3, 4]), np.array([5, 6, 7, 8]), np.array([9, 10, 11, 12]), CONFIG
    )
    word = int.from_bytes(parameters[0].tobytes(), "little")
    assert word >> 64 & (1 << 64) - 1 == (1 << 32) - 2 | 6 << 32 | 10 << 48
    norm = pack_norm(np.array([1, -2]), np.array([3, -4]), CONFIG)
    word = int.from_bytes(norm[0].tobytes(), "little")
    assert word >> 48 & (1 << 48) - 1 == (1 << 16) - 2 | ((1 << 32) - 4) << 16


@pytest.mark.parametrize("bus_bits", [64, 128])
@pytest.mark.parametrize("memory", [Memory.LEFT, Memory.NORM, Memory.RESIDUAL])
def test_dram_words_start_on_beats(bus_bits: int, memory: Memory) -> None:
    config = HardwareConfig(tile=4, depth=2, lanes=2, bus_bits=bus_bits)
    words = np.arange(3 * config.word_bits(memory) // 8, dtype=np.uint8).reshape(3, -1)
    data = np.frombuffer(to_dram(words, memory, config), np.uint8)
    assert len(data) == 3 * config.dram_bytes_per_word(memory)
    np.testing.assert_array_equal(from_dram(data, memory, config), words)


def test_host_packs_and_unpacks() -> None:
    program = small_program()
    patches = np.arange(28, dtype=np.int8).reshape(7, 4)
    data = pack_input(program, patches)
    assert data[:4] == patches[0].tobytes()
    assert data[4:8] == patches[1].tobytes()
    matrix = np.arange(8 * 16, dtype=np.int16).reshape(8, 16)
    output = bytes(16) + to_dram(pack_residual(matrix, CONFIG), Memory.RESIDUAL, CONFIG)
    assert len(output) == program.output_size
    np.testing.assert_array_equal(unpack_outputs(program, output)["logits"], matrix[3:5, :10])


def test_host_buffers_of_wrong_size_are_refused() -> None:
    with pytest.raises(HostBufferError, match=r"int8 \[7, 4\]"):
        pack_input(small_program(), np.zeros((4, 7), np.int8))
    with pytest.raises(HostBufferError, match="output_size"):
        unpack_outputs(small_program(), bytes(3))


def test_a_window_is_read_back(tmp_path: Path) -> None:
    program = small_program()
    window = Window((4, 6), (3, 3), 2, (1, 1), (2, 3))
    program = replace(program, input=replace(program.input, window=window))
    save_program(program, tmp_path)
    assert load_program(tmp_path) == program


def test_saved_program_is_read_back(tmp_path: Path) -> None:
    program = small_program()
    save_program(program, tmp_path)
    assert load_program(tmp_path) == program


@pytest.mark.parametrize("name", ["program.bin", "weights.bin", "program.json"])
def test_missing_or_changed_files_are_named(tmp_path: Path, name: str) -> None:
    save_program(small_program(), tmp_path)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(b"x" + data[1:])
    with pytest.raises(BuildDirectoryError, match=name):
        load_program(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(BuildDirectoryError, match=name):
        load_program(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"), [("version", 0), ("config", {"tile": 5}), ("labels", []), ("input", {})]
)
def test_wrong_descriptions_are_refused(tmp_path: Path, key: str, value: object) -> None:
    save_program(small_program(), tmp_path)
    path = tmp_path / "program.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(BuildDirectoryError, match="Compile the model again"):
        load_program(tmp_path)


def test_text_is_read_back() -> None:
    program = small_program()
    listing = parse_program("# comment\n\n" + print_program(program))
    assert listing.instructions == program.instructions
    assert listing.labels == program.labels


def test_text_reads_like_assembler() -> None:
    compute = isa.Compute(
        wait=1 << isa.Source.LOAD | 1 << isa.Source.RESIDUAL,
        signal=1 << isa.Unit.LOAD,
        left_source=isa.LeftSource.PROBABILITY,
        outer=3,
    )
    program = dataclasses.replace(small_program(), instructions=(compute,), labels=("mix0",))
    assert print_program(program) == (
        "compute wait=load,residual signal=load left_source=probability outer=3 inner=1 depth=1 "
        "; layer=mix0\n"
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("jump", "'jump' is no instruction"),
        ("load speed=3", "'speed=3' sets no field of load"),
        ("load words=1 words=2", "a second time"),
        ("load words=many", "words=many is no integer"),
        ("load target=moon", "target=moon is unknown"),
        ("load wait=moon", "wait=moon is unknown"),
        ("load words=9999999", "words is 9999999, outside"),
        ("load words=0", "words is 0, outside 1 to"),
    ],
)
def test_wrong_text_is_named_by_line(line: str, reason: str) -> None:
    with pytest.raises(ProgramError, match=f"line 2: .*{reason}"):
        parse_program("end\n" + line + "\n")
