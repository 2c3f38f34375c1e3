"""A fixed batch: what an exporter writes that was given several images.

Their number then stands in shapes and constants all over the file. The accelerator runs one image
at a time, and its network is found exactly: in a tensor of N images the elements of image n are
those of the first one, n times the size of the term further on. Nodes that arrange move these
numbers, so that whatever mixes images shows. A node that computes is traced on the first image
alone, once its operands hold one image after the other and it does not work along that axis.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .call import Call, Constant, Tensor
from .load import Array
from .reductions import reduced_axes
from .refusal import Refused
from .term import Term
from .view import LARGEST_TENSOR, View, whole
from .windows import padded_axes

REMEDY = "Export the model again with batch 1 or with a dynamic batch axis."

Handler = Callable[[Call], tuple[Tensor | None, ...]]

# Their operands are aligned from the right, and the result keeps the axes.
ELEMENTWISE = frozenset(
    {
        "Add",
        "DequantizeLinear",
        "Div",
        "DynamicQuantizeLinear",
        "Erf",
        "Gelu",
        "IsNaN",
        "Mul",
        "Neg",
        "Pow",
        "QuantizeLinear",
        "Reciprocal",
        "Relu",
        "Sigmoid",
        "Sqrt",
        "Sub",
        "Swish",
        "Tanh",
        "Where",
    }
)
# Their first axis is the batch, and the result's is, too.
BATCH_FIRST = frozenset(
    {
        "Attention",
        "AveragePool",
        "BatchNormalization",
        "Conv",
        "ConvInteger",
        "GlobalAveragePool",
        "GroupNormalization",
        "InstanceNormalization",
        "MaxPool",
    }
)
# Whether they mix images is seen by their attributes, in `_is_apart`.
BY_AXIS = frozenset(
    {
        "Concat",
        "Einsum",
        "Gemm",
        "LayerNormalization",
        "MatMul",
        "MatMulInteger",
        "Pad",
        "ReduceMean",
        "ReduceSum",
        "Softmax",
    }
)
# Their result holds the images where their operands do.
KEEPING = ELEMENTWISE | {"MatMul", "MatMulInteger", "Concat", "Softmax", "LayerNormalization"}


@dataclass(frozen=True)
class Place:
    """Where images lie in a tensor: its axis is [before, images, behind], merged.

    Attributes:
        axis: counted from the last one, which is -1, as operands are aligned.
        before: 1 where one image follows the other, more where they take turns.
    """

    axis: int
    before: int


def whole_batch(term: Term, images: int, shape: tuple[int, ...]) -> View:
    """`term` for all images, one after the other along the first axis of `shape`.

    Args:
        term: of one image.
        images: how many.
        shape: the tensor's; its first side is a multiple of `images`.
    """
    one = whole(term, (shape[0] // images, *shape[1:]))
    return _all_images(one, images, Place(-len(shape), 1))


def first_image(view: View, images: int) -> tuple[View, Place]:
    """The first image's part of a tensor, and where the images lie.

    Raises:
        Refused: the tensor does not hold a part of each, element by element the same.
    """
    size = math.prod(view.term.shape)
    steps = size * np.arange(images).reshape(-1, *(1 for _ in view.ids.shape))
    for axis in range(-view.ids.ndim, 0):
        line = np.moveaxis(view.ids, axis, 0).reshape(view.ids.shape[axis], -1)[:, :1] // size
        behind = int(np.argmax(line != line[0])) or len(line)
        if len(line) % (images * behind):
            continue
        place = Place(axis, len(line) // (images * behind))
        apart = _apart(view.ids, images, place)
        if apart[0].max() < size and np.array_equal(apart, apart[0] + steps):
            return View(view.term, apart[0], view.layout), place
    raise Refused(f"it does not keep the {images} images of the batch apart", REMEDY)


def _apart(values: Array, images: int, place: Place) -> Array:
    """The parts of the images, [images, ...]."""
    shape, axis = values.shape, place.axis + values.ndim
    behind = shape[axis] // (images * place.before)
    split = values.reshape(*shape[:axis], place.before, images, behind, *shape[axis + 1 :])
    parts = np.moveaxis(split, axis + 1, 0)
    return parts.reshape(images, *shape[:axis], -1, *shape[axis + 1 :])


def _all_images(view: View, images: int, place: Place) -> View:
    """The inverse of `first_image`."""
    shape, axis = view.ids.shape, place.axis + view.ids.ndim
    if view.ids.size * images > LARGEST_TENSOR:
        raise Refused(
            f"its result has {view.ids.size * images} elements for {images} images", REMEDY
        )
    split = view.ids.reshape(*shape[:axis], place.before, -1, *shape[axis + 1 :])
    size = math.prod(view.term.shape)
    parts = np.stack([split + size * image for image in range(images)], axis=axis + 1)
    return View(view.term, parts.reshape(*shape[:axis], -1, *shape[axis + 1 :]), view.layout)


def by_image(call: Call, images: int, handler: Handler) -> tuple[Tensor | None, ...]:
    """What `handler` makes of the first image, for all of them.

    Raises:
        Refused: an operand does not keep the images apart, or the node mixes them.
    """
    firsts = [
        first_image(operand, images) if isinstance(operand, View) else None
        for operand in call.inputs
    ]
    places = {place for _, place in filter(None, firsts)}
    if len(places) > 1:
        raise Refused("its operands hold the images of the batch along different axes", REMEDY)
    (place,) = places
    if not _is_apart(call, place):
        raise Refused(f"it works along the {images} images of the batch", REMEDY)
    inputs = tuple(
        _constant_of_first(operand, images, place, call) if first is None else first[0]
        for operand, first in zip(call.inputs, firsts, strict=True)
    )
    outputs = handler(dataclasses.replace(call, inputs=inputs))
    return tuple(
        _all_images(output, images, _place_of_result(call, place, output))
        if isinstance(output, View)
        else output
        for output in outputs
    )


def _rank(call: Call) -> int:
    return max(operand.ids.ndim for operand in call.inputs if isinstance(operand, View))


def _is_apart(call: Call, place: Place) -> bool:
    """Whether the node treats each image by itself."""
    rank = _rank(call)
    axis = place.axis + rank
    match call.node.op_type:
        case kind if kind in ELEMENTWISE:
            return True
        case kind if kind in BATCH_FIRST:
            return axis == 0
        case "MatMul" | "MatMulInteger":
            # Rows of the left operand are apart if the right one is a constant.
            return place.axis <= (-2 if isinstance(call.operand(1), Constant) else -3)
        case "Gemm":
            return axis == 0 and not call.integer("transA", 0)
        case "Concat":
            return axis != call.integer("axis", 0) % rank
        case "Softmax":
            return axis != call.integer("axis", -1) % rank
        case "LayerNormalization":
            return axis < call.integer("axis", -1) % rank
        case "Pad" | "ReduceMean" | "ReduceSum" as kind:
            axes = padded_axes if kind == "Pad" else reduced_axes
            return axis not in axes(call, rank)
        case "Einsum":
            return axis == 0 and place.before == 1 and _is_einsum_apart(call)
        case _:
            return False


def _is_einsum_apart(call: Call) -> bool:
    """Whether the result and the operands that depend on the image begin with one letter."""
    operands, _, result = call.text("equation", "").replace(" ", "").partition("->")
    letters = [
        text
        for text, operand in zip(operands.split(","), call.inputs, strict=True)
        if isinstance(operand, View)
    ]
    return len({text[:1] for text in (*letters, result)}) == 1


def _constant_of_first(
    operand: Constant | View | None, images: int, place: Place, call: Call
) -> Constant | View | None:
    """A constant that has a value for each image, for the first one; others as they are."""
    aligned = call.node.op_type in (*ELEMENTWISE, "Concat")
    weights = call.node.op_type in ("MatMul", "MatMulInteger") and place.axis < -2
    if not isinstance(operand, Constant) or not (aligned or weights):
        return operand
    values = operand.values
    side = next(view.ids.shape[place.axis] for view in call.inputs if isinstance(view, View))
    if values.ndim + place.axis < 0 or values.shape[place.axis] != side:
        return operand  # the same for all
    parts = _apart(values, images, place)
    if (parts != parts[0]).any():
        raise Refused("its constant differs between the images of the batch", REMEDY)
    return Constant(parts[0])


def _place_of_result(call: Call, place: Place, result: View) -> Place:
    """Where images lie in a result of `call`, whose operands have them at `place`."""
    if call.node.op_type in KEEPING:
        return place
    axis = place.axis + _rank(call)
    if call.node.op_type in ("ReduceMean", "ReduceSum") and not call.integer("keepdims", 1):
        axis -= sum(reduced < axis for reduced in reduced_axes(call, _rank(call)))
    return Place(axis - result.ids.ndim, place.before)
