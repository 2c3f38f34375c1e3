"""Images to the int8 matrices that the accelerator takes: the one place where this is done.

Also the checks that every array of images passes, for calibration and for execution.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .errors import CalibrationError
from .graph import Image
from .numerics import INT8_MAX
from .quantgraph import PatchInput

Float32Array = npt.NDArray[np.float32]


def check_images(images: npt.NDArray[np.generic], image: Image, what: str) -> Float32Array:
    """Returns `images` as float32 [n, channels, height, width].

    Args:
        images: what the user gave.
        image: what the network takes.
        what: begins the error message, such as "Calibration images".

    Raises:
        CalibrationError: wrong rank, shape or dtype, no image at all, NaN or infinity.
    """
    _check_layout(images, image, what)
    with np.errstate(over="ignore"):  # becomes infinity, which is refused below
        converted = images.astype(np.float32)
    finite = np.isfinite(converted).all(axis=(1, 2, 3))
    if not finite.all():
        raise CalibrationError(
            f"{what}: image {int(np.argmin(finite))} holds NaN or infinity.",
            "Remove the image or repair how it is read and normalised.",
        )
    return converted


def _check_layout(images: npt.NDArray[np.generic], image: Image, what: str) -> None:
    expected = (image.channels, image.height, image.width)
    if images.ndim != 4 or images.shape[1:] != expected:
        raise CalibrationError(
            f"{what}: the array has shape {list(images.shape)}.",
            f"The model takes [n, {', '.join(map(str, expected))}]: images first, then "
            "channels, height and width.",
        )
    if images.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise CalibrationError(
            f"{what}: the dtype is {images.dtype}.",
            "Give float32, normalised as in training, for example (pixels / 255 - mean) / std.",
        )
    if len(images) == 0:
        raise CalibrationError(f"{what}: the array holds no image.", "Give at least one image.")


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
    rows = patch_rows(image[None], *patch)[0].astype(np.float64)
    integers = np.clip(np.floor(rows / scale + 0.5), -INT8_MAX, INT8_MAX).astype(np.int8)
    return np.concatenate([np.zeros((prefix, rows.shape[1]), np.int8), integers])
