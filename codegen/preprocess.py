"""Images to the int8 matrices that the accelerator takes: the one place where this is done.

A patch is a box: it has a side for each axis of the image, [channels, rows, columns], or of the
video, where it is called a tubelet.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ..host.images import Float32Array, quantize_pixels
from .graph import OUTSIDE, Window
from .quantgraph import PatchInput

Number = TypeVar("Number", bound=np.generic)


def patch_rows(
    images: npt.NDArray[Number], patch: tuple[int, ...], window: Window | None = None
) -> npt.NDArray[Number]:
    """[n, sides of an image ...] → [n, patches, values of a patch].

    Patches follow each other in row-major order, and so do the values of each. What does not fill
    a patch at the end of an axis is left out, as by a convolution without padding. With a window,
    patches are what it sees of the image, zero in its padding.
    """
    if window is not None:
        return _seen(images, window)
    count, *sides = images.shape
    grid = [side // size for side, size in zip(sides, patch, strict=True)]
    covered = (slice(None), *(slice(n * size) for n, size in zip(grid, patch, strict=True)))
    split = [part for pair in zip(grid, patch, strict=True) for part in pair]
    boxes = images[covered].reshape(count, *split)
    places, inside = range(1, boxes.ndim, 2), range(2, boxes.ndim, 2)
    return boxes.transpose(0, *places, *inside).reshape(count, math.prod(grid), math.prod(patch))


def _seen(images: npt.NDArray[Number], window: Window) -> npt.NDArray[Number]:
    """[n, channels, height, width] → [n, results, channels * pixels of the kernel]."""
    maps = images.reshape(*images.shape[:2], -1)
    pixels = window.pixels
    seen = np.where(pixels == OUTSIDE, np.zeros((), images.dtype), maps[:, :, pixels])
    return seen.swapaxes(1, 2).reshape(len(images), len(pixels), -1)


def patches(node: PatchInput, image: Float32Array) -> npt.NDArray[np.int8]:
    """The int8 matrix [tokens, values of a patch] of one image."""
    before, scale = node.prefix, node.value.scale
    return integer_patches(image, node.patch, before, node.value.tokens, scale, node.window)


def integer_patches(
    image: Float32Array,
    patch: tuple[int, ...],
    prefix: int,
    tokens: int,
    scale: npt.NDArray[np.float64],
    window: Window | None = None,
) -> npt.NDArray[np.int8]:
    """The int8 matrix [tokens, values of a patch] of one image.

    Real values divided by the scale in float64, rounded half up and saturated as in numerics.py;
    the first `prefix` rows are zero, and so are those behind the last patch.

    Args:
        image: float, of the network's shape.
        patch: sides of a patch, one for each axis of the image.
        prefix: rows before the first patch (class and register tokens).
        tokens: all rows.
        scale: real value of one unit, per column.
        window: how patches follow each other, if they do not tile the image.
    """
    integers = quantize_pixels(patch_rows(image[None], patch, window)[0], scale)
    rows = np.zeros((tokens, integers.shape[1]), np.int8)
    rows[prefix : prefix + len(integers)] = integers
    return rows
