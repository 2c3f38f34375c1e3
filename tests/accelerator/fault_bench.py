"""Everything that may go wrong during a run of the real accelerator; cocotb tests.

After each fault the accelerator must name it, be idle, and give the right bits in the next run,
with no broken bus rule in between (the DRAM model watches).
"""

from __future__ import annotations

import itertools
import os
import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cocotb
from cocotb.triggers import ClockCycles
from vitessera.codegen.isa import Compute, End, Instruction, Load, Source, fields
from vitessera.codegen.program import INSTRUCTION_BYTES
from vitessera.codegen.registers import HardwareError, State
from vitessera.sim.accelerator import DramTiming, Job
from vitessera.sim.accelerator_bench import RESET_CYCLES, Host
from vitessera.sim.dram import Dram
from whole import TIMEOUT_CYCLES, Workload

DRAM_BYTES = 1 << 18
BUFFERS = ("PROGRAM", "WEIGHTS", "INPUT", "OUTPUT")
START, DONE, IDLE, READY = 1, 2, 4, 8  # of CTRL
INTERRUPTIONS = 40  # random moments at which a run is cut off
NEVER_RUNS = 10  # a run that takes so many times longer will not end


class FaultHost(Host):
    """A host that can put wrong things in memory and look at the accelerator in mid-run."""

    def __init__(self, dut: Any) -> None:  # noqa: ANN401 (cocotb's handles are untyped)
        self.work: Workload = pickle.loads(Path(os.environ["FAULT_WORKLOAD"]).read_bytes())
        self.memory = Dram(Path(os.environ["FAULT_DRAM"]), DRAM_BYTES)
        self.code = self.work.program.encode()
        sizes = (
            len(self.code) + INSTRUCTION_BYTES,  # room for a wrong one
            len(self.work.program.weights),
            len(self.work.inputs[0]),
            len(self.work.outputs[0]),
        )
        self.addresses = {
            name: self.memory.allocate(size, name, writable=name == "OUTPUT")
            for name, size in zip(BUFFERS, sizes, strict=True)
        }
        self._turn: Iterator[int] = itertools.cycle(range(len(self.work.inputs)))
        self.job = self._job()
        super().__init__(dut, (str(self.memory.path), self.memory.base, DRAM_BYTES))
        self.put("WEIGHTS", self.work.program.weights)
        self.put("PROGRAM", self.code)

    def _job(self) -> Job:
        arguments = {"COUNT": len(self.work.program.instructions)}
        for name, address in self.addresses.items():
            arguments |= {f"{name}_LOW": address & 0xFFFFFFFF, f"{name}_HIGH": address >> 32}
        return Job(
            arguments=arguments,
            inputs=self.work.inputs,
            input_address=self.addresses["INPUT"],
            output_address=self.addresses["OUTPUT"],
            output_bytes=len(self.work.outputs[0]),
            timing=DramTiming(),
            timeout_cycles=TIMEOUT_CYCLES,
        )

    def put(self, buffer: str, content: bytes) -> None:
        """Fills the start of a buffer."""
        self.memory.view(self.addresses[buffer], len(content))[:] = memoryview(content)

    async def load_program(self, words: list[int]) -> None:
        """Puts these instruction words in the place of the program."""
        self.put("PROGRAM", b"".join(w.to_bytes(INSTRUCTION_BYTES, "little") for w in words))
        await self.registers.write("COUNT", len(words))

    async def reset(self) -> None:
        """Clock on, reset, the arguments written."""
        await super().reset()
        await self.restore()

    async def restore(self) -> None:
        """Program and arguments as they should be; every address answers."""
        self.memory.revoke_failures()
        self.put("PROGRAM", self.code)
        for name, value in self.job.arguments.items():
            await self.registers.write(name, value)

    async def start(self) -> int:
        """Starts a run on the next input and a cleared output; the input's index."""
        turn = next(self._turn)
        self.put("INPUT", self.work.inputs[turn])
        self.put("OUTPUT", bytes(self.job.output_bytes))
        await self.registers.write("CTRL", START)
        return turn

    async def finish(self) -> HardwareError:
        """Waits for the interrupt and acknowledges it; how the run ended."""
        if self.dut.interrupt.value != 1:
            await self.interrupt(TIMEOUT_CYCLES)
        await self.registers.write("ISR", 1)
        assert await self.registers.read("CTRL") == DONE | IDLE | READY
        assert await self.registers.read("CTRL") == IDLE, "done and ready clear when read"
        return await self.error()

    async def error(self) -> HardwareError:
        """The error code in STATUS, of an accelerator that is idle."""
        status = await self.registers.read("STATUS")
        assert State(status & 7) is State.IDLE
        assert self.dut.violation.value == 0, "the accelerator broke a bus rule; see above"
        return HardwareError(status >> 8)

    def check_output(self, turn: int) -> None:
        """The output buffer must hold the result of input `turn`."""
        got = self.memory.view(self.addresses["OUTPUT"], self.job.output_bytes).tobytes()
        assert got == self.work.outputs[turn], f"wrong output of input {turn}"

    async def good_run(self) -> None:
        """A run without fault: no error, the right bits."""
        await self.restore()
        turn = await self.start()
        error = await self.finish()
        assert error is HardwareError.NONE, error.name
        self.check_output(turn)

    async def fails(self, wanted: HardwareError) -> None:
        """A run that must end with `wanted`, and a good one."""
        await self.start()
        error = await self.finish()
        assert error is wanted, f"{error.name} instead of {wanted.name}"
        assert await self.error() is wanted, "the code stays until the next start"
        await self.good_run()

    async def pull_reset(self) -> None:
        """aresetn low for some cycles; all registers are cleared."""
        self.dut.aresetn.value = 0
        await ClockCycles(self.dut.aclk, RESET_CYCLES)
        self.dut.aresetn.value = 1
        await ClockCycles(self.dut.aclk, 1)


async def powered_on(dut: Any) -> FaultHost:  # noqa: ANN401
    host = FaultHost(dut)
    dut.dram.read_latency.value = 24
    dut.dram.write_latency.value = 12
    dut.dram.beats_per_16.value = 32
    await host.reset()
    return host


def random_memory(dut: Any, seed: int) -> None:  # noqa: ANN401
    """A DRAM of another speed, never faster than at the start."""
    source = random.Random(seed)
    dut.dram.read_latency.value = source.choice((24, 60, 200))
    dut.dram.write_latency.value = source.choice((12, 100))
    dut.dram.beats_per_16.value = source.choice((32, 8, 3))


async def run_cycles(host: FaultHost) -> int:
    """Cycles that a good run takes."""
    await host.good_run()
    return await host.registers.read("CYCLES")


def random_moments(cycles: int, seed: int) -> list[int]:
    """Moments within a run of so many cycles: its first and last ones, and any."""
    source = random.Random(seed)
    return [0, 1, cycles - 40, *sorted(source.sample(range(2, cycles - 40), INTERRUPTIONS))]


def illegal_words() -> dict[str, int]:
    """Words that are no instruction, by what is wrong with them."""
    load = Load(words=1).encode()
    target, words = (
        next(f for f in fields(Load) if f.name == name) for name in ("target", "words")
    )
    return {
        "unknown opcode": 9,
        "all zeros": 0,
        "all ones": (1 << 8 * INSTRUCTION_BYTES) - 1,
        "bits that no field claims": Compute(outer=1, inner=1, depth=1).encode() | 1 << 255,
        "unknown code in a field": load | ((1 << target.width) - 1) << target.low,
        "count of zero": load & ~(((1 << words.width) - 1) << words.low),
    }


@cocotb.test()
async def illegal_instruction(dut: Any) -> None:  # noqa: ANN401
    """In the middle of the program: the error names its index, the next run is right."""
    host = await powered_on(dut)
    good = [instruction.encode() for instruction in host.work.program.instructions]
    source = random.Random(1)
    for reason, word in illegal_words().items():
        index = source.randrange(1, len(good))
        dut._log.info("%s at instruction %d of %d", reason, index, len(good))
        await host.load_program([*good[:index], word, *good[index:]])
        await host.start()
        assert await host.finish() is HardwareError.DECODE, reason
        assert await host.registers.read("INSTRUCTIONS") == index, reason
        await host.good_run()


@cocotb.test()
async def bus_errors(dut: Any) -> None:  # noqa: ANN401
    """SLVERR or DECERR anywhere in the four buffers ends the run with READ or WRITE."""
    host = await powered_on(dut)
    beat = host.work.program.config.bus_bits // 8
    code, read, write = len(host.code), HardwareError.READ, HardwareError.WRITE
    places = (
        ("PROGRAM", 0, read),
        ("PROGRAM", code // 2, read),
        ("PROGRAM", code - beat, read),
        ("WEIGHTS", 0, read),
        ("WEIGHTS", len(host.work.program.weights) // 2 // beat * beat, read),
        ("WEIGHTS", len(host.work.program.weights) - beat, read),
        ("INPUT", 0, read),
        ("OUTPUT", 0, write),
        ("OUTPUT", host.job.output_bytes - beat, write),
    )
    for response, (buffer, offset, error) in itertools.product(("slverr", "decerr"), places):
        dut._log.info("%s at byte %d of %s", response, offset, buffer)
        host.memory.fail(host.addresses[buffer] + offset, beat, response)
        await host.fails(error)


@cocotb.test()
async def start_while_busy(dut: Any) -> None:  # noqa: ANN401
    """It is recorded; neither it nor new arguments disturb the run."""
    host = await powered_on(dut)
    for moment in random_moments(await run_cycles(host) - 100, seed=2):
        turn = await host.start()
        await ClockCycles(dut.aclk, moment + 1)
        for buffer in BUFFERS:
            await host.registers.write(f"{buffer}_LOW", 0x40)
        await host.registers.write("CTRL", START)
        assert await host.finish() is HardwareError.START_WHILE_BUSY, f"at cycle {moment}"
        host.check_output(turn)
        await host.good_run()


@cocotb.test()
async def soft_reset_in_mid_run(dut: Any) -> None:  # noqa: ANN401
    """At any moment: the bus comes to rest, the run ends as ABORTED, the next is right."""
    host = await powered_on(dut)
    for moment in random_moments(await run_cycles(host), seed=3):
        random_memory(dut, seed=moment)
        await host.start()
        await ClockCycles(dut.aclk, moment + 1)
        await host.registers.write("SOFT_RESET", 1)
        assert await host.finish() is HardwareError.ABORTED, f"at cycle {moment}"
        assert await host.registers.read("SOFT_RESET") == 0
        await host.good_run()


@cocotb.test()
async def reset_in_mid_run(dut: Any) -> None:  # noqa: ANN401
    """aresetn at any moment: idle at once, no interrupt, and the next run is right."""
    host = await powered_on(dut)
    for moment in random_moments(await run_cycles(host), seed=4):
        random_memory(dut, seed=moment)
        await host.start()
        await ClockCycles(dut.aclk, moment + 1)
        await host.pull_reset()
        assert dut.interrupt.value == 0
        assert await host.registers.read("CTRL") == IDLE, f"at cycle {moment}"
        assert await host.error() is HardwareError.NONE
        await host.registers.write("GIER", 1)
        await host.registers.write("IER", 1)
        await host.good_run()


@cocotb.test()
async def program_without_end(dut: Any) -> None:  # noqa: ANN401
    """END waits for what nobody signals: the run goes on until a soft reset."""
    host = await powered_on(dut)
    cycles = await run_cycles(host)
    end = host.work.program.instructions[-1]
    assert isinstance(end, End)
    for program in (
        [End(wait=1 << Source.STORE)],
        [*host.work.program.instructions[:-1], End(wait=end.wait | 1 << unsignalled(host))],
    ):
        await host.load_program([instruction.encode() for instruction in program])
        turn = await host.start()
        await ClockCycles(dut.aclk, NEVER_RUNS * cycles)
        assert dut.interrupt.value == 0
        assert await host.registers.read("CTRL") == START
        assert await host.registers.read("STATUS") == State.RUN
        assert await host.registers.read("INSTRUCTIONS") == len(program)
        if len(program) > 1:
            host.check_output(turn)  # all but the end has happened
        await host.registers.write("SOFT_RESET", 1)
        assert await host.finish() is HardwareError.ABORTED
        await host.good_run()


def unsignalled(host: FaultHost) -> Source:
    """A source of completion that no instruction of the program signals to CONTROL."""

    def signals_end(instruction: Instruction) -> bool:
        return bool(instruction.signal >> End.UNIT & 1)

    signalled = {i.source for i in host.work.program.instructions if signals_end(i)}
    return next(source for source in Source if source not in signalled)


@cocotb.test()
async def bad_arguments(dut: Any) -> None:  # noqa: ANN401
    """No instructions, or a base address within a beat: refused at once, nothing is run."""
    host = await powered_on(dut)
    await host.good_run()
    wrong = {f"{buffer}_LOW": host.addresses[buffer] + 4 for buffer in BUFFERS} | {"COUNT": 0}
    for name, value in wrong.items():
        await host.registers.write(name, value)
        await host.fails(HardwareError.ARGUMENT)
