"""Work that takes minutes says how far it is, on a terminal and in a log."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from vitessera.cli import stages as stages_module
from vitessera.cli.stages import Stages, progress, shown_stages
from vitessera.codegen import children, hls, synthesis
from vitessera.codegen.boards import BOARDS
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.progress import Step, listening, tell

Clock = Callable[[float], None]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Sets the time that the stages see."""
    now = [100.0]
    monkeypatch.setattr(stages_module.time, "monotonic", lambda: now[0])

    def to(seconds: float) -> None:
        now[0] = 100.0 + seconds

    return to


def steps(done: int) -> Step:
    return Step("build", done, 8, "files")


def test_a_log_gets_a_line_at_the_start_and_every_ten_seconds(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with shown_stages():
        for second in range(0, 31, 3):
            clock(second)
            tell(steps(done=second // 6))
    assert capsys.readouterr().err.splitlines() == [
        "  build: 0 of 8 files, 0 s",
        "  build: 2 of 8 files, 12 s; about 36 s more",
        "  build: 4 of 8 files, 24 s; about 24 s more",
        "  build                               30.0 s",
    ]


def test_work_that_is_soon_done_says_only_how_long_it_took(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with shown_stages():
        for done in range(1, 9):
            clock(done / 10)
            tell(steps(done))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.split() == ["build", "0.7", "s"]


def test_a_terminal_shows_it_in_place(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    shown = Stages()
    for second in range(3):
        clock(second)
        shown.step(steps(done=second))
    shown.finish()
    lines = capsys.readouterr().err.replace("\n", "\r").split("\r")
    assert [line.rstrip() for line in lines if line] == [
        "  build ...",
        "  build: 0 of 8 files, 0 s",
        "  build: 1 of 8 files, 1 s; about 7 s more",
        "  build: 2 of 8 files, 2 s; about 6 s more",
        "  build                                2.0 s",
    ]
    assert len(lines[-2]) >= max(map(len, lines)), "or what was there before shows behind it"


def test_what_is_not_counted_still_says_how_long_it_takes() -> None:
    assert progress(Step("translate the RTL"), 12) == "translate the RTL: 12 s"
    named = Step("synthesise", 0, 25, "modules", "softmax")
    assert progress(named, 3) == "synthesise: 0 of 25 modules, 3 s, now softmax"


def test_every_kernel_is_counted() -> None:
    told: list[Step] = []
    names = ("store_pack", "axi_write_data", "axi_write_response")
    with listening(told.append):
        hls.compile_kernels(HardwareConfig(tile=4, depth=4, lanes=4), names)
    assert told == [Step("compile HLS kernels", done, 3, "kernels") for done in (1, 2, 3)]


def test_every_module_is_named_before_it_is_synthesised(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Step] = []
    netlists = {"modules": {}, "instances": {"core": {}, "accelerator": {"shell": "shell"}}}
    monkeypatch.setattr(synthesis, "_yosys_version", lambda: "0")
    monkeypatch.setattr(synthesis, "cached_text", lambda *_: "{}")
    monkeypatch.setattr(synthesis.json, "loads", lambda _: netlists)
    monkeypatch.setattr(synthesis, "_module", lambda *_: synthesis.total(()))
    files = {f"{kernel.name}.v": "module x();" for kernel in hls.KERNELS}
    with listening(told.append):
        synthesis.synthesise(files, BOARDS["pynq-z2"])
    assert [step.part for step in told] == [*(kernel.name for kernel in hls.KERNELS), "frame"]
    assert [step.done for step in told] == list(range(len(hls.KERNELS) + 1))


def test_a_program_that_runs_is_looked_at_meanwhile(tmp_path: Path) -> None:
    looked = tmp_path / "looked"
    waiting = f"while [ ! -e '{looked}' ]; do sleep 0.05; done"
    assert children.run(["sh", "-c", waiting], meanwhile=looked.touch).returncode == 0


def test_on_a_narrow_terminal_no_line_is_wrapped(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    shown = Stages()
    for second in range(3):
        clock(second)
        shown.step(Step("build the simulator", second, 8, "C++ files", "softmax"))
    shown.finish()
    parts = capsys.readouterr().err.replace("\n", "\r").split("\r")
    assert max(map(len, parts)) < max(40, len("  build the simulator") + 24)


def test_nobody_needs_to_listen() -> None:
    tell(steps(done=1))
