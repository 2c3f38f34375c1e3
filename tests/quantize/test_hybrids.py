"""Hybrids: maps are normalised, pooled and gathered in integers as in float."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from random_hybrid import STEMS, Stem, random_hybrid, window
from random_vit import Shape, random_images, random_parameters
from vitessera.codegen import isa
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.errors import CapacityError, UnsupportedModelError
from vitessera.codegen.graph import (
    Graph,
    GroupNorm,
    Linear,
    MaxPool,
    MeanPool,
    Node,
    SelectToken,
    TokenEmbed,
    Window,
)
from vitessera.codegen.importer import evaluate
from vitessera.codegen.pipeline import check_parts
from vitessera.codegen.quantexec import predict
from vitessera.codegen.quantgraph import Constant, Gather, PatchInput, Product, QuantGraph
from vitessera.codegen.quantize import quantize
from vitessera.codegen.schedule import schedule
from vitessera.codegen.schedule.split import split


def cosine(quantgraph: QuantGraph, graph: Graph, images: npt.NDArray[np.float32]) -> float:
    real = evaluate(graph, images)[dict(graph.outputs)["logits"]].ravel()
    found = predict(quantgraph, images)["logits"].ravel()
    return float(real @ found / np.linalg.norm(real) / np.linalg.norm(found))


@pytest.mark.parametrize("name", STEMS)
@pytest.mark.parametrize("prefix", [1, 5, 16])
def test_integers_stay_near_float(name: str, prefix: int) -> None:
    graph = random_hybrid(3, Shape(image=(3, 20, 28), blocks=1, prefix=prefix), STEMS[name])
    quantgraph = quantize(graph, random_images(graph, 16, seed=1))
    assert cosine(quantgraph, graph, random_images(graph, 8, seed=2)) > 0.995


def test_many_column_tiles_are_copied_by_several_instructions() -> None:
    graph = random_hybrid(3, Shape(image=(3, 8, 8), blocks=0), Stem(channels=520, groups=0))
    quantgraph = quantize(graph, random_images(graph, 2, seed=1))
    program = schedule(
        quantgraph, HardwareConfig(tile=4, depth=4, lanes=4, right_words=1 << 17, maps=True)
    )
    gathers = [entry for entry in program.instructions if isinstance(entry, isa.Gather)]
    assert [entry.inner for entry in gathers] == [127] * 4 + [3] * 4


def test_a_stem_is_gathered_in_one_pass() -> None:
    graph = random_hybrid(3)
    nodes = quantize(graph, random_images(graph, 8, seed=1)).nodes[:5]
    assert [type(node) for node in nodes] == [PatchInput, Product, Gather, Constant, Product]
    gather = nodes[2]
    assert isinstance(gather, Gather)
    assert gather.origin == ("stem.norm", "stem.relu", "pool", "patches")
    assert (gather.relu, gather.groups, gather.prefix) == (True, 8, 1)


def test_padding_is_not_unfolded_behind_a_pool() -> None:
    """What a padded convolution sees of a pool's result is gathered in a pass of its own."""
    graph = random_hybrid(3, stem=Stem(bottleneck=True))
    quantgraph = quantize(graph, random_images(graph, 8, seed=1))
    for node in quantgraph:
        if isinstance(node, Gather) and node.unfold.is_padded:
            assert node.pool == Window.of_each(node.pool.source)


@pytest.mark.parametrize("reader", ["pool", "norm"])
def test_what_cannot_be_one_pass_gets_a_product(reader: str) -> None:
    """GroupNorm behind a pool, a pool behind a pool: int8 goes back to int16 in between."""
    graph = random_hybrid(3, stem=Stem(patch=1))
    pool = graph["pool"]
    width = graph.shapes()["pool"][1]
    again: Node
    if reader == "pool":
        assert isinstance(pool, MaxPool)
        again = MaxPool("again", ("pool",), (), window(pool.window.grid, 3, 1))
    else:
        ones = np.ones(width, np.float32)
        again = GroupNorm("again", ("pool",), (), 4, ones, 0 * ones, 1e-5)
    place = graph.nodes.index(pool) + 1
    later = (
        replace(node, inputs=("again",)) if "pool" in node.inputs else node
        for node in graph.nodes[place:]
    )
    graph = replace(graph, nodes=(*graph.nodes[:place], again, *later))
    quantgraph = quantize(graph, random_images(graph, 16, seed=1))
    assert "pool.wide" in {node.name for node in quantgraph}
    assert cosine(quantgraph, graph, random_images(graph, 8, seed=2)) > 0.99


def test_a_map_that_leaves_is_not_cut() -> None:
    graph = random_hybrid(3)
    graph = replace(graph, outputs=(*graph.outputs, ("map", "stem")))
    quantgraph = quantize(graph, random_images(graph, 4, seed=1))
    cut = split(quantgraph, 2)
    assert "stem" in {node.name for node in cut}
    schedule(cut, HardwareConfig(left_words=1 << 16, residual_words=1 << 17, maps=True))


def cancelling(graph: Graph) -> Graph:
    """Tokens that half of the stem's channels make great, and the other half small again."""
    projection = graph["projection"]
    assert isinstance(projection, Linear)
    size = len(projection.weight)
    weight = 3 * np.abs(projection.weight).reshape(size, -1, 2, Stem().channels // 2)
    weight[:, :, 1] *= -1
    changed = replace(projection, weight=weight.reshape(size, -1))
    return replace(graph, nodes=tuple(changed if n is projection else n for n in graph.nodes))


def test_sums_of_parts_that_leave_int16_are_found() -> None:
    graph = cancelling(random_hybrid(3))
    images = random_images(graph, 8, seed=1)
    quantgraph = quantize(graph, images)
    config = HardwareConfig(left_words=1 << 16, residual_words=1 << 17, maps=True)
    program = schedule(split(quantgraph, 2), config)
    with pytest.raises(CapacityError, match=r"embed\.0: in 2 parts, the sum after this one leaves"):
        check_parts(quantgraph, replace(program, parts=2), images)
    check_parts(quantgraph, replace(program, parts=1), images)


def test_a_count_that_would_change_the_variance_is_refused() -> None:
    """65 x 65 numbers are counted as twice 2,112, which matters where the mean is great."""
    graph = random_hybrid(3, Shape(image=(1, 130, 130), blocks=0), Stem(channels=4, groups=4))
    stem = graph["stem"]
    assert isinstance(stem, Linear)
    far = replace(stem, bias=stem.bias + np.float32(60.0))
    moved = replace(graph, nodes=tuple(far if n is stem else n for n in graph.nodes))
    images = random_images(graph, 2, seed=1)
    quantize(graph, images)
    with pytest.raises(UnsupportedModelError, match=r"normalises 4225 numbers .* as 4224;"):
        quantize(moved, images)


def test_an_image_that_two_convolutions_see_alike() -> None:
    """One makes tokens behind a class token; the other's rows stay as they are."""
    graph = random_hybrid(3)
    patches = graph["image_patches"]
    width = graph.shapes()[patches.name][1]
    make = random_parameters(7)
    tokens = math.prod(graph.shapes()[patches.name][:1])
    nodes: list[Node] = [
        patches,
        Linear("a", (patches.name,), (), make("a.weight", (24, width)), make("a", (24,))),
        TokenEmbed("embed", ("a",), (), make("cls", (1, 24)), make("pos", (tokens + 1, 24))),
        Linear("b", (patches.name,), (), make("b.weight", (24, width)), make("b", (24,))),
        MeanPool("mean", ("b",), (), 0, tokens),
        SelectToken("token", ("embed",), (), 0),
        Linear("one", ("token",), (), make("one.weight", (5, 24)), make("one", (5,))),
        Linear("two", ("mean",), (), make("two.weight", (5, 24)), make("two", (5,))),
        MeanPool("all", ("embed",), (), 0, tokens + 1),
        Linear("three", ("all",), (), make("three.weight", (5, 24)), make("three", (5,))),
    ]
    outputs = (("logits", "three"), ("one", "one"), ("two", "two"))
    graph = Graph(graph.image, tuple(nodes), outputs)
    quantgraph = quantize(graph, random_images(graph, 8, seed=1))
    assert cosine(quantgraph, graph, random_images(graph, 4, seed=2)) > 0.99


def with_pool(kernel: int) -> Graph:
    """A hybrid with a larger max pool."""
    graph = random_hybrid(3, stem=Stem(patch=1))
    pool = graph["pool"]
    assert isinstance(pool, MaxPool)
    larger = replace(pool, window=window(pool.window.source, kernel, 2))
    return replace(graph, nodes=tuple(larger if node is pool else node for node in graph.nodes))


@pytest.mark.parametrize(
    "graph, message",
    [
        (with_pool(8), "pixels across of a max pool: 8, GATHER holds 1 to 7"),
        (
            random_hybrid(3, Shape(image=(1, 8, 1040), blocks=0), Stem(kernel=2, patch=2)),
            "pixels in a line of the map: 520, GATHER holds 1 to 511",
        ),
    ],
    ids=["pool", "line"],
)
def test_what_the_instruction_does_not_hold_is_refused(graph: Graph, message: str) -> None:
    quantgraph = quantize(graph, random_images(graph, 2, seed=1))
    with pytest.raises(CapacityError, match=message):
        schedule(quantgraph, HardwareConfig(left_words=1 << 18, residual_words=1 << 18, maps=True))


def test_an_accelerator_without_maps_refuses_hybrids() -> None:
    graph = random_hybrid(3)
    quantgraph = quantize(graph, random_images(graph, 2, seed=1))
    with pytest.raises(
        CapacityError, match="gathers a map, and the configuration has maps = false"
    ) as caught:
        schedule(quantgraph, HardwareConfig())
    assert "maps = true" in caught.value.remedy
