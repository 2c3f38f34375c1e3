"""From an image file, or raw pixels, to the real values that the network was trained on.

The compiler finds out what training did to its images (codegen/preprocessing.py) and writes it into
the manifest; here it is done again, on the board, by numpy and, for image files, Pillow.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .errors import BuildDirectoryError, ImageError
from .images import Float32Array
from .reading import foreign, open_file, reading

if TYPE_CHECKING:
    from PIL import Image as Pillow

# Pillow's filters by name; the numbers have been the same in all of its versions.
RESAMPLING = {"nearest": 0, "bilinear": 2, "bicubic": 3, "lanczos": 1}
# What such files are called.
SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
)
PILLOW_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # by number of channels
# What image files may be: formats that cameras and browsers write, whose decoders are Pillow's own
# or its libraries'. It knows others, for which it starts programs such as Ghostscript.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
# Of an image that is decoded, or made by resizing; some copies of it are held at once, 3 or 4
# bytes a pixel, and boards have 512 MB.
LARGEST_PIXELS = 32_000_000
RESCALE = 1 / 255  # what 8-bit pixels are multiplied by when nobody says otherwise

_COMPILE_AGAIN = "Compile the model again."
_SMALLER_IMAGE = "Scale it down, or cut it, before."


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an image before the network sees it, and what the network's classes are.

    In this order: convert to the number of channels, `resize`, `crop`, multiply by `rescale`,
    subtract `mean`, divide by `std`.

    Attributes:
        channels, height, width: of the image that the network takes; of a video its last three
            axes.
        mean, std: one number a channel, in units after `rescale`; both empty when nobody has said
            how the network wants its images, which are then refused.
        rescale: factor on 8-bit pixel values.
        resize: height and width; or the length of the shorter edge, aspect ratio kept; or None.
        crop: height and width of the part that is cut from the centre, or None. A rest that is
            odd leaves its extra row or column at the bottom or right.
        resample: Pillow's filter for `resize`, one of RESAMPLING.
        classes: names of the classes, or () when they are not known.
        source: where mean, std and sizes come from, for people.
        classes_source: where the names come from, for people.
        videos: whether the network takes videos, as arrays only; mean and std are empty then.
    """

    channels: int
    height: int
    width: int
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    rescale: float = RESCALE
    resize: tuple[int, int] | int | None = None
    crop: tuple[int, int] | None = None
    resample: str = "bilinear"
    classes: tuple[str, ...] = ()
    source: str = ""
    classes_source: str = ""
    videos: bool = False

    # --- What it says

    @property
    def takes_files(self) -> bool:
        """Whether image files and raw pixels can be taken: mean and std are known."""
        return bool(self.mean) and not self.videos

    def faults(self) -> Iterator[tuple[str, str]]:
        """What contradicts itself or the network's image: name of the field, what is wrong."""
        yield from self._faults_of_numbers()
        yield from self._faults_of_sizes()
        if self.resample not in RESAMPLING:
            yield "resample", f"the filter is {self.resample!r}, not one of {', '.join(RESAMPLING)}"
        if unnamed := [index for index, name in enumerate(self.classes) if not name.strip()]:
            yield "classes", f"class {unnamed[0]} has an empty name"

    def _faults_of_numbers(self) -> Iterator[tuple[str, str]]:
        if self.videos and (self.mean or self.std):
            yield "mean", "mean and std are known, but videos are taken as arrays only"
        if not self.mean and self.std:
            yield "std", "std is known, but not mean"
        if self.mean and not self.std:
            yield "mean", "mean is known, but not std"
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            if numbers and len(numbers) != self.channels:
                yield (
                    name,
                    f"{name} has {_counted(len(numbers), 'number')}, the model's image has "
                    f"{_counted(self.channels, 'channel')}",
                )
            if not all(map(math.isfinite, numbers)):
                yield name, f"{name} holds NaN or infinity ({_listed(numbers)})"
        if any(number <= 0 for number in self.std):
            yield "std", f"std holds a number that is not above zero ({_listed(self.std)})"
        if not (math.isfinite(self.rescale) and self.rescale > 0):
            yield (
                "rescale",
                f"the factor on pixel values is {self.rescale}, not a number above zero",
            )

    def _faults_of_sizes(self) -> Iterator[tuple[str, str]]:
        wanted = (self.height, self.width)
        if self.crop not in (None, wanted):
            yield "crop", f"the crop is {_size(self.crop)}, the model takes {_size(wanted)}"
        elif isinstance(self.resize, int):
            edge = max(wanted) if self.crop else min(wanted)
            fits = self.resize >= edge if self.crop else self.resize == edge
            if not fits:
                yield (
                    "resize",
                    f"the shorter edge becomes {self.resize}, the model takes {_size(wanted)}",
                )
        elif self.resize is not None:
            enough = self.resize[0] >= self.height and self.resize[1] >= self.width
            if not (enough if self.crop else self.resize == wanted):
                yield (
                    "resize",
                    f"images become {_size(self.resize)}, the model takes {_size(wanted)}",
                )

    def describe(self) -> str:
        """One line for people."""
        names = _counted(len(self.classes), "class name", "class names")
        classes = f"{names} from {self.classes_source}" if self.classes else "class names not known"
        if self.videos:
            return f"videos: arrays, normalised as in training; {classes}"
        if not self.mean:
            return f"images: mean and std not known; {classes}"
        factor = "" if self.rescale == RESCALE else f", pixels ×{self.rescale:.6g}"
        return (
            f"images: mean {_listed(self.mean)}, std {_listed(self.std)}{factor}, "
            f"{self._describe_sizes()}, from {self.source}; {classes}"
        )

    def _describe_sizes(self) -> str:
        steps = []
        if isinstance(self.resize, int):
            steps.append(f"shorter edge to {self.resize} ({self.resample})")
        elif self.resize is not None:
            steps.append(f"resized to {_size(self.resize)} ({self.resample})")
        if self.crop is not None:
            steps.append(f"centre {_size(self.crop)}")
        return ", ".join(steps) or f"{_size((self.height, self.width))}, not resized"

    def class_name(self, index: int) -> str:
        """The name of class `index`, or its number when names are not known.

        Raises:
            ImageError: there are names, but none for this class.
        """
        if not self.classes:
            return str(index)
        if not 0 <= index < len(self.classes):
            raise ImageError(
                f"There is no class {index}; the model has {len(self.classes)}.",
                f"Give a number from 0 to {len(self.classes) - 1}.",
            )
        return self.classes[index]

    # --- What it does

    def load(self, path: Path | str) -> Float32Array:
        """The image in file `path` as the network takes it: float32 [channels, height, width].

        A file in one of FORMATS, of at most LARGEST_PIXELS; turned upright as its EXIF data say. An
        alpha channel is dropped unless the network has four channels. 16-bit and float images are
        refused.

        Raises:
            ImageError: Pillow or the file is missing, it is no image or damaged, it has the
                wrong size and no rule to change that, or nothing is known about normalisation.
        """
        self._check_known(str(path))
        return self.normalise(self._cut(_open(Path(path), self._mode()), str(path)))

    def load_image(self, image: Pillow.Image, what: str) -> Float32Array:
        """An image of Pillow's, as `load` gives the image of a file.

        Args:
            image: of any size and any mode of 8 bits; turned upright as its EXIF data say.
            what: names it in messages.

        Raises:
            ImageError: as `load`.
        """
        self._check_known(what)
        mode = self._mode()
        with reading(what, ImageError, "cannot be read", "Give an image that Pillow can decode."):
            upright = _upright(image, mode, what)
        return self.normalise(self._cut(upright, what))

    def load_pixels(self, pixels: npt.NDArray[np.uint8], what: str) -> Float32Array:
        """Raw pixels of any size, as `load` gives the image of a file.

        Args:
            pixels: [height, width] or [height, width, channels], of 1, 3 or 4 channels.
            what: names them in messages.

        Raises:
            ImageError: they are no image, or as `load`.
        """
        self._check_known(what)
        if self._has_right_shape(pixels):
            return self.normalise(pixels)  # without Pillow
        channels = 1 if pixels.ndim == 2 else pixels.shape[2]
        if channels not in PILLOW_MODES or 0 in pixels.shape:
            raise ImageError(
                f"{what}: the uint8 pixels have shape {list(pixels.shape)}.",
                "Give [height, width] or [height, width, channels], with 1, 3 or 4 channels, which "
                "come last.",
            )
        planes = pixels.reshape(pixels.shape[:2]) if channels == 1 else pixels
        return self.load_image(_pillow(what).fromarray(np.ascontiguousarray(planes)), what)

    def _has_right_shape(self, pixels: npt.NDArray[np.generic]) -> bool:
        grey = pixels.ndim == 2 and self.channels == 1
        return pixels.shape == ((self.height, self.width) + (() if grey else (self.channels,)))

    def range(self) -> tuple[float, float]:
        """The least and the greatest value that normalisation makes of 8-bit pixels."""
        ends = [
            (value - mean) / std
            for value in (0.0, 255 * self.rescale)
            for mean, std in zip(self.mean, self.std, strict=True)
        ]
        return min(ends), max(ends)

    def normalise(self, pixels: npt.NDArray[np.generic]) -> Float32Array:
        """Raw pixels as the network takes them: float32 [channels, height, width].

        Args:
            pixels: uint8 [height, width], for one channel, or [height, width, channels].

        Raises:
            ImageError: another shape or dtype, or nothing is known about normalisation.
        """
        self._check_known("The array of pixels")
        wanted = (self.height, self.width, self.channels)
        if pixels.dtype != np.uint8:
            raise ImageError(
                f"The pixels are {pixels.dtype}.",
                "Give 8-bit pixels (uint8, 0 to 255), before any normalisation.",
            )
        planes = pixels[:, :, None] if pixels.ndim == 2 else pixels
        if planes.shape != wanted:
            raise ImageError(
                f"The pixels have shape {list(pixels.shape)}.",
                f"The model takes {list(wanted)}: height, width and channels.",
            )
        # A table of what each of the 256 values becomes: exact, and quick on a small processor.
        values = np.arange(256, dtype=np.float64) * self.rescale
        tables = [
            ((values - mean) / std).astype(np.float32)
            for mean, std in zip(self.mean, self.std, strict=True)
        ]
        return np.stack([table[planes[:, :, c]] for c, table in enumerate(tables)])

    def _check_known(self, what: str) -> None:
        if self.videos:
            raise videos_are_arrays(what)
        if not self.mean:
            raise normalisation_unknown()

    def _cut(self, image: Pillow.Image, what: str) -> npt.NDArray[np.uint8]:
        """Its pixels, resized and cropped: [height, width] or [height, width, channels]."""
        image = self._resized(image, what)
        top, left = (image.height - self.height) // 2, (image.width - self.width) // 2
        box = (left, top, left + self.width, top + self.height)
        return np.asarray(image.crop(box), np.uint8)

    def _mode(self) -> str:
        if self.channels not in PILLOW_MODES:
            raise ImageError(
                f"The model takes {self.channels} channels; an image file has 1, 3 or 4.",
                "Give arrays, made and normalised as for training.",
            )
        return PILLOW_MODES[self.channels]

    def _resized(self, image: Pillow.Image, what: str) -> Pillow.Image:
        """`image` after `resize`; what comes out is large enough to be cropped, if it is to be."""
        if self.resize is not None:
            height, width = self._resize_to(image.height, image.width)
            _check_pixels(what, height, width, " after resizing")
            image = image.resize((width, height), RESAMPLING[self.resample])
        found, wanted = (image.height, image.width), (self.height, self.width)
        if self.crop is not None:
            if found[0] < self.height or found[1] < self.width:
                raise ImageError(
                    f"{what}: the image is {_size(found)}, too small to cut {_size(wanted)} from.",
                    f"Give an image of at least {_size(wanted)} pixels (height x width).",
                )
        elif found != wanted:
            resized = "" if self.resize is None else " after resizing"
            raise ImageError(
                f"{what}: the image is {_size(found)}{resized}, the model takes {_size(wanted)} "
                "(height x width), and its preprocessing has no rule for that.",
                f"Resize or cut the image, or compile again with --resize {_size(wanted)}, or "
                f"--resize SHORTER_EDGE --crop {_size(wanted)}, as in training.",
            )
        return image

    def _resize_to(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after `resize`; the longer edge is rounded down."""
        if isinstance(self.resize, int):
            longer = self.resize * max(height, width) // min(height, width)
            return (longer, self.resize) if width <= height else (self.resize, longer)
        return self.resize or (height, width)

    # --- The manifest

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: object, source: Path | str) -> Preprocessing:
        """Reads what `to_dict` gave; `source` begins the error message.

        Raises:
            BuildDirectoryError: fields are missing or unknown, or a value makes no sense.
        """

        def error_of(error: Exception) -> BuildDirectoryError:
            return BuildDirectoryError(f"{source}: preprocessing: {error}.", _COMPILE_AGAIN)

        with foreign(error_of):
            found = cls(**_checked(values))
            for _, fault in found.faults():
                raise ValueError(fault)
            return found


def normalisation_unknown() -> ImageError:
    """The error for an image file when the model came without mean and standard deviation."""
    return ImageError(
        "The model was compiled without mean and std, so image files and raw "
        "pixels cannot be used.",
        "Compile it again with --mean and --std (--resize and --crop for pictures of other sizes, "
        "--classes for names), or with preprocessor_config.json beside it; or give arrays that are "
        "normalised already.",
    )


def videos_are_arrays(what: str) -> ImageError:
    """The error for an image file or raw pixels, called `what`, when the model takes videos."""
    return ImageError(
        f"{what} is no video as the model takes it.",
        "Give an array, or a .npy or .npz file, of all frames in the model's order, normalised as "
        "in training.",
    )


# --- Files


def _open(path: Path, mode: str) -> Pillow.Image:
    """The image in `path`, upright, in Pillow's mode `mode`."""
    image_module = _pillow(str(path))
    from PIL import UnidentifiedImageError

    remedy = f"Give a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file."
    with reading(path, ImageError, "cannot be read", remedy), open_file(path) as file:
        try:
            with warnings.catch_warnings():
                # Of sizes far above LARGEST_PIXELS.
                warnings.simplefilter("ignore", image_module.DecompressionBombWarning)
                image = image_module.open(file, formats=FORMATS)
            with image:
                return _upright(image, mode, str(path))
        except UnidentifiedImageError as error:
            raise ImageError(f"{path}: not an image of a format that is read.", remedy) from error
        except image_module.DecompressionBombError as error:
            raise ImageError(f"{path}: too large ({error}).", _SMALLER_IMAGE) from error


def _pillow(what: str) -> Any:  # noqa: ANN401 (a module)
    """Pillow's module Image; ImageError, which says that `what` needs it, if there is none."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImageError(
            f"Pillow is not installed, and {what} cannot be read without it.",
            "Run: pip install pillow.",
        ) from error
    return Image


def _upright(image: Pillow.Image, mode: str, what: str) -> Pillow.Image:
    """`image` in Pillow's mode `mode`, turned as its EXIF data say."""
    from PIL import ImageOps

    # The header's sides: of a file, nothing is decoded yet.
    _check_pixels(what, image.height, image.width)
    if image.mode.startswith(("I", "F")):
        raise ImageError(
            f"{what}: pixels have more than 8 bits (Pillow's mode {image.mode}).",
            "Save the image with 8 bits a channel.",
        )
    return ImageOps.exif_transpose(image).convert(mode)


def _check_pixels(what: str, height: int, width: int, when: str = "") -> None:
    if height * width > LARGEST_PIXELS:
        raise ImageError(
            f"{what}: the image is {height}x{width}{when}, {height * width:,} pixels; at most "
            f"{LARGEST_PIXELS:,} are read.",
            _SMALLER_IMAGE,
        )


# --- Checks of what JSON gave, whose values may be anything


def _checked(values: object) -> dict[str, Any]:
    """`values` as arguments of Preprocessing; ValueError when they cannot be."""
    if not isinstance(values, Mapping):
        raise ValueError("it is not an object")
    fields = {field.name for field in dataclasses.fields(Preprocessing)}
    if values.keys() != fields:
        names = ", ".join(sorted(map(str, values.keys() ^ fields)))
        raise ValueError(f"missing or unknown fields ({names})")
    return {name: _field(name, value) for name, value in values.items()}


def _field(name: str, value: object) -> object:
    match name:
        case "channels" | "height" | "width":
            return whole(value, name)
        case "mean" | "std":
            return tuple(real(number, name) for number in elements(value, name))
        case "rescale":
            return real(value, name)
        case "videos":
            return truth(value, name)
        case "resize" if isinstance(value, int):
            return whole(value, name)
        case "resize" | "crop":
            return None if value is None else pair(value, name)
        case "classes":
            return tuple(text(entry, name) for entry in elements(value, name))
        case _:
            return text(value, name)


def elements(value: object, name: str) -> list[object]:
    """`value` as a list; ValueError, which calls it `name`, when it is none."""
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{name} is {value!r}, not a list")
    return list(value)


def real(value: object, name: str) -> float:
    """`value` as a number; ValueError when it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} holds {value!r}, not a number")
    return float(value)


def whole(value: object, name: str) -> int:
    """`value` as a size in pixels; ValueError when it is not a whole number above zero."""
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ValueError(f"{name} is {value!r}, not a whole number above zero")
    return value


def truth(value: object, name: str) -> bool:
    """`value` as true or false; ValueError when it is neither."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}, not true or false")
    return value


def pair(value: object, name: str) -> tuple[int, int]:
    """`value` as height and width; ValueError when it is not two sizes."""
    sides = [whole(side, name) for side in elements(value, name)]
    if len(sides) != 2:
        raise ValueError(f"{name} is {value!r}, not height and width")
    return sides[0], sides[1]


def text(value: object, name: str) -> str:
    """`value` as text; ValueError when it is none."""
    if not isinstance(value, str):
        raise ValueError(f"{name} holds {value!r}, not text")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{name} holds {value!r}: half of a character, as of a cut emoji")
    return value


# --- Words


def _listed(numbers: tuple[float, ...]) -> str:
    """The numbers, or one of them when all are equal."""
    shown = numbers[:1] if len(set(numbers)) == 1 else numbers
    return ",".join(f"{number:.6g}" for number in shown)


def _size(size: tuple[int, int] | None) -> str:
    return "x".join(map(str, size or ()))


def _counted(count: int, one: str, more: str = "") -> str:
    return f"{count} {one if count == 1 else more or one + 's'}"
