"""The register map: the one place where it is written.

The Verilog of the shell (hls/shell.v.j2), the DSLX error codes, docs/registers.md and the host's
constants (registers.json in a build directory) are all generated from the tables here. The first
registers are laid out as Vitis HLS lays out those of an `ap_ctrl_hs` kernel, a reserved word after
each argument included.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum

from ..host.interface import INTERFACE_VERSION
from .config import HardwareConfig
from .isa import Unit
from .lookup import by_name

MAGIC = 0x56495453  # "VITS", so that the host knows what answers at an address


class HardwareError(IntEnum):
    """Why a run ended without a result; the code in STATUS. Values never change meaning."""

    NONE = 0
    DECODE = 1
    READ = 2
    WRITE = 3
    START_WHILE_BUSY = 4
    ABORTED = 5
    ARGUMENT = 6
    UNFINISHED = 7


ERROR_MEANING: dict[HardwareError, str] = {
    HardwareError.NONE: "no error",
    HardwareError.DECODE: "the program holds an illegal instruction; INSTRUCTIONS is its index",
    HardwareError.READ: "DRAM answered a read with SLVERR or DECERR: a buffer address is wrong; or "
    "RLAST did not come with exactly the last beat of each burst: the interconnect is at fault",
    HardwareError.WRITE: "DRAM answered a write with SLVERR or DECERR: a buffer address is wrong",
    HardwareError.START_WHILE_BUSY: "a start was ignored because a run was under way; that run is "
    "not disturbed",
    HardwareError.ABORTED: "soft reset ended the run",
    HardwareError.ARGUMENT: "an address is not a multiple of the bus width, or the instruction "
    "count is zero; nothing was run",
    HardwareError.UNFINISHED: "the program ended with DRAM traffic still under way: it goes on "
    "after END, or END does not wait for the last store",
}


class State(IntEnum):
    """The shell's state, in STATUS."""

    IDLE = 0
    START = 1  # the program's address is on its way to the fetch unit
    RUN = 2
    DRAIN = 3  # bus traffic comes to rest
    RESET = 4  # the core is held in reset, so that every run starts from the same state


class Event(Enum):
    """What the core tells the counters, cycle by cycle: the shell's inputs event_<name>."""

    LOAD = "load takes a beat of data"
    COMPUTE = "compute works"
    EPILOGUE = "the epilogue works"
    SOFTMAX = "softmax works"
    NORM = "LayerNorm works"
    STORE = "store sends a beat of data"
    LOAD_WAIT = "load has asked for data and there is none"
    COMPUTE_WORD = "a pair of operand words enters the engine"
    INSTRUCTION = "an instruction is dispatched"


class Access(Enum):
    """Who may do what with a register."""

    READ = "read"
    WRITE = "read/write"
    CONTROL = "read/write; DONE and READY clear when read"
    CLEARED = "read; clears when read"
    TOGGLE = "read; writing 1 toggles the bit"


@dataclass(frozen=True)
class BitField:
    """Bits of a register.

    Attributes:
        name: upper case, unique in its register.
        low: lowest bit.
        width: number of bits.
        doc: what it means.
        access: what reading and writing do; None for what they do to the whole register.
    """

    name: str
    low: int
    width: int
    doc: str
    access: Access | None = None

    def extract(self, value: int) -> int:
        """The field's bits of a register's value."""
        return value >> self.low & ((1 << self.width) - 1)


@dataclass(frozen=True)
class Register:
    """A 32-bit register.

    Attributes:
        name: upper case, unique.
        offset: byte offset from the base of the AXI4-Lite slave.
        access: what reading and writing do.
        doc: what it means.
        fields: its bits, where they have names of their own.
    """

    name: str
    offset: int
    access: Access
    doc: str
    fields: tuple[BitField, ...] = ()

    def field(self, name: str) -> BitField:
        """The field called `name`."""
        return by_name(self.fields, name, f"field of {self.name}")


class Counting(Enum):
    """What makes a counter change, in cycles between start and done."""

    CYCLES = "counts cycles"
    EVENT = "counts cycles with an event"
    FIRST = "cycle of the first event"
    LAST = "cycle of the last event"
    READ_BEAT = "counts read data beats"
    WRITE_BEAT = "counts write data beats"


@dataclass(frozen=True)
class Counter:
    """A performance counter: 32 bits, cleared by start, held at the maximum.

    Attributes:
        name: of the register.
        counting: what it does.
        event: with EVENT, FIRST and LAST.
        doc: what it means.
    """

    name: str
    counting: Counting
    doc: str
    event: Event | None = None


CONTROL = Register(
    "CTRL",
    0x00,
    Access.CONTROL,
    "Starts a run and tells how it stands.",
    (
        BitField("START", 0, 1, "write 1 to start; reads 1 until the run is done", Access.WRITE),
        BitField(
            "DONE", 1, 1, "a run has ended, with or without error; clears when read", Access.CLEARED
        ),
        BitField("IDLE", 2, 1, "no run is under way", Access.READ),
        BitField("READY", 3, 1, "the next run may be started; clears when read", Access.CLEARED),
    ),
)
GLOBAL_INTERRUPT = Register(
    "GIER",
    0x04,
    Access.WRITE,
    "Global interrupt enable.",
    (BitField("ENABLE", 0, 1, "the interrupt line follows ISR"),),
)
INTERRUPT_ENABLE = Register(
    "IER",
    0x08,
    Access.WRITE,
    "Which events set a bit of ISR.",
    (
        BitField("DONE", 0, 1, "a run has ended"),
        BitField("READY", 1, 1, "the next run may be started"),
    ),
)
INTERRUPT_STATUS = Register(
    "ISR",
    0x0C,
    Access.TOGGLE,
    "Interrupts that wait to be acknowledged.",
    (
        BitField("DONE", 0, 1, "a run has ended"),
        BitField("READY", 1, 1, "the next run may be started"),
    ),
)

# 64-bit arguments take two registers, _LOW and _HIGH. Start takes a copy of them all, so that the
# next run's may be written while one is under way.
ARGUMENTS: tuple[Register, ...] = (
    Register("PROGRAM_LOW", 0x10, Access.WRITE, "DRAM address of the program, bits 31-0."),
    Register("PROGRAM_HIGH", 0x14, Access.WRITE, "DRAM address of the program, bits 63-32."),
    Register("COUNT", 0x1C, Access.WRITE, "Instructions in the program."),
    Register("WEIGHTS_LOW", 0x24, Access.WRITE, "DRAM address of the weights, bits 31-0."),
    Register("WEIGHTS_HIGH", 0x28, Access.WRITE, "DRAM address of the weights, bits 63-32."),
    Register("INPUT_LOW", 0x30, Access.WRITE, "DRAM address of the input, bits 31-0."),
    Register("INPUT_HIGH", 0x34, Access.WRITE, "DRAM address of the input, bits 63-32."),
    Register("OUTPUT_LOW", 0x3C, Access.WRITE, "DRAM address of the output, bits 31-0."),
    Register("OUTPUT_HIGH", 0x40, Access.WRITE, "DRAM address of the output, bits 63-32."),
)

IDENTIFICATION: tuple[Register, ...] = (
    Register("MAGIC", 0x80, Access.READ, f'0x{MAGIC:08X}, "VITS".'),
    Register("VERSION", 0x84, Access.READ, f"Version of this register map: {INTERFACE_VERSION}."),
    Register("HASH_LOW", 0x88, Access.READ, "Hash of the design, bits 31-0."),
    Register("HASH_HIGH", 0x8C, Access.READ, "Hash of the design, bits 63-32."),
    Register("TILE", 0x90, Access.READ, "T: the engine holds T x T accumulators."),
    Register("DEPTH", 0x94, Access.READ, "V: channels contracted per cycle."),
    Register("LANES", 0x98, Access.READ, "E: elements a cycle after the engine."),
    Register("BUS_BITS", 0x9C, Access.READ, "Width of the AXI4 master."),
)

STATUS = Register(
    "STATUS",
    0xA0,
    Access.READ,
    "State, and why the last run failed.",
    (
        BitField("STATE", 0, 3, ", ".join(f"{state.value} {state.name}" for state in State)),
        BitField("ERROR", 8, 8, "error code of the last run; stays until the next start"),
    ),
)
SOFT_RESET = Register(
    "SOFT_RESET",
    0xA4,
    Access.WRITE,
    "Ends the run.",
    (
        BitField(
            "RESET",
            0,
            1,
            "write 1: bus traffic comes to rest, then the core is reset; reads 1 until that is "
            "done",
        ),
    ),
)

QUEUES = Register(
    "QUEUES",
    0xA8,
    Access.READ,
    "Which units hold instructions that have not started; a bit each, as in `signal`.",
    (
        BitField("FILLED", 0, len(Unit), "units with an instruction in their queue"),
        BitField("BLOCKED", 8, len(Unit), "those whose next instruction waits for semaphores"),
    ),
)

COUNTER_BASE = 0x100
COUNTERS: tuple[Counter, ...] = (
    Counter("CYCLES", Counting.CYCLES, "Cycles from start to done."),
    Counter("INSTRUCTIONS", Counting.EVENT, "Instructions dispatched.", Event.INSTRUCTION),
    Counter("LOAD_BUSY", Counting.EVENT, "Cycles load was busy.", Event.LOAD),
    Counter("COMPUTE_BUSY", Counting.EVENT, "Cycles compute was busy.", Event.COMPUTE),
    Counter("EPILOGUE_BUSY", Counting.EVENT, "Cycles the epilogue was busy.", Event.EPILOGUE),
    Counter("SOFTMAX_BUSY", Counting.EVENT, "Cycles softmax was busy.", Event.SOFTMAX),
    Counter("NORM_BUSY", Counting.EVENT, "Cycles LayerNorm was busy.", Event.NORM),
    Counter("STORE_BUSY", Counting.EVENT, "Cycles store was busy.", Event.STORE),
    Counter("LOAD_WAIT", Counting.EVENT, "Cycles load waited for DRAM.", Event.LOAD_WAIT),
    Counter("COMPUTE_WORDS", Counting.EVENT, "Operand pairs multiplied.", Event.COMPUTE_WORD),
    Counter("COMPUTE_FIRST", Counting.FIRST, "Cycle of the first of them.", Event.COMPUTE_WORD),
    Counter("COMPUTE_LAST", Counting.LAST, "Cycle of the last of them.", Event.COMPUTE_WORD),
    Counter("READ_BEATS", Counting.READ_BEAT, "Beats read from DRAM."),
    Counter("WRITE_BEATS", Counting.WRITE_BEAT, "Beats written to DRAM."),
)


def counter_register(counter: Counter) -> Register:
    """The register that `counter` is read from."""
    offset = COUNTER_BASE + 4 * COUNTERS.index(counter)
    return Register(counter.name, offset, Access.READ, counter.doc)


REGISTERS: tuple[Register, ...] = (
    CONTROL,
    GLOBAL_INTERRUPT,
    INTERRUPT_ENABLE,
    INTERRUPT_STATUS,
    *ARGUMENTS,
    *IDENTIFICATION,
    STATUS,
    SOFT_RESET,
    QUEUES,
    *map(counter_register, COUNTERS),
)


def register(name: str) -> Register:
    """The register called `name`."""
    return by_name(REGISTERS, name, "register")


def dslx_errors() -> Iterator[tuple[str, str, int]]:
    """Name, DSLX type and value of the error codes, as constants for config.x."""
    for error in HardwareError:
        yield f"ERROR_{error.name}", "u8", error.value


def shell_values(config: HardwareConfig, design_hash: int) -> dict[str, object]:
    """What hls/shell.v.j2 is rendered with.

    Args:
        config: the accelerator's sizes.
        design_hash: 64 bits that the host compares with the manifest's.
    """
    constants = {
        "MAGIC": MAGIC,
        "VERSION": INTERFACE_VERSION,
        "HASH_LOW": design_hash & 0xFFFFFFFF,
        "HASH_HIGH": design_hash >> 32 & 0xFFFFFFFF,
        "TILE": config.tile,
        "DEPTH": config.depth,
        "LANES": config.lanes,
        "BUS_BITS": config.bus_bits,
    }
    return {
        "config": config,
        "constants": [(entry, constants[entry.name]) for entry in IDENTIFICATION],
        "arguments": ARGUMENTS,
        "counters": [(counter, counter_register(counter)) for counter in COUNTERS],
        "registers": {entry.name: entry for entry in REGISTERS},
        "errors": HardwareError,
        "states": State,
        "events": Event,
        "units": len(Unit),
    }


def host_constants() -> str:
    """registers.json of a build directory: what a host driver must know, as JSON.

    Offsets and bit fields by register name, the counters among them, the units by their bits, the
    meaning of error codes, the map's version.
    """
    return json.dumps(
        {
            "interface_version": INTERFACE_VERSION,
            "magic": MAGIC,
            "registers": {
                entry.name: {
                    "offset": entry.offset,
                    "fields": {f.name: {"low": f.low, "width": f.width} for f in entry.fields},
                }
                for entry in REGISTERS
            },
            "counters": [counter.name for counter in COUNTERS],
            "units": [unit.name.lower() for unit in Unit],
            "states": {state.value: state.name for state in State},
            "errors": {error.value: [error.name, ERROR_MEANING[error]] for error in HardwareError},
        },
        indent=2,
    )


def registers_markdown() -> str:
    """The text of docs/registers.md."""
    lines = [
        "# Registers",
        "",
        "Generated from `codegen/registers.py`; do not edit.",
        "",
        "One AXI4-Lite slave, 32 bits wide, 4 KB. Addresses that are not listed read as zero and "
        "ignore writes.",
        "",
        "| offset | name | access | meaning |",
        "|---|---|---|---|",
        *(
            f"| 0x{entry.offset:03X} | {entry.name} | {entry.access.value} | {entry.doc} |"
            for entry in REGISTERS
        ),
        "",
        "Counters are cleared by a start, hold their value after done and stop at 0xFFFFFFFF.",
        "Cycle numbers count from start.",
    ]
    for entry in (entry for entry in REGISTERS if entry.fields):
        lines += ["", f"## {entry.name}", "", "| bits | name | meaning |", "|---|---|---|"]
        lines += [f"| {_bits(field)} | {field.name} | {field.doc} |" for field in entry.fields]
    lines += ["", "## Error codes", "", "| code | name | meaning |", "|---|---|---|"]
    lines += [f"| {error} | {error.name} | {ERROR_MEANING[error]} |" for error in HardwareError]
    return "\n".join(lines) + "\n"


def _bits(field: BitField) -> str:
    high = field.low + field.width - 1
    return str(field.low) if field.width == 1 else f"{high}-{field.low}"
