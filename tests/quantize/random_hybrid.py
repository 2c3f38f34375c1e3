"""Random hybrid Vision Transformers as Graphs: convolutions first, then transformer blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from random_vit import Builder, Shape, random_parameters
from vitessera.codegen.graph import (
    Activation,
    Add,
    Function,
    Graph,
    GroupNorm,
    Image,
    ImagePatches,
    Linear,
    MaxPool,
    MeanPool,
    Node,
    SelectToken,
    TokenEmbed,
    Unfold,
    Window,
)


def window(source: tuple[int, int], kernel: int, stride: int, before: int | None = None) -> Window:
    """A square kernel; without `before` it is padded to give a result for each `stride` pixels."""
    if before is None:
        grid = (-(-source[0] // stride), -(-source[1] // stride))
        before = max(0, (grid[0] - 1) * stride + kernel - source[0]) // 2
    else:
        grid = tuple((side + 2 * before - kernel) // stride + 1 for side in source)
    return Window(source, (kernel, kernel), stride, (before, before), (grid[0], grid[1]))


@dataclass(frozen=True)
class Stem:
    """The convolutions of a hybrid.

    Attributes:
        channels: of the stem's map.
        groups: of its norms; 0 for none.
        kernel: of the first convolution, whose stride is 2.
        pool: whether a max pool follows.
        relu: whether the norm has a ReLU behind it.
        bottleneck: whether a residual block of convolutions follows.
        patch: kernel and stride of the convolution that makes tokens.
    """

    channels: int = 16
    groups: int = 8
    kernel: int = 7
    pool: bool = True
    relu: bool = True
    bottleneck: bool = False
    patch: int = 2


STEMS = {
    "r-stem": Stem(),
    "one group": Stem(groups=1),
    "large groups": Stem(groups=2, channels=32),
    "a group each": Stem(groups=16, channels=16),
    "no norm": Stem(groups=0),
    "no pool": Stem(pool=False),
    "no relu": Stem(relu=False),
    "single pixels": Stem(patch=1),
    "one group of twelve": Stem(groups=1, channels=12),
    "groups of three": Stem(groups=8, channels=24),
    "groups of twelve": Stem(groups=2, channels=24),
    "bottleneck": Stem(bottleneck=True),
    "bottleneck, single pixels": Stem(bottleneck=True, patch=1),
}


def two_norms(channels: int, first: int, second: int) -> Graph:
    """A map that two norms of so many groups read, and a product of each."""
    make = random_parameters(5)
    seen = window((12, 12), 3, 2)
    nodes: list[Node] = [ImagePatches("patches", ("image",), (), seen)]

    def linear(name: str, source: str, out: int, width: int) -> Linear:
        return Linear(name, (source,), (), make(f"{name}.weight", (out, width)), make(name, (out,)))

    nodes.append(linear("map", "patches", channels, 27))
    for name, groups in (("first", first), ("second", second)):
        gamma, beta = make("norm.weight", (channels,)), make("norm.bias", (channels,))
        nodes.append(GroupNorm(f"{name}.norm", ("map",), (), groups, gamma, beta, 1e-5))
        nodes.append(linear(name, f"{name}.norm", 16, channels))
    nodes.append(Add("sum", ("first", "second"), ()))
    nodes.append(MeanPool("mean", ("sum",), (), 0, 36))
    nodes.append(linear("head", "mean", 5, 16))
    return Graph(Image("image", (3, 12, 12)), tuple(nodes), (("logits", "head"),))


@dataclass
class HybridBuilder(Builder):
    """Writes a stem in front of the blocks of a Vision Transformer."""

    stem: Stem = Stem()

    def normed(self, name: str, x: str, channels: int, relu: bool) -> str:
        if self.stem.groups:
            gamma = self.make(f"{name}.norm.weight", (channels,))
            beta = self.make(f"{name}.norm.bias", (channels,))
            x = self.add(GroupNorm(f"{name}.norm", (x,), (), self.stem.groups, gamma, beta, 1e-5))
        return self.add(Activation(f"{name}.relu", (x,), (), Function.RELU)) if relu else x

    def bottleneck(self, x: str, side: tuple[int, int]) -> str:
        wide, narrow = self.stem.channels, self.stem.channels // 2
        first = self.normed("b.1", self.linear("b.conv1", x, narrow, wide), narrow, relu=True)
        seen = self.add(Unfold("b.unfold", (first,), (), window(side, 3, 1)))
        second = self.linear("b.conv2", seen, narrow, 9 * narrow)
        second = self.normed("b.2", second, narrow, relu=True)
        third = self.normed("b.3", self.linear("b.conv3", second, wide, narrow), wide, relu=False)
        short = self.normed("b.4", self.linear("b.short", x, wide, wide), wide, relu=False)
        return self.normed_sum(self.add(Add("b.add", (third, short), ())))

    def normed_sum(self, x: str) -> str:
        return self.add(Activation("b.relu", (x,), (), Function.RELU))

    def embedding(self) -> str:
        shape, stem = self.shape, self.stem
        colours, *sides = shape.image
        first = window((sides[0], sides[1]), stem.kernel, 2)
        patches = self.add(ImagePatches("image_patches", ("image",), (), first))
        x = self.linear("stem", patches, stem.channels, colours * stem.kernel**2)
        x = self.normed("stem", x, stem.channels, stem.relu)
        side = first.grid
        if stem.pool:
            pooled = window(side, 3, 2)
            x, side = self.add(MaxPool("pool", (x,), (), pooled)), pooled.grid
        if stem.bottleneck:
            x = self.bottleneck(x, side)
        cut = window(side, stem.patch, stem.patch, 0)
        if stem.patch > 1:
            x = self.add(Unfold("patches", (x,), (), cut))
        x = self.linear("projection", x, shape.channels, stem.channels * stem.patch**2)
        prefix = self.make("cls_token", (shape.prefix, shape.channels))
        positions = self.make("pos_embed", (math.prod(cut.grid) + shape.prefix, shape.channels))
        return self.add(TokenEmbed("embed", (x,), (), prefix, positions))

    def build(self) -> Graph:
        x = self.embedding()
        for index in range(self.shape.blocks):
            x = self.block(f"blocks.{index}", x)
        x = self.add(SelectToken("token", (self.norm("norm", x),), (), 0))
        head = self.linear("head", x, self.shape.classes, self.shape.channels)
        return Graph(Image("image", self.shape.image), tuple(self.nodes), (("logits", head),))


def random_hybrid(seed: int, shape: Shape | None = None, stem: Stem | None = None) -> Graph:
    """A hybrid with random parameters."""
    shape = shape or replace(Shape(), image=(3, 20, 28), blocks=1)
    return HybridBuilder(shape, random_parameters(seed), stem=stem or Stem()).build()
