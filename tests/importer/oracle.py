"""What ONNX Runtime computes, or else ONNX's reference: asked in a process of its own.

Hostile models crash ONNX Runtime.
"""

from __future__ import annotations

import pickle
import select
import struct
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Answer = dict[str, FloatArray] | None

PATIENCE_SECONDS = 30.0


class Oracle:
    """ONNX Runtime beside us: it answers, refuses, or dies and is started again."""

    def __init__(self, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._patience = patience_seconds
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, path: Path, images: FloatArray) -> Answer:
        """The outputs for `images` [n, channels, height, width], fed one by one.

        Returns:
            [n, rows, columns] by output name; None if ONNX Runtime refuses the model, dies of it,
            or takes too long.
        """
        process = self._started()
        assert process.stdin is not None and process.stdout is not None
        try:
            _write(process.stdin, (path, images))
            ready, _, _ = select.select([process.stdout], [], [], self._patience)
            if ready:
                return _read(process.stdout)
        except (EOFError, BrokenPipeError):
            pass
        self.close()
        return None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(
                [sys.executable, __file__], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL
            )
        return self._process

    def close(self) -> None:
        """Ends the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _write(stream: BinaryIO, message: object) -> None:
    data = pickle.dumps(message)
    stream.write(struct.pack("<q", len(data)) + data)
    stream.flush()


def _read(stream: BinaryIO) -> Answer:
    header = stream.read(8)
    if len(header) < 8:
        raise EOFError
    (length,) = struct.unpack("<q", header)
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return pickle.loads(data)


def _answer(path: Path, images: FloatArray) -> Answer:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    # As written: optimisations may compute with quantised weights where they see some.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (source,) = session.get_inputs()
        dtype = np.float16 if "float16" in source.type else np.float32
        dtype = np.float64 if "double" in source.type else dtype
        names = [output.name for output in session.get_outputs()]
        runs = [session.run(names, {source.name: image[None].astype(dtype)}) for image in images]
    except Exception:  # whatever it says of a model that makes no sense
        return _second_opinion(path, images)
    return _stacked(names, runs)


def _second_opinion(path: Path, images: FloatArray) -> Answer:
    """Of ONNX's own reference, which knows types that ONNX Runtime has no kernels for."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    try:
        model = onnx.load(path)
        weights = {tensor.name for tensor in model.graph.initializer}
        (source,) = (value for value in model.graph.input if value.name not in weights)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(source.type.tensor_type.elem_type)
        evaluator = ReferenceEvaluator(model)
        names = [output.name for output in model.graph.output]
        runs = [evaluator.run(names, {source.name: image[None].astype(dtype)}) for image in images]
        return _stacked(names, runs)
    except Exception:
        return None


def _stacked(names: list[str], runs: list[list[FloatArray]]) -> Answer:
    stacked = zip(names, zip(*runs, strict=True), strict=True)
    return {
        name: np.stack([np.asarray(r, np.float32).reshape(-1, np.shape(r)[-1]) for r in results])
        for name, results in stacked
        if all(np.ndim(result) > 0 for result in results)
    }


def _serve() -> None:
    while True:
        header = sys.stdin.buffer.read(8)
        if len(header) < 8:
            return
        (length,) = struct.unpack("<q", header)
        path, images = pickle.loads(sys.stdin.buffer.read(length))
        _write(sys.stdout.buffer, _answer(path, images))


if __name__ == "__main__":
    _serve()
