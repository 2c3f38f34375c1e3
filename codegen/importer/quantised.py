"""Quantised activations, which are taken back to what they were before.

QuantizeLinear and DequantizeLinear together round a tensor to some scale, and cut it off at the
ends of a range, as a calibration found them. Quantising is done anew here, with scales of our own,
so a pair is left out. Only where the range begins at zero it may be more than that: quantisers put
it in place of a ReLU.

DynamicQuantizeLinear finds the scale of each tensor as the model runs, and products of integers
are multiplied by it afterwards. `check_taken_back` makes sure that this is done; then the scale
may be any, and one is the simplest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from ..graph import Function
from .call import Call, Constant, Tensor
from .patches import conv
from .products import matmul
from .refusal import Refused
from .term import (
    Activate,
    ChannelMean,
    Channels,
    Erf,
    GroupMean,
    ImageInput,
    Product,
    Quantised,
    Reciprocal,
    Root,
    Rows,
    Scale,
    Shift,
    Sigmoid,
    Softmax,
    Tanh,
    Term,
    TokenMean,
)
from .view import View

Results = tuple[Tensor | None, ...]

LIMITS: dict[np.dtype[np.generic], tuple[int, int]] = {
    np.dtype(kind): (np.iinfo(kind).min, np.iinfo(kind).max)
    for kind in ("int8", "uint8", "int16", "uint16")
}


FLOAT = "Use the model in floating point: quantising it is part of compiling it."


def quantize_linear(call: Call) -> Results:
    """Real values to integers."""
    view = call.view(0)
    scale, zero, kind = _parameters(call)
    least, most = LIMITS[kind]
    if zero == most:
        raise Refused("it cuts off all that is positive", "Calibrate the quantised model again.")
    term = view.term
    if zero == least and not _never_negative(term):
        relu = Activate((term,), term.shape, call.origin, Function.RELU)
        term = call.pool.intern(relu)
    integers = Quantised((term,), term.shape, call.origin, scale, zero, kind)
    return (View(call.pool.intern(integers), view.ids, view.layout),)


def dequantize_linear(call: Call) -> Results:
    """Integers back to the real values that they were made of."""
    view = call.view(0)
    integers = _integers(view)
    scale, zero, _ = _parameters(call)
    if (scale, zero) != (integers.scale, integers.zero):
        raise Refused(
            f"its scale and zero point ({scale:g}, {zero}) are not those of its QuantizeLinear "
            f"({integers.scale:g}, {integers.zero})",
            FLOAT,
        )
    return (View(integers.inputs[0], view.ids, call.origin),)


def _integers(view: View) -> Quantised:
    if not isinstance(view.term, Quantised):
        raise Refused("its data are not integers that a QuantizeLinear made", FLOAT)
    return view.term


def _parameters(call: Call) -> tuple[float, int, np.dtype[np.generic]]:
    """Scale, zero point, and the type of the integers."""
    scale, zero = call.constant(1, "scale"), call.constant(2, "zero point")
    assert scale is not None
    if scale.size != 1 or not 0 < scale.ravel()[0] < np.inf:
        raise Refused(
            "its scale is not one number above zero for the whole tensor",
            "Quantise activations with one scale each, or use the model in floating point.",
        )
    kind = _type_of(call)
    if kind not in LIMITS:
        raise Refused(
            f"its numbers are of the type {kind}",
            "Quantise activations to 8 or 16 bits, or use the model in floating point.",
        )
    return float(scale.ravel()[0]), 0 if zero is None else int(zero.ravel()[0]), kind


def _type_of(call: Call) -> np.dtype[np.generic]:
    operand, written = call.operand(2), call.integer("output_dtype", 0)
    if isinstance(operand, Constant):
        return operand.values.dtype
    quantises = call.node.op_type == "QuantizeLinear"
    kind = written if written and quantises else onnx.TensorProto.UINT8
    return helper.tensor_dtype_to_np_dtype(kind)


def _never_negative(term: Term) -> bool:
    """Whether every value is zero or more, so that nothing is cut off there.

    Of the image, whoever calibrated the model said so.
    """
    match term:
        case Softmax() | Sigmoid() | ImageInput() | Activate(function=Function.RELU):
            return True
        case Root():
            return True
        case Product(inputs=(left, right)):
            return left is right
        case Shift(inputs=(Erf() | Tanh(),), offset=offset):
            return bool((offset >= 1).all())
        case Shift(inputs=(read,), offset=values) | Scale(inputs=(read,), factor=values):
            return bool((values >= 0).all()) and _never_negative(read)
        case Reciprocal() | ChannelMean() | GroupMean() | TokenMean() | Rows() | Channels():
            return _never_negative(term.inputs[0])
    return False


# --- Scales that are found as the model runs


def dynamic_quantize_linear(call: Call) -> Results:
    """Integers of the scale one and the zero point zero; see `check_taken_back`."""
    view = call.view(0)
    one, zero = np.ones((), np.float32), np.zeros((), np.uint8)
    integers = Quantised((view.term,), view.term.shape, call.origin, 1.0, 0, zero.dtype)
    whole = View(call.pool.intern(integers), view.ids, view.layout)
    return whole, Constant(one), Constant(zero)


def matmul_integer(call: Call) -> Results:
    """A linear layer on quantised values."""
    return matmul(_in_real_numbers(call))


def conv_integer(call: Call) -> Results:
    """A convolution of a quantised image or map."""
    return conv(_in_real_numbers(call))


def _in_real_numbers(call: Call) -> Call:
    """On what the integers were made of, with a weight from which its zero point is taken."""
    view, weight = call.view(0), call.constant(1, "weight")
    data_zero, zero = (call.constant(n, "zero point") for n in (2, 3))
    assert weight is not None
    integers = _integers(view)
    if np.any((0 if data_zero is None else data_zero) != integers.zero):
        raise Refused(
            f"the zero point of its data is not that of their QuantizeLinear ({integers.zero})",
            FLOAT,
        )
    if zero is not None:
        each = (-1, *(1 for _ in weight.shape[1:])) if call.node.op_type == "ConvInteger" else -1
        weight = weight - (zero.reshape(each) if zero.ndim == 1 else zero)
    data = View(integers.inputs[0], view.ids, view.layout)
    return dataclasses.replace(call, inputs=(data, Constant(weight / integers.scale)))


def check_taken_back(
    node: onnx.NodeProto, readers: Mapping[str, Sequence[onnx.NodeProto]], results: Sequence[str]
) -> None:
    """Refuses a DynamicQuantizeLinear if its integers are not multiplied by its scale once each.

    Its integers must go into products alone, and those through a cast into multiplications by the
    scale, or by a product of the scale:

        integers ── MatMulInteger ── Cast ── Mul ──
        scale ────── (Mul) ───────────────────┘

    Args:
        node: the DynamicQuantizeLinear.
        readers: the nodes that read a tensor, by its name.
        results: names of the tensors that are given to the outside.
    """
    integers, scale, zero = node.output
    products = readers.get(integers, ())
    casts = [cast for product in products for cast in readers.get(product.output[0], ())]
    ends = [mul for cast in casts for mul in readers.get(cast.output[0], ())]
    factors = [mul for mul in readers.get(scale, ()) if not _among(mul, ends)]
    scales = {scale, *(factor.output[0] for factor in factors)}
    inner = (products, casts, factors)
    hidden = {*node.output, *(each.output[0] for nodes in inner for each in nodes)}
    if not (
        all(_multiplies(product, integers, zero) for product in products)
        and all(cast.op_type == "Cast" for cast in casts)
        and all(_reads_once(mul, scales) for mul in ends)
        and all(_reads_once(factor, {scale}) for factor in factors)
        and all(_among(read, products) for read in readers.get(zero, ()))
        and all(_among(read, ends) for f in factors for read in readers.get(f.output[0], ()))
        and hidden.isdisjoint(results)
    ):
        raise Refused(
            "its integers are not products that are cast, and then multiplied by its scale", FLOAT
        )


def _among(node: onnx.NodeProto, nodes: Sequence[onnx.NodeProto]) -> bool:
    return any(node is each for each in nodes)


def _multiplies(product: onnx.NodeProto, integers: str, zero: str) -> bool:
    """Whether the node multiplies the integers, without their zero point, by something else."""
    operands = list(product.input)
    return (
        product.op_type in ("MatMulInteger", "ConvInteger")
        and operands[::2][:2] == [integers, zero]
        and not {integers, zero} & set(operands[1::2])
    )


def _reads_once(mul: onnx.NodeProto, scales: set[str]) -> bool:
    return mul.op_type == "Mul" and sum(name in scales for name in mul.input) == 1
