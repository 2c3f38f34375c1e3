"""Which pixels and words of a map a GATHER reads; see isa.Gather."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .config import HardwareConfig
from .graph import OUTSIDE, Window
from .isa import Gather

Indices = npt.NDArray[np.int64]


def seen_pixels(gather: Gather, config: HardwareConfig) -> Indices:
    """[rows of the result, pixels of the kernel]: the map's row, OUTSIDE where there is none."""
    rows = gather.outer * config.tile
    zeros = min(gather.prefix, rows)
    lines = -(-(rows - zeros) // gather.columns)
    window = Window(
        source=(gather.height, gather.width),
        kernel=(gather.kernel_height, gather.kernel_width),
        stride=gather.step,
        before=(-gather.y, -gather.x),
        grid=(lines, gather.columns),
    )
    seen = np.full((rows, gather.kernel_height * gather.kernel_width), OUTSIDE, np.int64)
    seen[zeros:] = window.pixels[: rows - zeros]
    return seen


def read_pixels(gather: Gather, config: HardwareConfig) -> Indices:
    """The map's rows that are read, each once, in order."""
    return all_pixels(gather) if gather.statistics else inside(seen_pixels(gather, config))


def all_pixels(gather: Gather) -> Indices:
    """The map's rows: what sums are taken of."""
    return np.arange(gather.width * gather.height, dtype=np.int64)


def inside(seen: Indices) -> Indices:
    """The map's rows among those that are seen, each once, in order."""
    return np.unique(seen[seen != OUTSIDE])


def pixel_words(gather: Gather, pixels: Indices, config: HardwareConfig) -> Indices:
    """[pixels, inner, words of a tile's row]: the residual words of some of the map's rows."""
    tile, beats = config.tile, config.beats_per_row
    first = pixels // tile * gather.tiles * config.beats_per_tile + pixels % tile * beats
    column_tiles = np.arange(gather.inner, dtype=np.int64) * config.beats_per_tile
    beat = np.arange(beats, dtype=np.int64)
    return gather.base + first[:, None, None] + column_tiles[:, None] + beat
