"""Where each pixel goes in the input buffer, and where each result stands in the output buffer.

The host packs and unpacks by these tables and knows nothing of tiles, words and beats. They are
read off `pack_input` and `unpack_outputs` themselves, by sending element numbers through them, so
that the layout is written nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .preprocess import patch_rows
from .program import OutputDescription, Program, pack_input, unpack_outputs

# Digits of an element number: what survives an int8, and an int16.
INPUT_DIGIT_BITS = 7
OUTPUT_DIGIT_BITS = 15

Index = npt.NDArray[np.int32]
NOTHING = -1  # a byte of the input buffer that no pixel fills; it is zero


def host_layout(program: Program) -> dict[str, npt.NDArray[np.generic]]:
    """The tables by the names that host/build.py reads.

    input_index: int32 [bytes of the input buffer]; the pixel, in row-major order, or NOTHING.
    input_scale: float64, of the image's shape; real value of one unit of each pixel.
    output_bytes: size of the output buffer.
    output_<i>_index: int32 [tokens, channels]; the int16 of the output buffer.
    output_<i>_scale: float64 [channels]; real value of one unit.
    """
    tables: dict[str, npt.NDArray[np.generic]] = {
        "input_index": input_index(program),
        "input_scale": pixel_scale(program),
        "output_bytes": np.array(program.output_size, np.int64),
    }
    for number, output in enumerate(program.outputs):
        tables[f"output_{number}_index"] = output_index(program, output)
        tables[f"output_{number}_scale"] = np.asarray(output.scale, np.float64)
    return tables


def input_index(program: Program) -> Index:
    """See host_layout."""
    source = program.input
    pixels = int(np.prod(source.image))

    def pack(digits: Index) -> npt.NDArray[np.generic]:
        image = digits.reshape(1, *source.image)
        rows = patch_rows(image, source.patch, source.window)[0]
        matrix = np.zeros((source.tokens, source.channels), np.int8)
        matrix[source.prefix : source.prefix + len(rows)] = rows
        return np.frombuffer(pack_input(program, matrix), np.int8)

    # Counted from one: zero is what no pixel fills.
    return _through(pack, np.arange(1, pixels + 1, dtype=np.int32), INPUT_DIGIT_BITS) - 1


def pixel_scale(program: Program) -> npt.NDArray[np.float64]:
    """See host_layout. Pixels that no patch covers have a scale of one."""
    image, patch = program.input.image, program.input.patch
    if program.input.window is not None:
        # A pixel stands at several places of patches, which therefore have one scale.
        return np.full(image, program.input.scale[0])
    grid = tuple(side // size for side, size in zip(image, patch, strict=True))
    covered = tuple(slice(n * size) for n, size in zip(grid, patch, strict=True))
    scale = np.ones(image)
    scale[covered] = np.tile(np.asarray(program.input.scale, np.float64).reshape(patch), grid)
    return scale


def output_index(program: Program, output: OutputDescription) -> Index:
    """See host_layout."""

    def unpack(digits: Index) -> npt.NDArray[np.generic]:
        return unpack_outputs(program, digits.astype("<i2").tobytes())[output.name]

    places = np.arange(program.output_size // 2, dtype=np.int32)
    return _through(unpack, places, OUTPUT_DIGIT_BITS)


def _through(
    transport: Callable[[Index], npt.NDArray[np.generic]], numbers: Index, bits: int
) -> Index:
    """`numbers` after `transport`, which moves values of `bits` bits and changes none."""
    shifts = range(0, max(1, int(numbers.max()).bit_length()), bits)
    digits = (transport(numbers >> shift & (1 << bits) - 1) for shift in shifts)
    moved = (digit.astype(np.int32) << shift for digit, shift in zip(digits, shifts, strict=True))
    return np.asarray(sum(moved), np.int32)
