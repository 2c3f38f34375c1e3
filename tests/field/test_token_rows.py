"""Whatever stands between the patches and the tokens, and constant tokens wherever they join."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx_builder import (
    DIM,
    TOKENS,
    Calm,
    Net,
    Recipe,
    Step,
    build,
    chain,
    conv,
    heads,
    joined,
    same,
    tokens_last,
    transposed,
)
from oracle import Oracle
from verdicts import check_compiled
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.graph import Arrange, TokenEmbed
from vitessera.codegen.importer import import_model

CONFIG = HardwareConfig(maps=True)


def layer_norm(net: Net, x: str) -> str:
    return net.norm(x)


def op(op_type: str, **attrs: object) -> Step:
    return lambda net, x: net.op(op_type, x, **attrs)


def batch_norm(net: Net, x: str) -> str:
    mean, variance = net.const(net.random.normal(0, 0.2, DIM)), net.const(np.full(DIM, 0.6))
    return net.op("BatchNormalization", x, net.weight(DIM), net.weight(DIM), mean, variance)


def group_norm(net: Net, x: str) -> str:
    ones, zeros = net.const(np.ones(2)), net.const(np.zeros(2))
    groups = net.op("Reshape", x, net.ints(1, 2, -1))
    normal = net.op("InstanceNormalization", groups, ones, zeros)
    return net.op("Reshape", normal, net.ints(1, DIM, 2, 2))


POOL = op("MaxPool", kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
# What follows the convolution, on the map, and then on the tokens.
ENDINGS: dict[str, tuple[Step, Step]] = {
    "nothing": (same, same),
    "layer norm": (same, layer_norm),
    "ReLU": (op("Relu"), same),
    "GELU": (op("Gelu"), same),
    "max pool": (chain(op("Relu"), POOL), same),
    "batch norm": (batch_norm, same),
    "GELU, then batch norm": (chain(op("Gelu"), batch_norm), same),
    "group norm": (group_norm, same),
    "group norm and ReLU": (chain(group_norm, op("Relu")), same),
    "softly bounded": (op("Tanh"), layer_norm),
}


def class_token(net: Net, x: str) -> str:
    return net.op("Concat", net.weight(1, 1, DIM), x, axis=1)


def positions(count: int) -> Step:
    return lambda net, x: net.op("Add", x, net.weight(1, count, DIM))


def detection_tokens(net: Net, x: str) -> str:
    """As YOLOS has them: one class token before the patches, others behind."""
    return net.op("Concat", net.weight(1, 1, DIM), x, net.weight(1, 3, DIM), axis=1)


def prompts(net: Net, x: str) -> str:
    """As deep prompts are put: behind the class token of whatever stream there is."""
    first = net.op("Slice", x, net.ints(0), net.ints(1), net.ints(1))
    rest = net.op("Slice", x, net.ints(1), net.ints(TOKENS), net.ints(1))
    return net.op("Concat", first, net.weight(1, 2, DIM), rest, axis=1)


JOINS: dict[str, Step] = {
    "class token": class_token,
    "positions": positions(TOKENS),
    "class token and positions": chain(class_token, positions(TOKENS + 1)),
    "detection tokens and positions": chain(detection_tokens, positions(TOKENS + 4)),
}


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    made = Oracle()
    yield made
    made.close()


def written(recipe: Recipe, folder: Path) -> Path:
    net, output = build(recipe, Calm())
    return net.save(folder / "model.onnx", output)


def first_token(net: Net, x: str) -> str:
    return net.op("Gather", x, net.const(0, np.int64), axis=1)


@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize("ending", ENDINGS)
def test_constant_tokens_join_whatever_makes_the_tokens(
    ending: str, join: str, tmp_path: Path, oracle: Oracle
) -> None:
    on_map, on_tokens = ENDINGS[ending]
    recipe = Recipe(
        patches=chain(conv, on_map),
        arrange=chain(tokens_last, on_tokens),
        embedded=JOINS[join],
        pool=first_token,
    )
    check_compiled(written(recipe, tmp_path), oracle, CONFIG)


def attended(net: Net, x: str, placed: str) -> str:
    """x + attention, whose queries and keys see `placed`."""
    q, k = (heads(net, net.linear(placed, DIM, DIM)) for _ in "qk")
    v = heads(net, net.linear(x, DIM, DIM))
    scores = net.op("Mul", net.op("MatMul", q, transposed(net, k)), net.const(0.5))
    mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    return net.op("Add", x, net.linear(joined(net, mixed), DIM, DIM))


@pytest.mark.parametrize("join", [*JOINS, "prompts"])
def test_constant_tokens_join_the_stream_behind_a_block(
    join: str, tmp_path: Path, oracle: Oracle
) -> None:
    """Detection tokens, prompts and positions that come with a later layer."""

    def second_block(net: Net, x: str) -> str:
        x = {**JOINS, "prompts": prompts}[join](net, x)
        return attended(net, x, net.norm(x))

    recipe = Recipe(embedded=positions(TOKENS), after=second_block, pool=first_token)
    check_compiled(written(recipe, tmp_path), oracle)


def test_positions_that_only_queries_and_keys_see(tmp_path: Path, oracle: Oracle) -> None:
    """As detectors write it: the stream goes on without them."""

    def block(net: Net, x: str, _: Recipe) -> str:
        return attended(net, x, positions(TOKENS)(net, x))

    check_compiled(written(Recipe(block=block), tmp_path), oracle)


def test_a_norm_before_and_behind_the_patch_embedding(tmp_path: Path, oracle: Oracle) -> None:
    """As vit-pytorch writes it: patches cut by an einops pattern, LayerNorm, Linear, LayerNorm."""
    values = 2 * 2 * 2

    def cut(net: Net, x: str) -> str:
        """b c (h p1) (w p2) -> b (h w) (p1 p2 c)."""
        split = net.op("Reshape", x, net.ints(1, 2, 2, 2, 2, 2))
        turned = net.op("Transpose", split, perm=[0, 2, 4, 3, 5, 1])
        return net.op("Reshape", turned, net.ints(1, TOKENS, values))

    def embed(net: Net, x: str) -> str:
        scale, bias = net.weight(values), net.weight(values)
        normal = net.op("LayerNormalization", x, scale, bias, axis=-1)
        return net.norm(net.linear(normal, values, DIM))

    recipe = Recipe(
        patches=cut,
        arrange=embed,
        embedded=chain(class_token, positions(TOKENS + 1)),
        pool=first_token,
    )
    check_compiled(written(recipe, tmp_path), oracle)


def test_a_class_token_behind_a_norm_needs_no_maps(tmp_path: Path) -> None:
    """Such a network runs on any accelerator: its rows are moved by a product."""
    recipe = Recipe(arrange=chain(tokens_last, layer_norm), embedded=JOINS["class token"])
    graph = import_model(written(recipe, tmp_path))
    (embed,) = (node for node in graph if isinstance(node, TokenEmbed) and len(node.prefix))
    assert graph.shapes()[embed.name] == (TOKENS + 1, DIM)
    assert not any(isinstance(node, Arrange) for node in graph), "rows are the quantiser's to move"


def test_a_class_token_is_taken_out_again_and_another_joins_it(tmp_path: Path) -> None:
    """As in class attention behind distillation: queries are constant tokens, keys are all."""

    def block(net: Net, x: str, _: Recipe) -> str:
        tokens = net.op("Concat", net.weight(1, 1, DIM), x, axis=1)
        tokens = net.op("Add", tokens, net.weight(1, TOKENS + 1, DIM))
        first = net.op("Slice", tokens, net.ints(0), net.ints(1), net.ints(1))
        asking = net.op("Concat", net.weight(1, 1, DIM), first, axis=1)
        query = heads(net, net.linear(asking, DIM, DIM))
        key = transposed(net, heads(net, net.linear(tokens, DIM, DIM)))
        scores = net.op("Mul", net.op("MatMul", query, key), net.const(0.5))
        value = heads(net, net.linear(tokens, DIM, DIM))
        mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), value)
        return net.op("Add", asking, net.linear(joined(net, mixed), DIM, DIM))

    assert import_model(written(Recipe(block=block), tmp_path)).nodes
