"""Which input of a file is the image, and how large the image is.

A file may leave every axis of its image open, as exporters do when asked to, and files on model
hubs often are so. An accelerator is built for one size, which is asked for here, in this order;
all who answer must agree:

1. the file, for the axes that it fixes;
2. --shape, or else preprocessor_config.json and config.json beside the file;
3. the convolution that cuts patches, which knows the channels;
4. position embeddings that are added as they are, which know the number of patches: of a square,
   unless somebody above says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from ..errors import UnsupportedModelError
from ..graph import Image
from ..preprocessing import stated_sizes
from .patching import Patching, find_patching
from .reach import needed

Shape = tuple[int | None, ...]  # None: open
Shapes = dict[str, tuple[int, ...]]

# The relative error that rounding to a type leaves. Arithmetic in these types is taken as real:
# int8 is coarser than any of them.
ROUNDING = {
    onnx.TensorProto.DOUBLE: 2.0**-53,
    onnx.TensorProto.FLOAT: 2.0**-24,
    onnx.TensorProto.FLOAT16: 2.0**-11,
    onnx.TensorProto.BFLOAT16: 2.0**-8,
}

# 2,300 × 2,300 pixels in colour, or 100 frames of 224 × 224: far above any Vision Transformer, far
# below this machine's memory.
LARGEST_IMAGE = 1 << 24

# What the axes after the batch are called, by their number. Exporters of videos put frames before
# channels, or after.
AXES = {
    3: ("channels", "height", "width"),
    4: ("frames or channels", "channels or frames", "height", "width"),
}
GIVEN = "--shape"
EXAMPLES = {3: f"{GIVEN} 3,224,224", 4: f"{GIVEN} 16,3,224,224"}


# --- Which input


def image_input(
    graph: onnx.GraphProto,
    nodes: Sequence[onnx.NodeProto],
    weights: Collection[str],
    results: Sequence[str],
) -> onnx.ValueInfoProto:
    """The input that the results depend on.

    Raises:
        UnsupportedModelError: there is none, or more than one, or it does not hold floats.
    """
    inputs = _inputs(graph, weights)
    if len(inputs) > 1:
        read = needed(nodes, results)
        inputs = [value for value in inputs if value.name in read]
    if len(inputs) != 1:
        names = ", ".join(repr(value.name) for value in inputs) or "none"
        raise UnsupportedModelError(
            f"The results depend on {len(inputs)} inputs ({names}); an accelerator takes one "
            "image.",
            _other_results(graph, nodes, weights),
        )
    kind = inputs[0].type.tensor_type.elem_type
    if kind not in ROUNDING:
        known = {number: name for name, number in onnx.TensorProto.DataType.items()}
        shown = known.get(kind, f"of the unknown type {kind}")
        raise UnsupportedModelError(
            f"Input {inputs[0].name!r} is {shown}, not a float type.",
            "Export the model in float32.",
        )
    return inputs[0]


def unread_inputs(
    graph: onnx.GraphProto,
    nodes: Sequence[onnx.NodeProto],
    weights: Collection[str],
    results: Sequence[str],
) -> Iterator[str]:
    """What is to be said of inputs that the results do not depend on."""
    read = needed(nodes, results)
    unread = [repr(value.name) for value in _inputs(graph, weights) if value.name not in read]
    if unread:
        yield f"No result depends on {', '.join(unread)}."


def _inputs(graph: onnx.GraphProto, weights: Collection[str]) -> list[onnx.ValueInfoProto]:
    return [value for value in graph.input if value.name not in weights]


def _other_results(
    graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto], weights: Collection[str]
) -> str:
    """The remedy: outputs that depend on an image alone, if there are any."""
    images = {
        value.name
        for value in _inputs(graph, weights)
        if value.type.tensor_type.elem_type in ROUNDING
        and len(value.type.tensor_type.shape.dim) - 1 in AXES
    }
    every = {value.name for value in _inputs(graph, weights)}
    for output in graph.output:
        read = every & needed(nodes, [output.name])
        if len(read) == 1 and read <= images:
            return f"Take a result that one image is enough for: --results {output.name}."
    return (
        "Name a tensor inside the model that depends on the image alone with --results, or export "
        "a model whose forward() takes one image tensor and nothing else."
    )


# --- Of which size


@dataclass(frozen=True)
class _Stated:
    """What one source says of the sides of the image.

    Attributes:
        source: for people.
        sides: None where it says nothing.
    """

    source: str
    sides: Shape


def sized(
    value: onnx.ValueInfoProto,
    nodes: Sequence[onnx.NodeProto],
    inferred: Callable[[Shape], Shapes],
    path: Path,
    shape: Sequence[int],
) -> tuple[Image, int, tuple[str, ...]]:
    """The image, how many the file takes at once, and what is to be said of its size.

    Args:
        value: the input.
        nodes: in execution order.
        inferred: the shapes of tensors, as far as that of the input settles them.
        path: of the file.
        shape: what the user says the image has; none to find it out.

    Raises:
        UnsupportedModelError: the input is no image or video, nothing tells its size, or
            contradictory things are told.
        PreprocessingError: a file beside the model is damaged.
    """
    batch, *declared = _declared(value)
    labels = AXES[len(declared)]
    _check_given(value.name, shape, labels)
    sources = [_Stated("the file", tuple(declared))]
    if shape:
        sources.append(_Stated(GIVEN, tuple(shape)))
    patching = None
    if None in declared:
        if not shape and len(declared) == 3:
            sources += _beside(path, declared)
        patching = find_patching(nodes, value.name, inferred((batch, *declared)))
    if patching is not None and len(declared) == 3:
        channels = (patching.channels, None, None)
        sources.append(_Stated(f"the weight {patching.weight!r}", channels))
        sources += _by_positions(patching, value.name, sources)
    sides = tuple(_agreed(value, axis, sources) for axis in range(len(declared)))
    images = 1 if batch is None else batch
    _check_size(value.name, sides, images)
    return Image(value.name, sides), images, tuple(_said(value.name, declared, sides, sources))


def _beside(path: Path, declared: Sequence[int | None]) -> Iterator[_Stated]:
    """What files beside the model say of the sides that it leaves open."""
    for stated in stated_sizes(path):
        sides = zip(stated.sides, declared, strict=True)
        yield _Stated(
            stated.source, tuple(side if fixed is None else None for side, fixed in sides)
        )


def _declared(value: onnx.ValueInfoProto) -> Shape:
    """Batch and sides as the file has them.

    Raises:
        UnsupportedModelError: no image has so many, or the batch is none.
    """
    shape = value.type.tensor_type.shape
    if len(shape.dim) - 1 not in AXES:
        raise UnsupportedModelError(
            f"Input {value.name!r} has {len(shape.dim)} axes, not 4, or 5 as videos have.",
            "Export it with [batch, channels, height, width], or for videos [batch, frames, "
            "channels, height, width].",
        )
    batch, *sides = shape.dim
    images = batch.dim_value if batch.HasField("dim_value") else None
    if images is not None and images < 1:
        raise UnsupportedModelError(
            f"Input {value.name!r} has a batch of {images}.", "Export the model with batch 1."
        )
    return (images, *(_side(side) for side in sides))


def _side(side: onnx.TensorShapeProto.Dimension) -> int | None:
    """What the side measures, None if that is open.

    An exporter that found an axis fixed which it was asked to leave open names it by its number.
    """
    symbol = side.dim_param
    measure = int(symbol) if symbol.isascii() and symbol.isdigit() else side.dim_value
    return measure if measure > 0 else None


def _check_given(name: str, shape: Sequence[int], labels: tuple[str, ...]) -> None:
    if shape and (len(shape) != len(labels) or min(shape) < 1):
        raise UnsupportedModelError(
            f"{GIVEN} has {','.join(map(str, shape))} for the input {name!r}, which has "
            f"{len(labels)} axes after the batch: {', '.join(labels)}.",
            f"Give {len(labels)} sizes above zero, such as {EXAMPLES[len(labels)]}.",
        )


def _by_positions(patching: Patching, name: str, sources: Sequence[_Stated]) -> Iterator[_Stated]:
    """Height and width by the position embeddings.

    Raises:
        UnsupportedModelError: others name both, and they make another number of patches.
    """
    said = [_first(sources, axis) for axis in (1, 2)]
    source = f"the position embeddings {patching.positions!r}"
    square = patching.square()
    if None in said:
        if square is not None:
            yield _Stated(source, (None, *square))
        return
    (height, by), (width, _) = (each for each in said if each is not None)
    if not patching.fits((height, width)):
        fitting = "" if square is None else f", as in images of {square[0]}×{square[1]}"
        raise UnsupportedModelError(
            f"Input {name!r}: images of {height}×{width}, as {by} has it, do not fit {source}, "
            f"which are for {patching.patches} patches{fitting}.",
            _how_to_agree(sources),
        )


def _first(sources: Sequence[_Stated], axis: int) -> tuple[int, str] | None:
    """The first that is said of an axis, and by whom."""
    for stated in sources:
        side = stated.sides[axis]
        if side is not None:
            return side, stated.source
    return None


def _agreed(value: onnx.ValueInfoProto, axis: int, sources: Sequence[_Stated]) -> int:
    """What all who say something of an axis say.

    Raises:
        UnsupportedModelError: nobody does, or they contradict each other.
    """
    rank = len(sources[0].sides)
    label, first = AXES[rank][axis], _first(sources, axis)
    if first is None:
        symbol = value.type.tensor_type.shape.dim[axis + 1].dim_param
        shown = repr(symbol) if symbol else "unnamed"
        raise UnsupportedModelError(
            f"Input {value.name!r}: the {label} axis is dynamic ({shown}), and neither the network "
            "nor a file beside it tells what it measures.",
            f"Give the size of the images: {EXAMPLES[rank]} ({', '.join(AXES[rank])}).",
        )
    for stated in sources:
        if stated.sides[axis] not in (None, first[0]):
            raise UnsupportedModelError(
                f"Input {value.name!r}: by {first[1]} the {label} axis has {first[0]}, by "
                f"{stated.source} it has {stated.sides[axis]}.",
                _how_to_agree(sources),
            )
    return first[0]


def _how_to_agree(sources: Sequence[_Stated]) -> str:
    if any(stated.source == GIVEN for stated in sources):
        return f"Correct {GIVEN}, or leave it out."
    rank = len(sources[0].sides)
    names = ",".join(label.upper() for label in AXES[rank])
    return f"Say which size is right with {GIVEN} {names}, as in {EXAMPLES[rank]}."


def _check_size(name: str, sides: tuple[int, ...], images: int) -> None:
    values = "×".join(map(str, sides))
    if images * math.prod(sides) <= LARGEST_IMAGE:
        return
    if images > 1:
        raise UnsupportedModelError(
            f"Input {name!r} has a fixed batch of {images} images of {values} values.",
            "Export the model again with batch 1 or with a dynamic batch axis.",
        )
    raise UnsupportedModelError(
        f"Input {name!r} is an image of {values} values.",
        f"Export for a smaller image, at most {LARGEST_IMAGE} values.",
    )


def _said(
    name: str, declared: Sequence[int | None], sides: tuple[int, ...], sources: Sequence[_Stated]
) -> Iterator[str]:
    """That the file leaves the size open, and who says what it is."""
    if None not in declared:
        return
    firsts = (_first(sources, axis) for axis, side in enumerate(declared) if side is None)
    names = " and ".join(dict.fromkeys(first[1] for first in firsts if first is not None))
    yield (
        f"The file leaves the size of {name!r} open; it is built for "
        f"{'×'.join(map(str, sides))}, by {names}."
    )
