"""Cocotb tests of the shell, guard and DMA kernels, all in the real accelerator.

The programs only load and store: bytes go from the input buffer through residual memory to the
output buffer, so that every byte that moved can be checked.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, First, RisingEdge
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam
from vitessera.codegen import registers
from vitessera.codegen.config import MAX_BURST, HardwareConfig, Memory
from vitessera.codegen.isa import End, Instruction, Load, LoadTarget, Region, Source, Store, Unit
from vitessera.codegen.registers import HardwareError, State
from vitessera.sim.dram import Dram

DRAM_BYTES = 1 << 18
BUFFER_BYTES = 1 << 14
BASES = ("PROGRAM", "WEIGHTS", "INPUT", "OUTPUT")
RUN_TIMEOUT_CYCLES = 20_000

# What SHELL_CONFIG names.
CONFIGS = {
    "default": HardwareConfig(tile=4, depth=4, lanes=4),
    "wide_bus": HardwareConfig(tile=4, depth=2, lanes=2, bus_bits=128),
}
CONFIG = CONFIGS[os.environ.get("SHELL_CONFIG", "default")]
DESIGN_HASH = int(os.environ.get("SHELL_HASH", "0"))
BUS_BYTES = CONFIG.bus_bits // 8
WORD_BYTES = CONFIG.dram_bytes_per_word(Memory.RESIDUAL)
# In DRAM a word that is narrower than the bus is padded to a beat; STORE pads with zeros.
USED_BYTES = CONFIG.word_bits(Memory.RESIDUAL) // 8


ILLEGAL = 9  # an opcode that is none
Program = list[Instruction | int]


def copy_program(words: int, pieces: int = 1) -> Program:
    """INPUT → residual memory → OUTPUT, in `pieces` that overlap."""
    program: Program = []
    for piece in range(pieces):
        where = {"address": piece * words, "words": words, "offset": piece * words * WORD_BYTES}
        signal = (piece == pieces - 1) << Unit.CONTROL
        program += [
            Load(target=LoadTarget.RESIDUAL, region=Region.INPUT, signal=1 << Unit.STORE, **where),
            Store(region=Region.OUTPUT, wait=1 << Source.LOAD, signal=signal, **where),
        ]
    return [*program, End(wait=1 << Source.STORE)]


def stored(content: bytes) -> bytes:
    """What the output holds after `content` was copied."""
    words = (content[i : i + WORD_BYTES] for i in range(0, len(content), WORD_BYTES))
    return b"".join(word[:USED_BYTES].ljust(WORD_BYTES, b"\0") for word in words)


class Host:
    """Registers by name, buffers, and runs."""

    def __init__(self, dut: Any, use_dram: bool) -> None:  # noqa: ANN401 (cocotb's handles)
        self.dut = dut
        dut.use_dram.value = int(use_dram)
        bus = AxiLiteBus.from_prefix(dut, "s_axi")
        self.lite = AxiLiteMaster(bus, dut.aclk, dut.aresetn, reset_active_level=False)
        self.dram = Dram(Path(os.environ["DRAM_FILE"]), DRAM_BYTES)
        self.dram.content[:] = 0
        self.addresses = {
            name: self.dram.allocate(BUFFER_BYTES, name, writable=name == "OUTPUT")
            for name in BASES
        }
        self.ram: AxiRam | None = None
        if not use_dram:
            self.ram = AxiRam(
                AxiBus.from_prefix(dut, "m_axi"),
                dut.aclk,
                dut.aresetn,
                reset_active_level=False,
                size=2 * self.dram.base,
            )

    async def reset(self) -> None:
        """aresetn low for some cycles."""
        self.dut.aresetn.value = 0
        await ClockCycles(self.dut.aclk, 8)
        self.dut.aresetn.value = 1
        await ClockCycles(self.dut.aclk, 2)

    async def write(self, name: str, value: int) -> None:
        """Writes a register."""
        await self.lite.write(registers.register(name).offset, value.to_bytes(4, "little"))

    async def read(self, name: str) -> int:
        """Reads a register."""
        answer = await self.lite.read(registers.register(name).offset, 4)
        return int.from_bytes(answer.data, "little")

    def put(self, name: str, content: bytes) -> None:
        """Fills the start of a buffer."""
        address = self.addresses[name]
        if self.ram is not None:
            self.ram.write(address, content)
        else:
            self.dram.view(address, len(content))[:] = memoryview(content)

    def get(self, name: str, size: int) -> bytes:
        """The start of a buffer."""
        address = self.addresses[name]
        if self.ram is not None:
            return bytes(self.ram.read(address, size))
        return self.dram.view(address, size).tobytes()

    async def prepare(self, program: Program, content: bytes) -> None:
        """Program, input and arguments in place, output cleared."""
        words = (entry if isinstance(entry, int) else entry.encode() for entry in program)
        code = b"".join(word.to_bytes(32, "little") for word in words)
        self.put("PROGRAM", code)
        self.put("INPUT", content)
        self.put("OUTPUT", bytes(BUFFER_BYTES))
        for name, address in self.addresses.items():
            await self.write(f"{name}_LOW", address & 0xFFFFFFFF)
            await self.write(f"{name}_HIGH", address >> 32)
        await self.write("COUNT", len(program))
        await self.write("GIER", 1)
        await self.write("IER", 1)

    async def start(self) -> None:
        """Starts a run."""
        await self.write("CTRL", 1)

    async def finish(self) -> HardwareError:
        """Waits for the interrupt, acknowledges it; the error code."""
        if self.dut.interrupt.value != 1:
            timeout = ClockCycles(self.dut.aclk, RUN_TIMEOUT_CYCLES)
            reached = await First(RisingEdge(self.dut.interrupt), timeout)
            assert isinstance(reached, RisingEdge), f"no interrupt; {await self.describe()}"
        await self.write("ISR", 1)
        assert await self.read("CTRL") == DONE_IDLE_READY
        assert await self.read("CTRL") == IDLE, "done and ready clear when read"
        return await self.error()

    async def error(self) -> HardwareError:
        """The error code."""
        return HardwareError(await self.read("STATUS") >> 8)

    async def describe(self) -> str:
        """The registers that matter when something is stuck."""
        names = ("STATUS", "INSTRUCTIONS", "READ_BEATS", "WRITE_BEATS")
        return ", ".join([f"{name} 0x{await self.read(name):x}" for name in names])

    async def good_run(self, words: int = 40, pieces: int = 2, seed: int = 0) -> None:
        """A run that must succeed; its output and the bus rules are checked."""
        content = random.Random(seed).randbytes(words * pieces * WORD_BYTES)
        await self.prepare(copy_program(words, pieces), content)
        await self.start()
        error = await self.finish()
        assert error is HardwareError.NONE, error.name
        assert self.get("OUTPUT", len(content)) == stored(content)
        assert self.dut.violation.value == 0


START, DONE, IDLE, READY = 1, 2, 4, 8
DONE_IDLE_READY = DONE | IDLE | READY


async def powered_on(dut: Any, use_dram: bool = True) -> Host:  # noqa: ANN401
    Clock(dut.aclk, 10, unit="ns").start()
    dut.dram.violations.value = 0
    dut.dram.read_latency.value = 24
    dut.dram.write_latency.value = 12
    dut.dram.beats_per_16.value = 32
    host = Host(dut, use_dram)
    await host.reset()
    return host


def random_pauses(source: random.Random) -> Iterator[bool]:
    while True:
        yield source.random() < 0.4


def pause_everything(host: Host, seed: int) -> None:
    """Random stalls on all five channels of the memory bus."""
    assert host.ram is not None
    for number, channel in enumerate(
        (
            host.ram.read_if.ar_channel,
            host.ram.read_if.r_channel,
            host.ram.write_if.aw_channel,
            host.ram.write_if.w_channel,
            host.ram.write_if.b_channel,
        )
    ):
        channel.set_pause_generator(random_pauses(random.Random(10 * seed + number)))


@cocotb.test()
async def identification(dut: Any) -> None:  # noqa: ANN401
    """Constants read as the design's; unlisted addresses read zero and take writes in silence."""
    host = await powered_on(dut)
    expected = {
        "MAGIC": registers.MAGIC,
        "VERSION": registers.INTERFACE_VERSION,
        "HASH_LOW": DESIGN_HASH & 0xFFFFFFFF,
        "HASH_HIGH": DESIGN_HASH >> 32,
        "TILE": CONFIG.tile,
        "DEPTH": CONFIG.depth,
        "LANES": CONFIG.lanes,
        "BUS_BITS": CONFIG.bus_bits,
        "STATUS": State.IDLE,
        "CTRL": IDLE,
    }
    for name, value in expected.items():
        await host.write(name, 0)
        assert await host.read(name) == value, name
    for offset in (0x18, 0x7C, 0xFFC):
        assert (await host.lite.write(offset, b"\xff" * 4)).resp == 0
        answer = await host.lite.read(offset, 4)
        assert (answer.resp, answer.data) == (0, bytes(4))


@cocotb.test()
async def lite_slave(dut: Any) -> None:  # noqa: ANN401
    """Arguments keep what was written: in any order of address and data, byte by byte."""
    host = await powered_on(dut)
    source = random.Random(1)
    model = {entry.offset: bytearray(4) for entry in registers.ARGUMENTS}
    for order in ("address first", "data first", "random"):
        aw, w = host.lite.write_if.aw_channel, host.lite.write_if.w_channel
        for _ in range(25):
            offset = source.choice(list(model))
            first = source.randrange(4)
            content = source.randbytes(source.randint(1, 4 - first))
            if order == "random":
                aw.set_pause_generator(random_pauses(source))
                w.set_pause_generator(random_pauses(source))
            late = {"address first": w, "data first": aw}.get(order)
            if late is not None:
                late.pause = True
            operation = cocotb.start_soon(host.lite.write(offset + first, content))
            await ClockCycles(dut.aclk, 6)
            if late is not None:
                late.pause = False
            await operation
            model[offset][first : first + len(content)] = content
            offset = source.choice(list(model))
            assert (await host.lite.read(offset, 4)).data == bytes(model[offset])


@cocotb.test()
async def copy(dut: Any) -> None:  # noqa: ANN401
    """A run moves its data, counts what it did, interrupts once and can be repeated."""
    host = await powered_on(dut)
    for seed, (words, pieces) in enumerate(((1, 1), (40, 2), (25, 7), (3, 40))):
        await host.good_run(words, pieces, seed)
        program_beats = len(copy_program(words, pieces)) * 32 // BUS_BYTES
        data_beats = words * pieces * WORD_BYTES // BUS_BYTES
        assert await host.read("INSTRUCTIONS") == 2 * pieces + 1
        assert await host.read("READ_BEATS") == program_beats + data_beats
        assert await host.read("WRITE_BEATS") == data_beats
        assert await host.read("LOAD_BUSY") == data_beats
        assert await host.read("COMPUTE_FIRST") == await host.read("COMPUTE_WORDS") == 0
        assert await host.read("CYCLES") > data_beats
        await ClockCycles(dut.aclk, 20)
        assert dut.interrupt.value == 0


@cocotb.test()
async def full_bandwidth(dut: Any) -> None:  # noqa: ANN401
    """A long load takes a beat a cycle, but for the latency at its start."""
    host = await powered_on(dut)
    words = BUFFER_BYTES // WORD_BYTES // 2
    await host.good_run(words, 1)
    beats = words * WORD_BYTES // BUS_BYTES
    cycles = await host.read("CYCLES")
    dut._log.info("copied %d beats in %d cycles", beats, cycles)
    assert cycles <= 2 * beats + 220, cycles


@cocotb.test()
async def random_stalls(dut: Any) -> None:  # noqa: ANN401
    """The same with a library's AXI slave that stalls all channels at random."""
    host = await powered_on(dut, use_dram=False)
    pause_everything(host, 1)
    for seed in range(3):
        await host.good_run(20, 4, seed)


@cocotb.test()
async def slow_memory(dut: Any) -> None:  # noqa: ANN401
    """The same with a memory of long latency and little bandwidth."""
    host = await powered_on(dut)
    for latency, beats_per_16 in ((200, 32), (1, 3), (0, 17)):
        dut.dram.read_latency.value = latency
        dut.dram.write_latency.value = latency
        dut.dram.beats_per_16.value = beats_per_16
        await host.good_run(30, 3, latency)


@cocotb.test()
async def interrupt_registers(dut: Any) -> None:  # noqa: ANN401
    """ISR is gated by IER and toggles, GIER gates the line, as in a Vitis HLS kernel."""
    host = await powered_on(dut)
    await host.prepare(copy_program(1), bytes(WORD_BYTES))
    for enabled, line_on in itertools.product((0, 1, 2, 3), (0, 1)):
        await host.write("IER", enabled)
        await host.write("GIER", line_on)
        await host.start()
        while not await host.read("CTRL") & DONE:
            pass
        assert await host.read("ISR") == enabled
        assert dut.interrupt.value == int(line_on and enabled != 0)
        await host.write("ISR", 3)
        assert await host.read("ISR") == enabled ^ 3
        await host.write("ISR", enabled ^ 3)
        assert await host.read("ISR") == 0
        assert dut.interrupt.value == 0


async def fails_and_recovers(
    host: Host, error: HardwareError, program: Program, content: bytes
) -> None:
    """A run that must end with `error`, and one that must succeed."""
    await host.prepare(program, content)
    await host.start()
    got = await host.finish()
    assert got is error, f"{got.name} instead of {error.name}"
    assert await host.error() is error, "the code stays"
    host.dram.revoke_failures()
    await host.good_run(seed=5)


@cocotb.test()
async def bus_errors(dut: Any) -> None:  # noqa: ANN401
    """SLVERR and DECERR of program, input and output end the run with a code."""
    host = await powered_on(dut)
    words = 60
    content = random.Random(2).randbytes(words * WORD_BYTES)
    for response, (buffer, error) in itertools.product(
        ("slverr", "decerr"),
        (
            ("PROGRAM", HardwareError.READ),
            ("INPUT", HardwareError.READ),
            ("OUTPUT", HardwareError.WRITE),
        ),
    ):
        for offset in (0, 32, (words - 1) * WORD_BYTES):
            if buffer == "PROGRAM" and offset > 64:
                continue
            host.dram.fail(host.addresses[buffer] + offset, BUS_BYTES, response)
            await fails_and_recovers(host, error, copy_program(words), content)


@cocotb.test()
async def illegal_instruction(dut: Any) -> None:  # noqa: ANN401
    """It ends the run, its index can be read, nothing after it is run."""
    host = await powered_on(dut)
    content = random.Random(3).randbytes(8 * WORD_BYTES)
    program = copy_program(8)
    for index in range(len(program)):
        broken = [*program[:index], ILLEGAL, *program[index:]]
        await host.prepare(broken, content)
        await host.start()
        assert await host.finish() is HardwareError.DECODE
        assert await host.read("INSTRUCTIONS") == index
        if index < 2:
            assert host.get("OUTPUT", len(content)) == bytes(len(content)), "the store was run"
        await host.good_run(seed=index)


@cocotb.test()
async def bad_arguments(dut: Any) -> None:  # noqa: ANN401
    """Unaligned addresses and an empty program are refused at once."""
    host = await powered_on(dut)
    for name in ("PROGRAM_LOW", "WEIGHTS_LOW", "INPUT_LOW", "OUTPUT_LOW", "COUNT"):
        await host.prepare(copy_program(4), bytes(4 * WORD_BYTES))
        good = await host.read(name)
        await host.write(name, 0 if name == "COUNT" else good + BUS_BYTES // 2)
        await host.start()
        assert await host.finish() is HardwareError.ARGUMENT, name
        await host.good_run()


@cocotb.test()
async def unfinished_program(dut: Any) -> None:  # noqa: ANN401
    """END before the last store has landed is an error, not silence."""
    host = await powered_on(dut)
    words = 60
    hasty = [
        Load(target=LoadTarget.RESIDUAL, region=Region.INPUT, words=4, signal=1 << Unit.CONTROL),
        Store(region=Region.OUTPUT, words=words),
        End(wait=1 << Source.LOAD),
    ]
    await fails_and_recovers(host, HardwareError.UNFINISHED, hasty, bytes(words * WORD_BYTES))


@cocotb.test()
async def start_while_busy(dut: Any) -> None:  # noqa: ANN401
    """It is recorded, and neither it nor new arguments disturb the run."""
    host = await powered_on(dut)
    words = 100
    content = random.Random(4).randbytes(words * WORD_BYTES)
    await host.prepare(copy_program(words), content)
    await host.start()
    for name in ("PROGRAM_LOW", "INPUT_LOW", "OUTPUT_LOW", "COUNT"):
        await host.write(name, 0x40)
    await host.start()
    assert await host.read("CTRL") == START
    assert await host.finish() is HardwareError.START_WHILE_BUSY
    assert host.get("OUTPUT", len(content)) == stored(content)
    await host.good_run()


async def soft_reset(host: Host) -> None:
    await host.write("SOFT_RESET", 1)


ABORTED_PIECES = 4
ABORTED_WORDS = 1024
BURST_WORDS = MAX_BURST * BUS_BYTES // WORD_BYTES


async def abort_at(host: Host, cycles: int, abort: Callable[[Host], Any]) -> bytes:
    """A long run, cut off after so many cycles; its input."""
    content = random.Random(cycles).randbytes(ABORTED_WORDS * WORD_BYTES)
    await host.prepare(copy_program(ABORTED_WORDS // ABORTED_PIECES, ABORTED_PIECES), content)
    await host.start()
    await ClockCycles(host.dut.aclk, cycles)
    await abort(host)
    return content


def burst_was_cut(host: Host, content: bytes) -> bool:
    """True when an aborted run wrote part of a burst; each word is written right or not at all."""
    output, wanted = host.get("OUTPUT", len(content)), stored(content)
    words = range(0, len(content), WORD_BYTES)
    right = [output[i : i + WORD_BYTES] == wanted[i : i + WORD_BYTES] for i in words]
    empty = [output[i : i + WORD_BYTES] == bytes(WORD_BYTES) for i in words]
    assert all(a or b for a, b in zip(right, empty, strict=True)), "an abort wrote garbage"
    bursts = (right[i : i + BURST_WORDS] for i in range(0, len(right), BURST_WORDS))
    return any(any(burst) and not all(burst) for burst in bursts)


@cocotb.test()
async def soft_reset_in_mid_burst(dut: Any) -> None:  # noqa: ANN401
    """At any moment: the bus comes to rest by its rules, the next run is right."""
    host = await powered_on(dut)
    dut.dram.beats_per_16.value = 12
    cut = 0
    for cycles in [*range(0, 60, 7), *range(60, 1500, 67)]:
        content = await abort_at(host, cycles, soft_reset)
        assert await host.finish() is HardwareError.ABORTED
        cut += burst_was_cut(host, content)
        assert await host.read("SOFT_RESET") == 0
        assert dut.violation.value == 0, f"soft reset after {cycles} cycles broke a bus rule"
    assert cut, "no abort came in the middle of a write burst: the test shows too little"
    await host.good_run()


@cocotb.test()
async def soft_reset_with_stalls(dut: Any) -> None:  # noqa: ANN401
    """The same on a slave that stalls; a good run after each."""
    host = await powered_on(dut, use_dram=False)
    pause_everything(host, 2)
    for cycles in range(20, 1500, 190):
        content = await abort_at(host, cycles, soft_reset)
        assert await host.finish() is HardwareError.ABORTED
        burst_was_cut(host, content)
        await host.good_run(10, 2, cycles)


@cocotb.test()
async def soft_reset_when_idle(dut: Any) -> None:  # noqa: ANN401
    """Nothing to end: no interrupt, no error, and runs go on working."""
    host = await powered_on(dut)
    await host.good_run()
    await soft_reset(host)
    await ClockCycles(dut.aclk, 40)
    assert await host.read("CTRL") == IDLE
    assert await host.error() is HardwareError.NONE
    assert dut.interrupt.value == 0
    await host.good_run()


@cocotb.test()
async def reset_in_mid_run(dut: Any) -> None:  # noqa: ANN401
    """aresetn stops everything at once; registers are clear, the next run is right."""
    host = await powered_on(dut)

    async def pull(host: Host) -> None:
        await host.reset()

    for cycles in range(0, 900, 90):
        await abort_at(host, cycles, pull)
        assert await host.read("CTRL") == IDLE
        assert await host.read("COUNT") == 0
        await host.good_run(seed=cycles)
