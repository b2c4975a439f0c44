"""Memory that a loss uses again: a chunk of logits is hundreds of megabytes, and getting them anew each time is what makes eager slow."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor


class Workspace:
    """Buffers by name, device and dtype, as large as the largest ever asked for. Not for two threads at once."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.device, torch.dtype], Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A tensor of this shape with whatever was left in it. The same name twice is the same memory twice."""
        size, key = prod(shape), (name, device, dtype)
        buffer = self._buffers.get(key)
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[key] = torch.empty(size, dtype=dtype, device=device)
        return buffer[:size].view(shape)

    @property
    def num_bytes(self) -> int:
        """What it holds."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self._buffers.values())
