"""ONNX nodes that arrange elements without computing anything."""

from __future__ import annotations

import numpy as np
import onnx

from .call import Call, Constant, Tensor
from .fold import run_node
from .load import Array
from .refusal import Refused
from .term import Prefix
from .view import View, as_matrix, whole

ARRANGING = frozenset(
    {
        "Concat",
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Identity",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)

# Dtypes that Cast may name without changing a value.
EXACT_CASTS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)


def arrange(call: Call) -> tuple[Tensor | None, ...]:
    """Runs the node on the element numbers of its operand instead of on its elements."""
    views = [operand for operand in call.inputs if isinstance(operand, View)]
    if call.node.op_type == "Concat" and not _one_term(call, views):
        return (_prefix_tokens(call),)
    if call.node.op_type != "Concat" and (len(views) != 1 or call.inputs[0] is not views[0]):
        raise Refused("its shape or index depends on the image", "Make it a constant.")
    feeds = [_element_numbers(operand) for operand in call.inputs]
    results = run_node(call.node, feeds, call.opset)
    return tuple(
        None if ids is None else View(views[0].term, ids.astype(np.int64), call.origin)
        for ids in results
    )


def _element_numbers(operand: Constant | View | None) -> Array | None:
    if isinstance(operand, View):
        return operand.ids
    return None if operand is None else operand.values


def _one_term(call: Call, views: list[View]) -> bool:
    return len(views) == len(call.inputs) and all(view.term is views[0].term for view in views)


def _prefix_tokens(call: Call) -> Tensor:
    """concat(constant tokens, x): class and register tokens before the patches."""
    remedy = "Concatenate class or register tokens [1, n, channels] before the patch tokens."
    *front, last = call.inputs
    if not isinstance(last, View) or not all(isinstance(operand, Constant) for operand in front):
        raise Refused("it does not put constant tokens before one tensor of tokens", remedy)
    axis = call.integer("axis", 0)
    rank = last.ids.ndim
    if rank < 2 or axis % rank != rank - 2 or any(side != 1 for side in last.ids.shape[:-2]):
        raise Refused(
            f"it joins a constant along axis {axis} of {list(last.ids.shape)}, which is not the "
            "token axis",
            remedy,
        )
    matrix = as_matrix(last, call.pool, call.origin)
    constants = [operand.values for operand in front if isinstance(operand, Constant)]
    tokens = np.concatenate(constants, axis=axis).astype(np.float64).reshape(-1, matrix.shape[1])
    shape = (len(tokens) + matrix.shape[0], matrix.shape[1])
    origin = call.origin_with((last, matrix))
    term = call.pool.intern(Prefix((matrix,), shape, origin, tokens))
    return whole(term, (*last.ids.shape[:-2], *shape))


def keep(call: Call) -> tuple[Tensor | None, ...]:
    """Nodes that change nothing in inference: Dropout with its mask unused."""
    training = call.constant(2, "training_mode")
    if training is not None and bool(training):
        raise Refused("it is in training mode", "Call model.eval() before the export.")
    view = call.view(0)
    return (View(view.term, view.ids, call.origin),)


def cast(call: Call) -> tuple[Tensor | None, ...]:
    """A cast of float data to float."""
    kind = call.integer("to", 0)
    if kind not in EXACT_CASTS:
        name = onnx.TensorProto.DataType.Name(kind)
        raise Refused(f"it casts activations to {name}", "Export the model in float32.")
    view = call.view(0)
    return (View(view.term, view.ids, call.origin),)
