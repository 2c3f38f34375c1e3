"""A model with something changed is refused, or compiled to what it is now: never to what it was.

`VITESSERA_MUTANTS=20000 pytest tests/importer/test_mutations.py` tries as many; a failure names
the model, the seed and what was changed, and `mutations.mutant(model, seed, folder)` writes the
file again. All but the first of each model are marked `slow`.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from types import FrameType

import numpy as np
import onnx
import pytest
from mutations import MODELS, Mutant, mutant
from onnx import TensorProto
from onnx_builder import Calm, Net, Recipe, build, chain, mean_pool
from oracle import FloatArray, Oracle
from verdicts import check_program, some_images
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.errors import InternalError, UnsupportedModelError, VitesseraError
from vitessera.codegen.graph import Add, Graph, TokenEmbed
from vitessera.codegen.importer import Status, evaluate, import_model, inspect_model, layout
from vitessera.codegen.importer.call import Call
from vitessera.codegen.importer.elementwise import scaled
from vitessera.codegen.importer.trace import HANDLERS, Handler
from vitessera.codegen.quantexec import predict
from vitessera.codegen.quantize import quantize

MUTANTS = int(os.environ.get("VITESSERA_MUTANTS", "2400"))
CHUNK = 50
PATIENCE_SECONDS = 60
MEMORY_BYTES = 4 << 30  # for a mutant, beside what the tests take

# Of the greatest result: how far ours and ONNX Runtime's may lie apart.
TOLERANCE = 1e-3
# What rounding errors, enlarged so much, could explain tells nothing.
AMPLIFIED = 100.0
ROUNDING = {
    TensorProto.FLOAT: 2.0**-24,
    TensorProto.FLOAT16: 2.0**-11,
    TensorProto.BFLOAT16: 2.0**-8,
}
# The least cosine of integers with float that is called right, if noise of an eighth bit alone
# leaves more than CALM.
LEAST_COSINE, CALM = 0.98, 0.999


class Hang(BaseException):
    """A mutant that took too long; no Exception, lest something on the way catches it."""


@contextmanager
def deadline() -> Iterator[None]:
    """Raises Hang after PATIENCE_SECONDS; ends the process if code in C does not hear it."""

    def late(_: int, __: FrameType | None) -> None:
        raise Hang(f"no verdict after {PATIENCE_SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE_SECONDS)
    faulthandler.dump_traceback_later(2 * PATIENCE_SECONDS, exit=True)
    try:
        yield
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module", autouse=True)
def limited_memory() -> Iterator[None]:
    """Mutants ask for any amount; the importer's own process (confined.py) has such a limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    used = next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData:"))
    resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY_BYTES, hard))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def rounding(path: Path) -> float:
    """The relative error of the coarsest float type in the file."""
    model = onnx.load(path, load_external_data=False)
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    kinds |= {value.type.tensor_type.elem_type for value in model.graph.input}
    kinds |= {a.i for node in model.graph.node for a in node.attribute if a.name == "to"}
    return max(ROUNDING.get(kind, 0.0) for kind in {*kinds, TensorProto.FLOAT})


def noisy(graph: Graph, relative: float, stream: float = 0.0) -> Graph:
    """The network with uniform noise on every array of weights, and on the residual stream.

    Args:
        graph: the network.
        relative: size of the noise, of the greatest weight of an array.
        stream: size of the noise on the tokens that enter the first block.
    """
    random = np.random.default_rng(0)

    def shaken(values: object) -> object:
        if not isinstance(values, np.ndarray) or not values.size:
            return values
        size = np.abs(values).max() * relative
        return (values + size * random.uniform(-1, 1, values.shape)).astype(np.float32)

    nodes = [
        replace(node, **{f.name: shaken(getattr(node, f.name)) for f in fields(node)})
        for node in graph
    ]
    for place, node in enumerate(nodes):
        if isinstance(node, TokenEmbed):
            noise = stream * random.uniform(-1, 1, node.positions.shape)
            nodes[place] = replace(node, positions=(node.positions + noise).astype(np.float32))
    return replace(graph, nodes=tuple(nodes))


def check_float(
    graph: Graph, images: FloatArray, wanted: dict[str, FloatArray], step: float
) -> str:
    """Ours against ONNX Runtime's, where it is not rounding alone that decides."""
    found = evaluate(graph, images)
    shaken = evaluate(noisy(graph, step), images * np.float32(1 + step))
    for name, value in graph.outputs:
        ours, theirs = found[value], wanted.get(name)
        if theirs is None or not np.isfinite(theirs).all():
            return "float overflows"
        assert ours.size == theirs.size, f"{ours.shape} for {theirs.shape}"
        theirs = theirs.reshape(ours.shape)
        scale = max(np.abs(theirs).max(), 1e-30)
        noise = np.abs(shaken[value] - ours).max() * AMPLIFIED
        if not np.isfinite(noise) or noise > 0.1 * scale:
            return "ill-conditioned"
        error = np.abs(ours - theirs).max()
        assert error <= TOLERANCE * scale + noise, f"{name} is {error:.3g} of {scale:.3g} off"
    return "compiled"


def check_integers(graph: Graph, images: FloatArray) -> str:
    """Nothing but our errors; and close to float, where eight bits can be."""
    try:
        network = quantize(graph, images)
        check_program(network, images[0], HardwareConfig())
    except VitesseraError as error:
        assert error.culprit and error.remedy
        return "refused later"
    found, real = predict(network, images), evaluate(graph, images)
    streams = [np.abs(real[n.name]).max() for n in graph if isinstance(n, TokenEmbed | Add)]
    shaken = evaluate(noisy(graph, 2.0**-8, max(streams) * 2.0**-15), images)
    for name, value in graph.outputs:
        if similarity(shaken[value], real[value]) < CALM:
            return "not calm"
        cosine = similarity(found[name], real[value])
        assert cosine >= LEAST_COSINE, f"cosine of integers {cosine:.4f}"
    return "integers agree"


def similarity(found: FloatArray, expected: FloatArray) -> float:
    norm = np.linalg.norm(found.astype(float)) * np.linalg.norm(expected.astype(float))
    return float(np.vdot(found, expected) / norm) if norm > 0 else 0.0


def judge(subject: Mutant, oracle: Oracle, *, twice: bool) -> list[str]:
    """What became of the mutant; AssertionError or any other exception is a finding."""
    try:
        inspection = inspect_model(subject.path)
    except InternalError:
        raise
    except VitesseraError as error:
        assert error.culprit and error.remedy
        return ["refused file"]
    refused = [row for row in inspection.rows if row.status is Status.REFUSED]
    assert all(row.reason and row.remedy for row in refused)
    graph = inspection.graph
    if graph is None:
        assert refused
        if twice:
            with pytest.raises(UnsupportedModelError):
                import_model(subject.path)
        return ["refused"]
    assert not refused
    images = some_images(graph, 4, seed=2)
    outcome = [check_integers(graph, images)]
    wanted = oracle(subject.path, images)
    if wanted is None:
        return [*outcome, "ONNX Runtime refuses"]
    return [*outcome, check_float(graph, images, wanted, 4 * rounding(subject.path))]


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    made = Oracle()
    yield made
    made.close()


def chunks() -> list[object]:
    each = -(-MUTANTS // (CHUNK * len(MODELS)))
    return [
        pytest.param(name, number, marks=[pytest.mark.slow] if number else [])
        for number in range(each)
        for name in MODELS
    ]


@pytest.mark.parametrize(("name", "chunk"), chunks())
def test_no_mutant_compiles_into_something_else(
    name: str, chunk: int, tmp_path: Path, oracle: Oracle
) -> None:
    findings, outcomes = [], Counter[str]()
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        subject = mutant(name, seed, tmp_path)
        if subject is None:
            continue
        try:
            with deadline(), np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", RuntimeWarning)
                outcomes.update(judge(subject, oracle, twice=seed % 4 == 0))
        except (Exception, Hang) as error:
            place = traceback.format_exc().splitlines()[-4:]
            findings.append(f"{name}, seed {seed}, {subject.changes}: {error!r} {place}")
    print(name, chunk, dict(outcomes))
    assert not findings, "\n".join(findings)
    assert outcomes["compiled"] >= 3 and outcomes["refused"] >= 3, "the chunk shows little"
    assert outcomes["integers agree"] + outcomes["refused later"] >= 3, "the chunk shows little"


# --- Finds what it is there to find --------------------------------------------------------------


def written(recipe: Recipe, folder: Path) -> Mutant:
    net, output = build(recipe, Calm())
    return Mutant(net.save(folder / "model.onnx", output), ("none",))


def negative(net: Net, x: str) -> str:
    return net.op("Neg", x)


def planted(handler: Handler, monkeypatch: pytest.MonkeyPatch) -> None:
    """An importer that does not know what Neg is."""
    monkeypatch.setitem(HANDLERS, "Neg", handler)


def test_models_are_valid(tmp_path: Path, oracle: Oracle) -> None:
    for name, model in MODELS.items():
        path = tmp_path / f"{name}.onnx"
        onnx.save(model, path)
        outcome = judge(Mutant(path, ()), oracle, twice=True)
        assert outcome in (["integers agree", "compiled"], ["refused later", "compiled"]), name


def test_a_wrong_result_is_found(
    tmp_path: Path, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = written(Recipe(pool=chain(mean_pool, negative)), tmp_path)
    assert judge(subject, oracle, twice=True) == ["integers agree", "compiled"]
    planted(layout.keep, monkeypatch)
    with pytest.raises(AssertionError, match=r"is .* of .* off"):
        judge(subject, oracle, twice=True)


def test_a_small_error_is_found(
    tmp_path: Path, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = written(Recipe(pool=chain(mean_pool, negative)), tmp_path)
    planted(lambda call: (scaled(call, call.view(0), np.array(-1.01)),), monkeypatch)
    with pytest.raises(AssertionError, match="off"):
        judge(subject, oracle, twice=True)


def test_wrong_integers_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = import_model(written(Recipe(), tmp_path).path)
    images = some_images(graph, 4, seed=2)
    assert check_integers(graph, images) == "integers agree"
    right = quantize
    monkeypatch.setattr(f"{__name__}.quantize", lambda g, x: right(noisy(g, 0.3), x))
    with pytest.raises(AssertionError, match="cosine of integers"):
        check_integers(graph, images)


def test_a_traceback_is_found(
    tmp_path: Path, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = written(Recipe(pool=chain(mean_pool, negative)), tmp_path)

    def broken(_: Call) -> tuple[None]:
        raise TypeError("of a kind that nobody expected")

    planted(broken, monkeypatch)
    with pytest.raises(InternalError, match="TypeError: of a kind that nobody expected"):
        judge(subject, oracle, twice=True)


def test_a_hang_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.PATIENCE_SECONDS", 1)
    with pytest.raises(Hang), deadline():
        while True:
            time.sleep(0.01)
