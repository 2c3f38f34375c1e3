"""Random Vision Transformers of many shapes stay close to float."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
from random_vit import Shape, random_images, random_vit
from vitessera.codegen.graph import Add, Function, Graph, LayerNorm, Linear
from vitessera.codegen.importer import evaluate
from vitessera.codegen.quantexec import predict
from vitessera.codegen.quantgraph import SelectToken
from vitessera.codegen.quantize import default_calibration, hoist_selections, quantize

DEIT_TINY_BLOCK = Shape((3, 224, 224), 16, 192, 3, 768, blocks=1, classes=1000)


def output_cosine(graph: Graph, calibration: int = 32, count: int = 8) -> float:
    """Cosine between integer and float outputs over `count` unseen images."""
    quantgraph = quantize(graph, random_images(graph, calibration, seed=100))
    images = random_images(graph, count, seed=200)
    (integer,) = predict(quantgraph, images).values()
    return cosine(integer, evaluate(graph, images)[graph.outputs[0][1]])


def cosine(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> float:
    """Of what distinguishes the images: what all have in common would hide the error."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize(
    "shape",
    [
        Shape(),
        Shape(pool="mean"),
        Shape(pool="mean_first"),
        Shape(pool="mean", prefix=0),
        Shape(prefix=5),
        Shape(function=Function.GELU_TANH),
        Shape(function=Function.RELU),
        Shape(image=(1, 12, 20), patch=4, channels=20, heads=2, hidden=30, classes=3),
        Shape(channels=16, heads=1, blocks=1),
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", [0, 1])
def test_output_is_close_to_float(shape: Shape, seed: int) -> None:
    assert output_cosine(random_vit(seed, shape)) > 0.995


def test_deit_tiny_block_is_close_to_float() -> None:
    assert output_cosine(random_vit(0, DEIT_TINY_BLOCK), calibration=8, count=2) > 0.995


def test_constant_and_dead_channels_do_not_divide_by_zero() -> None:
    graph = random_vit(0)

    def dead(node: object) -> object:
        match node:
            case Linear():
                weight, bias = node.weight.copy(), node.bias.copy()
                weight[0], weight[1], bias[0] = 0.0, 1e-30, 0.0
                return dataclasses.replace(node, weight=weight, bias=bias)
            case LayerNorm():
                gamma, beta = node.gamma.copy(), node.beta.copy()
                gamma[:3], beta[:2] = 0.0, 0.0
                return dataclasses.replace(node, gamma=gamma, beta=beta)
        return node

    nodes = tuple(dead(node) for node in graph)
    assert output_cosine(dataclasses.replace(graph, nodes=nodes)) > 0.99


def test_a_network_of_zeros_quantises() -> None:
    graph = random_vit(0)
    zero = tuple(
        dataclasses.replace(node, weight=0 * node.weight, bias=0 * node.bias)
        if isinstance(node, Linear)
        else node
        for node in graph
    )
    quantgraph = quantize(dataclasses.replace(graph, nodes=zero), default_calibration(graph))
    assert not predict(quantgraph, random_images(graph, 2, seed=0))["logits"].any()


def test_blank_calibration_images_quantise() -> None:
    graph = random_vit(0)
    quantize(graph, 0 * default_calibration(graph, count=1))  # is checked in there


@pytest.mark.parametrize("count", [1, 8])
def test_few_calibration_images_degrade_gracefully(count: int) -> None:
    least = {1: 0.98, 8: 0.995}[count]
    assert output_cosine(random_vit(1), calibration=count, count=32) > least


def test_default_calibration_is_seeded_noise() -> None:
    graph = random_vit(0)
    noise = default_calibration(graph, count=3, seed=5)
    assert noise.shape == (3, 3, 12, 12)
    assert noise.dtype == np.float32
    assert np.array_equal(noise, default_calibration(graph, count=3, seed=5))
    assert not np.array_equal(noise, default_calibration(graph, count=3, seed=6))


# --- Selecting the class token early -------------------------------------------------------------


def test_hoisted_selection_gives_the_same_output() -> None:
    graph = random_vit(3)
    hoisted = hoist_selections(graph)
    images = random_images(graph, 4, seed=1)
    before, after = evaluate(graph, images), evaluate(hoisted, images)
    ((_, old),), ((_, new),) = graph.outputs, hoisted.outputs
    assert np.allclose(before[old], after[new], atol=1e-5)


def test_last_block_runs_on_the_class_token_alone() -> None:
    graph = random_vit(3)
    quantgraph = quantize(graph, default_calibration(graph))
    tokens = {node.name: node.value.tokens for node in quantgraph}
    assert [tokens[f"blocks.1.attn.{part}"] for part in "qkv"] == [1, 10, 10]
    names = ("blocks.1.attn", "blocks.1.add1", "blocks.1.gelu", "norm", "head")
    assert [tokens[name] for name in names] == [1] * 5
    selected = {node.inputs[0] for node in quantgraph if isinstance(node, SelectToken)}
    assert selected == {"blocks.1.norm1", "blocks.0.add2"}


@pytest.mark.parametrize("reads", [("k", "k", "v"), ("q", "v", "v"), ("k", "k", "k")])
def test_selection_takes_the_queries_alone(reads: tuple[str, str, str]) -> None:
    """Also when one value is queries and keys, or keys and values."""
    graph = random_vit(3)
    inputs = tuple(f"blocks.1.attn.{part}" for part in reads)
    nodes = tuple(
        dataclasses.replace(node, inputs=inputs) if node.name == "blocks.1.attn" else node
        for node in graph
        if node.name not in {f"blocks.1.attn.{part}" for part in set("qkv") - set(reads)}
    )
    shared = dataclasses.replace(graph, nodes=nodes)
    hoisted = hoist_selections(shared)
    assert [hoisted.shapes()[name][0] for name in hoisted["blocks.1.attn"].inputs] == [1, 10, 10]
    images = random_images(shared, 4, seed=1)
    before, after = evaluate(shared, images), evaluate(hoisted, images)
    assert np.allclose(before["head"], after["head"], atol=1e-5)
    assert output_cosine(shared) > 0.995


def test_selection_stays_behind_a_value_that_others_read() -> None:
    graph = random_vit(3)
    norm = next(node for node in graph if node.name == "norm")
    aside = dataclasses.replace(norm, name="aside")
    extra = Linear("extra", ("aside",), (), np.ones((2, 24), np.float32), np.zeros(2, np.float32))
    both = Graph(graph.image, (*graph.nodes, aside, extra), (*graph.outputs, ("extra", "extra")))
    hoisted = hoist_selections(both)
    assert isinstance(hoisted["blocks.1.add2"], Add)
    assert hoisted.shapes()["blocks.1.add2"] == (10, 24)
    assert hoisted.shapes()["norm"] == (1, 24)
