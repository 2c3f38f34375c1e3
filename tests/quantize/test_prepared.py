"""Networks that are no pre-norm classifiers: an identity, or a row moved, and they compile.

Each is compared with the float network, and bit by bit with the instructions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from random_vit import Shape, random_images, random_parameters, random_vit
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.graph import (
    Activation,
    Add,
    Function,
    Graph,
    LayerNorm,
    Linear,
    MeanPool,
    Node,
    SelectToken,
)
from vitessera.codegen.importer import evaluate
from vitessera.codegen.preprocess import patches
from vitessera.codegen.quantexec import execute
from vitessera.codegen.quantize import prepared, quantize
from vitessera.codegen.reference import Reference
from vitessera.codegen.schedule import schedule

CONFIG = HardwareConfig(tile=4, depth=4, lanes=4)
GRAPH = random_vit(0, Shape(blocks=1))
WIDTH = 24
MAKE = random_parameters(7)


def linear(name: str, source: str, out: int = WIDTH) -> Linear:
    weight, bias = MAKE(f"{name}.weight", (out, WIDTH)), MAKE(f"{name}.bias", (out,))
    return Linear(name, (source,), (), weight, bias)


def norm(name: str, source: str) -> LayerNorm:
    gamma, beta = MAKE("norm.weight", (WIDTH,)), MAKE("norm.bias", (WIDTH,))
    return LayerNorm(name, (source,), (), gamma, beta, 1e-6)


def extended(nodes: Sequence[Node], *outputs: str) -> Graph:
    """The network with its tokens before the last norm, `nodes`, and other outputs."""
    return Graph(GRAPH.image, (*GRAPH.nodes[:-3], *nodes), tuple((o, o) for o in outputs))


LAST = GRAPH.nodes[-4].name  # the residual stream behind the last block


def check(graph: Graph, identities: int) -> Graph:
    """Compiles; `identities` products were put in; the numbers agree everywhere."""
    ready = prepared(graph)
    assert sum(node.name.endswith(".wide") for node in ready) == identities
    images = random_images(graph, 24, seed=1)
    network = quantize(graph, images)
    batch = random_images(graph, 2, seed=2)
    values, reals = execute(network, batch, CONFIG.lanes), evaluate(graph, batch)
    program = schedule(network, CONFIG)
    results = Reference(program).run(patches(network.source, batch[0]))
    for (label, value), (_, real) in zip(network.outputs, graph.outputs, strict=True):
        np.testing.assert_array_equal(results[label], values[value][0])
        found, wanted = network[value].value.dequantize(values[value]), reals[real]
        cosine = np.vdot(found, wanted) / (np.linalg.norm(found) * np.linalg.norm(wanted))
        assert cosine > 0.995, label
    return ready


def test_a_network_that_needs_nothing_is_left_alone() -> None:
    check(GRAPH, identities=0)


def test_features_as_output() -> None:
    check(extended([norm("features", LAST)], "features"), identities=1)


def test_features_and_their_class_token() -> None:
    nodes = [norm("features", LAST), SelectToken("token", ("features",), (), 0)]
    check(extended(nodes, "features", "token"), identities=2)


def test_post_norm() -> None:
    nodes = [
        *(linear("a", LAST), Add("sum1", (LAST, "a"), ()), norm("norm1", "sum1")),
        *(linear("b", "norm1"), Add("sum2", ("norm1", "b"), ()), norm("norm2", "sum2")),
        *(SelectToken("token", ("norm2",), (), 0), linear("logits", "token", 5)),
    ]
    check(extended(nodes, "logits"), identities=1)


def test_norm_of_a_norm() -> None:
    """CLIP: the residual stream starts with a norm."""
    nodes = [norm("pre", LAST), norm("inner", "pre"), linear("b", "inner")]
    nodes += [Add("sum", ("pre", "b"), ()), norm("last", "sum"), linear("logits", "last", 5)]
    ready = check(extended(nodes, "logits"), identities=1)
    assert ready["inner"].inputs == ready["sum"].inputs[:1] == ("pre.wide",)


def test_norm_behind_the_branch() -> None:
    nodes = [linear("b", LAST), norm("after", "b"), Add("sum", (LAST, "after"), ())]
    check(extended([*nodes, norm("last", "sum"), linear("logits", "last", 5)], "logits"), 1)


def test_sum_of_two_values_that_others_read() -> None:
    nodes = [linear("a", LAST), linear("b", LAST), Add("sum", ("a", "b"), ())]
    check(extended([*nodes, linear("logits", "sum", 5)], "logits", "a", "b"), identities=1)


def test_a_value_twice() -> None:
    nodes = [Add("twice", (LAST, LAST), ()), norm("last", "twice"), linear("logits", "last", 5)]
    check(extended(nodes, "logits"), identities=1)


def test_activation_of_the_residual_stream() -> None:
    gelu = Activation("gelu", (LAST,), (), Function.GELU_ERF)
    check(extended([gelu, linear("logits", "gelu", 5)], "logits"), identities=1)


def test_activation_of_a_value_that_another_reads() -> None:
    nodes = [linear("a", LAST), Activation("gelu", ("a",), (), Function.RELU)]
    nodes += [linear("one", "gelu", 5), linear("two", "a", 5)]
    check(extended(nodes, "one", "two"), identities=1)


def test_a_result_that_is_also_read() -> None:
    nodes = [linear("embedding", LAST), linear("logits", "embedding", 5)]
    check(extended(nodes, "embedding", "logits"), identities=0)


def test_a_linear_read_by_norm_and_linear() -> None:
    nodes = [linear("a", LAST), norm("n", "a"), linear("one", "n", 5), linear("two", "a", 5)]
    check(extended(nodes, "one", "two"), identities=0)


def test_names_stay_unique() -> None:
    nodes = [norm("n", LAST), linear("n.wide", LAST, 5)]
    ready = prepared(extended(nodes, "n", "n.wide"))
    assert len({node.name for node in ready}) == len(ready.nodes)


# --- Rows ----------------------------------------------------------------------------------------


def distilled(first: int, second: int) -> Graph:
    """Two heads on two tokens, added."""
    nodes: list[Node] = [norm("n", LAST)]
    for name, token in (("a", first), ("b", second)):
        nodes += [SelectToken(f"{name}0", ("n",), (), token), linear(name, f"{name}0", 5)]
    return extended([*nodes, Add("logits", ("a", "b"), ())], "logits")


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 0), (2, 3), (5, 5)])
def test_two_tokens_added(first: int, second: int) -> None:
    ready = check(distilled(first, second), identities=0)
    moved = [node for node in ready if isinstance(node, MeanPool)]
    assert all(node.stop == node.start + 1 for node in moved)
    assert len(moved) == {(0, 1): 1, (1, 0): 1, (2, 3): 2, (5, 5): 0}[first, second]


def test_token_and_mean_added() -> None:
    nodes: list[Node] = [norm("n", LAST), SelectToken("t", ("n",), (), 1)]
    nodes += [MeanPool("m", ("n",), (), 1, 10), linear("a", "t", 5), linear("b", "m", 5)]
    check(extended([*nodes, Add("logits", ("a", "b"), ())], "logits"), identities=0)


def test_selection_of_a_selection() -> None:
    graph = distilled(1, 0)
    again = SelectToken("a1", ("a0",), (), 0)
    nodes = [replace(n, inputs=("a1",)) if n.name == "a" else n for n in graph]
    position = [n.name for n in nodes].index("a0") + 1
    nodes.insert(position, again)
    check(replace(graph, nodes=tuple(nodes)), identities=0)
