"""`vitessera compile`: from the ONNX file to a build directory."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from vitessera.codegen.boardfile import find_board
from vitessera.codegen.boards import BOARDS, DEFAULT_BOARD, Board, read_config
from vitessera.codegen.builddir import Build, check_output, read_accelerator, write_build
from vitessera.codegen.buildfiles import IMAGES
from vitessera.codegen.config import HardwareConfig
from vitessera.host.build import TAIL
from vitessera.host.imagesets import ImageSet, load_images
from vitessera.host.interface import OVERLAY
from vitessera.host.tasks import Kind
from vitessera.host.text import printable

from .inspect import add_import_options, add_split
from .pictures import add_pictures, given
from .stages import shown_stages

DESCRIPTION = """\
Quantises a Vision Transformer, schedules it and generates the accelerator that runs it.

The build directory holds everything: HLS sources and configuration, RTL, program, packed weights,
manifest, and a report of the quantisation error of every layer.

How image files become what the network takes, and what its classes are called, is read from
MODEL.preprocessing.json beside MODEL.onnx, the model's metadata, and preprocessor_config.json and
config.json beside it (transformers, timm); the options for image files say it, or correct it.
docs/images.md explains them all.
"""
EPILOG = """\
examples:
  vitessera compile vit.onnx -o build/ --calibration images.npz
  vitessera compile vit.onnx -o build/ --board kv260 --calibration images.npz
  vitessera compile vit.onnx -o build/ --board my-board.toml
  vitessera compile vit.onnx -o build/ --config accelerator.toml
  vitessera compile deit.onnx -o deit/ --like build/     (both on one bitstream)
  vitessera compile vit.onnx -o build/ --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 \\
      --resize 256 --crop 224 --classes names.txt

'vitessera boards' shows what there is for each board, and how to describe another one.
"""
UNKNOWN_IMAGES = (
    "images: nothing known about mean, std and class names, so the board takes normalised arrays "
    "only, no image files; --mean, --std, --resize, --crop and --classes change that."
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the sub-command."""
    parser = subparsers.add_parser(
        "compile",
        help="quantise a model and generate its accelerator",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    add_import_options(parser)
    add_split(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="the build directory; an older one is replaced if all in it is as vitessera wrote it",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="IMAGES.npz",
        help="images [n, channels, height, width], or videos as the model takes them, normalised "
        "as in training, under the key "
        "'calibration' or 'images'; some dozens are enough, and of very many not all are used. "
        "Without them noise is used, which costs accuracy.",
    )
    parser.add_argument(
        "--task",
        choices=[kind.value for kind in Kind],
        help="what the results mean: one of several classes, independent labels, plain scores, an "
        "embedding, or a map with a number for each patch; by default this is found out from what "
        "stands behind them in the file, from config.json beside it, and from their shape",
    )
    target = parser.add_mutually_exclusive_group()
    target.add_argument(
        "--board",
        metavar="NAME|FILE.toml",
        help=f"the board to build for: {', '.join(BOARDS)} (default {DEFAULT_BOARD}), or a file "
        "that describes another one",
    )
    target.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="a TOML or JSON file with the accelerator's sizes: tile, depth, lanes, bus_bits, "
        "left_words, right_words, ..., clock_mhz",
    )
    target.add_argument(
        "--like",
        type=Path,
        metavar="DIR",
        help="the accelerator of another build directory, so that both models run on one "
        "bitstream; also for models that the board's standard accelerator does not suit",
    )
    add_pictures(parser)
    parser.set_defaults(run=run)


def target(args: argparse.Namespace) -> HardwareConfig | Board:
    """The accelerator that --config or --like describes, or the board that --board names."""
    if args.like is not None:
        return read_accelerator(args.like).config
    if args.config is not None:
        return read_config(args.config)
    return find_board(args.board or DEFAULT_BOARD)


def run(args: argparse.Namespace) -> int:
    """Compiles and writes the build directory."""
    from vitessera.codegen.pipeline import Said, compile_model
    from vitessera.codegen.quantize import MOST_IMAGES

    chosen = target(args)
    kind = args.task and Kind(args.task)
    said = Said(given(args), args.results, args.shape, args.split, kind)
    check_output(args.output)
    calibration, note = None, ""
    if args.calibration is not None:
        found = load_images(args.calibration, ("calibration", "images"), MOST_IMAGES)
        calibration, note = found.images, left_out(args.calibration, found)
        if note:
            print(f"vitessera: {note}", file=sys.stderr)
    else:
        print(
            "vitessera: no --calibration given: scales come from noise images; expect less "
            "accuracy than with real ones.",
            file=sys.stderr,
        )
    with shown_stages() as stages:
        build = compile_model(args.model, chosen, calibration, stages.start, said)
        if args.like is not None:
            build = read_accelerator(args.like).taken_over(build)
        stages.start("write")
        place = write_build(build, args.output)
    print(summary(build, args.output if args.output.exists() else place, note))
    return 0


def left_out(path: Path, found: ImageSet) -> str:
    """What is to be said of a calibration set that is larger than need be; nothing of others."""
    if not found.left_out:
        return ""
    used = len(found.images)
    return (
        f"{path}: {used} of {used + found.left_out} images are used for calibration, evenly "
        "spread; more take time and change little."
    )


def summary(build: Build, folder: Path, note: str = "") -> str:
    """What was built, and what can be done with it; `note` is on its calibration."""
    config, images = build.config, build.preprocessing
    known = images.describe() if images else UNKNOWN_IMAGES
    known = "\n".join([known, *map(printable, (*build.notes, note))]).rstrip()
    return (
        f"{printable(build.model)}: {len(build.program.instructions)} instructions, "
        f"{len(build.program.weights) / 1024:.0f} KiB of weights, on {config.macs} MACs "
        f"({config.tile}x{config.tile}x{config.depth}) at {config.clock_mhz} MHz, "
        f"{config.on_chip_bytes / 1024:.0f} KiB on chip: {whose(config)}.\n"
        f"{build.reports['plan.txt']}"
        f"{known}\n"
        f"{left_to_host(build)}"
        f"{meanings(build)}\n"
        f"Written to {folder}. Quantisation error: {folder / 'reports' / 'quantization.txt'}.\n"
        f"{next_steps(build, folder)}"
    )


def meanings(build: Build) -> str:
    """What the results mean, as `run` is going to take them."""
    said = (f"{printable(name)}: {task.kind.value}" for name, task in build.tasks.items())
    return f"results ({', '.join(said)}); --task changes what they are taken for."


def whose(config: HardwareConfig) -> str:
    """Whether other models share the accelerator."""
    board = BOARDS.get(config.board)
    if board is not None and config == board.config:
        return f"{board.name}'s standard accelerator, which other models share"
    if config.board == HardwareConfig.board:
        return "as configured; with --like other models share it"
    return f"sized for {config.board}; with --like other models share it"


def left_to_host(build: Build) -> str:
    """A line on the tail, if there is one."""
    if build.tail is None:
        return ""
    names = ", ".join(printable(output.name) for output in build.program.outputs)
    return (
        f"The network is cut at {names}: what comes after that is in {TAIL}, and the host runs it "
        "with ONNX Runtime.\n"
    )


def next_steps(build: Build, folder: Path) -> str:
    """The commands that come next; the bitstream's where there is a block design for the board."""
    files = build.preprocessing is not None and build.preprocessing.takes_files
    images = "IMAGES" if files else quoted(folder / IMAGES)
    steps = [f"vitessera simulate {quoted(folder)}", f"vitessera run {quoted(folder)} {images}"]
    if f"{OVERLAY}.hwh" in build.vivado:
        make = f"make -C {quoted(folder / 'vivado')} bitstream"
        steps.append(f"{make}, then vitessera package {quoted(folder)}")
    return "Next: " + "\n      ".join(steps)


def quoted(path: Path) -> str:
    """`path` as a shell takes it."""
    return shlex.quote(str(path))
