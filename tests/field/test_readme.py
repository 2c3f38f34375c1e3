"""README.md's own steps, followed by somebody with a model of timm's and pictures of any size."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vitessera.cli.main import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CLASSES = 1000
# The environments that `make test` sets up for the host's program.
HOSTS = [path / "bin" / "vitessera" for path in sorted(ROOT.glob(".venv-pynq*"), reverse=True)]


def section() -> str:
    (found,) = re.findall(r"^## With your own model\n(.*?)^## ", README, re.M | re.S)
    return str(found)


def snippet() -> str:
    (found,) = re.findall(r"^```python\n(.*?)^```", section(), re.M | re.S)
    return str(found)


def commands() -> dict[str, list[str]]:
    """Arguments of each `vitessera` command, by the command's name; the last of each name."""
    text = section().replace("\\\n", " ")
    lines = re.findall(r"^    \.venv/bin/vitessera (.*)$", text, re.M)
    return {line.split()[0]: shlex.split(line, comments=True) for line in reversed(lines)}


def test_what_it_installs_is_there_to_be_installed() -> None:
    extras = {
        name for found in re.findall(r"-e '\.\[(.*?)\]'", README) for name in found.split(",")
    }
    declared = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text("utf-8"), re.M)
    assert extras and extras <= set(declared)


def follow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Does what the section says up to the simulation; only the model is smaller, and untrained."""
    sys.path.append(str(ROOT / "tests" / "zoo"))
    import pipeline

    assert pipeline.TORCHVISION, "without it timm may not be importable"
    import timm

    whole: Callable[..., Any] = timm.create_model

    def small(name: str, *, pretrained: bool) -> Any:  # noqa: ANN401
        assert pretrained
        return whole(name, pretrained=False, depth=1, embed_dim=32, num_heads=2)

    monkeypatch.setattr(timm, "create_model", small)
    monkeypatch.chdir(folder)
    exec(compile(snippet(), "README.md", "exec"), {"__name__": "readme"})
    for name in ("inspect", "compile", "simulate", "report"):
        assert main(commands()[name]) == 0, name


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the section has been followed."""
    if not importlib.util.find_spec("timm"):
        pytest.skip("timm is not installed: pip install 'vitessera[zoo]'")
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path_factory.mktemp("readme")
    (folder / "pictures").mkdir()
    random = np.random.default_rng(0)
    for number, shape in enumerate(((300, 260), (240, 500), (180, 90))):
        pixels = random.integers(0, 256, (*shape, 3), np.uint8)
        image.fromarray(pixels).save(folder / "pictures" / f"{number}.jpg")
    shutil.copy(folder / "pictures" / "1.jpg", folder / "cat.jpg")
    with pytest.MonkeyPatch.context() as monkeypatch:
        follow(folder, monkeypatch)
    return folder


@pytest.mark.export
@pytest.mark.accelerator
def test_a_model_as_the_snippet_exports_it_is_simulated(followed: Path) -> None:
    assert (followed / "build" / "my" / "simulation.json").is_file()
    assert (followed / "t.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.export
@pytest.mark.accelerator
@pytest.mark.skipif(not HOSTS, reason="no environment with pynq: `make test` sets them up")
def test_the_picture_gets_a_label(followed: Path) -> None:
    command = [HOSTS[0], *commands()["run"]]
    ended = subprocess.run(command, cwd=followed, capture_output=True, encoding="utf-8")
    assert ended.returncode == 0, ended.stderr
    classes = (followed / "classes.txt").read_text(encoding="utf-8").splitlines()
    assert len(classes) == CLASSES
    (label,) = re.findall(r"^cat\.jpg  (.*) \d+\.\d%$", ended.stdout, re.M)
    assert label in classes
