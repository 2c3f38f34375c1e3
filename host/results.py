"""What the host gives back: predictions, and the profile of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .build import CompiledModel
from .tasks import Last
from .text import printable

# Counter → what the unit is called in the profile.
UNITS = {
    "LOAD_BUSY": "load",
    "COMPUTE_BUSY": "compute",
    "EPILOGUE_BUSY": "epilogue",
    "SOFTMAX_BUSY": "softmax",
    "NORM_BUSY": "LayerNorm",
    "STORE_BUSY": "store",
    "LOAD_WAIT": "load waits",
}


@dataclass(frozen=True, repr=False)
class Prediction:
    """The class of one image.

    Attributes:
        index: of the class.
        label: its name, or the index where the model came without names.
        probability: of the class.
        scores: float64 [classes], as the network computed them.
        last: what makes probabilities of the scores.
    """

    index: int
    label: str
    probability: float
    scores: npt.NDArray[np.float64]
    last: Last = Last.SOFTMAX

    def __str__(self) -> str:
        return f"{self.label} ({self.probability:.1%})"

    def __repr__(self) -> str:
        return f"<Prediction {self}, class {self.index} of {len(self.scores)}>"

    @property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """Of all classes [classes]; of independent labels each by itself."""
        return self.last(self.scores)


def predict(
    scores: npt.NDArray[np.float64], classes: tuple[str, ...], last: Last = Last.SOFTMAX
) -> Prediction:
    """The prediction that `scores` [classes] stand for; `last` makes probabilities of them."""
    index = int(scores.argmax())
    label = classes[index] if classes else str(index)
    return Prediction(index, label, float(last(scores)[index]), scores, last)


@dataclass(frozen=True, repr=False)
class Profile:
    """Where the cycles of one image went, from the hardware's counters.

    Attributes:
        model: that was run.
        board: that it was compiled for.
        cycles: from start to done.
        clock_mhz: of the fabric.
        mac_peak_share: multiplications of the network over what the engine could have done in
            `cycles`; from 0 to 1.
        dram_read_bytes, dram_written_bytes: program and weights included.
        busy: unit → cycles in which it worked; "load waits" are cycles without an answer from
            DRAM.
        counters: all of them, by name.
        tail_seconds: that the host took for its part of the image, where the network was cut.
    """

    model: str
    board: str
    cycles: int
    clock_mhz: float
    mac_peak_share: float
    dram_read_bytes: int
    dram_written_bytes: int
    busy: Mapping[str, int]
    counters: Mapping[str, int]
    tail_seconds: float | None = None

    @classmethod
    def of(
        cls,
        model: CompiledModel,
        counters: Mapping[str, int],
        clock_mhz: float | None = None,
        tail_seconds: float | None = None,
    ) -> Profile:
        """The profile of a run of `model` that left `counters`.

        Without `clock_mhz`, with the clock that the model's bitstream is built for.
        """
        cycles, beat = counters["CYCLES"], int(model.config["bus_bits"]) // 8
        return cls(
            model=model.name,
            board=model.config["board"],
            cycles=cycles,
            clock_mhz=clock_mhz or model.fabric_mhz,
            mac_peak_share=model.macs / (cycles * model.peak_macs),
            dram_read_bytes=counters["READ_BEATS"] * beat,
            dram_written_bytes=counters["WRITE_BEATS"] * beat,
            busy={unit: counters[name] for name, unit in UNITS.items()},
            counters=dict(counters),
            tail_seconds=tail_seconds,
        )

    @property
    def milliseconds(self) -> float:
        """Of one image at the clock."""
        return self.cycles / (self.clock_mhz * 1e3)

    def __repr__(self) -> str:
        return (
            f"<Profile of {printable(self.model)} on {printable(self.board)}: {self.cycles:,} "
            f"cycles, {self.milliseconds:.3f} ms at {self.clock_mhz:.6g} MHz, "
            f"{self.mac_peak_share:.0%} of MAC peak>"
        )

    def __str__(self) -> str:
        lines = {
            "model": printable(self.model),
            "compiled for": printable(self.board),
            "cycles an image": f"{self.cycles:,}",
            "time an image": f"{self.milliseconds:.3f} ms at {self.clock_mhz:.6g} MHz",
            "share of MAC peak": f"{self.mac_peak_share:.1%}",
            "read from DRAM": f"{self.dram_read_bytes:,} bytes",
            "written to DRAM": f"{self.dram_written_bytes:,} bytes",
        } | {f"{unit}": f"{share:.1%} of the cycles" for unit, share in self._shares().items()}
        if self.tail_seconds is not None:
            lines["then on the host"] = f"{self.tail_seconds * 1e3:.3f} ms for tail.onnx"
        return "\n".join(f"{name:<20}{value}" for name, value in lines.items())

    def _shares(self) -> dict[str, float]:
        return {unit: cycles / self.cycles for unit, cycles in self.busy.items()}

    def plot(self, axes: Any = None) -> Any:  # noqa: ANN401 (matplotlib is optional)
        """Draws which share of the cycles each unit worked; returns the axes.

        Args:
            axes: of matplotlib; a new figure when there are none.
        """
        if axes is None:
            import matplotlib.pyplot as plt

            _, axes = plt.subplots(figsize=(7, 3))
        shares = self._shares()
        bars = axes.barh(list(shares), [100 * share for share in shares.values()])
        axes.bar_label(bars, fmt="%.0f %%", padding=3)
        axes.invert_yaxis()
        axes.set_xlim(0, 110)
        axes.set_xlabel("% of cycles")
        axes.set_title(
            f"{printable(self.model)} on {printable(self.board)}\n{self.cycles:,} cycles, "
            f"{self.milliseconds:.2f} ms at {self.clock_mhz:.6g} MHz, "
            f"{self.mac_peak_share:.0%} of MAC peak".replace("$", r"\$")  # which begins a formula
        )
        return axes
