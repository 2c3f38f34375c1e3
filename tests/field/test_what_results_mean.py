"""What a result means, by what stands behind it, its shape and the files beside the model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import Command, assert_refused
from onnx_builder import DIM, Calm, Net, Recipe, Step, build, chain, same
from vitessera.codegen.errors import PreprocessingError
from vitessera.codegen.importer import inspect_model, result_shapes
from vitessera.codegen.tasks import find_tasks
from vitessera.host.tasks import Kind, Last, Task

CLASSES, LABELS = Task(Kind.CLASSES, Last.SOFTMAX), Task(Kind.LABELS, Last.SIGMOID)


def op(op_type: str, **attrs: object) -> Step:
    return lambda net, x: net.op(op_type, x, **attrs)


def numbers(count: int) -> Step:
    """The head of `count` numbers instead of three."""
    return lambda net, x: net.linear(x, 3, count)


def written(folder: Path, **steps: Step) -> Path:
    net, output = build(replace(Recipe(), **steps), Calm())
    return net.save(folder / "model.onnx", output)


def tasks(
    path: Path, *results: str, classes: int = 0, given: Kind | None = None, split: bool = False
) -> list[Task]:
    """Of all results, in order."""
    found = inspect_model(path, results, split=split)
    assert found.graph is not None, found.rows
    shapes = result_shapes(found.tail)
    return list(find_tasks(path, found.graph, found.heads, classes, given, shapes).values())


def test_scores_of_a_linear_layer_are_classes(tmp_path: Path) -> None:
    assert tasks(written(tmp_path)) == [CLASSES]


def test_a_single_number_is_a_score(tmp_path: Path) -> None:
    """A regression, or a yes or no: a softmax of it would always be 100 %."""
    assert tasks(written(tmp_path, finish=numbers(1))) == [Task(Kind.SCORES)]


@pytest.mark.parametrize(
    "last, expected",
    [
        (op("Softmax", axis=-1), CLASSES),
        (op("LogSoftmax", axis=-1), CLASSES),
        (op("Sigmoid"), LABELS),
        (chain(op("Identity"), op("Sigmoid")), LABELS),
    ],
    ids=["softmax", "log softmax", "sigmoid", "sigmoid behind an identity"],
)
def test_what_stood_behind_the_results_decides(last: Step, expected: Task, tmp_path: Path) -> None:
    """The file's head was cut off with --results."""

    def finish(net: Net, x: str) -> str:
        scores = net.op("Identity", net.linear(x, 3, 5), name="result")
        return last(net, scores)

    assert tasks(written(tmp_path, finish=finish), "result") == [expected]


def test_a_sigmoid_that_something_reads_is_no_head(tmp_path: Path) -> None:
    def finish(net: Net, x: str) -> str:
        scores = net.op("Identity", net.linear(x, 3, 5), name="result")
        return net.op("Mul", scores, net.op("Sigmoid", scores))

    assert tasks(written(tmp_path, finish=finish), "result") == [CLASSES]


def test_what_the_host_does_behind_a_cut_is_not_done_again(tmp_path: Path) -> None:
    path = written(tmp_path, finish=op("Softmax", axis=-1))
    at_the_cut, behind = tasks(path, split=True)
    assert at_the_cut == CLASSES
    assert behind == Task(Kind.CLASSES, Last.NOTHING)


@pytest.mark.parametrize(
    "problem, expected",
    [
        ("single_label_classification", CLASSES),
        ("multi_label_classification", LABELS),
        ("regression", Task(Kind.SCORES)),
        (None, CLASSES),
    ],
)
def test_the_configuration_beside_the_model_decides(
    problem: str | None, expected: Task, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"problem_type": problem}))
    assert tasks(written(tmp_path)) == [expected]


def test_an_unknown_problem_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"problem_type": "riddle"}')
    with pytest.raises(
        PreprocessingError,
        match=r"config\.json beside model\.onnx: problem_type is 'riddle'.*--task",
    ):
        tasks(written(tmp_path))


def normed(net: Net, x: str) -> str:
    return net.norm(net.linear(x, 3, DIM))


@pytest.mark.parametrize(
    "finish",
    [normed, op("Identity", name="image_embeds")],
    ids=["a norm makes it", "by its name"],
)
def test_embeddings(finish: Step, tmp_path: Path) -> None:
    assert tasks(written(tmp_path, finish=finish)) == [Task(Kind.EMBEDDING)]


def test_tokens_are_an_embedding(tmp_path: Path) -> None:
    assert tasks(written(tmp_path, pool=same)) == [Task(Kind.EMBEDDING)]


def test_as_many_class_names_as_numbers_make_classes(tmp_path: Path) -> None:
    path = written(tmp_path, finish=normed)
    assert tasks(path, classes=DIM) == [CLASSES]


def test_a_number_for_each_patch_is_a_map(tmp_path: Path) -> None:
    path = written(tmp_path, pool=same, finish=numbers(1))
    assert tasks(path) == [Task(Kind.MAP, grid=(2, 2))]


def test_what_the_user_says_goes_before_all(tmp_path: Path) -> None:
    path = written(tmp_path, pool=same)
    assert tasks(path, given=Kind.MAP) == [Task(Kind.MAP, grid=(2, 2))]
    path = written(tmp_path)
    assert tasks(path, given=Kind.LABELS) == [LABELS]
    assert tasks(path, given=Kind.EMBEDDING) == [Task(Kind.EMBEDDING)]
    with pytest.raises(PreprocessingError, match=r"--task map: .* has 1 tokens for 4 patches"):
        tasks(path, given=Kind.MAP)


def test_a_task_that_the_result_cannot_be_is_refused(command: Command, tmp_path: Path) -> None:
    model, folder = written(tmp_path), tmp_path / "build"
    outcome = command("compile", model, "-o", folder, "--task", "map")
    assert_refused(outcome, "--task map", "has 1 tokens for 4 patches", "--results")
    assert not folder.exists()


def test_a_map_of_several_channels_shows_the_greatest() -> None:
    result = np.zeros((2, 5, 3))  # a class token, and four patches
    result[0, 2, 1] = result[1, 4, 2] = 1.0
    maps = Task(Kind.MAP, grid=(2, 2)).maps(result)
    assert maps.tolist() == [[[0, 1], [0, 0]], [[0, 0], [0, 2]]]


def test_sigmoids_do_not_overflow() -> None:
    assert Last.SIGMOID(np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]
