"""Finding out what training did to its images, and what the classes are called.

An ONNX file seldom says, and what it needs lies beside it or in somebody's head. These are asked,
and a field that an earlier one names is not taken from a later one:

1. the command line: --mean, --std, --resize, --crop, --resample, --classes;
2. NAME.preprocessing.json beside NAME.onnx: a JSON object with some of the keys `KEYS`, as host
   Preprocessing has them, or with the content of a preprocessor_config.json;
3. the model's metadata_props, see `METADATA` and `PIXEL_RANGES`; `preprocessing` is such a JSON
   object, too;
4. preprocessor_config.json beside the model, as transformers writes it;
5. config.json beside the model: the class names of transformers (`id2label`), or what timm saves
   (`pretrained_cfg`).

The last two speak for every model in their folder, and "beside" also means one folder up, for
models in a folder `onnx`. A model with a file of its own (2) takes nothing from them: they may
belong to another one. resize and crop belong together: who names one of them decides on both. What
a source leaves out is assumed, nowhere else than here:

- pixels are multiplied by 1/255 before mean and std;
- images already have the model's size when nobody mentions a resize;
- the filter is bilinear, but bicubic for timm, as there;
- transformers: `size` as one number means a square, but the shorter edge for SHORTER_EDGE; images
  are resized, rescaled and normalised, but not cropped, unless do_resize ... say otherwise;
- timm: crop_mode is center, crop_pct 0.875. When an odd number of rows or columns is cut off, timm
  may begin one later than we do, which follow transformers.

No mean and std are assumed: when nobody names them, the host refuses image files.

Of videos, which hosts take as arrays only, nothing but the classes' names is looked for.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import onnx

from ..host.preprocessing import (
    RESAMPLING,
    RESCALE,
    Preprocessing,
    elements,
    pair,
    real,
    text,
    truth,
    whole,
)
from ..host.reading import MEBIBYTE, foreign, read_file, reading, reason
from ..host.text import printable
from .errors import PreprocessingError
from .graph import Graph

Fields = dict[str, Any]  # some of Preprocessing's

# Keys of metadata_props, the preferred one first. Values are JSON or Python literals: a list; for
# classes also a map from number to name; for mean and std also numbers between commas.
METADATA = {
    "mean": ("mean", "standardization_mean"),
    "std": ("std", "standardization_std"),
    "classes": ("classes", "class_names", "names", "id2label"),
}
# Image.NominalPixelRange of the ONNX standard: rescale, mean and std.
PIXEL_RANGES = {
    "nominalrange_0_255": (1.0, 0.0, 1.0),
    "normalized_0_1": (RESCALE, 0.0, 1.0),
    "normalized_1_1": (RESCALE, 0.5, 0.5),
}
# Image processors of transformers to which one number as size is the shorter edge.
SHORTER_EDGE = ("CLIP", "ChineseCLIP", "Bit")
TIMM_CROP_PCT = 0.875

# What preprocessor_config.json may tell to do; do_convert_rgb is done anyway, and labels are none
# of our business.
_STEPS = {
    "do_resize",
    "do_center_crop",
    "do_rescale",
    "do_normalize",
    "do_convert_rgb",
    "do_reduce_labels",
}
_OTHER_STEPS = {"crop_pct", "rescale_offset"}
_TRANSFORMERS = {"image_mean", "image_std", "size", *_STEPS}
_REPAIR = "Repair or remove it, and say what is missing with --mean, --std, --classes and --shape."
_NAMES = "Write one name a line; or JSON, a list of names or a map from each number to its name."
# Of the JSON object that is vitessera's own; docs/images.md explains them.
KEYS = ("mean", "std", "rescale", "resize", "crop", "resample", "classes")
OWN_FILE = ".preprocessing.json"  # behind the model's name, in place of .onnx


@dataclass(frozen=True)
class Given:
    """What the user says, each as in Preprocessing; empty: nothing.

    Attributes:
        classes_source: where the names come from, for people.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    classes: tuple[str, ...] = ()
    classes_source: str = "--classes"
    resize: tuple[int, int] | int | None = None
    crop: tuple[int, int] | None = None
    resample: str = ""

    def of_pixels(self) -> Fields:
        """What is said about an image file's pixels, by field; resize and crop come together."""
        fields = {"mean": self.mean, "std": self.std, "resample": self.resample}
        said: Fields = {name: value for name, value in fields.items() if value}
        if self.resize or self.crop:
            said |= {"resize": self.resize, "crop": self.crop}
        return said


@dataclass(frozen=True)
class Frame:
    """The image that a source describes."""

    channels: int
    height: int
    width: int


Read = TypeVar("Read")
Sides = tuple[int | None, int | None, int | None]  # channels, height, width; None: not said


@dataclass(frozen=True)
class Stated:
    """The size of the images that a source states.

    Attributes:
        source: for people.
        sides: of the image.
    """

    source: str
    sides: Sides


class Reader(Protocol):
    """What takes the content of a file, and the image that it must be for."""

    def __call__(self, values: Mapping[str, Any], image: Frame) -> Fields:
        """The fields that the file names."""


@dataclass(frozen=True)
class _Finding:
    """What one source says."""

    source: str
    fields: Fields


def find_preprocessing(
    model: Path, graph: Graph, given: Given | None = None, *, cut: bool = False
) -> Preprocessing | None:
    """What is known about images and classes of `model`; None when that is nothing.

    Class names that lie beside the model, but are not as many as its results have values, are left
    out where these are no row of scores.

    Args:
        model: the ONNX file, which has been imported.
        graph: its content.
        given: what the user says.
        cut: whether the host does something behind the network.

    Raises:
        PreprocessingError: a source is damaged, asks for what the host does not do, or does not
            fit the model.
    """
    fields: Fields = {}
    sources: dict[str, str] = {}
    given, videos = given or Given(), graph.image.is_video
    if videos and (said := [f"--{name}" for name, value in given.of_pixels().items() if value]):
        raise PreprocessingError(
            f"{said[0]}: the model takes videos {list(graph.image.shape)}, which hosts take as "
            "arrays only.",
            f"Leave out {' and '.join(said)}, and give arrays that are normalised as in training.",
        )
    frame = Frame(*graph.image.shape[-3:])
    for finding in _findings(model, frame, given, FOR_VIDEOS if videos else BESIDE):
        for name in finding.fields.keys() - fields.keys():
            if videos and name != "classes":
                continue
            fields[name] = finding.fields[name]
            sources[name] = finding.source
    tokens, width = graph.shapes()[graph.outputs[0][1]]
    of_others = "classes" in fields and len(fields["classes"]) != width
    if of_others and (cut or tokens > 1) and not given.classes:
        del fields["classes"], sources["classes"]
    if not fields:
        return None
    found = Preprocessing(
        frame.channels,
        frame.height,
        frame.width,
        **fields,
        videos=videos,
        source=_joined({name: sources[name] for name in fields if fields[name] is not None}),
        classes_source=sources.get("classes", ""),
    )
    _check(found, graph, sources, cut)
    return found


def _findings(
    model: Path, image: Frame, given: Given, beside: Mapping[str, Reader]
) -> Iterator[_Finding]:
    """What every source says, the most important first; `beside` are those of the whole folder."""
    for name, value in given.of_pixels().items():
        yield _Finding(f"--{name}", {name: value})
    if given.classes:
        yield _Finding(given.classes_source, {"classes": given.classes})
    own = model.with_name(f"{model.stem}{OWN_FILE}")
    if own.is_file():
        with _reading(own):
            yield _Finding(own.name, _own(_json_object(_text(own)), image))
    yield _metadata(model, image)
    yield from () if own.is_file() else _of_the_folder(model, image, beside)


def _of_the_folder(model: Path, image: Frame, beside: Mapping[str, Reader]) -> Iterator[_Finding]:
    for name, reader in beside.items():
        for fields in _read_beside(model, name, partial(reader, image=image)):
            yield _Finding(name, fields)


def _joined(sources: Mapping[str, str]) -> str:
    """Where everything but the classes comes from."""
    order = ("mean", "std", "rescale", "resize", "crop", "resample")
    named = list(dict.fromkeys(sources[name] for name in order if name in sources))
    return " and ".join(filter(None, (", ".join(named[:-1]), *named[-1:])))


def _check(found: Preprocessing, graph: Graph, sources: Mapping[str, str], cut: bool) -> None:
    _, width = graph.shapes()[graph.outputs[0][1]]
    size = f"{found.height}x{found.width}"
    remedies = {
        "mean": f"Give --mean and --std, {found.channels} number(s) each, as in training.",
        "std": f"Give --mean and --std, {found.channels} number(s) each, as in training.",
        "classes": f"Give --classes FILE with {width} names, one a line.",
        "resize": f"Give --resize {size}; or --resize with the length of the shorter edge, and "
        f"--crop {size} to cut the centre.",
        "crop": f"Give --crop {size}, or export the model for images of that size.",
    }
    for field, fault in found.faults():
        raise PreprocessingError(
            f"{sources[field]}: {fault}.",
            remedies.get(field, "Correct it."),
        )
    if found.classes and len(found.classes) != width and not cut:
        raise PreprocessingError(
            f"{sources['classes']}: {len(found.classes)} class names, but the model's output "
            f"{graph.outputs[0][0]!r} has {width} values.",
            remedies["classes"],
        )


# --- Reading


@contextmanager
def _reading(source: Path | str, remedy: str = _REPAIR) -> Iterator[None]:
    """Whatever may be wrong with a source's content becomes an error that names the source."""

    def error_of(error: Exception) -> PreprocessingError:
        # These are ours, in words for people.
        said = str(error) if isinstance(error, ValueError) else reason(error)
        return PreprocessingError(f"{printable(source)}: {said}.", remedy)

    with foreign(error_of):
        yield


LARGEST_TEXT = 16 * MEBIBYTE  # of class names, or of a file beside the model: 100,000 classes


def _text(path: Path, remedy: str = _REPAIR) -> str:
    absent = "Give an existing file that you may read."
    with reading(path, PreprocessingError, "not text in UTF-8", remedy, absent):
        return read_file(path, LARGEST_TEXT).decode("utf-8-sig")


def _json_object(content: str) -> dict[str, Any]:
    try:
        values = json.loads(content)
    except ValueError as error:
        raise ValueError(f"not valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise ValueError("holds no JSON object")
    return values


def _beside(model: Path, name: str) -> Path | None:
    folders = [model.parent]
    if model.resolve().parent.name == "onnx":
        folders.append(model.resolve().parent.parent)
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _read_beside(
    model: Path, name: str, reader: Callable[[dict[str, Any]], Read]
) -> Iterator[Read]:
    """What `reader` makes of the file beside the model, if there is one."""
    path = _beside(model, name)
    if path is not None:
        with _reading(path):
            yield reader(_json_object(_text(path)))


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names from a file: one a line; or JSON, a list or a map from number to name.

    Raises:
        PreprocessingError: the file cannot be read, or holds no names.
    """
    with _reading(path, _NAMES):
        content = _text(path, _NAMES).strip()
        if path.suffix == ".json" or content.startswith(("[", "{")):
            try:
                names = _classes(json.loads(content), "the file")
            except json.JSONDecodeError as error:
                raise ValueError(f"not valid JSON ({error})") from error
        else:
            names = tuple(line.strip() for line in content.splitlines())
        if not names:
            raise ValueError("holds no class name")
        return names


def _classes(value: object, name: str) -> tuple[str, ...]:
    """A list of names, or a map from number to name with every number from zero."""
    if isinstance(value, Mapping):
        if wrong := next((number for number in value if not str(number).isdecimal()), None):
            raise ValueError(f"{name} has {wrong!r} in place of a class's number")
        by_number = {int(number): entry for number, entry in value.items()}
        if sorted(by_number) != list(range(len(value))):
            raise ValueError(f"{name} does not number its {len(value)} classes from 0")
        value = [by_number[number] for number in range(len(value))]
    return tuple(text(entry, name) for entry in elements(value, name))


def _numbers(value: object, name: str, image: Frame) -> tuple[float, ...]:
    """A list of numbers; a single one is for every channel."""
    if isinstance(value, (int, float)):
        return (real(value, name),) * image.channels
    return tuple(real(number, name) for number in elements(value, name))


# --- Metadata of the ONNX file


def _metadata(model: Path, image: Frame) -> _Finding:
    source = f"metadata of {model.name}"
    with _reading(source):
        properties = {
            entry.key: entry.value
            for entry in onnx.load(model, load_external_data=False).metadata_props
        }
        fields = _standard(properties, image)
        for field, keys in METADATA.items():
            key = next((key for key in keys if key in properties), None)
            if key is not None:
                value = _literal(properties[key], key)
                classes = field == "classes"
                fields[field] = _classes(value, key) if classes else _numbers(value, key, image)
        if "preprocessing" in properties:
            fields |= _own(_json_object(properties["preprocessing"]), image)
    return _Finding(source, fields)


def _standard(properties: Mapping[str, str], image: Frame) -> Fields:
    """The ONNX standard's image metadata; keys and values in any case."""
    folded = {key.lower(): value.lower() for key, value in properties.items()}
    pixel_format = folded.get("image.bitmappixelformat", "")
    if pixel_format.startswith("bgr"):
        raise ValueError(f"Image.BitmapPixelFormat is {pixel_format}, but hosts give RGB")
    pixel_range = folded.get("image.nominalpixelrange")
    if pixel_range is None:
        return {}
    if pixel_range not in PIXEL_RANGES:
        raise ValueError(f"Image.NominalPixelRange is {pixel_range}, which hosts do not give")
    rescale, mean, std = PIXEL_RANGES[pixel_range]
    return {
        "rescale": rescale,
        "mean": (mean,) * image.channels,
        "std": (std,) * image.channels,
    }


def _literal(content: str, key: str) -> object:
    """JSON, or a Python literal, or what stands between commas."""
    readers: tuple[Callable[[str], object], ...] = (json.loads, ast.literal_eval)
    for read in readers:
        try:
            value = read(content)
        except (ValueError, SyntaxError):
            continue
        return list(value) if isinstance(value, tuple) else value
    raise ValueError(f"{key!r} is neither JSON nor a list of numbers ({content[:40]!r})")


def _own(values: Mapping[str, Any], image: Frame) -> Fields:
    """The object with `KEYS`."""
    theirs, ours = values.keys() & _TRANSFORMERS, values.keys() & (set(KEYS) - {"resample"})
    if theirs and ours:
        raise ValueError(
            f"{min(ours)!r} is a key of vitessera's, {min(theirs)!r} one of transformers': use "
            "those of one"
        )
    if theirs:
        return _transformers(values, image)
    if unknown := values.keys() - set(KEYS):
        raise ValueError(
            f"the key {min(unknown)!r} is not known; known are {', '.join(sorted(KEYS))}"
        )
    readers: dict[str, Callable[[Any], Any]] = {
        "mean": lambda value: _numbers(value, "mean", image),
        "std": lambda value: _numbers(value, "std", image),
        "rescale": lambda value: real(value, "rescale"),
        "resample": _filter,
        "classes": lambda value: _classes(value, "classes"),
    }
    fields = {name: read(values[name]) for name, read in readers.items() if name in values}
    if values.keys() & {"resize", "crop"}:
        fields |= {"resize": None, "crop": None}
    if (resize := values.get("resize")) is not None:
        edge = isinstance(resize, int)
        fields["resize"] = whole(resize, "resize") if edge else pair(resize, "resize")
    if (crop := values.get("crop")) is not None:
        fields["crop"] = _square(crop, "crop")
    return fields


# --- transformers


def _transformers(values: Mapping[str, Any], image: Frame) -> Fields:
    """preprocessor_config.json; nothing if it is not about images."""
    if not values.keys() & _TRANSFORMERS:
        return {}
    for step in sorted(key for key in values if key.startswith("do_") or key in _OTHER_STEPS):
        if values[step] and step not in _STEPS:
            raise ValueError(f"{step} is a step that hosts do not do")
    fields = _transformers_numbers(values, image)
    if values.get("resample") is not None:
        fields["resample"] = _filter(values["resample"])
    return fields | {
        "resize": _transformers_resize(values) if _done(values, "do_resize", True) else None,
        "crop": _square(values["crop_size"], "crop_size")
        if _done(values, "do_center_crop", False) and values.get("crop_size") is not None
        else None,
    }


def _done(values: Mapping[str, Any], step: str, default: bool) -> bool:
    value = values.get(step)
    return default if value is None else truth(value, step)


def _transformers_numbers(values: Mapping[str, Any], image: Frame) -> Fields:
    fields: Fields = {}
    if not _done(values, "do_rescale", True):
        fields["rescale"] = 1.0
    elif values.get("rescale_factor") is not None:
        fields["rescale"] = real(values["rescale_factor"], "rescale_factor")
    if not _done(values, "do_normalize", True):
        return fields | {"mean": (0.0,) * image.channels, "std": (1.0,) * image.channels}
    for field, key in (("mean", "image_mean"), ("std", "image_std")):
        if values.get(key) is not None:
            fields[field] = _numbers(values[key], key, image)
    return fields


def _transformers_resize(values: Mapping[str, Any]) -> tuple[int, int] | int | None:
    size = values.get("size")
    if size is None:
        return None
    kind = values.get("image_processor_type") or values.get("feature_extractor_type") or ""
    if isinstance(size, int) and text(kind, "image_processor_type").startswith(SHORTER_EDGE):
        return whole(size, "size")
    if isinstance(size, Mapping) and size.keys() == {"shortest_edge"}:
        return whole(size["shortest_edge"], "size")
    return _square(size, "size")


def _square(size: object, name: str) -> tuple[int, int]:
    """Height and width from one number, a list of two or an object with both."""
    if isinstance(size, Mapping):
        if size.keys() != {"height", "width"}:
            raise ValueError(
                f"{name} has the keys {', '.join(map(str, size))}; hosts resize to height and "
                "width, or to shortest_edge"
            )
        return whole(size["height"], name), whole(size["width"], name)
    if isinstance(size, int):
        return whole(size, name), whole(size, name)
    return pair(size, name)


def _filter(value: object) -> str:
    """A filter by name, or by Pillow's number."""
    names = {number: name for name, number in RESAMPLING.items()}
    name = value if isinstance(value, str) else names.get(value) if type(value) is int else None
    if name not in RESAMPLING:
        known = ", ".join(f"{name} ({number})" for name, number in RESAMPLING.items())
        raise ValueError(f"the resampling filter {value!r} is not one of {known}")
    return str(name)


# --- config.json


def stated_problem(model: Path) -> object:
    """What `problem_type` in config.json beside the model is; None where nothing is said.

    Raises:
        PreprocessingError: the file is damaged.
    """
    return next(_read_beside(model, "config.json", lambda values: values.get("problem_type")), None)


def _config(values: Mapping[str, Any], image: Frame) -> Fields:
    """config.json of timm or of transformers; nothing if it is about something else."""
    fields: Fields = {}
    if values.get("id2label") is not None:
        fields["classes"] = _classes(values["id2label"], "id2label")
    timm = values.get("pretrained_cfg")
    if isinstance(timm, Mapping):
        fields = _timm(timm, image) | fields
        names = values.get("label_names") or timm.get("label_names")
        described = values.get("label_descriptions") or timm.get("label_descriptions")
        if names is not None and "classes" not in fields:
            fields["classes"] = _timm_classes(names, described)
    return fields


def _timm_classes(names: object, described: object) -> tuple[str, ...]:
    """The descriptions where there are some: timm's names are those of WordNet."""
    classes = _classes(names, "label_names")
    if not isinstance(described, Mapping):
        return classes
    return tuple(text(described.get(name, name), "label_descriptions") for name in classes)


def _timm(values: Mapping[str, Any], image: Frame) -> Fields:
    """pretrained_cfg: size, mean and std as timm's evaluation uses them."""
    fields: Fields = {
        name: _numbers(values[name], name, image)
        for name in ("mean", "std")
        if values.get(name) is not None
    }
    fields["resample"] = _filter(values.get("interpolation") or "bicubic")
    crop, crop_pct = _timm_crop(values, image)
    mode = values.get("crop_mode") or "center"
    scaled = math.floor(crop[0] / crop_pct), math.floor(crop[1] / crop_pct)
    if mode == "center" and scaled[0] == scaled[1]:
        resize: tuple[int, int] | int = scaled[0]
    elif mode == "squash":
        resize = scaled
    else:
        raise ValueError(
            f"pretrained_cfg: crop_mode {mode!r} for images of {crop[0]}x{crop[1]} is a step that "
            "hosts do not do"
        )
    return fields | {"crop": crop, "resize": resize}


def _timm_crop(values: Mapping[str, Any], image: Frame) -> tuple[tuple[int, int], float]:
    """Height and width of the input, and crop_pct; those for tests if the model has that size."""
    sizes: dict[str, tuple[int, int]] = {}
    for prefix in ("", "test_"):
        key = f"{prefix}input_size"
        if values.get(key) is not None:
            sizes[prefix] = pair(elements(values[key], key)[1:], key)
    fitting = (prefix for prefix, size in sizes.items() if size == (image.height, image.width))
    prefix = next(fitting, next(iter(sizes), ""))
    crop_pct = values.get(f"{prefix}crop_pct") or values.get("crop_pct") or TIMM_CROP_PCT
    if not 0 < real(crop_pct, "crop_pct") <= 1:
        raise ValueError(f"crop_pct is {crop_pct}, not above 0 and at most 1")
    return sizes.get(prefix, (image.height, image.width)), crop_pct


FOR_VIDEOS: dict[str, Reader] = {"config.json": _config}
BESIDE: dict[str, Reader] = {"preprocessor_config.json": _transformers, **FOR_VIDEOS}


# --- The size of the images


def stated_sizes(model: Path) -> Iterator[Stated]:
    """What the files beside `model` say of the size of its images.

    Raises:
        PreprocessingError: one of them is damaged.
    """
    for name, reader in SIZES.items():
        for sides in _read_beside(model, name, reader):
            yield Stated(name, sides)


def _transformers_size(values: Mapping[str, Any]) -> Sides:
    """What an image has once it is resized and cropped."""
    if not values.keys() & _TRANSFORMERS:
        return None, None, None
    if _done(values, "do_center_crop", False) and values.get("crop_size") is not None:
        return None, *_square(values["crop_size"], "crop_size")
    size = _transformers_resize(values) if _done(values, "do_resize", True) else None
    return (None, *size) if isinstance(size, tuple) else (None, None, None)


def _config_size(values: Mapping[str, Any]) -> Sides:
    """By transformers, perhaps of a network that is more than its vision tower, or by timm."""
    timm = values.get("pretrained_cfg")
    if isinstance(timm, Mapping) and timm.get("input_size") is not None:
        channels, *sides = elements(timm["input_size"], "input_size")
        return whole(channels, "input_size"), *pair(sides, "input_size")
    vision = values.get("vision_config")
    vision = vision if isinstance(vision, Mapping) else values
    channels, size = vision.get("num_channels"), vision.get("image_size")
    height, width = (None, None) if size is None else _square(size, "image_size")
    return None if channels is None else whole(channels, "num_channels"), height, width


SIZES: dict[str, Callable[[Mapping[str, Any]], Sides]] = {
    "preprocessor_config.json": _transformers_size,
    "config.json": _config_size,
}
