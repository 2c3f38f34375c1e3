"""What stands behind a result, or made it: an exporter's head, of which a result may be a part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx

from .layout import ARRANGING
from .load import Source

Readers = Mapping[str, Sequence[onnx.NodeProto]]
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
    return {name: Head(_maker(name, makers), _reader(name, source.readers)) for name in names}


def _maker(name: str, makers: dict[str, onnx.NodeProto]) -> str:
    for _ in range(MOST_STEPS):
        node = makers.get(name)
        if node is None or node.op_type not in PASSING:
            return "" if node is None else node.op_type
        name = node.input[0]
    return ""


def _reader(name: str, readers: Readers) -> str:
    found = list(_computing((name,), readers))
    if len(found) != 1 or any(True for _ in _computing(found[0].output, readers)):
        return ""
    return found[0].op_type


def _computing(names: Iterable[str], readers: Readers) -> Iterator[onnx.NodeProto]:
    """What reads the tensors and computes; each node once."""
    waiting, seen = list(names), set[int]()
    while waiting:
        for node in readers.get(waiting.pop(), ()):
            if id(node) in seen:
                continue
            seen.add(id(node))
            if node.op_type in PASSING:
                waiting.extend(node.output)
            else:
                yield node
