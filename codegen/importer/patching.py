"""What a network says by itself of the image that it takes.

The convolution that cuts the image into patches knows the channels. Position embeddings that are
added as they are know the number of patches; those that the file resizes first say nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import helper

from .reach import dependent

Shapes = Mapping[str, tuple[int, ...]]

# What may stand between the image and the convolution.
BEFORE = frozenset(
    {
        *("Add", "Cast", "Div", "Identity", "Mul", "Sub"),
        *("DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"),
    }
)
CONVOLUTIONS = ("Conv", "ConvInteger")
# What may stand between the convolution and the positions: as many tokens leave it as come in, but
# for constant ones that a Concat puts beside them.
KEEPING = BEFORE | {
    *("BatchNormalization", "Concat", "Dropout", "Erf", "Expand", "Flatten", "Gelu", "Gemm"),
    *("GroupNormalization", "InstanceNormalization", "LayerNormalization", "MatMul"),
    *("MatMulInteger", "Pow", "Relu", "Reshape", "Sigmoid", "Squeeze", "Tanh", "Transpose"),
    "Unsqueeze",
}
# Where data end: what these give depends on the size alone.
SIZES = frozenset({"Shape", "Size"})


@dataclass(frozen=True)
class Stride:
    """How patches follow each other along one side of the image.

    Attributes:
        kernel: pixels that a patch covers.
        step: pixels from one patch to the next.
        padding: pixels that are added, at both ends together.
    """

    kernel: int
    step: int
    padding: int

    def patches(self, side: int) -> int:
        """The number of patches along a side of so many pixels."""
        return (side + self.padding - self.kernel) // self.step + 1

    def pixels(self, patches: int) -> int:
        """The least side that gives so many patches."""
        least = (patches - 1) * self.step + self.kernel - self.padding
        # With padding, images are whole strides: 224 for 56 patches of 7 × 7, 4 apart, not 221.
        return -(-least // self.step) * self.step if self.padding else least


@dataclass(frozen=True)
class Patching:
    """The convolution that cuts patches.

    Attributes:
        weight: name of its weight.
        channels: of the image.
        strides: along height and width.
        positions: name of the position embeddings; empty if none fix the number of patches.
        patches: the number that they are for.
    """

    weight: str
    channels: int
    strides: tuple[Stride, Stride]
    positions: str = ""
    patches: int = 0

    def fits(self, sides: tuple[int, int]) -> bool:
        """Whether an image of that height and width has as many patches as there are positions."""
        counts = [each.patches(side) for each, side in zip(self.strides, sides, strict=True)]
        return not self.positions or (min(counts) > 0 and math.prod(counts) == self.patches)

    def square(self) -> tuple[int, int] | None:
        """Height and width, if as many patches stand in each line as in each column."""
        side = math.isqrt(self.patches)
        if not self.positions or side * side != self.patches:
            return None
        height, width = (each.pixels(side) for each in self.strides)
        return height, width


def find_patching(nodes: Sequence[onnx.NodeProto], image: str, shapes: Shapes) -> Patching | None:
    """The convolution that reads the image, if it is one, and the positions behind it.

    Args:
        nodes: in execution order.
        image: name of the input.
        shapes: of the tensors that have the same one for every image.
    """
    data = {image}
    for node in nodes:
        if node.op_type in BEFORE and not data.isdisjoint(node.input):
            data.update(filter(None, node.output))
        elif node.op_type in CONVOLUTIONS and node.input[0] in data:
            return _patching(node, nodes, image, shapes)
    return None


def _patching(
    conv: onnx.NodeProto, nodes: Sequence[onnx.NodeProto], image: str, shapes: Shapes
) -> Patching | None:
    weight = shapes.get(conv.input[1], ())
    attributes = {a.name: helper.get_attribute_value(a) for a in conv.attribute}
    strides = _strides(weight[2:], attributes)
    if len(weight) != 4 or strides is None:
        return None
    channels = weight[1] * int(attributes.get("group", 1))
    table = _positions(conv, nodes, image, shapes, weight[0])
    return Patching(conv.input[1], channels, strides, *(table or ()))


def _strides(
    kernel: tuple[int, ...], attributes: Mapping[str, object]
) -> tuple[Stride, Stride] | None:
    """None where the padding depends on the image, or for other convolutions."""
    if len(kernel) != 2 or attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return None
    steps, dilations, pads = (
        _integers(attributes, name, default)
        for name, default in (("strides", (1, 1)), ("dilations", (1, 1)), ("pads", (0,) * 4))
    )
    if (len(steps), len(dilations), len(pads)) != (2, 2, 4) or min(steps) < 1:
        return None
    spans = [step * (size - 1) + 1 for step, size in zip(dilations, kernel, strict=True)]
    first, second = (Stride(spans[n], steps[n], pads[n] + pads[n + 2]) for n in range(2))
    return first, second


def _integers(
    attributes: Mapping[str, object], name: str, default: tuple[int, ...]
) -> tuple[int, ...]:
    value = attributes.get(name, default)
    return tuple(value) if isinstance(value, (list, tuple)) else ()


def _positions(
    conv: onnx.NodeProto,
    nodes: Sequence[onnx.NodeProto],
    image: str,
    shapes: Shapes,
    channels: int,
) -> tuple[str, int] | None:
    """The first table with a row for each token that is added, and the patches that it is for."""
    sized = dependent(nodes, [image])
    tokens = dependent(nodes, [conv.output[0]], SIZES)
    for number, node in enumerate(nodes):
        for table in _added(node, tokens, sized):
            *batch, rows, columns = (1, 1, *shapes.get(table, ()))
            if rows > 1 and columns == channels and math.prod(batch) == 1:
                before = _tokens_before(nodes[:number], conv, tokens, shapes, node)
                return None if before is None or before >= rows else (table, rows - before)
    return None


def _added(node: onnx.NodeProto, tokens: set[str], sized: set[str]) -> Iterator[str]:
    """What does not depend on the image, where the node adds it to tokens."""
    if node.op_type == "Add" and not tokens.isdisjoint(node.input):
        yield from (name for name in node.input if name not in sized)


def _tokens_before(
    nodes: Sequence[onnx.NodeProto],
    conv: onnx.NodeProto,
    tokens: set[str],
    shapes: Shapes,
    add: onnx.NodeProto,
) -> int | None:
    """How many constant tokens were put beside the patches that `add` reads; None if unclear."""
    producer = {name: node for node in nodes for name in node.output if name}
    count, read = 0, next(name for name in add.input if name in tokens)
    while read != conv.output[0]:
        node = producer.get(read)
        if node is None or node.op_type not in KEEPING:
            return None  # it may pool, or be a convolution in its turn
        if node.op_type == "Concat":
            rows = [_rows(name, producer, shapes) for name in node.input if name not in tokens]
            if None in rows:
                return None
            count += sum(filter(None, rows))
        read = next((name for name in node.input if name in tokens), "")
    return count


def _rows(name: str, producer: Mapping[str, onnx.NodeProto], shapes: Shapes) -> int | None:
    """The tokens of a constant, which may be repeated for each image of a batch."""
    while name not in shapes and name in producer and producer[name].input:
        name = producer[name].input[0]
    shape = shapes.get(name)
    return None if shape is None else (1, 1, *shape)[-2]
