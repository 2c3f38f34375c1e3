"""What the host needs of a build directory, checked as it is read.

The simulator's and the compiler's view of the same folder is codegen/builddir.py. Here nothing
but numpy is needed, and files that the board has no use for (RTL, HLS sources) may be missing.

A manifest vouches for its files, but nobody vouches for the manifest. So whatever a file says is
held against what it must be before anything is allocated or run by it: see docs/security.md.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import operator
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import bounds
from .errors import BuildDirectoryError
from .images import IMAGE_AXES, Float32Array, quantize_pixels
from .interface import OVERLAY
from .preprocessing import Preprocessing
from .reading import MEBIBYTE, foreign, read_file, reading, reason
from .tail import Tail
from .tasks import CLASSES, Kind, Task
from .text import printable

FORMAT = 6  # of the build directory; raise when older ones cannot be read any more
MANIFEST = "manifest.json"
TAIL = "tail.onnx"  # what is left to the host, where the network was cut
BITSTREAM = f"vivado/bitstream/{OVERLAY}.bit"  # where Vivado leaves it
# Types of the manifest's fields in JSON; preprocessing is checked by itself.
MANIFEST_TYPES: dict[str, type] = {
    "config": dict,
    "design_hash": str,
    "device_names": list,
    "expected_cycles": int,
    "fabric_mhz": float,
    "files": dict,
    "model": str,
    "results": list,
    "tasks": dict,
    "vitessera": str,
}
_COMPILE_AGAIN = "Compile the model again."

# Of all arrays in one file; in memory, since an archive may pack them small.
ARRAY_BYTES = 512 * MEBIBYTE
LARGEST_MANIFEST = MEBIBYTE
LARGEST_FILE = 1 << 32  # of a program's: LOAD reaches no further into the weights
SIZES = ("tile", "depth", "lanes", "bus_bits", "clock_mhz")  # of the configuration: what we use
LARGEST_SIZE = 1 << 16  # of them; none is anywhere near

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Output:
    """One result of the network.

    Attributes:
        name: in the ONNX file.
        index: int32 [tokens, channels]; which int16 of the output buffer.
        scale: float64 [channels]; real value of one unit.
        offset: the integer that stands for real zero.
    """

    name: str
    index: Array
    scale: Array
    offset: int

    def unpack(self, buffer: Array) -> npt.NDArray[np.float64]:
        """Real values [tokens, channels] from the output buffer, uint8 [bytes]."""
        integers = buffer.view("<i2")[self.index].astype(np.float64)
        return np.multiply(integers - self.offset, self.scale)


@dataclass(frozen=True)
class Hardware:
    """What the accelerator's registers hold.

    Attributes:
        magic: identifies the accelerator.
        interface_version: of its register map.
        counters: names of the performance counters.
        units: names of the units, by their bit in QUEUES.
        states: STATE in STATUS → name.
        errors: ERROR in STATUS → name and meaning.
    """

    magic: int
    interface_version: int
    counters: tuple[str, ...]
    units: tuple[str, ...]
    states: Mapping[int, str]
    errors: Mapping[int, tuple[str, str]]


@dataclass(frozen=True)
class CompiledModel:
    """A model as the host runs it.

    Attributes:
        folder: the build directory.
        name: of the ONNX file.
        config: sizes of the accelerator, as in HardwareConfig.
        device_names: what the board that it was compiled for calls itself; empty for any.
        preprocessing: from image files to arrays; None when the model came without.
        design_hash: of the hardware that the program is for.
        instructions, weights: content of two of the buffers.
        instruction_count: what the register COUNT takes.
        image: shape of what it takes: [channels, height, width]; of a video four axes, in the
            order of training.
        input_index: int32 [bytes of the input buffer]; the pixel, or -1 for a zero.
        input_scale: float64, of that shape; real value of one unit.
        output_bytes: size of the output buffer.
        outputs: in the order of the ONNX file.
        macs: multiplications of an image, padding excluded.
        expected_cycles: predicted; for time limits only.
        fabric_mhz: the clock that the bitstream is built for, as the board makes it.
        hardware: see Hardware.
        tail: what is left to the host; None when the accelerator does all.
        tasks: what each result means, by its ONNX name.
    """

    folder: Path
    name: str
    config: Mapping[str, Any]
    device_names: tuple[str, ...]
    preprocessing: Preprocessing | None
    design_hash: int
    instructions: bytes
    instruction_count: int
    weights: bytes
    image: tuple[int, ...]
    input_index: Array
    input_scale: Array
    output_bytes: int
    outputs: tuple[Output, ...]
    macs: int
    expected_cycles: int
    fabric_mhz: float
    hardware: Hardware
    tail: Tail | None = None
    tasks: Mapping[str, Task] = field(default_factory=dict)

    def results(self, with_tail: bool = True) -> tuple[str, ...]:
        """Names of the results, in order; without the host's part, of those at the cut."""
        if self.tail is not None and with_tail:
            return self.tail.results
        return tuple(output.name for output in self.outputs)

    def rows(self, name: str) -> int | None:
        """How many rows the result `name` has; None for one that the host makes."""
        rows = {output.name: len(output.index) for output in self.outputs}
        return rows.get(name)

    def task(self, name: str) -> Task:
        """What the result `name` means; class scores where nothing says what."""
        return self.tasks.get(name, CLASSES)

    @property
    def buffers(self) -> dict[str, int]:
        """Bytes of each buffer that a run uses, by the registers' names."""
        return {
            "PROGRAM": len(self.instructions),
            "WEIGHTS": max(1, len(self.weights)),
            "INPUT": len(self.input_index),
            "OUTPUT": self.output_bytes,
        }

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty when the model came without."""
        return () if self.preprocessing is None else self.preprocessing.classes

    @property
    def bitstream(self) -> Path:
        """Where the bitstream lies when Vivado has made it."""
        return self.folder / BITSTREAM

    @property
    def peak_macs(self) -> int:
        """MACs a cycle at peak."""
        return int(self.config["tile"]) ** 2 * int(self.config["depth"])

    @property
    def takes_videos(self) -> bool:
        """Whether there is an axis of frames."""
        return len(self.image) > IMAGE_AXES

    def pack(self, image: Float32Array) -> npt.NDArray[np.int8]:
        """The input buffer of one image."""
        integers = quantize_pixels(image, self.input_scale).ravel()
        packed: npt.NDArray[np.int8] = np.append(integers, np.int8(0))[self.input_index]
        return packed

    def unpack(self, buffer: Array) -> dict[str, npt.NDArray[np.float64]]:
        """The results in an output buffer, uint8 [bytes], by their ONNX names."""
        return {output.name: output.unpack(buffer) for output in self.outputs}


def read_compiled(folder: Path) -> CompiledModel:
    """The model in `folder`, which keeps to its buffers when it is run.

    Raises:
        BuildDirectoryError: it is no build directory, incomplete, changed, of another version, or
            its program reaches for other memory than its own.
    """
    files = BuildFiles(folder)
    with reading(folder, BuildDirectoryError, "does not describe a compiled model", _COMPILE_AGAIN):
        model = _rebuild(files)
        contradiction = next(_contradictions(model), None)
    if contradiction is not None:
        raise BuildDirectoryError(
            f"{folder} does not describe a compiled model: {contradiction}.", _COMPILE_AGAIN
        )
    escape = bounds.why_not(
        model.instructions,
        {name.lower(): size for name, size in model.buffers.items()},
        model.config,
    )
    if escape is not None:
        raise BuildDirectoryError(
            f"{folder}: the program in program/program.bin must not be run: {escape}.",
            f"It could reach memory that is not its own. {_COMPILE_AGAIN}",
        )
    return model


class BuildFiles:
    """The files of a build directory, each checked against the manifest when read.

    Attributes:
        folder: the build directory.
        text: of manifest.json.
        manifest: what it says.

    Raises:
        BuildDirectoryError: there is no manifest, it is damaged, or it has another format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.text = _manifest_text(folder)
        self.manifest = _manifest(self.text, folder)

    def read(self, name: str) -> bytes:
        """Content of a file that the manifest vouches for; what was checked is what is given.

        Raises:
            BuildDirectoryError: it is missing, cannot be read, or is not what the manifest says.
        """
        path = self.folder / name
        if not path.is_file():
            raise BuildDirectoryError(f"{path} is missing.", _COMPILE_AGAIN)
        with reading(path, BuildDirectoryError, "damaged", _COMPILE_AGAIN):
            content = read_file(path, LARGEST_FILE)
        if hashlib.sha256(content).hexdigest() != self.manifest["files"].get(name):
            raise BuildDirectoryError(f"{path} has changed since it was compiled.", _COMPILE_AGAIN)
        return content

    def json(self, name: str) -> Any:  # noqa: ANN401
        """A JSON file."""
        return json.loads(self.read(name))


def unpack_arrays(content: bytes, path: Path) -> dict[str, Array]:
    """The arrays in a .npz file.

    Args:
        content: of the file.
        path: names it in messages.

    Raises:
        BuildDirectoryError: it is damaged, or they are larger than ARRAY_BYTES.
    """
    with reading(path, BuildDirectoryError, "not a file of numpy arrays", _COMPILE_AGAIN):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size <= ARRAY_BYTES:
            with np.load(io.BytesIO(content)) as arrays:
                return {key: arrays[key] for key in arrays.files}
    raise BuildDirectoryError(
        f"{path} unpacks to {size:,} bytes, {ARRAY_BYTES:,} are allowed.", _COMPILE_AGAIN
    )


def reading_manifest(folder: Path) -> AbstractContextManager[None]:
    """Raises BuildDirectoryError for whatever goes wrong while the folder's manifest is read."""

    def error_of(error: Exception) -> BuildDirectoryError:
        if isinstance(error, OSError):
            return BuildDirectoryError(
                f"{folder} is not a build directory: {MANIFEST} cannot be read "
                f"({error.strerror or error}).",
                "Give a folder that 'vitessera compile -o' wrote.",
            )
        return BuildDirectoryError(
            f"{folder / MANIFEST} is damaged ({reason(error)}).", _COMPILE_AGAIN
        )

    return foreign(error_of)


def check_types(manifest: Mapping[str, Any]) -> None:
    """Raises ValueError, which names the field, when one has another type than we write."""
    for name, kind in MANIFEST_TYPES.items():
        if type(manifest.get(name, kind())) is not kind:
            raise ValueError(f"{name} is {manifest[name]!r}")
    for name, values in (
        ("files", manifest["files"].values()),
        ("device_names", manifest.get("device_names", [])),
        ("results", manifest.get("results", [])),
    ):
        for value in values:
            if not isinstance(value, str):
                raise ValueError(f"{name} holds {value!r}")


def _manifest_text(folder: Path) -> bytes:
    path = folder / MANIFEST
    with reading_manifest(folder):
        return read_file(path, LARGEST_MANIFEST)


def _manifest(text: bytes, folder: Path) -> dict[str, Any]:
    with reading_manifest(folder):
        manifest: dict[str, Any] = json.loads(text)
        written = manifest["format"]
        check_types(manifest)
    if written != FORMAT:
        raise BuildDirectoryError(
            f"{folder} has format {printable(written)}, this vitessera reads {FORMAT}.",
            f"{_COMPILE_AGAIN[:-1]}, or install the vitessera that compiled it "
            f"({printable(manifest.get('vitessera'))}).",
        )
    return manifest


def _rebuild(files: BuildFiles) -> CompiledModel:
    manifest = files.manifest
    program = files.json("program/program.json")
    layout = "program/layout.npz"
    tables = unpack_arrays(files.read(layout), files.folder / layout)
    return CompiledModel(
        folder=files.folder,
        name=manifest["model"],
        config=manifest["config"],
        device_names=tuple(manifest.get("device_names", ())),
        preprocessing=_preprocessing(files),
        design_hash=int(manifest["design_hash"], 16),
        instructions=files.read("program/program.bin"),
        instruction_count=len(program["labels"]),
        weights=files.read("program/weights.bin"),
        image=_image(program["input"]["image"], tables["input_scale"]),
        input_index=tables["input_index"],
        input_scale=tables["input_scale"],
        output_bytes=int(tables["output_bytes"]),
        outputs=tuple(
            Output(
                entry["name"],
                tables[f"output_{number}_index"],
                tables[f"output_{number}_scale"],
                entry["offset"],
            )
            for number, entry in enumerate(program["outputs"])
        ),
        macs=sum(layer["macs"] for layer in program["layers"]),
        expected_cycles=int(manifest["expected_cycles"]),
        fabric_mhz=float(manifest.get("fabric_mhz", manifest["config"]["clock_mhz"])),
        hardware=_hardware(files.json("reports/registers.json")),
        tail=_tail(files),
        tasks=read_tasks(manifest),
    )


def read_tasks(manifest: Mapping[str, Any]) -> dict[str, Task]:
    """What the manifest says of results; ValueError where it is not what we write."""
    tasks = manifest.get("tasks", {})
    return {name: Task.from_dict(task) for name, task in tasks.items()}


def _tail(files: BuildFiles) -> Tail | None:
    if TAIL not in files.manifest["files"]:
        return None
    return Tail(files.read(TAIL), tuple(files.manifest["results"]))


def _image(sides: list[int], scale: Array) -> tuple[int, ...]:
    if tuple(sides) != scale.shape:
        raise ValueError(f"the image is {sides}, its scale {list(scale.shape)}")
    return scale.shape


def _contradictions(model: CompiledModel) -> Iterator[str]:
    """What cannot be; each check takes for granted that the ones before have passed."""
    yield from _wrong_values(model)
    yield from _wrong_input(model)
    yield from _wrong_outputs(model)


def _wrong_values(model: CompiledModel) -> Iterator[str]:
    for name in SIZES:
        value = model.config[name]
        if type(value) is not int or not 1 <= value <= LARGEST_SIZE:
            yield f"the configuration's {name} is {value!r}"
    outputs = (output.name for output in model.outputs)
    for name in (model.name, model.config["board"], *model.device_names, *outputs):
        if type(name) is not str:
            yield f"{name!r} is no name"
    if not 0 < model.fabric_mhz <= LARGEST_SIZE:
        yield f"the fabric's clock is {model.fabric_mhz} MHz"
    held = len(model.instructions) // bounds.INSTRUCTION_BYTES
    if model.instruction_count != held:
        yield f"it names {model.instruction_count} instructions and has {held}"
    if type(model.macs) is not int or model.macs < 0 or model.expected_cycles < 1:
        yield f"it takes {model.expected_cycles} cycles for {model.macs!r} multiplications"


def _wrong_input(model: CompiledModel) -> Iterator[str]:
    pixels = model.input_scale.size
    if len(model.image) < IMAGE_AXES or not _holds(model.input_index, 1, -1, pixels):
        yield f"the input buffer is not filled from {pixels:,} pixels"
    if not _is_scale(model.input_scale, model.image) or not (model.input_scale > 0).all():
        yield "the pixels have no scale"


def _wrong_outputs(model: CompiledModel) -> Iterator[str]:
    size = model.output_bytes
    if size < 1 or size % 2 or not model.outputs:
        yield f"the output buffer has {size:,} bytes for {len(model.outputs)} outputs"
    for output in model.outputs:
        if not _holds(output.index, 2, 0, size // 2):
            yield f"{output.name!r} is not in the output buffer"
        if not _is_scale(output.scale, output.index.shape[1:]) or type(output.offset) is not int:
            yield f"{output.name!r} has no scale or no offset"
    for output in model.outputs:
        task, tokens = model.task(output.name), len(output.index)
        if task.kind is Kind.MAP and not 0 < math.prod(task.grid) <= tokens:
            yield f"{output.name!r} is a map of {list(task.grid)} with {tokens} tokens"
    scores = model.outputs[0].index.shape
    if scores[0] == 1 and 0 < len(model.classes) < scores[1]:
        yield f"it has {len(model.classes)} class names for {scores[1]} scores"


def _holds(index: Array, axes: int, least: int, stop: int) -> bool:
    """Whether this is a table of that many axes, of numbers from `least` to below `stop`."""
    if index.ndim != axes or index.size == 0 or index.dtype != np.int32:
        return False
    return bool(least <= index.min() and index.max() < stop)


def _is_scale(scale: Array, shape: tuple[int, ...]) -> bool:
    """Whether these are finite numbers in that shape."""
    return scale.dtype == np.float64 and scale.shape == shape and bool(np.isfinite(scale).all())


def _preprocessing(files: BuildFiles) -> Preprocessing | None:
    entry = files.manifest.get("preprocessing")
    return None if entry is None else Preprocessing.from_dict(entry, str(files.folder / MANIFEST))


def _hardware(registers: Mapping[str, Any]) -> Hardware:
    names = [*registers["counters"], *registers["units"], *registers["states"].values()]
    for name in (*names, *(text for pair in registers["errors"].values() for text in pair)):
        if not isinstance(name, str):
            raise ValueError(f"registers.json: {name!r} is no name")
    return Hardware(
        magic=operator.index(registers["magic"]),
        interface_version=operator.index(registers["interface_version"]),
        counters=tuple(registers["counters"]),
        units=tuple(registers["units"]),
        states={int(state): name for state, name in registers["states"].items()},
        errors={
            int(code): (name, meaning) for code, (name, meaning) in registers["errors"].items()
        },
    )
