"""What users hand over as images, brought to one form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .build import CompiledModel
from .errors import ImageError
from .images import Float32Array, check_images
from .imagesets import load_images
from .preprocessing import normalisation_unknown, videos_are_arrays

Images = str | Path | npt.NDArray[Any] | Iterable[str | Path | npt.NDArray[Any]]

ARRAY_FILES = {".npy", ".npz"}
# Sets in a .npz file, the preferred one first.
KEYS = ("images", "calibration")


@dataclass(frozen=True)
class Batch:
    """Images as the model takes them.

    Attributes:
        images: float32 [n, ...], as the model takes them, n at least 1.
        single: whether the user gave one image rather than several.
    """

    images: Float32Array
    single: bool


def as_batch(images: Images, model: CompiledModel) -> Batch:
    """Brings `images` to float32 [n, channels, height, width], or [n, ...] for videos.

    Args:
        images: one of, or several of:
            the path of an image file (needs Pillow, and a model compiled with its preprocessing);
            the path of a .npy or .npz file of arrays;
            float32 or float64 [channels, height, width] or [n, channels, height, width],
            normalised as in training;
            uint8 [height, width] or [height, width, channels], pixels as a camera gives them.
            For a model of videos: arrays or files of arrays alone, one axis more than above,
            frames where training had them.
        model: what they are for.

    Raises:
        ImageError: they do not fit the model; the message says what would.
    """
    if isinstance(images, (str, Path)):
        return _from_file(Path(images), model)
    if isinstance(images, np.ndarray):
        return _from_array(images, model, "The image")
    if isinstance(images, (Mapping, bytes)) or not isinstance(images, Iterable):
        raise ImageError(
            f"A {type(images).__name__} is no image.",
            "Give a path, a numpy array (numpy.asarray of a Pillow image, say), or several.",
        )
    parts = [as_batch(image, model).images for image in images]
    if not parts:
        raise ImageError("There is no image to run.", "Give at least one.")
    return Batch(np.concatenate(parts), single=False)


def _from_file(path: Path, model: CompiledModel) -> Batch:
    if path.suffix in ARRAY_FILES:
        content = load_images(path, KEYS).images
        return _from_array(content, model, str(path))
    if model.takes_videos:
        raise videos_are_arrays(str(path))
    if model.preprocessing is None:
        raise normalisation_unknown()
    return Batch(check_images(model.preprocessing.load(path)[None], model.image, str(path)), True)


def _from_array(array: npt.NDArray[Any], model: CompiledModel, what: str) -> Batch:
    if array.dtype == np.uint8 and model.takes_videos:
        raise videos_are_arrays(f"{what}, of 8-bit pixels,")
    if array.dtype == np.uint8 and array.ndim in (2, 3):
        if model.preprocessing is None:
            raise normalisation_unknown()
        array = model.preprocessing.normalise(array)
    single = array.ndim == len(model.image)
    return Batch(check_images(array[None] if single else array, model.image, what), single)
