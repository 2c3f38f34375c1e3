"""What an image must be, and how its real values become the int8 of the accelerator's input.

Calibration, the integer reference and the host all take both from here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .errors import ImageError

Float32Array = npt.NDArray[np.float32]

IMAGE_AXES = 3  # channels, height, width; a video has one more
INT8_MAX = 127  # magnitudes are symmetric: two products then fit one DSP multiplier


def check_images(images: npt.NDArray[np.generic], shape: Sequence[int], what: str) -> Float32Array:
    """Returns `images` as float32 [n, ...], one after the other.

    Args:
        images: what the user gave.
        shape: of an image that the network takes: [channels, height, width], or a video's axes.
        what: begins the error message, such as "Calibration images".

    Raises:
        ImageError: wrong rank, shape or dtype, no image at all, NaN or infinity.
    """
    _check_layout(images, tuple(shape), what)
    with np.errstate(over="ignore"):  # becomes infinity, which is refused below
        converted = images.astype(np.float32)
    finite = np.isfinite(converted).all(axis=tuple(range(1, converted.ndim)))
    if not finite.all():
        raise ImageError(
            f"{what}: image {int(np.argmin(finite))} holds NaN or infinity.",
            "Remove the image or repair how it is read and normalised.",
        )
    return converted


def _check_layout(images: npt.NDArray[np.generic], shape: tuple[int, ...], what: str) -> None:
    if images.ndim != len(shape) + 1 or images.shape[1:] != shape:
        axes = "videos first, then the axes of one, in the model's order"
        if len(shape) == IMAGE_AXES:
            axes = "images first, then channels, height and width"
        raise ImageError(
            f"{what}: the array has shape {list(images.shape)}.",
            f"The model takes [n, {', '.join(map(str, shape))}]: {axes}.",
        )
    if images.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ImageError(
            f"{what}: the dtype is {images.dtype}.",
            "Give float32, normalised as in training, for example (pixels / 255 - mean) / std.",
        )
    if len(images) == 0:
        raise ImageError(f"{what}: the array holds no image.", "Give at least one image.")


def quantize_pixels(pixels: Float32Array, scale: npt.NDArray[np.float64]) -> npt.NDArray[np.int8]:
    """Real values in units of `scale`, rounded half up and saturated; shapes broadcast.

    In float64, so that every machine gets the same integers.
    """
    units = np.floor(pixels.astype(np.float64) / scale + 0.5)
    return np.clip(units, -INT8_MAX, INT8_MAX).astype(np.int8)
