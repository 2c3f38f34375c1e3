"""Image files: calibration sets and images to classify, from .npz and .npy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import ImageError
from .reading import reading

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class ImageSet:
    """Images as the model takes them, normalised: [n, channels, height, width], or videos.

    Attributes:
        images: float.
        labels: class of each, int [n], when the file has them.
    """

    images: Array
    labels: Array | None = None


def load_images(path: Path, keys: tuple[str, ...] = ("images",)) -> ImageSet:
    """Reads images from `path`.

    Args:
        path: a .npy file with one array, or a .npz file.
        keys: names that the array may have in a .npz file, the preferred one first; a file with
            a single array needs no name. An array `labels` is taken along with `images`.

    Raises:
        ImageError: the file is missing, damaged, or has no such array.
    """
    arrays = _read(path)
    name = next((key for key in keys if key in arrays), None)
    if name is None and len(arrays) == 1:
        name = next(iter(arrays))
    if name is None:
        raise ImageError(
            f"{path}: has no array {' or '.join(map(repr, keys))}, only {sorted(arrays)}.",
            f"Save the images as numpy.savez(path, {keys[0]}=images).",
        )
    labels = arrays.get("labels") if name == "images" else None
    if labels is not None:
        _check_labels(path, labels, arrays[name])
    return ImageSet(arrays[name], labels)


def _check_labels(path: Path, labels: Array, images: Array) -> None:
    remedy = "Save one label for each image: the number of its class, in a vector of integers."
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ImageError(
            f"{path}: labels has shape {list(labels.shape)} and dtype {labels.dtype}.", remedy
        )
    if images.shape[:1] != labels.shape:
        count = images.shape[0] if images.ndim else "no"
        raise ImageError(f"{path}: {len(labels)} labels for {count} images.", remedy)


def _read(path: Path) -> dict[str, Array]:
    remedy = "Give an .npz or .npy file as numpy.savez or numpy.save writes it."
    # Opened here so that a damaged file is closed whatever numpy makes of it.
    with (
        reading(path, ImageError, "not a file of numpy arrays", remedy),
        path.open("rb") as file,
    ):
        content = np.load(file, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return {"images": content}
        return {name: content[name] for name in content.files}
