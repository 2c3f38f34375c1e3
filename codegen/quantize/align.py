"""Brings single rows that are added to each other to the same place.

A selected token stays where it stands in its tile, and an addition works place by place. Where two
different tokens are added (the two heads of a distilled network), the later one is taken as the
mean of one token instead: a pooled row stands first in its tile.
"""

from __future__ import annotations

from dataclasses import replace

from ..graph import Add, Arrange, Graph, MeanPool, SelectToken


def align_additions(graph: Graph) -> Graph:
    """The same network; no Add has inputs that stand at different rows."""
    while (select := _misplaced(graph)) is not None:
        pool = MeanPool(select.name, select.inputs, select.origin, select.index, select.index + 1)
        nodes = tuple(pool if node is select else node for node in graph)
        graph = replace(graph, nodes=nodes)
    return graph


def _misplaced(graph: Graph) -> SelectToken | None:
    """A selection that has to become a mean, if there is one."""
    for node in graph:
        if not isinstance(node, Add):
            continue
        sources = [_source(graph, name) for name in node.inputs]
        rows = [source.index if source else 0 for source in sources]
        if rows[0] != rows[1]:
            return next(s for s, row in zip(sources, rows, strict=True) if row)
    return None


def _source(graph: Graph, name: str) -> SelectToken | None:
    """The selection among all tokens that decides where `name` stands; None if it starts a tile.

    Pooled and arranged rows do.
    """
    found = None
    while name != graph.image.name:
        node = graph[name]
        if isinstance(node, MeanPool | Arrange):
            return found
        if isinstance(node, SelectToken):
            found = node
        name = node.inputs[0]
    return found
