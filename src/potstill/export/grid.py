"""Weights on a symmetric grid: w ~ scale * q, one scale for `group` inputs of an output.

Of b bits, q goes from -2^(b-1) to 2^(b-1) - 1: one step further down than up. The scale has the sign that puts the weight of largest
magnitude on the lower side, where it lies on the grid itself (llama.cpp's Q4_0 and auto-round do the same). Scales that clip it, of the
least squared error, were measured to be worse: what is far out matters more to what the model says than its share of the error.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Of how codes and scales are found: what was measured on another grid is measured again.
GRID = 2


def codes(
    weight: Float[Tensor, "outputs inputs"], group: int, *, bits: int = 4, dtype: torch.dtype = torch.bfloat16
) -> tuple[Int[Tensor, "outputs inputs"], Float[Tensor, "outputs groups"]]:
    """(q, scales) of a weight. The scales are numbers of `dtype`, and q is nearest for them as they are."""
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    parts = weight.detach().float().unflatten(-1, (-1, group))
    largest = parts.gather(-1, parts.abs().argmax(-1, keepdim=True))
    scales = held(largest / lowest, dtype)
    q = (parts / scales).round().clamp(lowest, highest).flatten(-2).to(torch.int8)
    return q, scales.squeeze(-1)


def on_grid(weight: Float[Tensor, "outputs inputs"], group: int, *, bits: int = 4) -> Float[Tensor, "outputs inputs"]:
    """The weight as it will be: scale times q."""
    q, scales = codes(weight, group, bits=bits)
    return (q.float().unflatten(-1, (-1, group)) * scales[..., None]).flatten(-2).to(weight.dtype)


def held(scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Scales as numbers of this dtype, none of them 0."""
    kept = scales.to(dtype).float()
    return torch.where(kept == 0, torch.full_like(kept, torch.finfo(dtype).tiny), kept)
