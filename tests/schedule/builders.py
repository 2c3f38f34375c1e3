"""Random quantised Vision Transformers, written by hand so that values rarely saturate."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.graph import Function, Image, Window
from vitessera.codegen.numerics import INT16_MAX, INVERSE_BITS, NormConstants
from vitessera.codegen.quantgraph import (
    Attention,
    Constant,
    Norm,
    PatchInput,
    Pool,
    Product,
    QuantGraph,
    QuantNode,
    Requantization,
    SelectToken,
    Value,
)

INT8_SPREAD = 40.0  # standard deviation that int8 values are given
WEIGHT_SPREAD = 73.0  # of uniform integers -127 ... 127
RESIDUAL_SPREAD = 1500.0
BIAS_SPREAD = 500.0  # of what is added to attention scores
HIDDEN = 0.1  # share of keys that a mask hides

ROOMY = {
    "left_words": 1 << 15,
    "right_words": 1 << 15,
    "probability_words": 1 << 10,
    "residual_words": 1 << 15,
    "parameter_words": 1 << 12,
    "norm_words": 1 << 10,
    "norm_buffer_words": 1 << 12,
    "maps": True,
}


def config(
    tile: int = 8, depth: int = 4, lanes: int = 8, bus_bits: int = 64, **words: int
) -> HardwareConfig:
    """A configuration with large memories, unless given."""
    return HardwareConfig(tile=tile, depth=depth, lanes=lanes, bus_bits=bus_bits, **ROOMY | words)


@dataclass(frozen=True)
class Shape:
    """Sizes of a Vision Transformer."""

    tokens: int = 17
    channels: int = 24
    heads: int = 2
    hidden: int = 40
    blocks: int = 2
    classes: tuple[int, ...] = (10,)
    patch: int = 12  # channels of a patch
    prefix: int = 1
    # token, mean, residual (selects before the last norm) or early (in the last block, as soon as
    # attention is done: what the quantiser makes of class-token networks)
    pool: str = "token"
    bias: bool = False  # on attention scores


@dataclass
class Builder:
    """Collects nodes."""

    rng: np.random.Generator
    nodes: list[QuantNode] = field(default_factory=list)

    def add(self, node: QuantNode) -> str:
        self.nodes.append(node)
        return node.name

    def size(self, name: str) -> tuple[int, int]:
        value = next(node.value for node in self.nodes if node.name == name)
        return value.tokens, value.channels

    def requantization(
        self, channels: int, gain: float, spread: float, **more: object
    ) -> Requantization:
        """Scales by about `gain`; biases of about the accumulator's `spread`."""
        shift = np.clip(np.floor(14 - np.log2(gain)), 0, 63).astype(int)
        multipliers = gain * 2.0**shift * self.rng.uniform(0.8, 1.2, channels)
        return Requantization(
            bias=(self.rng.normal(0, spread / 2, channels)).astype(np.int32),
            multiplier=np.clip(multipliers, 1, 65535).astype(np.uint16),
            shift=np.full(channels, shift, np.uint8),
            pre_shift=int(more.pop("pre_shift", 0)),
            **more,
        )

    def product(
        self,
        name: str,
        source: str,
        out: int,
        *,
        residual: str | None = None,
        bits: int = 8,
        function: Function | None = None,
    ) -> str:
        tokens, width = self.size(source)
        weight = self.rng.integers(-127, 128, (out, width), dtype=np.int8)
        spread = INT8_SPREAD * WEIGHT_SPREAD * math.sqrt(width)
        wanted = INT8_SPREAD if bits == 8 else RESIDUAL_SPREAD
        if function:
            step = self.requantization(
                out, 4096 / spread, spread, function=function, scale=900, scale_shift=16, offset=-20
            )
        else:
            step = self.requantization(out, wanted / spread, spread, pre_shift=width > 100)
        inputs = (source,) if residual is None else (source, residual)
        return self.add(Product(name, inputs, (), value(tokens, out, bits), weight, step))

    def norm(self, name: str, source: str, *, plain: bool = False) -> str:
        tokens, width = self.size(source)
        gamma = self.rng.normal(0, INT8_SPREAD, width)
        constants = NormConstants(
            channels=width,
            inverse=round(2**INVERSE_BITS / width),
            eps_mantissa=12345,
            eps_exponent=9,
            shift=10 if plain else 12,
            plain=plain,
        )
        beta = self.rng.normal(0, 10 * 2.0**constants.shift, width).astype(np.int32)
        return self.add(
            Norm(
                name,
                (source,),
                (),
                value(tokens, width, 8),
                gamma.astype(np.int16),
                beta,
                constants,
            )
        )

    def bias(self, heads: int, queries: int, keys: int) -> npt.NDArray[np.int16]:
        """Relative positions, and a mask that hides some keys."""
        drawn = -np.abs(self.rng.normal(0, BIAS_SPREAD, (heads, queries, keys)))
        hidden = self.rng.random(drawn.shape) < HIDDEN
        return np.where(hidden, -INT16_MAX, drawn).astype(np.int16)

    def attention(
        self, name: str, query: str, key: str, values: str, heads: int, *, biased: bool = False
    ) -> str:
        tokens, width = self.size(query)[0], self.size(values)[1]
        head = self.size(query)[1] // heads
        scores = self.requantization(1, 700 / (INT8_SPREAD**2 * math.sqrt(head)), 0.0)
        keys = self.size(key)[0]
        many = int(keys > 1000)  # the greatest sum of so many needs a bit more in each step
        mix = Requantization(
            bias=self.rng.normal(0, 100, width).astype(np.int32),
            multiplier=self.rng.integers(20000, 40000, width).astype(np.uint16),
            shift=np.full(width, 15 + many, np.uint8),
            pre_shift=many,
            scale_shift=6,
            offset=3,
        )
        inputs = (query, key, values)
        bias = self.bias(heads, tokens, keys) if biased else None
        result = value(tokens, width, 8)
        return self.add(Attention(name, inputs, (), result, heads, scores, mix, bias))

    def pool(self, name: str, source: str, start: int, bits: int = 8) -> str:
        tokens, width = self.size(source)
        spread = INT8_SPREAD * math.sqrt(tokens)
        wanted = INT8_SPREAD if bits == 8 else RESIDUAL_SPREAD
        step = self.requantization(width, wanted / spread, spread)
        return self.add(Pool(name, (source,), (), value(1, width, bits), start, tokens, step))

    def select(self, name: str, source: str, index: int, bits: int) -> str:
        _, width = self.size(source)
        return self.add(SelectToken(name, (source,), (), value(1, width, bits), index))

    def constant(self, name: str, tokens: int, width: int) -> str:
        data = self.rng.normal(0, RESIDUAL_SPREAD, (tokens, width)).astype(np.int16)
        return self.add(Constant(name, (), (), value(tokens, width, 16), data))

    def patches(self, tokens: int, width: int, prefix: int) -> str:
        return self.add(
            PatchInput("patches", (), (), value(tokens, width, 8), (width, 1, 1), prefix)
        )

    def graph(self, outputs: tuple[str, ...]) -> QuantGraph:
        source = next(node for node in self.nodes if isinstance(node, PatchInput))
        rows = source.value.tokens - source.prefix
        image = Image("image", (source.value.channels, rows, 1))
        names = tuple((f"output {name}", name) for name in outputs)
        return QuantGraph(image, tuple(self.nodes), names)


def value(tokens: int, channels: int, bits: int) -> Value:
    return Value(tokens, channels, bits, np.full(channels, 1.0))


def vision_transformer(rng: np.random.Generator, shape: Shape) -> QuantGraph:
    """A pre-norm Vision Transformer of random integers."""
    build = Builder(rng)
    patches = build.patches(shape.tokens, shape.patch, shape.prefix)
    x = build.constant("positions", shape.tokens, shape.channels)
    x = build.product("embed", patches, shape.channels, residual=x, bits=16)
    for index in range(shape.blocks):
        x = _block(build, shape, x, str(index), shape.pool == "early" and index + 1 == shape.blocks)
    if shape.pool == "residual":
        x = build.select("token", x, shape.prefix - 1, 16)
    x = build.norm("norm", x)
    if shape.pool == "mean":
        x = build.pool("mean", x, shape.prefix)
    if shape.pool == "token":
        x = build.select("token", x, shape.tokens - 1, 8)
    heads = [
        build.product(f"head{i}", x, classes, bits=16) for i, classes in enumerate(shape.classes)
    ]
    return build.graph(tuple(heads))


def _block(build: Builder, shape: Shape, x: str, suffix: str, early: bool) -> str:
    normed = build.norm(f"norm_a{suffix}", x)
    query, key, values = (
        build.product(f"{name}{suffix}", normed, shape.channels) for name in ("q", "k", "v")
    )
    name = f"attention{suffix}"
    mixed = build.attention(name, query, key, values, shape.heads, biased=shape.bias)
    if early:
        mixed = build.select("mixed.token", mixed, 0, 8)
        x = build.select("x.token", x, 0, 16)
    x = build.product(f"project{suffix}", mixed, shape.channels, residual=x, bits=16)
    normed = build.norm(f"norm_b{suffix}", x)
    hidden = build.product(f"up{suffix}", normed, shape.hidden, function=Function.GELU_ERF)
    return build.product(f"down{suffix}", hidden, shape.channels, residual=x, bits=16)


def of_videos(graph: QuantGraph, video: tuple[int, ...], patch: tuple[int, ...]) -> QuantGraph:
    """The same network on tubelets, of as many values and as many as it has patches."""
    nodes = [
        replace(node, patch=patch) if isinstance(node, PatchInput) else node for node in graph.nodes
    ]
    return QuantGraph(Image("video", video), tuple(nodes), graph.outputs)


def of_overlapping_patches(graph: QuantGraph, image: tuple[int, ...], window: Window) -> QuantGraph:
    """The same network on what `window` sees of images, of as many values and as often."""
    patch = (image[0], *window.kernel)
    nodes = [
        replace(node, patch=patch, window=window) if isinstance(node, PatchInput) else node
        for node in graph.nodes
    ]
    return QuantGraph(Image("image", image), tuple(nodes), graph.outputs)


def images(rng: np.random.Generator, graph: QuantGraph, count: int) -> npt.NDArray[np.float32]:
    """Random images whose patches are integers."""
    size = (count, *graph.image.shape)
    return rng.integers(-127, 128, size).astype(np.float32)
