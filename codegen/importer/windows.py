"""What walks over a map with a window: convolutions, pooling, and the padding before them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..graph import OUTSIDE, Function, Window
from .call import Call, Tensor, checked_axis
from .fold import run_node
from .maps import Map, as_map, unpadded
from .refusal import Refused
from .term import (
    Activate,
    Channels,
    Dense,
    Greatest,
    ImageWindows,
    MapWindows,
    Padded,
    Real,
    Rows,
    Scale,
    Sum,
    Term,
)
from .view import Ids, View, check_count, whole

Results = tuple[Tensor | None, ...]

GEOMETRY = "Use a kernel of two sides, one stride for both axes, and neither dilation nor groups."


@dataclass(frozen=True)
class Kernel:
    """How a node's kernel walks over a tensor, by its attributes.

    Attributes:
        size: (height, width).
        stride: of both axes.
        before: (top, left) padding that the node adds.
        behind: (bottom, right).
        grid: (height, width) of its result.
    """

    size: tuple[int, int]
    stride: int
    before: tuple[int, int]
    behind: tuple[int, int]
    grid: tuple[int, int]

    def on(self, sides: tuple[int, int]) -> Window:
        """The window on the tensor itself, of height and width `sides`."""
        return Window(sides, self.size, self.stride, self.before, self.grid)

    def over(self, data: Map) -> Window:
        """The window on the pixels of the term, whatever pads them."""
        top, left = (n + m for n, m in zip(self.before, data.margin, strict=True))
        return Window(data.source, self.size, self.stride, (top, left), self.grid)


def pad(call: Call) -> Results:
    """Pad: what it adds is known to convolutions and pooling only."""
    value = call.constant(2, "padding value")
    view, known = unpadded(call.view(0))
    added = 0.0 if value is None or value.size == 0 else float(value.item())
    if np.isnan(added):
        raise Refused("it pads with NaN", "Pad with a number.")
    ids = _padded(call, view)
    if not (ids == OUTSIDE).any():
        return (View(view.term, ids, call.origin),)
    if known not in (None, added):
        raise Refused(f"it pads with {added:g} what was padded with {known:g}", "Pad once.")
    check_count(ids.size)
    term = Padded((view.term,), (ids.size,), call.origin, ids.ravel(), added)
    return (View(call.pool.intern(term), whole(term, ids.shape).ids, call.origin),)


def _padded(call: Call, view: View) -> Ids:
    """The node on element numbers, counted from one: whatever it adds is zero."""
    marker = np.zeros((), np.int64)
    feeds = [view.ids + 1, *(getattr(operand, "values", None) for operand in call.inputs[1:])]
    if len(feeds) > 2 and feeds[2] is not None:
        feeds[2] = marker
    (ids,) = run_node(call.node, feeds, call.opset)
    assert ids is not None
    return ids.astype(np.int64) - 1


def padded_axes(call: Call, rank: int) -> tuple[int, ...]:
    """The axes at which a Pad adds something."""
    pads, axes = call.constant(1, "padding"), call.constant(3, "list of axes")
    assert pads is not None
    listed = range(rank) if axes is None else axes.astype(int).ravel().tolist()
    before, behind = pads.astype(int).reshape(2, -1)
    return tuple(
        checked_axis(axis, rank)
        for axis, first, last in zip(listed, before, behind, strict=True)
        if first or last
    )


# --- Convolutions --------------------------------------------------------------------------------


def convolution(call: Call) -> Results:
    """Conv of the image or of a map: a linear layer on what its window sees."""
    weight, bias = call.constant(1, "weight"), call.constant(2, "bias")
    assert weight is not None
    data = as_map(call, call.view(0))
    if call.integer("group", 1) != 1:
        raise Refused("it is grouped", "Use a convolution with groups=1, or a Linear.")
    if weight.ndim != 4 or weight.shape[1] != len(data.channels):
        raise Refused(
            f"its weight {list(weight.shape)} does not fit its {len(data.channels)} channels",
            "Export the model again.",
        )
    if call.integers("kernel_shape", weight.shape[2:]) != weight.shape[2:]:
        raise Refused(
            f"its weight is {list(weight.shape)}, its kernel_shape another",
            "Export the model again.",
        )
    if bias is not None and bias.shape != (len(weight),):
        raise Refused(
            f"its bias has shape {list(bias.shape)}, its weight makes {len(weight)} channels",
            "Use a bias of one value a channel.",
        )
    kernel = kernel_of(call, data.sides, (weight.shape[2], weight.shape[3]))
    bias = np.zeros(len(weight)) if bias is None else bias
    return (_convolved(call, data, kernel, weight, bias),)


def _convolved(call: Call, data: Map, kernel: Kernel, weight: Real, bias: Real) -> View:
    """The convolution of `data` with `weight` [out, channels, kernel] and `bias` [out]."""
    if data.padding not in (None, 0.0):
        raise Refused(
            f"what it convolves is padded with {data.padding:g}", "Pad with zeros (padding=...)."
        )
    window = kernel.over(data)
    seen = _seen(call, data, window)
    if data.is_image:
        full = _scattered(weight, data)
    else:
        full = np.moveaxis(_scattered(weight, data), 1, -1)
    shape = (math.prod(window.grid), len(weight))
    dense = Dense((seen,), shape, data.origin, full.reshape(len(weight), -1), bias)
    return _as_tensor(call.pool.intern(dense), window)


def _scattered(weight: Real, data: Map) -> Real:
    """`weight` for all channels of the term; those that a tensor shows twice add up."""
    count = data.term.shape[0 if data.is_image else 1]
    by_channel = np.zeros((count, len(weight), *weight.shape[2:]))
    np.add.at(by_channel, data.channels, np.moveaxis(weight, 1, 0))
    return np.moveaxis(by_channel, 0, 1)


def _seen(call: Call, data: Map, window: Window) -> Term:
    """[results, values]: what the window sees, which of a map may be the map itself."""
    if not data.is_image and window == Window.of_each(data.source):
        return data.term
    kind = ImageWindows if data.is_image else MapWindows
    channels = data.term.shape[0 if data.is_image else 1]
    shape = (math.prod(window.grid), channels * math.prod(window.kernel))
    check_count(math.prod(shape))
    return call.pool.intern(kind((data.term,), shape, data.origin, window))


def _as_tensor(term: Term, window: Window) -> View:
    """A matrix [pixels, channels] as [1, channels, height, width]."""
    ids = whole(term).ids
    return View(term, ids.T.reshape(1, term.shape[1], *window.grid))


# --- Pooling -------------------------------------------------------------------------------------


def average_pool(call: Call) -> Results:
    """AveragePool: a convolution whose weights are constants, where each mean is of a full kernel.

    Zeros that Pad put there count, those of attributes only if it says so.
    """
    data = as_map(call, call.view(0))
    kernel = kernel_of(call, data.sides, _kernel_shape(call))
    window = kernel.on(data.sides)
    if call.integer("count_include_pad", 0):
        (top, left), (bottom, right) = kernel.before, kernel.behind
        sides = (top + data.sides[0] + bottom, left + data.sides[1] + right)
        window = Window(sides, kernel.size, kernel.stride, (0, 0), kernel.grid)
    if (window.pixels == OUTSIDE).any():
        raise Refused(
            "it averages fewer pixels at the border than inside",
            "Pool without padding, or with count_include_pad=True and without ceil_mode.",
        )
    count = len(data.channels)
    check_count(count * count * math.prod(kernel.size))
    one = np.eye(count)[:, :, None, None] / math.prod(kernel.size)
    weight = np.broadcast_to(one, (count, count, *kernel.size))
    return (_convolved(call, data, kernel, weight, np.zeros(count)),)


def max_pool(call: Call) -> Results:
    """MaxPool over height and width; what surrounds the map does not count."""
    data = as_map(call, call.view(0))
    if data.is_image:
        raise Refused("it pools the image itself", "Convolve the image first.")
    _check_ignored(data)
    window = kernel_of(call, data.sides, _kernel_shape(call)).over(data)
    if (window.pixels == OUTSIDE).all(axis=1).any():
        raise Refused("its window sees nothing but padding", "Pad by less than the kernel.")
    matrix = data.matrix(call.pool)
    shape = (math.prod(window.grid), matrix.shape[1])
    term = call.pool.intern(Greatest((matrix,), shape, data.origin, window))
    return (_as_tensor(term, window),)


def _check_ignored(data: Map) -> None:
    """Refuses padding that may be greater than a pixel beside it."""
    value = data.padding
    if value is None or value <= float(np.finfo(np.float32).min):
        return
    if value > 0.0 or not _is_positive(data.term):
        raise Refused(
            f"it pools over padding of {value:g}, which may be the greatest",
            "Pad with minus infinity, as nn.MaxPool2d(padding=...) does; after ReLU zeros do.",
        )


def _is_positive(term: Term) -> bool:
    """Whether no element can be less than zero."""
    match term:
        case Activate(function=function):
            return function is Function.RELU
        case Greatest() | Channels() | Rows() | Sum():
            return all(_is_positive(read) for read in term.inputs)
        case Scale(factor=factor):
            return bool((factor >= 0.0).all()) and _is_positive(term.inputs[0])
    return False


def _kernel_shape(call: Call) -> tuple[int, int]:
    shape = call.integers("kernel_shape", ())
    assert shape is not None
    if len(shape) != 2:
        raise Refused(f"its kernel is {list(shape)}", GEOMETRY)
    return shape[0], shape[1]


# --- Geometry ------------------------------------------------------------------------------------


def kernel_of(call: Call, sides: tuple[int, int], size: tuple[int, int]) -> Kernel:
    """How a kernel of `size` walks over a tensor of `sides`, by the attributes of the node.

    Raises:
        Refused: it is dilated, has two strides, or does not fit the tensor.
    """
    strides = _pair(call, "strides")
    if strides[0] != strides[1] or strides[0] < 1:
        raise Refused(f"its strides are {list(strides)}", GEOMETRY)
    if _pair(call, "dilations") != (1, 1):
        raise Refused("it is dilated", GEOMETRY)
    stride = strides[0]
    before, behind = _padding(call, sides, size, stride)
    total = [sum(parts) for parts in zip(before, sides, behind, strict=True)]
    ceil = bool(call.integer("ceil_mode", 0))
    height, width = (
        _steps(length, side, stride, start + middle, ceil)
        for length, side, start, middle in zip(total, size, before, sides, strict=True)
    )
    if min(height, width, *size) < 1:
        raise Refused(
            f"its kernel {list(size)} does not fit a map of {list(sides)}",
            "Export for a larger image.",
        )
    check_count(height * width * math.prod(size))
    return Kernel(size, stride, before, behind, (height, width))


def _steps(length: int, size: int, stride: int, last: int, ceil: bool) -> int:
    """How often a kernel of `size` fits `length` pixels; `ceil` lets the last one hang out.

    None begins behind `last`, in the padding at the end.
    """
    if length < size:
        return 0
    if not ceil:
        return (length - size) // stride + 1
    steps = -((size - length) // stride) + 1
    return steps - 1 if (steps - 1) * stride >= last else steps


def _pair(call: Call, name: str) -> tuple[int, int]:
    values = call.integers(name, None) or (1, 1)
    if len(values) != 2:
        raise Refused(f"its {name} are {list(values)}", GEOMETRY)
    return values[0], values[1]


def _padding(
    call: Call, sides: tuple[int, int], size: tuple[int, int], stride: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """(top, left) and (bottom, right) padding of the node itself."""
    match call.text("auto_pad", "NOTSET"):
        case "NOTSET":
            pads = call.integers("pads", None) or (0, 0, 0, 0)
        case "VALID":
            pads = (0, 0, 0, 0)
        case "SAME_UPPER" | "SAME_LOWER" as kind:
            total = [
                max((-(-side // stride) - 1) * stride + kernel - side, 0)
                for side, kernel in zip(sides, size, strict=True)
            ]
            less = [n // 2 for n in total]
            more = [n - m for n, m in zip(total, less, strict=True)]
            pads = (*less, *more) if kind == "SAME_UPPER" else (*more, *less)
        case other:
            raise Refused(f"its auto_pad is {other!r}", "Give its padding by pads.")
    if len(pads) != 4:
        raise Refused(f"its pads are {list(pads)}", GEOMETRY)
    if min(pads) < 0:
        raise Refused(f"its pads are {list(pads)}: it cuts", "Crop the image before the model.")
    return (pads[0], pads[1]), (pads[2], pads[3])
