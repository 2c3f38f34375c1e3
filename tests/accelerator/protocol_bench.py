"""The bare accelerator between a library's AXI masters and slaves that pause at random; cocotb.

No part of sim/ is in it: cocotbext-axi drives the registers and answers the memory bus, and the
monitor here knows the bus rules on its own.
"""

from __future__ import annotations

import os
import pickle
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam
from vitessera.codegen import registers
from vitessera.codegen.registers import HardwareError
from whole import Workload

PAGE_BYTES = 4096
MEMORY_BYTES = 1 << 62  # as much as the library's memory can have; addresses wrap around
# Above 4 GB, so that all 64 bits of an address count; ends of buffers are no ends of pages.
ADDRESSES = {
    "PROGRAM": 0x0000_0001_0000_0F00,
    "WEIGHTS": 0x0000_0012_3456_7FF0,
    "INPUT": 0xFFFF_FFF0_0000_0FF0,
    "OUTPUT": 0x8000_0000_7FFF_FF90,
}
POLLS = 20_000  # of CTRL, until a run counts as hung
DONE = 2  # of CTRL
SEEDS = tuple(int(seed) for seed in os.environ.get("PROTOCOL_SEEDS", "1").split(","))
PAYLOADS = {
    "ar": ("addr", "len", "size", "burst", "lock", "cache", "prot", "qos", "id"),
    "aw": ("addr", "len", "size", "burst", "lock", "cache", "prot", "qos", "id"),
    "w": ("data", "strb", "last"),
}
INCR = 1
all_waits: Counter[str] = Counter()  # of all tests


def pauses(source: random.Random) -> Iterator[bool]:
    """Stretches with and without pause, of random lengths; how long is random for each channel."""
    work, rest = source.choice((1, 3, 40)), source.choice((1, 3, 12))
    while True:
        yield from [False] * source.randint(0, 2 * work)
        yield from [True] * source.randint(0, 2 * rest)


@dataclass
class Monitor:
    """Watches the memory bus cycle by cycle; `broken` collects what breaks a rule.

    Attributes:
        dut: the accelerator.
        beat_bytes: width of the bus.
        buffers: (first address, bytes) of what may be read and what may be written, by channel.
        broken: messages.
        waits: cycles in which a channel's master waited, by channel.
        counts: handshakes by channel, and last beats by "rlast" and "wlast".
    """

    dut: Any
    beat_bytes: int
    buffers: Mapping[str, list[tuple[int, int]]]
    broken: list[str] = field(default_factory=list)
    waits: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    _held: dict[str, tuple[int, ...]] = field(default_factory=dict)
    _announced: list[int] = field(default_factory=list)  # beats of write bursts, by their address
    _written: list[int] = field(default_factory=list)  # ... by their data
    _beats: int = 0

    def _pin(self, name: str) -> Any:  # noqa: ANN401 (cocotb's handles are untyped)
        return getattr(self.dut, f"m_axi_{name}")

    async def watch(self) -> None:
        """Runs for ever."""
        while True:
            await RisingEdge(self.dut.aclk)
            for channel in ("ar", "aw", "w"):
                self._sent(channel)
            for channel in ("r", "b"):
                self._received(channel)

    def _sent(self, channel: str) -> None:
        """What the accelerator offers holds still until it is taken."""
        valid = self._pin(f"{channel}valid").value
        held = self._held.pop(channel, None)
        if valid != 1:
            if held:
                self.broken.append(f"{channel}: valid was withdrawn")
            return
        payload = tuple(int(self._pin(channel + name).value) for name in PAYLOADS[channel])
        if held and payload != held:
            self.broken.append(f"{channel}: changed from {held} to {payload} while it waited")
        if self._pin(f"{channel}ready").value != 1:
            self._held[channel] = payload
            self.waits[channel] += 1
            return
        self.counts[channel] += 1
        if channel == "w":
            self._data(payload)
        else:
            self._address(channel, *payload)

    def _received(self, channel: str) -> None:
        if self._pin(f"{channel}valid").value == 1:
            taken = self._pin(f"{channel}ready").value == 1
            self.counts[channel] += taken
            self.waits[channel] += not taken
            self.counts["rlast"] += channel == "r" and taken and self._pin("rlast").value == 1

    def _address(self, channel: str, address: int, length: int, *rest: int) -> None:
        size, burst, lock, cache, prot, qos, identifier = rest
        total = (length + 1) * self.beat_bytes
        where = f"{channel}: burst of {total} bytes at 0x{address:x}"
        if (1 << size, burst) != (self.beat_bytes, INCR):
            self.broken.append(f"{where} has size {size}, burst type {burst}")
        if (lock, cache, prot, qos, identifier) != (0, 3, 0, 0, 0):
            self.broken.append(f"{where}: {lock=} {cache=} {prot=} {qos=} {identifier=}")
        if address % self.beat_bytes:
            self.broken.append(f"{where} is not aligned")
        if address // PAGE_BYTES != (address + total - 1) // PAGE_BYTES:
            self.broken.append(f"{where} crosses a 4 KB boundary")
        if not any(low <= address <= low + n - total for low, n in self.buffers[channel]):
            self.broken.append(f"{where} lies outside the buffers")
        if channel == "aw":
            self._announced.append(length + 1)

    def _data(self, payload: tuple[int, ...]) -> None:
        _, strobe, last = payload
        self._beats += 1
        if strobe != (1 << self.beat_bytes) - 1:
            self.broken.append(f"w: strobe 0x{strobe:x} in a run that nothing disturbs")
        if last:
            self.counts["wlast"] += 1
            self._written.append(self._beats)
            self._beats = 0

    def at_rest(self) -> None:
        """After a run: no rule was broken and nothing is under way."""
        if self._announced != self._written or self._beats:
            self.broken.append(f"w: WLAST after {self._written} beats, not {self._announced}")
        if self.counts["ar"] != self.counts["rlast"] or self.counts["aw"] != self.counts["b"]:
            self.broken.append(f"done before the last answers: {dict(self.counts)}")
        assert not self.broken, "\n".join(self.broken[:10])


class Host:
    """Registers, memory and monitor around the bare accelerator."""

    def __init__(self, dut: Any, work: Workload, seed: int) -> None:  # noqa: ANN401
        self.dut = dut
        self.work = work
        clocked = {"clock": dut.aclk, "reset": dut.aresetn, "reset_active_level": False}
        self.lite = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi"), **clocked)
        self.ram = AxiRam(AxiBus.from_prefix(dut, "m_axi"), size=MEMORY_BYTES, **clocked)
        self.contents = {
            "PROGRAM": work.program.encode(),
            "WEIGHTS": work.program.weights,
            "INPUT": work.inputs[0],
            "OUTPUT": bytes(work.program.output_size),
        }
        ranges = {name: (ADDRESSES[name], len(data)) for name, data in self.contents.items()}
        output = ranges.pop("OUTPUT")
        self.monitor = Monitor(
            dut, work.program.config.bus_bits // 8, {"ar": list(ranges.values()), "aw": [output]}
        )
        self._pause(random.Random(seed))

    def _pause(self, source: random.Random) -> None:
        for slave in (self.lite, self.ram):
            for channel in (
                slave.write_if.aw_channel,
                slave.write_if.w_channel,
                slave.write_if.b_channel,
                slave.read_if.ar_channel,
                slave.read_if.r_channel,
            ):
                channel.set_pause_generator(pauses(random.Random(source.random())))

    async def reset(self) -> None:
        """Clock on, reset for some cycles, memory and arguments in place."""
        Clock(self.dut.aclk, 10, unit="ns").start()
        self.dut.aresetn.value = 0
        await ClockCycles(self.dut.aclk, 8)
        for channel in PAYLOADS:
            assert getattr(self.dut, f"m_axi_{channel}valid").value == 0, "valid in reset"
        self.dut.aresetn.value = 1
        cocotb.start_soon(self.monitor.watch())
        for name, content in self.contents.items():
            self.put(name, content)
            await self.write(f"{name}_LOW", ADDRESSES[name] & 0xFFFFFFFF)
            await self.write(f"{name}_HIGH", ADDRESSES[name] >> 32)
        await self.write("COUNT", len(self.work.program.instructions))

    def put(self, name: str, content: bytes) -> None:
        """Fills a buffer."""
        self.ram.write(ADDRESSES[name] % MEMORY_BYTES, content)

    async def write(self, name: str, value: int) -> None:
        """Writes a register."""
        offset = registers.register(name).offset
        answer = await self.lite.write(offset, value.to_bytes(4, "little"))
        assert answer.resp == 0, name

    async def read(self, name: str) -> int:
        """Reads a register."""
        answer = await self.lite.read(registers.register(name).offset, 4)
        assert answer.resp == 0, name
        return int.from_bytes(answer.data, "little")

    async def run(self, content: bytes) -> bytes:
        """One run, polled; the output buffer."""
        self.put("INPUT", content)
        self.put("OUTPUT", self.contents["OUTPUT"])
        await self.write("CTRL", 1)
        for _ in range(POLLS):
            if await self.read("CTRL") & DONE:
                break
        else:
            raise AssertionError(f"not done; {await self._describe()}")
        error = HardwareError(await self.read("STATUS") >> 8)
        assert error is HardwareError.NONE, error.name
        size = self.work.program.output_size
        return bytes(self.ram.read(ADDRESSES["OUTPUT"] % MEMORY_BYTES, size))

    async def _describe(self) -> str:
        names = ("STATUS", "INSTRUCTIONS", "READ_BEATS", "WRITE_BEATS")
        return ", ".join([f"{name} 0x{await self.read(name):x}" for name in names])


def workload(name: str) -> Workload:
    work: Workload = pickle.loads(Path(os.environ["PROTOCOL_WORKLOADS"]).read_bytes())[name]
    return work


@cocotb.test()
@cocotb.parametrize(seed=SEEDS, name=("product", "transformer"))
async def random_pauses(dut: Any, seed: int, name: str) -> None:  # noqa: ANN401
    """Whatever waits for whatever: the right bits, by the rules."""
    work = workload(name)
    host = Host(dut, work, seed)
    await host.reset()
    counts, waits = host.monitor.counts, host.monitor.waits
    for content, expected in zip(work.inputs, work.outputs, strict=True):
        assert await host.run(content) == expected, f"wrong output with seed {seed}"
        all_waits.update(waits)
        host.monitor.at_rest()
    dut._log.info(
        "seed %d, %s: %d cycles; handshakes %s; waits %s",
        *(seed, name, await host.read("CYCLES"), dict(counts), dict(waits)),
    )
    assert counts["r"] == len(work.inputs) * await host.read("READ_BEATS")
    assert counts["w"] == len(work.inputs) * await host.read("WRITE_BEATS")


@cocotb.test()
async def pauses_were_felt(_: Any) -> None:  # noqa: ANN401
    """Runs last: the tests above made the accelerator wait on every channel that it sends on."""
    assert all(all_waits[channel] for channel in PAYLOADS), dict(all_waits)
