"""`simulate` and `report` on the RTL: the results, and that a wrong RTL is found."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from pathlib import Path

import pytest
from command_line import DIGITS, Command, assert_refused

pytestmark = pytest.mark.accelerator

# The smallest accelerator builds quickest.
CONFIG = "tile = 4\nlanes = 4\n"
RESULT_KEYS = {
    "images",
    "bit_exact",
    "mismatches",
    "cycles_per_image",
    "mac_peak_share",
    "clock_mhz",
    "images_per_second",
}


@pytest.fixture(scope="module")
def small_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits model on the smallest accelerator."""
    from vitessera.cli.main import main

    folder = tmp_path_factory.mktemp("small")
    (folder / "small.toml").write_text(CONFIG)
    arguments = ["--config", str(folder / "small.toml"), "-o", str(folder / "build")]
    calibration = ["--calibration", str(DIGITS / "digits.npz")]
    assert main(["compile", str(DIGITS / "vit_digits.onnx"), *arguments, *calibration]) == 0
    return folder / "build"


def test_simulation_is_bit_exact_and_reported(
    command: Command, small_build: Path, tmp_path: Path
) -> None:
    waves, result_file = tmp_path / "run.vcd", tmp_path / "result.json"
    arguments = ("--images", DIGITS / "digits.npz", "--count", 2, "--json", result_file)
    outcome = command("simulate", small_build, *arguments, "--waves", waves)
    assert outcome.code == 0, outcome.errors
    assert "bit-exact to reference  yes" in outcome.output
    result = json.loads(result_file.read_text())
    assert result.keys() >= RESULT_KEYS
    assert (result["images"], result["bit_exact"], result["mismatches"]) == (2, True, 0)
    assert result["top1"]["rtl"] == result["top1"]["integer"]
    assert sum(result["layer_cycles"].values()) == result["counters"]["CYCLES"]
    assert "$enddefinitions" in waves.read_text()[:2_000_000]

    reported = command("report", small_build)
    assert reported.code == 0
    assert f"{result['layer_cycles']['attention0']:,}".replace(",", "") in reported.output.replace(
        ",", ""
    )
    assert "vitessera simulate" not in reported.output


def test_a_wrong_rtl_is_found(command: Command, small_build: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(small_build, tmp_path / "build"))
    core = broken / "rtl" / "core.v"
    right = "epilogue__residual_s_word}"
    assert core.read_text().count(right) == 1
    core.write_text(core.read_text().replace(right, right[:-1] + " ^ 1'b1}"))
    manifest = json.loads((broken / "manifest.json").read_text())
    manifest["files"]["rtl/core.v"] = hashlib.sha256(core.read_bytes()).hexdigest()
    (broken / "manifest.json").write_text(json.dumps(manifest))
    assert_refused(command("simulate", broken), "rtl/core.v is not what", "--foreign-rtl")
    arguments = ("--foreign-rtl", "--count", 2, "--json", tmp_path / "result.json")
    outcome = command("simulate", broken, *arguments)
    assert outcome.code == 1, outcome.errors
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["bit_exact"] is False
    assert (result["mismatches"], result["mismatched_images"]) == (2, [0, 1])
    assert "NO, images [0, 1]" in outcome.output


def test_demo_leaves_the_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("demo", DIGITS / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    monkeypatch.chdir(tmp_path)
    assert demo.main() == 0
    result = json.loads((tmp_path / "build" / "demo" / "result.json").read_text())
    assert result.keys() >= RESULT_KEYS | {"top1"}
    assert result["top1"].keys() == {"float", "integer", "rtl"}
    assert result["images"] >= 20
    assert result["bit_exact"] is True
    assert result["top1"]["rtl"] == result["top1"]["integer"]
    everything = result["top1_all_held_out"]
    assert abs(everything["float"] - everything["integer"]) <= 0.005
