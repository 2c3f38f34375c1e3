"""Images to the int8 matrices that the accelerator takes: the one place where this is done."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..host.images import Float32Array, quantize_pixels
from .quantgraph import PatchInput


def patch_rows(images: Float32Array, height: int, width: int) -> Float32Array:
    """[n, C, H, W] → [n, patches, C * height * width]: patches in row-major order.

    Each is flattened [channel, row, column]. Rows and columns of pixels that do not fill a patch
    are left out, as by a convolution without padding.
    """
    count, channels, rows, columns = images.shape
    down, across = rows // height, columns // width
    whole = images[:, :, : down * height, : across * width]
    split = whole.reshape(count, channels, down, height, across, width)
    rows_of_patches: Float32Array = split.transpose(0, 2, 4, 1, 3, 5).reshape(
        count, down * across, -1
    )
    return rows_of_patches


def patches(node: PatchInput, image: Float32Array) -> npt.NDArray[np.int8]:
    """The int8 matrix [tokens, C * patch height * patch width] of one image [C, H, W]."""
    size = (node.patch_height, node.patch_width)
    return integer_patches(image, size, node.prefix, node.value.scale)


def integer_patches(
    image: Float32Array,
    patch: tuple[int, int],
    prefix: int,
    scale: npt.NDArray[np.float64],
) -> npt.NDArray[np.int8]:
    """The int8 matrix [prefix + patches, C * patch height * patch width] of one image [C, H, W].

    Real values divided by the scale in float64, rounded half up and saturated as in numerics.py;
    the first `prefix` rows are zero.

    Args:
        image: float [C, H, W].
        patch: height and width of a patch.
        prefix: rows before the first patch (class and register tokens).
        scale: real value of one unit, per column.
    """
    integers = quantize_pixels(patch_rows(image[None], *patch)[0], scale)
    return np.concatenate([np.zeros((prefix, integers.shape[1]), np.int8), integers])
