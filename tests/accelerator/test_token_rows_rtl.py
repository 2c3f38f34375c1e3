"""Constant tokens that join a stream behind its embedding, and arranged tokens, on the RTL."""

from __future__ import annotations

import pytest
from random_vit import Builder, Shape, random_images, random_parameters
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.graph import (
    OUTSIDE,
    Arrange,
    Graph,
    Image,
    LayerNorm,
    PatchEmbed,
    TokenEmbed,
)
from vitessera.codegen.preprocess import patches
from vitessera.codegen.quantize import quantize
from vitessera.codegen.schedule import schedule
from whole import DEFAULT, SMALL, Workload, check

pytestmark = pytest.mark.accelerator

SHAPE = Shape(image=(3, 12, 20), blocks=0, prefix=0)
PATCHES, BEFORE, BEHIND = 15, 2, 3


def late_tokens(seed: int) -> Graph:
    """LayerNorm behind the patches; tokens before and behind them; a block; tokens arranged."""
    build = Builder(SHAPE, random_parameters(seed))
    channels, make = SHAPE.channels, build.make
    x = build.norm("patch_norm", build.embedding())
    count = BEFORE + PATCHES + BEHIND
    prefix, positions = make("cls", (BEFORE, channels)), make("pos", (count, channels))
    x = build.add(TokenEmbed("joined", (x,), (), prefix, positions))
    x = build.block("blocks.0", x)
    rows = (count - 1, 5, 5, OUTSIDE, *range(BEFORE, BEFORE + PATCHES))
    x = build.add(Arrange("arranged", (build.norm("norm", x),), (), rows))
    x = build.linear("head", x, 7, channels)
    return Graph(Image("image", SHAPE.image), tuple(build.nodes), (("logits", x),))


@pytest.mark.parametrize("config", [SMALL, DEFAULT], ids=["4x4x4-lanes4", "default"])
def test_outputs_equal_the_reference(config: HardwareConfig) -> None:
    graph = late_tokens(seed=1)
    assert [type(node) for node in graph][:3] == [PatchEmbed, TokenEmbed, LayerNorm]
    network = quantize(graph, random_images(graph, 8, seed=2))
    images = random_images(graph, 2, seed=3)
    matrices = [patches(network.source, image) for image in images]
    check(Workload.of(schedule(network, config), matrices))
