"""Accelerators, from the data sheets of their makers. Dense bf16: half of what is printed "with sparsity"."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from potstill.errors import RecipeError


@dataclass(frozen=True)
class Accelerator:
    """One device, as its maker describes it.

    flops      bf16 operations a second, dense, fp32 sums
    memory     bytes
    bandwidth  bytes a second from and to this memory
    link       bytes a second to its neighbours in one machine, one way
    network    bytes a second to other machines, one way: no part of the device, so an assumption about who installs it
    """

    name: str
    flops: float
    memory: float
    bandwidth: float
    link: float
    network: float


_T, _G = 1e12, 1e9
# name: TFLOP/s, GB, GB/s of memory, GB/s a way to neighbours (half of NVLink's or PCIe's sum), GB/s to other machines
_TABLE: dict[str, tuple[float, float, float, float, float]] = {
    "a10": (125, 24, 600, 32, 12.5),
    "a100": (312, 80, 2_039, 300, 25),  # SXM
    "a100-40gb": (312, 40, 1_555, 300, 25),  # SXM
    "b200": (2_250, 180, 7_700, 900, 50),  # HGX
    "h100": (989, 80, 3_350, 450, 50),  # SXM
    "h100-pcie": (756, 80, 2_000, 64, 25),
    "h200": (989, 141, 4_800, 450, 50),  # SXM
    "l4": (121, 24, 300, 32, 12.5),
    "l40s": (362, 48, 864, 32, 12.5),
    "mi300x": (1_307, 192, 5_300, 448, 50),
    "rtx4090": (165, 24, 1_008, 32, 1.25),
}
ACCELERATORS = {
    name: Accelerator(name, flops * _T, memory * _G, bandwidth * _G, link * _G, network * _G)
    for name, (flops, memory, bandwidth, link, network) in _TABLE.items()
}


def accelerator(name: str) -> Accelerator:
    """The one of that name. RecipeError with those there are for any other."""
    found = ACCELERATORS.get(name.lower().replace("_", "-"))
    if found is None:
        close = get_close_matches(name.lower(), ACCELERATORS, n=1)
        guess = f"; did you mean {close[0]}?" if close else "."
        raise RecipeError(f"--gpu {name} is no accelerator in the table{guess} There are {', '.join(ACCELERATORS)}")
    return found
