"""The notebook: delivered by PYNQ, executed without a browser, on the simulated RTL."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from fnmatch import fnmatch
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from host_support import DIGITS, NO_PYNQ
from packaging.requirements import Requirement
from vitessera.codegen.builddir import read_build, write_build
from vitessera.host import notebooks

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
NAME = "vitessera"
GROUP = "pynq.notebooks"
FILE = "vitessera.ipynb"
SOURCE = ROOT / "host" / "notebooks"
IMAGES = sorted(path.name for path in (SOURCE / "digits").glob("*.png"))
KERNEL_SECONDS = 600  # that a cell may take: the first one may build the simulator

# Runs before the notebook: counts how its runs are waited for.
COUNTING = """
from types import SimpleNamespace as _Namespace
import time as _time
import pynq.interrupt as _interrupt
import vitessera.host.driver as _driver

_counts = {"arrived": 0, "polled": 0}
_wait = _interrupt.Interrupt.wait

async def _counted(self):
    await _wait(self)
    _counts["arrived"] += 1

def _sleep(seconds):
    _counts["polled"] += 1
    _time.sleep(seconds)

_interrupt.Interrupt.wait = _counted
_driver.time = _Namespace(sleep=_sleep)
"""
COUNTED = "print('counted', _counts['arrived'], _counts['polled'], acc._driver._interrupt_works)"

Notebook = Any  # nbformat has no types


def content(path: Path = SOURCE / FILE) -> dict[str, Any]:
    """A notebook as JSON."""
    return dict(json.loads(path.read_text(encoding="utf-8")))


# --- The file


def test_no_outputs_are_committed() -> None:
    cells = content()["cells"]
    assert len(cells) > 10
    for cell in cells:
        assert not cell.get("outputs"), f"cell {cell['id']} has outputs: clear them before a commit"
        assert cell.get("execution_count") is None, f"cell {cell['id']} was executed"
        assert not cell["metadata"], f"cell {cell['id']} carries {cell['metadata']}"


def test_nothing_names_a_machine() -> None:
    notebook = content()
    assert notebook["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert not re.search(r"/home/|/root|/usr/|[A-Z]:\\\\", (SOURCE / FILE).read_text())


# --- Delivery


def test_the_package_takes_every_file_along() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    package = setup["project"]["entry-points"][GROUP][NAME]
    tools = setup["tool"]["setuptools"]
    assert package in tools["packages"]
    patterns = tools["package-data"][package]
    left = [
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc"}
    ]
    assert FILE in left
    assert len(left) == 1 + len(IMAGES)
    forgotten = [name for name in left if not any(fnmatch(name, entry) for entry in patterns)]
    assert not forgotten, f"pyproject.toml's package-data does not name {forgotten}"


def test_pynq_images_meet_the_requirements() -> None:
    """Or `pynq get-notebooks` refuses, even after an installation without dependencies."""
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (needed,) = map(Requirement, setup["project"]["dependencies"])
    assert needed.name == "numpy"
    assert needed.specifier.contains("1.21.5")  # of Ubuntu 22.04, on which PYNQ 3 builds


def installed() -> ModuleType:
    """What the entry point of the installed package leads to."""
    found = [entry for entry in entry_points(group=GROUP) if entry.name == NAME]
    assert found, (
        f"no entry point {NAME!r} in {GROUP}: install the package again (pip install -e .)"
    )
    module = found[0].load()
    assert isinstance(module, ModuleType)
    return module


def test_the_installed_package_has_notebook_and_images() -> None:
    from importlib.resources import files

    assert installed().__name__ == notebooks.__name__
    folder = files(installed())
    assert folder.joinpath(FILE).is_file()
    assert len(IMAGES) == 10
    for name in IMAGES:
        assert (
            folder.joinpath("digits", name).read_bytes() == (SOURCE / "digits" / name).read_bytes()
        )


@pytest.fixture(scope="session")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `pynq get-notebooks vitessera` puts them."""
    pytest.importorskip("pynq", reason=NO_PYNQ)
    installed()
    target = tmp_path_factory.mktemp("jupyter")
    command = "from pynq._cli.get_notebooks import main; main()"
    arguments = [NAME, "--ignore-overlays", "--path", str(target)]
    done = subprocess.run(
        [sys.executable, "-c", command, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return target / NAME


@pytest.mark.pynq
def test_pynq_delivers_them(delivered: Path) -> None:
    found = {path.relative_to(delivered).as_posix() for path in delivered.rglob("*")}
    assert found == {FILE, "digits", *(f"digits/{name}" for name in IMAGES)}


# --- Execution


def execute(folder: Path, build: Path, monkeypatch: pytest.MonkeyPatch) -> Notebook:
    """The notebook in `folder` with its outputs, and a last cell that says how it waited."""
    nbclient = pytest.importorskip("nbclient", reason="pip install 'vitessera[notebook]'")
    nbformat = pytest.importorskip("nbformat", reason="pip install 'vitessera[notebook]'")
    pytest.importorskip("ipykernel", reason="pip install 'vitessera[notebook]'")
    monkeypatch.setenv("VITESSERA_BUILD", str(build))
    notebook = nbformat.read(folder / FILE, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(COUNTING))
    notebook.cells.insert(-1, nbformat.v4.new_code_cell(COUNTED))  # before the one that closes
    client = nbclient.NotebookClient(
        notebook,
        timeout=KERNEL_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    return notebook


def printed(notebook: Notebook) -> str:
    """All that the cells wrote."""
    return "".join(
        output["text"]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output["output_type"] == "stream"
    )


def labels(text: str, how: str) -> dict[str, str]:
    """File name → label, from the lines that begin with `how` and the name."""
    return dict(re.findall(rf"^{how}(digit-\d\.png): (\S+) \(\d+\.\d%\)$", text, re.M))


# What each file shows stands in its name.
CLASSES = json.loads((DIGITS / "config.json").read_text(encoding="utf-8"))["id2label"]
RIGHT = {name: CLASSES[re.findall(r"\d", name)[0]] for name in IMAGES}


@pytest.mark.pynq
@pytest.mark.accelerator
def test_every_cell_runs(delivered: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = execute(delivered, folder, monkeypatch)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    text = printed(notebook)
    assert labels(text, "") == RIGHT
    assert labels(text, "awaited ") == RIGHT
    assert "share of MAC peak" in text
    # Wall time is the simulator's, and nothing that an image takes.
    assert re.search(r"^10 images in \d+\.\d+ s by the simulator$", text, re.M)
    assert re.search(r"^the accelerator itself: [\d,]+ cycles .* ms at 100 MHz$", text, re.M)
    assert "ms an image" not in text
    assert "Warning" not in text
    pictures = [
        output for cell in code for output in cell.outputs if "image/png" in output.get("data", {})
    ]
    assert len(pictures) >= 2
    counted = re.search(r"^counted (\d+) (\d+) True$", text, re.M)
    assert counted, text
    arrived, polled = map(int, counted.groups())
    assert arrived >= len(IMAGES), "await did not use the interrupt"
    assert polled > 0, "blocking calls did not poll"
    ticks = re.search(r"ran (\d+) times", text)
    assert ticks and int(ticks[1]) > len(IMAGES), "the event loop stood still"


@pytest.mark.pynq
@pytest.mark.accelerator
def test_wrong_results_are_noticed(
    delivered: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With weights that are all zero; so the test above would fail if the accelerator did.

    The images are somebody's own, in a folder elsewhere.
    """
    wrong, album = tmp_path / "build", tmp_path / "album"
    build = read_build(folder)
    zeros = bytes(len(build.program.weights))
    write_build(replace(build, program=replace(build.program, weights=zeros)), wrong)
    album.mkdir()
    for name in IMAGES[:2]:
        shutil.copy(delivered / "digits" / name, album)
    monkeypatch.setenv("VITESSERA_IMAGES", str(album))
    text = printed(execute(delivered, wrong, monkeypatch))
    for how in ("", "awaited "):
        found = labels(text, how)
        assert list(found) == IMAGES[:2]
        assert found != {name: RIGHT[name] for name in IMAGES[:2]}
