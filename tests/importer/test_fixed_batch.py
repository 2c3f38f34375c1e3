"""Files that take several images at once, as an exporter writes that was given several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_builder import DIM, IMAGE, TOKENS, Net, Recipe, build, conv, tokens_last
from vitessera.cli.inspect import summary
from vitessera.codegen.errors import UnsupportedModelError
from vitessera.codegen.graph import Graph
from vitessera.codegen.importer import batch, evaluate, import_model, inspect_model
from vitessera.codegen.importer.layout import ARRANGING
from vitessera.codegen.importer.trace import HANDLERS

IMAGES = 3

Step = Callable[[Net, str], str]


def write(path: Path, recipe: Recipe, images: int) -> Path:
    """The model for `images` at once: their number stands in its shapes."""
    net, output = build(recipe)
    source = helper.make_tensor_value_info("image", TensorProto.FLOAT, (images, *IMAGE[1:]))
    for tensor in net.weights:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type == TensorProto.INT64 and len(values) > 1 and values[0] == 1:
            shape = np.array([images, *values[1:]])
            tensor.CopyFrom(numpy_helper.from_array(shape, tensor.name))
    onnx.save(net.model(output, [source]), path)
    return path


def pixels(count: int) -> np.ndarray:
    return np.random.default_rng(8).standard_normal((count, *IMAGE[1:]), np.float32)


def assert_same(found: Graph, expected: Graph) -> None:
    assert found.image == expected.image
    assert found.outputs == expected.outputs
    for node, other in zip(found, expected, strict=True):
        assert type(node) is type(other)
        for name, value in vars(node).items():
            if name != "origin":
                assert np.array_equal(value, getattr(other, name)), (node.name, name)


def class_token(net: Net, x: str) -> str:
    """As an exporter folds `expand`: one copy for each image."""
    token = np.broadcast_to(net.random.standard_normal((1, 1, DIM)), (IMAGES, 1, DIM))
    return net.op("Concat", net.const(token, name="class tokens"), x, axis=1)


def positions(net: Net, x: str) -> str:
    values = np.broadcast_to(net.random.standard_normal((1, TOKENS, DIM)), (IMAGES, TOKENS, DIM))
    return net.op("Add", x, net.const(values))


def merged(net: Net, x: str) -> str:
    """[batch * tokens, channels] through a Gemm."""
    rows = net.op("Reshape", x, net.ints(IMAGES * TOKENS, DIM))
    rows = net.op("Gemm", rows, net.weight(DIM, DIM), net.weight(DIM))
    return net.op("Reshape", rows, net.ints(1, TOKENS, DIM))


def tokens_first(net: Net, x: str) -> str:
    """[tokens, batch, channels] through a norm, and [tokens * batch, channels] through a Gemm."""
    turned = net.norm(net.op("Transpose", x, perm=[1, 0, 2]))
    rows = net.op("Reshape", turned, net.ints(TOKENS * IMAGES, DIM))
    rows = net.op("Gemm", rows, net.weight(DIM, DIM), net.weight(DIM))
    back = net.op("Reshape", rows, net.ints(TOKENS, IMAGES, DIM))
    return net.op("Transpose", back, perm=[1, 0, 2])


def stacked(net: Net, x: str) -> str:
    """The sum of a stack whose first axis is not the batch."""
    both = [net.op("Unsqueeze", net.linear(x, DIM, DIM), net.ints(0)) for _ in range(2)]
    return net.op("ReduceSum", net.op("Concat", *both, axis=0), net.ints(0), keepdims=0)


WAYS: dict[str, Recipe] = {
    "plain": Recipe(),
    "positions of each image": Recipe(embedded=positions),
    "batch and tokens merged": Recipe(after=merged),
    "tokens before the batch": Recipe(after=tokens_first),
    "a stack that is summed": Recipe(after=stacked),
}


@pytest.mark.parametrize("name", WAYS)
def test_the_network_is_that_of_one_image(name: str, tmp_path: Path) -> None:
    graph = import_model(write(tmp_path / "three.onnx", WAYS[name], IMAGES))
    images = pixels(IMAGES)
    session = ort.InferenceSession(tmp_path / "three.onnx", providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"image": images})
    (found,) = (evaluate(graph, images)[value] for _, value in graph.outputs)
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-4)


def test_it_is_the_graph_of_the_file_for_one_image(tmp_path: Path) -> None:
    several = import_model(write(tmp_path / "three.onnx", Recipe(), IMAGES))
    assert_same(several, import_model(write(tmp_path / "one.onnx", Recipe(), 1)))


def test_inspect_says_that_a_run_takes_one(tmp_path: Path) -> None:
    said = "The file takes 3 images at once, the accelerator one."
    assert summary(inspect_model(write(tmp_path / "three.onnx", Recipe(), IMAGES))).endswith(said)
    assert said not in summary(inspect_model(write(tmp_path / "one.onnx", Recipe(), 1)))


def test_class_tokens_of_each_image(tmp_path: Path) -> None:
    net = Net()
    x = class_token(net, tokens_last(net, conv(net, "image")))
    output = net.linear(net.op("Gather", net.norm(x), net.const(0, np.int64), axis=1), DIM, 3)
    for tensor in net.weights:  # the shape of the patches
        if tensor.data_type == TensorProto.INT64 and list(tensor.dims) == [3]:
            shape = np.array([IMAGES, DIM, TOKENS])
            tensor.CopyFrom(numpy_helper.from_array(shape, tensor.name))
    source = helper.make_tensor_value_info("image", TensorProto.FLOAT, (IMAGES, *IMAGE[1:]))
    onnx.save(net.model(output, [source]), tmp_path / "model.onnx")
    graph = import_model(tmp_path / "model.onnx")
    assert graph.shapes()["token_embed"] == (TOKENS + 1, DIM)


def test_every_node_that_computes_says_how_it_treats_a_batch() -> None:
    known = batch.ELEMENTWISE | batch.BATCH_FIRST | batch.BY_AXIS
    assert known == set(HANDLERS) - set(ARRANGING) - {"Cast", "Dropout"} | {"Concat"}


# --- What mixes images


def mean_of_images(net: Net, x: str) -> str:
    return net.op("Sub", x, net.op("ReduceMean", x, net.ints(0), keepdims=1, name="culprit"))


def next_image(net: Net, x: str) -> str:
    """Each image's tokens are added to those of the next one."""
    first = net.op("Slice", x, net.ints(0), net.ints(1), net.ints(0))
    rest = net.op("Slice", x, net.ints(1), net.ints(IMAGES), net.ints(0))
    return net.op("Add", x, net.op("Concat", rest, first, axis=0), name="culprit")


def attention_to_images(net: Net, x: str) -> str:
    """Scores between the images, as nn.MultiheadAttention has them without batch_first."""
    turned = net.op("Transpose", x, perm=[1, 0, 2])
    keys = net.op("Transpose", turned, perm=[0, 2, 1])
    return net.op("Add", x, net.op("MatMul", turned, keys, name="culprit"))


def softmax_of_images(net: Net, x: str) -> str:
    return net.op("Softmax", x, axis=0, name="culprit")


def norm_of_images(net: Net, x: str) -> str:
    gamma = net.weight(IMAGES, TOKENS, DIM)
    return net.op("LayerNormalization", x, gamma, axis=0, name="culprit")


def einsum_of_images(net: Net, x: str) -> str:
    return net.op("Einsum", x, net.weight(IMAGES, IMAGES), equation="bnc,bd->dnc", name="culprit")


def other_positions(net: Net, x: str) -> str:
    return net.op("Add", x, net.weight(IMAGES, TOKENS, DIM), name="culprit")


def one_image_of_all(net: Net, x: str) -> str:
    first = net.op("Slice", x, net.ints(0), net.ints(1), net.ints(0))
    return net.op("Relu", first, name="culprit")


def turned_gemm(net: Net, x: str) -> str:
    rows = net.op("Reshape", x, net.ints(IMAGES * TOKENS, DIM))
    weight = net.weight(IMAGES * TOKENS, DIM)
    return net.op("Gemm", rows, weight, transA=1, name="culprit")


MIXED: dict[str, tuple[Step, str]] = {
    "mean over the batch": (mean_of_images, "works along the 3 images"),
    "the next image": (next_image, "does not keep the 3 images of the batch apart"),
    "attention between images": (attention_to_images, "images of the batch along different axes"),
    "softmax over the batch": (softmax_of_images, "works along the 3 images"),
    "a norm over the batch": (norm_of_images, "works along the 3 images"),
    "einsum over the batch": (einsum_of_images, "works along the 3 images"),
    "transposed gemm": (turned_gemm, "works along the 3 images"),
    "other positions for each": (other_positions, "constant differs between the images"),
    "one image of all": (one_image_of_all, "does not keep the 3 images of the batch apart"),
}


@pytest.mark.parametrize("name", MIXED)
def test_what_mixes_images_is_refused(name: str, tmp_path: Path) -> None:
    step, reason = MIXED[name]
    path = write(tmp_path / "model.onnx", replace(Recipe(), after=step), IMAGES)
    (culprit,) = (row for row in inspect_model(path).rows if row.name == "culprit")
    assert reason in culprit.reason
    assert culprit.remedy == "Export the model again with batch 1 or with a dynamic batch axis."


def test_a_result_that_mixes_images_is_refused(tmp_path: Path) -> None:
    def first(net: Net, x: str) -> str:
        return net.op("Slice", x, net.ints(0), net.ints(1), net.ints(0), name="culprit")

    path = write(tmp_path / "model.onnx", Recipe(finish=first), IMAGES)
    with pytest.raises(UnsupportedModelError, match=r"culprit.*does not keep the 3 images"):
        import_model(path)
