"""Gives every value the products that its readers need.

Only products write int16, to the residual stream or as results; LayerNorm and attention give int8.
Where a reader needs a LayerNorm's or attention's result as int16 (a post-norm block, CLIP's norm
before the first block, features as output), or where there is no product for an addition or an
activation to become part of, a product with the identity is put in between. It is exact on the
integers: what it costs is time, and that the value has the 8 bits of its operand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ..graph import Activation, Add, Attention, Graph, LayerNorm, Linear, Node, SelectToken
from .forms import branch, is_fused


@dataclass(frozen=True)
class _Gap:
    """`readers` (and the outputs, if `leaves`) need a product's result in place of `value`."""

    value: str
    readers: tuple[str, ...]
    leaves: bool = False


def widen(graph: Graph) -> Graph:
    """The same network with an identity in every gap."""
    while (gap := next(_gaps(graph), None)) is not None:
        graph = _filled(graph, gap)
    return graph


def _gaps(graph: Graph) -> Iterator[_Gap]:
    for node in graph:
        if _is_narrow(graph, node):
            wide = (r.name for r in graph.consumers(node.name) if isinstance(r, LayerNorm | Add))
            gap = _Gap(node.name, tuple(wide), any(v == node.name for _, v in graph.outputs))
            if gap.readers or gap.leaves:
                yield gap
        elif isinstance(node, Activation):
            (value,) = node.inputs
            if not (isinstance(graph[value], Linear) and is_fused(graph, graph[value])):
                yield _Gap(value, (node.name,))
    for node in graph:
        if isinstance(node, Add) and branch(graph, node) is None:
            yield _Gap(node.inputs[1], (node.name,))


def _is_narrow(graph: Graph, node: Node) -> bool:
    """Whether the value is int8 whatever its readers are."""
    while isinstance(node, SelectToken):
        node = graph[node.inputs[0]]
    return isinstance(node, LayerNorm | Attention)


def _filled(graph: Graph, gap: _Gap) -> Graph:
    channels = graph.shapes()[gap.value][1]
    identity, zeros = np.eye(channels, dtype=np.float32), np.zeros(channels, np.float32)
    name = _free_name(graph, f"{gap.value}.wide")
    origin = graph[gap.value].origin
    nodes: list[Node] = []
    for node in graph:
        nodes.append(_reading(node, gap.value, name) if node.name in gap.readers else node)
        if node.name == gap.value:
            nodes.append(Linear(name, (gap.value,), origin, identity, zeros))
    outputs = tuple(
        (label, name if gap.leaves and value == gap.value else value)
        for label, value in graph.outputs
    )
    return Graph(graph.image, tuple(nodes), outputs)


def _free_name(graph: Graph, name: str) -> str:
    taken = {node.name for node in graph}
    while name in taken:
        name += "_"
    return name


def _reading(node: Node, old: str, new: str) -> Node:
    """`node` with its last reading of `old` replaced: x + x becomes x + 1·x."""
    position = len(node.inputs) - 1 - node.inputs[::-1].index(old)
    inputs = (*node.inputs[:position], new, *node.inputs[position + 1 :])
    return replace(node, inputs=inputs)
