"""No stage passes over an operator or instruction that it does not know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from vitessera.codegen import graph, isa, quantexec, quantgraph
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.errors import MissingCaseError
from vitessera.codegen.importer import evaluate
from vitessera.codegen.program import InputDescription, Program
from vitessera.codegen.quantize.forms import Form
from vitessera.codegen.quantize.lower import Lowering
from vitessera.codegen.reference import Reference
from vitessera.codegen.schedule import schedule
from vitessera.codegen.schedule.accesses import accesses
from vitessera.codegen.schedule.timing import estimate

CONFIG = HardwareConfig()


class Reverse(graph.Node):
    """An operator that no stage knows."""


class QuantReverse(quantgraph.QuantNode):
    """An operator that no stage knows."""


@dataclass(frozen=True)
class Halt(isa.Instruction):
    """An instruction that no stage knows."""

    OPCODE = 9
    UNIT = isa.Unit.STORE

    @property
    def source(self) -> isa.Source:
        return isa.Source.STORE


IMAGE = graph.Image("image", (1, 2, 2))
GRAPH = graph.Graph(IMAGE, (Reverse("x", ("image",), ()),), (("out", "x"),))
VALUE = quantgraph.Value(1, 1, 16, np.ones(1))
QUANT = quantgraph.QuantGraph(IMAGE, (QuantReverse("x", (), (), VALUE),), (("out", "x"),))
INPUT = InputDescription("image", (1, 2, 2), (1, 1, 1), 0, 4, 1, (1.0,), 32)
PROGRAM = Program(CONFIG, (Halt(), isa.End()), ("", ""), b"", INPUT, ())
IMAGES = np.zeros((1, 1, 2, 2), np.float32)


def quantise() -> object:
    evidence = SimpleNamespace(graph=GRAPH, forms={"x": Form.INT8})
    return list(Lowering(evidence, {}).nodes())


@pytest.mark.parametrize(
    "stage",
    [
        GRAPH.shapes,
        lambda: evaluate(GRAPH, IMAGES),
        quantise,
        lambda: quantexec.execute(QUANT, IMAGES),
        lambda: schedule(QUANT, CONFIG),
        lambda: accesses(Halt(), CONFIG),
        lambda: Reference(PROGRAM).run(bytes(32)),
        lambda: estimate(PROGRAM),
    ],
)
def test_unknown_classes_are_refused(stage: Callable[[], object]) -> None:
    with pytest.raises(MissingCaseError, match=r"has no case for (QuantReverse|Reverse|Halt)\."):
        stage()
