"""The whole way of the digits example: ONNX file to program to predictions, every bit checked.

Of this folder the test to read first.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.importer import import_model
from vitessera.codegen.preprocess import patches
from vitessera.codegen.quantexec import execute
from vitessera.codegen.quantgraph import QuantGraph
from vitessera.codegen.quantize import quantize
from vitessera.codegen.reference import Reference
from vitessera.codegen.schedule import schedule

DIGITS = Path(__file__).parents[2] / "examples" / "digits"


@pytest.fixture(scope="module")
def graph() -> QuantGraph:
    calibration = np.load(DIGITS / "digits.npz")["calibration"]
    return quantize(import_model(DIGITS / "vit_digits.onnx"), calibration)


@pytest.mark.parametrize(
    "config",
    [HardwareConfig(tile=4, lanes=4), HardwareConfig(), HardwareConfig(tile=16, bus_bits=128)],
    ids=lambda config: f"tile{config.tile}",
)
def test_program_gives_the_quantised_network_exactly(
    graph: QuantGraph, config: HardwareConfig
) -> None:
    data = np.load(DIGITS / "digits.npz")
    images, labels = data["images"], data["labels"]
    program = schedule(graph, config)
    batch = np.stack([patches(graph.source, image) for image in images])
    outputs = Reference(program).run(batch)
    expected = execute(graph, images, lanes=config.lanes)
    for name, value in graph.outputs:
        np.testing.assert_array_equal(outputs[name], expected[value])
    (logits,) = outputs.values()
    assert (logits[:, 0].argmax(axis=1) == labels).mean() > 0.98
