"""What must become of a model: compiled to the same numbers, or refused with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from oracle import FloatArray, Oracle
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.errors import UnsupportedModelError
from vitessera.codegen.graph import Graph
from vitessera.codegen.importer import Status, evaluate, import_model, inspect_model
from vitessera.codegen.preprocess import patches
from vitessera.codegen.quantexec import execute, predict
from vitessera.codegen.quantgraph import QuantGraph
from vitessera.codegen.quantize import quantize
from vitessera.codegen.reference import Reference
from vitessera.codegen.schedule import schedule

CALIBRATION_IMAGES, IMAGES = 32, 8
LEAST_COSINE = 0.99


def some_images(graph: Graph, count: int, seed: int) -> FloatArray:
    shape = (count, *graph.image.shape)
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def check_refused(path: Path, reason: str, culprit: str = "culprit") -> None:
    """The message names a node called `culprit...`, and the account says what becomes of it."""
    with pytest.raises(UnsupportedModelError) as caught:
        import_model(path)
    assert f"Node '{culprit}" in caught.value.culprit, caught.value
    assert caught.value.remedy
    inspection = inspect_model(path)
    assert inspection.graph is None
    assert [
        row.op_type.split("::")[-1] for row in inspection.rows if row.op_type != "(output)"
    ] == list(op_types(onnx.load(path).graph))
    refused = [row for row in inspection.rows if row.status is Status.REFUSED]
    assert all(row.reason and row.remedy for row in refused)
    assert any(reason in row.reason for row in refused if row.name.startswith(culprit)), refused


def op_types(graph: onnx.GraphProto) -> Iterator[str]:
    """The operators of all nodes, those in the branches of an If before it."""
    for node in graph.node:
        if node.op_type == "If":
            for name in ("then_branch", "else_branch"):
                yield from op_types(next(a.g for a in node.attribute if a.name == name))
        yield node.op_type


def check_imported(path: Path, oracle: Oracle) -> Graph:
    """Every node is accounted for, and the float network is ONNX Runtime's."""
    inspection = inspect_model(path)
    refused = [row for row in inspection.rows if row.status is Status.REFUSED]
    assert not refused, refused
    assert all(row.into for row in inspection.rows), "a node vanished without account"
    graph = inspection.graph
    assert graph is not None
    images = some_images(graph, IMAGES, seed=2)
    wanted = oracle(path, images)
    assert wanted is not None, "ONNX Runtime refuses the model"
    values = evaluate(graph, images)
    assert {name for name, _ in graph.outputs} == set(wanted)
    for name, value in graph.outputs:
        np.testing.assert_allclose(values[value], wanted[name], rtol=1e-4, atol=1e-4)
    return graph


def check_compiled(
    path: Path, oracle: Oracle, config: HardwareConfig | None = None
) -> dict[str, float]:
    """As `check_imported`, and then for the integers, on the accelerator `config`.

    Returns:
        The cosine of the integer network with ONNX Runtime, by output.
    """
    graph = check_imported(path, oracle)
    network = quantize(graph, some_images(graph, CALIBRATION_IMAGES, seed=1))
    images = some_images(graph, IMAGES, seed=2)
    check_program(network, images[0], config or HardwareConfig())
    wanted = oracle(path, images)
    assert wanted is not None
    found = predict(network, images)
    cosines = {name: cosine(found[name], wanted[name]) for name, _ in graph.outputs}
    assert min(cosines.values()) >= LEAST_COSINE, cosines
    return cosines


def check_program(network: QuantGraph, image: FloatArray, config: HardwareConfig) -> None:
    """The program's results are the network's, bit by bit."""
    program = schedule(network, config)
    values = execute(network, image[None], lanes=program.config.lanes)
    results = Reference(program).run(patches(network.source, image))
    for name, value in network.outputs:
        np.testing.assert_array_equal(results[name], values[value][0])


def cosine(found: FloatArray, expected: FloatArray) -> float:
    """Of all images' results together."""
    assert found.shape == expected.shape, (found.shape, expected.shape)
    return float(np.vdot(found, expected) / (np.linalg.norm(found) * np.linalg.norm(expected)))
