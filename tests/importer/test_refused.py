"""Wrong inputs, each with what its message must name. Nothing but our own errors may escape."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_builder import (
    DEPTH,
    DIM,
    HEADS,
    HIDDEN,
    IMAGE,
    TOKENS,
    Net,
    Recipe,
    Step,
    build,
    conv,
    heads,
    same,
    tokens_last,
)
from verdicts import check_refused
from vitessera.codegen.errors import (
    ModelFileError,
    ModelValueError,
    UnsupportedModelError,
)
from vitessera.codegen.importer import Status, import_model, inspect_model

DIGITS = Path(__file__).parents[2] / "examples" / "digits" / "vit_digits.onnx"


def op(op_type: str, *constants: object, **attrs: object) -> Step:
    """A step of one node, called `culprit`."""

    def step(net: Net, x: str) -> str:
        return net.op(op_type, x, *(net.const(c) for c in constants), name="culprit", **attrs)

    return step


def patch(**attrs: object) -> Step:
    def step(net: Net, x: str) -> str:
        weight = net.weight(DIM, 2 // int(attrs.get("group", 1)), 2, 2)
        return net.op("Conv", x, weight, name="culprit", **{"strides": [2, 2], **attrs})

    return step


def batch_norm(net: Net, x: str) -> str:
    values = [net.const(np.ones(DIM)) for _ in range(4)]
    return net.op("BatchNormalization", x, *values, outputs=3, name="culprit", training_mode=1)


def indexed_pool(net: Net, x: str) -> str:
    pooled = net.op("MaxPool", x, outputs=2, name="culprit", kernel_shape=[1, 1])
    return net.op("Add", pooled, net.op("Cast", f"{pooled}_1", to=TensorProto.FLOAT))


def talking_heads(net: Net, x: str) -> str:
    return net.op("Conv", x, net.weight(HEADS, HEADS, 1, 1), name="culprit")


def resized(net: Net, x: str) -> str:
    scales = net.const([1.0, 1.0, 2.0, 2.0])
    return net.op("Resize", x, "", scales, name="culprit")


def after_patches(step: Step) -> Step:
    """Puts a step on [1, channels, rows, columns]."""
    return lambda net, x: tokens_last(net, step(net, x))


def named_mix(net: Net, p: str, v: str) -> str:
    return net.op("MatMul", p, v, name="culprit")


def doubled_probabilities(net: Net, x: str) -> str:
    return net.op("Mul", net.op("Softmax", x, axis=-1), net.const(2.0), name="culprit")


def heads_by_reshape_alone(net: Net, x: str) -> str:
    return net.op("Reshape", x, net.ints(1, HEADS, TOKENS, DEPTH))


def reversed_tokens(net: Net, x: str) -> str:
    back = net.op("Slice", x, net.ints(-1), net.ints(-99), net.ints(1), net.ints(-1))
    return heads(net, back)


def added_to_scores(values: object) -> Step:
    return lambda net, x: net.op("Add", x, net.const(values), name="culprit")


def inverses_added_to_scores(*values: float) -> Step:
    def step(net: Net, x: str) -> str:
        inverses = net.op("Div", net.const(np.zeros(TOKENS) + 1e-30), net.const(values))
        return net.op("Add", x, net.op("Mul", inverses, net.const(1e30)), name="culprit")

    return step


def blind_token(value: float) -> Step:
    """A mask that hides all keys from token 2."""
    mask = np.triu(np.full((TOKENS, TOKENS), value), 1)
    mask[2] = value
    return added_to_scores(mask)


def bias_of_the_image(net: Net, x: str) -> str:
    pooled = net.op("ReduceMean", "image", keepdims=1, name="culprit")
    return net.op("Add", x, pooled)


def bias_of_probabilities(net: Net, x: str) -> str:
    return net.op("Add", net.op("Softmax", x, axis=-1), net.weight(TOKENS, TOKENS), name="culprit")


def bias_of_scaled_heads(net: Net, x: str) -> str:
    each = net.op("Mul", x, net.weight(HEADS, 1, 1), name="culprit")
    return net.op("Add", each, net.weight(TOKENS, TOKENS))


def data_dependent_scale(net: Net, x: str) -> str:
    pooled = net.op("ReduceMean", "image", keepdims=1, name="culprit")
    return net.op("Mul", x, pooled)


def scale_by_token(net: Net, x: str) -> str:
    return net.op("Mul", x, net.const(np.ones((TOKENS, 1)) * [[1], [2], [3], [4]]), name="culprit")


def swapped(net: Net, p: str, v: str) -> str:
    return net.op("MatMul", net.op("Transpose", v, perm=[0, 1, 3, 2]), p, name="culprit")


def turned_probabilities(net: Net, x: str) -> str:
    return net.op("Transpose", net.op("Softmax", x, axis=-1), perm=[0, 1, 3, 2])


def erf_gelu(inner: float, half: float) -> Step:
    def step(net: Net, x: str) -> str:
        bent = net.op("Erf", net.op("Mul", x, net.const(inner)), name="culprit")
        product = net.op("Mul", x, net.op("Add", bent, net.const(1.0)))
        return net.op("Mul", product, net.const(half))

    return step


def tanh_gelu(cubic: float) -> Step:
    def step(net: Net, x: str) -> str:
        cube = net.op("Mul", net.op("Pow", x, net.const(3.0)), net.const(cubic))
        inner = net.op("Mul", net.op("Add", x, cube), net.const(np.sqrt(2 / np.pi)))
        bent = net.op("Tanh", inner, name="culprit")
        product = net.op("Mul", x, net.op("Add", bent, net.const(1.0)))
        return net.op("Mul", product, net.const(0.5))

    return step


def tanh_gate(net: Net, x: str) -> str:
    return net.op("Mul", x, net.op("Tanh", x, name="culprit"))


def norm_with_eps_outside(net: Net, x: str) -> str:
    mean = net.op("ReduceMean", x, net.ints(-1))
    centred = net.op("Sub", x, mean)
    variance = net.op("ReduceMean", net.op("Mul", centred, centred), net.ints(-1))
    deviation = net.op("Add", net.op("Sqrt", variance), net.const(1e-5))
    return net.op("Div", centred, deviation, name=f"culprit_{len(net.nodes)}")


def norm_of_other_mean(net: Net, x: str) -> str:
    mean = net.op("ReduceMean", x, net.ints(1))
    centred = net.op("Sub", x, mean)
    variance = net.op("ReduceMean", net.op("Mul", centred, centred), net.ints(-1))
    deviation = net.op("Sqrt", net.op("Add", variance, net.const(1e-5)))
    return net.op("Div", centred, deviation, name=f"culprit_{len(net.nodes)}")


def norm_over_two_axes(net: Net, x: str) -> str:
    ones = net.const(np.ones((TOKENS, DIM)))
    return net.op("LayerNormalization", x, ones, axis=1, name=f"culprit_{len(net.nodes)}")


def norm_over_tokens(net: Net, x: str) -> str:
    turned = net.op("Transpose", x, perm=[0, 2, 1])
    normal = net.op("LayerNormalization", turned, net.const(np.ones(TOKENS)), axis=-1)
    net.nodes[-1].name = f"culprit_{len(net.nodes)}"
    return net.op("Transpose", normal, perm=[0, 2, 1])


def turned_output(net: Net, x: str) -> str:
    turned = net.op("Transpose", x, perm=[0, 2, 1])
    return net.op("MatMul", turned, net.weight(TOKENS, 3), name="culprit")


def every_other_token(net: Net, x: str) -> str:
    kept = net.op("Slice", x, net.ints(0), net.ints(4), net.ints(1), net.ints(2))
    return net.op("ReduceMean", kept, net.ints(1), keepdims=0, name="culprit")


def gate(net: Net, x: str) -> str:
    return net.op("Mul", x, net.linear(x, DIM, DIM), name="culprit")


def weight_on_the_left(net: Net, x: str) -> str:
    return net.op("MatMul", net.weight(TOKENS, TOKENS), x, name="culprit")


def weight_on_the_image(net: Net, x: str) -> str:
    return conv(net, net.op("MatMul", net.weight(4, 4), x, name="culprit"))


def shifted_silu(net: Net, x: str) -> str:
    bent = net.op("Sigmoid", net.op("Add", x, net.const(1.0)), name="culprit")
    return net.op("Mul", x, bent)


def gated_silu(net: Net, x: str) -> str:
    bent = net.op("Sigmoid", net.linear(x, HIDDEN, HIDDEN), name="culprit")
    return net.op("Mul", x, bent)


def swiglu(net: Net, x: str) -> str:
    active = net.op("Mul", x, net.op("Sigmoid", x))
    return net.op("Mul", active, net.linear(x, HIDDEN, HIDDEN), name="culprit")


def learned_query(net: Net, x: str, queries: int, depth: int = DEPTH) -> str:
    """Attention pooling with a constant query; the nodes at fault are `culprit...`."""
    key = net.op("Transpose", heads(net, net.linear(x, DIM, DIM)), perm=[0, 1, 3, 2])
    if depth != DEPTH:
        key = net.op("Slice", key, net.ints(0), net.ints(depth), net.ints(2))
    query = net.weight(1, HEADS, queries, depth)
    scores = net.op("MatMul", query, key, name="culprit")
    value = heads(net, net.linear(x, DIM, DIM))
    mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), value, name="culprit_mix")
    joined = net.op("Transpose", mixed, perm=[0, 2, 1, 3])
    return net.op("Reshape", joined, net.ints(queries, DIM))


def two_learned_queries(net: Net, x: str) -> str:
    return learned_query(net, x, 2)


def deep_query(net: Net, x: str) -> str:
    return learned_query(net, x, 1, DEPTH - 1)


def tokens_of_two_layers(net: Net, x: str) -> str:
    first = net.op("Slice", x, net.ints(0), net.ints(1), net.ints(1))
    second = net.linear(x, DIM, DIM)
    return net.linear(net.op("Concat", first, second, axis=1, name="culprit"), DIM, DIM)


def side_by_side(net: Net, x: str) -> str:
    return net.op("Concat", x, net.op("Relu", net.linear(x, 3, 3)), axis=1, name="culprit")


def joined_kinds(net: Net, x: str) -> str:
    wide = net.linear(x, DIM, 2 * DIM)
    split = net.op("Reshape", wide, net.ints(1, 2 * TOKENS, DIM))
    both = net.op("Concat", x, split, axis=1, name="culprit")
    return net.op("ReduceMean", both, net.ints(1), keepdims=0)


def constant_channels(net: Net, x: str) -> str:
    wide = net.op("Concat", net.weight(1, TOKENS, 1), x, axis=2, name="culprit")
    return net.linear(wide, DIM + 1, DIM)


def check_values(net: Net, x: str) -> str:
    return net.op("Where", net.op("IsNaN", x, name="culprit"), net.const(0.0), x)


def conditional(net: Net, x: str) -> str:
    mask = net.op("Identity", x)
    return net.op("Where", mask, x, net.const(0.0), name="culprit")


def einsum(equation: str, *shape: int) -> Step:
    def step(net: Net, x: str) -> str:
        weights = [net.weight(*shape)] if shape else []
        return net.op("Einsum", x, *weights, equation=equation, name="culprit")

    return step


def einsum_of_axes(net: Net, x: str) -> str:
    return net.op("Einsum", x, x, equation="ahij,ahkl->ahijkl", name="culprit")


def rms_norm(net: Net, x: str) -> str:
    name = f"culprit_{len(net.nodes)}"
    return net.op("RMSNormalization", x, net.weight(DIM), axis=-1, name=name)


def global_mean(net: Net, x: str) -> str:
    return net.op("Mul", conv(net, x), net.op("GlobalAveragePool", x, name="culprit"))


def rotary(net: Net, x: str) -> str:
    split = heads(net, x)
    cosine, sine = net.weight(1, 1, TOKENS, DEPTH), net.weight(1, 1, TOKENS, DEPTH)
    low = net.op("Slice", split, net.ints(0), net.ints(2), net.ints(3))
    high = net.op("Slice", split, net.ints(2), net.ints(4), net.ints(3))
    turned = net.op("Concat", net.op("Neg", high), low, axis=3)
    left, right = net.op("Mul", split, cosine), net.op("Mul", turned, sine)
    return net.op("Add", left, right, name="culprit")


def norm_of_heads(net: Net, x: str) -> str:
    return net.op("LayerNormalization", heads(net, x), net.weight(DEPTH), axis=-1, name="culprit")


def cut(net: Net, x: str, perm: tuple[int, ...]) -> str:
    """[1, 2, 4, 4] as [1, 2, rows, 2, columns, 2], turned by `perm`."""
    split = net.op("Reshape", x, net.ints(1, 2, 2, 2, 2, 2))
    return net.op("Transpose", split, perm=list(perm))


def embedded_cut(net: Net, x: str, values: int = 8) -> str:
    flat = net.op("Reshape", x, net.ints(1, TOKENS, 8))
    return net.op("MatMul", flat, net.weight(values, DIM), name="culprit")


def columns_first(net: Net, x: str) -> str:
    return embedded_cut(net, cut(net, x, (0, 4, 2, 1, 3, 5)))


def overlapping(net: Net, x: str) -> str:
    windows = [
        net.op("Slice", x, net.ints(row), net.ints(row + 2), net.ints(2)) for row in (0, 1, 2, 2)
    ]
    rows = [net.op("Reshape", window, net.ints(1, 1, 16)) for window in windows]
    tokens = net.op("Concat", *rows, axis=1)
    return net.op("MatMul", tokens, net.weight(16, DIM), name="culprit")


def long_patches(net: Net, x: str) -> str:
    return embedded_cut(net, cut(net, x, (0, 2, 4, 1, 3, 5)), 9)


def mirrored(net: Net, x: str) -> str:
    """The second column of patches has its pixels in another order."""
    whole = cut(net, x, (0, 2, 4, 1, 3, 5))
    left = net.op("Slice", whole, net.ints(0), net.ints(1), net.ints(2))
    right = net.op("Slice", whole, net.ints(1), net.ints(2), net.ints(2))
    turned = net.op("Transpose", right, perm=[0, 1, 2, 3, 5, 4])
    return embedded_cut(net, net.op("Concat", left, turned, axis=2))


def weights_of_another_size(net: Net, x: str) -> str:
    return net.op("MatMul", x, net.weight(DIM + 1, DIM), name="culprit")


def random_noise(net: Net, x: str) -> str:
    noise = net.op("RandomNormal", shape=[1], name="culprit")
    return net.op("Add", x, noise)


def training_dropout(net: Net, x: str) -> str:
    training = net.const(True, np.bool_)
    return net.op("Dropout", x, net.const(0.5), training, name="culprit")


def microsoft(net: Net, x: str) -> str:
    return net.op("FastGelu", x, name="culprit", domain="com.microsoft")


def other_axis(net: Net, x: str) -> str:
    return net.op(
        "LayerNormalization", x, net.weight(DIM), axis=5, name=f"culprit_{len(net.nodes)}"
    )


def other_mean(net: Net, x: str) -> str:
    return net.op("ReduceMean", x, net.ints(3), keepdims=0, name="culprit")


def minus_two(net: Net, x: str) -> str:
    return net.op("Reshape", x, net.ints(1, -2, DIM), name="culprit")


def whole_number_bias(net: Net, x: str) -> str:
    return net.op("Add", x, net.const(np.arange(DIM), np.int32), name="culprit")


def eight_bit_shape(net: Net, x: str) -> str:
    return net.op("Reshape", x, net.const([1, TOKENS, DIM], np.int8), name="culprit")


def short_sum(net: Net, x: str) -> str:
    return net.op("Einsum", x, equation="abc,cd->abd", name="culprit")


def part_left_out(net: Net, x: str) -> str:
    return net.op("Concat", x, "", axis=1, name="culprit")


def deep_gemm(net: Net, x: str) -> str:
    return net.op("Gemm", x, net.weight(DIM, DIM), name="culprit")


def empty_slice(net: Net, x: str) -> str:
    return net.op("Slice", x, net.ints(0), net.ints(0), net.ints(0), name="culprit")


def single_number(net: Net, x: str) -> str:
    first = net.op("Slice", x, net.ints(0), net.ints(1), net.ints(1))
    return net.op("Reshape", first, net.const([], np.int64), name="culprit")


def ranks(net: Net, x: str) -> str:
    flat = net.op("Reshape", net.linear(x, DIM, DIM), net.ints(TOKENS, DIM))
    joined = net.op("Concat", x, flat, axis=-1, name="culprit")
    return net.linear(joined, 2 * DIM, DIM)


def long_bias(net: Net, x: str) -> str:
    operands = (net.weight(DIM, 2, 2, 2), net.weight(2 * DIM))
    return net.op("Conv", x, *operands, name="culprit", strides=[2, 2])


def negative_variance(net: Net, x: str) -> str:
    constants = [net.const(np.ones(DIM)) for _ in range(3)]
    return net.op("BatchNormalization", x, *constants, net.const(-np.ones(DIM)), name="culprit")


def split_of_many(net: Net, x: str) -> str:
    return net.op("Split", x, axis=1, num_outputs=1 << 40, name="culprit")


def zeros(net: Net, *shape: int, name: str = "") -> str:
    return net.op("ConstantOfShape", net.ints(*shape), name=name)


def wide_sum(net: Net, x: str) -> str:
    return net.op("Add", x, zeros(net, 1 << 25, 1), name="culprit")


def where(net: Net, x: str) -> str:
    mask = net.const(np.tri(TOKENS), np.bool_)
    return net.op("Where", mask, x, net.const(-1e9), name="culprit")


# What is wrong, and a piece of the reason. The node at fault is called `culprit...`.
CASES: dict[str, tuple[Recipe, str]] = {
    "batch norm": (Recipe(arrange=after_patches(batch_norm)), "in training mode"),
    "places of a max pool": (
        Recipe(arrange=after_patches(indexed_pool)),
        "its output 'culprit_1' is used",
    ),
    "convolved scores": (Recipe(probabilities=talking_heads), "its operand is no map"),
    "resized map": (Recipe(arrange=after_patches(resized)), "Resize is not supported"),
    "dilated patches": (Recipe(patches=patch(dilations=[2, 2])), "dilated"),
    "grouped patches": (Recipe(patches=patch(group=2)), "it is grouped"),
    "softmax over queries": (Recipe(probabilities=op("Softmax", axis=2)), "not the keys"),
    "softmax over heads": (Recipe(probabilities=op("Softmax", axis=1)), "not the keys"),
    "no softmax": (Recipe(probabilities=same, scores=op("Mul", 0.5)), "not the plain softmax"),
    "scaled probabilities": (
        Recipe(probabilities=doubled_probabilities),
        "not the plain softmax",
    ),
    "turned probabilities": (
        Recipe(probabilities=turned_probabilities, mixed=named_mix),
        "rearranged before they meet",
    ),
    "softmax of the logits": (Recipe(finish=op("Softmax", axis=-1)), "not applied to attention"),
    "key not transposed": (Recipe(key_turned=same, product="culprit"), "does not hold the tokens"),
    "heads split without transpose": (
        Recipe(query=heads_by_reshape_alone, product="culprit"),
        "tokens",
    ),
    "tokens reversed": (
        Recipe(query=reversed_tokens, product="culprit"),
        "does not hold the tokens",
    ),
    "values first": (Recipe(mixed=swapped), "second operand"),
    "mask that hides all keys": (
        Recipe(scores=blind_token(-np.inf)),
        "to the scores of token 2 is -1e+30",
    ),
    "large mask that hides all keys": (Recipe(scores=blind_token(-1e9)), "token 2 is -1e+09"),
    "mask that lifts keys": (Recipe(scores=added_to_scores([1e5, 0, 0, 0])), "token 0 is 1e+05"),
    "infinite bias": (Recipe(scores=inverses_added_to_scores(1, 2, 0, 4)), "NaN or infinity to"),
    "bias that depends on the image": (Recipe(scores=bias_of_the_image), "averages something"),
    "bias of probabilities": (Recipe(probabilities=bias_of_probabilities), "not the plain softmax"),
    "bias of heads with factors": (Recipe(scores=bias_of_scaled_heads), "with one constant"),
    "where mask": (Recipe(scores=where), "replaces 6 of 16 values"),
    "data-dependent scale": (Recipe(scores=data_dependent_scale), "averages something other"),
    "scale by query": (Recipe(scores=scale_by_token), "not a product with one constant"),
    "erf with another factor": (Recipe(activation=erf_gelu(0.7, 0.5)), "erf's argument is 0.7"),
    "gelu with another half": (Recipe(activation=erf_gelu(np.sqrt(0.5), 0.51)), "surrounds it"),
    "tanh with another cubic": (Recipe(activation=tanh_gelu(0.0447)), "tanh's argument is not"),
    "tanh times its argument": (Recipe(activation=tanh_gate), "tanh's argument is not"),
    "erf alone": (Recipe(activation=op("Erf")), "erf's argument is 1"),
    "sigmoid": (Recipe(activation=op("Sigmoid")), "not part of x·sigmoid(a·x)"),
    "shifted sigmoid": (Recipe(activation=shifted_silu), "not part of x·sigmoid(a·x)"),
    "sigmoid of another": (Recipe(activation=gated_silu), "not part of x·sigmoid(a·x)"),
    "gated linear unit": (Recipe(activation=swiglu), "multiplies two results"),
    "square": (Recipe(activation=op("Pow", 2.0)), "multiplies two results"),
    "fourth power": (Recipe(activation=op("Pow", 4.0)), "exponent is 4"),
    "square root": (Recipe(activation=op("Sqrt")), "not part of a LayerNorm"),
    "gate": (Recipe(after=gate), "multiplies two results"),
    "fast gelu": (Recipe(activation=microsoft), "com.microsoft::FastGelu"),
    "norm over two axes": (Recipe(norm=norm_over_two_axes), "over axes 1 to 2"),
    "norm over tokens": (Recipe(norm=norm_over_tokens), "one token in each row"),
    "eps outside the root": (Recipe(norm=norm_with_eps_outside), "no standard deviation"),
    "norm around another mean": (Recipe(norm=norm_of_other_mean), "not x less the mean"),
    "mean with gaps": (Recipe(pool=every_other_token), "with gaps"),
    "weight on the left": (Recipe(after=weight_on_the_left), "constant from the left"),
    "weight on the image": (Recipe(patches=weight_on_the_image), "constant where the image's data"),
    "two learned queries": (Recipe(pool=two_learned_queries), "several constant queries"),
    "query of another depth": (Recipe(pool=deep_query), "query, key and value are"),
    "tokens of two layers joined": (Recipe(after=tokens_of_two_layers), "joins two tensors"),
    "channels side by side": (Recipe(finish=side_by_side), "channels side by side"),
    "joined with another size": (Recipe(pool=joined_kinds), "tensors of different kinds"),
    "constant channels": (Recipe(after=constant_channels), "which is not the token axis"),
    "einsum of one operand": (Recipe(after=einsum("abc->abc")), "product of two operands"),
    "einsum of a diagonal": (Recipe(after=einsum("aab,bc->abc", DIM, DIM)), "of two operands"),
    "einsum that sums alone": (Recipe(after=einsum("abc,de->abc", DIM, DIM)), "one operand alone"),
    "einsum with a weight a token": (
        Recipe(after=einsum("abc,bcd->abd", TOKENS, DIM, DIM)),
        "differs along 'b'",
    ),
    "einsum of several axes": (Recipe(probabilities=einsum_of_axes), "several axes of their own"),
    "global mean of the image": (Recipe(patches=global_mean), "averages something other"),
    "check of the values": (Recipe(after=check_values), "looks for NaN in something other"),
    "condition on the image": (Recipe(after=conditional), "condition depends on the image"),
    "rotary positions": (Recipe(query=rotary), "rotary position embedding"),
    "norm of each head": (Recipe(query=norm_of_heads), "each head by themselves"),
    "patches column by column": (Recipe(arrange=same, patches=columns_first), "not the patches"),
    "overlapping cut": (Recipe(arrange=same, patches=overlapping), "not the patches"),
    "patches mirrored one by one": (Recipe(arrange=same, patches=mirrored), "not the patches"),
    "patch weight of another size": (Recipe(arrange=same, patches=long_patches), "takes 9 values"),
    "weight of another size": (Recipe(after=weights_of_another_size), "takes 9 channels"),
    "channels last forgotten": (Recipe(finish=turned_output, pool=same), "one token in each row"),
    "whole numbers": (Recipe(after=op("Cast", to=TensorProto.INT32)), "to INT32"),
    "norm of an axis that is not there": (Recipe(norm=other_axis), "its axis 5 is none of the 3"),
    "mean of an axis that is not there": (Recipe(pool=other_mean), "its axis 3 is none of the 3"),
    "bias of whole numbers": (Recipe(after=whole_number_bias), "operand 'B' (input 1) is int32"),
    "shape in eight bits": (Recipe(after=eight_bit_shape), "operand 'shape' (input 1) is int8"),
    "shape with -2": (Recipe(after=minus_two), "its new shape is [1, -2, 8]"),
    "einsum without its second operand": (Recipe(after=short_sum), "the two operands"),
    "join of something left out": (
        Recipe(after=part_left_out),
        "leaves out its operand 'inputs' (input 1)",
    ),
    "gemm of three axes": (Recipe(after=deep_gemm), "its data have 3 axes"),
    "a single number": (Recipe(finish=single_number), "its operand is a single number"),
    "nothing at all": (Recipe(finish=empty_slice), "its operand is empty"),
    "joined with fewer axes": (Recipe(after=ranks), "different numbers of axes"),
    "patches with too long a bias": (Recipe(patches=long_bias), "its bias has shape [16]"),
    "batch norm of no variance": (
        Recipe(arrange=after_patches(negative_variance)),
        "its variance and epsilon add up to -0.99999",
    ),
    "split into others than it says": (Recipe(after=split_of_many), "has 1 outputs, and its num_"),
    "sum that broadcasts": (Recipe(finish=wide_sum), "its result has 100663296 elements"),
    "random noise": (Recipe(after=random_noise), "random numbers"),
    "training dropout": (Recipe(after=training_dropout), "training mode"),
    "division by zero": (Recipe(after=op("Div", 0.0)), "divides by zero"),
}


@pytest.mark.parametrize("case", CASES)
def test_refused_by_name_with_reason_and_remedy(case: str, tmp_path: Path) -> None:
    recipe, reason = CASES[case]
    net, output = build(recipe)
    check_refused(net.save(tmp_path / "model.onnx", output), reason)


def twice(called: str, domain: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node(called, ["x"], ["between"], domain=domain),
        helper.make_node(called, ["between"], ["y"], domain=domain),
    ]


def in_a_branch(called: str, domain: str) -> list[onnx.NodeProto]:
    """Calls that nobody sees who looks at the nodes themselves."""
    result = tensor("y", (None,))
    body = helper.make_graph(twice(called, domain), "body", [], [result])
    truth = helper.make_tensor("truth", TensorProto.BOOL, [], [True])
    return [
        helper.make_node("Constant", [], ["condition"], value=truth),
        helper.make_node("If", ["condition"], ["y"], then_branch=body, else_branch=body),
    ]


@pytest.mark.parametrize("calls", [twice, in_a_branch])
def test_functions_that_call_each_other_ever_more_often(
    calls: Callable[[str, str], list[onnx.NodeProto]], tmp_path: Path
) -> None:
    """Forty functions, each of which calls the next one several times."""
    net, output = build(Recipe(after=lambda net, x: net.op("f0", x, domain="my")))
    model = net.model(output)
    own = [helper.make_opsetid("", net.opset), helper.make_opsetid("my", 1)]
    model.opset_import.append(own[1])
    for number in range(40):
        nodes = calls(*((f"f{number + 1}", "my") if number < 39 else ("Identity", "")))
        model.functions.append(helper.make_function("my", f"f{number}", ["x"], ["y"], nodes, own))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ModelFileError, match=r"comes to \d{13,} nodes.*without functions"):
        import_model(tmp_path / "model.onnx")


def test_sum_too_long_to_follow(tmp_path: Path) -> None:
    def long_sum(net: Net, x: str) -> str:
        total = net.linear(x, DIM, DIM)
        for _ in range(1200):
            total = net.op("Add", total, net.linear(x, DIM, DIM))
        return net.op("Mul", total, net.const(0.5))

    net, output = build(Recipe(after=long_sum))
    with pytest.raises(UnsupportedModelError, match=r"chain of sums.*Stack what is summed"):
        import_model(net.save(tmp_path / "model.onnx", output))


def test_the_recipe_without_a_mistake_is_accepted(tmp_path: Path) -> None:
    net, output = build(Recipe())
    assert import_model(net.save(tmp_path / "model.onnx", output)).nodes


def test_rms_norm(tmp_path: Path) -> None:
    net, output = build(Recipe(norm=rms_norm), Net(opset=23))
    with pytest.raises(UnsupportedModelError, match=r"culprit.*RMSNormalization.*takes the mean"):
        import_model(net.save(tmp_path / "model.onnx", output))


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    net, output = build(Recipe(activation=sigmoid, pool=every_other_token))
    path = net.save(tmp_path / "model.onnx", output)
    refused = {r.op_type for r in inspect_model(path).rows if r.status is Status.REFUSED}
    assert {"Sigmoid", "ReduceMean"} <= refused
    with pytest.raises(UnsupportedModelError, match="vitessera inspect"):
        import_model(path)


@pytest.mark.parametrize("content", [b"", b"this is text, not a model\n", b"\x00" * 64])
def test_files_that_are_not_models(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"model\.onnx.*[Ee]xport"):
        import_model(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(ModelFileError, match="Give the path"):
            import_model(path)


def test_missing_external_data(tmp_path: Path) -> None:
    net, output = build(Recipe())
    path = tmp_path / "model.onnx"
    model = net.model(output)
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    assert import_model(path).nodes
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ModelFileError, match="beside it"):
        import_model(path)


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_weights_that_are_not_finite(value: float, word: str, tmp_path: Path) -> None:
    net, output = build(Recipe())
    weights = np.zeros((DIM, DIM))
    weights[1, 2] = value
    net.op("Identity", net.const(weights, name="bad_weight"))
    with pytest.raises(ModelValueError, match=f"'bad_weight' holds {word}.*Check"):
        import_model(net.save(tmp_path / "model.onnx", output))


def sigmoid(net: Net, x: str) -> str:
    return net.op("Sigmoid", x)


def tensor(name: str, shape: tuple[int | str | None, ...], kind: int = TensorProto.FLOAT) -> object:
    return helper.make_tensor_value_info(name, kind, shape)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "0 inputs .none."),
        ([tensor("image", (999, 2, 200, 200))], "batch of 999 images.*dynamic batch axis"),
        ([tensor("image", (0, *IMAGE[1:]))], "a batch of 0.*with batch 1"),
        ([tensor("image", (1, 2, "rows", 4))], "height axis is dynamic .'rows'."),
        ([tensor("image", (1, 2, 4, None))], "width axis is dynamic"),
        ([tensor("image", (1, 4, 4))], "3 axes, not 4, or 5 as videos have"),
        ([tensor("image", (1, 2, 2, 2, 4, 4))], "6 axes, not 4, or 5 as videos have"),
        ([tensor("image", (1, "t", 2, 4, 4))], "frames or channels axis is dynamic .'t'."),
        ([tensor("image", (1, 2, None, 4, 4))], "channels or frames axis is dynamic"),
        ([tensor("image", (1, 2, 2, 4, 0))], "width axis is dynamic"),
        ([tensor("image", (1, 2, 4, "cols"))], "'cols'.*--shape 3,224,224 .channels, height"),
        ([tensor("image", (1, 200, 3, 224, 224))], "200×3×224×224 values.*smaller image"),
        ([tensor("image", IMAGE, TensorProto.UINT8)], "is UINT8, not a float type"),
    ],
)
def test_inputs_that_are_not_one_image(
    inputs: list[onnx.ValueInfoProto], message: str, tmp_path: Path
) -> None:
    net, output = build(Recipe())
    if not inputs:
        net.const(np.zeros(IMAGE), name="image")
    path = tmp_path / "model.onnx"
    onnx.save(net.model(output, inputs), path)
    with pytest.raises(UnsupportedModelError, match=message):
        import_model(path)


def test_output_that_is_constant(tmp_path: Path) -> None:
    net, _ = build(Recipe())
    output = net.op("Identity", net.weight(1, 3))
    path = net.save(tmp_path / "model.onnx", output)
    with pytest.raises(UnsupportedModelError, match="does not depend on the image"):
        import_model(path)


def test_operator_set_newer_than_onnx_knows(tmp_path: Path) -> None:
    model = onnx.load(DIGITS)
    next(entry for entry in model.opset_import if not entry.domain).version = 99
    onnx.save(model, tmp_path / "new.onnx")
    with pytest.raises((UnsupportedModelError, ModelFileError), match=r"99"):
        import_model(tmp_path / "new.onnx")


def test_old_operator_set(tmp_path: Path) -> None:
    net = Net(opset=11)
    output = net.op("Relu", "image")
    with pytest.raises(UnsupportedModelError, match=r"operator set 11.*opset_version=17"):
        import_model(net.save(tmp_path / "model.onnx", output))
