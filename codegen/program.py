"""The compiled program: instructions, weights, and what a host must know to run them.

A program is saved as a folder of three files: `program.bin` (the instructions as the accelerator
fetches them), `weights.bin` (the weights buffer as it lies in DRAM) and `program.json` (the rest,
with the checksums of the other two).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..host.build import LARGEST_FILE
from ..host.reading import read_file, reading
from .assembler import parse_program as parse_program
from .assembler import print_program as print_program
from .config import INSTRUCTION_BITS, HardwareConfig, Memory
from .errors import BuildDirectoryError, HostBufferError, ProgramError, VitesseraError
from .graph import Window
from .isa import Instruction, decode
from .packing import Int8Array, Int16Array, pack_operand, round_up, to_dram, unpack_residual

FORMAT_VERSION = 5
INSTRUCTION_BYTES = INSTRUCTION_BITS // 8

_INSTRUCTIONS = "program.bin"
_WEIGHTS = "weights.bin"
_DESCRIPTION = "program.json"
PROGRAM_FILES = (_INSTRUCTIONS, _WEIGHTS, _DESCRIPTION)
_COMPILE_AGAIN = "Compile the model again into an empty folder."


@dataclass(frozen=True)
class InputDescription:
    """The image, and the patches that the input buffer holds.

    Attributes:
        name: of the image in the ONNX file.
        image: shape of the image, or video.
        patch: sides of a patch, one for each axis of the image.
        prefix: rows before the first patch (class and register tokens); zeros, as are those behind
            the last.
        window: how patches follow each other, if they do not tile the image.
        tokens, channels: size of the int8 patch matrix, true sizes.
        scale: real value of one unit, per channel; zero stands for zero.
        size: bytes of the input buffer.
    """

    name: str
    image: tuple[int, ...]
    patch: tuple[int, ...]
    prefix: int
    tokens: int
    channels: int
    scale: tuple[float, ...]
    size: int
    window: Window | None = None


@dataclass(frozen=True)
class OutputDescription:
    """One int16 result in the output buffer.

    Attributes:
        name: of the output in the ONNX file.
        start: first byte in the output buffer.
        words: residual words it takes.
        tokens, channels: its true size.
        row: row of the stored tiles that is the result's first.
        scale: real value of one unit, per channel.
        offset: the integer that stands for real zero.
    """

    name: str
    start: int
    words: int
    tokens: int
    channels: int
    row: int
    scale: tuple[float, ...]
    offset: int

    def dequantize(self, integers: Int16Array) -> npt.NDArray[np.float64]:
        """Real values of `integers` [..., tokens, channels]."""
        reals = integers.astype(np.float64) - self.offset
        return np.multiply(reals, np.asarray(self.scale, np.float64))


@dataclass(frozen=True)
class Layer:
    """One QuantNode, for reports.

    Attributes:
        name: of the node.
        kind: its class.
        macs: multiplications of true elements, padding excluded.
    """

    name: str
    kind: str
    macs: int


@dataclass(frozen=True)
class Allocation:
    """A block of words, and the first and last instruction that touch it.

    One that is streamed passes through the memory's ring.
    """

    memory: Memory
    name: str
    address: int
    words: int
    first: int
    last: int
    streamed: bool = False


@dataclass(frozen=True)
class StoredValue:
    """Where a value stands on chip once instruction `instruction` is done, for debugging.

    Attributes:
        name: the value's.
        memory, address: where it begins.
        transposed: words hold T channels of V tokens.
        tokens, channels: its true size.
        row: row of the first row tile that is the value's first.
        heads: groups of channels, each padded on its own.
        padded_tokens, padded_channels: size in memory.
        instruction: the last one that writes it.
    """

    name: str
    memory: Memory
    address: int
    transposed: bool
    tokens: int
    channels: int
    row: int
    heads: int
    padded_tokens: int
    padded_channels: int
    instruction: int


@dataclass(frozen=True)
class Program:
    """A network as one accelerator runs it.

    Attributes:
        config: the accelerator it is for.
        instructions: in program order; the last is END.
        labels: for each instruction, the layer it belongs to ("" for END).
        weights: the weights buffer.
        input: see InputDescription.
        outputs: in the order of the ONNX file.
        layers: in execution order.
        allocations: the memory plan.
        values: where intermediate values can be observed.
        parts: that hidden layers were cut into, to fit on chip (schedule/split.py).
    """

    config: HardwareConfig
    instructions: tuple[Instruction, ...]
    labels: tuple[str, ...]
    weights: bytes
    input: InputDescription
    outputs: tuple[OutputDescription, ...]
    layers: tuple[Layer, ...] = ()
    allocations: tuple[Allocation, ...] = ()
    values: tuple[StoredValue, ...] = ()
    parts: int = 1

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.instructions):
            raise ProgramError(
                f"The program has {len(self.instructions)} instructions and {len(self.labels)} "
                "labels.",
                "Give every instruction one label.",
            )

    @property
    def output_size(self) -> int:
        """Bytes of the output buffer."""
        stride = self.config.dram_bytes_per_word(Memory.RESIDUAL)
        return max((output.start + output.words * stride for output in self.outputs), default=0)

    def encode(self) -> bytes:
        """The instructions as they lie in DRAM."""
        return b"".join(i.encode().to_bytes(INSTRUCTION_BYTES, "little") for i in self.instructions)


# --- What the host does ------------------------------------------------------------------------


def pack_input(program: Program, patches: Int8Array) -> bytes:
    """The input buffer of int8 patches [tokens, channels]; HostBufferError for any others."""
    expected = (program.input.tokens, program.input.channels)
    if patches.shape != expected or patches.dtype != np.int8:
        raise HostBufferError(
            f"The patches are {patches.dtype} {list(patches.shape)}, the program takes "
            f"int8 {list(expected)}.",
            "Make them with the patch size and scale in Program.input.",
        )
    return to_dram(pack_operand(patches, program.config), Memory.LEFT, program.config)


def check_input(program: Program, buffer: bytes) -> None:
    """HostBufferError unless `buffer` has the size of the program's input buffer."""
    if len(buffer) != program.input.size:
        raise HostBufferError(
            f"The input buffer has {len(buffer)} bytes, the program reads {program.input.size}.",
            "Make it with pack_input.",
        )


def unpack_outputs(program: Program, data: bytes) -> dict[str, Int16Array]:
    """The results in the output buffer, int16 [tokens, channels] by their ONNX names.

    Raises:
        HostBufferError: the buffer has another size.
    """
    if len(data) != program.output_size:
        raise HostBufferError(
            f"The output buffer has {len(data)} bytes, the program writes {program.output_size}.",
            "Read Program.output_size bytes.",
        )
    buffer = np.frombuffer(data, np.uint8)
    return {output.name: _unpack_output(program, output, buffer) for output in program.outputs}


def _unpack_output(
    program: Program, output: OutputDescription, buffer: npt.NDArray[np.uint8]
) -> Int16Array:
    config = program.config
    stride = config.dram_bytes_per_word(Memory.RESIDUAL)
    raw = buffer[output.start : output.start + output.words * stride].reshape(-1, stride)
    words = np.ascontiguousarray(raw[:, : 2 * config.lanes]).view("<i2")
    matrix = unpack_residual(words, round_up(output.channels, config.tile), config)
    return matrix[output.row : output.row + output.tokens, : output.channels].astype(np.int16)


# --- Saving and loading ------------------------------------------------------------------------


def save_program(program: Program, folder: Path) -> None:
    """Writes the program's files into `folder`, which must exist."""
    files = {_INSTRUCTIONS: program.encode(), _WEIGHTS: program.weights}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    description = {
        "version": FORMAT_VERSION,
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        "config": dataclasses.asdict(program.config),
        "input": dataclasses.asdict(program.input),
        "outputs": [dataclasses.asdict(output) for output in program.outputs],
        "layers": [dataclasses.asdict(layer) for layer in program.layers],
        "labels": program.labels,
        "parts": program.parts,
        "allocations": [_memory_by_name(entry) for entry in program.allocations],
        "values": [_memory_by_name(entry) for entry in program.values],
    }
    (folder / _DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


def _memory_by_name(entry: Allocation | StoredValue) -> dict[str, Any]:
    return dataclasses.asdict(entry) | {"memory": entry.memory.value}


def load_program(folder: Path) -> Program:
    """Reads what save_program wrote; BuildDirectoryError when it is not all there unchanged."""
    return parse_program_files({name: _read_file(folder / name) for name in PROGRAM_FILES}, folder)


def parse_program_files(files: Mapping[str, bytes], folder: Path) -> Program:
    """As load_program, of files that have been read.

    Args:
        files: name → content, of each of PROGRAM_FILES.
        folder: where they lie, for messages.
    """
    path = folder / _DESCRIPTION
    description = _parse_description(files[_DESCRIPTION], path)
    with reading(path, BuildDirectoryError, "does not describe a program", _COMPILE_AGAIN):
        for name in (_INSTRUCTIONS, _WEIGHTS):
            if hashlib.sha256(files[name]).hexdigest() != description["sha256"][name]:
                raise BuildDirectoryError(f"{folder / name} was changed.", _COMPILE_AGAIN)
        try:
            return _rebuild(description, files[_INSTRUCTIONS], files[_WEIGHTS])
        except VitesseraError as error:  # whose remedy is for those who write programs
            raise ValueError(error.culprit) from error


def _read_file(path: Path) -> bytes:
    with reading(path, BuildDirectoryError, "damaged", _COMPILE_AGAIN):
        return read_file(path, LARGEST_FILE)


def _parse_description(content: bytes, path: Path) -> dict[str, Any]:
    with reading(path, BuildDirectoryError, "not JSON", _COMPILE_AGAIN):
        description = json.loads(content)
    version = description.get("version") if isinstance(description, dict) else None
    if version != FORMAT_VERSION:
        raise BuildDirectoryError(
            f"{path} has format version {version}, this vitessera reads {FORMAT_VERSION}.",
            _COMPILE_AGAIN,
        )
    return dict(description)


def _rebuild(description: Mapping[str, Any], instructions: bytes, weights: bytes) -> Program:
    words = range(0, len(instructions), INSTRUCTION_BYTES)
    return Program(
        config=HardwareConfig.from_dict(description["config"], _DESCRIPTION),
        instructions=tuple(
            decode(int.from_bytes(instructions[at : at + INSTRUCTION_BYTES], "little"))
            for at in words
        ),
        labels=tuple(description["labels"]),
        parts=int(description["parts"]),
        weights=weights,
        input=_input(description["input"]),
        outputs=tuple(OutputDescription(**_tuples(entry)) for entry in description["outputs"]),
        layers=tuple(Layer(**entry) for entry in description["layers"]),
        allocations=tuple(
            Allocation(**entry | {"memory": Memory(entry["memory"])})
            for entry in description["allocations"]
        ),
        values=tuple(
            StoredValue(**entry | {"memory": Memory(entry["memory"])})
            for entry in description["values"]
        ),
    )


def _input(entry: Mapping[str, Any]) -> InputDescription:
    window = entry["window"]
    window = None if window is None else Window(**_tuples(window))
    return InputDescription(**_tuples(entry) | {"window": window})


def _tuples(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
