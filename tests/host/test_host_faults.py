"""What goes wrong on a board, injected into the simulated one: a named error or a clean recovery.

After each fault the next prediction must be right.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from host_support import NO_PYNQ, Compile, Open, vouch
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.errors import SimulationError, ToolError
from vitessera.codegen.registers import ERROR_MEANING, HardwareError
from vitessera.host import Accelerator
from vitessera.host.errors import (
    ACCELERATOR_ERRORS,
    ArgumentRegisterError,
    BoardError,
    BuildDirectoryError,
    DramReadError,
    DramWriteError,
    IllegalInstructionError,
    ImageError,
    OverlayError,
    RunTimeoutError,
    VitesseraError,
)
from vitessera.host.tasks import Kind, Last, Task
from vitessera.sim.board_link import Request

pytest.importorskip("pynq", reason=NO_PYNQ)

pytestmark = [pytest.mark.pynq, pytest.mark.accelerator]

Digits = dict[str, np.ndarray]
NEVER = 1 << 30  # cycles that a read takes when the DRAM is to hang


@pytest.fixture
def right(digits: Digits) -> Callable[[Accelerator], None]:
    """Checks that an accelerator classifies as it should."""

    def check(accelerator: Accelerator) -> None:
        found = accelerator.predict(digits["images"][:3])
        assert isinstance(found, list)
        assert [prediction.index for prediction in found] == list(digits["labels"][:3])

    return check


Right = Callable[[Accelerator], None]


def dram(accelerator: Accelerator) -> Any:  # noqa: ANN401
    """The simulated DRAM below an accelerator."""
    return accelerator._device.default_memory.dram


# --- What the simulated board is there to notice


def test_a_forgotten_flush_is_noticed(
    open_board: Open, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = digits["images"][:4]
    acc = open_board()
    expected = acc.run(images)["logits"]
    monkeypatch.setattr(type(acc._loaded.inputs[0]), "flush", lambda _: None)
    assert not np.array_equal(acc.run(digits["images"][4:8])["logits"], expected)
    stale = acc.run(images[:1])["logits"]
    monkeypatch.undo()
    assert not np.array_equal(stale, acc.run(images[:1])["logits"])


def test_a_forgotten_invalidate_is_noticed(
    open_board: Open, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    acc = open_board()
    monkeypatch.setattr(type(acc._loaded.inputs[0]), "invalidate", lambda _: None)
    forgotten = acc.run(digits["images"][:2])["logits"]
    monkeypatch.undo()
    assert not np.array_equal(forgotten, acc.run(digits["images"][:2])["logits"])


def test_a_wrong_register_is_noticed(open_board: Open, right: Right) -> None:
    acc = open_board()
    for offset in (0x18, 0x7C, 0x200):
        with pytest.raises(SimulationError, match=f"no register at offset 0x{offset:x}"):
            acc._driver.read(offset)
    with pytest.raises(SimulationError, match="MAGIC cannot be written"):
        acc._driver.write(0x80, 1)
    with pytest.raises(SimulationError, match="Nothing answers at address"):
        acc._device.read_registers(0x1234_0000, 4)
    right(acc)


@pytest.mark.parametrize("buffer", ["INPUT", "OUTPUT", "WEIGHTS", "PROGRAM"])
def test_an_address_past_a_buffer_is_noticed(
    open_board: Open, digits: Digits, monkeypatch: pytest.MonkeyPatch, buffer: str
) -> None:
    acc = open_board()
    start = acc._driver.start

    def wrong(addresses: dict[str, int], count: int) -> None:
        start(addresses | {buffer: addresses[buffer] + 4096 * 64}, count)

    monkeypatch.setattr(acc._driver, "start", wrong)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(SimulationError, match="outside the granted buffers"):
            acc.run(digits["images"][:1])


def test_a_freed_buffer_is_noticed(open_board: Open) -> None:
    acc = open_board()
    buffer = acc._allocate("test", 100)
    buffer.freebuffer()
    buffer.freebuffer()  # again changes nothing
    with pytest.raises(SimulationError, match="used after it was freed"):
        buffer.flush()


# --- Interrupt and time


def test_an_interrupt_that_never_comes(open_board: Open, right: Right) -> None:
    acc = open_board()
    right(acc)
    acc._device.ask(Request("wire", value=0))
    with pytest.warns(RuntimeWarning, match="interrupt did not arrive"):
        right(acc)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        right(acc)  # polls, and says no more


class LateInterrupt:
    """An interrupt that is not there at first; after that it is."""

    def __init__(self, late: int) -> None:
        self.late = late
        self.waits = 0

    async def wait(self) -> None:
        self.waits += 1
        if self.waits <= self.late:
            await asyncio.Event().wait()


@pytest.mark.parametrize("late", [1, 2, 3])
def test_a_run_that_ends_just_before_a_look(monkeypatch: pytest.MonkeyPatch, late: int) -> None:
    """The registers say that it is over, and its interrupt is still on the way."""
    from vitessera.host import driver

    monkeypatch.setattr(driver, "CHECK_SECONDS", 0.001)
    waiting = object.__new__(driver.Driver)
    interrupt = LateInterrupt(late)
    over = SimpleNamespace(ISR=SimpleNamespace(DONE=1))
    monkeypatch.setattr(driver.Driver, "register_map", over)
    monkeypatch.setattr(driver.Driver, "interrupt", interrupt, raising=False)
    waiting._interrupt_works = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(waiting._wait_for_interrupt())
    assert waiting._interrupt_works
    assert interrupt.waits == late + 1


def test_a_run_that_never_ends(open_board: Open, folder: Path, stuck: Path, right: Right) -> None:
    acc = open_board(timeout=0.002)  # 200,000 cycles at 100 MHz
    acc.load(stuck)
    image = np.zeros(acc.model.image, np.float32)
    with pytest.raises(RunTimeoutError) as caught:
        acc.predict(image)
    assert "200,000 are allowed" in str(caught.value)
    assert "state           RUN" in str(caught.value)
    assert "INSTRUCTIONS" in str(caught.value)
    with pytest.raises(RunTimeoutError):
        asyncio.run(acc.predict_async(image))
    acc.load(folder)
    right(acc)


def test_a_run_that_stands_still(open_board: Open, folder: Path, stuck: Path, right: Right) -> None:
    """It is noticed long before the time limit, and the status says which units wait."""
    acc = open_board()
    acc.load(stuck)
    with pytest.raises(RunTimeoutError, match="The run stands still") as caught:
        acc.predict(np.zeros(acc.model.image, np.float32))
    assert "compute waits   for another unit" in str(caught.value)
    acc.load(folder)
    right(acc)


def test_dram_that_never_answers(open_board: Open, digits: Digits, right: Right) -> None:
    """Not even a soft reset ends that; the overlay is loaded again."""
    acc = open_board(timeout=0.001)
    acc._device.ask(Request("latency", value=NEVER))
    with (
        pytest.warns(RuntimeWarning, match="does not come to rest"),
        pytest.raises(RunTimeoutError, match="LOAD_WAIT"),
    ):
        acc.predict(digits["images"][0])
    right(acc)


def test_the_default_time_limit_is_generous(open_board: Open, digits: Digits) -> None:
    acc = open_board()
    acc._device.ask(Request("latency", value=1000))
    acc.predict(digits["images"][0])


def test_a_lost_run(open_board: Open, digits: Digits, right: Right) -> None:
    """Something else acknowledged the interrupt."""
    acc = open_board()
    start = acc._driver.start

    def stolen(addresses: dict[str, int], count: int) -> None:
        start(addresses, count)
        while not int(acc._driver.register_map.ISR.DONE):
            pass
        acc._driver._acknowledge()

    acc._driver.start = stolen
    with pytest.raises(RunTimeoutError, match="has not reported the end"):
        acc.predict(digits["images"][0])
    acc._driver.start = start
    right(acc)


# --- Errors of the hardware


def test_every_error_of_the_hardware_has_a_name() -> None:
    reported = {error.name for error in HardwareError} - {"NONE", "START_WHILE_BUSY"}
    assert ACCELERATOR_ERRORS.keys() == reported
    assert len(set(ACCELERATOR_ERRORS.values())) == len(reported)


@pytest.mark.parametrize("response", ["slverr", "decerr"])
def test_dram_that_refuses_reads(
    open_board: Open, digits: Digits, right: Right, response: str
) -> None:
    acc = open_board()
    weights = acc._loaded.weights
    dram(acc).fail(weights.device_address, weights.nbytes, response)
    with pytest.raises(DramReadError, match="READ: DRAM answered a read") as caught:
        acc.predict(digits["images"][0])
    assert "READ_BEATS" in str(caught.value)
    dram(acc).revoke_failures()
    right(acc)


def test_dram_that_refuses_writes(open_board: Open, digits: Digits, right: Right) -> None:
    acc = open_board()
    output = acc._loaded.outputs[1]
    dram(acc).fail(output.device_address, output.nbytes, "slverr")
    acc.predict(digits["images"][0])  # uses the other one
    with pytest.raises(DramWriteError):
        acc.predict(digits["images"][:2])
    dram(acc).revoke_failures()
    right(acc)


def test_a_program_damaged_in_memory(open_board: Open, digits: Digits, right: Right) -> None:
    acc = open_board()
    program = acc._loaded.program
    whole = bytes(program[:32])
    program[0] = 0xF
    program.flush()
    with pytest.raises(IllegalInstructionError, match=ERROR_MEANING[HardwareError.DECODE]):
        acc.predict(digits["images"][0])
    program[:32] = np.frombuffer(whole, np.uint8)
    program.flush()
    right(acc)


def test_a_wrong_argument(
    open_board: Open, digits: Digits, right: Right, monkeypatch: pytest.MonkeyPatch
) -> None:
    acc = open_board()
    start = acc._driver.start
    monkeypatch.setattr(acc._driver, "start", lambda addresses, _: start(addresses, 0))
    with pytest.raises(ArgumentRegisterError, match="nothing was run"):
        acc.predict(digits["images"][0])
    monkeypatch.undo()
    right(acc)


def test_an_error_the_host_does_not_know(open_board: Open, digits: Digits, right: Right) -> None:
    from dataclasses import replace

    acc = open_board()
    known = acc._driver.hardware
    fewer = {code: entry for code, entry in known.errors.items() if entry[0] != "READ"}
    acc._driver._hardware = replace(known, errors=fewer)
    weights = acc._loaded.weights
    dram(acc).fail(weights.device_address, weights.nbytes, "slverr")
    with pytest.raises(Exception, match="unknown to this host"):
        acc.predict(digits["images"][0])
    acc._driver._hardware = known
    dram(acc).revoke_failures()
    right(acc)


# --- Interruptions


def test_ctrl_c_in_mid_run(open_board: Open, digits: Digits, right: Right) -> None:
    acc = open_board(timeout=10)
    # A run would take many times the three seconds, on a fast machine, too, though it moves often
    # enough not to stand still.
    acc._device.ask(Request("latency", value=150_000))
    raised = threading.Event()

    def strike() -> None:
        # Again, if need be: Python drops an exception that strikes while it destroys an object.
        while not raised.wait(3):
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            acc.predict(digits["images"][0])
    finally:
        raised.set()
        thread.join()
        acc._device.ask(Request("latency", value=24))
    right(acc)


def test_ctrl_c_at_any_moment(open_board: Open, digits: Digits) -> None:
    """Wherever it strikes, between a request to the board and its answer too."""
    images = digits["images"][:12]
    acc = open_board(timeout=10)
    expected = acc.run(images)["logits"]
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    for delay in rng.uniform(0.01, 0.4, 8):
        timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            while True:
                acc.run(images)
        except KeyboardInterrupt:
            pass
        assert np.array_equal(acc.run(images)["logits"], expected), f"after {delay:.3f} s"


def test_two_calls_for_one_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    """As asyncio makes them when Ctrl-C strikes before the first; the second must not wait."""
    from vitessera.sim.board import _SimulatedUio

    calls: list[Callable[[], None]] = []
    loop = SimpleNamespace(add_reader=lambda _, call: calls.append(call), is_closed=lambda: True)
    monkeypatch.setattr(asyncio, "get_event_loop", lambda: loop)
    board, host = socket.socketpair()
    with board, host:
        uio = _SimulatedUio(host)
        board.send(bytes(4))
        for _ in range(2):
            calls[0]()
        uio.close()


def test_threads_share_an_accelerator(open_board: Open, digits: Digits) -> None:
    images = digits["images"][:6]
    acc = open_board()
    expected = acc.run(images)["logits"]

    async def cell() -> list[np.ndarray]:
        first = asyncio.create_task(acc.run_async(images))
        others = [asyncio.to_thread(acc.run, images) for _ in range(3)]
        states = asyncio.to_thread(lambda: [acc.status() for _ in range(20)])
        done = await asyncio.gather(first, *others, states)
        return [outputs["logits"] for outputs in done[:-1]]

    for logits in asyncio.run(cell()):
        assert np.array_equal(logits, expected)
    assert np.array_equal(acc.run(images)["logits"], expected)


def test_closed_while_a_run_is_under_way(open_board: Open, digits: Digits) -> None:
    images = digits["images"][:20]
    acc = open_board()
    results: list[np.ndarray] = []
    thread = threading.Thread(target=lambda: results.append(acc.run(images)["logits"]))
    thread.start()
    while not acc._turn._lock.locked():
        pass
    acc.close()  # waits
    thread.join()
    assert len(results[0]) == len(images)


def test_nothing_can_be_run_from_a_progress_callback(
    open_board: Open, digits: Digits, right: Right
) -> None:
    acc = open_board()
    images = digits["images"][:2]
    for action in (acc.close, lambda: acc.run(images)):
        with pytest.raises(BoardError, match="progress callback"):
            acc.run(images, progress=lambda _, action=action: action())
    right(acc)


def test_another_model_while_a_run_waits(open_board: Open, digits: Digits, right: Right) -> None:
    acc = open_board()

    async def work() -> None:
        async with acc._turn:
            waiting = asyncio.create_task(acc.run_async(digits["images"][:2]))
            await asyncio.sleep(0.01)
            present = acc._loaded
            acc._loaded = acc._place(acc.model)
            present.free()
        await waiting

    with pytest.raises(BoardError, match="Another model was loaded while this run waited"):
        asyncio.run(work())
    right(acc)


def test_boards_side_by_side_and_one_after_the_other(open_board: Open, right: Right) -> None:
    from pynq import Device

    first = open_board()
    second = open_board()
    right(second)
    right(first)
    second.close()
    right(first)
    assert Device.active_device is first._device
    first.close()
    assert "_active_device" not in vars(Device)


def test_another_overlay_since(open_board: Open, digits: Digits) -> None:
    acc = open_board()
    acc._device.timestamp = "later"
    with pytest.raises(BoardError, match="Another overlay has been loaded"):
        acc.predict(digits["images"][0])


def test_interrupts_in_one_event_loop_after_another(open_board: Open, digits: Digits) -> None:
    async def once() -> bool:
        async with open_board() as acc:
            await acc.predict_async(digits["images"][0])
            return bool(acc._driver._interrupt_works)

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert asyncio.run(once())
        assert asyncio.run(once())


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), float("inf")])
def test_a_wrong_timeout(folder: Path, timeout: float) -> None:
    with pytest.raises(BoardError, match="Give a number of seconds above zero"):
        Accelerator(folder, simulate=True, timeout=timeout)


@pytest.mark.parametrize("given", [None, 5, [0.5], {"a": 1}, b"png"])
def test_what_is_no_image(open_board: Open, given: object) -> None:
    with pytest.raises(ImageError, match="is no image"):
        open_board().predict(given)


def test_pynq_that_cannot_load(folder: Path) -> None:
    from vitessera.sim.board import SimulatedBoard

    device = SimulatedBoard(folder)
    device.overlay_file.write_text("<EDKSYSTEM>")
    with pytest.raises(OverlayError, match="PYNQ cannot load"):
        Accelerator(folder, device=device)
    device.close()


def test_a_flush_that_fails(
    open_board: Open, digits: Digits, right: Right, monkeypatch: pytest.MonkeyPatch
) -> None:
    acc = open_board()

    def fail(_: object) -> None:
        raise RuntimeError("Buffer Flush Failed: -22")

    monkeypatch.setattr(type(acc._loaded.inputs[0]), "flush", fail)
    with pytest.raises(BoardError, match="Flush Failed"):
        acc.predict(digits["images"][0])
    monkeypatch.undo()
    right(acc)


def test_a_name_too_long_for_a_socket(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    long = tmp_path / ("long" * 30)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with pytest.raises(ToolError, match="Set TMPDIR to a folder with a shorter name"):
        Accelerator(folder, simulate=True)


def test_closing_goes_on_where_it_was_interrupted(
    open_board: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    acc = open_board()
    device, process = acc._device, acc._device._simulator._process

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(process, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        acc.close()
    monkeypatch.undo()
    acc.close()
    device.close()
    assert process.wait(10) is not None
    assert not device.overlay_file.exists()


def test_a_cancelled_task(open_board: Open, digits: Digits, right: Right) -> None:
    acc = open_board(timeout=10)
    acc._device.ask(Request("latency", value=100_000))

    async def impatient() -> None:
        await asyncio.wait_for(acc.predict_async(digits["images"][0]), 0.3)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(impatient())
    acc._device.ask(Request("latency", value=24))
    right(acc)


def test_the_simulator_dies(open_board: Open, digits: Digits) -> None:
    acc = open_board()
    os.killpg(acc._device._simulator._process.pid, signal.SIGKILL)
    with pytest.raises(SimulationError, match="The simulator has ended"):
        acc.predict(digits["images"][0])


def test_the_simulator_goes_with_its_board(open_board: Open) -> None:
    acc = open_board()
    process = acc._device._simulator._process
    acc.close()
    assert process.poll() is not None
    acc.close()  # again changes nothing
    for use in (acc.profile, acc.status, lambda: acc.model):
        with pytest.raises(BoardError, match="has been closed"):
            use()


# --- Board, memory, build directory


HOLD = """
import sys
from pathlib import Path
from vitessera.host import board
board.lock_folder = lambda: Path(sys.argv[2])
lock = board.DeviceLock(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where locks lie, so that none is left behind."""
    monkeypatch.setattr("vitessera.host.board.lock_folder", lambda: tmp_path / "locks")
    return tmp_path / "locks"


def test_two_processes_on_one_board(
    open_board: Open, folder: Path, right: Right, locks: Path
) -> None:
    first = open_board()
    device = first._device
    first._own_device = False  # the board outlives this program
    right(first)
    first.close()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, device.tag, str(locks)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BoardError, match=f"in use by process {other.pid}"):
            Accelerator(folder, device=device)
        other.stdin.close()
    with Accelerator(folder, device=device) as second:
        right(second)
        with pytest.raises(BoardError, match="in use by this process itself"):
            Accelerator(folder, device=device)
        right(second)
    device.close()


def test_no_memory_for_the_buffers(folder: Path) -> None:
    from vitessera.sim.board import SimulatedBoard

    device = SimulatedBoard(folder, dram_bytes=32 << 10)
    with pytest.raises(BoardError, match="no memory for the weights buffer of"):
        Accelerator(folder, device=device)
    assert device.default_memory.allocated == 0
    device.close()


def test_no_memory_for_another_model(folder: Path, right: Right) -> None:
    from vitessera.sim.board import SimulatedBoard

    device = SimulatedBoard(folder, dram_bytes=96 << 10)
    with Accelerator(folder, device=device) as acc:
        held = device.default_memory.allocated
        with pytest.raises(BoardError, match="no memory"):
            acc.load(folder)
        assert device.default_memory.allocated == held
        right(acc)
    device.close()


def test_no_device(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pynq.pl_server.device import DeviceMeta
    from vitessera.host import accelerator

    monkeypatch.setattr(accelerator, "check_board", lambda *_: None)
    monkeypatch.delattr(DeviceMeta, "_active_device", raising=False)
    monkeypatch.setattr(DeviceMeta, "devices", [])
    device = sys.modules["pynq"].Device
    monkeypatch.delattr(device, "_active_device", raising=False)
    with pytest.raises(BoardError, match="PYNQ finds no device"):
        Accelerator(folder, simulate=False)


def test_no_pynq(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynq", None)
    with pytest.raises(BoardError, match="PYNQ cannot be imported"):
        Accelerator(folder)


def test_no_simulator(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vitessera.sim.board", None)
    with pytest.raises(BoardError, match="no board here, and no simulator"):
        Accelerator(folder, simulate=True)


def test_no_bitstream(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from vitessera.host import accelerator

    monkeypatch.setattr(accelerator, "check_board", lambda *_: None)
    device = SimpleNamespace(tag="board-without-bitstream")
    with pytest.raises(OverlayError, match="there is no bitstream yet"):
        Accelerator(folder, device=device)


def test_an_archive_for_a_board(folder: Path, tmp_path: Path) -> None:
    """What `vitessera package` packs has no RTL."""
    import shutil

    copy = tmp_path / "unpacked"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("rtl"))
    with pytest.raises(BuildDirectoryError, match="holds no RTL"):
        Accelerator(copy, simulate=True)


def test_a_model_that_is_no_classifier(open_board: Open) -> None:
    from dataclasses import replace

    acc = open_board()
    output = acc.model.outputs[0]
    rows = replace(output, index=np.concatenate([output.index, output.index]))
    acc._loaded = replace(acc._loaded, model=replace(acc.model, outputs=(rows,)))
    with pytest.raises(VitesseraError, match="does not end in one row of class scores"):
        acc.predict(np.zeros(acc.model.image, np.float32))


@pytest.mark.parametrize("kind", [Kind.EMBEDDING, Kind.SCORES, Kind.MAP])
def test_what_is_no_class_is_not_predicted(open_board: Open, kind: Kind) -> None:
    from dataclasses import replace

    acc = open_board()
    model = replace(acc.model, tasks={acc.model.outputs[0].name: Task(kind)})
    acc._loaded = replace(acc._loaded, model=model)
    with pytest.raises(VitesseraError, match=r"no class scores.*Call run\(\)"):
        acc.predict(np.zeros(acc.model.image, np.float32))


def test_independent_labels_are_predicted_by_themselves(open_board: Open) -> None:
    from dataclasses import replace

    acc = open_board()
    labels = Task(Kind.LABELS, Last.SIGMOID)
    model = replace(acc.model, tasks={acc.model.outputs[0].name: labels})
    acc._loaded = replace(acc._loaded, model=model)
    found = acc.predict(np.zeros(acc.model.image, np.float32))
    assert found.probabilities == pytest.approx(1.0 / (1.0 + np.exp(-found.scores)))
    assert found.probability == found.probabilities[found.index]


def test_an_overlay_of_another_configuration(
    open_board: Open, compiled: Compile, right: Right
) -> None:
    other = compiled(HardwareConfig(tile=8, depth=4, lanes=8, bus_bits=128))
    acc = open_board()
    with pytest.raises(
        OverlayError, match="tile 4 instead of 8, lanes 4 instead of 8, bus_bits 64"
    ):
        acc.load(other)
    right(acc)


def test_a_build_directory_that_denies_the_fpga_s_sizes(
    open_board: Open, folder: Path, tmp_path: Path, right: Right
) -> None:
    """A bus that is said to be wider would shift the bounds of what the program may reach."""
    import json
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["config"]["lanes"] = 2
    (copy / "manifest.json").write_text(json.dumps(manifest))
    acc = open_board()
    with pytest.raises(OverlayError, match=r"what the FPGA does not \(lanes 4 instead of 2\)"):
        acc.load(copy)
    right(acc)


def test_rtl_that_is_not_ours(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from vitessera.sim import board

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    foreign = (copy / "rtl" / "core.v").read_text() + "// what else?\n"
    vouch(copy, "rtl/core.v", foreign.encode())
    simulated = []

    def note(build: board.Build) -> None:
        simulated.append(build.rtl.files["core.v"])
        raise ToolError("That is all", "that is tested.")

    monkeypatch.setattr(board, "_check_simulator", note)
    with pytest.raises(BuildDirectoryError, match=r"rtl/core\.v is not what.*foreign_rtl=True"):
        Accelerator(copy, simulate=True)
    assert not simulated
    with pytest.raises(ToolError, match="That is all"):
        Accelerator(copy, simulate=True, foreign_rtl=True)
    assert simulated == [foreign]


def outcome(use: Callable[[], object]) -> str:
    """What came of a use, for people."""
    try:
        return f"it gave {use()}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"


def test_a_forked_process(open_board: Open, folder: Path, digits: Digits, right: Right) -> None:
    """Everything is refused there, closing does nothing, and its end changes nothing here."""
    acc = open_board()
    image = digits["images"][0]

    async def awaited() -> None:
        await acc.predict_async(image)

    uses = (
        lambda: acc.predict(image),
        lambda: acc.run(image),
        lambda: asyncio.run(awaited()),
        lambda: acc.load(folder),
        acc.profile,
        acc.status,
        lambda: acc.model,
    )
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = [outcome(use) for use in uses]
        acc.close()
        for buffer in (*acc._loaded.inputs, *acc._loaded.outputs):
            buffer.freebuffer()  # as when Python collects them
        acc._device._scratch.cleanup()  # as when Python ends
        os.write(writing, "\n".join(said).encode())
        os._exit(0)
    os.close(writing)
    try:
        ready, _, _ = select.select([reading], [], [], 60)
        assert ready, "the forked process hangs"
        said = os.read(reading, 1 << 16).decode().splitlines()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
    refusal = (
        f"BoardError: This Accelerator was made by process {os.getpid()} and cannot be used by"
    )
    assert len(said) == len(uses)
    for line in said:
        assert line.startswith(f"{refusal} process {child}, which was forked from it. Make it in")
    right(acc)


def test_an_overlay_without_the_accelerator(folder: Path) -> None:
    from vitessera.sim.board import SimulatedBoard

    device = SimulatedBoard(folder)
    text = device.overlay_file.read_text()
    device.overlay_file.write_text(text.replace("vitessera:ip:accelerator", "acme:ip:toaster"))
    with pytest.raises(OverlayError, match="holds no accelerator of type vitessera:ip"):
        Accelerator(folder, device=device)
    device.close()


def test_something_else_answers(open_board: Open) -> None:
    from dataclasses import replace

    acc = open_board()
    model = acc.model
    for wrong, message in (
        ({"magic": 1}, "is no vitessera accelerator"),
        ({"interface_version": 9}, "compiled for version 9"),
    ):
        with pytest.raises(OverlayError, match=message):
            acc._driver.attach(replace(model, hardware=replace(model.hardware, **wrong)))


def test_a_build_directory_tampered_with_after_it_was_loaded(
    open_board: Open, folder: Path, tmp_path: Path, right: Right
) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    weights = bytearray((copy / "program" / "weights.bin").read_bytes())
    weights[100] ^= 1
    (copy / "program" / "weights.bin").write_bytes(weights)
    acc = open_board()
    with pytest.raises(BuildDirectoryError, match=r"weights\.bin has changed"):
        acc.load(copy)
    right(acc)
