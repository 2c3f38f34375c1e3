"""The float execution of a graph, and the example that everything else starts from."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from vitessera.codegen.errors import ImageError
from vitessera.codegen.importer import evaluate, import_model
from vitessera.codegen.importer.evaluate import erf

DIGITS = Path(__file__).parents[2] / "examples" / "digits"


def test_digits_example_equals_onnx_runtime_and_is_accurate() -> None:
    graph = import_model(DIGITS / "vit_digits.onnx")
    data = np.load(DIGITS / "digits.npz")
    started = time.monotonic()
    logits = evaluate(graph, data["images"])["head"][:, 0]
    assert time.monotonic() - started < 10
    assert (logits.argmax(axis=1) == data["labels"]).mean() >= 0.975
    session = ort.InferenceSession(DIGITS / "vit_digits.onnx", providers=["CPUExecutionProvider"])
    for image, found in zip(data["images"][:20], logits, strict=False):
        (wanted,) = session.run(None, {graph.image.name: image[None]})
        assert np.abs(wanted[0] - found).max() < 1e-4


def test_one_image_and_a_batch_agree() -> None:
    graph = import_model(DIGITS / "vit_digits.onnx")
    images = np.load(DIGITS / "digits.npz")["images"][:3]
    batch = evaluate(graph, images)
    single = evaluate(graph, images[1])
    assert set(batch) == set(single) == {node.name for node in graph}
    for name, shape in graph.shapes().items():
        assert single[name].shape == shape
        assert single[name].dtype == np.float32
        np.testing.assert_allclose(single[name], batch[name][1], atol=1e-5)


def test_wrong_image_shape() -> None:
    graph = import_model(DIGITS / "vit_digits.onnx")
    with pytest.raises(ImageError, match=r"\[1, 3, 8, 8\].*Give \[1, 8, 8\]"):
        evaluate(graph, np.zeros((3, 8, 8), np.float32))


def test_erf_is_exact_to_float32() -> None:
    x = np.concatenate([np.linspace(-7, 7, 20001), [0.0, 1e-30, -1e-30, 0.46875, 4.0, 1e30]])
    x = x.astype(np.float32)
    wanted = np.array([math.erf(float(value)) for value in x])
    assert np.abs(erf(x) - wanted).max() < 1e-7
