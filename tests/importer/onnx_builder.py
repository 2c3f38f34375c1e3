"""Writes small Vision Transformers in ONNX by hand, so that one detail can be made wrong.

Four tokens, head depth four: mistakes in the order of axes still fit by shape, so only the
importer's own checks can find them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

DIM, HEADS, DEPTH, TOKENS, HIDDEN = 8, 2, 4, 4, 6
IMAGE = (1, 2, 4, 4)

Step = Callable[["Net", str], str]


@dataclass
class Net:
    """An ONNX graph under construction; tensors are known by name."""

    opset: int = 20
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(3))

    def op(
        self, op_type: str, *inputs: str, name: str = "", outputs: int = 1, **attrs: object
    ) -> str:
        """Adds a node; its first output is called like the node."""
        name = name or f"{op_type.lower()}_{len(self.nodes)}"
        made = [name, *(f"{name}_{extra}" for extra in range(1, outputs))]
        self.nodes.append(helper.make_node(op_type, inputs, made, name=name, **attrs))
        return name

    def const(self, values: npt.ArrayLike, dtype: type = np.float32, name: str = "") -> str:
        name = name or f"const_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def ints(self, *values: int) -> str:
        return self.const(values, np.int64)

    def weight(self, *shape: int) -> str:
        return self.const(self.random.standard_normal(shape))

    def linear(self, x: str, inputs: int, outputs: int, name: str = "") -> str:
        product = self.op("MatMul", x, self.weight(inputs, outputs), name=name)
        return self.op("Add", product, self.weight(outputs))

    def norm(self, x: str) -> str:
        return self.op("LayerNormalization", x, self.weight(DIM), self.weight(DIM), axis=-1)

    def model(
        self, output: str, inputs: list[onnx.ValueInfoProto] | None = None
    ) -> onnx.ModelProto:
        if inputs is None:
            inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, IMAGE)]
        result = helper.make_tensor_value_info(output, TensorProto.FLOAT, (None, None))
        graph = helper.make_graph(self.nodes, "vit", inputs, [result], self.weights)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9)

    def save(self, path: Path, output: str) -> Path:
        onnx.save(self.model(output), path)
        return path


def chain(*steps: Step) -> Step:
    def step(net: Net, x: str) -> str:
        for each in steps:
            x = each(net, x)
        return x

    return step


def conv(net: Net, x: str) -> str:
    return net.op(
        "Conv", x, net.weight(DIM, 2, 2, 2), net.weight(DIM), name="patch", strides=[2, 2]
    )


@dataclass
class Calm(Net):
    """With weights of the size that training leaves, so that eight bits are enough."""

    def weight(self, *shape: int) -> str:
        values = self.random.standard_normal(shape)
        if len(shape) == 1:
            return self.const(1.0 + 0.3 * values)
        return self.const(values / np.sqrt(np.prod(shape[1:]) if len(shape) == 4 else shape[-2]))


def tokens_last(net: Net, x: str) -> str:
    flat = net.op("Reshape", x, net.ints(1, DIM, TOKENS))
    return net.op("Transpose", flat, perm=[0, 2, 1])


def heads(net: Net, x: str) -> str:
    split = net.op("Reshape", x, net.ints(1, -1, HEADS, DEPTH))
    return net.op("Transpose", split, perm=[0, 2, 1, 3])


def transposed(net: Net, x: str) -> str:
    return net.op("Transpose", x, perm=[0, 1, 3, 2])


def scaled(net: Net, x: str) -> str:
    return net.op("Mul", x, net.const(0.5), name="scale")


def softmax(net: Net, x: str) -> str:
    return net.op("Softmax", x, axis=-1, name="softmax")


def joined(net: Net, x: str) -> str:
    return net.op("Reshape", net.op("Transpose", x, perm=[0, 2, 1, 3]), net.ints(1, -1, DIM))


def same(_: Net, x: str) -> str:
    return x


def registers(net: Net, x: str) -> str:
    """A register between class token and two patches, after the positions, as in DINOv2."""
    x = net.op("Concat", net.weight(1, 1, DIM), x, axis=1)
    x = net.op("Add", x, net.weight(1, 3, DIM))
    first = net.op("Slice", x, net.ints(0), net.ints(1), net.ints(1))
    rest = net.op("Slice", x, net.ints(1), net.ints(3), net.ints(1))
    return net.op("Concat", first, net.weight(1, 1, DIM), rest, axis=1)


def gelu(net: Net, x: str) -> str:
    return net.op("Gelu", x)


def mean_pool(net: Net, x: str) -> str:
    return net.op("ReduceMean", x, net.ints(1), keepdims=0, name="pool")


@dataclass(frozen=True)
class Recipe:
    """Every step of the model; a test replaces one."""

    patches: Step = conv
    arrange: Step = tokens_last
    embedded: Step = same
    query: Step = heads
    key: Step = heads
    key_turned: Step = transposed
    product: str = "scores"
    value: Step = heads
    scores: Step = scaled
    probabilities: Step = softmax
    mixed: Callable[[Net, str, str], str] = lambda net, p, v: net.op("MatMul", p, v, name="mix")
    join: Step = joined
    residual: Callable[[Net, str, str], str] = lambda net, x, y: net.op("Add", x, y)
    norm: Step = Net.norm
    activation: Step = gelu
    block: Callable[[Net, str, Recipe], str] = lambda net, x, recipe: pre_norm(net, x, recipe)
    after: Step = same
    pool: Step = mean_pool
    finish: Step = same


def attention(net: Net, x: str, recipe: Recipe) -> str:
    q = recipe.query(net, net.linear(x, DIM, DIM))
    k = recipe.key_turned(net, recipe.key(net, net.linear(x, DIM, DIM)))
    v = recipe.value(net, net.linear(x, DIM, DIM))
    scores = recipe.scores(net, net.op("MatMul", q, k, name=recipe.product))
    mixed = recipe.mixed(net, recipe.probabilities(net, scores), v)
    return net.linear(recipe.join(net, mixed), DIM, DIM, name="projection")


def feed_forward(net: Net, x: str, recipe: Recipe) -> str:
    hidden = recipe.activation(net, net.linear(x, DIM, HIDDEN))
    return net.linear(hidden, HIDDEN, DIM)


def pre_norm(net: Net, x: str, recipe: Recipe) -> str:
    """The block of a Vision Transformer: x + attention(norm(x)), then x + mlp(norm(x))."""
    x = recipe.residual(net, x, attention(net, recipe.norm(net, x), recipe))
    return net.op("Add", x, feed_forward(net, recipe.norm(net, x), recipe))


def build(recipe: Recipe, net: Net | None = None) -> tuple[Net, str]:
    """The model, and the name of its output."""
    net = net or Net()
    x = recipe.embedded(net, recipe.arrange(net, recipe.patches(net, "image")))
    x = recipe.after(net, recipe.block(net, x, recipe))
    return net, recipe.finish(net, net.linear(recipe.pool(net, x), DIM, 3, name="head"))
