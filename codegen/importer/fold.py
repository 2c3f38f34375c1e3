"""Runs single ONNX nodes with ONNX's own reference implementation.

Two uses share it. A node whose inputs are all constants is evaluated away. A node that only moves
elements (Reshape, Transpose, Slice ...) is run on an array of element numbers, so that its
meaning is ONNX's own and needs no second implementation here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.ops import load_op

from .limits import out_of_memory
from .load import OLDEST_OPSET, Array, claims_more
from .refusal import Refused

# Operators whose older versions ONNX's reference does not have, or reads otherwise than ONNX says,
# and the first version that means the same. tests/field/test_folded_operators.py goes through all
# operators: a new one that the reference lacks is found there. ONNX Runtime in its place would lack
# more: types, and whatever it does not need.
NEWER = {
    "BatchNormalization": 14,  # training is said by an attribute since then
    "DequantizeLinear": 19,  # more types, and no other meaning
}

# Without dynamic inputs, and yet not constants.
RANDOM = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)


def run_node(
    node: onnx.NodeProto, inputs: Sequence[Array | None], opset: int
) -> tuple[Array | None, ...]:
    """The outputs of `node` on `inputs`; None stands for an omitted optional one.

    Raises:
        Refused: the node cannot be evaluated.
    """
    _check_pure(node)
    _check_outputs(node)
    _check_sides(node, inputs)
    feeds = {
        name: value
        for name, value in zip(node.input, inputs, strict=True)
        if name and value is not None
    }
    try:
        with np.errstate(all="ignore"):  # what is not finite is judged where it is used
            results = _evaluator(node, feeds, opset).run(None, feeds)
    except (MemoryError, ImportError) as error:
        if isinstance(error, ModuleNotFoundError):
            raise _not_evaluated(node, error) from error
        # Libraries load parts of theirs on first use, which fails so when memory has run out.
        raise out_of_memory(error) from error
    except NotImplementedError as error:
        raise Refused(
            f"ONNX's reference implementation does not have {node.op_type}, so that it cannot be "
            "folded",
            "Let ONNX Runtime fold the constants: optimise the file with its basic optimisations, "
            "or with onnxsim.",
        ) from error
    except Exception as error:  # the reference implementation raises whatever it stumbles over
        raise _not_evaluated(node, error) from error
    values = iter(results)
    return tuple(_tensor(node, next(values)) if name else None for name in node.output)


def _tensor(node: onnx.NodeProto, value: object) -> Array:
    if value is None or isinstance(value, (list, dict)):
        raise Refused(
            f"{node.op_type} gives a sequence, not a tensor",
            "Write the model without sequences: Split in place of SplitToSequence.",
        )
    return np.asarray(value)


def load_operators() -> None:
    """Loads what ONNX's reference implementation loads when the first node is run."""
    load_op("", "Identity", OLDEST_OPSET)


def _not_evaluated(node: onnx.NodeProto, error: Exception) -> Refused:
    return Refused(
        f"{node.op_type} cannot be evaluated ({type(error).__name__}: {error})",
        "Simplify the model, for example with onnxsim, and check it in ONNX Runtime.",
    )


def _check_pure(node: onnx.NodeProto) -> None:
    if node.op_type in RANDOM:
        raise Refused(f"{node.op_type} draws random numbers", "Export the model in inference mode.")
    graphs = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    if any(attribute.type in graphs for attribute in node.attribute):
        raise Refused(
            f"{node.op_type} is control flow",
            "Export with dynamo=True, or write the model without loops.",
        )


def _check_outputs(node: onnx.NodeProto) -> None:
    """Refuses a Split that contradicts itself, which the reference does not notice."""
    if claims_more(node):
        raise Refused(
            f"it has {len(node.output)} outputs, and its num_outputs is another number",
            "Check the model in ONNX Runtime.",
        )


def _check_sides(node: onnx.NodeProto, inputs: Sequence[Array | None]) -> None:
    """Refuses what numpy takes for -1, "whatever is left", and ONNX does not."""
    shape = inputs[1] if node.op_type == "Reshape" and len(inputs) > 1 else None
    if shape is not None and any(side < -1 for side in np.ravel(shape).tolist()):
        raise Refused(
            f"its new shape is {np.ravel(shape).tolist()}",
            "Sides are positive, 0 to keep one, or -1 for what is left.",
        )


def _evaluator(node: onnx.NodeProto, feeds: dict[str, Array], opset: int) -> ReferenceEvaluator:
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), None)
        for name, value in feeds.items()
    ]
    outputs = [
        helper.make_tensor_value_info(name, onnx.TensorProto.UNDEFINED, None)
        for name in node.output
        if name
    ]
    graph = helper.make_graph([node], "node", inputs, outputs)
    opset = max(opset, NEWER.get(node.op_type, 0))
    return ReferenceEvaluator(
        helper.make_model(graph, opset_imports=[helper.make_opsetid(node.domain, opset)])
    )
