"""Brings single rows that are added to each other to the same place.

A selected token stays where it stands in its tile, and an addition works place by place. Where two
different tokens are added (the two heads of a distilled network), the later one is taken as the
mean of one token instead: a pooled row stands first in its tile.
"""

from __future__ import annotations

from dataclasses import replace

from ..graph import Add, Graph, MeanPool, SelectToken


def align_additions(graph: Graph) -> Graph:
    """The same network; no Add has inputs that stand at different rows."""
    while (select := _misplaced(graph)) is not None:
        pool = MeanPool(
            select.name, select.inputs, select.origin, select.index, select.index + 1
        )
        nodes = tuple(pool if node is select else node for node in graph)
        graph = replace(graph, nodes=nodes)
    return graph


def _misplaced(graph: Graph) -> SelectToken | None:
    """A selection that has to become a mean, if there is one."""
    for node in graph:
        if not isinstance(node, Add):
            continue
        sources = [_source(graph, name) for name in node.inputs]
        rows = [_row(graph, source) for source in sources]
        if rows[0] != rows[1]:
            return next(s for s, row in zip(sources, rows, strict=True) if s is not None and row)
    return None


def _source(graph: Graph, name: str) -> SelectToken | None:
    """The selection that decides where `name` stands; None for values that start a tile."""
    node = graph[name]
    while not isinstance(node, SelectToken):
        if isinstance(node, MeanPool) or node.inputs[0] == graph.image.name:
            return None
        node = graph[node.inputs[0]]
    return node


def _row(graph: Graph, source: SelectToken | None) -> int:
    if source is None:
        return 0
    return source.index + _row(graph, _source(graph, source.inputs[0]))
