"""Random Vision Transformers as Graphs, built without the importer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from vitessera.codegen.graph import (
    Activation,
    Add,
    Attention,
    FloatArray,
    Function,
    Graph,
    Image,
    LayerNorm,
    Linear,
    MeanPool,
    Node,
    PatchEmbed,
    SelectToken,
    TokenEmbed,
)

Make = Callable[[str, tuple[int, ...]], FloatArray]


@dataclass(frozen=True)
class Shape:
    """Sizes of a Vision Transformer."""

    image: tuple[int, int, int] = (3, 12, 12)
    patch: int = 4
    channels: int = 24
    heads: int = 3
    hidden: int = 40
    blocks: int = 2
    classes: int = 7
    prefix: int = 1
    # token, mean (of normalised rows), mean_first (norm behind the mean) or none (all tokens)
    pool: str = "token"
    function: Function = Function.GELU_ERF
    bias: float = 0.0  # spread of what is added to attention scores
    causal: bool = False  # a mask hides later tokens


@dataclass
class Builder:
    """Writes the nodes of a pre-norm Vision Transformer; `make` gives each parameter."""

    shape: Shape
    make: Make
    nodes: list[Node] = field(default_factory=list)

    def linear(self, name: str, source: str, out: int, width: int) -> str:
        weight = self.make(f"{name}.weight", (out, width))
        return self.add(Linear(name, (source,), (), weight, self.make(f"{name}.bias", (out,))))

    def norm(self, name: str, source: str) -> str:
        width = (self.shape.channels,)
        gamma, beta = self.make(f"{name}.weight", width), self.make(f"{name}.bias", width)
        return self.add(LayerNorm(name, (source,), (), gamma, beta, 1e-6))

    def add(self, node: Node) -> str:
        self.nodes.append(node)
        return node.name

    def embedding(self) -> str:
        shape = self.shape
        colours, height, width = shape.image
        kernel = (shape.channels, colours, shape.patch, shape.patch)
        weight = self.make("patch_embed.weight", kernel)
        bias = self.make("patch_embed.bias", (shape.channels,))
        patches = self.add(PatchEmbed("patch_embed", ("image",), (), weight, bias))
        tokens = (height // shape.patch) * (width // shape.patch) + shape.prefix
        prefix = self.make("cls_token", (shape.prefix, shape.channels))
        positions = self.make("pos_embed", (tokens, shape.channels))
        return self.add(TokenEmbed("embed", (patches,), (), prefix, positions))

    def bias(self, name: str) -> FloatArray | None:
        shape = self.shape
        if not shape.bias and not shape.causal:
            return None
        tokens = (shape.image[1] // shape.patch) * (shape.image[2] // shape.patch) + shape.prefix
        drawn = self.make(f"{name}.bias", (shape.heads, tokens, tokens))
        bias = drawn / np.float32(drawn.std()) * np.float32(shape.bias)
        later = np.triu(np.ones((tokens, tokens), np.bool_), 1)
        return np.where(later, np.float32(-1e30), bias) if shape.causal else bias

    def block(self, name: str, x: str) -> str:
        shape = self.shape
        width = shape.channels
        normed = self.norm(f"{name}.norm1", x)
        qkv = tuple(self.linear(f"{name}.attn.{p}", normed, width, width) for p in "qkv")
        scale = (width // shape.heads) ** -0.5
        bias = self.bias(f"{name}.attn")
        mixed = self.add(Attention(f"{name}.attn", qkv, (), shape.heads, scale, bias))
        projected = self.linear(f"{name}.attn.proj", mixed, width, width)
        x = self.add(Add(f"{name}.add1", (x, projected), ()))
        hidden = self.linear(f"{name}.mlp.0", self.norm(f"{name}.norm2", x), shape.hidden, width)
        active = self.add(Activation(f"{name}.gelu", (hidden,), (), shape.function))
        out = self.linear(f"{name}.mlp.2", active, width, shape.hidden)
        return self.add(Add(f"{name}.add2", (x, out), ()))

    def build(self) -> Graph:
        shape = self.shape
        x = self.embedding()
        tokens = (shape.image[1] // shape.patch) * (shape.image[2] // shape.patch) + shape.prefix
        for index in range(shape.blocks):
            x = self.block(f"blocks.{index}", x)
        if shape.pool == "mean_first":
            x = self.add(MeanPool("pool", (x,), (), shape.prefix, tokens))
        x = self.norm("norm", x)
        if shape.pool == "mean":
            x = self.add(MeanPool("pool", (x,), (), shape.prefix, tokens))
        if shape.pool == "token":
            x = self.add(SelectToken("token", (x,), (), 0))
        head = self.linear("head", x, shape.classes, shape.channels)
        return Graph(Image("image", *shape.image), tuple(self.nodes), (("logits", head),))


def random_parameters(seed: int) -> Make:
    """Parameters of about the size that trained networks have."""
    generator = np.random.default_rng(seed)

    def make(name: str, shape: tuple[int, ...]) -> FloatArray:
        values = generator.standard_normal(shape).astype(np.float32)
        if "norm" in name:
            return (0.2 * values + name.endswith("weight")).astype(np.float32)
        if name.endswith("weight"):
            return values / np.float32(np.sqrt(np.prod(shape[1:])))
        return np.float32(0.2) * values

    return make


def random_vit(seed: int, shape: Shape | None = None) -> Graph:
    """A Vision Transformer with random parameters."""
    return Builder(shape or Shape(), random_parameters(seed)).build()


def random_images(graph: Graph, count: int, seed: int) -> npt.NDArray[np.float32]:
    """Images [count, C, H, W] with the smoothness of real ones: neighbours resemble each other."""
    image = graph.image
    generator = np.random.default_rng(seed)
    shape = (count, image.channels, image.height, image.width)
    noise = generator.standard_normal(shape) + 2 * generator.standard_normal((*shape[:2], 1, 1))
    return (noise / 2).astype(np.float32)
