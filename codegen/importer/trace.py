"""Follows the image through the ONNX nodes: constants are folded, layout becomes numbers.

Every node gets one of three verdicts: its constants were folded, it became (part of) a term, or
it was refused. After a refusal tracing goes on with an opaque result, so that one run reports
everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np
import onnx

from . import (
    batch,
    einsum,
    elementwise,
    groups,
    layout,
    patches,
    products,
    quantised,
    reductions,
    windows,
)
from .branches import Guard, is_branch
from .call import Call, Constant, Noise, Tensor, Unknown
from .control import chosen, truth
from .fold import run_node
from .limits import out_of_memory
from .load import Announce, Source, check_finite, silent
from .noise import drawn, draws, noise_of, settled
from .reach import live_nodes, reads
from .refusal import Refused, follows_from
from .signature import check_operands
from .term import (
    Activate,
    Dense,
    Greatest,
    ImageInput,
    MapNorm,
    Norm,
    Opaque,
    Patches,
    Sum,
    Term,
    TermPool,
)
from .view import View, as_matrix

Handler = Callable[[Call], tuple[Tensor | None, ...]]
Tensors = dict[str, Tensor | Noise]

# What may read the image's data; anything else is refused. First the nodes that compute:
ARITHMETIC: dict[str, Handler] = {
    "Add": elementwise.add,
    "Attention": products.attention,
    "AveragePool": windows.average_pool,
    "BatchNormalization": elementwise.batch_normalization,
    "Conv": patches.conv,
    "ConvInteger": quantised.conv_integer,
    "Div": elementwise.divide,
    "Einsum": einsum.einsum,
    "Erf": elementwise.erf,
    "Gelu": elementwise.gelu,
    "Gemm": products.gemm,
    "GlobalAveragePool": reductions.global_average_pool,
    "GroupNormalization": groups.group_normalization,
    "InstanceNormalization": groups.instance_normalization,
    "LayerNormalization": products.layer_normalization,
    "MatMul": products.matmul,
    "MatMulInteger": quantised.matmul_integer,
    "MaxPool": windows.max_pool,
    "Mul": elementwise.multiply,
    "Neg": elementwise.negate,
    "Pow": elementwise.power,
    "Reciprocal": elementwise.reciprocal,
    "ReduceMean": reductions.reduce_mean,
    "ReduceSum": reductions.reduce_sum,
    "Relu": elementwise.relu,
    "Sigmoid": elementwise.sigmoid,
    "Softmax": products.softmax,
    "Sqrt": elementwise.square_root,
    "Sub": elementwise.subtract,
    "Swish": elementwise.swish,
    "Tanh": elementwise.tanh,
}
# All others only arrange or copy.
HANDLERS: dict[str, Handler] = {
    **ARITHMETIC,
    **dict.fromkeys(layout.ARRANGING, layout.arrange),
    "Cast": layout.cast,
    "DequantizeLinear": quantised.dequantize_linear,
    "Dropout": layout.keep,
    "DynamicQuantizeLinear": quantised.dynamic_quantize_linear,
    "IsNaN": elementwise.is_nan,
    "Pad": windows.pad,
    "QuantizeLinear": quantised.quantize_linear,
    "Where": elementwise.where,
}


@dataclass
class Trace:
    """What tracing found out.

    Attributes:
        roots: (ONNX output name, term), only of outputs that could be traced.
        constants: numbers of the nodes that were evaluated.
        random: numbers of the nodes that give random numbers.
        unused: numbers of the nodes that no output depends on.
        terms: the term that each other node's first result shows.
        refused: verdicts by node number.
        bad_outputs: verdicts on ONNX outputs that no node is to blame for.
        kept: tensors by name, those that were asked for.
    """

    pool: TermPool
    roots: list[tuple[str, Term]] = field(default_factory=list)
    constants: set[int] = field(default_factory=set)
    random: set[int] = field(default_factory=set)
    unused: set[int] = field(default_factory=set)
    terms: dict[int, Term] = field(default_factory=dict)
    refused: dict[int, Refused] = field(default_factory=dict)
    bad_outputs: list[tuple[str, Refused]] = field(default_factory=list)
    kept: Tensors = field(default_factory=dict)


def trace(source: Source, announce: Announce = silent, keep: frozenset[str] = frozenset()) -> Trace:
    """Traces every node that an output depends on; announces each, and keeps the tensors `keep`."""
    result = Trace(TermPool(source.rounding))
    image = source.image
    term = result.pool.intern(ImageInput((), image.shape, ()))
    tensors: Tensors = {name: Constant(array) for name, array in source.weights.items()}
    tensors[image.name] = batch.whole_batch(term, source.images, (source.images, *image.shape))
    live = live_nodes(source.nodes, source.outputs)
    result.unused = set(range(len(source.nodes))) - live
    last_reader = _last_readers(source)
    for number in sorted(live):
        if not all(_holds(guard, tensors) for guard in source.guards[number]):
            result.unused.add(number)
            continue
        announce(f"at node {source.names[number]!r} ({source.nodes[number].op_type})")
        _trace_node(source, number, tensors, result)
        for name in source.nodes[number].input:
            if last_reader.get(name) == number and name not in keep:
                tensors.pop(name, None)  # arrangements of attention scores are large
    for name in source.outputs:
        _trace_output(name, tensors[name], source.images, result)
    result.kept = {name: tensors[name] for name in keep if name in tensors}
    return result


def _last_readers(source: Source) -> dict[str, int]:
    last = {name: n for n, node in enumerate(source.nodes) for name in reads(node)}
    return {name: number for name, number in last.items() if name not in source.outputs}


def _holds(guard: Guard, tensors: Tensors) -> bool:
    """Whether the condition of a branch is known to be what the branch wants."""
    condition = tensors.get(guard.condition)
    return isinstance(condition, Constant) and truth(condition.values) is guard.wanted


def _trace_node(source: Source, number: int, tensors: Tensors, result: Trace) -> None:
    node = source.nodes[number]
    # A branch that is not taken leaves nothing.
    known = tensors.get if is_branch(node) else tensors.__getitem__
    operands = [known(name) if name else None for name in node.input]
    outputs: tuple[Tensor | Noise | None, ...]
    try:
        outputs = _outcome(source, number, operands, result)
    except Refused as refusal:
        result.refused[number] = refusal
        outputs = tuple(_opaque(source, name, number, result) for name in node.output)
    named = zip(node.output, outputs, strict=False)
    tensors.update((name, output) for name, output in named if name and output is not None)
    first = outputs[0] if outputs else None
    if isinstance(first, View):
        result.terms[number] = first.term


def _outcome(
    source: Source, number: int, operands: list[Tensor | Noise | None], result: Trace
) -> tuple[Tensor | Noise | None, ...]:
    node = source.nodes[number]
    outputs: Sequence[Tensor | Noise | None] | None
    if is_branch(node):
        outputs = chosen(number, len(node.output), operands)
    else:
        outputs = drawn(node, number, operands)
        operands = settled(node, operands)
        outputs = outputs or noise_of(node, operands, source.opset)
        if outputs is None:
            outputs = _determined(source, number, _known(source, operands, result), result)
    given = [output for output in outputs if output is not None]
    if all(isinstance(output, Constant) for output in given):
        result.constants.add(number)
    elif all(isinstance(output, Constant | Noise) for output in given):
        result.random.add(number)
    return tuple(outputs)


def _known(
    source: Source, operands: list[Tensor | Noise | None], result: Trace
) -> list[Constant | View | None]:
    """The operands, if all are.

    Raises:
        Refused: one is the result of a refused node, or random.
    """
    known: list[Constant | View | None] = []
    for operand in operands:
        if isinstance(operand, Unknown):
            raise follows_from(operand.source)
        if isinstance(operand, Noise):
            result.refused[operand.drawn_by] = draws(source.nodes[operand.drawn_by])
            raise follows_from(source.names[operand.drawn_by])
        known.append(operand)
    return known


def _determined(
    source: Source, number: int, known: list[Constant | View | None], result: Trace
) -> tuple[Tensor | None, ...]:
    node = source.nodes[number]
    if not any(isinstance(operand, View) for operand in known):
        return _folded(source, node, known)
    if node.op_type in ("Shape", "Size"):
        return _folded(source, node, [_shown(operand) for operand in known])
    try:
        if node.op_type == "DynamicQuantizeLinear":
            quantised.check_taken_back(node, source.readers, source.outputs)
        call = Call(node, number, source.opset, tuple(known), result.pool)
        outputs = _handled(call, source.images)
        _check_complete(source, node, outputs)
    except Refused as refusal:
        raise _first_cause(refusal, known, source) from refusal
    return outputs


def _first_cause(
    refusal: Refused, operands: list[Constant | View | None], source: Source
) -> Refused:
    """The refusal, unless a refused operand is behind it."""
    for operand in operands:
        opaque = _opaque_behind(operand.term) if isinstance(operand, View) else None
        if opaque is not None:
            return follows_from(source.names[opaque.origin[0]])
    return refusal


def _opaque_behind(term: Term) -> Opaque | None:
    """The result of a refused node that only unfinished arithmetic separates from `term`."""
    seen, stack = {term}, [term]
    while stack:
        current = stack.pop()
        if isinstance(current, Opaque):
            return current
        if not isinstance(current, WHOLE):
            stack.extend(read for read in current.inputs if read not in seen)
            seen.update(current.inputs)
    return None


# Operators by themselves: what is wrong behind them is not the fault of what is wrong before.
WHOLE = (Activate, Dense, Greatest, MapNorm, Norm, Patches, Sum)


def _check_complete(
    source: Source, node: onnx.NodeProto, outputs: tuple[Tensor | None, ...]
) -> None:
    """Refuses a node of which something reads a result that its handler does not give."""
    given = [output is not None for output in outputs]
    for name, known in zip_longest(node.output, given, fillvalue=False):
        if name and not known and _is_read(source, str(name)):
            raise Refused(
                f"its output {name!r} is used", "Use its first output only; export for inference."
            )


def _is_read(source: Source, name: str) -> bool:
    return name in source.outputs or name in source.readers


def _shown(operand: Constant | View | None) -> Constant | None:
    """An operand of which only the shape matters."""
    return Constant(operand.ids) if isinstance(operand, View) else operand


def _folded(
    source: Source,
    node: onnx.NodeProto,
    operands: list[Constant | View | None] | list[Constant | None],
) -> tuple[Tensor | None, ...]:
    values = [operand.values if isinstance(operand, Constant) else None for operand in operands]
    results = run_node(node, values, source.opset)
    if node.op_type == "Constant":
        check_finite(node.output[0], np.asarray(results[0]))
    return tuple(None if result is None else Constant(result) for result in results)


def _handled(call: Call, images: int) -> tuple[Tensor | None, ...]:
    node = call.node
    handler = HANDLERS.get(node.op_type)
    if handler is None or node.domain not in ("", "ai.onnx"):
        full_name = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        raise Refused(
            f"operator {full_name} is not supported on activations",
            REMEDIES.get(node.op_type, WRITE_OTHERWISE),
        )
    try:
        check_operands(call)
        if images > 1 and not layout.only_arranges(call):
            return batch.by_image(call, images, handler)
        return handler(call)
    except MemoryError as error:
        raise out_of_memory(error) from error
    except (ArithmeticError, LookupError, ValueError) as error:
        # How numpy and Python say that shapes contradict each other; onnx.checker does not look.
        raise Refused(
            f"its operands do not fit together ({error})", "Check the model in ONNX Runtime."
        ) from error


WRITE_OTHERWISE = "Write this part of the model with supported operators."
QUANTISED = (
    "Use the model in floating point: quantising it is part of compiling it. Of quantised files, "
    "those do whose weights alone are quantised, whose activations pass through QuantizeLinear and "
    "DequantizeLinear with constant scales (QDQ), or that ONNX Runtime quantised dynamically."
)


REMEDIES = {
    "QLinearConv": QUANTISED,
    "QLinearMatMul": QUANTISED,
    "Loop": "Export with dynamo=True, or write the model without data-dependent loops.",
    "Clip": "Use ReLU, GELU or SiLU: functions that are cut off (ReLU6) are not supported.",
    "ConvTranspose": "Use convolutions that keep or shrink the map; do without upsampling.",
    "HardSwish": "Use SiLU in its place.",
    "LeakyRelu": "Use ReLU in its place.",
    "LpPool": "Use MaxPool or AveragePool.",
    "Resize": "Interpolate constants only, such as position embeddings, not the map.",
    "RMSNormalization": "Use LayerNorm: the accelerator's norm takes the mean off.",
}


def _opaque(source: Source, name: str, number: int, result: Trace) -> Tensor:
    shape = source.shapes.get(name)
    images = source.images
    if not shape or shape[0] % images or (images > 1 and len(shape) == 1):
        return Unknown(source.names[number])
    rows = math.prod(shape[:-1]) // images
    term = result.pool.intern(Opaque((), (rows, shape[-1]), (number,), name))
    try:
        return batch.whole_batch(term, images, shape)
    except Refused:  # too large, which is the refused node's fault
        return Unknown(source.names[number])


def _trace_output(name: str, tensor: Tensor | Noise, images: int, result: Trace) -> None:
    try:
        if not isinstance(tensor, View):
            raise Refused("it does not depend on the image", "Export a model that returns logits.")
        view = tensor if images == 1 else batch.first_image(tensor, images)[0]
        matrix = as_matrix(view, result.pool, view.layout or view.term.origin)
        result.roots.append((name, matrix))
    except Refused as refusal:
        if isinstance(tensor, View) and tensor.layout:
            result.refused.setdefault(tensor.layout[0], refusal)
        elif not isinstance(tensor, Unknown):
            result.bad_outputs.append((name, refusal))
