from __future__ import annotations

import pytest
from runs import HALF_ROW, MAIN, SMALL
from vitessera.codegen import hls
from vitessera.codegen.config import HardwareConfig
from words import Struct, pack_array, words

pytestmark = pytest.mark.kernel

STRUCTS = {
    ("operand_walk", "operand_s"): "operand_tag",
    ("operand_walk", "engine_s"): "engine_tag",
    ("tile_drain", "beat_s"): "beat",
    ("epilogue_walk", "beat_s"): "epilogue_tag",
    ("epilogue", "reciprocal_r"): "reciprocals",
    ("epilogue", "operand_s"): "operand_beat",
    ("epilogue", "score_s"): "score_beat",
    ("epilogue", "residual_s"): "residual_write",
    ("operand_pack", "left_s"): "operand_write",
    ("softmax", "probability_s"): "probability_beat",
    ("softmax", "maximum_s"): "maxima",
    ("probability_pack", "probability_s"): "probability_write",
    ("norm_walk", "tag_s"): "norm_tag",
    ("norm_stats", "word_s"): "norm_word",
    ("norm_stats", "statistics_s"): "row_statistics",
    ("norm_result_walk", "tag_s"): "norm_result_tag",
}


def test_the_first_field_is_highest_and_element_0_lowest() -> None:
    struct = Struct(("a", 4), ("b", 8, 2), ("c", 3))
    assert struct.width == 23
    assert struct(a=0xF, b=[1, -2], c=5) == 0xF << 19 | 0xFE << 11 | 1 << 3 | 5
    assert pack_array([1, 2, 31], 5) == 31 << 10 | 2 << 5 | 1


def test_a_value_that_does_not_fit_is_refused() -> None:
    with pytest.raises(AssertionError, match="a = 16"):
        Struct(("a", 4))(a=16)


@pytest.mark.parametrize("config", [MAIN, SMALL, HALF_ROW], ids=["main", "small", "half_row"])
def test_structs_are_as_wide_as_the_ports(config: HardwareConfig) -> None:
    modules = hls.compile_kernels(config, tuple({kernel for kernel, _ in STRUCTS}))
    for (kernel, channel), struct in STRUCTS.items():
        widths = {port.channel: port.width for port in hls.ports(kernel, modules[kernel])}
        assert getattr(words(config), struct).width == widths[channel], struct
