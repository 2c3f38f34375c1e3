"""torch → ONNX by either exporter, and what people do to the file afterwards."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import onnx
import torch
from torch import nn


class UnsupportedOpsetError(Exception):
    """This torch cannot write that operator set."""


def dynamo(model: nn.Module, image: torch.Tensor, path: Path, opset: int, symbolic: bool) -> None:
    """torch.onnx.export(dynamo=True)."""
    if symbolic:
        image = torch.cat([image, image])
    shapes = ({0: torch.export.Dim("batch")},) if symbolic else None
    with _quiet():
        program = torch.onnx.export(
            model, (image,), dynamo=True, opset_version=opset, verbose=False, dynamic_shapes=shapes
        )
    assert program is not None
    proto = program.model_proto
    written = next(entry.version for entry in proto.opset_import if entry.domain == "")
    if written != opset:
        raise UnsupportedOpsetError(f"opset {opset} fell back to {written}")
    onnx.save(proto, path)


def script(model: nn.Module, image: torch.Tensor, path: Path, opset: int, symbolic: bool) -> None:
    """torch.onnx.export(dynamo=False): TorchScript."""
    axes = {"image": {0: "batch"}} if symbolic else None
    file = io.BytesIO()
    with _quiet():
        torch.onnx.export(
            model,
            (image,),
            file,
            dynamo=False,
            opset_version=opset,
            input_names=["image"],
            dynamic_axes=axes,
        )
    path.write_bytes(file.getvalue())


def by_timm(model: nn.Module, image: torch.Tensor, path: Path, opset: int, symbolic: bool) -> None:
    """timm.utils.onnx, with TorchScript; the batch axis is always symbolic."""
    from timm.utils.onnx import onnx_export

    assert symbolic
    with _quiet():
        onnx_export(model, str(path), image, opset=opset, use_dynamo=False)


def by_timm_dynamo(
    model: nn.Module, image: torch.Tensor, path: Path, opset: int, symbolic: bool
) -> None:
    """timm.utils.onnx, with dynamo; the batch axis is always symbolic."""
    from timm.utils.onnx import onnx_export

    assert symbolic
    with _quiet():
        onnx_export(model, str(path), image, opset=opset, use_dynamo=True)


def by_transformers(
    model: nn.Module, image: torch.Tensor, path: Path, opset: int, symbolic: bool
) -> None:
    """The exporter of transformers: all results of the model, weights in a file beside it.

    Args:
        model: a hugging_face.Picked; what it wraps is exported.
        symbolic: whether every axis is asked to be, as by dynamic=True.
    """
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    config = OnnxConfig(opset_version=opset, dynamic=symbolic)
    with _quiet():
        written = OnnxExporter().export(model.model, {"pixel_values": image}, config=config)
        OnnxExporter.save_program(written.program, path)


class _quiet(warnings.catch_warnings):  # noqa: N801 (a context manager)
    """Without the exporters' remarks."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)


EXPORTERS: dict[str, Callable[[nn.Module, torch.Tensor, Path, int, bool], None]] = {
    "dynamo": dynamo,
    "script": script,
    "timm": by_timm,
    "timm-dynamo": by_timm_dynamo,
    "transformers": by_transformers,
}


# --- Afterwards ----------------------------------------------------------------------------------


def simplified(path: Path) -> None:
    """onnxsim."""
    import onnxsim

    model, checked = onnxsim.simplify(onnx.load(path))
    assert checked
    onnx.save(model, path)


def optimised(path: Path) -> None:
    """ONNX Runtime's own optimisation, as far as the result is standard ONNX."""
    import onnxruntime as ort

    _optimise(path, ort.GraphOptimizationLevel.ORT_ENABLE_BASIC)


def optimised_beyond(path: Path) -> None:
    """As ONNX Runtime optimises for itself, with operators of its own."""
    import onnxruntime as ort

    _optimise(path, ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED)


def _optimise(path: Path, level: object) -> None:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(path.with_suffix(".optimised"))
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    path.with_suffix(".optimised").replace(path)


def external(path: Path) -> None:
    """Weights in a file of their own."""
    onnx.save(
        onnx.load(path),
        path,
        save_as_external_data=True,
        location=f"{path.name}.data",
        size_threshold=1024,
    )


def half_weights(path: Path) -> None:
    """Weights in float16, each cast to float32 where it is read."""
    model = onnx.load(path)
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = onnx.numpy_helper.to_array(tensor).astype("float16")
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, f"{name}.half"))
        casts.append(
            onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT)
        )
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])
    onnx.save(model, path)


def half_file(path: Path) -> None:
    """Everything in float16, image and results too, as ONNX Runtime's tools convert it."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=False), path)


AFTERWARDS: dict[str, Callable[[Path], None]] = {
    "": lambda _: None,
    "onnxsim": simplified,
    "ort": optimised,
    "ort-extended": optimised_beyond,
    "external": external,
    "half-weights": half_weights,
    "half-file": half_file,
}
