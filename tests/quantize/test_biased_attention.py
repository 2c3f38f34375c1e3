"""What is added to attention scores: relative positions, masks, and what cannot be represented."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from random_vit import Shape, random_images, random_vit
from vitessera.codegen.errors import UnsupportedModelError
from vitessera.codegen.graph import Attention, Graph, Linear
from vitessera.codegen.importer import evaluate
from vitessera.codegen.numerics import INT16_MAX, SCORE_FRACTION_BITS
from vitessera.codegen.quantexec import _softmax, execute, predict
from vitessera.codegen.quantgraph import Attention as QuantAttention
from vitessera.codegen.quantize import prepared, quantize
from vitessera.codegen.quantize.constants import HARMLESS_SCORE, LOWEST_SCORE, score_bias
from vitessera.codegen.quantreport import report

ONE = 2**SCORE_FRACTION_BITS * math.log2(math.e)  # units of a score of one, in base e


@pytest.mark.parametrize(
    "shape",
    [
        Shape(bias=1.0),
        Shape(bias=8.0),
        Shape(bias=30.0, blocks=1),
        Shape(causal=True, pool="none"),
        Shape(bias=2.0, causal=True, pool="mean", prefix=5),
    ],
    ids=["small", "large", "beyond the format", "causal", "causal and biased"],
)
def test_every_value_is_close_to_float(shape: Shape) -> None:
    graph = random_vit(3, shape)
    quantgraph = quantize(graph, random_images(graph, 64, seed=1))
    for row in report(graph, quantgraph, random_images(graph, 16, seed=2)):
        assert row.cosine > 0.998, row


def test_the_bias_counts() -> None:
    """Without it, the results of the networks above would be others."""
    graph = random_vit(3, Shape(bias=8.0))
    batch = random_images(graph, 16, seed=2)
    found = predict(quantize(graph, random_images(graph, 64, seed=1)), batch)["logits"]
    own = evaluate(graph, batch)["head"]
    plain = evaluate(without_bias(graph), batch)["head"]
    assert np.abs(found - own).mean() < 0.2 * np.abs(found - plain).mean()


def without_bias(graph: Graph) -> Graph:
    nodes = (replace(n, bias=None) if isinstance(n, Attention) else n for n in graph)
    return replace(graph, nodes=tuple(nodes))


def test_a_hidden_token_changes_no_bit() -> None:
    graph = random_vit(4, Shape(causal=True, bias=1.0, pool="none", blocks=2))
    quantgraph = quantize(graph, random_images(graph, 64, seed=1))
    (image,) = random_images(graph, 1, seed=2)
    other = image.copy()
    other[:, 4:8, 4:8] = -other[:, 4:8, 4:8]  # patch 4, token 5
    values = execute(quantgraph, np.stack([image, other]))
    for node in quantgraph:
        first, second = values[node.name]
        assert np.array_equal(first[:5], second[:5]), node.name
        assert not np.array_equal(first[5], second[5]) or "constant" in node.name


def test_a_row_is_lowered_to_zero_and_cut_off_at_the_format() -> None:
    bias = np.array([[[3.0, 2.0, -7.0], [-1e30, 5.0, -90.0]]])
    expected = [[0, -ONE, -10 * ONE], [-INT16_MAX, 0, -INT16_MAX]]
    np.testing.assert_array_equal(score_bias(bias), np.rint([expected]))


def test_a_bias_that_rounds_to_nothing_costs_nothing() -> None:
    graph = random_vit(3, Shape(bias=1e-5, blocks=1))
    quantgraph = quantize(graph, random_images(graph, 8, seed=1))
    assert [n.bias for n in quantgraph if isinstance(n, QuantAttention)] == [None]


@pytest.mark.parametrize("lanes", [2, 4, 8])
@pytest.mark.parametrize("place", [0, 1, 2047, 4095])
def test_the_lowest_score_weighs_nothing(place: int, lanes: int) -> None:
    """Beside one that is just harmless; whether it comes before, in the same beat, or behind."""
    harmless = np.full((1, 1), -int(HARMLESS_SCORE * 2**SCORE_FRACTION_BITS))
    scores = np.full((1, 4096), -INT16_MAX)
    scores[0, place] = harmless[0, 0]
    probabilities, total = _softmax(scores, lanes)
    alone, total_alone = _softmax(harmless, lanes)
    assert np.flatnonzero(probabilities) == [place]
    assert probabilities[0, place] == alone[0, 0]
    assert total == total_alone


def test_a_selected_query_has_its_row() -> None:
    graph = random_vit(5, Shape(bias=2.0))
    ready = prepared(graph)
    whole, selected = (node for node in ready if isinstance(node, Attention))
    original = graph[selected.name]
    assert isinstance(original, Attention)
    assert whole.bias is not None and selected.bias is not None and original.bias is not None
    assert whole.bias.shape == (3, 10, 10)
    np.testing.assert_array_equal(selected.bias, original.bias[:, :1])
    batch = random_images(graph, 4, seed=2)
    np.testing.assert_allclose(
        evaluate(ready, batch)["head"], evaluate(graph, batch)["head"], rtol=1e-4, atol=1e-5
    )


def with_scores(graph: Graph, gain: float) -> Graph:
    """All queries times `gain`."""
    nodes = (
        replace(n, weight=n.weight * np.float32(gain), bias=n.bias * np.float32(gain))
        if isinstance(n, Linear) and n.name.endswith(".q")
        else n
        for n in graph
    )
    return replace(graph, nodes=tuple(nodes))


@pytest.mark.parametrize("shape", [Shape(causal=True), Shape(bias=15.0)], ids=["mask", "bias"])
def test_scores_that_saturation_would_change_are_refused(shape: Shape) -> None:
    graph = with_scores(random_vit(6, shape), 50.0)
    with pytest.raises(UnsupportedModelError) as caught:
        quantize(graph, random_images(graph, 8, seed=1))
    assert "Node blocks.0.attn (Attention): its scores reach" in str(caught.value)
    assert f"their format ends at {LOWEST_SCORE:.0f}" in str(caught.value)
    assert "nothing only up to 100" in str(caught.value)
    assert "normalised as in training" in caught.value.remedy


def test_large_scores_with_a_small_bias_are_not() -> None:
    """They reach 112, but nothing saturates: the bias takes no more than 2 off."""
    graph = with_scores(random_vit(6, Shape(bias=0.3, blocks=1)), 17.0)
    quantgraph = quantize(graph, random_images(graph, 8, seed=1))
    (node,) = (n for n in quantgraph if isinstance(n, QuantAttention))
    assert node.bias is not None
    assert node.bias.min() > -3 * ONE
