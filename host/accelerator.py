"""`Accelerator`: runs a compiled model on a board, or on its simulated RTL.

Ordinary PYNQ code: the same on both. What differs is the device that the overlay is loaded on,
and that is chosen once, in `_open`.
"""

from __future__ import annotations

import asyncio
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .board import DeviceLock, check_board, has_board
from .build import TAIL, CompiledModel, read_compiled
from .clock import forget_overlays, settle_clock
from .errors import BoardError, BuildDirectoryError, OverlayError, VitesseraError
from .inputs import Batch, Images, as_batch
from .interface import VLNV
from .limits import allowed_cycles
from .loops import event_loop, loop_is_running
from .progress import Progress, progress_of
from .reading import foreign
from .results import Prediction, Profile, predict
from .tail import RUNTIME, TailRunner, can_run
from .tasks import Kind
from .text import printable

if TYPE_CHECKING:
    from .driver import Driver

Outputs = dict[str, npt.NDArray[np.float64]]

SLOTS = 2  # input and output buffers: one is computed on while the other is filled or read
TURN_SECONDS = 0.001  # between two looks whether another task's run is over


@dataclass(frozen=True)
class _Loaded:
    """A model with its buffers in DRAM."""

    model: CompiledModel
    program: Any
    weights: Any
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    tail: TailRunner | None

    @property
    def first(self) -> str:
        """The name of the first result."""
        return self.model.results(self.tail is not None)[0]

    def addresses(self, slot: int) -> dict[str, int]:
        """Of the buffers that a run in `slot` uses, by the registers' names."""
        buffers = {
            "PROGRAM": self.program,
            "WEIGHTS": self.weights,
            "INPUT": self.inputs[slot],
            "OUTPUT": self.outputs[slot],
        }
        return {name: int(buffer.device_address) for name, buffer in buffers.items()}

    def free(self) -> None:
        """Gives the memory back."""
        for buffer in (self.program, self.weights, *self.inputs, *self.outputs):
            buffer.freebuffer()


class Accelerator:
    """A model on an FPGA.

        with Accelerator("build/") as acc:
            print(acc.predict("digit.png"))
            print(acc.profile())

    Args:
        folder: a build directory.
        simulate: True for the RTL in a simulator, False for the board; None takes the board where
            there is one.
        timeout: seconds that a run may take, by the accelerator's own clock, so that a slow
            simulation counts like the hardware. None allows many times what is predicted.
        device: a PYNQ device, where the machine has several.
        foreign_rtl: True simulates RTL that this vitessera does not generate for the model's
            configuration. Verilog can run programs: give it only for RTL that you trust.

    Raises:
        BuildDirectoryError: the build directory is damaged, or holds what must not be run.
        BoardError: there is no board, it is another one, in use, or has no memory left.
        OverlayError: the bitstream is not the one of this build directory.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        simulate: bool | None = None,
        timeout: float | None = None,
        device: Any = None,  # noqa: ANN401 (pynq has no types)
        foreign_rtl: bool = False,
    ) -> None:
        self._process = os.getpid()
        self._loaded: _Loaded | None = None
        self._profile: Profile | None = None
        self._timeout = _checked(timeout)
        self._turn = _Turn()
        self._device: Any = device
        self._foreign_rtl = foreign_rtl
        self._own_device = False
        self._lock: DeviceLock | None = None
        model = read_compiled(Path(folder))
        try:
            self._open(model, not has_board() if simulate is None else simulate)
            self._loaded = self._place(model)
        except BaseException:
            self._close()
            raise

    def __repr__(self) -> str:
        if self._loaded is None:
            return "<Accelerator, closed>"
        model, what = self._loaded.model, "simulated RTL" if self._simulated else "board"
        return (
            f"<Accelerator: {printable(model.name)} on the {what} of "
            f"{printable(model.config['board'])}, images {list(model.image)}, "
            f"{self._clock_mhz:.6g} MHz>"
        )

    # --- Device and overlay

    def _open(self, model: CompiledModel, simulate: bool) -> None:
        """Finds the device and loads the overlay."""
        pynq = _import_pynq()
        if self._device is None and simulate:
            self._device = _simulated_device(model, self._foreign_rtl)
            self._own_device = True
        elif getattr(self._device, "overlay_file", None) is None:
            check_board(model.config["board"], model.device_names)
            self._device = self._device or _board(pynq)
        if not self._own_device:
            self._lock = DeviceLock(self._device.tag)
        self._simulated = getattr(self._device, "overlay_file", None) is not None
        self._bitstream = self._overlay_file(model)
        self._allowed_mhz = model.fabric_mhz
        self._load_overlay(model)

    def _overlay_file(self, model: CompiledModel) -> Path:
        """What the device loads: a simulated one says so itself."""
        own: Path | None = getattr(self._device, "overlay_file", None)
        if own is not None:
            return own
        for path in (model.bitstream, model.bitstream.with_suffix(".hwh")):
            if not path.is_file():
                raise OverlayError(
                    f"{path} is missing: there is no bitstream yet.",
                    f"On a machine with Vivado run 'make -C {model.folder}/vivado bitstream', or "
                    "use simulate=True.",
                )
        return model.bitstream

    def _load_overlay(self, model: CompiledModel) -> None:
        from pynq import Overlay

        from .driver import Driver, forget_closed_loops

        event_loop()  # PYNQ connects interrupts to it
        forget_closed_loops()
        forget_overlays()

        def error_of(error: Exception) -> OverlayError:
            return OverlayError(
                f"PYNQ cannot load {self._bitstream} ({error}).",
                "Copy the .bit and its .hwh again; on a Zynq UltraScale+ first: source "
                "/etc/profile.d/xrt_setup.sh.",
            )

        with foreign(error_of):
            self._overlay = Overlay(str(self._bitstream), device=self._device)
        names = [name for name, entry in self._overlay.ip_dict.items() if entry["type"] == VLNV]
        driver = getattr(self._overlay, names[0]) if names else None
        if not isinstance(driver, Driver):
            raise OverlayError(
                f"{self._bitstream} holds no accelerator of type {VLNV}, only "
                f"{sorted({str(entry['type']) for entry in self._overlay.ip_dict.values()})}.",
                "Load a bitstream that this vitessera generated.",
            )
        self._driver: Driver = driver
        self._clock_mhz = self._settled_clock()
        self._driver.attach(model)
        self._broken = False

    def _settled_clock(self) -> float:
        """The fabric's clock in MHz, not above what the bitstream was built for."""
        from pynq import Clocks

        def error_of(error: Exception) -> OverlayError:
            return OverlayError(
                f"PYNQ cannot tell how fast the fabric is clocked ({error}).",
                "Use the PYNQ image of this board.",
            )

        with foreign(error_of):
            return settle_clock(getattr(self._device, "clocks", Clocks), self._allowed_mhz)

    # --- Models

    @property
    def simulated(self) -> bool:
        """Whether the accelerator is its RTL in a simulator, so that its time is none of a board.

        BoardError after `close`.
        """
        self._ready()
        return self._simulated

    @property
    def model(self) -> CompiledModel:
        """The model that is loaded; BoardError after `close`."""
        return self._ready().model

    def load(self, folder: str | Path) -> None:
        """Takes another model onto the same bitstream.

        The present model stays loaded when the other one is refused.

        Raises:
            BuildDirectoryError: the build directory is damaged.
            OverlayError: it was compiled for another configuration than the FPGA holds.
            BoardError: no memory.
        """
        self._ready()  # before it waits for its turn: a forked process would do so forever
        model = read_compiled(Path(folder))
        with self._turn:
            present = self._ready()
            self._repair(present.model)
            self._driver.attach(model)
            self._loaded = self._place(model)
            self._profile = None
            present.free()

    def _place(self, model: CompiledModel) -> _Loaded:
        """Buffers for `model`, program and weights filled in; all or none."""
        tail = _tail_runner(model)
        needed = model.buffers
        sizes = {"program": needed["PROGRAM"], "weights": needed["WEIGHTS"]}
        sizes |= {f"input {slot}": needed["INPUT"] for slot in range(SLOTS)}
        sizes |= {f"output {slot}": needed["OUTPUT"] for slot in range(SLOTS)}
        buffers: dict[str, Any] = {}
        try:
            for name, size in sizes.items():
                buffers[name] = self._allocate(name, size)
        except BaseException:
            for buffer in buffers.values():
                buffer.freebuffer()
            raise
        for name, content in (("program", model.instructions), ("weights", model.weights)):
            buffers[name][: len(content)] = np.frombuffer(content, np.uint8)
            _sync(buffers[name].flush)
        return _Loaded(
            model,
            buffers["program"],
            buffers["weights"],
            tuple(buffers[f"input {slot}"] for slot in range(SLOTS)),
            tuple(buffers[f"output {slot}"] for slot in range(SLOTS)),
            tail,
        )

    def _allocate(self, name: str, size: int) -> Any:  # noqa: ANN401
        from pynq import allocate

        def error_of(error: Exception) -> BoardError:
            return BoardError(
                f"There is no memory for the {name} buffer of {size:,} bytes ({error}).",
                "Close other users of the accelerator's memory (notebook kernels keep theirs), or "
                "give Linux a larger cma= area.",
            )

        with foreign(error_of):
            return allocate((size,), np.uint8, target=self._device)

    # --- Running

    def run(
        self,
        images: Images,
        progress: Progress | bool | None = None,
        finished: list[Outputs] | None = None,
    ) -> Outputs:
        """The network's outputs for some images.

        Args:
            images: a path or an array, or a sequence of paths; see `as_batch`.
            progress: called with the number of images done. True writes it to standard error,
                False does not; None does so on a terminal or in a notebook, if it takes seconds.
            finished: takes the outputs of each image as soon as they have been read, [tokens,
                channels]: what there is of a run that is stopped.

        Returns:
            float64 [images, tokens, channels] by the outputs' ONNX names. Where the network was
            cut, those that the host makes have the shape that the ONNX file gives them.

        Raises:
            ImageError: the images do not fit the model.
            RunTimeoutError, AcceleratorError: the hardware failed; the next run starts afresh.
        """
        loaded = self._ready()
        results = [] if finished is None else finished
        return self._run(loaded, as_batch(images, loaded.model), progress, results)

    def _run(
        self,
        loaded: _Loaded,
        batch: Batch,
        progress: Progress | bool | None,
        results: list[Outputs],
    ) -> Outputs:
        limit, shown = self._limit(loaded.model), progress_of(progress, len(batch.images))
        with self._turn, self._recovering(loaded):
            for _ in self._steps(loaded, batch.images, results, shown):
                self._driver.wait(limit)
            return stack(results[-len(batch.images) :])

    async def run_async(self, images: Images, progress: Progress | bool | None = None) -> Outputs:
        """As `run`, for `await`: the event loop goes on while the hardware works."""
        loaded = self._ready()
        return await self._run_async(loaded, as_batch(images, loaded.model), progress)

    async def _run_async(
        self, loaded: _Loaded, batch: Batch, progress: Progress | bool | None
    ) -> Outputs:
        limit, shown = self._limit(loaded.model), progress_of(progress, len(batch.images))
        async with self._turn:
            with self._recovering(loaded):
                results: list[Outputs] = []
                for _ in self._steps(loaded, batch.images, results, shown):
                    await self._driver.wait_async(limit)
                return stack(results)

    def predict(
        self, images: Images, progress: Progress | bool | None = None
    ) -> Prediction | list[Prediction]:
        """The class of an image, or of each of several.

        Args:
            images: as for `run`; one image gives one prediction, several a list.
            progress: called with the number of images done. True writes it to standard error,
                False does not; None does so on a terminal or in a notebook, if it takes seconds.

        Raises:
            VitesseraError: as `run`; also when the model's output is not one row of class scores.
        """
        loaded = self._ready()
        name = self._scores(loaded)
        batch = as_batch(images, loaded.model)
        return self._predictions(loaded, batch, self._run(loaded, batch, progress, [])[name])

    async def predict_async(
        self, images: Images, progress: Progress | bool | None = None
    ) -> Prediction | list[Prediction]:
        """As `predict`, for `await`."""
        loaded = self._ready()
        name = self._scores(loaded)
        batch = as_batch(images, loaded.model)
        outputs = await self._run_async(loaded, batch, progress)
        return self._predictions(loaded, batch, outputs[name])

    @staticmethod
    def _predictions(
        loaded: _Loaded, batch: Batch, scores: npt.NDArray[np.float64]
    ) -> Prediction | list[Prediction]:
        last = loaded.model.task(loaded.first).last
        found = [predict(row.ravel(), loaded.model.classes, last) for row in scores]
        return found[0] if batch.single else found

    @staticmethod
    def _scores(loaded: _Loaded) -> str:
        """The result that holds scores of classes, or of labels."""
        model, name = loaded.model, loaded.first
        kind, rows = model.task(name).kind, model.rows(name)
        if kind not in (Kind.CLASSES, Kind.LABELS):
            raise VitesseraError(
                f"{model.name}: {name} is {kind.value}, no class scores.",
                "Call run() for the numbers themselves; or compile the model with another --task.",
            )
        if rows in (None, 1):
            return name
        shapes = ", ".join(f"{output.name} {list(output.index.shape)}" for output in model.outputs)
        raise VitesseraError(
            f"{model.name} does not end in one row of class scores (outputs: {shapes}).",
            "Call run() for the outputs themselves.",
        )

    def _steps(
        self,
        loaded: _Loaded,
        batch: npt.NDArray[np.float32],
        results: list[Outputs],
        progress: Progress | None,
    ) -> Iterator[None]:
        """Runs the batch; yields whenever the hardware must be waited for.

        While it works on one image, the next is packed, and the last one's results are read and,
        where the network was cut, the host does its part.
        """
        self._fill(loaded, 0, batch[0])
        for number in range(len(batch)):
            slot = number % SLOTS
            self._driver.start(loaded.addresses(slot), loaded.model.instruction_count)
            if number > 0:
                results.append(self._read(loaded, (number - 1) % SLOTS))
            if number + 1 < len(batch):
                self._fill(loaded, (number + 1) % SLOTS, batch[number + 1])
            yield
            if progress is not None:
                progress(number + 1)
        counters = self._driver.counters()
        results.append(self._read(loaded, (len(batch) - 1) % SLOTS))
        tail_seconds = None if loaded.tail is None else loaded.tail.seconds
        self._profile = Profile.of(loaded.model, counters, self._clock_mhz, tail_seconds)

    @staticmethod
    def _fill(loaded: _Loaded, slot: int, image: npt.NDArray[np.float32]) -> None:
        buffer = loaded.inputs[slot]
        buffer[:] = loaded.model.pack(image).view(np.uint8)
        _sync(buffer.flush)

    @staticmethod
    def _read(loaded: _Loaded, slot: int) -> Outputs:
        buffer = loaded.outputs[slot]
        _sync(buffer.invalidate)
        outputs = loaded.model.unpack(np.array(buffer, np.uint8))
        return outputs if loaded.tail is None else loaded.tail(outputs)

    def _limit(self, model: CompiledModel) -> int:
        """Cycles that a run may take."""
        if self._timeout is not None:
            return max(1, int(self._timeout * self._clock_mhz * 1e6))
        return allowed_cycles(model.expected_cycles)

    # --- After a run

    def profile(self) -> Profile:
        """Where the cycles of the last image went; BoardError when there was none."""
        self._ready()
        if self._profile is None:
            raise BoardError("There is nothing to profile yet.", "Run an image first.")
        return self._profile

    def status(self) -> str:
        """The accelerator's state, error and counters as text; disturbs nothing."""
        self._ready()
        return self._driver.status()

    # --- Life

    def close(self) -> None:
        """Frees buffers and device, when a run has ended; doing so again changes nothing.

        In a forked process it does nothing: buffers and device are the parent's.

        Raises:
            BoardError: a run is under way that this thread would have to end.
        """
        if not self._is_inherited():
            with self._turn:
                self._close()

    def _close(self) -> None:
        with ExitStack() as last_first:  # whatever fails, the rest is done
            if self._lock is not None:
                last_first.callback(self._lock.release)
            if self._own_device and self._device is not None:
                last_first.callback(self._device.close)
            if self._loaded is not None:
                last_first.callback(self._loaded.free)
            self._loaded = self._device = self._lock = None

    def __enter__(self) -> Accelerator:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Accelerator:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._is_inherited():
            async with self._turn:
                self._close()

    def _is_inherited(self) -> bool:
        """Whether this process was forked from the one that made this Accelerator."""
        return os.getpid() != self._process

    def _ready(self) -> _Loaded:
        if self._is_inherited():
            # Threads, connections and buffers of the device have stayed with the parent.
            raise BoardError(
                f"This Accelerator was made by process {self._process} and cannot be used by "
                f"process {os.getpid()}, which was forked from it.",
                "Make it in the process that uses it: with multiprocessing, use the start method "
                "'spawn', or make it in the worker.",
            )
        if self._loaded is None:
            raise BoardError("This Accelerator has been closed.", "Make a new one.")
        return self._loaded

    def _recovering(self, loaded: _Loaded) -> _Recovering:
        """For a run of `loaded`, which may have waited for its turn."""
        if self._ready() is not loaded:
            raise BoardError(
                "Another model was loaded while this run waited for its turn.",
                "Run the images again.",
            )
        self._repair(loaded.model)
        return _Recovering(self)

    def _repair(self, model: CompiledModel) -> None:
        """Loads the overlay again if the hardware could not be brought to rest."""
        if self._broken:
            self._load_overlay(model)

    def _recover(self) -> None:
        """Brings the hardware to rest; if that fails, the next run loads the overlay again."""
        self._broken = True
        try:
            self._driver.recover()
            self._broken = False
        except VitesseraError as error:
            warnings.warn(f"vitessera: {error}", RuntimeWarning, stacklevel=2)


class _Turn:
    """One at a time, whichever thread or task asks; the others wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: int | None = None  # thread

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            if self._holder == threading.get_ident() or loop_is_running():
                # Waiting here would keep the other one from ever ending.
                raise BoardError(
                    "Another run of this Accelerator is under way.",
                    "Await it first, or await this one, too; nothing can be run or closed from a "
                    "progress callback.",
                )
            self._lock.acquire()
        self._holder = threading.get_ident()

    def __exit__(self, *_: object) -> None:
        self._holder = None
        self._lock.release()

    async def __aenter__(self) -> None:
        while not self._lock.acquire(blocking=False):
            await asyncio.sleep(TURN_SECONDS)
        self._holder = threading.get_ident()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()


class _Recovering:
    """Brings the hardware to rest when a run fails in any way, Ctrl-C and cancelling included."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and kind is not GeneratorExit:
            self._accelerator._recover()


def stack(results: Sequence[Outputs]) -> Outputs:
    """The outputs of some images as one array each.

    Raises:
        VitesseraError: the host's part of the network gives another shape for each image.
    """
    for name in results[0]:
        shapes = {entry[name].shape for entry in results}
        if len(shapes) > 1:
            raise VitesseraError(
                f"The host's part of the network gives {name!r} in another shape for each image "
                f"({', '.join(map(str, sorted(shapes)))}).",
                "Run the images one by one.",
            )
    return {name: np.stack([entry[name] for entry in results]) for name in results[0]}


def _tail_runner(model: CompiledModel) -> TailRunner | None:
    """What runs the rest of a network that was cut; None when there is no rest, or no way to."""
    if model.tail is None:
        return None
    if can_run():
        return TailRunner(model.tail, str(model.folder / TAIL))
    warnings.warn(
        f"vitessera: {model.name} was cut in two, and the part in {model.folder / TAIL} is not "
        f"run, since {RUNTIME} is not installed: results are those at the cut. To run "
        f"it, install ONNX Runtime (pip install {RUNTIME}), if there is one for this Python.",
        RuntimeWarning,
        stacklevel=4,
    )
    return None


def _checked(timeout: float | None) -> float | None:
    is_number = isinstance(timeout, Real) and not isinstance(timeout, bool)
    if timeout is not None and not (is_number and 0 < timeout < float("inf")):
        raise BoardError(
            f"The timeout is {timeout!r}.", "Give a number of seconds above zero, or None."
        )
    return timeout


def _sync(transfer: Callable[[], None]) -> None:
    """A buffer's flush or invalidate."""

    def error_of(error: Exception) -> BoardError:
        return BoardError(
            f"A buffer cannot be brought to or from DRAM ({error}).",
            "Restart the program; if it persists, restart the board.",
        )

    with foreign(error_of):
        transfer()


def _import_pynq() -> Any:  # noqa: ANN401
    try:
        import pynq
    except Exception as error:  # whatever it does not find on this machine
        raise BoardError(
            f"PYNQ cannot be imported ({error}).",
            "Run: pip install 'vitessera[board]' (on a laptop 'vitessera[sim,board]').",
        ) from error
    return pynq


def _board(pynq: Any) -> Any:  # noqa: ANN401
    def error_of(error: Exception) -> BoardError:
        return BoardError(
            f"PYNQ finds no device ({error}).",
            "Run it on a board; on a Zynq UltraScale+ first: source /etc/profile.d/xrt_setup.sh.",
        )

    with foreign(error_of):
        return pynq.Device.active_device


def check_simulatable(folder: Path) -> None:
    """Raises BuildDirectoryError when the RTL has stayed behind."""
    if not (folder / "rtl").is_dir():
        raise BuildDirectoryError(
            f"{folder} holds no RTL, so it cannot be simulated: it comes from 'vitessera package' "
            "and is for a board.",
            "Run it on the board, or simulate the build directory that was packaged.",
        )


def _simulated_device(model: CompiledModel, foreign_rtl: bool) -> Any:  # noqa: ANN401
    check_simulatable(model.folder)
    try:
        from ..sim.board import SimulatedBoard
    except ImportError as error:
        raise BoardError(
            f"There is no board here, and no simulator ({error}).",
            "Run: pip install 'vitessera[sim,board]'.",
        ) from error
    return SimulatedBoard(model.folder, foreign_rtl=foreign_rtl)
