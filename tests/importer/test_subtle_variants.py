"""Models that look like a Vision Transformer and are another one, each with what must happen.

A variant that means something which the accelerator can do compiles to that: in float and in
integers it is what ONNX Runtime says. Any other is refused by the name of its node. What is plainly
wrong stands in tests/importer/test_refused.py; here stands what is nearly right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
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
    TOKENS,
    Calm,
    Net,
    Recipe,
    Step,
    attention,
    build,
    chain,
    conv,
    feed_forward,
    heads,
    joined,
    same,
    softmax,
    tokens_last,
    transposed,
)
from oracle import Oracle
from verdicts import check_compiled, check_imported, check_refused
from vitessera.codegen.errors import UnsupportedModelError
from vitessera.codegen.importer import import_model

COMPILED = "compiled"
# Only so far as importing goes: other tests show what becomes of it.
IMPORTED = "imported"
# Refused behind the importer.
IN_PLACE = "has added to it in place"


@dataclass(frozen=True)
class Variant:
    """A model and its verdict: COMPILED, IMPORTED, IN_PLACE, or a piece of why it is refused.

    The node at fault is called `culprit...`.
    """

    recipe: Recipe
    verdict: str
    opset: int = 20


# --- Pieces --------------------------------------------------------------------------------------


def op(op_type: str, *constants: object, **attrs: object) -> Step:
    """A step of one node, called `culprit`."""

    def step(net: Net, x: str) -> str:
        return net.op(op_type, x, *(net.const(c) for c in constants), name="culprit", **attrs)

    return step


def named(net: Net, name: str = "culprit") -> str:
    """A name of its own for each node that is to blame."""
    return f"{name}_{len(net.nodes)}"


def turn(*perm: int) -> Step:
    return lambda net, x: net.op("Transpose", x, perm=list(perm))


def shaped(*shape: int) -> Step:
    return lambda net, x: net.op("Reshape", x, net.ints(*shape))


def sliced(start: int, stop: int, axis: int, step: int = 1, name: str = "") -> Step:
    def slice_(net: Net, x: str) -> str:
        bounds = [net.ints(n) for n in (start, stop, axis, step)]
        return net.op("Slice", x, *bounds, name=name)

    return slice_


def token(number: int, **names: str) -> Step:
    return lambda net, x: net.op("Gather", x, net.const(number, np.int64), axis=1, **names)


# --- Softmax -------------------------------------------------------------------------------------


def softmax_again(net: Net, x: str) -> str:
    return net.op("Softmax", x, axis=-1)


def softmax_spelled(net: Net, x: str) -> str:
    raised = net.op("Exp", x, name="culprit")
    return net.op("Div", raised, net.op("ReduceSum", raised, net.ints(-1)))


def softmax_of_square(net: Net, x: str) -> str:
    return softmax(net, net.op("Mul", x, x, name="culprit"))


def half_the_keys(net: Net, p: str, v: str) -> str:
    """The first key is left out of the sum, behind the softmax."""
    kept, values = sliced(1, TOKENS, 3)(net, p), sliced(1, TOKENS, 2)(net, v)
    return net.op("MatMul", kept, values, name="culprit")


def softmax_of_some_keys(net: Net, x: str) -> str:
    return net.op("Softmax", sliced(1, TOKENS, 3)(net, x), axis=-1, name="culprit")


def mix_without_first(net: Net, p: str, v: str) -> str:
    return net.op("MatMul", p, sliced(1, TOKENS, 2)(net, v))


SOFTMAX = {
    "softmax over the batch": Variant(Recipe(probabilities=op("Softmax", axis=0)), "not the keys"),
    "softmax over axis -2": Variant(Recipe(probabilities=op("Softmax", axis=-2)), "not the keys"),
    "softmax over axis 3": Variant(Recipe(probabilities=op("Softmax", axis=3)), COMPILED),
    "softmax without axis": Variant(Recipe(probabilities=op("Softmax")), COMPILED),
    "softmax over the queries of turned scores": Variant(
        Recipe(probabilities=chain(turn(0, 1, 3, 2), op("Softmax", axis=2), turn(0, 1, 3, 2))),
        COMPILED,
    ),
    "softmax with heads behind": Variant(
        Recipe(probabilities=chain(turn(0, 2, 3, 1), op("Softmax", axis=2), turn(0, 3, 1, 2))),
        COMPILED,
    ),
    "softmax over heads that lie behind": Variant(
        Recipe(probabilities=chain(turn(0, 2, 3, 1), op("Softmax", axis=3), turn(0, 3, 1, 2))),
        "not the keys",
    ),
    "softmax over heads and keys": Variant(
        Recipe(
            probabilities=chain(
                turn(0, 2, 1, 3),
                shaped(1, TOKENS, -1),
                op("Softmax", axis=-1),
                shaped(1, TOKENS, HEADS, TOKENS),
                turn(0, 2, 1, 3),
            )
        ),
        "not the keys",
    ),
    "softmax of some keys": Variant(
        Recipe(probabilities=softmax_of_some_keys, mixed=mix_without_first), "not the keys"
    ),
    "a key left out behind the softmax": Variant(
        Recipe(mixed=half_the_keys), "rearranged before they meet"
    ),
    "softmax of turned scores": Variant(
        Recipe(scores=turn(0, 1, 3, 2), probabilities=op("Softmax", axis=-1)), "not the keys"
    ),
    "softmax twice": Variant(
        Recipe(probabilities=chain(op("Softmax", axis=-1), softmax_again)), "one constant"
    ),
    "log softmax": Variant(Recipe(probabilities=op("LogSoftmax")), "LogSoftmax is not supported"),
    "hardmax": Variant(Recipe(probabilities=op("Hardmax")), "Hardmax is not supported"),
    "sigmoid of the scores": Variant(Recipe(probabilities=op("Sigmoid")), "not the plain softmax"),
    "relu of the scores": Variant(Recipe(probabilities=op("Relu")), "not the plain softmax"),
    "softmax spelled out": Variant(Recipe(probabilities=softmax_spelled), "Exp is not supported"),
    "softmax of squares": Variant(Recipe(probabilities=softmax_of_square), "one constant"),
}


# --- Scores --------------------------------------------------------------------------------------


def scale_of_shape(net: Net, x: str) -> str:
    """1/√d, from the shape of the scores' own query, as TorchScript writes it."""
    last = net.op("Gather", net.op("Shape", x), net.const(-1, np.int64))
    return net.op("Div", x, net.op("Sqrt", net.op("Cast", last, to=TensorProto.FLOAT)))


def scale_of_data(net: Net, x: str) -> str:
    """A temperature that a layer computes from the class token."""
    token = net.op("Gather", "embedded", net.const(0, np.int64), axis=1)
    return net.op("Mul", x, net.linear(token, DIM, 1), name="culprit")


def embedded(net: Net, x: str) -> str:
    return net.op("Identity", x, name="embedded")


def halved(net: Net, x: str) -> str:
    return net.op("Div", x, net.const(2.0))


def capped(net: Net, x: str) -> str:
    bent = net.op("Tanh", net.op("Mul", x, net.const(0.1)), name="culprit")
    return net.op("Mul", bent, net.const(10.0))


def lower_triangle(net: Net, x: str) -> str:
    """Scores become zero, not minus infinity: not a causal mask, and nothing else either."""
    return net.op("Mul", x, net.const(np.tri(TOKENS)), name="culprit")


def temperatures(net: Net, x: str) -> str:
    return net.op("Mul", x, net.const([[[[0.4]], [[0.7]]]]), name="culprit")


def constant_mask(values: np.ndarray) -> Step:
    return lambda net, x: net.op("Add", x, net.const(values), name="culprit")


def padded_key() -> np.ndarray:
    mask = np.zeros((1, 1, 1, TOKENS))
    mask[..., -1] = -10000.0
    return mask


def softmax_plus(net: Net, x: str) -> str:
    """The bias comes after the softmax."""
    bias = net.const(np.full((1, HEADS, 1, TOKENS), 0.1))
    return net.op("Add", softmax(net, x), bias, name="culprit")


def minus_maximum(net: Net, x: str) -> str:
    """What a careful softmax does inside: harmless, but data-dependent."""
    return net.op("Sub", x, net.op("ReduceMax", x, net.ints(-1), name="culprit"))


def no_key() -> np.ndarray:
    """The last token sees no key at all."""
    mask = np.zeros((TOKENS, TOKENS))
    mask[-1] = -np.inf
    return mask


# What becomes of a constant that is added to the scores.
ADDED_TO_SCORES = {
    "causal mask of large numbers": (np.triu(np.full((TOKENS, TOKENS), -1e9), 1), COMPILED),
    "causal mask of minus infinity": (np.triu(np.full((TOKENS, TOKENS), -np.inf), 1), COMPILED),
    "mask of one padded key": (padded_key(), COMPILED),
    "mask that leaves a token no key": (no_key(), "beside which the scores are lost"),
    "mask of zeros": (np.zeros((1, 1, TOKENS, TOKENS)), COMPILED),
    "a bias for each key": (np.arange(TOKENS) / TOKENS, COMPILED),
    "a bias for each head": (np.array([[[[0.5]], [[-0.5]]]]), COMPILED),
    "a bias for each query, which softmax does not see": (
        np.arange(TOKENS).reshape(TOKENS, 1),
        COMPILED,
    ),
    "one number for all scores": (np.array(3.0), COMPILED),
}

SCORES = {
    "causal mask of large numbers": (np.triu(np.full((TOKENS, TOKENS), -1e9), 1), "adds a mask"),
    "mask of one padded key": (padded_key(), "adds a mask"),
    "mask of zeros": (np.zeros((1, 1, TOKENS, TOKENS)), COMPILED),
    "a bias for each key": (np.arange(TOKENS) / TOKENS, "adds a bias"),
    "a bias for each head": (np.array([[[[0.5]], [[-0.5]]]]), "adds a bias"),
    "a bias for each query, which softmax does not see": (
        np.arange(TOKENS).reshape(TOKENS, 1),
        "adds a bias",
    ),
    "one number for all scores": (np.array(3.0), "adds a bias"),
}

SCORES = {
    "scale from a shape": Variant(Recipe(scores=scale_of_shape), COMPILED),
    "scale from the data": Variant(
        Recipe(embedded=embedded, scores=scale_of_data), "the attention scores or probabilities"
    ),
    "no scale": Variant(Recipe(scores=same), COMPILED),
    "negative scale": Variant(Recipe(scores=op("Mul", -0.5)), COMPILED),
    "scale of zero": Variant(Recipe(scores=op("Mul", 0.0)), COMPILED),
    "scale applied twice": Variant(Recipe(scores=chain(op("Mul", 0.5), halved)), COMPILED),
    "scores divided the other way round": Variant(
        Recipe(scores=lambda net, x: net.op("Div", net.const(0.5), x, name="culprit")),
        "one constant",
    ),
    "scores subtracted from a constant": Variant(
        Recipe(scores=lambda net, x: net.op("Sub", net.const(0.0), x)), COMPILED
    ),
    "a temperature for each head": Variant(Recipe(scores=temperatures), "one constant"),
    "capped scores": Variant(Recipe(scores=capped), "one constant"),
    "clipped scores": Variant(Recipe(scores=op("Clip", -5.0, 5.0)), "Clip is not supported"),
    "scores times a triangle": Variant(Recipe(scores=lower_triangle), "one constant"),
    "scores less their maximum": Variant(Recipe(scores=minus_maximum), "ReduceMax"),
    "bias behind the softmax": Variant(Recipe(probabilities=softmax_plus), "not the plain softmax"),
    **{
        name: Variant(Recipe(scores=constant_mask(values)), verdict)
        for name, (values, verdict) in ADDED_TO_SCORES.items()
    },
}


# --- Attention: which operand is which -----------------------------------------------------------


def operator(net: Net, x: str, *masks: str, **attrs: object) -> str:
    operands = [net.linear(x, DIM, DIM) for _ in range(3)]
    attrs = {"q_num_heads": HEADS, "kv_num_heads": HEADS, **attrs}
    mixed = net.op("Attention", *operands, *masks, name="culprit", **attrs)
    return net.linear(mixed, DIM, DIM)


def by_operator(mask: np.ndarray | None = None, **attrs: object) -> Recipe:
    def block(net: Net, x: str, recipe: Recipe) -> str:
        masks = [] if mask is None else [net.const(mask, mask.dtype.type)]
        x = net.op("Add", x, operator(net, recipe.norm(net, x), *masks, **attrs))
        return net.op("Add", x, feed_forward(net, recipe.norm(net, x), recipe))

    return Recipe(block=block)


def merged(*steps: Step) -> Step:
    """What is wrong with the order is found where the next layer reads it."""
    return chain(*steps, lambda net, x: net.op("MatMul", x, net.weight(DIM, DIM), name="culprit"))


def product(*parts: str, **attrs: bool) -> Recipe:
    """An attention whose scores are the product of `parts` of q, k, v, and which mixes the last.

    A `T` behind a letter turns it; attrs say what is done to the scores.
    """

    def block(net: Net, x: str, recipe: Recipe) -> str:
        y = recipe.norm(net, x)
        made = {name: heads(net, net.linear(y, DIM, DIM)) for name in "qkv"}
        left, right, value = (
            transposed(net, made[part[0]]) if part.endswith("T") else made[part] for part in parts
        )
        scores = net.op("MatMul", left, right, name="culprit")
        if attrs.get("turned"):
            scores = transposed(net, scores)
        scaled = net.op("Mul", scores, net.const(0.5))
        p = net.op("Softmax", scaled, axis=-1, name="culprit_softmax")
        if attrs.get("probabilities_turned"):
            p = net.op("Transpose", p, perm=[0, 1, 3, 2])
        mixed = net.op("MatMul", p, value, name="culprit_mix")
        return net.op("Add", x, net.linear(joined(net, mixed), DIM, DIM))

    return Recipe(block=block)


def cross(net: Net, x: str, recipe: Recipe) -> str:
    """Queries of this block, keys and values of the tokens before the norm."""
    q = heads(net, net.linear(recipe.norm(net, x), DIM, DIM))
    k, v = (heads(net, net.linear(x, DIM, DIM)) for _ in range(2))
    scores = net.op("Mul", net.op("MatMul", q, transposed(net, k)), net.const(0.5))
    mixed = net.op("MatMul", softmax(net, scores), v)
    return net.op("Add", x, net.linear(joined(net, mixed), DIM, DIM))


def gram(net: Net, x: str, recipe: Recipe) -> str:
    """x·xᵀ·x: two products of results, no attention."""
    y = recipe.norm(net, x)
    scores = net.op("MatMul", y, net.op("Transpose", y, perm=[0, 2, 1]), name="culprit")
    return net.op("Add", x, net.linear(net.op("MatMul", scores, y, name="culprit_mix"), DIM, DIM))


def one_head_turned(net: Net, x: str) -> str:
    """The second head's tokens in reverse order."""
    split = heads(net, x)
    second = sliced(-1, -99, 2, -1)(net, sliced(1, 2, 1)(net, split))
    return net.op("Concat", sliced(0, 1, 1)(net, split), second, axis=1)


def heads_swapped(net: Net, x: str) -> str:
    return net.op("Gather", heads(net, x), net.const([1, 0], np.int64), axis=1)


def grouped(net: Net, x: str) -> str:
    """Both heads read the first head's keys."""
    first = sliced(0, 1, 1)(net, heads(net, x))
    return net.op("Expand", first, net.ints(1, HEADS, TOKENS, DEPTH))


def depth_first(net: Net, x: str) -> str:
    """[B, N, d, H] where [B, N, H, d] is usual."""
    return turn(0, 3, 1, 2)(net, shaped(1, -1, DEPTH, HEADS)(net, x))


ORDER = {
    "scores of keys and queries": Variant(product("k", "qT", "v"), COMPILED),
    "scores of keys and queries, turned": Variant(
        product("k", "qT", "v", turned=True), "not the keys"
    ),
    "keys that are not turned": Variant(product("q", "k", "v"), "does not hold the tokens"),
    "queries that are turned": Variant(product("qT", "k", "v"), "does not hold the tokens"),
    "both turned": Variant(product("qT", "kT", "v"), "does not hold the tokens"),
    "keys that are the queries": Variant(product("q", "qT", "v"), COMPILED),
    "values that are the keys": Variant(product("q", "kT", "k"), COMPILED),
    "values that are turned": Variant(product("q", "kT", "vT"), "does not hold the tokens"),
    "probabilities that are turned": Variant(
        product("q", "kT", "v", probabilities_turned=True), "rearranged before they meet"
    ),
    "keys and values before the norm": Variant(Recipe(block=cross), COMPILED),
    "a product with itself": Variant(Recipe(block=gram), "not the plain softmax"),
    "one head's queries reversed": Variant(
        Recipe(query=one_head_turned, product="culprit"), "does not hold the tokens"
    ),
    "one head's values reversed": Variant(
        Recipe(
            value=one_head_turned,
            mixed=lambda net, p, v: net.op("MatMul", p, v, name="culprit"),
        ),
        "does not hold the tokens",
    ),
    "heads of the values swapped": Variant(Recipe(value=heads_swapped), COMPILED),
    "heads of the keys swapped": Variant(Recipe(key=heads_swapped), COMPILED),
    "heads that share their keys": Variant(Recipe(key=grouped), COMPILED),
    "queries split depth first": Variant(Recipe(query=depth_first), COMPILED),
    "all split depth first": Variant(
        Recipe(query=depth_first, key=depth_first, value=depth_first), COMPILED
    ),
    "heads merged depth first": Variant(
        Recipe(join=chain(turn(0, 2, 3, 1), shaped(1, -1, DIM))), COMPILED
    ),
    "heads merged without transpose": Variant(
        Recipe(join=merged(shaped(1, -1, DIM))), "does not hold one token"
    ),
    "heads merged behind the tokens": Variant(
        Recipe(join=merged(turn(0, 3, 2, 1), shaped(1, -1, DIM))), "does not hold one token"
    ),
    "operator of plain attention": Variant(by_operator(), COMPILED, opset=23),
    "operator with a scale": Variant(by_operator(scale=0.3), COMPILED, opset=23),
    "operator that is causal": Variant(by_operator(is_causal=1), "it is causal", opset=23),
    "operator with a cap": Variant(by_operator(softcap=20.0), "caps the scores", opset=23),
    "operator with a mask of some keys": Variant(
        by_operator(np.tri(TOKENS, dtype=np.bool_)), COMPILED, opset=23
    ),
    "operator with a mask of all keys": Variant(
        by_operator(np.ones((TOKENS, TOKENS), np.bool_)), COMPILED, opset=23
    ),
    "operator with one key head": Variant(
        by_operator(q_num_heads=HEADS, kv_num_heads=HEADS // 2), "heads", opset=23
    ),
}


# --- LayerNorm -----------------------------------------------------------------------------------


def operator_norm(gamma: np.ndarray | None = None, outputs: int = 1, **attrs: object) -> Step:
    def norm(net: Net, x: str) -> str:
        values = np.linspace(0.5, 1.5, DIM) if gamma is None else gamma
        constants = [net.const(values)] if gamma is not None else [net.const(values)] * 2
        return net.op(
            "LayerNormalization", x, *constants, name=named(net), outputs=outputs, **attrs
        )

    return norm


def norm_of_scale(net: Net, x: str) -> str:
    """The scale comes from the first token (as in adaptive norms)."""
    token = net.op("Reshape", sliced(0, 1, 1)(net, x), net.ints(DIM))
    return net.op("LayerNormalization", x, token, axis=-1, name=named(net))


@dataclass(frozen=True)
class Spelled:
    """LayerNorm written out, with one thing changed."""

    change: str = ""
    eps: float = 1e-5

    def __call__(self, net: Net, x: str) -> str:
        mean = net.op("ReduceMean", x, net.ints(-1), name=named(net))
        centred = net.op("Sub", x, mean, name=named(net))
        if self.change == "mean less x":
            centred = net.op("Sub", mean, x, name=named(net))
        if self.change == "no mean":
            centred = x
        variance = self._variance(net, x, mean, centred)
        inside = net.op("Add", variance, net.const(self.eps), name=named(net))
        if self.change == "two roots":
            inside = net.op("Sqrt", inside, name=named(net))
        root = inside if self.change == "no root" else net.op("Sqrt", inside, name=named(net))
        upper = x if self.change == "x over deviation" else centred
        sides = (root, upper) if self.change == "turned" else (upper, root)
        made = net.op("Mul" if self.change == "product" else "Div", *sides, name=named(net))
        return net.op("Mul", made, net.weight(DIM))

    def _variance(self, net: Net, x: str, mean: str, centred: str) -> str:
        match self.change:
            case "unbiased":
                square = net.op("Mul", centred, centred, name=named(net))
                total = net.op("ReduceSum", square, net.ints(-1), name=named(net))
                return net.op("Div", total, net.const(DIM - 1.0), name=named(net))
            case "of x":
                square = net.op("Mul", x, x, name=named(net))
            case "absolute":
                square = net.op("Abs", centred, name=named(net))
            case "cross":
                square = net.op("Mul", centred, x, name=named(net))
            case "difference of means":
                square = net.op("Mul", x, x, name=named(net))
                of_square = net.op("ReduceMean", square, net.ints(-1), name=named(net))
                square_of = net.op("Mul", mean, mean, name=named(net))
                return net.op("Sub", of_square, square_of, name=named(net))
            case "over tokens":
                square = net.op("Mul", centred, centred, name=named(net))
                return net.op("ReduceMean", square, net.ints(1), name=named(net))
            case "over both":
                square = net.op("Mul", centred, centred, name=named(net))
                return net.op("ReduceMean", square, net.ints(1, 2), name=named(net))
            case _:
                square = net.op("Mul", centred, centred, name=named(net))
        return net.op("ReduceMean", square, net.ints(-1), name=named(net))


def batch_norm_of_tokens(net: Net, x: str) -> str:
    """Axis 1 of [batch, tokens, channels] are the tokens."""
    values = [net.const(np.linspace(1.0, 2.0, TOKENS)) for _ in range(4)]
    return net.op("BatchNormalization", x, *values, name=named(net))


def instance_norm(net: Net, x: str) -> str:
    """Over the tokens of each channel."""
    turned = turn(0, 2, 1)(net, x)
    ones = [net.const(np.ones(DIM)) for _ in range(2)]
    return turn(0, 2, 1)(net, net.op("InstanceNormalization", turned, *ones, name=named(net)))


def unit_length(net: Net, x: str) -> str:
    return net.op("LpNormalization", x, axis=-1, p=2, name=named(net))


NORM = {
    "norm of axis 2": Variant(Recipe(norm=operator_norm(axis=2)), COMPILED),
    "norm of axis 1": Variant(
        Recipe(norm=operator_norm(np.ones((TOKENS, DIM)), axis=1)), "over axes 1 to 2"
    ),
    "norm with a large epsilon": Variant(Recipe(norm=operator_norm(epsilon=0.5)), COMPILED),
    "norm with no epsilon": Variant(Recipe(norm=operator_norm(epsilon=0.0)), COMPILED),
    "norm with a negative epsilon": Variant(Recipe(norm=operator_norm(epsilon=-0.001)), "epsilon"),
    "norm with a scale for each token": Variant(
        Recipe(norm=operator_norm(np.linspace(0.5, 1.5, TOKENS).reshape(TOKENS, 1))),
        "its scale has shape [4, 1]",
    ),
    "norm with one scale for all": Variant(Recipe(norm=operator_norm(np.array([0.5]))), COMPILED),
    "norm with a scale from the data": Variant(
        Recipe(norm=norm_of_scale), "scale depends on the image"
    ),
    "norm whose mean is shown": Variant(Recipe(norm=operator_norm(outputs=2)), "mean or deviation"),
    "spelled norm": Variant(Recipe(norm=Spelled()), COMPILED),
    "spelled norm with a large epsilon": Variant(Recipe(norm=Spelled(eps=0.5)), COMPILED),
    "spelled norm with a negative epsilon": Variant(Recipe(norm=Spelled(eps=-0.01)), "epsilon"),
    "spelled norm without epsilon": Variant(Recipe(norm=Spelled(eps=0.0)), "without epsilon"),
    **{
        f"spelled norm: {change}": Variant(Recipe(norm=Spelled(change)), reason)
        for change, reason in {
            "unbiased": "its variance is 1.14286 times the mean of squares",
            "no mean": "does not take the mean of the channels off",
            "of x": "deviation of something else",
            "absolute": "Abs is not supported",
            "cross": "under its root is not the mean of squares",
            "difference of means": "under its root is not the mean of squares",
            "over tokens": "multiplies two results",
            "over both": "deviation of something else",
            "mean less x": "what it divides is not x less the mean",
            "two roots": "no standard deviation",
            "no root": "no standard deviation",
            "x over deviation": "what it divides is not x less the mean",
            "turned": "no standard deviation",
            "product": "not as part of a LayerNorm",
        }.items()
    },
    "batch norm of the tokens": Variant(
        Recipe(norm=batch_norm_of_tokens), "differs between tokens"
    ),
    "instance norm": Variant(Recipe(norm=instance_norm), IMPORTED),
    "unit length": Variant(Recipe(norm=unit_length), "LpNormalization is not supported"),
}


# --- Activations ---------------------------------------------------------------------------------


def erf_gelu(form: str) -> Step:
    def activation(net: Net, x: str) -> str:
        inner = {"half": 0.5, "rounded": 0.7071, "negative": -math.sqrt(0.5)}.get(form)
        factor = net.const(math.sqrt(0.5) if inner is None else inner)
        bent = net.op("Erf", net.op("Mul", x, factor), name="culprit")
        one = {"minus": -1.0, "two": 2.0}.get(form, 1.0)
        gate = net.op("Add", bent, net.const(one))
        if form == "turned":
            gate = net.op("Sub", net.const(1.0), bent)
        whole = gate if form == "gate alone" else net.op("Mul", x, gate)
        if form == "squared":
            whole = net.op("Mul", x, whole)
        if form == "not halved":
            return whole
        return net.op("Mul", whole, net.const(0.5))

    return activation


def tanh_gelu(inner: float = math.sqrt(2 / math.pi), cubic: float = 0.044715) -> Step:
    def activation(net: Net, x: str) -> str:
        cube = net.op("Mul", net.op("Pow", x, net.const(3.0)), net.const(cubic))
        argument = net.op("Mul", net.op("Add", x, cube), net.const(inner))
        bent = net.op("Tanh", argument, name="culprit")
        gate = net.op("Add", bent, net.const(1.0))
        return net.op("Mul", net.op("Mul", x, gate), net.const(0.5))

    return activation


def quick_gelu(gain: float) -> Step:
    def activation(net: Net, x: str) -> str:
        return net.op("Mul", x, net.op("Sigmoid", net.op("Mul", x, net.const(gain))))

    return activation


def gelu_of_another(net: Net, x: str) -> str:
    """½·x·(1 + erf(y/√2)), y from another layer."""
    other = net.linear(x, HIDDEN, HIDDEN)
    bent = net.op("Erf", net.op("Mul", other, net.const(math.sqrt(0.5))), name="culprit")
    gate = net.op("Mul", x, net.op("Add", bent, net.const(1.0)))
    return net.op("Mul", gate, net.const(0.5))


def gelu_by_channel(net: Net, x: str) -> str:
    """The factor inside is 1/√2 for all channels but one."""
    factors = np.full(HIDDEN, math.sqrt(0.5))
    factors[-1] = 0.7
    bent = net.op("Erf", net.op("Mul", x, net.const(factors)), name="culprit")
    return net.op("Mul", net.op("Mul", x, net.op("Add", bent, net.const(1.0))), net.const(0.5))


def squared_relu(net: Net, x: str) -> str:
    active = net.op("Relu", x)
    return net.op("Mul", active, active, name="culprit")


ACTIVATION = {
    "erf gelu": Variant(Recipe(activation=erf_gelu("")), COMPILED),
    "erf of x/2": Variant(Recipe(activation=erf_gelu("half")), "erf's argument is 0.5"),
    "erf of 0.7071 x": Variant(Recipe(activation=erf_gelu("rounded")), "argument is 0.7071"),
    "erf of -x/√2": Variant(Recipe(activation=erf_gelu("negative")), "argument is -0.707"),
    "erf less one": Variant(Recipe(activation=erf_gelu("minus")), "surrounds it"),
    "erf plus two": Variant(Recipe(activation=erf_gelu("two")), "surrounds it"),
    "one less erf": Variant(Recipe(activation=erf_gelu("turned")), "surrounds it"),
    "gelu that is not halved": Variant(Recipe(activation=erf_gelu("not halved")), "surrounds it"),
    "gelu without x": Variant(Recipe(activation=erf_gelu("gate alone")), "surrounds it"),
    "x times gelu": Variant(Recipe(activation=erf_gelu("squared")), "surrounds it"),
    "tanh gelu": Variant(Recipe(activation=tanh_gelu()), COMPILED),
    "tanh of 0.8 x": Variant(Recipe(activation=tanh_gelu(inner=0.8)), "tanh's argument"),
    "tanh of 0.7979 x": Variant(Recipe(activation=tanh_gelu(inner=0.7979)), "tanh's argument"),
    "tanh with 0.0447": Variant(Recipe(activation=tanh_gelu(cubic=0.0447)), "tanh's argument"),
    "tanh with 0.044": Variant(Recipe(activation=tanh_gelu(cubic=0.044)), "tanh's argument"),
    "sigmoid of 1.702 x": Variant(Recipe(activation=quick_gelu(1.702)), COMPILED),
    "sigmoid of 1.7 x": Variant(Recipe(activation=quick_gelu(1.7)), COMPILED),
    "gelu gated by another": Variant(Recipe(activation=gelu_of_another), "surrounds it"),
    "gelu of other channels": Variant(Recipe(activation=gelu_by_channel), "erf's argument"),
    "squared relu": Variant(Recipe(activation=squared_relu), "multiplies two results"),
    "gelu operator": Variant(Recipe(activation=op("Gelu")), COMPILED),
    "gelu operator with tanh": Variant(Recipe(activation=op("Gelu", approximate="tanh")), COMPILED),
    "relu": Variant(Recipe(activation=op("Relu")), COMPILED),
    "relu to six": Variant(Recipe(activation=op("Clip", 0.0, 6.0)), "Clip is not supported"),
    "leaky relu": Variant(Recipe(activation=op("LeakyRelu")), "LeakyRelu is not supported"),
    "elu": Variant(Recipe(activation=op("Elu")), "Elu is not supported"),
    "mish": Variant(Recipe(activation=op("Mish")), "Mish is not supported"),
    "hard swish": Variant(Recipe(activation=op("HardSwish")), "HardSwish is not supported"),
    "no activation": Variant(Recipe(activation=same), COMPILED),
}


# --- Residual connections ------------------------------------------------------------------------


def from_the_norm(net: Net, x: str, recipe: Recipe) -> str:
    """The norm's result is what is added to, and x is forgotten."""
    y = recipe.norm(net, x)
    x = net.op("Add", y, attention(net, y, recipe))
    return net.op("Add", x, feed_forward(net, recipe.norm(net, x), recipe))


def norm_of_another_block(net: Net, x: str, recipe: Recipe) -> str:
    """The feed-forward part reads the norm in front of attention."""
    y = recipe.norm(net, x)
    x = net.op("Add", x, attention(net, y, recipe))
    return net.op("Add", x, feed_forward(net, y, recipe))


def named_conv(net: Net, x: str) -> str:
    weight, bias = net.weight(DIM, 2, 2, 2), net.weight(DIM)
    return net.op("Conv", x, weight, bias, name=named(net), strides=[2, 2])


def norm_of_positions(net: Net, x: str, recipe: Recipe) -> str:
    """Attention sees positions; what it is added to does not."""
    moved = net.op("Add", x, net.weight(1, TOKENS, DIM), name="culprit")
    x = net.op("Add", x, attention(net, recipe.norm(net, moved), recipe))
    return net.op("Add", x, feed_forward(net, recipe.norm(net, x), recipe))


def embedded_again(net: Net, x: str) -> str:
    return net.op("Add", x, tokens_last(net, named_conv(net, "image")))


def positions_of_patches(net: Net, x: str) -> str:
    return net.op("Add", x, net.weight(1, TOKENS, DIM))


def added_twice(net: Net, x: str, y: str) -> str:
    return net.op("Add", net.op("Add", x, x, name="culprit"), y)


def branch_alone(_: Net, __: str, y: str) -> str:
    return y


def branch_twice(net: Net, x: str, y: str) -> str:
    return net.op("Add", net.op("Add", x, y), y)


def scaled_stream(net: Net, x: str, y: str) -> str:
    return net.op("Add", net.op("Mul", x, net.const(2.0), name="culprit"), y)


def of_the_first_token(net: Net, x: str, y: str) -> str:
    return net.op("Add", sliced(0, 1, 1, name="culprit")(net, x), y)


def by_token(net: Net, x: str) -> str:
    """A bias that broadcasts along the channels instead of the tokens."""
    return net.op("Add", x, net.const(np.arange(TOKENS).reshape(TOKENS, 1)), name="culprit")


def skips_attention(net: Net, x: str, recipe: Recipe) -> str:
    """The second connection leads around the whole block."""
    start = x
    x = net.op("Add", x, attention(net, recipe.norm(net, x), recipe))
    return net.op("Add", start, feed_forward(net, recipe.norm(net, x), recipe))


RESIDUAL = {
    "residual from behind the norm": Variant(Recipe(block=from_the_norm), COMPILED),
    "branch that reads another norm": Variant(Recipe(block=norm_of_another_block), COMPILED),
    "connection around both branches": Variant(Recipe(block=skips_attention), IN_PLACE),
    "stream added twice": Variant(Recipe(residual=added_twice), IN_PLACE),
    "branch added twice": Variant(Recipe(residual=branch_twice), COMPILED),
    "branch alone": Variant(Recipe(residual=branch_alone), COMPILED),
    "stream less branch": Variant(
        Recipe(residual=lambda net, x, y: net.op("Sub", x, y, name="culprit")), "subtracts results"
    ),
    "branch less stream": Variant(
        Recipe(residual=lambda net, x, y: net.op("Sub", y, x, name="culprit")), "subtracts results"
    ),
    "stream times branch": Variant(
        Recipe(residual=lambda net, x, y: net.op("Mul", x, y, name="culprit")), "two results"
    ),
    "stream of patches scaled by two": Variant(
        Recipe(patches=named_conv, residual=scaled_stream), "in two ways"
    ),
    "norm that reads positions, connection that does not": Variant(
        Recipe(patches=named_conv, block=norm_of_positions), COMPILED
    ),
    "image embedded twice": Variant(
        Recipe(patches=named_conv, after=embedded_again), "in two ways"
    ),
    "stream scaled by two": Variant(
        Recipe(embedded=positions_of_patches, residual=scaled_stream), COMPILED
    ),
    "sum of two blocks scaled by two": Variant(Recipe(after=op("Mul", 2.0)), COMPILED),
    "branch scaled by two": Variant(
        Recipe(residual=lambda net, x, y: net.op("Add", x, net.op("Mul", y, net.const(2.0)))),
        COMPILED,
    ),
    "stream of the first token": Variant(Recipe(residual=of_the_first_token), COMPILED),
    "greater of stream and branch": Variant(
        Recipe(residual=lambda net, x, y: net.op("Max", x, y, name="culprit")),
        "Max is not supported",
    ),
    "bias along the tokens": Variant(Recipe(after=by_token), COMPILED),
    "a scale for each token": Variant(
        Recipe(after=op("Mul", np.arange(1.0, TOKENS + 1).reshape(TOKENS, 1))),
        "differs between tokens",
    ),
}


# --- Embedding -----------------------------------------------------------------------------------


def flipped_residual(net: Net, x: str, y: str) -> str:
    back = net.op("Slice", y, net.ints(-1), net.ints(-99), net.ints(1), net.ints(-1))
    return net.op("Add", x, back)


def class_token_last(net: Net, x: str) -> str:
    tokens = tokens_last(net, x)
    kept = net.op("Slice", tokens, net.ints(0), net.ints(3), net.ints(1))
    return net.op("Concat", kept, net.weight(1, 1, DIM), axis=1)


def two_tokens(net: Net, x: str) -> str:
    return net.op("Slice", x, net.ints(0), net.ints(2), net.ints(1))


def positions_late(net: Net, x: str) -> str:
    return net.op("Add", x, net.weight(1, TOKENS, DIM))


def between_constants(net: Net, x: str) -> str:
    first, last = net.weight(1, 1, DIM), net.weight(1, 1, DIM)
    return net.op("Concat", first, x, last, axis=1)


def tokens_late(net: Net, x: str) -> str:
    return net.op("Concat", net.weight(1, 1, DIM), x, axis=1)


def class_token(net: Net, x: str) -> str:
    return net.op("Concat", net.weight(1, 1, DIM), x, axis=1)


def positions(net: Net, x: str) -> str:
    return net.op("Add", x, net.weight(1, TOKENS + 1, DIM))


def positions_of_class_token(net: Net, x: str) -> str:
    """Only row 0 has a position; the rest are zeros."""
    table = np.zeros((1, TOKENS + 1, DIM))
    table[0, 0] = net.random.standard_normal(DIM)
    return net.op("Add", x, net.const(table))


def positions_by_slices(net: Net, x: str) -> str:
    """The class token is taken off, the patches get their positions, and it is put back."""
    first, rest = sliced(0, 1, 1)(net, x), sliced(1, TOKENS + 1, 1)(net, x)
    moved = net.op("Add", rest, net.weight(1, TOKENS, DIM))
    return net.op("Concat", first, moved, axis=1, name="culprit")


def class_token_behind(net: Net, x: str) -> str:
    return net.op("Concat", x, net.weight(1, 1, DIM), axis=1, name="culprit")


def grid(*perm: int) -> Step:
    """Patches [1, channels, rows, columns], turned before they become tokens."""
    return chain(
        turn(*perm),
        shaped(1, DIM, TOKENS),
        lambda net, x: net.op("Transpose", x, perm=[0, 2, 1], name="culprit"),
    )


def patch(kernel: tuple[int, int] = (2, 2), **attrs: object) -> Step:
    def patches(net: Net, x: str) -> str:
        group = int(str(attrs.get("group", 1)))
        weight = net.weight(DIM, 2 // group, *kernel)
        return net.op("Conv", x, weight, name="culprit", **{"strides": [2, 2], **attrs})

    return patches


def mean_image(net: Net, x: str) -> str:
    return conv(net, net.op("Sub", x, net.weight(1, 2, 4, 4), name="culprit"))


def flipped_image(net: Net, x: str) -> str:
    flipped = sliced(-1, -99, 3, -1)(net, x)
    return net.op("Conv", flipped, net.weight(DIM, 2, 2, 2), name="culprit", strides=[2, 2])


def turned_image(net: Net, x: str) -> str:
    turned = turn(0, 1, 3, 2)(net, x)
    return net.op("Conv", turned, net.weight(DIM, 2, 2, 2), name="culprit", strides=[2, 2])


def grey(net: Net, x: str) -> str:
    mean = net.op("ReduceMean", x, net.ints(1), name="culprit")
    return net.op("Conv", mean, net.weight(DIM, 1, 2, 2), strides=[2, 2])


def tokens(*order: int) -> Step:
    return lambda net, x: net.op("Gather", x, net.const(order, np.int64), axis=1, name="culprit")


WITH_CLASS_TOKEN = {"embedded": chain(class_token, positions), "pool": token(0)}

EMBEDDING = {
    "class token and positions": Variant(Recipe(**WITH_CLASS_TOKEN), COMPILED),
    "positions added twice": Variant(
        Recipe(embedded=chain(class_token, positions, positions)), COMPILED
    ),
    "positions before the class token": Variant(
        Recipe(embedded=chain(positions_of_patches, class_token)),
        COMPILED,
    ),
    "a position for the class token only": Variant(
        Recipe(embedded=chain(class_token, positions_of_class_token)), COMPILED
    ),
    "positions by slices": Variant(
        Recipe(embedded=chain(class_token, positions_by_slices)), "joins two tensors"
    ),
    "one position for all": Variant(
        Recipe(embedded=lambda net, x: net.op("Add", x, net.weight(1, 1, DIM))), COMPILED
    ),
    "one number for each token": Variant(
        Recipe(embedded=lambda net, x: net.op("Add", x, net.weight(1, TOKENS, 1))), COMPILED
    ),
    "positions that multiply": Variant(
        Recipe(
            embedded=lambda net, x: net.op("Mul", x, net.weight(1, TOKENS, DIM), name="culprit")
        ),
        "differs between tokens",
    ),
    "class token behind": Variant(Recipe(embedded=class_token_behind), COMPILED),
    "class token behind that is selected": Variant(
        Recipe(embedded=class_token_behind, pool=sliced(-1, 99, 1)), COMPILED
    ),
    "patches by columns": Variant(Recipe(arrange=grid(0, 1, 3, 2)), COMPILED),
    "channels for tokens": Variant(
        Recipe(
            patches=lambda net, x: net.op("Conv", x, net.weight(TOKENS, 2, 2, 2), strides=[2, 2]),
            arrange=chain(
                shaped(1, TOKENS, TOKENS),
                lambda net, x: net.op("MatMul", x, net.weight(TOKENS, DIM), name="culprit"),
            ),
        ),
        "does not hold one token",
    ),
    "class token in place of the last patch": Variant(Recipe(arrange=class_token_last), COMPILED),
    "constants around the tokens of a block": Variant(Recipe(after=between_constants), COMPILED),
    "class token before the tokens of a block": Variant(Recipe(after=tokens_late), COMPILED),
    "positions behind a block": Variant(Recipe(after=positions_late), COMPILED),
    "two tokens kept": Variant(Recipe(pool=two_tokens), COMPILED),
    "residual of flipped tokens": Variant(Recipe(residual=flipped_residual), COMPILED),
    "two tokens swapped": Variant(Recipe(embedded=tokens(1, 0, 2, 3)), COMPILED),
    "a token twice": Variant(Recipe(embedded=tokens(0, 0, 2, 3)), COMPILED),
    "tokens in place": Variant(Recipe(embedded=tokens(0, 1, 2, -1)), COMPILED),
    "no padding, in so many words": Variant(
        Recipe(patches=patch(pads=[0, 0, 0, 0], dilations=[1, 1], group=1)), COMPILED
    ),
    "padding that is called VALID": Variant(Recipe(patches=patch(auto_pad="VALID")), COMPILED),
    "padding at one side": Variant(
        Recipe(patches=patch(kernel=(3, 3), pads=[0, 0, 1, 1])), IMPORTED
    ),
    "negative padding": Variant(Recipe(patches=patch(pads=[0, 0, -1, -1])), "it cuts"),
    "kernel larger than stride": Variant(
        Recipe(patches=patch(kernel=(3, 3), pads=[1, 1, 0, 0])), IMPORTED
    ),
    "stride larger than kernel": Variant(Recipe(patches=patch(kernel=(1, 1))), IMPORTED),
    "dilated patches": Variant(Recipe(patches=patch(dilations=[2, 1])), "dilated"),
    "grouped patches": Variant(Recipe(patches=patch(group=2)), "it is grouped"),
    "less a mean image": Variant(Recipe(patches=mean_image), "between pixels"),
    "image mirrored": Variant(Recipe(patches=flipped_image), "not the patches"),
    "image turned": Variant(Recipe(patches=turned_image), "not the patches"),
    "grey image": Variant(Recipe(patches=grey), "something other than tokens"),
    "image times itself": Variant(
        Recipe(patches=lambda net, x: conv(net, net.op("Mul", x, x, name="culprit"))),
        "image itself",
    ),
    "relu of the image": Variant(
        Recipe(patches=lambda net, x: conv(net, net.op("Relu", x, name="culprit"))), "image itself"
    ),
    "image added to itself": Variant(
        Recipe(patches=lambda net, x: conv(net, net.op("Add", x, x, name="culprit"))),
        "image itself",
    ),
    "softmax of the image": Variant(
        Recipe(patches=lambda net, x: conv(net, net.op("Softmax", x, name="culprit"))),
        "not applied to attention scores",
    ),
    "relu of the patches": Variant(Recipe(patches=chain(conv, op("Relu"))), COMPILED),
}


# --- Pooling and head ----------------------------------------------------------------------------


def reduce(op_type: str, *axes: int, keepdims: int = 0) -> Step:
    return lambda net, x: net.op(op_type, x, net.ints(*axes), keepdims=keepdims, name="culprit")


def weighted_mean(net: Net, x: str) -> str:
    return net.op("MatMul", net.weight(1, TOKENS), x, name="culprit")


def mean_of_channels(net: Net, x: str) -> str:
    mean = net.op("ReduceMean", x, net.ints(2), keepdims=0)
    return net.op("MatMul", mean, net.weight(TOKENS, DIM), name="culprit")


def all_tokens(net: Net, x: str) -> str:
    """Every token has a part of the head's weights of its own."""
    flat = net.op("Reshape", x, net.ints(1, TOKENS * DIM), name="culprit")
    return net.op("MatMul", flat, net.weight(TOKENS * DIM, DIM), name="culprit_head")


def mean_with_first_twice(net: Net, x: str) -> str:
    repeated = net.op("Gather", x, net.const([0, 0, 1, 2], np.int64), axis=1)
    return net.op("ReduceMean", repeated, net.ints(1), keepdims=0, name="culprit")


def mean_over_nothing(net: Net, x: str) -> str:
    none = net.const(np.zeros(0), np.int64)
    kept = net.op("ReduceMean", x, none, noop_with_empty_axes=1, name="culprit")
    return net.op("ReduceMean", kept, net.ints(1), keepdims=0)


def global_pool(net: Net, x: str) -> str:
    """Of [batch, tokens, channels] it averages the channels."""
    pooled = net.op("Reshape", net.op("GlobalAveragePool", x), net.ints(1, TOKENS))
    return net.op("MatMul", pooled, net.weight(TOKENS, DIM), name="culprit")


def gemm(bias: np.ndarray, **attrs: object) -> Step:
    def head(net: Net, x: str) -> str:
        shape = (DIM, TOKENS)
        weight = net.weight(*(reversed(shape) if attrs.get("transB") else shape))
        return net.op("Gemm", x, weight, net.const(bias), name="culprit", **attrs)

    return head


def of_tokens(net: Net, x: str) -> str:
    return net.op("Reshape", x, net.ints(TOKENS, DIM))


def turned_gemm(net: Net, x: str) -> str:
    """Tokens × channels, turned twice: in front of it, and by it."""
    turned = net.op("Transpose", of_tokens(net, x), perm=[1, 0])
    return net.op("Gemm", turned, net.weight(DIM, DIM), name="culprit", transA=1)


def pooled(*steps: Step) -> Step:
    """Steps on [tokens, channels] that leave as many channels as there are tokens."""
    return chain(*steps, widened, lambda net, x: net.op("ReduceMean", x, net.ints(0), keepdims=1))


def widened(net: Net, x: str) -> str:
    return net.linear(x, TOKENS, DIM)


POOLING = {
    "mean of all tokens": Variant(
        Recipe(embedded=chain(class_token, positions), pool=reduce("ReduceMean", 1)), COMPILED
    ),
    "mean without the class token": Variant(
        Recipe(
            embedded=chain(class_token, positions),
            pool=chain(sliced(1, 99, 1), reduce("ReduceMean", 1)),
        ),
        COMPILED,
    ),
    "mean without the last token": Variant(
        Recipe(pool=chain(sliced(0, -1, 1), reduce("ReduceMean", -2))), COMPILED
    ),
    "mean with the axis kept": Variant(
        Recipe(pool=chain(reduce("ReduceMean", 1, keepdims=1), shaped(1, DIM))), COMPILED
    ),
    "mean over the channels": Variant(Recipe(pool=mean_of_channels), "mean over channels"),
    "mean over both": Variant(
        Recipe(
            pool=chain(
                reduce("ReduceMean", 1, 2, keepdims=1),
                shaped(1, 1),
                lambda net, x: net.linear(x, 1, DIM),
            )
        ),
        "not part of a GroupNorm",
    ),
    "mean over no axis": Variant(Recipe(pool=mean_over_nothing), "over no axis"),
    "mean with the first token twice": Variant(Recipe(pool=mean_with_first_twice), "neither all"),
    "mean with weights": Variant(Recipe(pool=weighted_mean), "constant from the left"),
    "global pool of channels": Variant(Recipe(pool=global_pool), "mean over channels"),
    "sum of the tokens": Variant(Recipe(pool=reduce("ReduceSum", 1)), COMPILED),
    "greatest of the tokens": Variant(Recipe(pool=reduce("ReduceMax", 1)), "ReduceMax is not"),
    "length of the tokens": Variant(Recipe(pool=reduce("ReduceL2", 1)), "ReduceL2 is not"),
    "first token": Variant(Recipe(pool=token(0)), COMPILED),
    "last token by its number": Variant(Recipe(pool=token(TOKENS - 1)), COMPILED),
    "last token by -1": Variant(Recipe(pool=token(-1)), COMPILED),
    "a token that is not there": Variant(
        Recipe(pool=token(TOKENS, name="culprit")), "cannot be evaluated"
    ),
    "all tokens side by side": Variant(Recipe(pool=all_tokens), "one token in each row"),
    "gemm with its factors": Variant(
        Recipe(pool=pooled(of_tokens, gemm(np.ones(TOKENS), alpha=0.5, beta=2.0))), COMPILED
    ),
    "gemm with the same number for all": Variant(
        Recipe(pool=pooled(of_tokens, gemm(np.array([[1.5]])))), COMPILED
    ),
    "gemm with a bias along the tokens": Variant(
        Recipe(pool=pooled(of_tokens, gemm(np.arange(TOKENS).reshape(TOKENS, 1)))),
        "bias differs between tokens",
    ),
    "gemm that turns its data": Variant(Recipe(pool=pooled(turned_gemm)), "transA"),
}


# --- What computes elsewhere: formats, control flow, shapes --------------------------------------


def cast(*kinds: int) -> Step:
    def through(net: Net, x: str) -> str:
        for kind in kinds:
            x = net.op("Cast", x, to=kind, name=named(net))
        return x

    return through


def quantised_weights(net: Net, x: str) -> str:
    """Weights in int8, which are constants all the same."""
    values = net.random.integers(-127, 128, (DIM, DIM))
    weight = net.op("DequantizeLinear", net.const(values, np.int8), net.const(0.01))
    return net.op("MatMul", x, weight)


def dynamically_quantised(net: Net, x: str) -> str:
    y = net.op("DynamicQuantizeLinear", x, outputs=3, name="culprit")
    return net.op("DequantizeLinear", y, f"{y}_1", f"{y}_2", name="culprit_back")


def inner_graph(name: str, op_type: str, x: str, *inputs: onnx.ValueInfoProto) -> onnx.GraphProto:
    """`op_type` of the outer tensor x."""
    made = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
    outputs = [made]
    nodes = [helper.make_node(op_type, [x], [f"{name}_out"])]
    if inputs:  # a loop's body takes and gives its condition first
        nodes.append(helper.make_node("Identity", [inputs[1].name], [f"{name}_go"]))
        outputs = [helper.make_tensor_value_info(f"{name}_go", TensorProto.BOOL, []), made]
    return helper.make_graph(nodes, name, list(inputs), outputs)


def branch(net: Net, x: str) -> str:
    """Relu or its opposite, by the sign of a number."""
    number = net.op("Reshape", sliced(0, 1, 1)(net, token(0)(net, x)), net.ints(1))
    positive = net.op("Greater", number, net.const([0.0]), name="culprit")
    branches = {
        "then_branch": inner_graph("then", "Relu", x),
        "else_branch": inner_graph("else", "Neg", x),
    }
    return net.op("If", positive, name="culprit_if", **branches)


def constant_branch(net: Net, x: str) -> str:
    branches = {
        "then_branch": inner_graph("then", "Identity", x),
        "else_branch": inner_graph("else", "Neg", x),
    }
    return net.op("If", net.const(True, np.bool_), name="culprit", **branches)


def loop(net: Net, x: str) -> str:
    """Relu, twice."""
    body = inner_graph(
        "body",
        "Relu",
        "carried",
        helper.make_tensor_value_info("round", TensorProto.INT64, []),
        helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        helper.make_tensor_value_info("carried", TensorProto.FLOAT, None),
    )
    operands = (net.const(2, np.int64), net.const(True, np.bool_), x)
    return net.op("Loop", *operands, name="culprit", body=body)


def tokens_that_count(net: Net, x: str) -> str:
    """The two tokens whose first channel is the greatest."""
    first = net.op("Gather", x, net.const(0, np.int64), axis=2)
    best = net.op("TopK", first, net.ints(2), outputs=2, name="culprit") + "_1"
    return net.op("Gather", x, net.op("Reshape", best, net.ints(2)), axis=1)


def shape_of_data(net: Net, x: str) -> str:
    """Slices up to a number that the data give."""
    number = net.op("Reshape", sliced(0, 1, 1)(net, token(0)(net, x)), net.ints(1))
    stop = net.op("Cast", number, to=TensorProto.INT64, name="culprit")
    return net.op("Slice", x, net.ints(0), stop, net.ints(1), name="culprit_slice")


def shape_of_shape(net: Net, x: str) -> str:
    """[batch, tokens, channels] from the shape, as exporters write it."""
    shape = net.op("Shape", x)
    sides = [net.op("Gather", shape, net.ints(n)) for n in (0, 1)]
    return net.op("Reshape", x, net.op("Concat", *sides, net.ints(-1), axis=0))


def used_mask(net: Net, x: str) -> str:
    """The mask of a Dropout that drops nothing: all true."""
    kept = net.op("Dropout", x, net.const(0.5), outputs=2, name="culprit")
    return net.op("Where", f"{kept}_1", kept, net.const(0.0), name="culprit_where")


def per_token(net: Net, x: str) -> str:
    """A weight matrix for each token."""
    split = net.op("Unsqueeze", x, net.ints(2))
    made = net.op("MatMul", split, net.weight(1, TOKENS, DIM, DIM), name="culprit")
    return net.op("Squeeze", made, net.ints(2))


def dropout(ratio: float) -> Step:
    return lambda net, x: net.op("Dropout", x, net.const(ratio))


FORMATS = {
    "double precision in between": Variant(
        Recipe(after=cast(TensorProto.DOUBLE, TensorProto.FLOAT)), COMPILED
    ),
    "whole numbers in between": Variant(
        Recipe(after=cast(TensorProto.INT32, TensorProto.FLOAT)), "to INT32"
    ),
    "eight-bit floats in between": Variant(
        Recipe(after=cast(TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT)), "to FLOAT8E4M3FN"
    ),
    "truth values in between": Variant(
        Recipe(after=cast(TensorProto.BOOL, TensorProto.FLOAT)), "to BOOL"
    ),
    "rounded": Variant(Recipe(after=op("Round")), "Round is not supported"),
    "quantised weights": Variant(Recipe(after=quantised_weights), COMPILED),
    "dynamic quantisation": Variant(
        Recipe(after=dynamically_quantised), "its integers are not products that are cast"
    ),
    "a branch that the data choose": Variant(Recipe(after=branch), "Greater is not supported"),
    "a branch that a constant chooses": Variant(Recipe(after=constant_branch), COMPILED),
    "a loop": Variant(Recipe(after=loop), "Loop is not supported"),
    "tokens that the data choose": Variant(Recipe(after=tokens_that_count), "TopK is not"),
    "a shape from the data": Variant(Recipe(after=shape_of_data), "to INT64"),
    "a shape from a shape": Variant(Recipe(after=shape_of_shape), COMPILED),
    "dropout that drops nothing": Variant(Recipe(after=dropout(0.5)), COMPILED),
    "dropout whose mask is used": Variant(
        Recipe(after=used_mask), "its output 'culprit_1' is used"
    ),
    "a weight for each token": Variant(Recipe(after=per_token), "its weight has shape"),
    "softmax of the result": Variant(Recipe(finish=op("Softmax", axis=-1)), "not applied to"),
    "sigmoid of the result": Variant(Recipe(finish=op("Sigmoid")), "sigmoid"),
    "the greatest result": Variant(Recipe(finish=op("ArgMax", axis=-1)), "ArgMax is not supported"),
    "result scaled": Variant(Recipe(finish=op("Mul", 3.0)), COMPILED),
}

VARIANTS = {
    **SOFTMAX,
    **SCORES,
    **ORDER,
    **NORM,
    **ACTIVATION,
    **RESIDUAL,
    **EMBEDDING,
    **POOLING,
    **FORMATS,
}


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    made = Oracle()
    yield made
    made.close()


def written(variant: Variant, folder: Path) -> Path:
    net, output = build(variant.recipe, Calm(opset=variant.opset))
    return net.save(folder / "model.onnx", output)


def names(*verdicts: str) -> list[str]:
    return [name for name, variant in VARIANTS.items() if variant.verdict in verdicts]


def test_there_are_enough_of_each() -> None:
    compiled = names(COMPILED)
    assert len(compiled) >= 40
    assert len(VARIANTS) - len(compiled) >= 80
    assert set(names(IN_PLACE))


@pytest.mark.parametrize("name", names(COMPILED))
def test_compiled_to_what_it_means(name: str, tmp_path: Path, oracle: Oracle) -> None:
    check_compiled(written(VARIANTS[name], tmp_path), oracle)


@pytest.mark.parametrize("name", names(IMPORTED))
def test_imported_as_what_it_means(name: str, tmp_path: Path, oracle: Oracle) -> None:
    check_imported(written(VARIANTS[name], tmp_path), oracle)


@pytest.mark.parametrize("name", names(IN_PLACE))
def test_refused_behind_the_importer(name: str, tmp_path: Path, oracle: Oracle) -> None:
    path = written(VARIANTS[name], tmp_path)
    check_imported(path, oracle)
    with pytest.raises(UnsupportedModelError, match=IN_PLACE) as caught:
        check_compiled(path, oracle)
    assert caught.value.remedy


BY_IMPORTER = [name for name in VARIANTS if name not in names(COMPILED, IMPORTED, IN_PLACE)]


@pytest.mark.parametrize("name", BY_IMPORTER)
def test_refused_by_its_name(name: str, tmp_path: Path) -> None:
    variant = VARIANTS[name]
    check_refused(written(variant, tmp_path), variant.verdict)


def test_softmax_before_its_axis_was_the_last(tmp_path: Path) -> None:
    """Until opset 12, Softmax without an axis flattened everything from axis 1 on."""
    net = Calm(opset=12)
    scores = net.op("MatMul", "image", net.op("Transpose", "image", perm=[0, 1, 3, 2]))
    path = net.save(tmp_path / "model.onnx", net.op("Softmax", scores))
    with pytest.raises(UnsupportedModelError, match=r"operator set 12.*opset_version=17"):
        import_model(path)


def test_scale_of_a_norm_for_each_token_of_as_many_channels(tmp_path: Path) -> None:
    """[tokens, 1] has as many numbers as there are channels, if there are as many tokens."""
    net = Calm()
    patches = net.op("Conv", "image", net.weight(TOKENS, 2, 2, 2), strides=[2, 2])
    turned = net.op("Transpose", shaped(1, TOKENS, TOKENS)(net, patches), perm=[0, 2, 1])
    scale = net.const(np.linspace(0.5, 1.5, TOKENS).reshape(TOKENS, 1))
    normal = net.op("LayerNormalization", turned, scale, name="culprit")
    path = net.save(tmp_path / "model.onnx", net.linear(normal, TOKENS, DIM))
    check_refused(path, "its scale has shape [4, 1], its data have 4 channels")
