"""The importer's process: what asks for too much is refused by name, and nothing outlives us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_builder import Net, Recipe, build
from vitessera.codegen.errors import (
    ConfigError,
    ModelFileError,
    UnsupportedModelError,
    VitesseraError,
)
from vitessera.codegen.importer import (
    Status,
    confined,
    import_confined,
    import_model,
    inspect_confined,
    limits,
)

DIGITS = Path(__file__).parents[2] / "examples" / "digits" / "vit_digits.onnx"
END_SECONDS = 60  # until a process must be gone


def zeros(net: Net, *shape: int, kind: int = TensorProto.FLOAT) -> str:
    zero = helper.make_tensor("zero", kind, [1], [0])
    return net.op("ConstantOfShape", net.ints(*shape), value=zero)


def column(net: Net) -> str:
    return zeros(net, 1 << 16, 1)


def row(net: Net) -> str:
    return zeros(net, 1, 1 << 16)


def places(net: Net, *shape: int) -> str:
    return zeros(net, *shape, kind=TensorProto.INT64)


def ones(net: Net, *shape: int) -> str:
    return net.const(np.ones(shape))


def number(net: Net, value: int) -> str:
    return net.const(value, np.int64)


# Operators of constants, and operands with which the result takes 4 GB to 8 TB.
Operands = Callable[[Net], list[str]]
GREEDY: dict[str, tuple[str, Operands, dict[str, object]]] = {
    "constant": ("ConstantOfShape", lambda net: [net.ints(1 << 37)], {}),
    "sum": ("Add", lambda net: [column(net), row(net)], {}),
    "matmul": ("MatMul", lambda net: [column(net), row(net)], {}),
    "gemm": ("Gemm", lambda net: [column(net), row(net)], {}),
    "einsum": (
        "Einsum",
        lambda net: [zeros(net, 1 << 16), zeros(net, 1 << 16)],
        {"equation": "i,j->ij"},
    ),
    "expand": ("Expand", lambda net: [ones(net, 1), net.ints(1 << 40)], {}),
    "pad": ("Pad", lambda net: [ones(net, 1, 1), net.ints(0, 1 << 33, 0, 0)], {}),
    "pad_of_axes": (
        "Pad",
        lambda net: [ones(net, 1, 1), net.ints(1 << 33, 0), net.const(0.0), net.ints(1)],
        {},
    ),
    "range": ("Range", lambda net: [number(net, n) for n in (0, 10**12, 1)], {}),
    "gather": ("Gather", lambda net: [zeros(net, 1, 1 << 14), places(net, 1 << 16)], {"axis": 0}),
    "gather_nd": ("GatherND", lambda net: [zeros(net, 1, 1 << 14), places(net, 1 << 16, 1)], {}),
    "one_hot": (
        "OneHot",
        lambda net: [net.ints(1, 2), number(net, 10**10), net.const([0.0, 1.0])],
        {},
    ),
    "tile": ("Tile", lambda net: [ones(net, 1, 1), net.ints(1 << 20, 1 << 20)], {}),
    "resize": (
        "Resize",
        lambda net: [ones(net, 1, 1, 2, 2), "", "", net.ints(1, 1, 1 << 15, 1 << 15)],
        {"mode": "nearest"},
    ),
    "window": ("HannWindow", lambda net: [number(net, 1 << 40)], {}),
    "affine_grid": (
        "AffineGrid",
        lambda net: [ones(net, 1, 2, 3), net.ints(1, 1, 1 << 16, 1 << 16)],
        {},
    ),
    "dft": ("DFT", lambda net: [ones(net, 1, 4, 1), number(net, 1 << 34)], {}),
    "concat": ("Concat", lambda net: [zeros(net, 1 << 22)] * 300, {"axis": 0}),
    "turned_convolution": (
        "ConvTranspose",
        lambda net: [ones(net, 1, 1, 2, 2), ones(net, 1, 1, 1, 1)],
        {"strides": [1 << 20, 1 << 20]},
    ),
    "crop": ("CenterCropPad", lambda net: [ones(net, 1, 1), net.ints(1 << 20, 1 << 20)], {}),
}


def greedy(net: Net, x: str) -> str:
    # Of what depends on the image, arrangements take memory.
    x = net.op("Tile", x, net.ints(1, 1 << 26, 1), name="tokens")
    for name, (op_type, operands, attributes) in GREEDY.items():
        x = net.op("Add", x, net.op(op_type, *operands(net), name=name, **attributes))
    return x


def saved(folder: Path, after: Callable[[Net, str], str], name: str = "model.onnx") -> Path:
    net, output = build(Recipe(after=after))
    return net.save(folder / name, output)


def test_each_node_that_takes_all_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(limits.MEMORY_VARIABLE, "1")
    inspection = inspect_confined(saved(tmp_path, greedy))
    verdicts = {row.name: row for row in inspection.rows if row.name in (*GREEDY, "tokens")}
    assert verdicts.keys() == {*GREEDY, "tokens"}
    for name, verdict in verdicts.items():
        assert verdict.status is Status.REFUSED, name
        assert "more memory than an import may (Unable to allocate" in verdict.reason, verdict
        assert f"gigabytes in {limits.MEMORY_VARIABLE} (now 1)" in verdict.remedy


def test_memory_that_no_node_is_to_blame_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file itself is larger than that."""
    monkeypatch.setenv(limits.MEMORY_VARIABLE, "0.01")
    path = saved(tmp_path, lambda _, x: x)
    model = onnx.load(path)
    weight = np.zeros(1 << 24, np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "unused"))
    onnx.save(model, path)
    with pytest.raises(UnsupportedModelError) as caught:
        import_confined(path)
    assert f"{path} takes more memory to import than the 0.01 GB" in caught.value.culprit
    assert f"set {limits.MEMORY_VARIABLE} to more than 0.01" in caught.value.remedy


# --- Time ----------------------------------------------------------------------------------------


def backtracking(net: Net, x: str) -> str:
    text = helper.make_tensor("text", TensorProto.STRING, [1], [b"a" * 64 + b"!"])
    matches = net.op(
        "RegexFullMatch", net.op("Constant", value=text), pattern="(a|aa)+", name="pattern"
    )
    return net.op("Add", x, net.op("Cast", matches, to=TensorProto.FLOAT))


def pooled_in_python(net: Net, x: str) -> str:
    data = zeros(net, 1, 1, 1 << 12, 1 << 12)
    pooled = net.op("MaxPool", data, kernel_shape=[65, 65], pads=[32] * 4, name="maxima")
    return net.op("Add", x, pooled)


def odd_equation(net: Net, x: str) -> str:
    """ONNX's shape inference never ends on it."""
    return net.op("Einsum", x, net.weight(2, 2), equation="abc.,cd", name="odd")


HANGING = {
    "at node 'pattern' (RegexFullMatch)": backtracking,
    "at node 'maxima' (MaxPool)": pooled_in_python,
    "when ONNX inferred the shapes": odd_equation,
}


@pytest.mark.slow
def test_what_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(limits.TIME_VARIABLE, "0.15")
    paths = [saved(tmp_path, after, f"{after.__name__}.onnx") for after in HANGING.values()]
    with ThreadPoolExecutor() as pool:
        errors = list(pool.map(error_of, paths))
    for place, path, error in zip(HANGING, paths, errors, strict=True):
        assert isinstance(error, UnsupportedModelError), error
        assert f"{path} takes longer to import than the 0.15 min that it may" in error.culprit
        assert place in error.culprit, error
        assert f"set {limits.TIME_VARIABLE} to more than 0.15" in error.remedy


def error_of(path: Path) -> Exception | None:
    try:
        import_confined(path)
    except VitesseraError as error:
        return error
    return None


@pytest.mark.parametrize("variable", [limits.MEMORY_VARIABLE, limits.TIME_VARIABLE])
@pytest.mark.parametrize("value", ["much", "0", "-1", "nan", "1e40", ""])
def test_limits_that_are_no_numbers(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=rf"{variable} is '{value}', not a number.*10000.*unset"):
        inspect_confined(DIGITS)


# --- What comes back -----------------------------------------------------------------------------


def test_the_result_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DIGITS.parent)
    here, there = import_model(DIGITS.name), import_confined(DIGITS.name)
    assert str(here) == str(there)
    for ours, theirs in zip(here, there, strict=True):
        for name, value in vars(ours).items():
            np.testing.assert_array_equal(value, getattr(theirs, name))


def test_errors_come_back_as_themselves(tmp_path: Path) -> None:
    broken = tmp_path / "model.onnx"
    broken.write_text("no model")
    for path in (broken, tmp_path / "none.onnx"):
        with pytest.raises(ModelFileError) as here:
            import_model(path)
        with pytest.raises(ModelFileError) as there:
            import_confined(path)
        assert (there.value.culprit, there.value.remedy) == (here.value.culprit, here.value.remedy)


def test_modules_are_not_taken_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("numpy", "onnx", "vitessera"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken from the current folder')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    assert inspect_confined(DIGITS).supported


def replaced(monkeypatch: pytest.MonkeyPatch, statement: str) -> None:
    """The process executes `statement` where the importer would begin."""
    plant = (
        "from vitessera.codegen.importer import confined\n"
        f"def planted(*_): {statement}\n"
        "confined.inspect_model = planted\n"
    )
    start, serve = confined.BOOT.split("from ", 1)
    monkeypatch.setattr(confined, "BOOT", f"{start}\n{plant}from {serve}")


def test_an_exception_that_nobody_expected_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replaced(monkeypatch, "raise TypeError('of a kind that nobody expected')")
    with pytest.raises(TypeError, match="that nobody expected") as caught:
        inspect_confined(DIGITS)
    assert "in planted" in str(caught.value.__cause__)


def test_an_exception_that_cannot_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(monkeypatch, "raise type('Local', (Exception,), {})('here alone')")
    with pytest.raises(RuntimeError, match="Local: here alone") as caught:
        inspect_confined(DIGITS)
    assert "in planted" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("statement", "how"),
    [
        ("import os; os.kill(os.getpid(), 11)", "ended by SIGSEGV"),
        ("import os; os.kill(os.getpid(), 9)", "ended by SIGKILL, as Linux does when the machine"),
        ("import os; os._exit(3)", "ended with exit code 3"),
    ],
)
def test_a_process_that_dies(monkeypatch: pytest.MonkeyPatch, statement: str, how: str) -> None:
    replaced(monkeypatch, statement)
    with pytest.raises(
        ModelFileError, match=rf"vit_digits\.onnx: the process .*{how}.*report"
    ) as e:
        inspect_confined(DIGITS)
    if "SEGV" in how:
        assert "in planted" in str(e.value.__cause__), "Python's fault handler has seen it"


def test_a_process_that_dies_of_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every library says so: some abort."""
    monkeypatch.setenv(limits.MEMORY_VARIABLE, "0.4")
    replaced(monkeypatch, "import os; kept = b'x' * 300_000_000; os.abort()")
    with pytest.raises(UnsupportedModelError, match=r"more memory to import than the 0\.4 GB"):
        inspect_confined(DIGITS)


# --- The process ends with us --------------------------------------------------------------------


def children(pid: int) -> list[int]:
    return [
        int(child)
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    ]


def is_alive(pid: int) -> bool:
    """Neither gone, nor dead and not yet waited for."""
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
            != "Z"
        )
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition: Callable[[], object]) -> bool:
    """Whether it comes true in END_SECONDS."""
    deadline = time.monotonic() + END_SECONDS
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def confined_child(pid: int) -> int | None:
    """The importer's process, if it has started and knows whom it ends with."""
    for child in children(pid):
        if f"{limits.DEFAULT_GIGABYTES * limits.GIGABYTE:.0f}" in Path(
            f"/proc/{child}/limits"
        ).read_text(encoding="utf-8"):
            return child
    return None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_process_ends_with_the_command(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "vitessera.cli.main", "inspect"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    path = saved(tmp_path, odd_equation)
    with subprocess.Popen(
        [*command, path], env=environment, stderr=subprocess.PIPE, text=True
    ) as parent:
        try:
            assert until(lambda: confined_child(parent.pid)), "the importer never started"
            child = confined_child(parent.pid)
            assert child is not None
            parent.send_signal(number)
            _, errors = parent.communicate(timeout=END_SECONDS)
            assert until(lambda: not is_alive(child)), "it outlives the command"
        finally:
            parent.kill()
    assert parent.returncode != 0
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == [path]
