"""Rules follow the dataflow: blocks that are no standard pre-norm block quantise too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from random_vit import Shape, random_images, random_parameters, random_vit
from vitessera.codegen.graph import (
    Activation,
    Add,
    Attention,
    Function,
    Graph,
    LayerNorm,
    Linear,
    MeanPool,
    Node,
    PatchEmbed,
    SelectToken,
    TokenEmbed,
)
from vitessera.codegen.importer import evaluate
from vitessera.codegen.quantexec import predict
from vitessera.codegen.quantgraph import Norm, Product, QuantGraph
from vitessera.codegen.quantize import quantize
from vitessera.codegen.quantreport import report

WIDTH = 24
STEM = tuple(n for n in random_vit(0) if isinstance(n, PatchEmbed | TokenEmbed))
IMAGE = random_vit(0).image
make = random_parameters(7)


def linear(name: str, source: str, out: int = WIDTH) -> Linear:
    weight, bias = make(f"{name}.weight", (out, WIDTH)), make(f"{name}.bias", (out,))
    return Linear(name, (source,), (), weight, bias)


def norm(name: str, source: str) -> LayerNorm:
    gamma, beta = make("norm.weight", (WIDTH,)), make("norm.bias", (WIDTH,))
    return LayerNorm(name, (source,), (), gamma, beta, 1e-6)


def gelu(name: str, source: str) -> Activation:
    return Activation(name, (source,), (), Function.GELU_ERF)


def attention(name: str, query: str, key: str, value: str) -> Attention:
    return Attention(name, (query, key, value), (), 3, 8**-0.5)


GRAPHS: dict[str, tuple[Sequence[Node], str]] = {
    "linear feeds linear": (
        [norm("n", "embed"), linear("a", "n"), linear("b", "a"), linear("head", "b", 5)],
        "head",
    ),
    "linear starts a residual": (
        [norm("n", "embed"), linear("a", "n"), norm("n2", "a"), linear("head", "n2", 5)],
        "head",
    ),
    "residual read without a norm": ([linear("head", "embed", 5)], "head"),
    "residual is the output": (
        [norm("n", "embed"), linear("a", "n"), Add("sum", ("a", "embed"), ())],
        "sum",
    ),
    "activation feeds the addition": (
        [norm("n", "embed"), linear("a", "n"), gelu("g", "a"), Add("sum", ("embed", "g"), ())],
        "sum",
    ),
    "activation feeds attention": (
        [
            norm("n", "embed"),
            *(node for p in "qkv" for node in (linear(f"{p}0", "n"), gelu(p, f"{p}0"))),
            attention("mix", "q", "k", "v"),
            linear("head", "mix", 5),
        ],
        "head",
    ),
    "one value is query and key": (
        [
            norm("n", "embed"),
            linear("q", "n"),
            linear("v", "n"),
            attention("mix", "q", "q", "v"),
            linear("head", "mix", 5),
        ],
        "head",
    ),
    "norm feeds attention": (
        [norm("n", "embed"), attention("mix", "n", "n", "n"), linear("head", "mix", 5)],
        "head",
    ),
    "residual feeds attention": (
        [attention("mix", "embed", "embed", "embed"), linear("head", "mix", 5)],
        "head",
    ),
    "one token asks": (
        [
            norm("n", "embed"),
            linear("q", "n"),
            linear("k", "n"),
            linear("v", "n"),
            SelectToken("q0", ("q",), (), 0),
            attention("mix", "q0", "k", "v"),
            linear("head", "mix", 5),
        ],
        "head",
    ),
    "pooled activation": (
        [
            norm("n", "embed"),
            linear("a", "n"),
            gelu("g", "a"),
            MeanPool("pool", ("g",), (), 1, 10),
            linear("head", "pool", 5),
        ],
        "head",
    ),
    "parallel branches": (
        [
            norm("n", "embed"),
            linear("a", "n"),
            linear("b", "n"),
            Add("x", ("embed", "a"), ()),
            Add("y", ("x", "b"), ()),
            norm("n2", "y"),
            linear("head", "n2", 5),
        ],
        "head",
    ),
}


def quantized(name: str) -> tuple[Graph, QuantGraph]:
    nodes, output = GRAPHS[name]
    graph = Graph(IMAGE, (*STEM, *nodes), (("out", output),))
    return graph, quantize(graph, random_images(graph, 64, seed=1))


@pytest.mark.parametrize("name", GRAPHS)
def test_every_value_is_close_to_float(name: str) -> None:
    graph, quantgraph = quantized(name)
    for row in report(graph, quantgraph, random_images(graph, 16, seed=2)):
        assert row.cosine > 0.998, row


def test_two_outputs() -> None:
    nodes = (*STEM, norm("n", "embed"), linear("one", "n", 3), linear("two", "n", 4))
    graph = Graph(IMAGE, nodes, (("b", "two"), ("a", "one")))
    results = predict(quantize(graph, random_images(graph, 8, seed=1)), random_images(graph, 2, 3))
    assert {name: array.shape for name, array in results.items()} == {
        "b": (2, 10, 4),
        "a": (2, 10, 3),
    }


def test_a_residual_is_copied_once_for_all_readers() -> None:
    nodes = (*STEM, linear("one", "embed", 3), linear("two", "embed", 4))
    graph = Graph(IMAGE, nodes, (("a", "one"), ("b", "two")))
    quantgraph = quantize(graph, random_images(graph, 8, seed=1))
    (copy,) = (node for node in quantgraph if isinstance(node, Norm))
    assert copy.constants.plain
    reads = {node.inputs[0] for node in quantgraph if isinstance(node, Product)}
    assert reads == {"patch_embed.patches", copy.name}


def test_scales_of_queries_and_keys_balance() -> None:
    """A channel that is large in the queries and small in the keys loses no bits in either."""
    graph = random_vit(0, Shape(blocks=1))
    quantgraph = quantize(graph, random_images(graph, 64, seed=1))
    query, key = (quantgraph[f"blocks.0.attn.{part}"].value.scale for part in "qk")
    assert np.ptp(query) > 0.0
    assert np.allclose(query * key, query[0] * key[0])


def test_selected_results_of_one_product_have_its_scale() -> None:
    """A selection is a view of integers: a step of its own would be another number."""
    graph = random_vit(3, Shape(blocks=1, pool="none"))
    head = graph.outputs[0][1]
    tokens = tuple(SelectToken(f"token{i}", (head,), (), i) for i in range(2))
    outputs = tuple((f"logits{i}", f"token{i}") for i in range(2))
    graph = Graph(graph.image, (*graph.nodes, *tokens), outputs)
    quantgraph = quantize(graph, random_images(graph, 8, seed=1))
    images = random_images(graph, 8, seed=2)
    real, found = evaluate(graph, images), predict(quantgraph, images)
    for label, name in outputs:
        assert np.linalg.norm(found[label] - real[name]) < 0.05 * np.linalg.norm(real[name])
