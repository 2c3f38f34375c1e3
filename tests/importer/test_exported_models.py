"""Models exported by torch import to a graph that computes what ONNX Runtime computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

pytest.importorskip("torch", reason="models are exported where torch is installed")

from vit_variants import DIM, HEADS, UnsupportedOpsetError, Variant, export
from vitessera.codegen.graph import (
    Activation,
    Attention,
    Function,
    Graph,
    LayerNorm,
    Linear,
    MeanPool,
    PatchEmbed,
    SelectToken,
    TokenEmbed,
)
from vitessera.codegen.importer import Status, evaluate, inspect_model

pytestmark = pytest.mark.export

GraphOf = Callable[..., Graph]

EXPORTERS = {"dynamo": True, "script": False}


def imported(path: Path) -> Graph:
    """The graph, after checking that every node is accounted for and the numbers agree."""
    inspection = inspect_model(path)
    refused = [row for row in inspection.rows if row.status is Status.REFUSED]
    assert not refused, refused
    assert inspection.graph is not None
    assert len(inspection.rows) == len(onnx.load(path).graph.node)
    assert all(row.into for row in inspection.rows), "a node vanished without account"
    check_normal_form(inspection.graph)
    check_values(inspection.graph, path)
    return inspection.graph


def check_normal_form(graph: Graph) -> None:
    assert isinstance(graph.nodes[0], PatchEmbed)
    assert isinstance(graph.nodes[1], TokenEmbed)
    shapes = graph.shapes()
    for node in graph:
        if isinstance(node, Attention):
            assert len({shapes[name] for name in node.inputs}) == 1
            assert all(isinstance(graph[name], Linear) for name in node.inputs)
    assert len({node.name for node in graph}) == len(graph.nodes)
    assert all(node.origin for node in graph)


def check_values(graph: Graph, path: Path) -> None:
    image = graph.image
    images = np.random.default_rng(0).standard_normal((3, *image.shape), dtype=np.float32)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    values = evaluate(graph, images)
    for position, (_, value) in enumerate(graph.outputs):
        wanted = np.stack([session.run(None, {image.name: x[None]})[position][0] for x in images])
        found = values[value].reshape(wanted.shape)
        assert np.abs(found - wanted).max() < 1e-4
        cosine = np.vdot(found, wanted) / (np.linalg.norm(found) * np.linalg.norm(wanted))
        assert cosine > 1 - 1e-6


@pytest.fixture
def graph_of(tmp_path: Path) -> GraphOf:
    def make(variant: Variant, exporter: str, opset: int = 0, **options: bool) -> Graph:
        # Each exporter at the operator set where it spells out the most.
        opset = opset or {"dynamo": 18, "script": 17}[exporter]
        try:
            path = export(
                variant, tmp_path / "m.onnx", dynamo=EXPORTERS[exporter], opset=opset, **options
            )
        except UnsupportedOpsetError as error:
            pytest.skip(str(error))
        return imported(path)

    return make


@pytest.mark.parametrize(
    ("exporter", "opset"),
    [*(("dynamo", n) for n in (17, 18, 20, 23, 24)), *(("script", n) for n in (17, 18, 20, 23))],
)
def test_every_operator_set(graph_of: GraphOf, exporter: str, opset: int) -> None:
    graph = graph_of(Variant(depth=2, scale="sdpa"), exporter, opset)
    attentions = [node for node in graph if isinstance(node, Attention)]
    assert len(attentions) == 2
    assert all(node.heads == HEADS for node in attentions)
    assert all(node.scale == pytest.approx((DIM / HEADS) ** -0.5) for node in attentions)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_dynamic_batch_is_bound_to_one(graph_of: GraphOf, exporter: str) -> None:
    graph_of(Variant(), exporter, dynamic_batch=True)


@pytest.mark.parametrize("scale", ["scores", "q", "k", "both", "divide"])
def test_attention_scale_wherever_it_is(graph_of: GraphOf, scale: str) -> None:
    qkv = {"q": "separate", "k": "chunk", "both": "interleaved"}.get(scale, "fused")
    graph = graph_of(Variant(qkv=qkv, scale=scale), "script")
    found = [node.scale for node in graph if isinstance(node, Attention)]
    assert found == [pytest.approx((DIM / HEADS) ** -0.5)]


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu"])
def test_activation_modules(graph_of: GraphOf, activation: str) -> None:
    assert functions(graph_of(Variant(activation=activation), "script")) == [Function(activation)]


@pytest.mark.parametrize(
    "form", ["half_first", "half_last", "half_inside", "distributed", "spread_out"]
)
def test_gelu_spelled_out(graph_of: GraphOf, form: str) -> None:
    assert functions(graph_of(Variant(activation=form), "script")) == [Function.GELU_ERF]


@pytest.mark.parametrize("form", ["tanh_pow", "tanh_factored"])
def test_tanh_gelu_spelled_out(graph_of: GraphOf, form: str) -> None:
    assert functions(graph_of(Variant(activation=form), "script")) == [Function.GELU_TANH]


def functions(graph: Graph) -> list[Function]:
    return [node.function for node in graph if isinstance(node, Activation)]


@pytest.mark.parametrize("form", ["pow", "rsqrt", "half_power", "var"])
def test_layer_norm_spelled_out(graph_of: GraphOf, form: str) -> None:
    graph = graph_of(Variant(norm=form), "script")
    norms = [node for node in graph if isinstance(node, LayerNorm)]
    assert [node.eps for node in norms] == [pytest.approx(1e-5)] * 3


@pytest.mark.parametrize("pool", ["cls_early", "mean", "mean_patches", "none"])
def test_pooling(graph_of: GraphOf, pool: str) -> None:
    graph = graph_of(Variant(pool=pool, prefix=2), "script")
    kinds = {type(node) for node in graph}
    assert (SelectToken in kinds) == (pool == "cls_early")
    assert (MeanPool in kinds) == pool.startswith("mean")


def test_positions_before_the_class_token(graph_of: GraphOf) -> None:
    embed = graph_of(Variant(positions="before", pool="mean_patches"), "script")["token_embed"]
    assert isinstance(embed, TokenEmbed)
    assert embed.prefix.shape == (1, DIM)
    assert not embed.positions[0].any()


def test_no_class_token_and_no_positions(graph_of: GraphOf) -> None:
    embed = graph_of(Variant(prefix=0, positions="none", pool="mean"), "script")["token_embed"]
    assert isinstance(embed, TokenEmbed)
    assert embed.prefix.shape == (0, DIM)
    assert not embed.positions.any()


def test_layer_scale_is_absorbed(graph_of: GraphOf) -> None:
    plain = graph_of(Variant(), "script")
    scaled = graph_of(Variant(layer_scale=True), "script")
    assert [type(node) for node in plain] == [type(node) for node in scaled]


def test_heads_joined_in_another_order(graph_of: GraphOf) -> None:
    graph_of(Variant(output_heads="depth_major"), "script")


# dynamo takes seconds a model, so each of its models shows several features.
MIXTURES = {
    "early": Variant(
        qkv="interleaved", scale="both", activation="gelu_tanh", norm="var", positions="before"
    ),
    "manual": Variant(
        qkv="separate", scale="q", activation="spread_out", norm="half_power", pool="mean_patches"
    ),
    "late": Variant(
        qkv="chunk", scale="k", activation="tanh_pow", norm="rsqrt", pool="mean", layer_scale=True
    ),
    "module": Variant(qkv="mha", activation="relu", pool="cls_early", prefix=2),
}


@pytest.mark.parametrize("mixture", MIXTURES)
def test_mixtures_from_dynamo(graph_of: GraphOf, mixture: str) -> None:
    graph_of(MIXTURES[mixture], "dynamo")


def test_multihead_attention_module_as_one_operator(graph_of: GraphOf) -> None:
    graph_of(Variant(qkv="mha"), "dynamo", 23)
