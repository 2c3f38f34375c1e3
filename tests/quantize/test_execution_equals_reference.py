"""Matrix-level execution gives the numbers of the instruction-level reference, value by value."""

from __future__ import annotations

import numpy as np
import pytest
from random_hybrid import STEMS, random_hybrid, two_norms
from random_vit import Shape, random_images, random_vit
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.errors import CapacityError
from vitessera.codegen.graph import Function, Graph
from vitessera.codegen.preprocess import patches
from vitessera.codegen.quantexec import execute
from vitessera.codegen.quantgraph import Gather, PatchInput, QuantGraph
from vitessera.codegen.quantize import quantize
from vitessera.codegen.reference import Reference
from vitessera.codegen.schedule import schedule
from vitessera.codegen.schedule.split import split


@pytest.mark.parametrize("tile, depth, lanes", [(8, 4, 8), (4, 2, 4), (8, 2, 2)])
@pytest.mark.parametrize(
    "shape",
    [
        Shape(blocks=1),
        Shape(blocks=1, pool="mean", prefix=0, function=Function.GELU_TANH),
        Shape(blocks=1, pool="mean_first", prefix=5, function=Function.RELU),
        Shape(blocks=2, bias=4.0),
        Shape(blocks=1, pool="none", prefix=5, bias=1.0, causal=True),
    ],
    ids=["token", "mean", "mean_first", "bias", "causal"],
)
def test_values_are_equal(shape: Shape, tile: int, depth: int, lanes: int) -> None:
    check_values(random_vit(0, shape), tile, depth, lanes)


@pytest.mark.parametrize(
    "tile, depth, lanes, prefix", [(8, 4, 8, 1), (4, 2, 4, 5), (8, 2, 2, 0), (16, 4, 4, 15)]
)
@pytest.mark.parametrize("name", STEMS)
def test_values_of_hybrids_are_equal(
    name: str, tile: int, depth: int, lanes: int, prefix: int
) -> None:
    shape = Shape(image=(3, 20, 28), blocks=1, prefix=prefix)
    check_values(random_hybrid(0, shape, STEMS[name]), tile, depth, lanes)


@pytest.mark.parametrize("groups", [(48, 2, 4), (24, 6, 2), (24, 1, 3), (16, 4, 2)])
def test_values_of_two_norms_of_a_map_are_equal(groups: tuple[int, int, int]) -> None:
    check_values(two_norms(*groups), 8, 4, 4)


def test_groups_that_overlap_in_padding_are_refused() -> None:
    with pytest.raises(CapacityError, match=r"normalises 5 groups .* also is read with 4 groups"):
        check_values(two_norms(40, 5, 4), 8, 4, 4)


@pytest.mark.parametrize("parts", [2, 3, 16])
@pytest.mark.parametrize(
    "name", ["r-stem", "large groups", "groups of three", "no norm", "no pool"]
)
def test_values_of_stems_in_parts_are_equal(name: str, parts: int) -> None:
    graph = random_hybrid(0, stem=STEMS[name])
    whole = quantize(graph, random_images(graph, 8, seed=1))
    cut = split(whole, parts)
    gathers = [node for node in cut if isinstance(node, Gather)]
    groups = whole.nodes[1].value.channels if name == "no norm" else STEMS[name].groups
    assert len(gathers) == min(parts, groups)
    check_integers(cut, graph, 8, 4, 4)
    images = random_images(graph, 4, seed=3)
    exact, rounded = (execute(network, images)["head"].astype(int) for network in (whole, cut))
    assert np.abs(exact - rounded).max() <= 0.05 * exact.std()


def check_values(graph: Graph, tile: int, depth: int, lanes: int) -> None:
    quantgraph = quantize(graph, random_images(graph, 8, seed=1))
    check_integers(quantgraph, graph, tile, depth, lanes)


def check_integers(quantgraph: QuantGraph, graph: Graph, tile: int, depth: int, lanes: int) -> None:
    (image,) = random_images(graph, 1, seed=2)
    source = quantgraph.nodes[0]
    assert isinstance(source, PatchInput)
    config = HardwareConfig(tile=tile, depth=depth, lanes=lanes, left_words=65536, maps=True)
    observed = Reference(schedule(quantgraph, config)).values(patches(source, image))
    executed = execute(quantgraph, image[None], lanes)
    assert len(observed) > 8
    for name, integers in observed.items():
        assert np.array_equal(executed[name][0], integers), name
