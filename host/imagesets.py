"""Image files: calibration sets and images to classify, from .npz and .npy.

A header of a few bytes can claim any size, and a small archive can unpack to any: so headers are
read first, what is to be read is bounded, and nothing else is read.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from .errors import ImageError
from .reading import open_file, reading

Array = npt.NDArray[np.generic]

# What is read of a file at most: several copies are made on the way to the network.
LARGEST_SET_BYTES = 1 << 30
SHARE_OF_MEMORY = 8  # one part in so many, where that is less

ZIP_MAGIC = b"PK"
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# What numpy.savez writes; others unpack to a million times their size.
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
REMEDY = "Give an .npz or .npy file as numpy.savez or numpy.save writes it."


@dataclass(frozen=True)
class ImageSet:
    """Images as the model takes them, normalised: [n, channels, height, width], or videos.

    Attributes:
        images: float.
        labels: class of each, int [n], when the file has them.
        left_out: how many images of the file were not read.
    """

    images: Array
    labels: Array | None = None
    left_out: int = 0


def load_images(
    path: Path, keys: tuple[str, ...] = ("images",), most: int | None = None
) -> ImageSet:
    """Reads images from `path`.

    Args:
        path: a .npy file with one array, or a .npz file.
        keys: names that the array may have in a .npz file, the preferred one first; a file with
            a single array needs no name. An array `labels` is taken along with `images`.
        most: how many images to read at most, evenly spread over the file; all, if it is None.

    Raises:
        ImageError: the file is missing, damaged, has no such array, or a larger one than
            `largest_set()`.
    """
    with reading(path, ImageError, "not a file of numpy arrays", REMEDY), _arrays(path) as arrays:
        name = next((key for key in keys if key in arrays), None)
        if name is None and len(arrays) == 1:
            name = next(iter(arrays))
        if name is None:
            raise ImageError(
                f"{path}: has no array {' or '.join(map(repr, keys))}, only {sorted(arrays)}.",
                f"Save the images as numpy.savez(path, {keys[0]}=images).",
            )
        images, labels = arrays[name], arrays.get("labels") if name == "images" else None
        held = images.shape[0] if images.shape else 1
        places = evenly(held, held if most is None else most)
        _check_size(path, name, images, places)
        if labels is not None:
            _check_labels(path, labels, images)
            _check_size(path, "labels", labels, places)
        return ImageSet(
            images.read(places),
            None if labels is None else labels.read(places),
            held - len(places),
        )


def largest_set() -> int:
    """The bytes of an array that this machine reads at most."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(LARGEST_SET_BYTES, memory // SHARE_OF_MEMORY)


def evenly(held: int, most: int) -> Sequence[int]:
    """The places of at most `most` of `held` images, as far apart as they can be."""
    if held <= most:
        return range(held)
    return [number * held // most for number in range(most)]


def _check_size(path: Path, name: str, array: _Stored, places: Sequence[int]) -> None:
    size, most = array.bytes_for(places), largest_set()
    if size > most:
        raise ImageError(
            f"{path}: the array {name!r}, {list(array.shape)} of {array.dtype}, takes "
            f"{size / 2**20:,.0f} MiB unpacked; this machine reads at most {most / 2**20:,.0f}.",
            "Give fewer images at a time, in the C order of numpy's arrays.",
        )


def _check_labels(path: Path, labels: _Stored, images: _Stored) -> None:
    remedy = "Save one label for each image: the number of its class, in a vector of integers."
    if len(labels.shape) != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ImageError(
            f"{path}: labels has shape {list(labels.shape)} and dtype {labels.dtype}.", remedy
        )
    if images.shape[:1] != labels.shape:
        count = images.shape[0] if images.shape else "no"
        raise ImageError(f"{path}: {labels.shape[0]} labels for {count} images.", remedy)


# --- Arrays in files


@dataclass(frozen=True)
class _Stored:
    """An array of which nothing but the header has been read.

    Attributes:
        opened: opens what holds it, at the header.
        start: of the values, in bytes from there.
        shape, dtype: as in numpy.
        fortran: whether the first axis runs fastest.
    """

    opened: Callable[[], IO[bytes]]
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool

    @property
    def row_bytes(self) -> int:
        """Of one image."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def bytes_for(self, places: Sequence[int]) -> int:
        """What must be read for the images at `places`."""
        rows = self.shape[0] if self.fortran and self.shape else len(places)
        return rows * self.row_bytes

    def read(self, places: Sequence[int]) -> Array:
        """The images at `places`, which ascend."""
        everything = len(places) == math.prod(self.shape[:1])
        with self.opened() as file:
            if everything or self.fortran:
                values = _values(file, self.start, math.prod(self.shape), self.dtype)
                whole = values.reshape(self.shape, order="F" if self.fortran else "C")
                return whole if everything else whole[list(places)]
            count = math.prod(self.shape[1:])
            starts = (self.start + place * self.row_bytes for place in places)
            rows = [_values(file, start, count, self.dtype) for start in starts]
        return np.stack(rows).reshape(len(places), *self.shape[1:])


def _values(file: IO[bytes], start: int, count: int, dtype: np.dtype[Any]) -> Array:
    """So many values, from byte `start` of the file on."""
    file.seek(start)
    content = file.read(count * dtype.itemsize)
    return np.frombuffer(content, dtype, count)


@contextmanager
def _arrays(path: Path) -> Iterator[dict[str, _Stored]]:
    """The arrays in `path` by name; a .npy file's is called "images"."""
    with open_file(path) as file:
        if file.read(len(ZIP_MAGIC)) != ZIP_MAGIC:
            size = file.seek(0, os.SEEK_END)
            yield {"images": _header(lambda: open_file(path), size)}
            return
        with zipfile.ZipFile(file) as archive:
            yield {
                member.filename[: -len(".npy")]: _header(partial(_open, archive, member), size)
                for member in archive.infolist()
                if member.filename.endswith(".npy")
                for size in [member.file_size]
            }


def _open(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> IO[bytes]:
    if member.compress_type not in COMPRESSIONS:
        raise ValueError(f"{member.filename!r} is compressed in a way that numpy.savez does not")
    return archive.open(member)


def _header(opened: Callable[[], IO[bytes]], size: int) -> _Stored:
    """What the header of an array says that takes `size` bytes with it; ValueError if not so."""
    with opened() as file:
        version = np.lib.format.read_magic(file)
        if version not in HEADERS:
            raise ValueError(f"version {version} of numpy's format")
        shape, fortran, dtype = HEADERS[version](file)
        start = file.tell()
    if dtype.hasobject:
        raise ValueError("it holds pickled objects")
    if min(shape, default=0) < 0 or start + math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"its header says {list(shape)} of {dtype}, but there is less")
    return _Stored(opened, start, shape, dtype, fortran)
