"""Hidden layers in parts: the same network, in less memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import Shape, config, images, vision_transformer
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.errors import CapacityError
from vitessera.codegen.preprocess import patches
from vitessera.codegen.program import pack_input, unpack_outputs
from vitessera.codegen.quantexec import execute
from vitessera.codegen.quantgraph import Attention, Product, QuantGraph
from vitessera.codegen.reference import Reference
from vitessera.codegen.report import report
from vitessera.codegen.schedule import schedule
from vitessera.codegen.schedule.split import schedule_in_parts, split

SHAPE = Shape(tokens=33, channels=48, heads=3, hidden=96, blocks=2)


@pytest.fixture(scope="module")
def graph() -> QuantGraph:
    return vision_transformer(np.random.default_rng(7), SHAPE)


def test_one_part_is_the_network_itself(graph: QuantGraph) -> None:
    assert split(graph, 1) is graph


@pytest.mark.parametrize("parts", [2, 3, 4, 7])
def test_parts_add_up(graph: QuantGraph, parts: int) -> None:
    """Weights, biases and heads are all there once; only the residual is rounded more often."""
    cut = split(graph, parts)
    sums = [node for node in graph if isinstance(node, Product) and len(node.inputs) == 2]
    mlps = [node for node in sums if isinstance(graph[node.inputs[0]], Product)]
    assert len(mlps) == SHAPE.blocks
    for node in mlps:
        pieces = [n for n in cut if n.name == node.name or n.name.startswith(f"{node.name}.")]
        assert len(pieces) == parts
        assert np.array_equal(np.concatenate([n.weight for n in pieces], axis=1), node.weight)
        biases = sum(n.requantization.bias for n in pieces)
        assert np.array_equal(biases, node.requantization.bias)
    heads = [node.heads for node in cut if isinstance(node, Attention)]
    assert sum(heads) == SHAPE.heads * SHAPE.blocks
    assert max(heads) == -(-SHAPE.heads // min(parts, SHAPE.heads))
    batch = images(np.random.default_rng(8), graph, 4)
    exact, approximate = execute(graph, batch, 8), execute(cut, batch, 8)
    for _, name in graph.outputs:
        steps = np.abs(exact[name].astype(int) - approximate[name]).max()
        spread = exact[name].std()
        assert steps <= 0.05 * spread, f"{name}: off by {steps} of {spread:.0f}"


@pytest.mark.parametrize("parts", [2, 3])
def test_each_part_has_the_bias_of_its_heads(parts: int) -> None:
    graph = vision_transformer(np.random.default_rng(7), replace(SHAPE, bias=True))
    cut, hardware = split(graph, parts), config()
    for name in ("attention0", "attention1"):
        whole = graph[name]
        assert isinstance(whole, Attention)
        pieces = [n for n in cut if isinstance(n, Attention) and n.name.startswith(name)]
        assert [len(n.bias) for n in pieces if n.bias is not None] == [n.heads for n in pieces]
        assert np.array_equal(np.concatenate([n.bias for n in pieces]), whole.bias)
    batch = images(np.random.default_rng(9), graph, 1)
    values = execute(cut, batch, hardware.lanes)
    results = Reference(schedule(cut, hardware)).run(patches(cut.source, batch[0]))
    for name, value in cut.outputs:
        assert np.array_equal(results[name], values[value][0])


@pytest.mark.parametrize("parts", [2, 3])
def test_the_program_computes_the_parts(graph: QuantGraph, parts: int) -> None:
    cut, hardware = split(graph, parts), config()
    program = schedule(cut, hardware)
    batch = images(np.random.default_rng(9), graph, 2)
    values = execute(cut, batch, hardware.lanes)
    for index, image in enumerate(batch):
        buffer = pack_input(program, patches(cut.source, image))
        outputs = unpack_outputs(program, Reference(program).run_buffer(buffer))
        for name, value in cut.outputs:
            assert np.array_equal(outputs[name], values[value][index])


def used(program_of: QuantGraph, hardware: HardwareConfig) -> dict[str, int]:
    return {m.memory: m.used for m in report(schedule(program_of, hardware)).memories}


def test_what_does_not_fit_is_cut(graph: QuantGraph) -> None:
    roomy = config()
    whole, quarter = used(graph, roomy)["left"], used(split(graph, 4), roomy)["left"]
    assert quarter < 0.7 * whole
    tight = replace(roomy, left_words=quarter)
    with pytest.raises(CapacityError):
        schedule(graph, tight)
    program = schedule_in_parts(graph, tight)
    assert 1 < program.parts <= 4
    assert sum(layer.macs for layer in program.layers) == sum(
        layer.macs for layer in schedule(graph, roomy).layers
    )
    assert schedule_in_parts(graph, roomy).parts == 1


def test_what_never_fits_is_refused_as_a_whole(graph: QuantGraph) -> None:
    tiny = replace(config(), left_words=8)
    with pytest.raises(CapacityError) as alone:
        schedule(graph, tiny)
    with pytest.raises(CapacityError) as cut:
        schedule_in_parts(graph, tiny)
    assert str(alone.value) == str(cut.value)
