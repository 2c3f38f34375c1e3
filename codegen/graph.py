"""The imported network: Vision Transformer operators on matrices of [tokens, channels].

A `Graph` is a list of frozen nodes in execution order. A value carries the name of the node that
produces it; every value is a float32 matrix [tokens, channels], except the image itself. The batch
axis is gone: an accelerator run is one image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from .errors import missing_case
from .lookup import by_name

FloatArray = npt.NDArray[np.float32]


class Function(Enum):
    """Element-wise activation functions, by the name users know them under."""

    GELU_ERF = "gelu"
    GELU_TANH = "gelu_tanh"
    RELU = "relu"
    SILU = "silu"
    TANH = "tanh"


@dataclass(frozen=True)
class Image:
    """What the network takes: one image [channels, height, width], float32."""

    name: str
    channels: int
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.channels, self.height, self.width


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

    weight: FloatArray  # [out, channels, patch height, patch width]
    bias: FloatArray  # [out]


@dataclass(frozen=True)
class TokenEmbed(Node):
    """concat(prefix, input) + positions: class and register tokens, then position embedding."""

    prefix: FloatArray  # [prefix tokens, channels]; zero rows when there is none
    positions: FloatArray  # [prefix tokens + input tokens, channels]; zeros when there is none


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

    def shapes(self) -> dict[str, tuple[int, int]]:
        """[tokens, channels] of every value."""
        shapes: dict[str, tuple[int, int]] = {}
        for node in self.nodes:
            shapes[node.name] = _shape(node, self.image, shapes)
        return shapes


def _shape(node: Node, image: Image, shapes: dict[str, tuple[int, int]]) -> tuple[int, int]:
    match node:
        case PatchEmbed(weight=weight):
            out, _, height, width = weight.shape
            return (image.height // height) * (image.width // width), out
        case TokenEmbed(prefix=prefix):
            tokens, channels = shapes[node.inputs[0]]
            return tokens + len(prefix), channels
        case Linear(weight=weight):
            return shapes[node.inputs[0]][0], weight.shape[0]
        case Attention():
            return shapes[node.inputs[0]][0], shapes[node.inputs[2]][1]
        case SelectToken() | MeanPool():
            return 1, shapes[node.inputs[0]][1]
        case LayerNorm() | Activation() | Add():
            return shapes[node.inputs[0]]
        case _:
            raise missing_case(node, "Graph.shapes")
