"""What the simulation refuses before it builds anything."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.errors import HostBufferError
from vitessera.codegen.schedule.product import product_program
from vitessera.codegen.toplevel import Rtl
from vitessera.sim.accelerator import simulate


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "no input to simulate. Give at least one"),
        ([b"abc"], "has 3 bytes, the program reads 64. Make it with pack_input"),
    ],
)
def test_wrong_inputs_are_refused(inputs: Sequence[bytes], message: str) -> None:
    program = product_program(HardwareConfig(), 8, 8, 8)
    with pytest.raises(HostBufferError, match=message):
        simulate(program, Rtl({}, 0), inputs)
