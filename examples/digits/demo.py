"""The main job on real input: the digits model from ONNX to RTL, proven bit-exact.

    python examples/digits/demo.py        (or: make demo)

Takes vit_digits.onnx, quantises it with calibration images, generates the accelerator, compiles
its HLS kernels, runs the RTL on held-out images under cocotb, and compares with the integer
reference and with ONNX Runtime. The facts go to build/demo/result.json, too.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from vitessera.cli.main import main as vitessera
from vitessera.cli.simulate import accuracy
from vitessera.codegen.builddir import RESULT_FILE, Build, read_build
from vitessera.codegen.reference import Reference
from vitessera.host.imagesets import ImageSet, load_images
from vitessera.sim.verify import patch_matrices

HERE = Path(__file__).parent
MODEL = HERE / "vit_digits.onnx"
IMAGES = HERE / "digits.npz"
OUTPUT = Path("build", "demo")
RTL_IMAGES = 40


def main() -> int:
    """Runs everything; the exit code is 0 only when the RTL is bit-exact."""
    build_folder = OUTPUT / "build"
    print(f"Compiling {MODEL.name}")
    compile_arguments = [str(MODEL), "-o", str(build_folder), "--calibration", str(IMAGES)]
    if code := vitessera(["compile", *compile_arguments]):
        return code
    print(f"\nSimulating the RTL on {RTL_IMAGES} held-out images")
    simulate_arguments = ["--images", str(IMAGES), "--count", str(RTL_IMAGES)]
    code = vitessera(["simulate", str(build_folder), *simulate_arguments])
    if code == 2:
        return code
    held_out = load_images(IMAGES)
    result = json.loads((build_folder / RESULT_FILE).read_text(encoding="utf-8"))
    simulated_images = ImageSet(held_out.images[:RTL_IMAGES], _labels(held_out)[:RTL_IMAGES])
    result["top1"]["float"] = float_accuracy(simulated_images)
    result["top1_all_held_out"] = {
        "images": len(held_out.images),
        "float": float_accuracy(held_out),
        "integer": integer_accuracy(read_build(build_folder), held_out),
    }
    (OUTPUT / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"\n{summary(result)}")
    return code


def _labels(images: ImageSet) -> np.ndarray:
    assert images.labels is not None, f"{IMAGES} carries labels"
    return np.asarray(images.labels)


def float_accuracy(chosen: ImageSet) -> float:
    """Top-1 of the ONNX file itself, on ONNX Runtime."""
    session = onnxruntime.InferenceSession(str(MODEL), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    logits = [session.run(None, {name: image[None]})[0] for image in chosen.images]
    return accuracy(np.stack(logits), _labels(chosen))


def integer_accuracy(build: Build, chosen: ImageSet) -> float:
    """Top-1 of the integer reference."""
    program = build.program
    outputs = Reference(program).run(patch_matrices(program, chosen.images))
    output = program.outputs[0]
    return accuracy(output.dequantize(outputs[output.name]), _labels(chosen))


def summary(result: dict) -> str:
    """The one table to look at."""
    top1, everything = result["top1"], result["top1_all_held_out"]
    verdict = "yes" if result["bit_exact"] else f"NO, {result['mismatches']} images differ"
    rows = {
        "RTL = integer reference": f"{verdict} ({result['images']} images)",
        "top-1 on these images": f"float {top1['float']:.2%}, integer {top1['integer']:.2%}, "
        f"RTL {top1['rtl']:.2%}",
        f"top-1 on all {everything['images']} held out": f"float {everything['float']:.2%}, "
        f"integer {everything['integer']:.2%}",
        "cycles an image": f"{result['cycles_per_image']:,.0f}",
        "share of MAC peak": f"{result['mac_peak_share']:.1%}",
        "images a second": f"{result['images_per_second']:,.0f} at {result['clock_mhz']} MHz",
        "facts": str(OUTPUT / "result.json"),
    }
    width = max(map(len, rows)) + 2
    return "\n".join(f"{name:<{width}}{value}" for name, value in rows.items())


if __name__ == "__main__":
    sys.exit(main())
