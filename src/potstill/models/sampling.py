"""The next token, drawn by a number from outside among those that may come."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen among those that may come next.

    temperature  of the softmax; 0: always the likeliest token
    top_p        only the likeliest tokens that together reach this probability (Holtzman et al. 2020, arXiv:1904.09751)
    top_k        only so many of the likeliest; None: all
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None


def cut(
    p: Float[Tensor, "rows tokens"], *, top_k: int | None = None, top_p: float = 1.0, min_p: float = 0.0
) -> Float[Tensor, "rows tokens"]:
    """The same with what may not come at 0 (rows need not sum to 1 then): top_k, top_p, then min_p, each of what is left."""
    if top_k is not None and top_k < p.shape[-1]:
        least = p.topk(top_k, dim=-1).values[:, -1:]
        p = p.where(p >= least, 0.0)
    if top_p < 1:
        ordered, order = p.sort(dim=-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        kept = before < top_p * ordered.sum(-1, keepdim=True)
        p = p.where(torch.zeros_like(kept).scatter_(-1, order, kept), 0.0)
    if min_p > 0:
        p = p.where(p >= min_p * p.amax(-1, keepdim=True), 0.0)
    return p


def draw(weights: Float[Tensor, "rows tokens"], drawn: Float[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """The first token at which the weights so far are more than `drawn` (in [0, 1)) of all weights."""
    so_far = weights.double().cumsum(-1)
    # The largest number below 1 could be rounded up to 1.
    target = drawn.double().clamp(max=1 - 1e-12)[:, None] * so_far[:, -1:]
    return torch.searchsorted(so_far, target, right=True)[:, 0]
