"""The table of what is legal in a network: whatever breaks a law is named, with the stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from random_hybrid import random_hybrid
from random_vit import Shape, random_images, random_vit
from vitessera.codegen import graph as g
from vitessera.codegen import quantgraph as q
from vitessera.codegen import quantize as quantising
from vitessera.codegen.errors import IllegalNetworkError, MissingCaseError
from vitessera.codegen.graph import Graph
from vitessera.codegen.legal import (
    GRAPH_OPERATORS,
    QUANT_OPERATORS,
    check_graph,
    check_quantgraph,
)
from vitessera.codegen.quantgraph import QuantGraph
from vitessera.codegen.quantize import PASSES, prepared, quantize

Change = Callable[[Any], dict[str, object]]

VIT = random_vit(3, Shape(blocks=1, bias=1.0))
STEM = random_hybrid(3)
QUANT = quantize(VIT, random_images(VIT, 4, seed=1))
QUANT_STEM = quantize(STEM, random_images(STEM, 4, seed=1))


def more(name: str) -> Change:
    """One array with a number too many."""
    return lambda node: {name: np.append(getattr(node, name), np.float32(1.0))}


# A network, the node that is changed, how, and the law that it then breaks.
GRAPHS: tuple[tuple[Graph, str, Change, str], ...] = (
    (VIT, "patch_embed", lambda n: {"weight": n.weight[:, 0]}, "a side for each axis of the image"),
    (VIT, "patch_embed", more("bias"), "its bias has one number a channel"),
    (VIT, "embed", lambda n: {"prefix": n.prefix[:, 1:]}, "tokens of as many channels"),
    (VIT, "embed", lambda n: {"positions": n.positions[1:]}, "a position for each token"),
    (VIT, "norm", more("gamma"), "its gamma has one number a channel"),
    (VIT, "norm", lambda _: {"eps": -1.0}, "its epsilon is a number"),
    (VIT, "norm", lambda n: {"gamma": n.gamma.astype(np.float64)}, "finite numbers in float32"),
    (VIT, "norm", lambda n: {"beta": n.beta * np.float32(np.inf)}, "finite numbers in float32"),
    (VIT, "head", lambda n: {"weight": n.weight[:, 1:]}, "its weight is a matrix"),
    (VIT, "blocks.0.attn", lambda _: {"heads": 5}, "in heads of one size"),
    (VIT, "blocks.0.attn", lambda _: {"scale": 0.0}, "its scale is a number above zero"),
    (VIT, "blocks.0.attn", lambda n: {"bias": n.bias[:, 1:]}, "its bias is [heads, queries, keys]"),
    (VIT, "blocks.0.add1", lambda n: {"inputs": (*n.inputs, "embed")}, "it reads 2 values"),
    (VIT, "blocks.0.add1", lambda n: {"inputs": (n.inputs[0], "patch_embed")}, "of one shape"),
    (VIT, "blocks.0.add1", lambda n: {"inputs": (n.inputs[0], "norm")}, "what is there before it"),
    (VIT, "norm", lambda _: {"name": "embed"}, "its name is its own"),
    (VIT, "token", lambda _: {"index": 10}, "there is such a token"),
    (STEM, "pool", lambda n: {"window": replace(n.window, source=(1, 1))}, "as many pixels"),
)
QUANTS: tuple[tuple[QuantGraph, str, Change, str], ...] = (
    (QUANT, "patch_embed.patches", lambda _: {"prefix": 99}, "tokens behind its prefix"),
    (QUANT, "embed.constant", lambda n: {"data": n.data.astype(np.int32)}, "its data is int16"),
    (QUANT, "head", lambda n: {"weight": n.weight[:, 1:]}, "channels of its input"),
    (QUANT, "head", lambda n: {"weight": np.full_like(n.weight, -128)}, "int8 above -128"),
    (QUANT, "head", lambda n: {"value": replace(n.value, bits=8)}, "a result has 16 bits"),
    (
        QUANT,
        "head",
        lambda n: {"value": replace(n.value, scale=-n.value.scale)},
        "scale above zero",
    ),
    (
        QUANT,
        "head",
        lambda n: {"requantization": replace(n.requantization, scale_shift=99)},
        "the constants of its requantization fit their fields",
    ),
    (
        QUANT,
        "head",
        lambda n: {"requantization": replace(n.requantization, bias=n.requantization.bias + 2**30)},
        "no sum saturates",
    ),
    (QUANT, "norm", lambda _: {"inputs": ("norm0",)}, "what is there before it"),
    (QUANT, "norm", more("gamma"), "gamma is int16"),
    (QUANT, "blocks.0.attn", lambda n: {"inputs": n.inputs[:2]}, "it reads 3 values"),
    (QUANT, "blocks.0.attn", lambda n: {"bias": n.bias[1:]}, "int16 [heads, queries, keys]"),
    (QUANT_STEM, "patches", lambda n: {"prefix": n.prefix + 1}, "a row for each result"),
)


def changed(graph: Any, name: str, change: Change) -> Any:  # noqa: ANN401 (of either kind)
    """The network with one node changed, and all its readers as they are."""
    nodes = tuple(
        replace(node, **change(node)) if node.name == name else node for node in graph.nodes
    )
    return replace(graph, nodes=nodes)


@pytest.mark.parametrize("graph, name, change, law", GRAPHS, ids=[entry[-1] for entry in GRAPHS])
def test_a_graph_that_breaks_a_law(graph: Graph, name: str, change: Change, law: str) -> None:
    with pytest.raises(IllegalNetworkError) as caught:
        check_graph(changed(graph, name, change), "The stage")
    assert str(caught.value).startswith("The stage made node ")
    assert law in caught.value.culprit
    assert "bug in vitessera" in caught.value.remedy


@pytest.mark.parametrize("graph, name, change, law", QUANTS, ids=[entry[-1] for entry in QUANTS])
def test_a_quantised_network_that_breaks_a_law(
    graph: QuantGraph, name: str, change: Change, law: str
) -> None:
    with pytest.raises(IllegalNetworkError) as caught:
        check_quantgraph(changed(graph, name, change), "The stage")
    assert law in caught.value.culprit


@pytest.mark.parametrize("outputs", [(), (("logits", "nothing"),), (("a", "head"), ("a", "head"))])
def test_outputs_are_values_under_names_of_their_own(outputs: tuple[tuple[str, str], ...]) -> None:
    for check, network in ((check_graph, VIT), (check_quantgraph, QUANT)):
        with pytest.raises(IllegalNetworkError, match="The stage made a network with the outputs"):
            check(replace(network, outputs=outputs), "The stage")


def test_every_operator_has_its_laws() -> None:
    for module, base, table in (
        (g, g.Node, GRAPH_OPERATORS),
        (q, q.QuantNode, QUANT_OPERATORS),
    ):
        known = {kind for kind in vars(module).values() if isinstance(kind, type)}
        assert {kind for kind in known if issubclass(kind, base)} == {base, *table}


def test_an_operator_without_laws_is_refused() -> None:
    class Reverse(g.Node):
        pass

    with pytest.raises(MissingCaseError, match="has no case for Reverse"):
        check_graph(replace(VIT, nodes=(Reverse("x", ("image",), ()),)), "The stage")


def test_a_pass_that_breaks_a_law_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(graph: Graph) -> Graph:
        return changed(graph, "norm", more("gamma"))

    monkeypatch.setattr(quantising, "PASSES", (*PASSES, careless))
    with pytest.raises(IllegalNetworkError, match=r"Quantising \(careless\) made node norm"):
        prepared(VIT)
