"""Random numbers in a file: harmless where nothing comes of them, refused where something does.

Models that add noise in training are often exported with it, multiplied by zero or left out by a
constant condition. So random numbers are followed as an example of their shape until they vanish.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from .call import Constant, Noise, Tensor, Unknown
from .fold import RANDOM, run_node
from .layout import ARRANGING
from .load import Array
from .refusal import Refused, follows_from
from .view import View

Operand = Tensor | Noise | None

# What may be made of random numbers: the shape of the result does not depend on them, wherever they
# are read, or where they are the data.
ELEMENTWISE = frozenset(
    {
        *("Abs", "Add", "And", "Cast", "Ceil", "Clip", "Concat", "Cos", "Div", "Equal", "Erf"),
        *("Exp", "Floor", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Log", "MatMul"),
        *("Max", "Min", "Mul", "Neg", "Not", "Or", "Pow", "Reciprocal", "Round", "Sigmoid"),
        *("Sign", "Sin", "Softmax", "Sqrt", "Sub", "Tanh", "Where"),
    }
)
BY_DATA = ARRANGING | {"ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"}

# Their result is shaped like their operand.
LIKE = frozenset({"Bernoulli", "RandomNormalLike", "RandomUniformLike"})


def draws(node: onnx.NodeProto) -> Refused:
    """The verdict on a node whose random numbers come to something."""
    return Refused(
        f"{node.op_type} draws random numbers that the results depend on",
        "Export the model in inference mode (model.eval()): noise counts only in training.",
    )


def drawn(node: onnx.NodeProto, number: int, operands: Sequence[Operand]) -> list[Noise] | None:
    """The results of a node that draws random numbers; None for others.

    Raises:
        Refused: how many it draws is not known.
    """
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Dropout":
        return _dropped(node, number, operands)
    if node.op_type not in RANDOM:
        return None
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    like = _values(operands[0]) if operands and node.op_type in LIKE else None
    if like is None and "shape" not in attributes:
        raise draws(node)
    shape = attributes["shape"] if like is None else like.shape
    kind = attributes.get("dtype") or _kind(like)
    try:
        example = np.zeros(shape, helper.tensor_dtype_to_np_dtype(kind))
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(
            f"{node.op_type} draws numbers of a shape or type that does not exist ({error})",
            "Check the model in ONNX Runtime.",
        ) from error
    return [Noise(example, number)]


def _kind(like: Array | None) -> int:
    return onnx.TensorProto.FLOAT if like is None else helper.np_dtype_to_tensor_dtype(like.dtype)


def _values(operand: Operand) -> Array | None:
    match operand:
        case Unknown(source=source):
            raise follows_from(source)
        case View(ids=ids):
            return np.broadcast_to(np.float32(0), ids.shape)
        case Constant(values=values) | Noise(values=values):
            return values
    return None


def _dropped(node: onnx.NodeProto, number: int, operands: Sequence[Operand]) -> list[Noise] | None:
    """Constants that a Dropout in training mode drops some of."""
    match (*operands, None, None):
        case (Constant(values), ratio, Constant(training), *_) if training.any():
            if isinstance(ratio, Constant) and not ratio.values.any():
                return None
            mask = np.ones(values.shape, np.bool_)
            return [Noise(values, number), Noise(mask, number)][: len(node.output)]
    return None


def settled(node: onnx.NodeProto, operands: Sequence[Operand]) -> list[Operand]:
    """The operands, with an example for random numbers where nothing comes of them."""
    return [
        Constant(np.zeros_like(operand.values))  # what was made of an example may be infinite
        if isinstance(operand, Noise) and _vanishes(node, operands, position)
        else operand
        for position, operand in enumerate(operands)
    ]


def _vanishes(node: onnx.NodeProto, operands: Sequence[Operand], position: int) -> bool:
    match node.op_type, operands:
        case "Shape" | "Size", _:
            return True
        case "Mul", [left, right]:
            other = right if position == 0 else left
            return isinstance(other, Constant) and not other.values.any()
        case "Where", [Constant(condition), _, _] if position > 0:
            return bool(condition.all() if position == 2 else not condition.any())
    return False


def noise_of(
    node: onnx.NodeProto, operands: Sequence[Operand], opset: int
) -> list[Noise | None] | None:
    """What a node makes of random numbers and constants; None where there are other operands."""
    noise = [operand for operand in operands if isinstance(operand, Noise)]
    if not noise or any(isinstance(operand, View | Unknown) for operand in operands):
        return None
    only_data = isinstance(operands[0], Noise) and len(noise) == 1
    if node.op_type not in ELEMENTWISE and not (only_data and node.op_type in BY_DATA):
        return None  # the shape may be random, too
    results = run_node(node, [_values(operand) for operand in operands], opset)
    return [None if result is None else Noise(result, noise[0].drawn_by) for result in results]
