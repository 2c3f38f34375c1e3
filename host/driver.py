"""The PYNQ driver of the accelerator's IP: registers, interrupt, time limits, errors.

PYNQ binds it to the IP by its VLNV when an overlay is loaded. It knows registers by the names that
the .hwh gives them, and nothing of models and images; that is accelerator.py.
"""

from __future__ import annotations

import asyncio
import threading
import time
import warnings
from collections.abc import Coroutine, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from pynq import DefaultIP
from pynq.interrupt import _InterruptController

from .build import CompiledModel, Hardware
from .errors import ACCELERATOR_ERRORS, AcceleratorError, BoardError, OverlayError, RunTimeoutError
from .interface import VLNV
from .loops import event_loop, loop_is_running

POLL_SECONDS = 0.001  # between two looks at the registers, without an interrupt
CHECK_SECONDS = 0.5  # the same, while waiting for the interrupt: it might get lost
LATE_LOOKS = 4  # in a row, the run over and yet no interrupt: it is lost
RESET_POLLS = 2000  # looks until a soft reset must be over
IDLE_LOOKS = 3  # in a row, idle and yet no end reported: the run is lost
COUNTER_MAXIMUM = 0xFFFFFFFF
# A run in which no counter of work changes for so long has come to a stand: 2 ms at 100 MHz.
STILL_CYCLES = 200_000
TIME_COUNTERS = ("CYCLES", "LOAD_WAIT")  # they count while nothing moves, too
NO_ERROR = "NONE"
IGNORED_START = "START_WHILE_BUSY"  # the run that was under way is not disturbed


class Driver(DefaultIP):  # type: ignore[misc] # pynq has no types
    """One accelerator in the FPGA.

    Made by PYNQ. `attach` must be called before anything else.
    """

    bindto = [VLNV]  # noqa: RUF012 (as PYNQ wants it)

    def __init__(self, description: Mapping[str, Any]) -> None:
        self._loop = event_loop()  # PYNQ listens for interrupts on it
        self._thread = threading.get_ident()  # that may drive it
        super().__init__(description)
        self._interrupt_works = getattr(self, "interrupt", None) is not None and _arrives(
            self._loop
        )
        # PYNQ forgets its controllers when another overlay is loaded; the interrupt needs its own.
        self._controller = self.interrupt.parent() if self._interrupt_works else None
        self._loaded_at = ""
        self._idle_looks = 0
        self._moved_at = 0  # cycle of the last look at the counters of work, and what they were
        self._work: dict[str, int] = {}
        self._hardware: Hardware | None = None

    @property
    def hardware(self) -> Hardware:
        """What the registers hold; known after `attach`."""
        assert self._hardware is not None, "attach comes first"
        return self._hardware

    # --- Whether it is the right one

    def attach(self, model: CompiledModel) -> None:
        """Takes the register map from `model`, after checking that the hardware is the model's.

        Raises:
            OverlayError: other hardware, another interface, or another configuration answers.
        """
        regs, hardware = self.register_map, model.hardware
        magic, version = int(regs.MAGIC), int(regs.VERSION)
        if magic != hardware.magic:
            raise OverlayError(
                f"What answers at 0x{self.mmio.base_addr:x} is no vitessera accelerator (its MAGIC "
                f"reads 0x{magic:08x}).",
                "Load the bitstream of this build directory.",
            )
        if version != hardware.interface_version:
            raise OverlayError(
                f"The accelerator has version {version} of the register map, {model.folder} was "
                f"compiled for version {hardware.interface_version}.",
                "Build bitstream and program with the same vitessera.",
            )
        found = int(regs.HASH_HIGH) << 32 | int(regs.HASH_LOW)
        if found != model.design_hash:
            raise OverlayError(
                f"{model.folder} was compiled for the design {model.design_hash:016x}, the FPGA "
                f"holds {found:016x}{self._differences(model)}.",
                "Load the bitstream of this build directory, or compile the model with the "
                "configuration that the FPGA holds.",
            )
        if differences := self._differences(model):
            # The bounds of the program's accesses were computed from these sizes.
            raise OverlayError(
                f"{model.folder} says of its accelerator what the FPGA does not{differences}.",
                "The build directory was altered. Compile the model again.",
            )
        missing = [name for name in (*hardware.counters, "QUEUES") if not hasattr(regs, name)]
        if missing:
            raise OverlayError(
                f"The overlay has no register called {missing[0]!r}, which {model.folder} names.",
                "The build directory was altered. Compile the model again.",
            )
        self._hardware = hardware
        self._loaded_at = self.device.timestamp

    def _differences(self, model: CompiledModel) -> str:
        names = ("tile", "depth", "lanes", "bus_bits")
        held = {name: int(getattr(self.register_map, name.upper())) for name in names}
        differing = [
            f"{name} {held[name]} instead of {model.config[name]}"
            for name in names
            if held[name] != model.config[name]
        ]
        return f" ({', '.join(differing)})" if differing else ""

    # --- A run

    def start(self, addresses: Mapping[str, int], count: int) -> None:
        """Starts a run.

        Args:
            addresses: of PROGRAM, WEIGHTS, INPUT and OUTPUT.
            count: instructions in the program.

        Raises:
            BoardError: somebody in this process has loaded another overlay.
        """
        if self.device.timestamp != self._loaded_at:
            raise BoardError(
                "Another overlay has been loaded into the FPGA since this Accelerator was made.",
                "Close this one and make a new one.",
            )
        regs = self.register_map
        for name, address in addresses.items():
            setattr(regs, f"{name}_LOW", address & 0xFFFFFFFF)
            setattr(regs, f"{name}_HIGH", address >> 32)
        regs.COUNT = count
        self._acknowledge()
        regs.IER = 1
        regs.GIER = 1
        self._idle_looks = 0
        self._moved_at, self._work = 0, {}
        regs.CTRL = 1

    def wait(self, limit: int) -> None:
        """Blocks until the run has ended.

        Args:
            limit: accelerator cycles that the run may take.

        Raises:
            RunTimeoutError: it took longer, stands still, or was lost; it goes on until `recover`.
            AcceleratorError: it ended with an error.
        """
        foreign = threading.get_ident() != self._thread
        if foreign or loop_is_running() or self._loop.is_closed():
            # The loop is another thread's, or runs and cannot be entered again (a notebook's, say).
            while not self._ended(limit):
                time.sleep(POLL_SECONDS)
        else:
            _complete(self._loop, self.wait_async(limit))

    async def wait_async(self, limit: int) -> None:
        """As `wait`, without blocking the event loop."""
        while not self._ended(limit):
            if self._interrupt_works and asyncio.get_running_loop() is self._loop:
                await self._wait_for_interrupt()
            else:
                await asyncio.sleep(POLL_SECONDS)

    async def _wait_for_interrupt(self) -> None:
        """Until the interrupt has arrived, or a look has shown that the run goes on.

        A run may end just before a look, its interrupt still on the way. So the interrupt is lost
        only if several looks find the run over. Looks are counted, since seconds say nothing where
        the accelerator is a simulation that waits for its turn on the processor: it has to answer
        each look, and sends its interrupt before it answers the next.
        """
        for _ in range(LATE_LOOKS):
            try:
                await asyncio.wait_for(self.interrupt.wait(), CHECK_SECONDS)
            except asyncio.TimeoutError:
                if int(self.register_map.ISR.DONE):
                    continue
            return
        self._interrupt_works = False
        warnings.warn(
            "vitessera: the accelerator finished, but its interrupt did not arrive; from now on "
            "its registers are polled. Results are not affected.",
            RuntimeWarning,
            stacklevel=2,
        )

    def _ended(self, limit: int) -> bool:
        if int(self.register_map.ISR.DONE):
            self._acknowledge()
            self._raise_error()
            return True
        cycles = int(self.register_map.CYCLES)
        if cycles >= min(limit, COUNTER_MAXIMUM):
            raise RunTimeoutError(
                f"The run has taken {cycles:,} cycles, {limit:,} are allowed.\n{self.status()}",
                "The units that were busy above show where it stands. Give a larger timeout if "
                "that is progress; otherwise simulate the build directory with 'vitessera "
                "simulate'.",
            )
        self._check_movement(cycles)
        self._idle_looks = self._idle_looks + 1 if self._state() == "IDLE" else 0
        if self._idle_looks > IDLE_LOOKS:
            raise RunTimeoutError(
                f"The accelerator is idle, but has not reported the end of the run.\n"
                f"{self.status()}",
                "Something else has used its registers; run again.",
            )
        return False

    def _check_movement(self, cycles: int) -> None:
        """RunTimeoutError when nothing has been done for STILL_CYCLES."""
        if cycles - self._moved_at < STILL_CYCLES:
            return
        work = {n: value for n, value in self.counters().items() if n not in TIME_COUNTERS}
        if work == self._work:
            raise RunTimeoutError(
                f"The run stands still: nothing has moved for {cycles - self._moved_at:,} cycles."
                f"\n{self.status()}",
                "INSTRUCTIONS at 0, or a LOAD_WAIT that grows with CYCLES, says that DRAM does not "
                "answer. Otherwise simulate the build directory with 'vitessera simulate', which "
                "says who waits for whom, and report it.",
            )
        self._moved_at, self._work = cycles, work

    def _state(self) -> str:
        state = int(self.register_map.STATUS.STATE)
        return self.hardware.states.get(state, f"{state}, unknown to this host")

    def _acknowledge(self) -> None:
        waiting = int(self.register_map.ISR)
        if waiting:
            self.register_map.ISR = waiting  # writing a one toggles the bit

    def _raise_error(self) -> None:
        code = int(self.register_map.STATUS.ERROR)
        name, meaning = self.hardware.errors.get(code, (f"code {code}", "unknown to this host"))
        if name in (NO_ERROR, IGNORED_START):
            return
        raise ACCELERATOR_ERRORS.get(name, AcceleratorError)(
            f"The accelerator reports {name}: {meaning}.\n{self.status()}",
            "Compile and load the model again; if it persists, simulate the build directory with "
            "'vitessera simulate'.",
        )

    # --- After a run

    def counters(self) -> dict[str, int]:
        """The performance counters of the last run."""
        return {name: int(getattr(self.register_map, name)) for name in self.hardware.counters}

    def status(self) -> str:
        """State, error, waiting units and counters, one line each; disturbs nothing."""
        code = int(self.register_map.STATUS.ERROR)
        error, _ = self.hardware.errors.get(code, (str(code), ""))
        facts = {"state": self._state(), "error": error, **self._waiting()} | {
            name: f"{value:,}" for name, value in self.counters().items()
        }
        return "\n".join(f"  {name:<16}{value}" for name, value in facts.items())

    def _waiting(self) -> dict[str, str]:
        """What the next instruction of each unit waits for; units without one are left out."""
        filled, blocked = (
            int(getattr(self.register_map.QUEUES, name)) for name in ("FILLED", "BLOCKED")
        )
        return {
            f"{unit} waits": "for another unit" if blocked >> bit & 1 else "until it is free"
            for bit, unit in enumerate(self.hardware.units)
            if filled >> bit & 1
        }

    def recover(self) -> None:
        """Ends whatever is under way, so that buffers are no longer touched.

        Raises:
            BoardError: the accelerator does not come to rest.
        """
        self.register_map.SOFT_RESET = 1
        for _ in range(RESET_POLLS):
            if not int(self.register_map.SOFT_RESET) and self._state() == "IDLE":
                self._acknowledge()
                return
            time.sleep(POLL_SECONDS)
        raise BoardError(
            f"The accelerator does not come to rest after a soft reset.\n{self.status()}",
            "Its DRAM does not answer. Load the overlay again; if that does not help, restart "
            "the board.",
        )


# PYNQ opens an interrupt's UIO device once in a process, and listens on the loop of that moment.
_listening: WeakKeyDictionary[Any, asyncio.AbstractEventLoop] = WeakKeyDictionary()


def forget_closed_loops() -> None:
    """Lets PYNQ open devices again that it listened to on a loop that is gone."""
    devices = _InterruptController._uio_devices
    for irq, device in list(devices.items()):
        loop = _listening.get(device)
        if loop is not None and loop.is_closed():
            del devices[irq]


def _arrives(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether interrupts wake `loop`."""
    return all(
        _listening.setdefault(device, loop) is loop
        for device in _InterruptController._uio_devices.values()
    )


def _complete(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]) -> None:
    """Runs `work` to its end on `loop`; on Ctrl-C nothing of it stays behind."""
    task = loop.create_task(work)
    try:
        loop.run_until_complete(task)
    except BaseException:
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        raise
