"""Moves SelectToken towards the start of the network, so that less is computed.

Selecting a token commutes exactly with every row-wise operator, and with the queries of an
attention. A class-token network thus runs all of the last block but its keys and values, the last
LayerNorm and the head on one row instead of all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..graph import Activation, Add, Attention, Graph, LayerNorm, Linear, Node, SelectToken

# Of each operator, how many of its inputs, from the first on, it takes row by row.
ROW_WISE: dict[type[Node], int] = {LayerNorm: 1, Linear: 1, Activation: 1, Add: 2, Attention: 1}


@dataclass(frozen=True)
class _Move:
    """`select` reads `operator` and is its only reader."""

    select: SelectToken
    operator: Node


def hoist_selections(graph: Graph) -> Graph:
    """The same network with each SelectToken as early as row-wise operators allow."""
    while (move := _next_move(graph)) is not None:
        graph = _apply(graph, move)
    return graph


def _next_move(graph: Graph) -> _Move | None:
    outputs = {value for _, value in graph.outputs}
    for select in graph:
        if not isinstance(select, SelectToken):
            continue
        operator = graph[select.inputs[0]]
        alone = graph.consumers(operator.name) == (select,) and operator.name not in outputs
        if type(operator) in ROW_WISE and alone:
            return _Move(select, operator)
    return None


def _apply(graph: Graph, move: _Move) -> Graph:
    """Selects the operator's inputs instead of its result, which takes the selection's place."""
    nodes = tuple(_rewritten(graph, move))
    outputs = tuple(
        (label, move.operator.name if value == move.select.name else value)
        for label, value in graph.outputs
    )
    return Graph(graph.image, nodes, outputs)


def _rewritten(graph: Graph, move: _Move) -> Iterator[Node]:
    index, origin = move.select.index, move.select.origin
    row_wise = ROW_WISE[type(move.operator)]
    by_row, whole = move.operator.inputs[:row_wise], move.operator.inputs[row_wise:]
    selected = {value: f"{value}.token{index}" for value in by_row}
    present = {node.name for node in graph}
    for node in graph:
        if node is move.select:
            continue
        if node is move.operator:
            yield _of_one_row(node, (*(selected[value] for value in by_row), *whole), index)
        else:
            yield _reading(node, move.select.name, move.operator.name)
        # Right behind its producer a selection precedes every reader it may get later.
        if node.name in selected and selected[node.name] not in present:
            yield SelectToken(selected[node.name], (node.name,), origin, index)


def _of_one_row(node: Node, inputs: tuple[str, ...], index: int) -> Node:
    """`node` reading the selected rows; what it holds for each row is selected, too."""
    if isinstance(node, Attention) and node.bias is not None:
        node = replace(node, bias=node.bias[:, index : index + 1])
    return replace(node, inputs=inputs)


def _reading(node: Node, old: str, new: str) -> Node:
    if old not in node.inputs:
        return node
    return replace(node, inputs=tuple(new if value == old else value for value in node.inputs))
