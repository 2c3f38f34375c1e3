"""Constant tokens, arranged tokens, norms and blocks in any order: integers stay near float.

What the instructions compute is what the network says, bit by bit, on accelerators of three sizes.
"""

from __future__ import annotations

import numpy as np
import pytest
from random_vit import Builder, Shape, random_images, random_parameters
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.graph import (
    OUTSIDE,
    Arrange,
    Graph,
    Image,
    MeanPool,
    SelectToken,
    TokenEmbed,
)
from vitessera.codegen.importer import evaluate
from vitessera.codegen.preprocess import patches
from vitessera.codegen.quantexec import execute, predict
from vitessera.codegen.quantize import quantize
from vitessera.codegen.reference import Reference
from vitessera.codegen.schedule import schedule

CONFIGS = (
    HardwareConfig(),
    HardwareConfig(tile=4, depth=4, lanes=4),
    HardwareConfig(tile=16, depth=8, lanes=8),
)


def extended(build: Builder, rng: np.random.Generator, name: str, x: str, tokens: int) -> str:
    """One more operator on the stream `x`."""
    channels = build.shape.channels
    match rng.integers(0, 5):
        case 0:
            return build.norm(name, x)
        case 1:
            before, behind = (int(n) for n in rng.integers(0, (20, 5)))
            prefix = build.make("cls", (before, channels))
            positions = build.make("pos", (before + tokens + behind, channels))
            return build.add(TokenEmbed(name, (x,), (), prefix, positions))
        case 2:
            rows = rng.integers(OUTSIDE, tokens, int(rng.integers(1, tokens + 6))).tolist()
            return build.add(Arrange(name, (x,), (), (*rows, 0)))
        case 3:
            return build.block(name, x)
        case _:
            return build.linear(name, x, channels, channels)


def random_stream(seed: int) -> Graph:
    """Patches, then one to three operators, the last norm and a head on some of the tokens."""
    rng = np.random.default_rng(seed)
    image = (3, 12, 4 * int(rng.integers(2, 9)))
    channels, heads = int(rng.choice([12, 24, 36])), int(rng.choice([2, 3]))
    shape = Shape(image, blocks=0, prefix=0, channels=channels, heads=heads)
    build = Builder(shape, random_parameters(seed))

    def tokens(value: str) -> int:
        return Graph(Image("image", image), tuple(build.nodes), ()).shapes()[value][0]

    x = build.embedding()
    for step in range(int(rng.integers(1, 4))):
        x = extended(build, rng, f"step{step}", x, tokens(x))
    x = build.norm("norm", x)
    match rng.integers(0, 3):
        case 0:
            x = build.add(SelectToken("token", (x,), (), int(rng.integers(0, tokens(x)))))
        case 1:
            x = build.add(MeanPool("mean", (x,), (), 0, tokens(x)))
    x = build.linear("head", x, 7, channels)
    return Graph(Image("image", image), tuple(build.nodes), (("logits", x),))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_instructions_and_float_agree(seed: int) -> None:
    graph, config = random_stream(seed), CONFIGS[seed % len(CONFIGS)]
    network = quantize(graph, random_images(graph, 8, seed))
    images = random_images(graph, 2, seed + 100)
    ((_, value),) = graph.outputs
    integers = execute(network, images, lanes=config.lanes)[dict(network.outputs)["logits"]]
    reference = Reference(schedule(network, config))
    for image, expected in zip(images, integers, strict=True):
        found = reference.run(patches(network.source, image))["logits"]
        assert np.array_equal(found, expected)
    real, wanted = predict(network, images)["logits"], evaluate(graph, images)[value]
    cosine = np.vdot(real, wanted) / (np.linalg.norm(real) * np.linalg.norm(wanted))
    assert cosine > 0.99
