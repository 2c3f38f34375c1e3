"""The quantised network: what the scheduler turns into instructions.

Operators are still ViT-level, on matrices [tokens, channels], but hold integer constants only and
are already fused the way the accelerator's units work: a product carries its bias, requantisation,
activation and residual addition. Sizes are true sizes; padding to tiles is the scheduler's.

Three kinds of values flow:

- int8 matrices (-127 ... 127), operands of products;
- int16 matrices: residual streams and maps, one scale for all that are added up;
- int16 results, which leave the accelerator.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .errors import UnsupportedModelError
from .graph import Function, Image, Window
from .lookup import by_name
from .numerics import NormConstants

Int8Array = npt.NDArray[np.int8]
Int16Array = npt.NDArray[np.int16]
Int32Array = npt.NDArray[np.int32]
Uint16Array = npt.NDArray[np.uint16]
Uint8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Value:
    """A matrix that a node produces.

    Attributes:
        tokens, channels: its true size.
        bits: 8 or 16.
        scale: real value of one unit, per channel [channels].
        offset: what stands for real zero; one number, or one for each channel [channels]. May lie
            between integers and outside their range.
    """

    tokens: int
    channels: int
    bits: int
    scale: FloatArray
    offset: float | FloatArray = 0

    def dequantize(self, integers: npt.NDArray[np.integer]) -> FloatArray:
        """Real values of `integers` [tokens, channels]."""
        return (integers.astype(np.float64) - self.offset) * self.scale


@dataclass(frozen=True)
class Requantization:
    """Both steps of an epilogue; see numerics.requantize, activate and rescale.

    out = rescale(activate(requantize(acc, bias, multiplier, shift, pre_shift), function),
                  scale, scale_shift) + offset (+ residual), saturated to the value's bits.
    """

    bias: Int32Array  # [out]
    multiplier: Uint16Array  # [out]
    shift: Uint8Array  # [out]
    pre_shift: int
    function: Function | None = None
    scale: int = 1
    scale_shift: int = 0
    offset: int = 0


@dataclass(frozen=True)
class QuantNode:
    """One operator.

    Attributes:
        name: unique; also the name of the value it produces.
        inputs: names of the values it reads, in operator order.
        origin: names of the graph.Node operators it stands for, for reports.
        value: what it produces.
    """

    name: str
    inputs: tuple[str, ...]
    origin: tuple[str, ...]
    value: Value


@dataclass(frozen=True)
class PatchInput(QuantNode):
    """The image as the accelerator takes it: int8 [tokens, values of a patch].

    Row t is patch t - prefix, both patches and their values in row-major order, divided by the
    value's scale and rounded; rows before the first and behind the last patch (class and register
    tokens) are zero, and so is padding. Has no inputs, and its value no offset.

    Attributes:
        patch: sides of a patch, one for each axis of the image.
        prefix: rows before the first patch.
        window: how patches follow each other, if they do not tile the image.
    """

    patch: tuple[int, ...]
    prefix: int
    window: Window | None = None

    def __post_init__(self) -> None:
        if np.any(self.value.offset):
            raise UnsupportedModelError(
                f"The patches {self.name} have offset {self.value.offset}.",
                "Hosts make patches without offset; give them a symmetric scale.",
            )


@dataclass(frozen=True)
class Constant(QuantNode):
    """A constant int16 matrix: class token and positions, the start of the residual stream."""

    data: Int16Array  # [tokens, channels]


@dataclass(frozen=True)
class Product(QuantNode):
    """inputs[0] @ weight.T through an epilogue.

    inputs[0] is int8. With a second input (int16, of the result's shape) the result is added to
    it: that is the residual connection, and the result is int16.
    """

    weight: Int8Array  # [out, in]
    requantization: Requantization


@dataclass(frozen=True)
class Attention(QuantNode):
    """Multi-head attention of the int8 values (query, key, value); the result is int8.

    The key's offset adds the same to all scores of a row, and softmax does not see it. The value's
    stands, divided by the steps' ratio, for the result's: a row's probabilities add up to one.

    Per head, scores = requantize(q @ k.T) + bias in numerics.SCORE_FRACTION_BITS of log2 (scores
    has one multiplier, shift and a zero bias, arrays of length 1), saturated to int16;
    probabilities by numerics.softmax_beat;
    then x = requantize(p @ v) with `mix` (one multiplier, shift and bias per channel of v) and
    out = x * reciprocal mantissa / 2^(reciprocal exponent + mix.scale_shift), saturated to int8.
    """

    heads: int
    scores: Requantization
    mix: Requantization
    bias: Int16Array | None = None  # [heads, queries, keys]; None when nothing is added


@dataclass(frozen=True)
class Norm(QuantNode):
    """LayerNorm of an int16 value to int8 (or, when constants.plain, a scaled copy to int8)."""

    gamma: Int16Array  # [channels]
    beta: Int32Array  # [channels]
    constants: NormConstants


@dataclass(frozen=True)
class Gather(QuantNode):
    """Rows of an int16 map as a convolution or a pooling sees them, as int8.

    Each pixel is normalised by groups (numerics.group_norm, or scaled when constants.plain), cut
    off at zero with `relu`, and of all that a result of `pool` sees inside the map the greatest is
    taken. A row of the value is what a result of `unfold` sees of these, in row-major order of
    [kernel height, kernel width, channels], zero outside; before them stand `prefix` rows of zeros.

    Its value has no offset, and the same scale for all pixels of a kernel. `unfold` has padding
    only if `pool` sees each pixel by itself.
    """

    gamma: Int16Array  # [channels of the input]
    beta: Int32Array  # [channels of the input]
    constants: NormConstants
    groups: int
    relu: bool
    pool: Window
    unfold: Window
    prefix: int


@dataclass(frozen=True)
class SelectToken(QuantNode):
    """One token of an int8 or int16 value, as a matrix of one row."""

    index: int


@dataclass(frozen=True)
class Arrange(QuantNode):
    """Tokens of an int8 value in another order, some, or some repeatedly; the same integers."""

    rows: tuple[int, ...]  # numbers of the input's tokens, OUTSIDE for a row of zeros


@dataclass(frozen=True)
class Pool(QuantNode):
    """Sum over tokens start ... stop - 1 of an int8 value, through an epilogue: [1, channels].

    The mean's division is part of the multipliers. The result is int8 or int16.
    """

    start: int
    stop: int
    requantization: Requantization  # per channel


@dataclass(frozen=True)
class QuantGraph:
    """A quantised network.

    Attributes:
        image: the float image it takes, before PatchInput.
        nodes: in execution order.
        outputs: (name in the ONNX file, name of the int16 value), in the file's order.
    """

    image: Image
    nodes: tuple[QuantNode, ...]
    outputs: tuple[tuple[str, str], ...]

    def __iter__(self) -> Iterator[QuantNode]:
        return iter(self.nodes)

    def __getitem__(self, name: str) -> QuantNode:
        return by_name(self.nodes, name, "node")

    @property
    def gathers_maps(self) -> bool:
        """Whether it takes an accelerator with `maps`."""
        return any(isinstance(node, Gather) for node in self.nodes)

    @property
    def source(self) -> PatchInput:
        """The node that takes the image; UnsupportedModelError unless there is exactly one."""
        inputs = [node for node in self.nodes if isinstance(node, PatchInput)]
        if len(inputs) != 1:
            raise UnsupportedModelError(
                f"The network has {len(inputs)} inputs.", "It must have exactly one."
            )
        return inputs[0]

    def consumers(self, name: str) -> tuple[QuantNode, ...]:
        """The nodes that read value `name`."""
        return tuple(node for node in self.nodes if name in node.inputs)
