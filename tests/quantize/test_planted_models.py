"""Networks with what makes trained Vision Transformers hard to quantise stay close to float.

Each test also shows that the easy way fails on the same network: it is hard indeed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from planted import outlier_ratios, sink_shares, with_outliers, with_sinks
from random_vit import Shape, random_images, random_vit
from vitessera.codegen import numerics
from vitessera.codegen.graph import Attention, Graph
from vitessera.codegen.importer import evaluate
from vitessera.codegen.numerics import INT8_MAX, IntArray
from vitessera.codegen.quantexec import predict
from vitessera.codegen.quantgraph import QuantGraph
from vitessera.codegen.quantize import hoist_selections, quantize
from vitessera.codegen.quantize.calibrate import measure
from vitessera.codegen.quantize.constants import Scale
from vitessera.codegen.quantize.forms import Form, assign_forms
from vitessera.codegen.quantize.lower import Lowering
from vitessera.codegen.quantize.scales import Evidence, choose_scales, copy_name

ENOUGH = 0.995
SMALL = Shape((3, 32, 32), 4, 96, 3, 192, blocks=4, classes=20)
TOKENS_197 = Shape((3, 56, 56), 4, 96, 3, 192, blocks=4, classes=20)
TOKENS_577 = Shape((3, 96, 96), 4, 96, 3, 192, blocks=2, classes=20, pool="mean")


def cosine(quantgraph: QuantGraph, graph: Graph, count: int = 8) -> float:
    """Between integer and float outputs, of what distinguishes `count` unseen images.

    What all images have in common would hide the error.
    """
    images = random_images(graph, count, seed=200)
    (integer,) = predict(quantgraph, images).values()
    real = evaluate(graph, images)[graph.outputs[0][1]]
    a, b = integer - integer.mean(axis=0), real - real.mean(axis=0)
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


def calibration(graph: Graph) -> npt.NDArray[np.float32]:
    return random_images(graph, 16, seed=100)


def min_max(graph: Graph) -> QuantGraph:
    """Plain calibration: one step for an int8 value, from its least to its greatest number."""
    hoisted, images = hoist_selections(graph), calibration(graph)
    evidence = Evidence(hoisted, assign_forms(hoisted), measure(hoisted, images))
    scales = choose_scales(evidence, images)
    for node in hoisted:
        name, statistics = node.name, evidence.statistics[node.name]
        low, high = min(0.0, statistics.low.min()), max(0.0, statistics.high.max())
        if name not in scales:
            continue
        used_by_attention = any(isinstance(use, Attention) for use in hoisted.consumers(name))
        symmetric = isinstance(node, Attention) or used_by_attention
        step = statistics.range / INT8_MAX if symmetric else (high - low) / (2 * INT8_MAX)
        offset = 0 if symmetric else round(-INT8_MAX - low / step)
        plain = Scale(np.full(len(statistics.low), step), offset)
        if evidence.forms[name] is Form.INT8:
            scales[name] = plain
        if copy_name(name) in scales:
            scales[copy_name(name)] = plain
    return QuantGraph(hoisted.image, tuple(Lowering(evidence, scales).nodes()), hoisted.outputs)


@pytest.mark.parametrize("seed", [0, 1])
def test_outlier_channels(seed: int) -> None:
    graph = with_outliers(random_vit(seed, SMALL), 30)
    ratios = outlier_ratios(graph)
    ours, plain = quantize(graph, calibration(graph)), min_max(graph)
    found, other = cosine(ours, graph), cosine(plain, graph)
    print(f"outliers {min(ratios):.0f} to {max(ratios):.0f}: {found:.5f}, min/max {other:.5f}")
    assert min(ratios) > 20
    assert found > ENOUGH > other


@pytest.mark.slow
@pytest.mark.parametrize("shape", [TOKENS_197, TOKENS_577], ids=["197", "577"])
@pytest.mark.parametrize("seed", [0, 1])
def test_spikes_over_a_long_flat_tail(
    shape: Shape, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = with_sinks(random_vit(seed, shape), 0.5)
    shares = sink_shares(graph)
    ours = quantize(graph, calibration(graph))
    found = cosine(ours, graph)
    monkeypatch.setattr(numerics, "_growth", each_for_itself)
    alone = cosine(ours, graph)
    print(f"shares {min(shares):.2f} to {max(shares):.2f}: {found:.5f}, rounded alone {alone:.5f}")
    assert min(shares) > 0.3
    assert found > ENOUGH > alone


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_spikes_and_outliers_together(seed: int) -> None:
    graph = with_sinks(with_outliers(random_vit(seed, TOKENS_197), 30), 0.3)
    shares, ratios = sink_shares(graph), outlier_ratios(graph)
    ours, plain = quantize(graph, calibration(graph)), min_max(graph)
    found, other = cosine(ours, graph), cosine(plain, graph)
    print(f"shares from {min(shares):.2f}, outliers from {min(ratios):.0f}:", end=" ")
    print(f"{found:.5f}, min/max {other:.5f}")
    assert min(shares) > 0.2
    assert min(ratios) > 20
    assert found > ENOUGH > other


def each_for_itself(_: IntArray, parts: IntArray, fraction_bits: int) -> IntArray:
    """Rounds probabilities in place of their running sum."""
    return numerics.round_shift(parts, fraction_bits)
