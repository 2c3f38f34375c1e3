"""`vitessera run`: what it prints and writes; and on the simulated RTL, through pynq."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import DIGITS, Command, Outcome, assert_refused
from host_support import SMALL, vouch
from vitessera.cli import run as run_command
from vitessera.cli.main import main
from vitessera.codegen.builddir import read_build
from vitessera.codegen.outputfile import OutputFile
from vitessera.codegen.program import save_program
from vitessera.codegen.reference import Reference
from vitessera.codegen.registers import COUNTERS
from vitessera.host import Profile
from vitessera.host.build import read_compiled
from vitessera.host.tail import Tail

PICTURES = Path(__file__).parents[2] / "host" / "notebooks" / "digits"
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NO_PILLOW = "Pillow is not installed: pip install pillow"


@pytest.fixture(scope="module")
def small_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits model on the accelerator that the tests of the host simulate."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "small.json").write_text(SMALL.to_json())
    arguments = ["--config", str(folder / "small.json"), "-o", str(folder / "build")]
    calibration = ["--calibration", str(DIGITS / "digits.npz")]
    assert main(["compile", str(DIGITS / "vit_digits.onnx"), *arguments, *calibration]) == 0
    return folder / "build"


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Four images with labels, the last of which is wrong."""
    with np.load(DIGITS / "digits.npz") as content:
        images, labels = content["images"][:4], content["labels"][:4].copy()
    labels[3] = (labels[3] + 1) % 10
    np.savez(tmp_path / "few.npz", images=images, labels=labels)
    return tmp_path / "few.npz"


@pytest.fixture
def rows(damaged: Path) -> Path:
    """A build directory whose output has two rows, so that it is no classifier."""
    with np.load(damaged / "program" / "layout.npz") as content:
        tables = dict(content)
    tables["output_0_index"] = np.repeat(tables["output_0_index"], 2, axis=0)
    np.savez(damaged / "layout.npz", **tables)
    vouch(damaged, "program/layout.npz", (damaged / "layout.npz").read_bytes())
    return damaged


# --- What is printed and written, with outputs by the integer reference


class OnTheReference:
    """Takes the place of Accelerator."""

    def __init__(self, folder: Path, **options: Any) -> None:  # noqa: ANN401
        self.model = read_compiled(folder)
        self.program = read_build(folder).program
        self.options = options

    def __enter__(self) -> OnTheReference:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(
        self,
        images: np.ndarray,
        progress: Callable[[int], None],
        finished: list[dict[str, np.ndarray]] | None = None,
    ) -> dict[str, np.ndarray]:
        results = [] if finished is None else finished
        for number, image in enumerate(images, 1):
            left = Reference(self.program).run_buffer(self.model.pack(image).tobytes())
            results.append(self.model.unpack(np.frombuffer(left, np.uint8)))
            progress(number)
        return {name: np.stack([entry[name] for entry in results]) for name in results[0]}

    def profile(self) -> Profile:
        return Profile.of(self.model, {counter.name: 1234 for counter in COUNTERS})


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[OnTheReference]:
    """Puts the reference in the accelerator's place; what has been opened."""
    made: list[OnTheReference] = []

    def make(folder: Path, **options: Any) -> OnTheReference:  # noqa: ANN401
        made.append(OnTheReference(folder, **options))
        return made[-1]

    monkeypatch.setattr(run_command, "Accelerator", make)
    return made


def test_a_line_for_each_image_of_a_set(
    command: Command, digits_build: Path, few: Path, opened: list[OnTheReference]
) -> None:
    outcome = command("run", digits_build, few)
    assert outcome.code == 0, outcome.errors
    with np.load(few) as content:
        truths = content["labels"]
    *lines, share = outcome.output.splitlines()
    assert len(lines) == 4
    for index, line in enumerate(lines[:3]):
        item, name, probability = line.split()
        assert (item, name) == (f"{few}[{index}]", NAMES[truths[index]])
        assert 50 < float(probability.removesuffix("%")) <= 100
    assert NAMES[truths[3] - 1] in lines[3]
    assert share == "top-1 accuracy 75.00% of 4 labelled images"
    assert len(opened) == 1


@pytest.mark.usefixtures("opened")
def test_a_line_for_each_image_file(command: Command, digits_build: Path, few: Path) -> None:
    pytest.importorskip("PIL", reason=NO_PILLOW)
    pictures = [PICTURES / f"digit-{digit}.png" for digit in (7, 0, 3)]
    outcome = command("run", digits_build, *pictures, "--top", 3)
    assert outcome.code == 0, outcome.errors
    lines = [line.split() for line in outcome.output.splitlines()]
    assert [line[:2] for line in lines] == [
        [str(picture), name]
        for picture, name in zip(pictures, ("seven", "zero", "three"), strict=True)
    ]
    for line in lines:
        shares = [float(text.removesuffix("%")) for text in line[2::2]]
        assert len(shares) == 3
        assert shares == sorted(shares, reverse=True)
    mixed = command("run", digits_build, pictures[0], few, "--top", 99)
    first, *_, share = mixed.output.splitlines()
    assert len(first.split()) == 1 + 2 * len(NAMES)
    assert share == "top-1 accuracy 75.00% of 4 labelled images"


@pytest.mark.usefixtures("opened")
def test_without_labels_there_is_no_accuracy(
    command: Command, digits_build: Path, tmp_path: Path
) -> None:
    with np.load(DIGITS / "digits.npz") as content:
        np.save(tmp_path / "one.npy", content["images"][0])
    outcome = command("run", digits_build, tmp_path / "one.npy", "--profile")
    assert outcome.code == 0, outcome.errors
    assert outcome.output.startswith(f"{tmp_path}/one.npy[0]  ")
    assert "accuracy" not in outcome.output
    assert "cycles an image     1,234" in outcome.output


def test_what_goes_into_files(
    command: Command,
    digits_build: Path,
    few: Path,
    tmp_path: Path,
    opened: list[OnTheReference],
) -> None:
    saved, written = tmp_path / "outputs", tmp_path / "result.json"
    outcome = command("run", digits_build, few, "--outputs", saved, "--json", written, "--top", 2)
    assert outcome.code == 0, outcome.errors
    with np.load(few) as content:
        images, truths = content["images"], content["labels"].tolist()
    with np.load(saved) as content:
        assert content.files == ["logits"]
        logits = content["logits"]
    expected = opened[0].run(images, lambda _: None)["logits"]
    assert np.array_equal(logits, expected)
    result = json.loads(written.read_text())
    assert (result["model"], result["device"]) == ("vit_digits.onnx", "simulated RTL")
    assert (result["accuracy"], result["counters"]["CYCLES"]) == (0.75, 1234)
    assert [entry["truth"] for entry in result["images"]] == truths
    assert [entry["index"] for entry in result["images"]] == [0, 1, 2, 3]
    for entry, scores in zip(result["images"], expected[:, 0], strict=True):
        first, second = entry["classes"]
        shares = np.exp(scores) / np.exp(scores).sum()
        assert first["class"] == scores.argmax()
        assert first["label"] == NAMES[first["class"]]
        assert first["probability"] == pytest.approx(shares.max())
        assert second["probability"] == pytest.approx(np.sort(shares)[-2])


def test_a_model_that_is_no_classifier(
    command: Command, rows: Path, few: Path, tmp_path: Path, opened: list[OnTheReference]
) -> None:
    """Several rows are no scores of an image's classes: their numbers are shown as they are."""
    outcome = command("run", rows, few, "--outputs", tmp_path / "out.npz", "--json", tmp_path / "j")
    assert outcome.code == 0, outcome.errors
    values = opened[0].run(np.load(few)["images"], lambda _: None)["logits"]
    assert len(outcome.output.splitlines()) == 4
    for number, line in enumerate(outcome.output.splitlines()):
        norm, first = np.linalg.norm(values[number]), values[number].ravel()[:8]
        numbers = "  ".join(f"{value:.4g}" for value in first)
        assert line == f"{few}[{number}]  2 x 10, norm {norm:.4g}: {numbers} ..."
    with np.load(tmp_path / "out.npz") as content:
        assert content["logits"].shape == (4, 2, 10)
    assert json.loads((tmp_path / "j").read_text())["accuracy"] is None


def recorded(folder: Path, **task: object) -> Path:
    """The build directory, whose result means what `task` says."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["tasks"] = {"logits": {"kind": "classes", "last": "nothing", "grid": [0, 0]} | task}
    path.write_text(json.dumps(manifest))
    return folder


def test_independent_labels_have_probabilities_of_their_own(
    command: Command, damaged: Path, few: Path, tmp_path: Path, opened: list[OnTheReference]
) -> None:
    build = recorded(damaged, kind="labels", last="sigmoid")
    outcome = command("run", build, few, "--json", tmp_path / "j")
    assert outcome.code == 0, outcome.errors
    values = opened[0].run(np.load(few)["images"], lambda _: None)["logits"][:, 0]
    result = json.loads((tmp_path / "j").read_text())
    assert (result["task"], result["accuracy"]) == ("labels", None)
    assert "accuracy" not in outcome.output
    for entry, scores, line in zip(
        result["images"], values, outcome.output.splitlines(), strict=True
    ):
        expected = np.flatnonzero(scores >= 0.0)
        assert {found["class"] for found in entry["labels"]} == {*expected, scores.argmax()}
        for found in entry["labels"]:
            share = 1.0 / (1.0 + np.exp(-scores[found["class"]]))
            assert found["probability"] == pytest.approx(share)
            assert f"{NAMES[found['class']]} {share:.1%}" in line


def test_probabilities_are_not_taken_for_scores_again(
    command: Command, damaged: Path, few: Path, tmp_path: Path, opened: list[OnTheReference]
) -> None:
    """A network that was left its softmax gives them itself."""
    outcome = command("run", recorded(damaged), few, "--json", tmp_path / "j")
    assert outcome.code == 0, outcome.errors
    values = opened[0].run(np.load(few)["images"], lambda _: None)["logits"][:, 0]
    for entry, scores in zip(
        json.loads((tmp_path / "j").read_text())["images"], values, strict=True
    ):
        assert entry["classes"][0]["probability"] == pytest.approx(scores.max())


def test_scores_are_shown_as_they_are(
    command: Command, damaged: Path, few: Path, opened: list[OnTheReference]
) -> None:
    """Of a regression, say: no percentages, though one number were all there is."""
    outcome = command("run", recorded(damaged, kind="scores"), few)
    assert outcome.code == 0, outcome.errors
    values = opened[0].run(np.load(few)["images"], lambda _: None)["logits"][:, 0]
    assert "%" not in outcome.output
    for scores, line in zip(values, outcome.output.splitlines(), strict=True):
        words = [f"{name} {score:.4g}" for name, score in zip(NAMES[:8], scores[:8], strict=True)]
        assert line.split("  ", 1)[1] == "  ".join([*words, "..."])


def test_a_map_is_saved_as_a_picture(
    command: Command, damaged: Path, few: Path, tmp_path: Path, opened: list[OnTheReference]
) -> None:
    image = pytest.importorskip("PIL.Image", reason=NO_PILLOW)
    with np.load(damaged / "program" / "layout.npz") as content:
        tables = dict(content)
    tables["output_0_index"] = tables["output_0_index"].T.copy()  # ten rows of one number
    tables["output_0_scale"] = tables["output_0_scale"][:1]
    np.savez(damaged / "layout.npz", **tables)
    vouch(damaged, "program/layout.npz", (damaged / "layout.npz").read_bytes())
    recorded(damaged, kind="map", grid=[2, 5])
    outcome = command("run", damaged, few, "--picture", tmp_path / "maps.png")
    assert outcome.code == 0, outcome.errors
    values = opened[0].run(np.load(few)["images"], lambda _: None)["logits"].reshape(4 * 2, 5)
    low, high = values.min(), values.max()
    with image.open(tmp_path / "maps.png") as picture:
        assert np.array_equal(picture, np.rint((values - low) * 255 / (high - low)))
    arguments = ("run", damaged, few, "--picture", tmp_path / "maps.png")
    assert command(*arguments).code == 0, "it wrote the one that is there"
    (tmp_path / "maps.png").write_bytes(b"mine")
    assert_refused(command(*arguments), "maps.png is there already")
    assert (tmp_path / "maps.png").read_bytes() == b"mine"
    first = values[:2]
    assert f"map 2 x 5, from {first.min():.4g} to {first.max():.4g}" in outcome.output


def test_pictures_are_of_maps(command: Command, digits_build: Path, few: Path) -> None:
    pytest.importorskip("PIL", reason=NO_PILLOW)
    outcome = command("run", digits_build, few, "--picture", "maps.png")
    assert_refused(outcome, "--picture", "gives classes, no map", "--task map")


@pytest.mark.parametrize(
    "task, word",
    [
        ({"kind": "verse"}, "'verse' is not a valid Kind"),
        ({"last": "first"}, "'first' is not a valid Last"),
        ({"kind": "map", "grid": [3, 4]}, "a map of [3, 4] with 1 tokens"),
        ({"grid": [1, -1]}, "a grid is [1, -1]"),
    ],
)
def test_what_a_result_means_is_checked(
    command: Command, damaged: Path, few: Path, task: dict[str, object], word: str
) -> None:
    outcome = command("run", recorded(damaged, **task), few)
    assert_refused(outcome, word, "Compile the model again")


def test_outputs_of_any_name_can_be_saved(tmp_path: Path) -> None:
    outputs = {name: np.arange(3.0) + len(name) for name in ("file", "block/out.0", "x")}
    run_command.save(OutputFile(tmp_path / "out.npz", "run --outputs"), outputs)
    with np.load(tmp_path / "out.npz") as content:
        assert set(content.files) == set(outputs)
        assert all(np.array_equal(content[name], array) for name, array in outputs.items())


def test_results_of_a_network_that_was_cut_can_be_saved(digits_build: Path) -> None:
    """With ONNX Runtime they are the whole network's, without it those at the cut."""
    model = replace(read_compiled(digits_build), tail=Tail(b"", ("probabilities", "/class")))
    assert run_command.member_names(model) == {
        "logits": "logits",
        "probabilities": "probabilities",
        "/class": "%2Fclass",
    }


def test_it_says_where_it_runs(
    command: Command,
    digits_build: Path,
    few: Path,
    opened: list[OnTheReference],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for present, options, words, simulate in (
        (False, (), "there is no board here: on the simulated RTL", True),
        (False, ("--simulate",), "vitessera: on the simulated RTL", True),
        (True, (), "vitessera: on the board.", False),
        (True, ("--board", "--timeout", "2.5"), "vitessera: on the board.", False),
        (True, ("--simulate",), "vitessera: on the simulated RTL", True),
    ):
        monkeypatch.setattr(run_command, "has_board", lambda present=present: present)
        outcome = command("run", digits_build, few, *options)
        assert outcome.code == 0, outcome.errors
        assert words in outcome.errors
        assert opened[-1].options["simulate"] is simulate
        assert opened[-1].options["timeout"] == (2.5 if "--timeout" in options else None)


@pytest.mark.usefixtures("opened")
def test_progress_is_shown(
    command: Command,
    digits_build: Path,
    few: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quiet = command("run", digits_build, few).errors
    assert "1 of 4 images" not in quiet
    assert "  4 images in " in quiet
    monkeypatch.setattr(run_command, "LOG_SECONDS", 0)
    assert "  1 of 4 images\n  2 of 4 images\n" in command("run", digits_build, few).errors


# --- Wrong inputs


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--top", "0"), ("--top", "'0' is not a whole number above zero")),
        (("--top", "all"), ("--top", "'all' is not a whole number above zero")),
        (("--timeout", "0"), ("--timeout", "'0' is not a number of seconds above zero")),
        (("--timeout", "nan"), ("--timeout", "'nan' is not a number of seconds")),
        (("--timeout", "soon"), ("--timeout", "'soon' is not a number of seconds")),
        (("--board", "--simulate"), ("--simulate", "not allowed with argument --board")),
        (("--board",), ("There is no board here", "leave --board out")),
        (("--json", "nowhere/x.json"), ("nowhere/x.json cannot be written", "writable folder")),
        (("--outputs", "nowhere/x.npz"), ("nowhere/x.npz cannot be written", "writable folder")),
    ],
)
def test_wrong_arguments(
    command: Command,
    digits_build: Path,
    few: Path,
    opened: list[OnTheReference],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    monkeypatch.setattr(run_command, "has_board", lambda: False)
    assert_refused(command("run", digits_build, few, *arguments), *words)
    assert not opened


def picture_file(kind: str, folder: Path) -> Path:
    """A file that cannot be run."""
    good = np.zeros((2, 1, 8, 8), np.float32)
    arrays = {
        "shape": good[:, :, :7],
        "dtype": good.astype(np.uint8),
        "nan": np.where(np.arange(2)[:, None, None, None] == 1, np.float32(np.nan), good),
        "empty": good[:0],
    }
    if kind in arrays:
        np.save(folder / "images.npy", arrays[kind])
        return folder / "images.npy"
    suffix = "png" if kind.endswith("picture") else "npz"
    path = folder / f"images.{suffix}"
    if kind.startswith("text"):
        path.write_text("not images")
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("shape", ("images.npy", "shape [2, 1, 7, 8]", "The model takes [n, 1, 8, 8]")),
        ("dtype", ("images.npy", "uint8", "which come last")),
        ("nan", ("images.npy", "image 1 holds NaN", "Remove the image")),
        ("empty", ("images.npy", "no image", "at least one")),
        ("missing set", ("images.npz", "cannot be read", "numpy.savez")),
        ("text set", ("images.npz", "not a file of numpy arrays", "numpy.savez")),
        ("missing picture", ("images.png", "cannot be read", "PNG")),
        ("text picture", ("images.png", "not an image", "PNG")),
    ],
)
def test_wrong_images(
    command: Command,
    digits_build: Path,
    few: Path,
    tmp_path: Path,
    opened: list[OnTheReference],
    kind: str,
    words: tuple[str, ...],
) -> None:
    if kind.endswith("picture"):
        pytest.importorskip("PIL", reason=NO_PILLOW)
    assert_refused(command("run", digits_build, few, picture_file(kind, tmp_path)), *words)
    assert not opened, "all images must be looked at before the first is run"


def test_wrong_directories(command: Command, damaged: Path, few: Path, tmp_path: Path) -> None:
    assert_refused(command("run", tmp_path / "no", few), "no is not a build directory", "compile")
    (damaged / "program" / "weights.bin").write_bytes(b"")
    assert_refused(command("run", damaged, few), "weights.bin has changed", "Compile the model")


def test_a_package_cannot_be_simulated(command: Command, damaged: Path, few: Path) -> None:
    shutil.rmtree(damaged / "rtl")
    outcome = command("run", damaged, few, "--simulate")
    assert_refused(outcome, f"{damaged} holds no RTL", "vitessera package", "Run it on the board")


def test_without_pynq(
    command: Command, digits_build: Path, few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynq", None)
    outcome = command("run", digits_build, few)
    assert_refused(outcome, "PYNQ cannot be imported", "vitessera[sim,board]")


@pytest.mark.usefixtures("opened")
def test_a_disk_that_is_full(
    command: Command,
    digits_build: Path,
    few: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def write(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(np.lib.format, "write_array", write)
    outcome = command("run", digits_build, few, "--outputs", tmp_path / "out.npz")
    assert_refused(outcome, "out.npz cannot be written (No space left", "writable")


# --- On the simulated RTL


@pytest.mark.pynq
@pytest.mark.accelerator
@pytest.mark.usefixtures("needs_pynq")
class TestSimulated:
    def test_predictions(
        self, command: Command, small_build: Path, few: Path, tmp_path: Path
    ) -> None:
        arguments = ("--simulate", "--profile", "--outputs", tmp_path / "out.npz")
        outcome = command("run", small_build, few, *arguments)
        assert outcome.code == 0, outcome.errors
        assert "top-1 accuracy 75.00% of 4 labelled images" in outcome.output
        assert "share of MAC peak" in outcome.output
        with np.load(few) as content:
            expected = OnTheReference(small_build).run(content["images"], lambda _: None)
        with np.load(tmp_path / "out.npz") as content:
            assert np.array_equal(content["logits"], expected["logits"])

    def test_ctrl_c(
        self,
        command: Command,
        small_build: Path,
        few: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        from vitessera.host.driver import Driver

        recover, recovered = Driver.recover, []

        def note(driver: Driver) -> None:
            recover(driver)
            recovered.append(driver._state())

        def interrupt(_: object, done: int) -> None:
            if done == 3:
                os.kill(os.getpid(), signal.SIGINT)

        whole = command("run", small_build, few, "--simulate")
        monkeypatch.setattr(Driver, "recover", note)
        monkeypatch.setattr(run_command.Progress, "show", interrupt)
        outcome = command("run", small_build, few, "--simulate", "--json", tmp_path / "result.json")
        assert outcome.code == 130
        assert "stopped; the results of 2 of 4 images are kept" in outcome.errors
        assert "interrupted" in outcome.errors
        assert recovered == ["IDLE"]
        self.assert_kept(whole, outcome, tmp_path)

    @staticmethod
    def assert_kept(whole: Outcome, stopped: Outcome, folder: Path) -> None:
        """The first two lines of the whole run, and a JSON file that says that it is not all."""
        assert stopped.output.splitlines()[:2] == whole.output.splitlines()[:2]
        written = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        assert (len(written["images"]), written["complete"]) == (2, False)

    def test_a_run_that_never_ends(
        self, command: Command, small_build: Path, few: Path, tmp_path: Path
    ) -> None:
        """Nobody ever signals, so that the first who waits does so forever."""
        stuck = Path(shutil.copytree(small_build, tmp_path / "stuck"))
        program = read_build(stuck).program
        silent = tuple(replace(instruction, signal=0) for instruction in program.instructions)
        save_program(replace(program, instructions=silent), stuck / "program")
        for name in ("program/program.bin", "program/program.json"):
            vouch(stuck, name, (stuck / name).read_bytes())
        outcome = command("run", stuck, few, "--simulate", "--timeout", "0.001")
        assert_refused(outcome, "100,000 are allowed", "Give a larger timeout")
