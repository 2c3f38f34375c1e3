"""The imported network: Vision Transformer operators on matrices of [tokens, channels].

A `Graph` is a list of frozen nodes in execution order. A value carries the name of the node that
produces it; every value is a float32 matrix [tokens, channels], except the image itself. The batch
axis is gone: an accelerator run is one image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from ..host.images import IMAGE_AXES
from .errors import missing_case
from .lookup import by_name

FloatArray = npt.NDArray[np.float32]
Shape = tuple[int, int]  # [tokens, channels]

OUTSIDE = -1  # what a window sees beyond the map


class Function(Enum):
    """Element-wise activation functions, by the name users know them under."""

    GELU_ERF = "gelu"
    GELU_TANH = "gelu_tanh"
    RELU = "relu"
    SILU = "silu"
    TANH = "tanh"


@dataclass(frozen=True)
class Image:
    """What the network takes: one image or one video, float32.

    Attributes:
        name: in the ONNX file.
        shape: [channels, height, width]; of a video four axes in the model's order,
            [frames, channels, height, width] or [channels, frames, height, width].
    """

    name: str
    shape: tuple[int, ...]

    @property
    def is_video(self) -> bool:
        """Whether there is an axis of frames."""
        return len(self.shape) > IMAGE_AXES


@dataclass(frozen=True)
class Window:
    """How the kernel of a convolution or a pooling walks over a map.

    A map is a matrix whose rows are pixels, row by row. Result y * columns + x of a grid sees, at
    (i, j) of the kernel, pixel (y * stride + i - top, x * stride + j - left): padding when that
    lies outside the map.

    Attributes:
        source: (height, width) of the map.
        kernel: (height, width).
        stride: pixels from one result to the next, down and across.
        before: (top, left) rows and columns of padding before the map.
        grid: (height, width) of the result.
    """

    source: tuple[int, int]
    kernel: tuple[int, int]
    stride: int
    before: tuple[int, int]
    grid: tuple[int, int]

    @classmethod
    def of_each(cls, source: tuple[int, int]) -> Window:
        """The window that sees each pixel by itself."""
        return cls(source, (1, 1), 1, (0, 0), source)

    @property
    def is_padded(self) -> bool:
        """Whether some result sees padding."""
        return bool((self.pixels == OUTSIDE).any())

    @property
    def pixels(self) -> npt.NDArray[np.int64]:
        """[results, pixels of the kernel]: the row of the map, OUTSIDE where there is none."""
        down, across = (
            (np.arange(count) * self.stride - before)[:, None] + np.arange(size)
            for count, before, size in zip(self.grid, self.before, self.kernel, strict=True)
        )
        height, width = self.source
        y, x = down[:, None, :, None], across[None, :, None, :]
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        rows = np.where(inside, y * width + x, OUTSIDE)
        return np.asarray(rows.reshape(math.prod(self.grid), -1), np.int64)


@dataclass(frozen=True)
class Node:
    """One operator.

    Attributes:
        name: unique; also the name of the value it produces.
        inputs: names of the values it reads, in operator order.
        origin: names of the ONNX nodes that were folded into it.
    """

    name: str
    inputs: tuple[str, ...]
    origin: tuple[str, ...]


@dataclass(frozen=True)
class PatchEmbed(Node):
    """image → [patches, out]: a Conv whose stride is its kernel, patches in row-major order."""

    weight: FloatArray  # [out, sides of a patch ...], one side for each axis of the image
    bias: FloatArray  # [out]


@dataclass(frozen=True)
class ImagePatches(Node):
    """image → [results, values]: what a convolution sees of the image, patches that may overlap.

    The values of a patch stand in row-major order of [channels, kernel height, kernel width];
    padding is zero.
    """

    window: Window


@dataclass(frozen=True)
class Unfold(Node):
    """Map → [results, kernel pixels * channels]: what a convolution sees of a map.

    The values of a result stand in row-major order of [kernel height, kernel width, channels];
    padding is zero.
    """

    window: Window


@dataclass(frozen=True)
class MaxPool(Node):
    """Map → [results, channels]: the greatest value that a window sees inside the map."""

    window: Window


@dataclass(frozen=True)
class GroupNorm(Node):
    """Normalises each group of channels over all rows: (x - mean) / sqrt(var + eps) * gamma + beta.

    Group g owns channels [g * n, (g + 1) * n), n = channels / groups.
    """

    groups: int
    gamma: FloatArray  # [channels]
    beta: FloatArray  # [channels]
    eps: float


@dataclass(frozen=True)
class TokenEmbed(Node):
    """concat(prefix, input, zeros) + positions: constant tokens join others, then positions do.

    Class and register tokens stand before the input's; tokens behind them are positions alone.
    """

    prefix: FloatArray  # [prefix tokens, channels]; zero rows when there is none
    positions: FloatArray  # [all tokens, channels]; zeros when there is none


@dataclass(frozen=True)
class LayerNorm(Node):
    """Normalises each token over its channels: (x - mean) / sqrt(var + eps) * gamma + beta."""

    gamma: FloatArray  # [channels]
    beta: FloatArray  # [channels]
    eps: float


@dataclass(frozen=True)
class Linear(Node):
    """x @ weight.T + bias."""

    weight: FloatArray  # [out, in]
    bias: FloatArray  # [out]


@dataclass(frozen=True)
class Attention(Node):
    """Multi-head attention of (query, key, value): softmax(scale * q @ k.T + bias) @ v.

    Head h owns channels [h * d, (h + 1) * d) of each input and of the output, and has a bias of its
    own.
    """

    heads: int
    scale: float
    bias: FloatArray | None = None  # [heads, queries, keys]; None when nothing is added


@dataclass(frozen=True)
class Activation(Node):
    """An element-wise function."""

    function: Function


@dataclass(frozen=True)
class Add(Node):
    """The sum of two values of one shape (a residual connection)."""


@dataclass(frozen=True)
class SelectToken(Node):
    """[tokens, channels] → [1, channels]: one token, as class-token pooling takes it."""

    index: int


@dataclass(frozen=True)
class Arrange(Node):
    """[tokens, channels] → [rows, channels]: tokens in another order, some, or some repeatedly."""

    rows: tuple[int, ...]  # numbers of the input's tokens, OUTSIDE for a row of zeros


@dataclass(frozen=True)
class MeanPool(Node):
    """[tokens, channels] → [1, channels]: the mean of tokens start ... stop - 1."""

    start: int
    stop: int


@dataclass(frozen=True)
class Graph:
    """An imported network.

    Attributes:
        image: the input.
        nodes: in execution order; a node reads only the image and earlier nodes.
        outputs: (name in the ONNX file, name of the value), in the file's order.
    """

    image: Image
    nodes: tuple[Node, ...]
    outputs: tuple[tuple[str, str], ...]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __getitem__(self, name: str) -> Node:
        return by_name(self.nodes, name, "node")

    def consumers(self, name: str) -> tuple[Node, ...]:
        """The nodes that read value `name`."""
        return tuple(node for node in self.nodes if name in node.inputs)

    def shapes(self) -> dict[str, Shape]:
        """[tokens, channels] of every value."""
        shapes: dict[str, Shape] = {}
        for node in self.nodes:
            shapes[node.name] = shape_of(node, self.image, shapes)
        return shapes


def shape_of(node: Node, image: Image, shapes: Mapping[str, Shape]) -> Shape:
    """[tokens, channels] of the value of `node`; `shapes` has those of what it reads."""
    match node:
        case PatchEmbed() | ImagePatches():
            return _patches_shape(node, image)
        case Unfold(window=window):
            return math.prod(window.grid), math.prod(window.kernel) * shapes[node.inputs[0]][1]
        case MaxPool(window=window):
            return math.prod(window.grid), shapes[node.inputs[0]][1]
        case TokenEmbed(positions=positions):
            return len(positions), shapes[node.inputs[0]][1]
        case Arrange(rows=rows):
            return len(rows), shapes[node.inputs[0]][1]
        case Linear(weight=weight):
            return shapes[node.inputs[0]][0], weight.shape[0]
        case Attention():
            return shapes[node.inputs[0]][0], shapes[node.inputs[2]][1]
        case SelectToken() | MeanPool():
            return 1, shapes[node.inputs[0]][1]
        case LayerNorm() | GroupNorm() | Activation() | Add():
            return shapes[node.inputs[0]]
        case _:
            raise missing_case(node, "Graph.shapes")


def _patches_shape(node: PatchEmbed | ImagePatches, image: Image) -> Shape:
    if isinstance(node, ImagePatches):
        return math.prod(node.window.grid), image.shape[0] * math.prod(node.window.kernel)
    out, *patch = node.weight.shape
    return math.prod(n // side for n, side in zip(image.shape, patch, strict=True)), out
