"""The build cache: what is not as it was written is made anew, never used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from vitessera.codegen import hls
from vitessera.codegen.cache import cached_bytes, cached_text, keep
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.errors import OutputError
from vitessera.sim import verilator
from vitessera.sim.verilator import Design

TEXT = "module é;\nendmodule\n"
KERNEL = "axi_write_response"  # a small one


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def write_what_is_no_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe")


def remove(path: Path) -> None:
    path.unlink()


def replace_by_a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


DAMAGES = (truncate, empty, flip_a_bit, write_what_is_no_text, remove, replace_by_a_link)
Damage = Callable[[Path], None]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("VITESSERA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["kernel.v", "kernel.v.sha256"])
def test_a_text_that_is_damaged_is_made_anew(folder: Path, damage: Damage, name: str) -> None:
    made: list[str] = []

    def make() -> str:
        made.append(TEXT)
        return TEXT

    assert [cached_text("kernel.v", make) for _ in range(2)] == [TEXT, TEXT]
    assert len(made) == 1
    damage(folder / name)
    assert [cached_text("kernel.v", make) for _ in range(2)] == [TEXT, TEXT]
    assert len(made) == 2
    assert {path.name for path in folder.iterdir()} - {"elsewhere"} == {
        "kernel.v",
        "kernel.v.sha256",
    }


def test_a_text_that_another_put_there_is_not_used(folder: Path) -> None:
    (folder / "kernel.v").write_text("module other;\n")
    assert cached_text("kernel.v", lambda: TEXT) == TEXT


def test_a_folder_in_the_place_of_a_text_is_named(folder: Path) -> None:
    (folder / "kernel.v").mkdir()
    with pytest.raises(OutputError, match=r"cache .* cannot be used .*VITESSERA_CACHE"):
        cached_text("kernel.v", lambda: TEXT)


def test_a_kernel_that_is_cut_short_is_compiled_again(folder: Path) -> None:
    whole = hls.compile_kernels(HardwareConfig(), (KERNEL,))
    (path,) = folder.glob("*.v")
    path.write_text(whole[KERNEL][: len(whole[KERNEL]) // 2])
    assert hls.compile_kernels(HardwareConfig(), (KERNEL,)) == whole
    assert path.read_text() == whole[KERNEL]


# --- The simulator's binaries, without Verilator

DESIGN = Design("counter", {"counter.v": "module counter;\nendmodule\n"})
BINARY, OBJECT = b"\x7fELF binary", b"\x7fELF object"


class Tools:
    """Takes the place of Verilator and make.

    Attributes:
        calls: how often `make` was called.
        given: names of the objects that it found compiled already, of the last call.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.given: list[str] = []

    def __call__(self, design: Design, _: object, command: list[str], __: object) -> None:
        if command[0] != "make":
            Path(command[command.index("-Mdir") + 1]).mkdir()
            return
        output = Path(command[2])
        self.calls += 1
        self.given = sorted(path.name for path in output.glob("*.o"))
        assert all(path.read_bytes() == OBJECT for path in output.glob("*.o"))
        for name in ("verilated.o", "verilated_vpi.o"):
            (output / name).write_bytes(OBJECT)
        (output / design.top).write_bytes(BINARY)
        (output / design.top).chmod(0o755)


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Tools:
    tools = Tools()
    monkeypatch.setattr(verilator, "environment", lambda: {"VERILATOR_ROOT": str(tmp_path)})
    monkeypatch.setattr(verilator, "_step", tools)
    return tools


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["counter", "counter.sha256"])
def test_a_simulator_that_is_damaged_is_built_again(
    tools: Tools, folder: Path, damage: Damage, name: str
) -> None:
    built = verilator.build(DESIGN)
    assert verilator.build(DESIGN) == built
    assert (tools.calls, verilator.is_built(DESIGN)) == (1, True)
    damage(built / name)
    assert not verilator.is_built(DESIGN)
    for _ in range(2):
        assert verilator.build(DESIGN) == built
        assert (built / "counter").read_bytes() == BINARY
        assert (built / "counter").stat().st_mode & 0o111
    assert tools.calls == 2
    assert {path.name for path in built.iterdir()} == {"counter", "counter.sha256"}
    assert not list(folder.glob(".vitessera-*"))


def test_a_file_in_the_place_of_a_simulator_is_replaced(tools: Tools, folder: Path) -> None:
    built = verilator.build(DESIGN)
    (built / "counter").unlink()
    (built / "counter.sha256").unlink()
    built.rmdir()
    built.write_text("a file")
    assert verilator.build(DESIGN) == built
    assert (built / "counter").read_bytes() == BINARY
    assert tools.calls == 2
    assert not list(folder.glob(".vitessera-*"))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["verilated.o", "verilated.o.sha256"])
def test_a_runtime_that_is_damaged_is_compiled_again(
    tools: Tools, folder: Path, damage: Damage, name: str
) -> None:
    def build_another(text: str) -> list[str]:
        verilator.build(Design("counter", {"counter.v": text}))
        return tools.given

    assert build_another("a") == []
    assert build_another("b") == ["verilated.o", "verilated_vpi.o"]
    (runtime,) = folder.glob("runtime-*")
    damage(runtime / name)
    assert build_another("c") == ["verilated_vpi.o"]
    assert build_another("d") == ["verilated.o", "verilated_vpi.o"]
    assert cached_bytes(runtime / "verilated.o") == OBJECT


def test_what_is_kept_is_found(folder: Path) -> None:
    assert cached_bytes(folder / "x") is None
    for content in (b"one", b"", b"two"):
        keep(folder / "x", content)
        assert cached_bytes(folder / "x") == content
