"""Random Vision Transformers with what trained ones have and random ones lack.

- Outliers: a few channels of the residual stream many times the rest, in every block, in the class
  token, too. Whoever reads them weighs them less: what counts is in the others.
- Sinks: every query gives much of its attention to the class token, and the rest evenly to all
  tokens, so that each of them gets less than the smallest probability of its own.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from random_vit import random_images
from vitessera.codegen.graph import (
    Attention,
    FloatArray,
    Graph,
    LayerNorm,
    Linear,
    Node,
    PatchEmbed,
    TokenEmbed,
)
from vitessera.codegen.importer import evaluate

OUTLIERS = 4  # channels
SINK_LEVEL = 6.0  # of the class token in the channel that marks it
FLATNESS = 0.5  # of the other scores: factor of the queries' and the keys' weights


def with_outliers(graph: Graph, factor: float) -> Graph:
    """Some channels of patches, positions and class token are `factor` times the rest."""
    width = len(next(node.gamma for node in graph if isinstance(node, LayerNorm)))
    planted = np.ones(width, np.float32)
    planted[width // OUTLIERS // 2 :: width // OUTLIERS] = factor

    def changed(node: Node) -> Node:
        match node:
            case PatchEmbed(weight=weight):
                return dataclasses.replace(node, weight=weight * planted[:, None, None, None])
            case TokenEmbed(positions=positions, prefix=prefix):
                return dataclasses.replace(
                    node, positions=positions * planted * 5, prefix=prefix * planted * 5
                )
            case Linear(weight=weight) if isinstance(graph[node.inputs[0]], LayerNorm):
                return dataclasses.replace(node, weight=weight / planted)
        return node

    return dataclasses.replace(graph, nodes=tuple(changed(node) for node in graph))


def outlier_ratios(graph: Graph) -> list[float]:
    """Of each LayerNorm's input: its largest channel over its median channel, root mean square."""
    values = evaluate(graph, random_images(graph, 4, seed=9))
    inputs = [values[node.inputs[0]] for node in graph if isinstance(node, LayerNorm)]
    sizes = [np.sqrt(np.square(value).mean(axis=(0, 1))) for value in inputs]
    return [float(size.max() / np.median(size)) for size in sizes]


def with_sinks(graph: Graph, share: float) -> Graph:
    """A network in which the class token gets about `share` of each query's attention.

    Channel 0 of the residual stream marks the class token, and nothing else writes to it. Keys read
    it; queries ask for it with their bias.
    """
    graph = _marked(graph)
    tokens, channels = graph.shapes()["embed"]
    gap = math.log(share / (1.0 - share) * (tokens - 1))
    images = random_images(graph, 2, seed=9)
    for attention in [node for node in graph if isinstance(node, Attention)]:
        width = channels // attention.heads
        keys = graph[attention.inputs[1]]
        assert isinstance(keys, Linear)
        # How far the mark stands out depends on the blocks before.
        normed = evaluate(graph, images)[keys.inputs[0]][..., 0]
        distance = float(normed[:, 0].mean() - normed[:, 1:].mean())
        weight = keys.weight.copy()
        weight[:, 0] = gap / math.sqrt(width) / distance
        graph = _replaced(graph, dataclasses.replace(keys, weight=weight))
    return graph


def sink_shares(graph: Graph) -> list[float]:
    """Of each Attention: the mean share of the class token."""
    values = evaluate(graph, random_images(graph, 2, seed=8))
    return [_sink_share(node, values) for node in graph if isinstance(node, Attention)]


def _sink_share(node: Attention, values: dict[str, FloatArray]) -> float:
    query, key = (
        values[name].reshape(*values[name].shape[:2], node.heads, -1).swapaxes(1, 2)
        for name in node.inputs[:2]
    )
    scores = query @ key.swapaxes(-1, -2) * node.scale
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return float((powers[..., 0] / powers.sum(axis=-1)).mean())


def _replaced(graph: Graph, changed: Node) -> Graph:
    nodes = (changed if node.name == changed.name else node for node in graph)
    return dataclasses.replace(graph, nodes=tuple(nodes))


def _marked(graph: Graph) -> Graph:
    """Channel 0 is SINK_LEVEL in the class token and zero elsewhere; scores are flat."""

    def row_zero(values: FloatArray) -> FloatArray:
        return np.concatenate([np.zeros_like(values[:1]), values[1:]])

    def changed(node: Node) -> Node:
        match node:
            case PatchEmbed(weight=weight, bias=bias):
                return dataclasses.replace(node, weight=row_zero(weight), bias=row_zero(bias))
            case TokenEmbed(prefix=prefix, positions=positions):
                prefix, positions = prefix.copy(), positions.copy()
                prefix[:, 0], positions[:, 0] = SINK_LEVEL, 0.0
                return dataclasses.replace(node, prefix=prefix, positions=positions)
            case LayerNorm(gamma=gamma, beta=beta):
                gamma = np.concatenate([np.ones_like(gamma[:1]), gamma[1:]])
                return dataclasses.replace(node, gamma=gamma, beta=row_zero(beta))
            case Linear(name=name, weight=weight, bias=bias):
                if name.endswith(("proj", "mlp.2")):  # writes to the residual stream
                    return dataclasses.replace(node, weight=row_zero(weight), bias=row_zero(bias))
                if name.endswith(".q"):
                    flat = np.float32(FLATNESS)
                    return dataclasses.replace(node, weight=weight * flat, bias=bias * flat + 1)
                if name.endswith(".k"):
                    return dataclasses.replace(node, weight=weight * np.float32(FLATNESS))
        return node

    return dataclasses.replace(graph, nodes=tuple(changed(node) for node in graph))
