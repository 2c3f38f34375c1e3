"""`vitessera simulate`: the RTL under cocotb against the integer reference."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from vitessera.codegen.builddir import Build, read_build, result_file
from vitessera.codegen.errors import ImageError
from vitessera.codegen.outputfile import JsonFile, OutputFile, check_outputs, resolved
from vitessera.codegen.progress import Step
from vitessera.codegen.scratch import ScratchFolder
from vitessera.host.imagesets import ImageSet, load_images

from .foreign import add_foreign_rtl
from .stages import shown_stages

DEFAULT_COUNT = 8
SIMULATING = "simulate the RTL"

DESCRIPTION = """\
Runs images on the RTL of the whole accelerator under cocotb and Verilator, driven through its
registers and memory as a host would, and compares every output bit with the integer reference.

Exit code: 0 bit-exact, 1 not, 2 error.
"""
EPILOG = """\
examples:
  vitessera simulate build/
  vitessera simulate build/ --images test.npz --count 20 --json result.json
  vitessera simulate build/ --count 1 --waves run.vcd      (view with GTKWave or Surfer)
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the sub-command."""
    parser = subparsers.add_parser(
        "simulate",
        help="run the RTL against the integer reference",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="a build directory")
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FILE",
        help=".npz with 'images' [n, channels, height, width], or videos as the model takes them, "
        "and perhaps 'labels'; by default the images that the build directory carries",
    )
    parser.add_argument(
        "--count",
        type=positive,
        metavar="N",
        help=f"images to run (default {DEFAULT_COUNT}, or fewer when there are fewer)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here, too")
    parser.add_argument("--waves", type=Path, metavar="FILE", help="record a waveform (VCD)")
    add_foreign_rtl(parser)
    parser.set_defaults(run=run)


def positive(text: str) -> int:
    """A whole number above zero, for argparse."""
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above zero")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Simulates and prints the result."""
    from vitessera.sim.verilator import environment

    environment()  # what is missing is said before kernels are compiled to compare them
    with shown_stages():
        build = read_build(args.directory, check_rtl=not args.foreign_rtl)
    chosen = choose_images(build, args.images, args.count)
    results = [result_file(args.directory)]
    if args.json is not None:
        results.append(JsonFile(args.json, "simulate --json"))
    waves = None if args.waves is None else OutputFile(args.waves, "simulate --waves")
    check_outputs(*results, waves)
    with recording(waves) as path:
        result = simulate_with_progress(build, chosen, path)
    print(text(result))
    for file in results:
        file.write(result)
    return 0 if result["bit_exact"] else 1


@contextmanager
def recording(waves: OutputFile | None) -> Iterator[Path | None]:
    """Gives a path to record waveforms to; they are kept, however the simulation ends."""
    if waves is None:
        yield None
        return
    # Beside the file that they become: waveforms may be larger than a temporary folder.
    with ScratchFolder(resolved(waves.path).parent) as scratch:
        recorded = scratch / "waves.vcd"
        try:
            yield recorded
        except BaseException:
            if recorded.exists():
                keep_waves(recorded, waves)
                print(f"vitessera: waveform of the failed run: {waves.path}", file=sys.stderr)
            raise
        keep_waves(recorded, waves)


def keep_waves(recorded: Path, waves: OutputFile) -> None:
    """Moves a waveform to where the user wants it; marked, so that the next may replace it."""
    with waves.writing() as staged:
        shutil.move(recorded, staged)
        with staged.open("a", encoding="utf-8") as file:
            file.write(f"\n$comment {waves.mark} $end\n")


def choose_images(build: Build, path: Path | None, count: int | None) -> ImageSet:
    """The first `count` images of the file, or of the build directory."""
    found = ImageSet(build.images) if path is None else load_images(path)
    if count is not None and count > len(found.images):
        raise ImageError(
            f"--count asks for {count} images, {path or 'the build directory'} holds "
            f"{len(found.images)}.",
            "Give a smaller --count, or more images with --images.",
        )
    few = count or DEFAULT_COUNT
    labels = None if found.labels is None else found.labels[:few]
    return ImageSet(found.images[:few], labels)


def simulate_with_progress(
    build: Build, chosen: ImageSet, waves: Path | None = None
) -> dict[str, Any]:
    """Runs the images, telling how far it is; the result as it goes to JSON."""
    from vitessera.sim.trace import to_table
    from vitessera.sim.verify import verify

    with shown_stages() as stages:

        def advance(done: int) -> None:
            stages.step(Step(SIMULATING, done, len(chosen.images), "images"))

        outcome = verify(build, chosen.images, progress=advance, waves=waves)
    program = build.program
    result: dict[str, Any] = {
        "images": len(chosen.images),
        "bit_exact": outcome.bit_exact,
        "mismatches": len(outcome.mismatches),
        "mismatched_images": list(outcome.mismatches),
        "cycles_per_image": outcome.cycles_per_image,
        "mac_peak_share": outcome.mac_peak_share(program),
        "clock_mhz": program.config.clock_mhz,
        "images_per_second": outcome.images_per_second(program),
        "counters": outcome.counters[0],
        "layer_cycles": outcome.layer_cycles,
        "waiting_cycles": outcome.waiting,
        "timeline": to_table(outcome.intervals),
        "seconds": outcome.seconds,
    }
    if chosen.labels is not None:
        name = program.outputs[0].name
        result["top1"] = {
            "integer": accuracy(outcome.reference[name], chosen.labels),
            "rtl": accuracy(outcome.rtl[name], chosen.labels),
        }
    return result


def accuracy(logits: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> float:
    """Share of images whose largest logit is at the label's place."""
    return float((logits.reshape(len(labels), -1).argmax(axis=1) == labels).mean())


def text(result: dict[str, Any]) -> str:
    """The result for people."""
    verdict = "yes" if result["bit_exact"] else f"NO, images {result['mismatched_images']}"
    lines = {
        "images": str(result["images"]),
        "bit-exact to reference": verdict,
        "cycles an image": f"{result['cycles_per_image']:,.0f}",
        "share of MAC peak": f"{result['mac_peak_share']:.1%}",
        "images a second": f"{result['images_per_second']:,.1f} at {result['clock_mhz']} MHz",
    }
    for name, value in result.get("top1", {}).items():
        lines[f"top-1 {name}"] = f"{value:.2%}"
    return "\n".join(f"  {name:<24}{value}" for name, value in lines.items())
