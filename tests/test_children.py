"""Programs that we start, and folders that we make, end with us: however we end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from vitessera.codegen import children
from vitessera.codegen.scratch import ScratchFolder, sweep

PATIENCE_SECONDS = 120

# A program that starts another, says so in a file, and goes on for as long as it is let.
TREE = """
import os, pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(10000)"])
made = pathlib.Path(sys.argv[1])
made.with_suffix(".new").write_text(f"{os.getpid()} {child.pid}")
made.with_suffix(".new").rename(made)
time.sleep(10000)
"""


class Interrupted(BaseException):
    """What a signal raises."""


def until(condition: Callable[[], object]) -> None:
    """Waits for something that must come about."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def gone(process: int) -> bool:
    """Whether a process has ended; one that nobody has asked for its exit code counts."""
    try:
        state = (
            Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        )
    except FileNotFoundError:
        return True
    return state == "Z"


def started(pids: Path) -> list[int]:
    until(pids.exists)
    return [int(word) for word in pids.read_text(encoding="utf-8").split()]


def script(tmp_path: Path, text: str) -> subprocess.Popen[bytes]:
    """A process of ours, with a temporary folder of its own."""
    folder = tmp_path / "temporary"
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(folder)}
    return subprocess.Popen([sys.executable, "-c", text], env=environment)


# --- Programs


def test_a_program_gives_its_result(tmp_path: Path) -> None:
    code = "import sys; print(sys.argv[1]); print('x', file=sys.stderr); sys.exit(3)"
    done = children.run([sys.executable, "-c", code, "a b\n"], cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (3, "a b\n\n", "x\n")
    with (tmp_path / "log").open("w") as log:
        done = children.run(["pwd"], cwd=tmp_path, log=log, env={"PATH": os.environ["PATH"]})
    assert (done.returncode, done.stdout) == (0, None)
    assert (tmp_path / "log").read_text() == f"{tmp_path}\n"


def test_a_program_that_a_signal_ends() -> None:
    code = "import os; os.kill(os.getpid(), 9)"
    assert children.run([sys.executable, "-c", code]).returncode == 128 + signal.SIGKILL


def test_a_program_that_is_not_there() -> None:
    done = children.run(["/no/such/program"])
    assert done.returncode == 127 and "/no/such/program" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_program_ends_with_the_process_that_ran_it(tmp_path: Path, number: int) -> None:
    pids = tmp_path / "pids"
    ours = script(
        tmp_path,
        f"""if True:
        import sys
        from vitessera.codegen import children
        children.run([sys.executable, "-c", {TREE!r}, {str(pids)!r}])
        """,
    )
    program, grandchild = started(pids)
    assert not gone(program) and not gone(grandchild)
    ours.send_signal(number)
    ours.wait(PATIENCE_SECONDS)
    until(lambda: gone(program) and gone(grandchild))


def test_a_program_ends_with_the_call_that_ran_it(tmp_path: Path) -> None:
    def interrupt(_: int, __: object) -> None:
        raise Interrupted

    pids = tmp_path / "pids"
    before = signal.signal(signal.SIGUSR1, interrupt)
    # Sends the signal once the program and what it started are there.
    code = f"""if True:
    import os, pathlib, signal, time
    while not pathlib.Path({str(pids)!r}).exists():
        time.sleep(0.05)
    os.kill({os.getpid()}, signal.SIGUSR1)
    """
    sender = subprocess.Popen([sys.executable, "-c", code])
    try:
        with pytest.raises(Interrupted):
            children.run([sys.executable, "-c", TREE, str(pids)])
        program, grandchild = started(pids)
        until(lambda: gone(program) and gone(grandchild))
    finally:
        sender.wait()
        signal.signal(signal.SIGUSR1, before)


POOL = """if True:
    import os, pathlib, time
    from vitessera.codegen import children
    def work(number):
        made = pathlib.Path({folder!r}, f"{{number}}.new")
        made.write_text(str(os.getpid()))
        made.rename(made.with_suffix(""))
        time.sleep(10000)
    with children.pool(2) as pool:
        list(pool.map(work, [1, 2, 3, 4]))
"""


def test_the_processes_of_a_pool_end_with_ours(tmp_path: Path) -> None:
    ours = script(tmp_path, POOL.format(folder=str(tmp_path)))
    until(lambda: all((tmp_path / name).exists() for name in ("1", "2")))
    workers = [int((tmp_path / name).read_text()) for name in ("1", "2")]
    ours.kill()
    ours.wait()
    until(lambda: all(map(gone, workers)))


def test_a_pool_does_not_wait_for_what_nobody_wants() -> None:
    before = multiprocessing.active_children()
    with pytest.raises(ZeroDivisionError), children.pool(2) as pool:
        for _ in range(4):
            pool.submit(time.sleep, 10_000)
        raise ZeroDivisionError
    assert multiprocessing.active_children() == before


# --- Folders


def test_a_folder_goes_with_its_block(tmp_path: Path) -> None:
    with ScratchFolder(tmp_path) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_text("x")
        assert folder.parent == tmp_path
    assert not list(tmp_path.iterdir())
    made = ScratchFolder(tmp_path)
    made.cleanup()
    made.cleanup()
    assert not list(tmp_path.iterdir())


def test_folders_of_the_dead_are_swept_and_no_others(tmp_path: Path) -> None:
    hold = """if True:
        import sys, time
        from pathlib import Path
        from vitessera.codegen.scratch import ScratchFolder
        with ScratchFolder(Path({place!r})) as folder:
            (folder / "file").write_text("x")
            time.sleep(10000)
    """
    place = tmp_path / "place"
    place.mkdir()
    ours = script(tmp_path, hold.format(place=str(place)))
    until(lambda: list(place.glob("*/file")))
    (folder,) = place.iterdir()
    foreign = [place / ".vitessera-mine", place / "vitessera-1-abcdefgh", place / ".vitessera"]
    for path in foreign:
        path.mkdir()
    (linked := tmp_path / "linked").mkdir()
    dead = f".vitessera-{2**22 + 1}-abcdefg"  # above all process numbers
    (place / f"{dead}h").symlink_to(linked)
    (place / f"{dead}i").write_text("a file")
    kept = {*foreign, place / f"{dead}h", place / f"{dead}i"}
    sweep(place)
    assert set(place.iterdir()) == {folder, *kept}  # it is in use
    ours.kill()
    ours.wait()
    with ScratchFolder(place) as mine:
        assert set(place.iterdir()) == {mine, *kept}
    assert linked.exists()


def test_a_folder_that_another_container_uses_is_not_swept(tmp_path: Path) -> None:
    with ScratchFolder(tmp_path) as folder:
        # Its process has another number there, which here is nobody's.
        renamed = folder.rename(tmp_path / f".vitessera-{2**22 + 1}-abcdefgh")
        sweep(tmp_path)
        assert renamed.exists()
        renamed.rename(folder)
