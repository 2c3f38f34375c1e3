"""Random small networks, scheduled as users' networks are."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
from builders import Shape, images, vision_transformer
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.errors import CapacityError
from vitessera.codegen.preprocess import patches
from vitessera.codegen.program import Program, pack_input
from vitessera.codegen.quantgraph import PatchInput, QuantGraph
from vitessera.codegen.schedule import schedule
from vitessera.codegen.schedule.split import split

# Memories are taken smaller than they are, so that what streams has little room.
SHARES = (1, 4, 16, 64)
SHRUNK = ("left_words", "right_words", "residual_words", "parameter_words", "norm_words")


def random_shape(source: random.Random) -> Shape:
    """A small Vision Transformer."""
    heads = source.randint(1, 6)
    prefix = source.randint(0, 2)
    poolings = ["mean"] if prefix == 0 else ["token", "mean", "residual", "early"]
    return Shape(
        tokens=prefix + source.randint(2, 40),
        channels=heads * source.randint(2, 24),
        heads=heads,
        hidden=source.randint(4, 160),
        blocks=source.randint(1, 4),
        classes=tuple(source.randint(1, 40) for _ in range(source.randint(1, 2))),
        patch=source.randint(3, 48),
        prefix=prefix,
        pool=source.choice(poolings),
        bias=source.random() < 0.3,
    )


def random_network(config: HardwareConfig, seed: int) -> tuple[Program, bytes]:
    """The program of a random network on `config`, and the input buffer of a random image."""
    source, rng = random.Random(seed), np.random.default_rng(seed)
    graph = vision_transformer(rng, random_shape(source))
    if source.random() < 0.2:
        graph = split(graph, 2)
    program = _scheduled(graph, config, source)
    patch = next(node for node in graph if isinstance(node, PatchInput))
    (image,) = images(rng, graph, 1)
    return program, pack_input(program, patches(patch, image))


def _scheduled(graph: QuantGraph, config: HardwareConfig, source: random.Random) -> Program:
    """In the smallest memories drawn that do; a program for them runs in larger ones, too."""
    smaller = {name: getattr(config, name) // source.choice(SHARES) or 1 for name in SHRUNK}
    try:
        program = schedule(graph, replace(config, **smaller))
    except CapacityError:
        program = schedule(graph, config)
    return replace(program, config=config)
