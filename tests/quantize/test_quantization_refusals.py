"""What cannot be quantised is refused with the node, the reason and the remedy."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from random_vit import Shape, random_images, random_vit
from vitessera.codegen.errors import ImageError, UnsupportedModelError
from vitessera.codegen.graph import (
    Activation,
    Add,
    Function,
    Graph,
    Linear,
    MeanPool,
    Node,
)
from vitessera.codegen.quantexec import execute
from vitessera.codegen.quantize import default_calibration, quantize
from vitessera.codegen.quantize.forms import assign_forms

GRAPH = random_vit(0, Shape(blocks=1))


def refusal(graph: Graph, images: np.ndarray | None = None) -> str:
    """The message with which `quantize` refuses."""
    given = default_calibration(graph, count=2) if images is None else images
    with pytest.raises((ImageError, UnsupportedModelError)) as caught:
        quantize(graph, given)
    assert caught.value.remedy
    return str(caught.value)


def replaced(name: str, **changes: object) -> Graph:
    nodes = tuple(
        dataclasses.replace(node, **changes) if node.name == name else node  # type: ignore[arg-type]
        for node in GRAPH
    )
    return dataclasses.replace(GRAPH, nodes=nodes)


def extended(*nodes: Node, output: str) -> Graph:
    return Graph(GRAPH.image, (*GRAPH.nodes, *nodes), (*GRAPH.outputs, ("out", output)))


def linear(name: str, source: str, out: int, width: int = 24) -> Linear:
    return Linear(name, (source,), (), np.ones((out, width), np.float32), np.zeros(out, np.float32))


# --- Calibration images --------------------------------------------------------------------------

GOOD = random_images(GRAPH, 4, seed=0)


def test_rank() -> None:
    assert "shape [3, 12, 12]. The model takes [n, 3, 12, 12]" in refusal(GRAPH, GOOD[0])


def test_channels_last() -> None:
    assert "images first, then channels" in refusal(GRAPH, GOOD.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "complex64", "bool"])
def test_dtype(dtype: str) -> None:
    message = refusal(GRAPH, GOOD.astype(dtype))
    assert f"dtype is {dtype}" in message
    assert "(pixels / 255 - mean) / std" in message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(value: float) -> None:
    images = GOOD.copy()
    images[2, 0, 5, 5] = value
    assert "image 2 holds NaN or infinity" in refusal(GRAPH, images)


def test_float64_beyond_float32() -> None:
    images = GOOD.astype(np.float64)
    images[1] = 1e300
    assert "image 1 holds NaN or infinity" in refusal(GRAPH, images)


def test_empty() -> None:
    assert "holds no image" in refusal(GRAPH, GOOD[:0])


def test_images_to_execute_are_checked_too() -> None:
    with pytest.raises(ImageError, match=r"Input images: the dtype is uint8"):
        execute(quantize(GRAPH, GOOD), GOOD.astype(np.uint8))


# --- Operators -----------------------------------------------------------------------------------


def forms_refusal(graph: Graph) -> str:
    """The message for a graph that `prepared` did not bring into shape."""
    with pytest.raises(UnsupportedModelError) as caught:
        assign_forms(graph)
    assert caught.value.remedy
    return str(caught.value)


def test_addition_without_a_product() -> None:
    message = forms_refusal(extended(Add("twice", ("embed", "embed"), ()), output="twice"))
    assert "Node twice (Add): neither embed nor embed is the result of a Linear" in message


def test_addition_to_an_int8_value() -> None:
    branch = (linear("fc", "norm", 24), Add("sum", ("norm", "fc"), ()))
    message = forms_refusal(extended(*branch, output="sum"))
    assert "Node sum (Add): its input norm is int8" in message


def test_activation_alone() -> None:
    gelu = Activation("gelu", ("embed",), (), Function.GELU_ERF)
    message = forms_refusal(extended(gelu, linear("fc", "gelu", 3), output="fc"))
    assert "Node gelu (Activation): its input embed is int16" in message


def test_features_as_output() -> None:
    message = forms_refusal(Graph(GRAPH.image, GRAPH.nodes[:-2], (("features", "norm"),)))
    assert "Node norm (LayerNorm): it is a graph output" in message
    assert "with its head" in message


def test_value_wanted_in_two_formats() -> None:
    pair = (linear("fc", "norm", 24), Activation("gelu", ("fc",), (), Function.GELU_ERF))
    sides = (linear("one", "gelu", 3), linear("two", "fc", 3))
    nodes = (*GRAPH.nodes, *pair, *sides)
    outputs = (*GRAPH.outputs, ("a", "one"), ("b", "two"))
    message = forms_refusal(Graph(GRAPH.image, nodes, outputs))
    assert "Node fc (Linear): its value is read by Activation and Linear" in message


def test_result_that_nothing_reads() -> None:
    message = refusal(Graph(GRAPH.image, (*GRAPH.nodes, linear("idle", "norm", 3)), GRAPH.outputs))
    assert "Node idle (Linear): its value is read by nothing" in message


def test_patches_without_token_embedding() -> None:
    pool = MeanPool("pool", ("patch_embed",), (), 0, 9)
    message = refusal(extended(pool, linear("fc", "pool", 3), output="fc"))
    assert "Node patch_embed (PatchEmbed): its result must go to one TokenEmbed" in message


def test_onnx_names_are_in_the_message() -> None:
    graph = extended(Add("twice", ("embed", "embed"), ("onnx/Add_7",)), output="twice")
    assert "from ONNX onnx/Add_7" in forms_refusal(graph)


def test_activation_beyond_fixed_point() -> None:
    fc = next(node for node in GRAPH if node.name == "blocks.0.mlp.0")
    assert isinstance(fc, Linear)
    message = refusal(replaced("blocks.0.mlp.0", weight=fc.weight * 1e4))
    assert "Node blocks.0.gelu (Activation): its input reaches" in message


def test_weights_whose_products_overflow_float32() -> None:
    query = next(node for node in GRAPH if node.name == "blocks.0.attn.q")
    assert isinstance(query, Linear)
    message = refusal(replaced("blocks.0.attn.q", weight=np.full_like(query.weight, 3e38)))
    assert "Node blocks.0.attn.q (Linear): its result overflows float32" in message
    assert "normalised as in training" in message


def test_ratio_beyond_the_multipliers() -> None:
    query = next(node for node in GRAPH if node.name == "blocks.0.attn.q")
    assert isinstance(query, Linear)
    message = refusal(replaced("blocks.0.attn.q", weight=query.weight * 1e12))
    assert "Node blocks.0.attn: channel 0 has to be scaled by" in message
    assert "outside the range 2^-48 to 2^16" in message
