"""What the host needs of a build directory, checked as it is read.

The simulator's and the compiler's view of the same folder is codegen/builddir.py. Here nothing
but numpy is needed, and files that the board has no use for (RTL, HLS sources) may be missing.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import BuildDirectoryError
from .images import IMAGE_AXES, Float32Array, quantize_pixels
from .interface import OVERLAY
from .preprocessing import Preprocessing
from .reading import foreign, reading, reason

FORMAT = 4  # of the build directory; raise when older ones cannot be read any more
MANIFEST = "manifest.json"
BITSTREAM = f"vivado/bitstream/{OVERLAY}.bit"  # where Vivado leaves it
# Types of the manifest's fields in JSON; preprocessing is checked by itself.
MANIFEST_TYPES: dict[str, type] = {
    "config": dict,
    "design_hash": str,
    "device_names": list,
    "expected_cycles": int,
    "files": dict,
    "model": str,
    "vitessera": str,
}
_COMPILE_AGAIN = "Compile the model again."

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
        states: STATE in STATUS → name.
        errors: ERROR in STATUS → name and meaning.
    """

    magic: int
    interface_version: int
    counters: tuple[str, ...]
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
        hardware: see Hardware.
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
    hardware: Hardware

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
    """The model in `folder`.

    Raises:
        BuildDirectoryError: it is no build directory, incomplete, changed, or of another version.
    """
    files = _Files(folder)
    with reading(folder, BuildDirectoryError, "does not describe a compiled model", _COMPILE_AGAIN):
        return _rebuild(files)


class _Files:
    """The files of a build directory, each checked against the manifest when read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = _manifest(folder)

    def read(self, name: str) -> bytes:
        """Content of a file that the manifest vouches for."""
        path = self.folder / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BuildDirectoryError(
                f"{path} cannot be read ({error.strerror or error}).", _COMPILE_AGAIN
            ) from error
        if hashlib.sha256(content).hexdigest() != self.manifest["files"].get(name):
            raise BuildDirectoryError(f"{path} has changed since it was compiled.", _COMPILE_AGAIN)
        return content

    def json(self, name: str) -> Any:  # noqa: ANN401
        """A JSON file."""
        return json.loads(self.read(name))


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
    ):
        for value in values:
            if not isinstance(value, str):
                raise ValueError(f"{name} holds {value!r}")


def _manifest(folder: Path) -> dict[str, Any]:
    with reading_manifest(folder):
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        written = manifest["format"]
        check_types(manifest)
    if written != FORMAT:
        raise BuildDirectoryError(
            f"{folder} has format {written}, this vitessera reads {FORMAT}.",
            f"{_COMPILE_AGAIN[:-1]}, or install the vitessera that compiled it "
            f"({manifest.get('vitessera')}).",
        )
    return manifest


def _rebuild(files: _Files) -> CompiledModel:
    manifest = files.manifest
    program = files.json("program/program.json")
    with np.load(io.BytesIO(files.read("program/layout.npz"))) as content:
        tables = {name: content[name] for name in content.files}
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
        hardware=_hardware(files.json("reports/registers.json")),
    )


def _image(sides: list[int], scale: Array) -> tuple[int, ...]:
    if tuple(sides) != scale.shape:
        raise ValueError(f"the image is {sides}, its scale {list(scale.shape)}")
    return scale.shape


def _preprocessing(files: _Files) -> Preprocessing | None:
    entry = files.manifest.get("preprocessing")
    return None if entry is None else Preprocessing.from_dict(entry, str(files.folder / MANIFEST))


def _hardware(registers: Mapping[str, Any]) -> Hardware:
    return Hardware(
        magic=registers["magic"],
        interface_version=registers["interface_version"],
        counters=tuple(registers["counters"]),
        states={int(state): name for state, name in registers["states"].items()},
        errors={
            int(code): (name, meaning) for code, (name, meaning) in registers["errors"].items()
        },
    )
