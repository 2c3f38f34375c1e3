"""Convolution stems in the ways that they are written, and what looks like one and is not.

As tests/importer/test_subtle_variants.py, for what stands before the tokens: a variant that the
graph can hold is ONNX Runtime's in float; any other is refused by the name of its node.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from hybrid_builder import LOWEST
from onnx import TensorProto, helper
from onnx_builder import Calm, Net, Step, chain, same
from oracle import Oracle
from verdicts import check_imported, check_refused, some_images
from vitessera.codegen.importer import evaluate, import_model, inspect_model

IMPORTED = "imported"
IMAGE = (3, 12, 10)
WIDTH, GROUPS, CLASSES = 8, 2, 5


@dataclass(frozen=True)
class Variant:
    """image → stem → map → norm of maps → change → tokens, one of which can be wrong.

    Attributes:
        verdict: IMPORTED, or a piece of the reason; the node at fault is called `culprit...`.
        image: what is done to the image.
        stem: the convolution of it.
        change: what is done to the map [1, 8, rows, columns] behind it.
        arrange: how the map becomes tokens [1, tokens, channels].
        embedded: what is done to the tokens.
        opset: of the file.
    """

    verdict: str = IMPORTED
    image: Step = same
    stem: Step = lambda net, x: conv(3, stride=2, pads=[1, 1, 1, 1], inputs=3)(net, x)
    change: Step = same
    arrange: Step = lambda net, x: as_tokens(net, x)
    embedded: Step = same
    opset: int = 21


def as_tokens(net: Net, x: str) -> str:
    """[1, channels, rows, columns] as [1, tokens, channels]."""
    return turn(0, 2, 1)(net, net.op("Reshape", x, net.ints(0, 0, -1)))


def turn(*perm: int) -> Step:
    return lambda net, x: net.op("Transpose", x, perm=list(perm))


def shaped(*shape: int) -> Step:
    """Another shape, without its first axis, which stays."""
    return lambda net, x: net.op("Reshape", x, net.ints(0, *shape))


def op(op_type: str, *constants: object, name: str = "culprit", **attrs: object) -> Step:
    """A step of one node."""

    def step(net: Net, x: str) -> str:
        return net.op(op_type, x, *(net.const(c) for c in constants), name=name, **attrs)

    return step


def named(net: Net) -> str:
    """A name of its own for each node that may be to blame."""
    return f"culprit_{len(net.nodes)}"


def relu(net: Net, x: str) -> str:
    return net.op("Relu", x)


def sliced(start: int, stop: int, axis: int) -> Step:
    return lambda net, x: net.op("Slice", x, *(net.ints(n) for n in (start, stop, axis)))


def gathered(*places: int) -> Step:
    return lambda net, x: net.op("Gather", x, net.const(places, np.int64), axis=1)


# --- Convolutions --------------------------------------------------------------------------------


def conv(
    kernel: int | tuple[int, ...],
    *,
    stride: int = 1,
    inputs: int = WIDTH,
    name: str = "culprit",
    **attrs: object,
) -> Step:
    """A convolution to eight channels, called culprit."""

    def step(net: Net, x: str) -> str:
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        taken = inputs // int(str(attrs.get("group", 1)))
        weight = net.const(net.random.standard_normal((WIDTH, taken, *sides)) / 5)
        bias = net.const(net.random.standard_normal(WIDTH))
        given = {"strides": [stride] * len(sides), **attrs}
        return net.op("Conv", x, weight, bias, name=f"{name}_{len(net.nodes)}", **given)

    return step


def three_by_three(net: Net, x: str) -> str:
    return conv(3, pads=[1, 1, 1, 1])(net, x)


def batch_norm(net: Net, x: str) -> str:
    constants = [net.const(net.random.random(WIDTH) + 0.5) for _ in range(4)]
    return net.op("BatchNormalization", x, *constants, name="culprit")


def trained_batch_norm(net: Net, x: str) -> str:
    constants = [net.const(net.random.random(WIDTH) + 0.5) for _ in range(4)]
    return net.op("BatchNormalization", x, *constants, name="culprit", training_mode=1, outputs=3)


def old_trained_batch_norm(net: Net, x: str) -> str:
    """Before opset 14, five outputs said it."""
    constants = [net.const(net.random.random(WIDTH) + 0.5) for _ in range(4)]
    return net.op("BatchNormalization", x, *constants, name="culprit", outputs=5)


def standardised(net: Net, x: str) -> str:
    """A convolution whose weight is standardised when the model runs, as BiT's are."""
    weight = net.const(net.random.standard_normal((1, WIDTH, 3 * 49)))
    ones, zeros = net.const(np.ones(WIDTH)), net.const(np.zeros(WIDTH))

    def mean_of(values: str, keepdims: int) -> str:
        if net.opset < 18:
            return net.op("ReduceMean", values, axes=[0, 2], keepdims=keepdims)
        return net.op("ReduceMean", values, net.ints(0, 2), keepdims=keepdims)

    mean = mean_of(weight, 0)
    apart = net.op("Sub", weight, mean_of(weight, 1))
    variance = mean_of(net.op("Mul", apart, apart), 0)
    made = net.op("BatchNormalization", weight, ones, zeros, mean, variance, epsilon=1e-6)
    kernel = net.op("Reshape", made, net.ints(WIDTH, 3, 7, 7))
    return net.op("Conv", x, kernel, strides=[2, 2], pads=[2, 2, 3, 3])


def trained_standardised(net: Net, x: str) -> str:
    """The same by an operator in training mode, as TorchScript writes it."""
    weight = net.const(net.random.standard_normal((1, WIDTH, 3 * 49)))
    constants = [net.const(np.full(WIDTH, value)) for value in (1.0, 0.0, 0.5, 2.0)]
    made = net.op("BatchNormalization", weight, *constants, training_mode=1, outputs=3)
    kernel = net.op("Reshape", made, net.ints(WIDTH, 3, 7, 7))
    return net.op("Conv", x, kernel, strides=[2, 2], auto_pad="SAME_UPPER")


def long_bias(net: Net, x: str) -> str:
    weight, bias = net.weight(WIDTH, WIDTH, 1, 1), net.const(np.ones(3))
    return net.op("Conv", x, weight, bias, name="culprit")


def weight_of_the_image(net: Net, x: str) -> str:
    mean = net.op("ReduceMean", x, net.ints(2, 3))
    weight = net.op("Reshape", mean, net.ints(1, WIDTH, 1, 1))
    return net.op("Conv", x, weight, name="culprit")


def transposed_conv(net: Net, x: str) -> str:
    weight = net.weight(WIDTH, WIDTH, 2, 2)
    return net.op("ConvTranspose", x, weight, strides=[2, 2], name="culprit")


def residual(net: Net, x: str) -> str:
    y = relu(net, batch_norm_of(net, three_by_three(net, x)))
    return relu(net, net.op("Add", batch_norm_of(net, conv(1)(net, y)), conv(1)(net, x)))


def batch_norm_of(net: Net, x: str) -> str:
    constants = [net.const(net.random.random(WIDTH) + 0.5) for _ in range(4)]
    return net.op("BatchNormalization", x, *constants)


def dense_block(net: Net, x: str) -> str:
    both = net.op("Concat", x, relu(net, three_by_three(net, x)), axis=1)
    return conv(1, inputs=2 * WIDTH)(net, both)


def gate(net: Net, x: str) -> str:
    """Squeeze and excitation."""
    mean = net.op("GlobalAveragePool", x)
    factor = net.op("Sigmoid", net.op("Conv", mean, net.weight(WIDTH, WIDTH, 1, 1)))
    return net.op("Mul", x, factor, name="culprit")


def two_readers(net: Net, x: str) -> str:
    """Two convolutions of the image, whose sum is taken."""
    left = conv(3, stride=2, pads=[1, 1, 1, 1], inputs=3)(net, x)
    return net.op("Add", relu(net, left), conv(1, stride=2, inputs=3)(net, x))


def patches_and_convolution(net: Net, x: str) -> str:
    left = conv(2, stride=2, inputs=3)(net, x)
    return net.op("Add", relu(net, left), conv(3, stride=2, pads=[1] * 4, inputs=3)(net, x))


CONVOLUTIONS = {
    "nothing but the stem": Variant(),
    "a convolution of a map": Variant(change=three_by_three),
    "one by one": Variant(change=conv(1)),
    "one by one, every other pixel": Variant(change=conv(1, stride=2)),
    "stride two": Variant(change=conv(3, stride=2, pads=[1, 1, 1, 1])),
    "patches of a map": Variant(change=chain(conv(3), conv(2, stride=2))),
    "patches that leave pixels over": Variant(change=conv(2, stride=2)),
    "patches of the image that leave pixels over": Variant(stem=conv(5, stride=5, inputs=3)),
    "a kernel as large as the map": Variant(change=conv((6, 5))),
    "a kernel larger than the map": Variant("does not fit a map of [6, 5]", change=conv(7)),
    "a kernel that is not square": Variant(change=conv((3, 1), pads=[1, 0, 1, 0])),
    "pads at one side": Variant(change=conv(3, pads=[0, 0, 1, 1])),
    "four different pads": Variant(change=conv(3, pads=[0, 2, 1, 0])),
    "wide pads": Variant(change=conv(2, pads=[3, 3, 3, 3])),
    "pads that cut": Variant("it cuts", change=conv(3, pads=[1, 1, -1, 1])),
    "same padding, more behind": Variant(stem=conv(4, stride=3, inputs=3, auto_pad="SAME_UPPER")),
    "same padding, more before": Variant(stem=conv(4, stride=3, inputs=3, auto_pad="SAME_LOWER")),
    "same padding of an odd side": Variant(change=conv(3, stride=2, auto_pad="SAME_LOWER")),
    "no padding, called VALID": Variant(change=conv(3, stride=2, auto_pad="VALID")),
    "two strides": Variant("its strides are [2, 1]", change=conv(3, strides=[2, 1])),
    "dilated": Variant("it is dilated", change=conv(2, dilations=[2, 2])),
    "dilated stem": Variant("it is dilated", stem=conv(2, stride=2, inputs=3, dilations=[1, 2])),
    "grouped": Variant("it is grouped", change=conv(3, group=2)),
    "depthwise": Variant("it is grouped", change=conv(3, group=WIDTH)),
    "along one axis": Variant(
        "has 3 axes",
        change=chain(shaped(WIDTH, -1), conv((3,), pads=[1, 1]), shaped(WIDTH, 6, 5)),
    ),
    "along three axes": Variant(
        "has 5 axes",
        change=chain(shaped(WIDTH, 1, 6, 5), conv((1, 3, 3)), shaped(WIDTH, 4, 3)),
    ),
    "a kernel_shape of its own": Variant(
        "its kernel_shape another", change=conv(3, kernel_shape=[2, 2])
    ),
    "one stride": Variant("its strides are [2]", change=conv(3, strides=[2])),
    "two pads": Variant("its pads are [1, 1]", change=conv(3, pads=[1, 1])),
    "padding of no known kind": Variant("its auto_pad is 'SAME'", change=conv(3, auto_pad="SAME")),
    "frames by themselves": Variant(
        "several frames by themselves",
        image=turn(1, 0, 2, 3),
        stem=conv(3, inputs=1),
    ),
    "no bias": Variant(change=lambda net, x: net.op("Conv", x, net.weight(4, WIDTH, 3, 3))),
    "a bias of another size": Variant("its bias has shape [3]", change=long_bias),
    "a weight of the image": Variant("its weight depends on the image", change=weight_of_the_image),
    "a weight for other channels": Variant("does not fit its 8 channels", change=conv(1, inputs=6)),
    "transposed": Variant("ConvTranspose is not", change=transposed_conv),
    "standardised weight": Variant(stem=standardised),
    "standardised weight by training": Variant(stem=trained_standardised),
    "batch norm behind": Variant(change=chain(three_by_three, batch_norm, relu)),
    "batch norm before, no padding": Variant(change=chain(relu, batch_norm, conv(3))),
    "batch norm before padding": Variant(
        "beside padding", change=chain(relu, batch_norm, three_by_three)
    ),
    "factors before padding": Variant(
        change=chain(relu, lambda net, x: net.op("Mul", x, net.weight(WIDTH, 1, 1)), three_by_three)
    ),
    "factors by pixel": Variant(
        "differs between tokens",
        change=chain(lambda net, x: net.op("Mul", x, net.weight(6, 5), name="culprit"), conv(3)),
    ),
    "batch norm in training": Variant("in training mode", change=trained_batch_norm),
    "batch norm of a weight, as it was": Variant(stem=standardised, opset=13),
    "batch norm in training, as it was": Variant(
        "in training mode", change=old_trained_batch_norm, opset=13
    ),
    "residual block": Variant(change=residual),
    "channels of two maps": Variant("does not hold the pixels", change=dense_block),
    "squeeze and excitation": Variant("(squeeze and excitation)", change=gate),
    "relu6": Variant("Clip is not supported", change=op("Clip", 0.0, 6.0)),
    "hard swish": Variant("HardSwish is not supported", change=op("HardSwish")),
    "leaky relu": Variant("LeakyRelu is not supported", change=op("LeakyRelu")),
    "the image convolved twice": Variant("cut into patches, in two ways", stem=two_readers),
    "the image cut and convolved": Variant(
        "cut into patches, in two ways", stem=patches_and_convolution
    ),
    "patches that are a map": Variant(
        stem=conv(2, stride=2, inputs=3), change=chain(relu, three_by_three)
    ),
    "patches, then one by one": Variant(
        stem=conv(2, stride=2, inputs=3),
        change=chain(relu, conv(1)),
        embedded=lambda net, x: net.op("Add", x, net.weight(1, 30, WIDTH)),
    ),
    "oblong patches that are a map": Variant(
        "are a map that is convolved",
        stem=conv((3, 2), strides=[3, 2], inputs=3),
        change=conv(3),
    ),
}


# --- Arrangements --------------------------------------------------------------------------------


def positions(net: Net, x: str) -> str:
    return net.op("Add", x, net.weight(1, 30, WIDTH), name=named(net))


def class_token(net: Net, x: str) -> str:
    return net.op("Concat", net.weight(1, 1, WIDTH), x, axis=1, name=named(net))


def channels_by_pixel(net: Net, x: str) -> str:
    places = net.random.integers(0, WIDTH, (1, WIDTH, 6, 5))
    return net.op("GatherElements", x, net.const(places, np.int64), axis=1)


def normalised(net: Net, x: str) -> str:
    x = net.op("Sub", x, net.const(np.array([0.4, 0.5, 0.6]).reshape(3, 1, 1)), name="culprit")
    return net.op("Div", x, net.const(np.array([0.2, 0.3, 0.4]).reshape(3, 1, 1)))


def scaled(net: Net, x: str) -> str:
    return net.op("Mul", x, net.const(np.array([0.2, 0.3, 0.4]).reshape(3, 1, 1)))


ARRANGEMENTS = {
    "channels last in between": Variant(
        change=chain(turn(0, 2, 3, 1), turn(0, 3, 1, 2), three_by_three)
    ),
    "tokens in between": Variant(
        change=chain(as_tokens, turn(0, 2, 1), shaped(WIDTH, 6, 5), three_by_three)
    ),
    "another width in between": Variant(change=chain(shaped(WIDTH, 10, 3), conv(3))),
    "rows and columns swapped": Variant("row by row", change=chain(turn(0, 1, 3, 2), conv(3))),
    "rows and columns swapped behind": Variant(
        arrange=lambda net, x: net.op(
            "Identity", as_tokens(net, turn(0, 1, 3, 2)(net, x)), name="culprit"
        ),
    ),
    "channels for columns": Variant(
        "row by row",
        stem=conv(3, inputs=3, pads=[1, 1, 1, 1]),
        change=chain(sliced(0, 8, 3), sliced(0, 8, 2), turn(0, 3, 2, 1), conv(3)),
    ),
    "other channels for other pixels": Variant(
        "other channels for other pixels", change=chain(channels_by_pixel, conv(3))
    ),
    "a part of the map": Variant("of one map", change=chain(sliced(1, 5, 2), conv(3))),
    "mirrored": Variant(
        "row by row",
        change=chain(
            lambda net, x: net.op("Slice", x, *(net.ints(n) for n in (-1, -99, 3, -1))), conv(3)
        ),
    ),
    "some channels": Variant(change=chain(relu, gathered(0, 3, 4), conv(3, inputs=3))),
    "channels shuffled": Variant(change=chain(relu, gathered(7, 3, 1, 0, 2, 6, 4, 5), conv(3))),
    "a channel twice": Variant(change=chain(relu, gathered(0, 3, 3), conv(3, inputs=3))),
    "colours swapped": Variant(image=gathered(2, 1, 0)),
    "one colour": Variant(image=gathered(1), stem=conv(3, inputs=1)),
    "image turned": Variant("row by row", image=turn(0, 1, 3, 2)),
    "colours scaled": Variant(image=scaled),
    "image normalised": Variant(image=normalised, stem=conv(3, stride=2, inputs=3)),
    "image normalised before padding": Variant("beside padding", image=normalised),
    "positions": Variant(embedded=positions),
    "class token": Variant(embedded=class_token),
    "positions, then class token": Variant(embedded=chain(positions, class_token)),
    "positions of another stem": Variant(change=conv(3, pads=[1] * 4), embedded=positions),
    "positions behind an activation": Variant(change=relu, embedded=positions),
    "positions twice": Variant(
        embedded=chain(
            lambda net, x: net.op("Add", x, net.weight(1, 30, WIDTH)),
            lambda net, x: net.op("Add", x, net.weight(1, 30, WIDTH)),
        )
    ),
}


# --- Padding -------------------------------------------------------------------------------------


def pad(
    *pads: int, value: float | None = 0.0, mode: str = "constant", axes: tuple[int, ...] = ()
) -> Step:
    """A Pad node; (top, left, bottom, right) stand for all eight numbers."""

    def step(net: Net, x: str) -> str:
        numbers = pads if len(pads) > 4 or axes else (0, 0, *pads[:2], 0, 0, *pads[2:])
        operands = [net.ints(*numbers)]
        if value is not None or axes:
            operands.append(net.const(value or 0.0))
        if axes:
            operands.append(net.ints(*axes))
        return net.op("Pad", x, *operands, mode=mode, name=f"culprit_{len(net.nodes)}")

    return step


def padded_by_the_image(net: Net, x: str) -> str:
    least = net.op("ReduceMean", x, net.ints(0, 1, 2, 3), keepdims=0)
    return net.op("Pad", x, net.ints(0, 0, 1, 1, 0, 0, 1, 1), least, name="culprit")


def padded_with_nan(net: Net, x: str) -> str:
    nothing = net.op("Sqrt", net.const(-1.0))
    return net.op("Pad", x, net.ints(0, 0, 1, 1, 0, 0, 1, 1), nothing, name="culprit")


PADDING = {
    "pad with no number": Variant("it pads with NaN", change=chain(padded_with_nan, conv(3))),
    "pad before a convolution": Variant(change=chain(pad(1, 1, 1, 1), conv(3))),
    "pad by default": Variant(change=chain(pad(1, 0, 2, 1, value=None), conv(3))),
    "pad of the image": Variant(image=pad(2, 2, 3, 3), stem=conv(7, stride=2, inputs=3)),
    "pad and pads": Variant(change=chain(pad(0, 1, 0, 0), conv(3, pads=[1, 0, 1, 1]))),
    "pad twice": Variant(change=chain(pad(0, 1, 0, 0), pad(1, 0, 1, 1), conv(3))),
    "pad of chosen axes": Variant(
        change=chain(pad(1, 2, 0, 1, axes=(2, 3)), conv(3)),
    ),
    "pad of negative axes": Variant(change=chain(pad(1, 1, axes=(-1,)), conv(3))),
    "pad of nothing": Variant(change=chain(pad(0, 0, 0, 0), relu)),
    "padding cut off again": Variant(
        change=chain(pad(1, 1, 1, 1), sliced(1, 7, 2), sliced(1, 6, 3), relu)
    ),
    "padding cut off on one side": Variant(
        change=chain(pad(1, 1, 1, 1), sliced(1, 99, 2), sliced(1, 99, 3), conv(3))
    ),
    "padding with channels last": Variant(
        change=chain(turn(0, 2, 3, 1), pad(0, 1, 1, 0, 0, 1, 1, 0), turn(0, 3, 1, 2), conv(3))
    ),
    "pad with one": Variant("is padded with 1", change=chain(pad(1, 1, 1, 1, value=1.0), conv(3))),
    "pad with nothing much": Variant(
        "is padded with 1e-06", change=chain(pad(1, 1, 1, 1, value=1e-6), conv(3))
    ),
    "pad with two values": Variant(
        "it pads with 1 what was padded with 0",
        change=chain(pad(1, 1, 1, 1), pad(1, 1, 1, 1, value=1.0), conv(3)),
    ),
    "reflected": Variant("each once", change=chain(pad(1, 1, 1, 1, mode="reflect"), conv(3))),
    "edges repeated": Variant("each once", change=chain(pad(1, 1, 1, 1, mode="edge"), conv(3))),
    "wrapped": Variant("each once", change=chain(pad(1, 1, 1, 1, mode="wrap"), conv(3))),
    "channels padded": Variant(
        "it pads the channels", change=chain(pad(0, 0, 0, 0, 0, 2, 0, 0), conv(3, inputs=10))
    ),
    "relu of padding": Variant("computes on padding", change=chain(pad(1, 1, 1, 1), relu, conv(3))),
    "sum of padding": Variant(
        "computes on padding",
        change=chain(pad(1, 1, 1, 1), lambda net, x: net.op("Add", x, x), conv(3)),
    ),
    "factor of padding": Variant(
        "computes on padding",
        change=chain(pad(1, 1, 1, 1), lambda net, x: net.op("Mul", x, net.const(2.0)), conv(3)),
    ),
    "padded tokens": Variant(
        "no convolution or pooling takes up", embedded=pad(0, 1, 0, 0, 0, 0, axes=(0, 1, 2))
    ),
    "padding of the data": Variant("its padding value depends", change=padded_by_the_image),
    "image normalised, then padded": Variant(
        "beside padding",
        image=chain(normalised, pad(1, 1, 1, 1)),
        stem=conv(3, stride=2, inputs=3, name="conv"),
    ),
    "image scaled, then padded": Variant(
        image=chain(scaled, pad(1, 1, 1, 1)), stem=conv(3, stride=2, inputs=3)
    ),
}


# --- Pooling -------------------------------------------------------------------------------------


def pool(op_type: str, kernel: tuple[int, ...] = (3, 3), stride: int = 2, **attrs: object) -> Step:
    given = {"kernel_shape": list(kernel), "strides": [stride] * len(kernel), **attrs}
    return lambda net, x: net.op(op_type, x, name=f"culprit_{len(net.nodes)}", **given)


def places_of_pool(net: Net, x: str) -> str:
    attrs = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    made = net.op("MaxPool", x, name="culprit", outputs=2, **attrs)
    return net.op("Add", made, net.op("Cast", f"{made}_1", to=TensorProto.FLOAT))


POOLING = {
    "max pool": Variant(change=pool("MaxPool")),
    "max pool with pads": Variant(change=pool("MaxPool", pads=[1, 1, 1, 1])),
    "max pool with other pads": Variant(change=pool("MaxPool", pads=[0, 1, 2, 0])),
    "max pool of negative values": Variant(
        change=chain(
            lambda net, x: net.op("Sub", x, net.const(100.0)),
            pool("MaxPool", pads=[1, 1, 1, 1]),
        )
    ),
    "max pool, same padding": Variant(change=pool("MaxPool", auto_pad="SAME_UPPER")),
    "max pool, same padding before": Variant(change=pool("MaxPool", auto_pad="SAME_LOWER")),
    "max pool that overhangs": Variant(change=pool("MaxPool", (2, 2), ceil_mode=1)),
    "max pool that overhangs with pads": Variant(
        change=pool("MaxPool", (2, 2), ceil_mode=1, pads=[1, 1, 1, 1])
    ),
    "max pool, the last one in the padding": Variant(
        change=pool("MaxPool", (3, 3), 3, ceil_mode=1, pads=[1, 1, 1, 1])
    ),
    "max pool that could overhang": Variant(change=pool("MaxPool", (2, 1), 1, ceil_mode=1)),
    "max pool of an oblong": Variant(change=pool("MaxPool", (3, 2), 1)),
    "max pool after minus infinity": Variant(
        change=chain(pad(0, 0, 1, 1, value=-np.inf), pool("MaxPool"))
    ),
    "max pool after the least number": Variant(
        change=chain(pad(1, 1, 1, 1, value=LOWEST), pool("MaxPool"))
    ),
    "max pool after zeros and relu": Variant(change=chain(relu, pad(1, 1, 1, 1), pool("MaxPool"))),
    "max pool after less than zero and relu": Variant(
        change=chain(relu, pool("MaxPool", stride=1), pad(1, 1, 1, 1, value=-3.0), pool("MaxPool"))
    ),
    "max pool after zeros": Variant(
        "which may be the greatest", change=chain(pad(1, 1, 1, 1), pool("MaxPool"))
    ),
    "max pool after one and relu": Variant(
        "which may be the greatest", change=chain(relu, pad(1, 1, 1, 1, value=1.0), pool("MaxPool"))
    ),
    "max pool after zeros and gelu": Variant(
        "which may be the greatest",
        change=chain(lambda net, x: net.op("Gelu", x), pad(1, 1, 1, 1), pool("MaxPool")),
    ),
    "max pool of nothing": Variant(
        "nothing but padding", change=chain(relu, pad(3, 3, 3, 3), pool("MaxPool"))
    ),
    "max pool of some channels": Variant(change=chain(gathered(5, 1, 1, 2), pool("MaxPool"))),
    "dilated max pool": Variant("it is dilated", change=pool("MaxPool", (2, 2), dilations=[2, 2])),
    "max pool of two strides": Variant(
        "strides are [2, 1]", change=pool("MaxPool", strides=[2, 1])
    ),
    "max pool of the image": Variant("pools the image itself", image=pool("MaxPool", stride=1)),
    "max pool of one side": Variant("its kernel is [3]", change=pool("MaxPool", kernel_shape=[3])),
    "max pool along one axis": Variant(
        "has 3 axes", change=chain(shaped(WIDTH, -1), pool("MaxPool", (3,)))
    ),
    "places of the greatest": Variant("its output 'culprit_1' is used", change=places_of_pool),
    "average pool": Variant(change=pool("AveragePool", (2, 2))),
    "average pool, stride one": Variant(change=pool("AveragePool", (3, 2), 1)),
    "average pool of everything": Variant(change=pool("AveragePool", (6, 5), 1)),
    "average pool of the image": Variant(stem=pool("AveragePool", (2, 2))),
    "average pool that counts padding": Variant(
        change=pool("AveragePool", pads=[1, 1, 1, 1], count_include_pad=1)
    ),
    "average pool that does not": Variant(
        "fewer pixels at the border", change=pool("AveragePool", pads=[1, 1, 1, 1])
    ),
    "average pool after zeros": Variant(change=chain(pad(1, 1, 1, 1), pool("AveragePool"))),
    "average pool after one": Variant(
        "is padded with 1", change=chain(pad(1, 1, 1, 1, value=1.0), pool("AveragePool"))
    ),
    "average pool that overhangs": Variant(
        "fewer pixels at the border", change=pool("AveragePool", (2, 2), ceil_mode=1)
    ),
    "average pool that overhangs and counts": Variant(
        "fewer pixels at the border",
        change=pool("AveragePool", (2, 2), ceil_mode=1, count_include_pad=1),
    ),
    "average pool that could overhang": Variant(
        stem=conv(3, inputs=3, pads=[1, 1, 1, 1]), change=pool("AveragePool", (2, 2), ceil_mode=1)
    ),
    "average pool, same padding": Variant(
        "fewer pixels at the border", change=pool("AveragePool", auto_pad="SAME_UPPER")
    ),
    "mean of the map": Variant(
        change=op("GlobalAveragePool", name="mean"), arrange=shaped(1, WIDTH)
    ),
    "power pool": Variant("LpPool is not supported", change=pool("LpPool", (2, 2))),
    "resized": Variant(
        "Resize is not supported",
        change=lambda net, x: net.op(
            "Resize", x, "", net.const([1.0, 1.0, 2.0, 2.0]), name="culprit"
        ),
    ),
}


# --- Norms ---------------------------------------------------------------------------------------


def affine(net: Net, x: str) -> str:
    scale, shift = (net.const(net.random.standard_normal((WIDTH, 1, 1))) for _ in range(2))
    return net.op("Add", net.op("Mul", x, scale), shift)


def instance(groups: int, *, epsilon: float = 1e-5, constants: bool = False) -> Step:
    """InstanceNormalization of [1, groups, ...], with factors of its own or ones."""

    def step(net: Net, x: str) -> str:
        scale, bias = np.ones(groups), np.zeros(groups)
        if constants:
            scale, bias = (net.random.standard_normal(groups) for _ in range(2))
        rows = net.op("Reshape", x, net.ints(0, groups, -1))
        operands = [net.const(scale), net.const(bias)]
        normal = net.op("InstanceNormalization", rows, *operands, epsilon=epsilon, name=named(net))
        return net.op("Reshape", normal, net.op("Shape", x))

    return step


def grouped(constants: int, groups: int = GROUPS) -> Step:
    def step(net: Net, x: str) -> str:
        gamma, beta = (net.const(net.random.standard_normal(constants)) for _ in range(2))
        return net.op("GroupNormalization", x, gamma, beta, num_groups=groups, name=named(net))

    return step


def interleaved(step: Step) -> Step:
    """Channels 0, 2, 4 ... before 1, 3, 5 ... while `step` sees them."""

    def around(net: Net, x: str) -> str:
        there = shaped(4, 2, 6, 5), turn(0, 2, 1, 3, 4), shaped(WIDTH, 6, 5)
        back = shaped(2, 4, 6, 5), turn(0, 2, 1, 3, 4), shaped(WIDTH, 6, 5)
        return chain(*there, step, *back)(net, x)

    return around


def instance_of_map(net: Net, x: str) -> str:
    gamma, beta = (net.const(net.random.standard_normal(WIDTH)) for _ in range(2))
    return net.op("InstanceNormalization", x, gamma, beta, name="culprit")


@dataclass(frozen=True)
class Spelled:
    """A norm by ReduceMean, with something changed.

    Attributes:
        shape: in which it is computed.
        axes: that it is over.
        change: what is wrong.
    """

    shape: tuple[int, ...] = (0, GROUPS, -1)
    axes: tuple[int, ...] = (2,)
    change: str = ""

    def __call__(self, net: Net, x: str) -> str:
        rows = net.op("Reshape", x, net.ints(*self.shape))
        axes = net.ints(*self.axes)
        centred = net.op("Sub", rows, net.op("ReduceMean", rows, axes, name=named(net)))
        squared = rows if self.change == "of x" else centred
        square = net.op("Mul", squared, squared)
        if self.change == "unbiased":
            total = net.op("ReduceSum", square, axes, name=named(net))
            variance = net.op("Div", total, net.const(119.0))
        elif self.change == "other axes":
            variance = net.op("ReduceMean", square, name=named(net))
        else:
            variance = net.op("ReduceMean", square, axes, name=named(net))
        eps = net.const(-1.0 if self.change == "negative" else 1e-3)
        if self.change == "outside":
            deviation = net.op("Add", net.op("Sqrt", variance), eps)
        elif self.change == "none":
            deviation = net.op("Sqrt", variance)
        else:
            deviation = net.op("Sqrt", net.op("Add", variance, eps))
        upper = rows if self.change == "no mean" else centred
        if self.change == "rsqrt":
            normal = net.op("Mul", net.op("Reciprocal", deviation), upper)
        else:
            normal = net.op("Div", upper, deviation, name=named(net))
        return net.op("Reshape", normal, net.op("Shape", x))


def norm_of_another(net: Net, x: str) -> str:
    """Its mean and deviation are of another map."""
    y = relu(net, x)
    axes = net.ints(1, 2, 3)
    centred = net.op("Sub", x, net.op("ReduceMean", y, axes))
    variance = net.op("ReduceMean", net.op("Mul", centred, centred), axes)
    deviation = net.op("Sqrt", net.op("Add", variance, net.const(1e-3)))
    return net.op("Div", centred, deviation, name="culprit")


def norm_of_all(net: Net, x: str) -> str:
    ones = net.const(np.ones((WIDTH, 6, 5)))
    return net.op("LayerNormalization", x, ones, axis=1, name="culprit")


def norm_of_channels(net: Net, x: str) -> str:
    """LayerNorm2d: of each pixel."""
    last = turn(0, 2, 3, 1)(net, x)
    normal = net.op("LayerNormalization", last, net.weight(WIDTH), net.weight(WIDTH), axis=-1)
    return turn(0, 3, 1, 2)(net, normal)


NORMS = {
    "instance norm of groups": Variant(change=chain(instance(GROUPS), affine)),
    "instance norm with a factor a group": Variant(change=instance(GROUPS, constants=True)),
    "instance norm of channels": Variant(change=instance_of_map),
    "instance norm of everything": Variant(change=chain(instance(1), affine, relu)),
    "instance norm of tokens and groups": Variant(
        change=chain(as_tokens, turn(0, 2, 1), instance(GROUPS), shaped(WIDTH, 6, 5))
    ),
    "instance norm of rows": Variant(
        "its groups are not", change=chain(turn(0, 2, 1, 3), instance(6), turn(0, 2, 1, 3))
    ),
    "instance norm of half channels": Variant(
        "its groups are not", change=instance(2 * WIDTH, constants=True)
    ),
    "instance norm of padding": Variant(
        "its groups are not", change=chain(pad(1, 1, 1, 1), instance(GROUPS), conv(3, name="conv"))
    ),
    "instance norm of the image": Variant("it normalises", image=instance(3)),
    "instance norm without epsilon": Variant(change=instance(GROUPS, epsilon=0.0)),
    "instance norm with a negative epsilon": Variant(
        "its epsilon is -1", change=instance(GROUPS, epsilon=-1.0)
    ),
    "interleaved groups": Variant(change=chain(interleaved(instance(GROUPS)), affine, conv(3))),
    "interleaved groups that no layer sorts": Variant(
        "reorders channels",
        change=chain(
            interleaved(instance(GROUPS)), lambda net, x: net.op("Identity", x, name="culprit")
        ),
        arrange=lambda net, x: net.op("Identity", as_tokens(net, x), name="culprit_of_output"),
    ),
    "interleaved groups, spelled out": Variant(
        "nor all tokens of a group", change=interleaved(Spelled())
    ),
    "group norm": Variant(change=chain(grouped(WIDTH), relu)),
    "group norm of one group": Variant(change=grouped(WIDTH, 1)),
    "group norm of each channel": Variant(change=grouped(WIDTH, WIDTH)),
    "group norm with channels turned": Variant(
        change=chain(gathered(7, 6, 5, 4, 3, 2, 1, 0), grouped(WIDTH), conv(1))
    ),
    "group norm of some channels": Variant(change=chain(gathered(1, 2, 6, 7), grouped(4))),
    "group norm with factors by group": Variant(
        "its scale has shape [2], not [8]", change=grouped(GROUPS)
    ),
    "group norm of three groups": Variant("do not make 3 groups", change=grouped(WIDTH, 3)),
    "norm spelled out": Variant(change=chain(Spelled(), affine)),
    "norm spelled out with rsqrt": Variant(change=Spelled(change="rsqrt")),
    "norm spelled out, five axes": Variant(change=Spelled((0, GROUPS, -1, 6, 5), (2, 3, 4))),
    "norm spelled out, each channel": Variant(change=Spelled((0, WIDTH, 6, 5), (2, 3))),
    "norm spelled out, everything": Variant(change=Spelled((0, WIDTH, 6, 5), (1, 2, 3))),
    "norm spelled out, rows": Variant(
        "nor all tokens of a group", change=Spelled((0, WIDTH, 6, 5), (3,))
    ),
    "norm spelled out, rows and channels": Variant(
        "nor all tokens of a group", change=Spelled((0, WIDTH, 6, 5), (1, 3))
    ),
    "norm spelled out, eps outside": Variant(
        "no standard deviation", change=Spelled(change="outside")
    ),
    "norm spelled out, no eps": Variant("without epsilon", change=Spelled(change="none")),
    "norm spelled out, negative eps": Variant(
        "its epsilon is -1", change=Spelled(change="negative")
    ),
    "norm spelled out, unbiased": Variant("divided by N - 1?", change=Spelled(change="unbiased")),
    "norm spelled out, squares of x": Variant(
        "deviation of something", change=Spelled(change="of x")
    ),
    "norm spelled out, no mean": Variant(
        "is not x less the mean", change=Spelled(change="no mean")
    ),
    "norm spelled out, other axes": Variant(
        "deviation of something", change=Spelled(change="other axes")
    ),
    "group norm of rows of channels": Variant(
        "differs between pixels", change=chain(shaped(6 * WIDTH, 5, 1), grouped(6 * WIDTH))
    ),
    "mean of a group added": Variant(
        "mean over tokens to every token",
        change=lambda net, x: net.op(
            "Add", x, net.op("ReduceMean", x, net.ints(1, 2, 3)), name="culprit"
        ),
    ),
    "mean of each channel added": Variant(
        "mean over tokens to every token",
        change=lambda net, x: net.op("Add", x, net.op("GlobalAveragePool", x), name="culprit"),
    ),
    "norm of another map": Variant("is not x less the mean", change=norm_of_another),
    "norm over channels, rows and columns": Variant("over axes 1 to 3", change=norm_of_all),
    "norm of each pixel": Variant(change=chain(norm_of_channels, three_by_three)),
    "factors of a norm by pixel": Variant(
        "differs between tokens",
        change=chain(
            grouped(WIDTH), lambda net, x: net.op("Mul", x, net.weight(6, 5), name="culprit")
        ),
    ),
}

VARIANTS = {**CONVOLUTIONS, **ARRANGEMENTS, **PADDING, **POOLING, **NORMS}


def written(variant: Variant, folder: Path, images: int = 1) -> Path:
    net = Calm(opset=variant.opset)
    steps = (variant.image, variant.stem, variant.change, variant.arrange, variant.embedded)
    output = chain(*steps)(net, "image")
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, (images, *IMAGE))
    path = folder / "model.onnx"
    onnx.save(net.model(output, [image]), path)
    return path


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    made = Oracle()
    yield made
    made.close()


def test_there_are_enough_of_each() -> None:
    imported = [variant for variant in VARIANTS.values() if variant.verdict == IMPORTED]
    assert len(imported) >= 60
    assert len(VARIANTS) - len(imported) >= 50


@pytest.mark.parametrize("name", [n for n, v in VARIANTS.items() if v.verdict == IMPORTED])
def test_imported_as_what_it_means(name: str, tmp_path: Path, oracle: Oracle) -> None:
    check_imported(written(VARIANTS[name], tmp_path), oracle)


# A class token is a constant for one image.
BATCHED = [n for n, v in VARIANTS.items() if v.verdict == IMPORTED and "class token" not in n]


@pytest.mark.parametrize("name", BATCHED)
def test_imported_from_a_file_for_three_images(name: str, tmp_path: Path) -> None:
    alone = import_model(written(VARIANTS[name], tmp_path))
    inspection = inspect_model(written(VARIANTS[name], tmp_path, images=3))
    assert inspection.images == 3
    assert inspection.graph is not None, inspection.rows
    image = some_images(alone, 1, seed=2)
    found, wanted = evaluate(inspection.graph, image), evaluate(alone, image)
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("name", [n for n, v in VARIANTS.items() if v.verdict != IMPORTED])
def test_refused_by_its_name(name: str, tmp_path: Path) -> None:
    variant = VARIANTS[name]
    check_refused(written(variant, tmp_path), variant.verdict)


def test_overlapping_frames(tmp_path: Path) -> None:
    """A video of two frames, all of whose channels one convolution sees."""
    net = Calm()
    frames = shaped(6, 8, 8)(net, "video")
    seen = conv(3, inputs=6)(net, frames)
    video = helper.make_tensor_value_info("video", TensorProto.FLOAT, (1, 2, 3, 8, 8))
    onnx.save(net.model(as_tokens(net, seen), [video]), tmp_path / "model.onnx")
    check_refused(tmp_path / "model.onnx", "it convolves a video")
