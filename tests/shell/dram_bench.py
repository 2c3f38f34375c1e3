"""Cocotb tests of sim/dram.sv: answers, timing, and that every rule it checks is checked."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiBus, AxiMaster, AxiResp
from vitessera.sim.dram import Dram

SIZE = 1 << 16
BUS_BYTES = 8
FULL_WIDTH = 3  # AxSIZE of 8 bytes
INCR, FIXED = 1, 0


class Bench:
    """The memory with an AXI master in front."""

    def __init__(self, dut: Any) -> None:  # noqa: ANN401 (cocotb's handles are untyped)
        self.dut = dut
        self.dram = Dram(Path(os.environ["DRAM_FILE"]), SIZE)
        self.base = self.dram.base
        for channel in ("ar", "aw", "w"):
            getattr(dut, f"s_axi_{channel}valid").value = 0
        dut.s_axi_rready.value = 1
        dut.s_axi_bready.value = 1
        Clock(dut.aclk, 10, unit="ns").start()

    async def reset(self) -> None:
        """Reset, no violations, full speed."""
        self.dut.aresetn.value = 0
        await ClockCycles(self.dut.aclk, 4)
        self.dut.aresetn.value = 1
        self.dut.violations.value = 0
        self.dut.beats_per_16.value = 32
        await RisingEdge(self.dut.aclk)

    def master(self) -> AxiMaster:
        """A library's AXI master on the bus."""
        bus = AxiBus.from_prefix(self.dut, "s_axi")
        return AxiMaster(bus, self.dut.aclk, self.dut.aresetn, reset_active_level=False)

    async def address(self, channel: str, address: int, **fields: int) -> None:
        """One address beat, whatever it breaks."""
        values = {"addr": address, "len": 0, "size": FULL_WIDTH, "burst": INCR, "id": 0} | fields
        for name, value in values.items():
            getattr(self.dut, f"s_axi_{channel}{name}").value = value
        valid = getattr(self.dut, f"s_axi_{channel}valid")
        valid.value = 1
        await RisingEdge(self.dut.aclk)
        while getattr(self.dut, f"s_axi_{channel}ready").value != 1:
            await RisingEdge(self.dut.aclk)
        valid.value = 0

    async def data(self, last: int) -> None:
        """One write beat."""
        self.dut.s_axi_wdata.value = 0x0123456789ABCDEF
        self.dut.s_axi_wstrb.value = 0xFF
        self.dut.s_axi_wlast.value = last
        self.dut.s_axi_wvalid.value = 1
        await RisingEdge(self.dut.aclk)
        while self.dut.s_axi_wready.value != 1:
            await RisingEdge(self.dut.aclk)
        self.dut.s_axi_wvalid.value = 0

    async def settle(self) -> None:
        """Until everything is answered."""
        await ClockCycles(self.dut.aclk, 100)


async def started(dut: Any) -> Bench:  # noqa: ANN401
    bench = Bench(dut)
    await bench.reset()
    return bench


@cocotb.test()
async def random_traffic(dut: Any) -> None:  # noqa: ANN401
    """What was written comes back, to the master and to whoever maps the file."""
    bench = await started(dut)
    bench.dram.grant(bench.base, SIZE, "all", writable=True)
    bench.dram.content[:] = 0
    master = bench.master()
    source = random.Random(1)
    model = bytearray(SIZE)
    for _ in range(60):
        first, size = source.randrange(SIZE // 8 - 700) * 8, source.randint(1, 600) * 8
        if source.random() < 0.5:
            content = source.randbytes(size)
            model[first : first + size] = content
            answer = await master.write(bench.base + first, content)
            assert answer.resp == AxiResp.OKAY
        else:
            answer = await master.read(bench.base + first, size)
            assert answer.resp == AxiResp.OKAY
            assert answer.data == model[first : first + size]
    assert bench.dram.content.tobytes() == bytes(model)
    assert dut.violation.value == 0


@cocotb.test()
async def bandwidth_and_latency(dut: Any) -> None:  # noqa: ANN401
    """A quarter of the bandwidth takes four times the cycles."""
    bench = await started(dut)
    bench.dram.grant(bench.base, SIZE, "all")
    cycles = {}
    for beats_per_16 in (32, 4):
        dut.beats_per_16.value = beats_per_16
        for burst in range(4):
            await bench.address("ar", bench.base + burst * 2048, len=255)
        beats = cycles[beats_per_16] = 0
        while beats < 4 * 256:
            await RisingEdge(dut.aclk)
            cycles[beats_per_16] += 1
            beats += int(dut.s_axi_rvalid.value)
    assert 1024 <= cycles[32] <= 1024 + 30, cycles
    assert 4096 - 16 <= cycles[4] <= 4096 + 30, cycles


@cocotb.test()
async def injected_failures(dut: Any) -> None:  # noqa: ANN401
    """Addresses that the test names answer SLVERR or DECERR, with no violation."""
    bench = await started(dut)
    bench.dram.grant(bench.base, SIZE, "all", writable=True)
    bench.dram.fail(bench.base + 4096, 8, "slverr")
    bench.dram.fail(bench.base + 8192, 8, "decerr")
    master = bench.master()
    for offset, response in ((0, AxiResp.OKAY), (4096, AxiResp.SLVERR), (8192, AxiResp.DECERR)):
        assert (await master.read(bench.base + offset, 64)).resp == response
        assert (await master.write(bench.base + offset, bytes(64))).resp == response
    assert dut.violation.value == 0


RULES = {
    "a burst that is not INCR": {"burst": FIXED},
    "a narrow burst": {"size": 2},
    "an unaligned burst": {"offset": 4},
    "a burst across 4 KB": {"offset": 4096 - 8, "len": 1},
}


@cocotb.test()
async def address_rules(dut: Any) -> None:  # noqa: ANN401
    """Each broken rule is a violation, on both channels; a good burst is none."""
    bench = await started(dut)
    bench.dram.grant(bench.base, SIZE, "all", writable=True)
    await bench.address("ar", bench.base + 4096 - 8)
    await bench.settle()
    assert dut.violation.value == 0
    for channel in ("ar", "aw"):
        for rule, broken in RULES.items():
            await bench.reset()
            fields = {name: value for name, value in broken.items() if name != "offset"}
            await bench.address(channel, bench.base + broken.get("offset", 0), **fields)
            await ClockCycles(dut.aclk, 2)
            assert dut.violation.value == 1, f"{channel}: {rule} passed"


@cocotb.test()
async def buffers_are_guarded(dut: Any) -> None:  # noqa: ANN401
    """What is not granted is not touched, and said."""
    bench = await started(dut)
    bench.dram.grant(bench.base, 4096, "constant")
    bench.dram.grant(bench.base + 4096, 4096 - 8, "result", writable=True)
    bench.dram.content[:] = 0x55
    master = bench.master()
    allowed = [("read", 4088, 8), ("read", 8176, 8), ("write", 4096, 8), ("write", 8176, 8)]
    refused = [("read", 8184, 8), ("read", 12288, 8), ("write", 4088, 8), ("write", 8184, 8)]
    refused += [("read", SIZE, 8), ("write", SIZE, 8), ("read", -8, 8)]
    for kind, offset, size in allowed + refused:
        await bench.reset()
        before = bench.dram.content.copy()
        operation = master.read if kind == "read" else master.write
        await operation(bench.base + offset, size if kind == "read" else bytes(size))
        bad = (kind, offset, size) in refused
        assert dut.violation.value == bad, f"{kind} at {offset}"
        if bad:
            assert (bench.dram.content == before).all()


@cocotb.test()
async def write_last(dut: Any) -> None:  # noqa: ANN401
    """WLAST early or missing is a violation."""
    bench = await started(dut)
    bench.dram.grant(bench.base, SIZE, "all", writable=True)
    for lasts, good in (((0, 1), True), ((1, 1), False), ((0, 0), False)):
        await bench.reset()
        await bench.address("aw", bench.base, len=1)
        for last in lasts:
            await bench.data(last)
        await bench.settle()
        assert dut.violation.value == (not good), lasts


@cocotb.test()
async def valid_holds_still(dut: Any) -> None:  # noqa: ANN401
    """A write beat that changes, or goes away, while it waits is a violation."""
    bench = await started(dut)
    for change in ("nothing", "data", "valid"):
        await bench.reset()
        dut.s_axi_wdata.value = 1
        dut.s_axi_wlast.value = 1
        dut.s_axi_wvalid.value = 1  # no address yet: it has to wait
        await ClockCycles(dut.aclk, 3)
        if change == "data":
            dut.s_axi_wdata.value = 2
        elif change == "valid":
            dut.s_axi_wvalid.value = 0
        await ClockCycles(dut.aclk, 3)
        assert dut.violation.value == (change != "nothing"), change
        dut.s_axi_wvalid.value = 0
