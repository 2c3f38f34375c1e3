"""The digits example in integers: accuracy, the error report, and the fields' limits.

Of this folder the test to read first: it shows the whole way from the ONNX file to integer
predictions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from vitessera.codegen import quantreport
from vitessera.codegen.graph import Graph
from vitessera.codegen.importer import evaluate, import_model
from vitessera.codegen.quantexec import execute, predict
from vitessera.codegen.quantgraph import QuantGraph
from vitessera.codegen.quantize import quantize

DIGITS = Path(__file__).parents[2] / "examples" / "digits"


@dataclass(frozen=True)
class Digits:
    graph: Graph
    data: Mapping[str, npt.NDArray[np.float32]]
    quantgraph: QuantGraph


@pytest.fixture(scope="module")
def digits() -> Digits:
    graph = import_model(DIGITS / "vit_digits.onnx")
    data = dict(np.load(DIGITS / "digits.npz"))
    return Digits(graph, data, quantize(graph, data["calibration"]))


def test_integer_accuracy_is_within_half_a_point_of_float(digits: Digits) -> None:
    images, labels = digits.data["images"], digits.data["labels"]
    ((_, output),) = digits.graph.outputs
    float_logits = evaluate(digits.graph, images)[output][:, 0]
    (logits,) = predict(digits.quantgraph, images).values()
    float_top1 = (float_logits.argmax(axis=1) == labels).mean()
    assert (logits[:, 0].argmax(axis=1) == labels).mean() >= float_top1 - 0.005


def test_every_value_is_close_to_float(digits: Digits) -> None:
    rows = quantreport.report(digits.graph, digits.quantgraph, digits.data["images"][:64])
    assert min(row.cosine for row in rows) > 0.998
    assert max(row.saturated for row in rows) < 0.005


def test_quantisation_is_reproducible(digits: Digits) -> None:
    again = quantize(digits.graph, digits.data["calibration"].astype(np.float64))
    images = digits.data["images"][:4]
    first, second = execute(digits.quantgraph, images), execute(again, images)
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_an_image_alone_equals_the_image_in_a_batch(digits: Digits) -> None:
    images = digits.data["images"][:5]
    batch, alone = execute(digits.quantgraph, images), execute(digits.quantgraph, images[3:4])
    assert all(np.array_equal(alone[name][0], batch[name][3]) for name in batch)


@pytest.mark.parametrize("lanes", [2, 4, 16])
def test_softmax_beat_width_changes_little(digits: Digits, lanes: int) -> None:
    images = digits.data["images"][:16]
    wide, narrow = (predict(digits.quantgraph, images, n)["logits"] for n in (8, lanes))
    assert np.abs(wide - narrow).max() < 0.2


def test_values_have_the_declared_shape_and_type(digits: Digits) -> None:
    values = execute(digits.quantgraph, digits.data["images"][:2])
    for node in digits.quantgraph:
        assert values[node.name].shape == (2, node.value.tokens, node.value.channels)
        assert values[node.name].dtype == (np.int8 if node.value.bits == 8 else np.int16)
        assert node.value.scale.shape == (node.value.channels,)


def test_report_reads_as_table_and_as_json(digits: Digits) -> None:
    rows = quantreport.report(digits.graph, digits.quantgraph, digits.data["images"][:4])
    table = quantreport.to_text(rows).splitlines()
    assert len(table) == len(rows) + 1
    heads = "value bits SNR dB cosine max error saturated %"
    assert " ".join(table[0].split()) == heads
    records = json.loads(quantreport.to_json(rows))
    assert [record["name"] for record in records] == [row.name for row in rows]
