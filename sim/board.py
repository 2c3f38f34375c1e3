"""A board that is not there: a PYNQ device whose FPGA is the RTL in a simulator.

PYNQ's own Overlay, register maps, buffers and interrupts work on it unchanged:

    this process                                  simulator process (board_bench.py)
    pynq.Overlay ── download ───────────────────▶ started, reset
    register_map ── read, write (RPC) ──────────▶ AXI4-Lite of the accelerator; interrupt controller
    pynq.allocate ─ host copy ── flush ─────────▶ DRAM, a file that both map
                              ◀─ invalidate ────
    pynq.Interrupt ◀──────────── like UIO ─────── interrupt controller

Host and device copies of a buffer are apart, as behind a cache: what is not flushed does not
arrive. Registers that the map does not have, wrong directions, and DRAM accesses outside of the
buffers that are allocated are errors here, where a board would go on.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import os
import pickle
import socket
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pynq import Device
from pynq.buffer import PynqBuffer
from pynq.interrupt import _InterruptController
from pynq.uio import UioController
from pynqmetadata.frontends import Metadata

from ..codegen import children
from ..codegen.boards import BOARDS, DEFAULT_BOARD
from ..codegen.builddir import Build, read_build
from ..codegen.errors import SimulationError, ToolError
from ..codegen.registers import REGISTERS, Access
from ..codegen.scratch import ScratchFolder
from ..codegen.vivado import OVERLAY, block_design
from ..codegen.vivado.design import REGISTER_BYTES
from ..codegen.vivado.handoff import handoff
from . import verilator
from .accelerator import DramTiming, testbench_design
from .board_link import Job, Reply, Request
from .board_process import JOB
from .dram import PAGE_BYTES, Dram

try:  # PYNQ 4
    from pynqmetadata.views.runtime import RuntimeMetadataParser
except ImportError:
    from pynq.metadata.runtime_metadata_parser import RuntimeMetadataParser

DRAM_BYTES = 1 << 30  # a sparse file
START_SECONDS = 60  # that the simulator may take to answer first
STOP_SECONDS = 10
WORD_BYTES = 4
_numbers = itertools.count()


# --- Interrupts


class _SimulatedUio(UioController):  # type: ignore[misc] # pynq has no types
    """PYNQ's end of a UIO device, on a socket instead of a file in /dev.

    Its reading, writing and waking are PYNQ's own.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.uio = connection.makefile("rwb", buffering=0)
        self.loop = asyncio.get_event_loop()
        self.wait_events: list[Any] = []
        reference, number = weakref.ref(self), connection.fileno()

        def wake() -> None:
            controller = reference()
            try:
                waiting = connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except BlockingIOError:
                return  # a Ctrl-C inside asyncio can make it call twice for one interrupt
            if controller is None or not waiting:
                self_loop.remove_reader(number)  # nobody is there on one side or the other
            else:
                controller._uio_callback()

        self_loop = self.loop
        self_loop.add_reader(number, wake)
        self._number = number

    def close(self) -> None:
        """Stops listening; doing so again changes nothing."""
        if self.uio.closed:
            return
        if not self.loop.is_closed():
            self.loop.remove_reader(self._number)
        self.uio.close()

    def __del__(self) -> None:
        """PYNQ's would look for a loop that may be gone."""


# --- Memory


@dataclass(frozen=True)
class _Block:
    """A buffer in the simulated DRAM."""

    address: int
    size: int

    @property
    def end(self) -> int:
        """The first page after it, and after the guard page behind it."""
        return self.address + (-(-self.size // PAGE_BYTES) + 1) * PAGE_BYTES


class _Buffer(PynqBuffer):  # type: ignore[misc] # pynq has no types
    """A PYNQ buffer that gives its memory back to a SimulatedMemory."""

    memory: SimulatedMemory | None = None

    def freebuffer(self) -> None:
        """Frees the memory once; a view, which has no memory of its own, frees none."""
        if self.memory is not None:
            self.memory.free(self.bo)
            self.memory = None


class SimulatedMemory:
    """Where pynq.allocate takes buffers from."""

    def __init__(self, board: SimulatedBoard, dram: Dram) -> None:
        self._board = weakref.ref(board)
        self._process = os.getpid()
        self._dram = dram
        self._blocks: list[_Block] = []

    @property
    def allocated(self) -> int:
        """Buffers that have not been freed."""
        return len(self._blocks)

    @property
    def dram(self) -> Dram:
        """What the simulator sees."""
        return self._dram

    def allocate(
        self,
        shape: tuple[int, ...],
        dtype: Any,  # noqa: ANN401
        **_: object,
    ) -> PynqBuffer:
        """A buffer on pages of its own, with an unused page behind it."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        block = _Block(self._gap(size), size)
        self._blocks = sorted([*self._blocks, block], key=lambda entry: entry.address)
        self._dram.view(block.address, size)[:] = 0
        self._dram.grant(block.address, size, "buffer", writable=True)
        buffer = _Buffer(shape, dtype, device=self._board(), device_address=block.address, bo=block)
        buffer.memory = self
        return buffer

    def _gap(self, size: int) -> int:
        """The lowest address with room for `size` bytes; what XRT raises when there is none."""
        address = self._dram.base
        for block in self._blocks:
            if _Block(address, size).end <= block.address:
                break
            address = block.end
        if _Block(address, size).end > self._dram.base + len(self._dram.content):
            raise RuntimeError(f"BO allocation failed: no room for {size} bytes")
        return address

    def view(self, block: _Block, offset: int, size: int) -> npt.NDArray[np.uint8]:
        """The DRAM's bytes of a buffer; SimulationError when it has been freed."""
        if block not in self._blocks:
            raise SimulationError(
                f"The buffer at 0x{block.address:x} is used after it was freed.",
                "Keep it until the run is over.",
            )
        return self._dram.view(block.address + offset, size)

    def free(self, block: _Block) -> None:
        """Gives a buffer's memory back; the accelerator may not touch it any more."""
        if os.getpid() != self._process:
            return  # a forked process ends with copies of the buffers; the parent still uses them
        self._blocks.remove(block)
        if self._dram.path.exists():  # the board may have been closed before
            self._dram.revoke(block.address)


# --- The clock


@dataclass
class SimulatedClocks:
    """The fabric's clock as `pynq.Clocks` has it. Its number alone: the simulator counts cycles.

    Attributes:
        pll_mhz: of the PLL that it is divided from.
        division: of the PLL.
    """

    pll_mhz: float
    division: int

    @property
    def fclk0_mhz(self) -> float:
        """The clock in MHz; the nearest that can be had is set."""
        return self.pll_mhz / self.division

    @fclk0_mhz.setter
    def fclk0_mhz(self, mhz: float) -> None:
        self.division = max(1, round(self.pll_mhz / mhz))


# --- The device


class SimulatedBoard(Device):  # type: ignore[misc] # pynq has no types
    """A PYNQ device for one build directory.

    Args:
        folder: the build directory.
        timing: of the DRAM.
        dram_bytes: size of the DRAM.
        foreign_rtl: whether to simulate RTL that is not what vitessera generates.

    Raises:
        BuildDirectoryError: the build directory is incomplete or changed, or its RTL is not ours.
        ToolError: the simulator cannot be built.
    """

    def __init__(
        self,
        folder: Path,
        *,
        timing: DramTiming | None = None,
        dram_bytes: int = DRAM_BYTES,
        foreign_rtl: bool = False,
    ) -> None:
        super().__init__(f"simulated-{os.getpid()}-{next(_numbers)}")
        self.name = "simulated"
        self.capabilities = {"REGISTER_RW": True}
        self.timestamp = ""
        verilator.environment()  # what is missing is said before anything is compiled
        self._build = read_build(folder, check_rtl=not foreign_rtl)
        self._scratch = ScratchFolder()
        self._folder = self._scratch.path
        self._timing = timing or DramTiming()
        self._dram = Dram(self._folder / "dram", dram_bytes)
        self.default_memory = SimulatedMemory(self, self._dram)
        self._simulator: _Simulator | None = None
        self.overlay_file = self._folder / f"{OVERLAY}.hwh"
        self.overlay_file.write_text(_handoff(self._build), encoding="utf-8")
        _check_simulator(self._build)
        self.clocks = SimulatedClocks(self._build.fabric_mhz or self._build.config.clock_mhz, 1)
        self._previous = vars(Device).get("_active_device")
        self.closed = False

    # --- What PYNQ calls

    def get_bitfile_metadata(self, bitfile_name: str, partial: bool = False) -> Any:  # noqa: ANN401
        """The .hwh, by the parser that boards use."""
        del partial
        parser = RuntimeMetadataParser(Metadata(input=bitfile_name))
        parser.clock_dict = {}  # clocks are set in the processor's registers, which are not here
        return parser

    def download(self, bitstream: Any, parser: Any = None) -> None:  # noqa: ANN401
        """Starts the simulator, with the accelerator in reset state."""
        self._stop()
        Device.active_device = self  # where PYNQ's interrupts look for pins
        self._dram.revoke_failures()
        self._simulator = _Simulator(self._build, self._dram, self._timing, self._folder)
        self._connect_interrupts(parser)
        self.post_download(bitstream, parser, self.name)

    def _connect_interrupts(self, parser: Any) -> None:  # noqa: ANN401
        assert self._simulator is not None
        _InterruptController._controllers.clear()
        for entry in parser.interrupt_controllers.values():
            _InterruptController._uio_devices[entry["raw_irq"]] = self._simulator.uio

    def read_registers(self, address: int, length: int) -> bytes:
        """`length` bytes of registers, word by word."""
        words = range(address, address + length, WORD_BYTES)
        return b"".join(self._access("read", word).to_bytes(WORD_BYTES, "little") for word in words)

    def write_registers(self, address: int, data: bytes) -> None:
        """Writes whole words."""
        content = bytes(data)
        for start in range(0, len(content), WORD_BYTES):
            value = int.from_bytes(content[start : start + WORD_BYTES], "little")
            self._access("write", address + start, value)

    def _access(self, kind: str, address: int, value: int = 0) -> int:
        for name, entry in self.ip_dict.items():
            base, size = entry.get("phys_addr"), entry.get("addr_range")
            if base is None or not base <= address < base + size:
                continue
            if entry["type"].startswith("xilinx.com:ip:axi_intc:"):
                return self.ask(Request(f"{kind}_controller", address - base, value))
            if size == REGISTER_BYTES:
                _check_register(kind, address - base)
                return self.ask(Request(kind, address - base, value))
            raise SimulationError(f"There is no model of {name}.", "Only use the accelerator.")
        raise SimulationError(
            f"Nothing answers at address 0x{address:x}.", "Use the addresses in the .hwh."
        )

    def flush(self, bo: _Block, offset: int, address: int, size: int) -> None:
        """Copies what the host wrote at `address` to DRAM."""
        self.default_memory.view(bo, offset, size)[:] = _host_bytes(address, size)

    def invalidate(self, bo: _Block, offset: int, address: int, size: int) -> None:
        """Copies DRAM to the host's `address`."""
        _host_bytes(address, size)[:] = self.default_memory.view(bo, offset, size)

    # --- What tests use

    def ask(self, request: Request) -> int:
        """Sends a request to the simulator; SimulationError if a bus rule was broken."""
        if self._simulator is None:
            raise SimulationError("The simulated board holds no overlay.", "Load one first.")
        return self._simulator.ask(request)

    def close(self) -> None:
        """Ends the simulator and removes its files; doing so again changes nothing."""
        self.closed = True
        try:
            self._stop()
        finally:
            if vars(Device).get("_active_device") is self:
                self._restore()
            self._scratch.cleanup()

    def _restore(self) -> None:
        """Makes the device that was active before active again."""
        previous, self._previous = self._previous, None
        if previous is None or getattr(previous, "closed", False):
            del Device._active_device  # PYNQ looks for one when it needs one
        else:
            Device.active_device = previous

    def _stop(self) -> None:
        simulator, self._simulator = self._simulator, None
        if simulator is not None:
            simulator.stop()


def _host_bytes(address: int, size: int) -> npt.NDArray[np.uint8]:
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


def _check_register(kind: str, offset: int) -> None:
    """A board would read zero, or ignore the write."""
    found = next((register for register in REGISTERS if register.offset == offset), None)
    if found is None:
        raise SimulationError(
            f"The accelerator has no register at offset 0x{offset:x}.",
            "See docs/registers.md.",
        )
    if kind == "write" and found.access is Access.READ:
        raise SimulationError(f"Register {found.name} cannot be written.", "See docs/registers.md.")


def _handoff(build: Build) -> str:
    """The .hwh of the board's block design; of a default board's if ours has none for it."""
    config = build.config
    if config.board not in BOARDS:
        default = BOARDS[DEFAULT_BOARD].config
        config = replace(config, board=default.board, clock_mhz=default.clock_mhz)
    return handoff(block_design(config), build.rtl)


def _check_simulator(build: Build) -> None:
    """Builds the simulator unless the cache has it; says so, since that takes minutes."""
    design = testbench_design(build.config, build.rtl.files)
    if not verilator.is_built(design):
        print(
            "vitessera: building the simulator of this accelerator; about two minutes, once.",
            file=sys.stderr,
        )
    verilator.build(design)


# --- The simulator process


def _listening(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(path)
    except OSError as error:
        listener.close()
        raise ToolError(
            f"A socket cannot be made at {path} ({error}).",
            "Set TMPDIR to a folder with a shorter name, where you may write.",
        ) from error
    listener.listen(1)
    return listener


class _Simulator:
    """The other process, and the connections to it."""

    def __init__(self, build: Build, dram: Dram, timing: DramTiming, folder: Path) -> None:
        self._log = folder / "simulator.log"
        self._exchange = ThreadPoolExecutor(1)
        run = folder / "run"
        job = Job(
            config=build.config,
            rtl=dict(build.rtl.files),
            plusargs=(*dram.plusargs, *timing.plusargs),
            requests=str(folder / "requests"),
            interrupts=str(folder / "interrupts"),
        )
        for path in (job.requests, job.interrupts):
            Path(path).unlink(missing_ok=True)
        (folder / JOB).write_bytes(pickle.dumps(job))
        interrupts = _listening(job.interrupts)
        interrupts.settimeout(START_SECONDS)
        with interrupts, Listener(job.requests) as listener:
            command = [sys.executable, "-m", "vitessera.sim.board_process", str(folder), str(run)]
            with self._log.open("w", encoding="utf-8") as log:
                self._process = children.Program(command, stdout=log, stderr=log)
            try:
                self._requests: Connection = self._accept(listener)
                self._interrupts, _ = interrupts.accept()
                self._interrupts.settimeout(None)
                self.uio = _SimulatedUio(self._interrupts)
            except BaseException:
                self._kill()
                raise

    def _accept(self, listener: Listener) -> Connection:
        """Waits until the simulator has connected, or has ended, or takes too long."""
        server = listener._listener._socket  # type: ignore[attr-defined]
        for _ in range(START_SECONDS * 10):
            server.settimeout(0.1)
            with suppress(TimeoutError):
                return listener.accept()
            if self._process.poll() is not None:
                break
        raise ToolError(f"The simulator did not start:\n{self._tail()}", "The log above says why.")

    def ask(self, request: Request) -> int:
        """Sends a request and waits for its answer."""
        # In a thread of its own: Ctrl-C must not part a request from its answer, and threads of
        # the host take turns.
        try:
            exchange = self._exchange.submit(self._ask, request)
        except RuntimeError as error:
            raise SimulationError("The simulated board is closed.", "Make a new one.") from error
        return exchange.result()

    def _ask(self, request: Request) -> int:
        try:
            self._requests.send(request)
            reply: Reply = self._requests.recv()
        except (EOFError, OSError) as error:
            raise SimulationError(
                f"The simulator has ended ({error or 'connection closed'}):\n{self._tail()}",
                "The log above says why.",
            ) from error
        if reply.violated:
            raise SimulationError(
                f"The accelerator broke a rule of the bus:\n{self._violations()}",
                "An address register or the program points outside of the allocated buffers.",
            )
        return reply.value

    def _violations(self) -> str:
        text = "".join(
            path.read_text(encoding="utf-8") for path in self._log.parent.rglob("simulation.log")
        )
        return "\n".join(line for line in text.splitlines() if line.startswith("dram:"))

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-30:])

    def stop(self) -> None:
        """Ends the process; it goes when its connection closes."""
        self._exchange.shutdown()
        self.uio.close()
        self._interrupts.close()
        self._requests.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill()
        except BaseException:
            self._kill()
            raise

    def _kill(self) -> None:
        self._process.end()
