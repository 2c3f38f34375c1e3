"""What stands behind a result, or made it: an exporter's head, of which a result may be a part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx

from .layout import ARRANGING
from .load import Source

PASSING = (*ARRANGING, "Cast", "Dropout")
MOST_STEPS = 32  # of arranging between a result and its function


@dataclass(frozen=True)
class Head:
    """The operators next to a tensor, looking through those that only arrange.

    Attributes:
        made_by: the one that makes it; empty where nothing does.
        read_by: the one that reads it, if nothing reads its result in turn; else empty.
    """

    made_by: str = ""
    read_by: str = ""


def heads_of(source: Source, names: Iterable[str]) -> dict[str, Head]:
    """The head of each of the tensors `names`."""
    makers = {name: node for node in source.nodes for name in node.output if name}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in source.nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return {name: Head(_maker(name, makers), _reader(name, readers)) for name in names}


def _maker(name: str, makers: dict[str, onnx.NodeProto]) -> str:
    for _ in range(MOST_STEPS):
        node = makers.get(name)
        if node is None or node.op_type not in PASSING:
            return "" if node is None else node.op_type
        name = node.input[0]
    return ""


def _reader(name: str, readers: dict[str, list[onnx.NodeProto]]) -> str:
    found = list(_computing(name, readers, MOST_STEPS))
    if len(found) != 1:
        return ""
    behind = (_computing(result, readers, MOST_STEPS) for result in found[0].output)
    return "" if any(True for nodes in behind for _ in nodes) else found[0].op_type


def _computing(
    name: str, readers: dict[str, list[onnx.NodeProto]], steps: int
) -> Iterator[onnx.NodeProto]:
    """What reads the tensor and computes."""
    for node in readers.get(name, ()):
        if node.op_type not in PASSING:
            yield node
        elif steps:
            for result in node.output:
                yield from _computing(result, readers, steps - 1)
