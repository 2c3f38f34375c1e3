"""What depends on what in an ONNX graph, by the names of its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx


def reads(node: onnx.NodeProto) -> set[str]:
    """Everything a node reads, in its subgraphs too."""
    names = {name for name in node.input if name}
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                names |= reads(inner)
    return names


def live_nodes(nodes: Sequence[onnx.NodeProto], results: Iterable[str]) -> set[int]:
    """The numbers of the nodes that `results` depend on."""
    producer = {name: number for number, node in enumerate(nodes) for name in node.output if name}
    live: set[int] = set()
    wanted = [name for name in results if name in producer]
    while wanted:
        number = producer[wanted.pop()]
        if number not in live:
            live.add(number)
            wanted.extend(name for name in reads(nodes[number]) if name in producer)
    return live


def needed(nodes: Sequence[onnx.NodeProto], results: Sequence[str]) -> set[str]:
    """All tensors that `results` depend on, and they themselves."""
    live = live_nodes(nodes, results)
    return {*results, *(name for number in live for name in reads(nodes[number]))}


def dependent(
    nodes: Iterable[onnx.NodeProto], sources: Iterable[str], except_by: frozenset[str] = frozenset()
) -> set[str]:
    """All tensors that depend on `sources`, and they themselves.

    Args:
        nodes: in execution order.
        sources: names of tensors.
        except_by: operators that end what is followed.
    """
    found = set(sources)
    for node in nodes:
        if node.op_type not in except_by and not found.isdisjoint(reads(node)):
            found |= {name for name in node.output if name}
    return found
