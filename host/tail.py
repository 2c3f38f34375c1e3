"""What comes behind the accelerator, where a network was cut: the host's own part of it.

`vitessera compile --split` leaves to the host what no accelerator of ours can do but comes after
all that it can. ONNX Runtime runs it, where that is installed; numpy and PYNQ alone cannot.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import BuildDirectoryError
from .reading import foreign

Outputs = dict[str, npt.NDArray[np.float64]]

RUNTIME = "onnxruntime"
FLOATS = {
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
}


@dataclass(frozen=True)
class Tail:
    """The part of a network that is left to the host.

    Attributes:
        model: an ONNX file, for one image. Its inputs are called as the tensors at the cut.
        results: names of the whole network's outputs, in their order; those that `model` does not
            give come from the accelerator as they are.
    """

    model: bytes
    results: tuple[str, ...]


def can_run() -> bool:
    """Whether ONNX Runtime is installed."""
    return importlib.util.find_spec(RUNTIME) is not None


class TailRunner:
    """Runs a tail; times itself.

    Attributes:
        seconds: that the last image took.

    Raises:
        BuildDirectoryError: ONNX Runtime does not take the file.
    """

    def __init__(self, tail: Tail, name: str) -> None:
        """For a tail whose file is called `name`."""
        import onnxruntime

        def error_of(error: Exception) -> BuildDirectoryError:
            return BuildDirectoryError(
                f"{name}: ONNX Runtime cannot run it ({error}).",
                f"Upgrade {RUNTIME}, or remove it: then results are those of the accelerator.",
            )

        self._error_of = error_of
        self._results = tail.results
        self.seconds = 0.0
        with foreign(error_of):
            self._session: Any = onnxruntime.InferenceSession(
                tail.model, providers=["CPUExecutionProvider"]
            )
            self._inputs = {
                entry.name: (tuple(entry.shape), FLOATS[entry.type])
                for entry in self._session.get_inputs()
            }

    def __call__(self, cut: Mapping[str, npt.NDArray[np.float64]]) -> Outputs:
        """The whole network's outputs for one image.

        Args:
            cut: what the accelerator gives, [tokens, channels] by ONNX names.

        Returns:
            those of the tail in the shape that the ONNX file gives them, without a batch axis of
            one; all others as they are in `cut`.
        """
        started = time.perf_counter()
        with foreign(self._error_of):
            feed = {
                name: cut[name].reshape(shape).astype(kind)
                for name, (shape, kind) in self._inputs.items()
            }
            names = [entry.name for entry in self._session.get_outputs()]
            made = dict(zip(names, self._session.run(names, feed), strict=True))
            found = {
                name: _of_one_image(made[name]) if name in made else cut[name]
                for name in self._results
            }
        self.seconds = time.perf_counter() - started
        return found


def _of_one_image(array: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    batched = array.ndim > 0 and array.shape[0] == 1
    return np.asarray(array[0] if batched else array, np.float64)
