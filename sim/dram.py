"""The host's side of the simulated DRAM (dram.sv): memory contents and what may be touched."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

PAGE_BYTES = 4096


def dram_sources() -> dict[str, str]:
    """The files that a simulated design with module `dram` needs."""
    folder = resources.files("vitessera.sim")
    return {
        name: folder.joinpath(name).read_text(encoding="utf-8") for name in ("dram.sv", "dram.cpp")
    }


class Dram:
    """A file that the simulator maps as its DRAM.

    Attributes:
        base: address of the first byte.
        content: all bytes, uint8; reads and writes reach the simulation at once.
    """

    def __init__(self, path: Path, size: int, base: int = 0x1000_0000) -> None:
        """Makes the file with `size` zeros, or takes an existing one of that size.

        Nothing is granted yet.
        """
        self.path = path
        self.base = base
        self.content: npt.NDArray[np.uint8] = np.memmap(
            path, np.uint8, "r+" if path.is_file() else "w+", shape=(size,)
        )
        self._grants: list[str] = []
        self._failures: list[str] = []
        self._top = base
        self._write_map()

    @property
    def plusargs(self) -> tuple[str, ...]:
        """Simulator arguments that name this memory."""
        return (f"+dram_file={self.path}", f"+dram_base={self.base:x}")

    def allocate(self, size: int, name: str, *, writable: bool = False) -> int:
        """Address of `size` fresh bytes on pages of their own, granted to the accelerator."""
        address = self._top
        self._top += -(-size // PAGE_BYTES) * PAGE_BYTES
        if self._top > self.base + len(self.content):
            raise MemoryError(f"The simulated DRAM is too small for {name} ({size} bytes).")
        self.grant(address, size, name, writable=writable)
        return address

    def view(self, address: int, size: int) -> npt.NDArray[np.uint8]:
        """The bytes from `address` on, uint8 [size], shared with the simulation."""
        first = address - self.base
        return self.content[first : first + size]

    def grant(self, address: int, size: int, name: str, *, writable: bool = False) -> None:
        """Lets the accelerator read, and if `writable` write, `size` bytes from `address` on."""
        kind = "write" if writable else "read"
        self._grants.append(f"{kind} 0x{address:x} 0x{address + size:x} {name}")
        self._write_map()

    def revoke(self, address: int) -> None:
        """Takes the grants back that start at `address`."""
        mark = f" 0x{address:x} "
        self._grants = [line for line in self._grants if mark not in line]
        self._write_map()

    def fail(self, address: int, size: int, response: str) -> None:
        """Makes `size` bytes from `address` on answer with `response`: "slverr" or "decerr"."""
        self._failures.append(f"{response} 0x{address:x} 0x{address + size:x}")
        self._write_map()

    def revoke_failures(self) -> None:
        """Makes all addresses answer OKAY again."""
        self._failures = []
        self._write_map()

    def _write_map(self) -> None:
        # Replaced in one step: the simulator may be reading.
        temporary = Path(f"{self.path}.map.new")
        temporary.write_text(
            "".join(f"{line}\n" for line in (*self._grants, *self._failures)), encoding="utf-8"
        )
        temporary.replace(f"{self.path}.map")
