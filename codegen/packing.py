"""How matrices become memory words, and words DRAM bytes.

Lane or element 0 stands in the lowest bits of every word; DRAM is little-endian, and every word
starts on a bus beat.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .config import HardwareConfig, Memory

Int8Array = npt.NDArray[np.int8]
Int16Array = npt.NDArray[np.int16]
Uint8Array = npt.NDArray[np.uint8]
AnyArray = npt.NDArray[np.generic]


def round_up(count: int, step: int) -> int:
    """The smallest multiple of `step` that is at least `count`."""
    return -(-count // step) * step


def _pad(matrix: AnyArray, rows: int, columns: int) -> AnyArray:
    widths = [(0, 0)] * (matrix.ndim - 2)
    widths += [(0, rows - matrix.shape[-2]), (0, columns - matrix.shape[-1])]
    return np.pad(matrix, widths)


def _pad_to_tiles(matrix: AnyArray, tile: int) -> AnyArray:
    return _pad(matrix, round_up(matrix.shape[-2], tile), round_up(matrix.shape[-1], tile))


def pack_operand(matrix: Int8Array, config: HardwareConfig) -> Int8Array:
    """int8 [..., rows, channels] → operand words [..., words, T, V], row tile by row tile."""
    tile, depth = config.tile, config.depth
    padded = _pad_to_tiles(matrix, tile)
    *lead, rows, channels = padded.shape
    split = padded.reshape(*lead, rows // tile, tile, channels // depth, depth)
    return np.asarray(np.swapaxes(split, -3, -2).reshape(*lead, -1, tile, depth), np.int8)


def unpack_operand(words: AnyArray, channels: int) -> AnyArray:
    """Operand words [..., words, T, V] → [..., padded rows, channels]; `channels` is padded."""
    *lead, count, tile, depth = words.shape
    steps = channels // depth
    split = words.reshape(*lead, count // steps, steps, tile, depth)
    return np.swapaxes(split, -3, -2).reshape(*lead, count // steps * tile, channels)


def pack_residual(matrix: Int16Array, config: HardwareConfig) -> Int16Array:
    """int16 [rows, channels] → residual words [words, E], tile by tile, row by row."""
    tile = config.tile
    padded = _pad_to_tiles(matrix, tile)
    rows, channels = padded.shape
    tiles = padded.reshape(rows // tile, tile, channels // tile, tile).swapaxes(1, 2)
    return np.asarray(tiles.reshape(-1, config.lanes), np.int16)


def unpack_residual(words: AnyArray, channels: int, config: HardwareConfig) -> AnyArray:
    """Residual words [..., words, E] → [..., padded rows, channels]; `channels` is padded."""
    tile = config.tile
    lead = words.shape[:-2]
    tiles = words.reshape(*lead, -1, channels // tile, tile, tile)
    return np.swapaxes(tiles, -3, -2).reshape(*lead, -1, channels)


PARAMETER_TYPE = np.dtype(
    [("bias", "<i4"), ("multiplier", "<u2"), ("shift", "u1"), ("unused", "u1")]
)
NORM_TYPE = np.dtype([("gamma", "<i2"), ("beta", "<i4")])


def pack_parameters(
    bias: AnyArray, multiplier: AnyArray, shift: AnyArray, config: HardwareConfig
) -> AnyArray:
    """Per channel [channels] → parameter words [words, E] of PARAMETER_TYPE."""
    lanes = np.zeros(round_up(len(bias), config.tile), PARAMETER_TYPE)
    for name, values in (("bias", bias), ("multiplier", multiplier), ("shift", shift)):
        lanes[name][: len(bias)] = values
    return lanes.reshape(-1, config.lanes)


def pack_norm(gamma: AnyArray, beta: AnyArray, config: HardwareConfig) -> AnyArray:
    """Per channel [channels] → norm words [words, E] of NORM_TYPE."""
    lanes = np.zeros(round_up(len(gamma), config.tile), NORM_TYPE)
    lanes["gamma"][: len(gamma)] = gamma
    lanes["beta"][: len(beta)] = beta
    return lanes.reshape(-1, config.lanes)


def to_dram(words: AnyArray, memory: Memory, config: HardwareConfig) -> bytes:
    """Words [words, ...] as they lie in DRAM: each padded to whole bus beats."""
    raw = np.frombuffer(np.ascontiguousarray(words).tobytes(), np.uint8).reshape(len(words), -1)
    return bytes(_pad(raw, len(raw), config.dram_bytes_per_word(memory)).tobytes())


def from_dram(data: Uint8Array, memory: Memory, config: HardwareConfig) -> Uint8Array:
    """DRAM bytes [..., bytes] → the words' own bytes [..., words, bytes a word]."""
    stride = config.dram_bytes_per_word(memory)
    words = data.reshape(*data.shape[:-1], -1, stride)
    return np.ascontiguousarray(words[..., : config.word_bits(memory) // 8])
