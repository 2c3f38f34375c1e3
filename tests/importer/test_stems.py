"""Convolution stems: the graph that they become, and its float execution."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from hybrid_builder import NORMS, Hybrid, hybrid
from onnx import TensorProto, helper
from onnx_builder import Calm, Net, Recipe, build
from oracle import Oracle
from verdicts import check_imported, some_images
from vitessera.codegen import graph as g
from vitessera.codegen.importer import Status, evaluate, import_model, inspect_model

STEM = ("ImagePatches", "Linear", "GroupNorm", "Activation", "MaxPool", "Unfold", "Linear")


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    made = Oracle()
    yield made
    made.close()


def written(recipe: Hybrid, folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(hybrid(recipe), path)
    return path


def kinds(graph: g.Graph) -> tuple[str, ...]:
    return tuple(type(node).__name__ for node in graph)


def of(graph: g.Graph, kind: type[g.Node]) -> g.Node:
    return next(node for node in graph if isinstance(node, kind))


@pytest.mark.parametrize(
    ("padding", "norm"), list(itertools.product(("pads", "same", "pad", "none"), NORMS))
)
@pytest.mark.parametrize("residual", [False, True])
def test_every_way_to_write_it_is_the_same_network(
    padding: str, norm: str, residual: bool, tmp_path: Path, oracle: Oracle
) -> None:
    side = 35 if padding == "none" else 32
    recipe = Hybrid(side=side, padding=padding, norm=norm, residual=residual, depth=1)
    graph = check_imported(written(recipe, tmp_path), oracle)
    assert graph.shapes()[of(graph, g.TokenEmbed).name] == (recipe.tokens, recipe.dim)
    if not residual and norm in ("instance", "group", "spelled out"):
        assert kinds(graph)[: len(STEM)] == STEM


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("class_token", [False, True])
@pytest.mark.parametrize(("patch", "images"), [(1, 1), (2, 1), (4, 1), (2, 3)])
def test_sizes_tokens_and_images(
    pool: bool, class_token: bool, patch: int, images: int, tmp_path: Path, oracle: Oracle
) -> None:
    recipe = Hybrid(pool=pool, class_token=class_token, patch=patch, depth=1, norm="group")
    path = written(dataclasses.replace(recipe, images=images), tmp_path)
    if images == 1:
        graph = check_imported(path, oracle)
    else:
        graph = import_model(path)
        alone = import_model(written(recipe, tmp_path))
        image = some_images(graph, 1, seed=2)
        for name, value in evaluate(alone, image).items():
            np.testing.assert_array_equal(evaluate(graph, image)[name], value)
    assert graph.image.shape == (3, 32, 32)
    assert isinstance(graph[of(graph, g.TokenEmbed).inputs[0]], g.Linear)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("padding", ["pads", "pad"])
def test_several_images_are_kept_apart(padding: str, norm: str, tmp_path: Path) -> None:
    """A file for three images at once holds the network of one."""
    recipe = Hybrid(padding=padding, norm=norm, residual=True, depth=1)
    alone = import_model(written(recipe, tmp_path))
    inspection = inspect_model(written(dataclasses.replace(recipe, images=3), tmp_path))
    assert inspection.images == 3
    assert inspection.graph is not None, inspection.rows
    image = some_images(alone, 1, seed=2)
    found, wanted = evaluate(inspection.graph, image), evaluate(alone, image)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)


def test_windows_names_and_account(tmp_path: Path) -> None:
    inspection = inspect_model(written(Hybrid(padding="pad", depth=1), tmp_path))
    graph = inspection.graph
    assert graph is not None
    assert [node.name for node in graph][:8] == [
        "image_patches",
        "linear0",
        "group_norm0",
        "relu0",
        "max_pool0",
        "unfold0",
        "linear1",
        "token_embed",
    ]
    image, pool, patches = (
        of(graph, kind).window  # type: ignore[attr-defined]
        for kind in (g.ImagePatches, g.MaxPool, g.Unfold)
    )
    assert image == g.Window((32, 32), (7, 7), 2, (2, 2), (16, 16))
    assert pool == g.Window((16, 16), (3, 3), 2, (0, 0), (8, 8))
    assert patches == g.Window((8, 8), (2, 2), 2, (0, 0), (4, 4))
    rows = {row.name: row for row in inspection.rows}
    assert rows["pad_0"].into == "image_patches, linear0"
    assert rows["conv_1"].into == "image_patches, linear0"
    assert rows["instancenormalization_4"].into == "group_norm0"
    assert rows["pad_11"].into == "max_pool0"
    assert rows["maxpool_12"].into == "max_pool0"
    assert rows["maxpool_12"].status is Status.MAPPED
    assert rows["pad_11"].status is Status.FOLDED


def test_weights_of_a_convolution_are_in_the_order_of_its_window(tmp_path: Path) -> None:
    recipe = Hybrid(norm="none", padding="none", side=35, pool=False, patch=2, depth=1)
    net = Calm(opset=21)
    model = hybrid(recipe, net)
    onnx.save(model, tmp_path / "model.onnx")
    graph = import_model(tmp_path / "model.onnx")
    first, second = (onnx.numpy_helper.to_array(t) for t in net.weights if len(t.dims) == 4)
    layers = [node for node in graph if isinstance(node, g.Linear)][:2]
    np.testing.assert_array_equal(layers[0].weight, first.reshape(len(first), -1))
    turned = np.moveaxis(second, 1, -1).reshape(len(second), -1)
    np.testing.assert_array_equal(layers[1].weight, turned)


def test_groups_and_epsilon(tmp_path: Path) -> None:
    for norm in ("instance", "group", "spelled out"):
        graph = import_model(written(Hybrid(norm=norm, groups=4, depth=1), tmp_path))
        node = of(graph, g.GroupNorm)
        assert isinstance(node, g.GroupNorm)
        assert node.groups == 4
        assert node.eps == pytest.approx(1e-5)
        assert node.gamma.shape == node.beta.shape == (32,)


def test_evaluate_runs_maps_by_their_definition() -> None:
    """Each node on whole numbers, against sums that are written out."""
    window = g.Window((3, 4), (2, 3), 2, (1, 1), (2, 2))
    image = g.Image("image", (2, 3, 4))
    nodes = (
        g.ImagePatches("seen", ("image",), (), window),
        g.Linear("map", ("seen",), (), np.eye(4, 12, dtype=np.float32), np.zeros(4, np.float32)),
        g.Unfold("again", ("map",), (), g.Window((2, 2), (2, 2), 1, (1, 0), (2, 1))),
        g.MaxPool("greatest", ("map",), (), g.Window((2, 2), (2, 2), 1, (1, 0), (2, 1))),
    )
    graph = g.Graph(image, nodes, (("out", "greatest"),))
    pixels = np.arange(-12.0, 12.0, dtype=np.float32).reshape(2, 3, 4)
    values = evaluate(graph, pixels)
    padded = np.pad(pixels, ((0, 0), (1, 1), (1, 2)))
    for y, x in itertools.product(range(2), range(2)):
        box = padded[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 3]
        np.testing.assert_array_equal(values["seen"][2 * y + x], box.ravel())
    rows = values["map"].reshape(2, 2, 4)
    np.testing.assert_array_equal(values["again"][0, :8], np.zeros(8))
    np.testing.assert_array_equal(values["again"][0, 8:], rows[0].ravel())
    np.testing.assert_array_equal(values["again"][1], rows.ravel())
    np.testing.assert_array_equal(values["greatest"][0], rows[0].max(axis=0))
    np.testing.assert_array_equal(values["greatest"][1], rows.max(axis=(0, 1)))


def test_a_patch_embedding_stays_one(tmp_path: Path) -> None:
    net, output = build(Recipe())
    graph = import_model(net.save(tmp_path / "model.onnx", output))
    assert kinds(graph)[:2] == ("PatchEmbed", "TokenEmbed")


def test_a_convolution_behind_the_blocks(tmp_path: Path, oracle: Oracle) -> None:
    """Tokens that become a map again leave the patch embedding what it is."""

    def neck(net: Net, x: str) -> str:
        turned = net.op("Transpose", x, perm=[0, 2, 1])
        picture = net.op("Reshape", turned, net.ints(1, 8, 2, 2))
        return net.op("Conv", picture, net.weight(8, 8, 3, 3), pads=[1, 1, 1, 1])

    net, output = build(
        Recipe(
            embedded=lambda net, x: net.op("Add", x, net.weight(1, 4, 8)),
            after=neck,
            pool=lambda net, x: net.op("Flatten", net.op("GlobalAveragePool", x)),
        ),
        Calm(),
    )
    graph = check_imported(net.save(tmp_path / "model.onnx", output), oracle)
    assert kinds(graph)[:2] == ("PatchEmbed", "TokenEmbed")
    assert "Unfold" in kinds(graph)


def test_oversized_maps_are_refused_by_name(tmp_path: Path) -> None:
    """A few numbers in a file do not make the importer number elements without end."""
    net = Calm()
    wide = net.op("Conv", "image", net.weight(4, 3, 3, 3), name="wide", pads=[20000] * 4)
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 3, 8, 8))
    onnx.save(net.model(wide, [image]), tmp_path / "model.onnx")
    rows = inspect_model(tmp_path / "model.onnx").rows
    assert next(row.name for row in rows if row.status is Status.REFUSED) == "wide"
    assert "elements" in rows[0].reason
