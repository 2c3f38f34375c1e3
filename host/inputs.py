"""What users hand over as images, brought to one form."""

from __future__ import annotations

import glob
import sys
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .build import CompiledModel
from .errors import ImageError
from .images import IMAGE_AXES, Float32Array, check_images
from .imagesets import load_images
from .preprocessing import SUFFIXES, Preprocessing, normalisation_unknown, videos_are_arrays
from .reading import reading

# Of Pillow's images, too, which have no type here: boards may be without Pillow.
Images = str | Path | npt.NDArray[Any] | Iterable[str | Path | npt.NDArray[Any]]

ARRAY_FILES = {".npy", ".npz"}
# Sets in a .npz file, the preferred one first.
KEYS = ("images", "calibration")
WILDCARDS = "*?["
# How far beyond what normalisation makes of pixels an image may reach, as a share of that range.
LEEWAY = 0.25
NEAR_END = 0.1  # what is that near to 0 and to 1 at its ends fills that range
BRIGHT = 16  # whole numbers up to here may be anything, above they look like pixels


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
            an image of Pillow's;
            the path of a .npy or .npz file of arrays;
            a folder, for the image files in it, or a pattern such as "photos/*.jpg";
            float32 or float64 [channels, height, width] or [n, channels, height, width],
            normalised as in training; a warning says so if they do not look like it;
            uint8 [height, width], [height, width, channels] or [n, height, width, channels],
            pixels as a camera gives them, of any size if the model's preprocessing has a rule for
            that.
            For a model of videos: arrays or files of arrays alone, one axis more than above,
            frames where training had them.
        model: what they are for.

    Raises:
        ImageError: they do not fit the model; the message says what would.
    """
    if isinstance(images, (str, Path)):
        return _from_path(Path(images), model)
    if isinstance(images, np.ndarray):
        return _from_array(images, model, "The image")
    if _is_pillow(images):
        return _from_pillow(images, model)
    if hasattr(images, "__array__"):  # of torch, say
        remedy = "Give a numpy array: of a torch tensor, tensor.detach().cpu().numpy()."
        with reading("The image", ImageError, "cannot be read as an array", remedy):
            array = np.asarray(images)
        return _from_array(array, model, "The image")
    if isinstance(images, (Mapping, bytes)) or not isinstance(images, Iterable):
        raise ImageError(
            f"A {type(images).__name__} is no image.",
            "Give a path, a folder, a numpy array, an image of Pillow's, or several.",
        )
    parts = [as_batch(image, model).images for image in images]
    if not parts:
        raise ImageError("There is no image to run.", "Give at least one.")
    return Batch(np.concatenate(parts), single=False)


def found_files(path: Path) -> tuple[Path, ...]:
    """The files that `path` stands for.

    Args:
        path: a file, which stands for itself; a folder, for the image files directly in it; or a
            pattern with *, ?, [] or **, for what it matches. In alphabetical order.

    Raises:
        ImageError: there is none.
    """
    with reading(path, ImageError, "cannot be read", "Give the path of a file or folder."):
        is_pattern, is_folder = _is_pattern(path), path.is_dir()
    if is_pattern:
        names = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 (may be absolute)
        found = tuple(file for file in map(Path, names) if file.is_file())
        if not found:
            raise ImageError(f"{path}: no file has such a name.", "Give another pattern.")
        return found
    if not is_folder:
        return (path,)
    with reading(path, ImageError, "cannot be read", "Give a folder that this user may read."):
        found = tuple(sorted(entry for entry in path.iterdir() if _is_image_file(entry)))
    if not found:
        raise ImageError(
            f"{path}: there is no image file in this folder.",
            f"Give one with {', '.join(sorted(SUFFIXES))}; for folders in it, a pattern such as "
            f"'{path}/**/*.png'.",
        )
    return found


def _is_pattern(path: Path) -> bool:
    return any(sign in str(path) for sign in WILDCARDS) and not path.exists()


def _is_image_file(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _is_pillow(image: object) -> bool:
    """Whether it is an image of Pillow's; whoever has one has imported Pillow."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(image, pillow.Image)


def _from_path(path: Path, model: CompiledModel) -> Batch:
    files = found_files(path)
    if files == (path,):
        return _from_file(path, model)
    return Batch(np.concatenate([_from_file(file, model).images for file in files]), single=False)


def _from_file(path: Path, model: CompiledModel) -> Batch:
    if path.suffix.lower() in ARRAY_FILES:
        content = load_images(path, KEYS).images
        return _from_array(content, model, str(path))
    image = _preprocessing(model, str(path)).load(path)
    return Batch(check_images(image[None], model.image, str(path)), single=True)


def _from_pillow(image: Any, model: CompiledModel) -> Batch:  # noqa: ANN401
    what = str(getattr(image, "filename", "")) or "The image"
    loaded = _preprocessing(model, what).load_image(image, what)
    return Batch(check_images(loaded[None], model.image, what), single=True)


def _from_array(array: npt.NDArray[Any], model: CompiledModel, what: str) -> Batch:
    if array.dtype == np.uint8:
        return _from_pixels(array, model, what)
    single = array.ndim == len(model.image)
    images = check_images(array[None] if single else array, model.image, what)
    warn_if_unnormalised(images, model.preprocessing, what)
    return Batch(images, single)


def _from_pixels(array: npt.NDArray[np.uint8], model: CompiledModel, what: str) -> Batch:
    if model.takes_videos:
        raise videos_are_arrays(f"{what}, of 8-bit pixels,")
    rule = _preprocessing(model, what)
    single = array.ndim in (IMAGE_AXES - 1, IMAGE_AXES)
    if not single and (array.ndim != IMAGE_AXES + 1 or len(array) == 0):
        raise ImageError(
            f"{what}: 8-bit pixels of shape {list(array.shape)} are no images.",
            "Give [height, width], [height, width, channels] or [n, height, width, channels].",
        )
    frames = [rule.load_pixels(frame, what) for frame in (array[None] if single else array)]
    return Batch(check_images(np.stack(frames), model.image, what), single)


def _preprocessing(model: CompiledModel, what: str) -> Preprocessing:
    if model.takes_videos:
        raise videos_are_arrays(what)
    if model.preprocessing is None:
        raise normalisation_unknown()
    return model.preprocessing


# --- Arrays that look like pixels


def warn_if_unnormalised(images: npt.NDArray[Any], rule: Preprocessing | None, what: str) -> None:
    """Warns of images that training can hardly have seen.

    Args:
        images: of any shape, as the network takes them, not empty.
        rule: what is known about them.
        what: names them in the warning.
    """
    least, most = float(images.min()), float(images.max())
    whole = least >= 0 and BRIGHT < most <= 255 and bool((images == np.rint(images)).all())
    if rule is None or not rule.mean:
        if whole:
            why = "they look like pixels that have not been normalised"
            _say(what, least, most, why, "Normalise them as in training")
        return
    low, high = rule.range()
    leeway = LEEWAY * (high - low)
    if least < low - leeway or most > high + leeway:
        _say(what, least, most, f"normalised pixels would lie from {low:.3g} to {high:.3g}")
    elif low < 0 <= least < NEAR_END and 1 - NEAR_END < most <= 1:
        _say(what, least, most, "they look like pixels that were only brought to 0 to 1")


HERE_OR_THERE = (
    "Give 8-bit pixels (uint8), which are normalised here, or normalise them as in training"
)


def _say(what: str, least: float, most: float, why: str, remedy: str = HERE_OR_THERE) -> None:
    warnings.warn(
        f"vitessera: {what}: the values reach from {least:.3g} to {most:.3g}; {why}. {remedy}.",
        RuntimeWarning,
        stacklevel=2,
    )
