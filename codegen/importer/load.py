"""Reads an ONNX file into a `Source`: nodes with unique names, weights, and one image as input."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]
from onnx import numpy_helper

from ...host.reading import foreign, reading, reason
from ..errors import ModelFileError, ModelValueError, UnsupportedModelError
from ..graph import Image
from .branches import Guard, flattened
from .images import ROUNDING, Shape, image_input, sized, unread_inputs
from .reach import reads

Array = npt.NDArray[np.generic]
Announce = Callable[[str], None]

# The first version in which Squeeze, Softmax and Split mean what they mean today.
OLDEST_OPSET = 13

EXPORT_AGAIN = (
    "Export it again with an operator set the exporter writes itself (opset_version=18 or 20 in "
    "torch); weights in a separate file must lie beside it."
)

# A hundred times the largest Vision Transformer.
LARGEST_GRAPH = 1_000_000

# No weight with more values is a shape, an axis or the like, on which shapes depend.
FEW_VALUES = 1024


@dataclass(frozen=True)
class Source:
    """What the importer reads.

    Attributes:
        image: the input that the results depend on, its batch axis dropped.
        images: how many the file takes at once.
        opset: version of the default operator set.
        opsets: (domain, version) of all operator sets.
        ir_version: of the file format.
        nodes: the ONNX nodes in execution order, with those of branches before their If.
        guards: for each node, when it runs.
        names: a unique name for every node, in the same order.
        weights: the initializers.
        shapes: shape of every tensor that ONNX shape inference could settle.
        kinds: element type of every tensor that ONNX shape inference could settle.
        outputs: tensor names, in the file's order.
        rounding: relative error of the coarsest type that constants are stored in.
        notes: what was found out about the input that the file does not say, for people.
    """

    image: Image
    images: int
    opset: int
    opsets: tuple[tuple[str, int], ...]
    ir_version: int
    nodes: tuple[onnx.NodeProto, ...]
    guards: tuple[tuple[Guard, ...], ...]
    names: tuple[str, ...]
    weights: dict[str, Array]
    shapes: dict[str, tuple[int, ...]]
    kinds: dict[str, int]
    outputs: tuple[str, ...]
    rounding: float
    notes: tuple[str, ...] = ()

    @cached_property
    def readers(self) -> Mapping[str, Sequence[onnx.NodeProto]]:
        """The nodes that read a tensor, by its name; once each."""
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in reads(node):
                found.setdefault(name, []).append(node)
        return found


def silent(_: str) -> None:
    """Announces nothing."""


def load_source(
    path: Path,
    outputs: Sequence[str] = (),
    announce: Announce = silent,
    shape: Sequence[int] = (),
) -> Source:
    """Reads and checks `path`.

    Args:
        path: the file.
        outputs: tensors to take as results in place of the file's outputs.
        announce: called with what is being done.
        shape: of the image, where the file leaves it open; none to find it out.

    Raises:
        ModelFileError: missing, unreadable, or not a valid ONNX model.
        ModelValueError: a weight holds NaN or infinity.
        UnsupportedModelError: the results depend on something else than one image, or video, of
            floats, or its size is open and nothing tells it.
        PreprocessingError: the size is open, and a file beside the model that may tell it is
            damaged.
    """
    # What a lack of memory means is for the caller, who knows the limit.
    with reading(path, ModelFileError, "not a valid ONNX model", EXPORT_AGAIN, let=(MemoryError,)):
        return _load(path, outputs, announce, shape)


def _load(path: Path, outputs: Sequence[str], announce: Announce, shape: Sequence[int]) -> Source:
    announce("when it read the file")
    model = _read(path)
    announce("when it put functions in place of their calls")
    model = _inline(model, path)
    graph = model.graph
    _check_names(graph, path)
    flat = flattened(graph)
    nodes = tuple(step.node for step in flat.steps)
    weights = _weights(graph, flat.weights)
    results = _outputs(graph, nodes, path, outputs)
    value = image_input(graph, nodes, weights, results)
    announce("when ONNX inferred the shapes")
    inferred = partial(_inferred, model, value.name)
    known = {name: values.shape for name, values in weights.items()}
    image, images, notes = sized(
        value, nodes, lambda open_: known | _shapes(inferred(open_).value_info), path, shape
    )
    bound = inferred((images, *image.shape))
    return Source(
        image=image,
        images=images,
        opset=_opset(model, path),
        opsets=tuple((entry.domain, entry.version) for entry in model.opset_import),
        ir_version=model.ir_version,
        nodes=nodes,
        guards=tuple(step.guards for step in flat.steps),
        names=_unique_names(nodes),
        weights=weights,
        shapes=_shapes(bound.value_info),
        kinds=_kinds((*bound.value_info, *bound.output)),
        outputs=results,
        rounding=_rounding(graph, nodes),
        notes=(*unread_inputs(graph, nodes, weights, results), *notes),
    )


def _read(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise ModelFileError(f"{path} is not a file.", "Give the path of an .onnx file.")
    if path.stat().st_size == 0:
        raise ModelFileError(f"{path} is empty.", "Export the model again.")
    try:
        model = onnx.load(path, format="protobuf")
        _check(model, path)
    except MemoryError:
        raise
    except DecodeError as error:
        _check_memory(error)
        raise ModelFileError(
            f"{path} is not an ONNX file, or it is truncated ({error}).",
            "Export the model with torch.onnx.export, or copy the file again.",
        ) from error
    except Exception as error:
        _check_memory(error)
        raise ModelFileError(
            f"{path} is not a valid ONNX model: {_first_line(error)}.", EXPORT_AGAIN
        ) from error
    return model


def _check_memory(error: Exception) -> None:
    """Raises MemoryError if that is what a library in C++ means by `error`."""
    if "bad_alloc" in str(error) or "alloc failed" in str(error):
        raise MemoryError(str(error)) from error


def _check(model: onnx.ModelProto, path: Path) -> None:
    try:
        onnx.checker.check_model(model)
    except EncodeError:  # with its external weights it has more than the 2 GB of a message
        onnx.checker.check_model(path)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def _inline(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    if not model.functions:
        return model
    count = _inlined_nodes(model)
    if count > LARGEST_GRAPH:
        raise ModelFileError(
            f"{path} comes to {count} nodes once its local functions are inlined.",
            "Export the model without functions that call each other so often.",
        )
    remedy = "Export the model again with torch.onnx.export."
    with reading(path, ModelFileError, "holds local functions that cannot be inlined", remedy):
        inlined: onnx.ModelProto = onnx.inliner.inline_local_functions(model)
    return inlined


def _inlined_nodes(model: onnx.ModelProto) -> int:
    """The number of nodes with every call of a local function counted as what it holds.

    The checker has made sure that no function calls itself.
    """
    bodies = {(f.domain, f.name): list(_callees(f.node)) for f in model.functions}
    counts: dict[tuple[str, str], int] = {}
    pending = list(bodies)
    while pending:
        function = pending[-1]
        missing = [called for called in bodies[function] if called in bodies.keys() - counts.keys()]
        if missing:
            pending.extend(missing)
            continue
        counts[function] = sum(counts.get(called, 1) for called in bodies[function])
        pending.pop()
    return sum(counts.get(called, 1) for called in _callees(model.graph.node))


def _callees(nodes: Iterable[onnx.NodeProto]) -> Iterator[tuple[str, str]]:
    """What the nodes call, in the bodies of control flow, too."""
    for node in nodes:
        yield node.domain, node.op_type
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                yield from _callees(body.node)


def _check_names(graph: onnx.GraphProto, path: Path) -> None:
    """Raises ModelFileError at a name that is no text: protobuf gives its bytes as they are."""
    for named in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        tensors = (*named.input, *named.output) if isinstance(named, onnx.NodeProto) else ()
        for name in (named.name, *tensors):
            if not isinstance(name, str):
                raise ModelFileError(
                    f"{path} holds the name {name!r}, which is not text in UTF-8.", EXPORT_AGAIN
                )


def _opset(model: onnx.ModelProto, path: Path) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    version = max(versions, default=0)
    if version < OLDEST_OPSET:
        raise UnsupportedModelError(
            f"{path} uses ONNX operator set {version}.",
            f"Export it with opset_version=17 or newer (at least {OLDEST_OPSET}).",
        )
    newest = onnx.defs.onnx_opset_version()
    if version > newest:
        raise UnsupportedModelError(
            f"{path} uses ONNX operator set {version}; the installed onnx knows up to {newest}.",
            f"Export it with opset_version={newest} or older, or upgrade the package onnx.",
        )
    return version


def _weights(graph: onnx.GraphProto, inner: Iterable[onnx.TensorProto]) -> dict[str, Array]:
    if graph.sparse_initializer:
        raise UnsupportedModelError(
            f"Initializer {graph.sparse_initializer[0].values.name!r} is sparse.",
            "Export the model with dense weights.",
        )
    weights = {}
    for tensor in (*graph.initializer, *inner):
        weights[tensor.name] = _array(tensor)
        check_finite(tensor.name, weights[tensor.name])
    return weights


def _rounding(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> float:
    constants = (
        attribute.t
        for node in nodes
        for attribute in node.attribute
        if attribute.type == onnx.AttributeProto.TENSOR
    )
    kinds = {tensor.data_type for tensor in (*graph.initializer, *constants)}
    single = ROUNDING[onnx.TensorProto.FLOAT]
    return max([single, *(ROUNDING[kind] for kind in kinds if kind in ROUNDING)])


def _array(tensor: onnx.TensorProto) -> Array:
    def error_of(error: Exception) -> ModelValueError:
        return ModelValueError(
            f"Weight {tensor.name!r} of shape {list(tensor.dims)} cannot be read "
            f"({reason(error)}).",
            "The file is damaged: copy it again, or export the model again.",
        )

    with foreign(error_of, let=(MemoryError,)):
        return np.asarray(numpy_helper.to_array(tensor))


def check_finite(name: str, values: Array) -> None:
    """Raises ModelValueError if `values` holds NaN or infinity.

    An attention mask of zeros and minus infinity passes: it is not broken, and is judged where it
    is added.
    """
    if values.dtype.kind not in "fV":  # V: the dtypes that ml_dtypes adds, such as bfloat16
        return
    wide = values.astype(np.float64)
    broken = ~np.isfinite(wide)
    if not broken.any() or bool(np.all((wide == 0) | np.isneginf(wide))):
        return
    kind = "NaN" if np.isnan(wide).any() else "infinity"
    raise ModelValueError(
        f"Weight {name!r} holds {kind} ({int(broken.sum())} of {values.size} values).",
        "Check that training converged and that the right checkpoint was exported.",
    )


def _outputs(
    graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto], path: Path, chosen: Sequence[str]
) -> tuple[str, ...]:
    made = {name for node in nodes for name in node.output}
    unknown = [name for name in chosen if name not in made]
    if unknown:
        names = ", ".join(repr(value.name) for value in graph.output)
        raise UnsupportedModelError(
            f"No node of {path} makes a tensor called {unknown[0]!r}.",
            f"The model's outputs are {names}; a tensor inside the model can be named, too.",
        )
    if chosen:
        return tuple(dict.fromkeys(chosen))
    if not graph.output:
        raise UnsupportedModelError(f"{path} has no output.", "Export a model that returns logits.")
    return tuple(value.name for value in graph.output)


def _unique_names(nodes: Iterable[onnx.NodeProto]) -> tuple[str, ...]:
    names: list[str] = []
    seen: set[str] = set()
    for index, node in enumerate(nodes):
        name = node.name or f"{node.op_type}_{index}"
        if name in seen:
            name = f"{name}#{index}"
        seen.add(name)
        names.append(name)
    return tuple(names)


def _inferred(model: onnx.ModelProto, image: str, shape: Shape) -> onnx.GraphProto:
    """What nodes make if the image has that shape, whose sides may be open.

    It only serves to go on after a refused node, and to find position embeddings: gaps are fine.
    """
    bound = _declared(model.graph, model.opset_import)
    for value in bound.graph.input:
        if value.name == image:
            kind = value.type.tensor_type.elem_type
            value.CopyFrom(onnx.helper.make_tensor_value_info(image, kind, shape))
    known = with_shapes(bound)
    return onnx.GraphProto() if known is None else known.graph


def with_shapes(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """The model with the shapes that ONNX infers; None if it stumbles, whatever over."""
    if any(claims_more(node) for node in model.graph.node):
        return None
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:
        return None


def _kinds(values: Iterable[onnx.ValueInfoProto]) -> dict[str, int]:
    return {value.name: value.type.tensor_type.elem_type for value in values}


def _shapes(values: Iterable[onnx.ValueInfoProto]) -> dict[str, tuple[int, ...]]:
    """Of those whose every axis is known."""
    shapes = {}
    for value in values:
        dims = value.type.tensor_type.shape.dim
        if dims and all(dim.dim_value > 0 for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def _declared(graph: onnx.GraphProto, opsets: Iterable[onnx.OperatorSetIdProto]) -> onnx.ModelProto:
    """The graph with large weights declared rather than held: inference copies what it is given."""
    declared = onnx.helper.make_graph(graph.node, graph.name, graph.input, graph.output)
    known = {value.name for value in graph.input}
    for tensor in graph.initializer:
        if math.prod(tensor.dims) <= FEW_VALUES:
            declared.initializer.append(tensor)
        elif tensor.name not in known:
            kind = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            declared.input.append(kind)
    return onnx.helper.make_model(declared, opset_imports=list(opsets))


def claims_more(node: onnx.NodeProto) -> bool:
    """Whether a Split says that it has another number of outputs than it has."""
    claimed = [a.i for a in node.attribute if a.name == "num_outputs"]
    return node.op_type == "Split" and claimed not in ([], [len(node.output)])
