"""Gives every value the products that its readers need.

Only products write int16, to the residual stream or as results; LayerNorm, attention and what is
gathered from maps are int8. Where a reader needs such a result as int16 (a post-norm block, CLIP's
norm before the first block, the end of a residual block of convolutions, features as output), or
where there is no product for an addition, an activation or an embedding to become part of, a
product with the identity is put in between. It is exact on the integers: what it costs is time, and
that the value has the 8 bits of its operand.

Constant tokens join others as rows of zeros, to which they are added as positions are. The host
puts such rows among patches, and a gather before its own; anywhere else an Arrange does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..graph import (
    OUTSIDE,
    Activation,
    Add,
    Arrange,
    Attention,
    Graph,
    ImagePatches,
    LayerNorm,
    Linear,
    MaxPool,
    MeanPool,
    Node,
    PatchEmbed,
    SelectToken,
    TokenEmbed,
    Unfold,
    Window,
)
from ..isa import Gather, highest
from .forms import branch, is_fused, is_gathered, joins

LONGEST_LINE = highest(Gather, "width")  # pixels


@dataclass(frozen=True)
class _Gap:
    """`readers` (and the outputs, if `leaves`) need a product's result in place of `value`."""

    value: str
    readers: tuple[str, ...]
    leaves: bool = False


def widen(graph: Graph) -> Graph:
    """The same network with an identity in every gap."""
    while True:
        if (gap := next(_gaps(graph), None)) is not None:
            graph = _filled(graph, gap)
        elif (linear := next(_without_rows(graph), None)) is not None:
            graph = _with_rows(graph, *linear)
        else:
            return graph


def _gaps(graph: Graph) -> Iterator[_Gap]:
    for node in graph:
        if _is_narrow(graph, node):
            wide = (r.name for r in graph.consumers(node.name) if _needs_product(graph, node, r))
            gap = _Gap(node.name, tuple(wide), any(v == node.name for _, v in graph.outputs))
            if gap.readers or gap.leaves:
                yield gap
        elif isinstance(node, Activation):
            (value,) = node.inputs
            if not (isinstance(graph[value], Linear) and is_fused(graph, graph[value])):
                yield _Gap(value, (node.name,))
        elif isinstance(node, TokenEmbed):
            (value,) = node.inputs
            if not _is_embedding(graph, node, graph[value]):
                yield _Gap(value, (node.name,))
    for node in graph:
        if isinstance(node, Add) and branch(graph, node) is None:
            yield _Gap(node.inputs[1], (node.name,))


def _is_embedding(graph: Graph, node: TokenEmbed, product: Node) -> bool:
    """Whether `product` can become part of `node`.

    What others see of the image, too, gets no rows around it.
    """
    if isinstance(product, PatchEmbed):
        return True
    shared = False
    if isinstance(product, Linear) and _joins_tokens(graph, node):
        source = graph[product.inputs[0]]
        shared = isinstance(source, ImagePatches) and graph.consumers(source.name) != (product,)
    return is_fused(graph, product) and not shared


def _needs_product(graph: Graph, node: Node, reader: Node) -> bool:
    """Whether `reader` cannot read the narrow value of `node`."""
    if is_gathered(graph, reader):
        return not joins(graph, reader)
    from_left = is_gathered(graph, node) or isinstance(node, ImagePatches)
    if from_left and isinstance(reader, Arrange | Attention | MeanPool | SelectToken):
        return True  # what is gathered, by us or by the host, can only be the rows of a product
    return isinstance(reader, LayerNorm | Add)


def _is_narrow(graph: Graph, node: Node) -> bool:
    """Whether the value is int8 whatever its readers are."""
    while isinstance(node, SelectToken):
        node = graph[node.inputs[0]]
    of_rows = isinstance(node, LayerNorm | Attention | Arrange | ImagePatches)
    return of_rows or is_gathered(graph, node)


def _joins_tokens(graph: Graph, node: TokenEmbed) -> bool:
    """Whether there are constant tokens, not only positions."""
    return len(node.positions) > graph.shapes()[node.inputs[0]][0]


def _without_rows(graph: Graph) -> Iterator[tuple[TokenEmbed, Linear]]:
    """Products that constant tokens join, whose rows cannot get others around them."""
    for node in graph:
        if not isinstance(node, TokenEmbed) or not _joins_tokens(graph, node):
            continue
        linear = graph[node.inputs[0]]
        if isinstance(linear, Linear) and not _has_rows(graph, node, graph[linear.inputs[0]]):
            yield node, linear


def _has_rows(graph: Graph, node: TokenEmbed, source: Node) -> bool:
    """Whether rows of zeros can be put around those of what the product reads."""
    if len(graph.consumers(source.name)) > 1:
        return False
    return isinstance(source, ImagePatches) or (
        isinstance(source, Unfold) and _fits_gather(graph, node)
    )


def _fits_gather(graph: Graph, node: TokenEmbed) -> bool:
    """Whether all constant tokens come first, and are as few as GATHER puts before its rows."""
    count = len(node.prefix)
    alone = len(node.positions) == count + graph.shapes()[node.inputs[0]][0]
    return alone and count <= highest(Gather, "prefix")


def _with_rows(graph: Graph, embed: TokenEmbed, linear: Linear) -> Graph:
    """The graph with something before the product that puts rows around what it reads."""
    (source,) = linear.inputs
    before, (tokens, _) = graph[source], graph.shapes()[source]
    name, origin = _free_name(graph, f"{source}.rows"), graph[source].origin
    put: Node
    if is_gathered(graph, before) and not isinstance(before, Unfold) and _fits_gather(graph, embed):
        grid = before.window.grid if isinstance(before, MaxPool) else as_map(tokens)
        put = Unfold(name, (source,), origin, Window.of_each(grid))
        joined = embed
    else:
        first, count = len(embed.prefix), len(embed.positions)
        rows = np.full(count, OUTSIDE)
        rows[first : first + tokens] = range(tokens)
        put = Arrange(name, (source,), origin, tuple(rows.tolist()))
        joined = _on_rows(embed, linear, rows == OUTSIDE)
    nodes: list[Node] = []
    for node in graph:
        nodes += [put, _reading(node, source, name)] if node is linear else [node]
    return Graph(
        graph.image, tuple(joined if node is embed else node for node in nodes), graph.outputs
    )


def _on_rows(embed: TokenEmbed, linear: Linear, is_constant: npt.NDArray[np.bool_]) -> TokenEmbed:
    """`embed` where its input has a row for each token: zeros, to which the bias is added."""
    positions = embed.positions.copy()
    positions[: len(embed.prefix)] += embed.prefix
    positions[is_constant] -= linear.bias
    return replace(embed, prefix=embed.prefix[:0], positions=positions)


def as_map(rows: int) -> tuple[int, int]:
    """Height and width of a map of so many pixels, if only their number matters."""
    width = max(n for n in range(1, min(rows, LONGEST_LINE) + 1) if rows % n == 0)
    return rows // width, width


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
