"""docs/board.md quotes messages as the host has them, and shows a run by hand that works."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_support import NO_PYNQ, Open
from vitessera.codegen.vivado.design import ACCELERATOR, VIVADO_VERSIONS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "board.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    """The text below a heading."""
    return re.split(r"^#+ .*$", PAGE.split(f"\n## {heading}\n")[1], flags=re.M)[0]


def messages(heading: str) -> list[str]:
    """What the first column of the section's table quotes."""
    cells = re.findall(r"^\| (.*?) \|", section(heading), re.M)
    return [quoted for cell in cells for quoted in re.findall(r"`([^`]+)`", cell)]


def literals() -> list[str]:
    """All string literals of the host; what an f-string fills in is a NUL."""
    found = []
    for path in (ROOT / "host").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(_text(part) for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def _text(part: ast.expr) -> str:
    return str(part.value) if isinstance(part, ast.Constant) else "\0"


@pytest.mark.parametrize("message", messages("When it fails"))
def test_messages_are_the_host_s(message: str) -> None:
    parts = [re.escape(part.strip()) for part in message.split("...")]
    pattern = re.compile(r"\s*\0?\s*".join(parts))
    assert any(pattern.search(literal) for literal in literals()), f"no message reads {message!r}"


def test_the_table_is_read() -> None:
    assert len(messages("When it fails")) > 15


def test_vivado_s_versions() -> None:
    assert f"{VIVADO_VERSIONS[0]} to {VIVADO_VERSIONS[-1]}" in PAGE


def test_the_accelerator_s_name_in_the_overlay() -> None:
    assert f"overlay.{ACCELERATOR}.register_map" in PAGE


def by_hand() -> str:
    """The program that runs the accelerator without our driver."""
    blocks = re.findall(r"(?:^    .*\n|^\n)+", section("More"), re.M)
    (found,) = [block for block in blocks if "register_map" in block]
    return re.sub(r"^    ", "", found, flags=re.M).strip()


@pytest.mark.pynq
@pytest.mark.accelerator
def test_a_run_by_hand(
    open_board: Open,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pynq = pytest.importorskip("pynq", reason=NO_PYNQ)
    from vitessera.sim.board import SimulatedBoard

    with open_board() as acc:
        black = np.zeros(acc.model.image, np.float32)
        expected, cycles = acc.run(black)["logits"][0], acc.profile().cycles
    program = by_hand()
    (name,) = re.findall(r'Path\("(.*)"\)', program)
    (tmp_path / name).symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    device, overlay = SimulatedBoard(folder), pynq.Overlay
    monkeypatch.setattr(pynq, "Overlay", lambda _: overlay(str(device.overlay_file), device=device))
    space: dict[str, Any] = {}
    exec(program, space)
    assert capsys.readouterr().out.startswith(f"0 {cycles}\n")
    buffers, model = space["buffers"], space["model"]
    assert np.array_equal(model.unpack(np.array(buffers["OUTPUT"]))["logits"], expected)
    for buffer in buffers.values():
        buffer.freebuffer()
    device.close()
