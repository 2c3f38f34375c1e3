"""Unknown names are refused with the known ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from vitessera.codegen.errors import UnknownNameError
from vitessera.codegen.graph import Activation, Function, Graph, Image
from vitessera.codegen.hls import KERNELS, kernel
from vitessera.codegen.quantgraph import QuantGraph
from vitessera.codegen.registers import register

IMAGE = Image("image", (1, 2, 2))
GRAPH = Graph(IMAGE, (Activation("relu0", ("image",), (), Function.RELU),), ())


def test_known_names_are_found() -> None:
    assert GRAPH["relu0"] is GRAPH.nodes[0]
    assert all(kernel(entry.name) is entry for entry in KERNELS)


@pytest.mark.parametrize(
    ("find", "message"),
    [
        (lambda: GRAPH["x"], "no node called 'x'. Known names: relu0."),
        (lambda: QuantGraph(IMAGE, (), ())["x"], "no node called 'x'"),
        (lambda: kernel("x"), "no kernel called 'x'.* softmax"),
        (lambda: register("x"), "no register called 'x'.* STATUS"),
        (lambda: register("STATUS").field("x"), "no field of STATUS called 'x'.* STATE, ERROR"),
    ],
)
def test_unknown_names_are_refused(find: Callable[[], object], message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        find()
