"""Longest paths of small netlists, added up by hand."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from vitessera.codegen.boards import BOARDS, Board, ProcessorKind
from vitessera.codegen.clock.analysis import Timing, analyse
from vitessera.codegen.clock.delays import calibrated, delays_of, speed_grade
from vitessera.codegen.clock.netlist import Cell, Netlist, from_yosys, join, read_netlist
from vitessera.codegen.clock.report import ClockReport, clock_report
from vitessera.codegen.errors import ToolError

D = delays_of(ProcessorKind.ZYNQ_7000, "xc7z020clg400-1")


def cell(kind: str, module: str = "core.unit", /, **pins: int | tuple[int, ...]) -> Cell:
    """A cell; capital pins are pins, others parameters."""
    as_tuples = {p: n if isinstance(n, tuple) else (n,) for p, n in pins.items()}
    return Cell(kind, module, {}, as_tuples)


def register(data: int, out: int, module: str = "core.unit") -> Cell:
    return cell("FDRE", module, D=data, Q=out, CE=0, R=0, C=1)


def lut(out: int, *inputs: int) -> Cell:
    return cell(f"LUT{len(inputs)}", O=out, **{f"I{k}": net for k, net in enumerate(inputs)})


def timing(*cells: Cell, names: dict[int, str] | None = None) -> Timing:
    return analyse(Netlist({}, {}, cells, names or {}), D)


def wire(pins: int = 1) -> float:
    return D.wire + D.wire_growth * math.log2(pins)


def test_register_to_register_through_logic() -> None:
    found = timing(register(0, 2), lut(3, 2), lut(4, 3), register(4, 5)).longest
    # The second look-up table stands beside the register that it feeds.
    expected = D.from_flip_flop + 2 * (wire() + D.lut) + D.to_flip_flop
    assert found.period == pytest.approx(expected)
    assert found.levels == 2
    assert found.wires == pytest.approx(2 * wire())
    assert [step.kind for step in found.steps] == ["FDRE", "LUT1", "LUT1", "FDRE"]


def test_the_latest_input_counts() -> None:
    found = timing(register(0, 2), register(0, 3), lut(4, 2), lut(5, 3, 4), register(5, 6)).longest
    assert found.levels == 2


def test_a_net_to_many_pins_is_slow() -> None:
    readers = [register(2, 10 + k) for k in range(8)]
    found = timing(register(0, 2), *readers).longest
    assert found.period == pytest.approx(D.from_flip_flop + wire(8) + D.to_flip_flop)


def test_enables_and_resets_are_ends() -> None:
    enabled = cell("FDRE", D=0, Q=3, CE=2, R=0, C=1)
    reset = cell("FDRE", D=0, Q=4, CE=0, R=2, C=1)
    found = timing(register(0, 2), enabled, reset).longest
    assert found.pin == "R"
    assert found.period == pytest.approx(D.from_flip_flop + wire(2) + D.to_reset)


def test_a_carry_chain_costs_little_a_step() -> None:
    chain = [
        cell(
            "CARRY4", S=(2, 0, 0, 0), DI=(0,) * 4, CI=0, CYINIT=0, CO=(3, 4, 5, 6), O=(7, 8, 9, 10)
        ),
        cell(
            "CARRY4",
            S=(0,) * 4,
            DI=(0,) * 4,
            CI=6,
            CYINIT=0,
            CO=(11, 12, 13, 14),
            O=(15, 16, 17, 18),
        ),
    ]
    found = timing(register(0, 2), *chain, register(18, 19)).longest
    through = D.carry_in + D.carry_step + D.carry_out
    assert found.period == pytest.approx(D.from_flip_flop + wire() + through + D.to_flip_flop)
    assert found.levels == 1


@pytest.mark.parametrize(
    ("registers", "expected"),
    [
        ((), D.from_flip_flop + wire() + D.dsp_multiply + D.dsp_add + wire() + D.to_flip_flop),
        (("MREG",), D.from_flip_flop + wire() + D.dsp_multiply),
        (("AREG", "BREG", "MREG"), D.from_dsp + D.dsp_add + wire() + D.to_flip_flop),
        (("AREG", "BREG", "MREG", "PREG"), D.from_dsp + D.dsp_multiply),
        (("AREG", "BREG", "PREG"), D.from_dsp + D.dsp_multiply + D.dsp_add),
        (("PREG",), D.from_flip_flop + wire() + D.dsp_multiply + D.dsp_add),
    ],
    ids=["none", "m", "a-b-m", "all", "no-m", "p"],
)
def test_registers_of_a_multiplier_cut_its_way(registers: tuple[str, ...], expected: float) -> None:
    parameters = dict.fromkeys(registers, "1") | {"USE_MULT": "MULTIPLY", "USE_DPORT": "FALSE"}
    slice_ = Cell("DSP48E1", "core.unit", parameters, {"A": (2,), "B": (3,), "C": (0,), "P": (4,)})
    found = timing(register(0, 2), register(0, 3), slice_, register(4, 5)).longest
    assert found.period == pytest.approx(expected)


def test_neighbouring_slices_have_wires_of_their_own() -> None:
    first = Cell("DSP48E1", "core.unit", {"MREG": "1"}, {"A": (2,), "B": (0,), "PCOUT": (4,)})
    second = Cell("DSP48E1", "core.unit", {"MREG": "1", "PREG": "1"}, {"PCIN": (4,), "P": (5,)})
    found = timing(register(0, 2), first, second).longest
    expected = D.from_dsp + D.dsp_add + D.dsp_cascade_out + D.dsp_cascade_add
    assert found.period == pytest.approx(max(expected, D.from_flip_flop + wire() + D.dsp_multiply))


def test_memories_start_and_end_paths() -> None:
    block = Cell(
        "RAMB36E1",
        "core.memory",
        {"DOA_REG": "0"},
        {"ADDRARDADDR": (2,), "DOADO": (3,), "CLKARDCLK": (1,)},
    )
    found = timing(register(0, 2), block, register(3, 4)).worst
    assert found["core.memory"].period == pytest.approx(
        max(D.from_flip_flop + wire() + D.to_block_ram, D.block_ram_period)
    )
    assert found["core.unit"].period == pytest.approx(D.from_block_ram + wire() + D.to_flip_flop)
    fast = dataclasses.replace(block, parameters={"DOA_REG": "1"})
    found = timing(register(0, 2), fast, register(3, 4)).worst
    assert found["core.unit"].period == pytest.approx(
        D.from_block_ram_register + wire() + D.to_flip_flop
    )


@pytest.mark.parametrize(("register_b", "fast"), [("FALSE", False), ("TRUE", True)])
def test_ultra_ram_has_an_output_register_or_not(register_b: str, fast: bool) -> None:
    delays = delays_of(ProcessorKind.ZYNQ_ULTRASCALE, "xczu7ev-ffvc1156-2-e")
    parameters = {"OREG_A": "FALSE", "OREG_B": register_b}
    memory = Cell("URAM288", "core.memory", parameters, {"DOUT_B": (2,), "CLK": (1,)})
    found = analyse(Netlist({}, {}, (memory, register(2, 3)), {}), delays).longest
    first = delays.from_block_ram_register if fast else delays.from_ultra_ram
    assert found.steps[0].cell == pytest.approx(first)


def test_a_lut_ram_is_read_through_its_own_address() -> None:
    memory = cell("RAM32M", ADDRA=(2,), ADDRB=(0,), ADDRD=(0,), DIA=(0,), DOA=(3,), DOB=(4,), WE=0)
    found = timing(register(0, 2), memory, register(3, 5), register(4, 6)).longest
    clocked = D.from_lut_ram + wire() + D.to_flip_flop
    read = D.from_flip_flop + wire() + D.lut + wire() + D.to_flip_flop
    assert found.period == pytest.approx(max(clocked, read))


def test_a_loop_without_a_register() -> None:
    with pytest.raises(ToolError, match=r"loop without a register, by way of core\.ready"):
        timing(lut(2, 3), lut(3, 2), register(3, 4), names={2: "core.ready", 3: "core.ready"})


def test_a_cell_that_nobody_knows() -> None:
    with pytest.raises(ToolError, match=r"netlist of core\.unit .* PLLE2_BASE") as error:
        timing(cell("PLLE2_BASE", CLKOUT0=2))
    assert "report it" in str(error.value)


def test_nothing_but_wires_has_no_longest_path() -> None:
    report = ClockReport(timing(), BOARDS["pynq-z2"], 100)
    assert "no path from register to register" in report.to_text()


# --- Modules


def kernel() -> Netlist:
    """In → register → inverter → out, and a wire from in to `through`."""
    cells = (register(2, 3, ""), dataclasses.replace(lut(4, 3), module=""))
    ports = {"out_vld": (4,), "through": (2,)}
    return Netlist({"in": (2,)}, ports, cells, {2: "in", 3: "held", 4: "out_vld"})


def frame() -> Netlist:
    boxes = (
        Cell("kernel", "core.first", {}, {"in": (2,), "out_vld": (3,), "through": (4,)}),
        Cell("kernel", "core.second", {}, {"in": (3,), "out_vld": (5,), "through": (6,)}),
    )
    return Netlist(
        {},
        {},
        (register(5, 2, "core.loop"), *boxes, register(4, 7, "core.side")),
        {3: "core.x_vld"},
    )


def test_kernels_take_their_places() -> None:
    whole = join(frame(), {"kernel": kernel()})
    found = analyse(whole, D)
    assert set(found.worst) == {"core.first", "core.second", "core.loop", "core.side"}
    crossing = found.worst["core.second"]
    assert [step.module for step in crossing.steps] == ["core.first", "core.first", "core.second"]
    assert crossing.steps[0].net == "core.first.held"
    # The net leads to the register, and through the second kernel.
    expected = D.from_flip_flop + wire() + D.lut + wire(2) + D.to_flip_flop
    assert crossing.period == pytest.approx(expected)
    assert found.handshake is not None
    assert found.handshake.steps[1].net == "core.x_vld"


def test_the_cache_keeps_a_netlist() -> None:
    whole = join(frame(), {"kernel": kernel()})
    assert read_netlist(json.loads(json.dumps(whole.to_table()))) == whole


def test_yosys_names() -> None:
    def pins(data: int | str, out: int) -> dict[str, list[int | str]]:
        return {"D": [data], "Q": [out], "CE": ["1"], "R": ["0"], "C": [2]}

    def flip_flop(data: int | str, out: int) -> dict[str, object]:
        return {"type": "FDRE", "parameters": {"INIT": "x"}, "connections": pins(data, out)}

    module = {
        "ports": {"clk": {"direction": "input", "bits": [2]}},
        "cells": {
            "$flatten\\core.\\left_memory.\\reader[0].$auto$1": flip_flop("0", 3),
            "shell.$auto$2": flip_flop(3, 4),
            "core.softmax": {"type": "softmax", "parameters": {}, "connections": {"a": [4]}},
        },
        "netnames": {
            "count": {"bits": [3, "0"], "hide_name": 0},
            "hidden": {"bits": [4], "hide_name": 1},
        },
    }
    netlist = from_yosys(module)
    assert [each.module for each in netlist.cells] == ["core.left_memory", "shell", "core.softmax"]
    assert netlist.names == {3: "count[0]"}
    assert netlist.cells[0].parameters == {}
    assert netlist.cells[0].pins["CE"] == (0,)


# --- Delays and the report


@pytest.mark.parametrize(
    ("part", "grade"),
    [
        ("xc7z020clg400-1", "1"),
        ("xczu3eg-sbva484-1-i", "1"),
        ("xczu7ev-ffvc1156-2-e", "2"),
        ("xck26-sfvc784-2LV-c", "2L"),
        ("xczu2cg-sbva484-1L-i", "1L"),
        ("xc7z020clg400", "1"),
    ],
)
def test_the_speed_grade_stands_in_the_name_of_a_part(part: str, grade: str) -> None:
    assert speed_grade(part) == grade


@pytest.mark.parametrize("board", BOARDS.values(), ids=lambda board: board.name)
def test_every_board_has_a_speed_grade(board: Board) -> None:
    assert delays_of(board.processor, board.part).lut > 0
    assert speed_grade(board.part) in board.part


def test_hard_blocks_are_what_data_sheets_say() -> None:
    divided = calibrated(D, 2.0)
    assert divided.lut == D.lut / 2
    assert divided.wire == D.wire / 2
    assert divided.dsp_multiply == D.dsp_multiply
    assert divided.from_block_ram == D.from_block_ram


def test_the_report() -> None:
    whole = join(frame(), {"kernel": kernel()})
    report = clock_report(whole, BOARDS["pynq-z2"], 100)
    text = report.to_text(80)
    assert max(map(len, text.splitlines())) <= 80
    said = " ".join(text.split())
    assert f"Estimated clock: {report.estimate_mhz:.0f} MHz on xc7z020clg400-1" in said
    assert "An estimate, not Vivado's" in said
    assert "divided by 1.45" in said
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line}
    assert rows["second"][4:] == ["first.held", "second.held.D"]
    assert "by way of a handshake" in text
