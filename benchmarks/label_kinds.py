"""What others keep of a distribution, as a store of each kind would give it back; for store.py and store_students.py."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# log-probabilities [predictions, tokens] -> ids, probabilities [predictions, listed], and bytes of all of them
Sparse = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor, float]]


def independent_draws(count: int) -> Sparse:
    """RS-KD: draws with replacement, equal weights; 3 bytes for each different token."""

    def kept(logprobs: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor, float]:
        ids = torch.multinomial(logprobs.exp(), count, replacement=True, generator=draw).sort(-1).values
        different = 1 + (ids.diff(dim=-1) != 0).sum(-1)
        return ids, torch.full(ids.shape, 1 / count), 3.0 * different.sum().item()

    return kept


def renormalised(k: int) -> Sparse:
    """The k likeliest, their probabilities made to sum to 1; fp16 values, 16-bit ids."""

    def kept(logprobs: Tensor, _: torch.Generator) -> tuple[Tensor, Tensor, float]:
        values, ids = logprobs.topk(k)
        return ids, values.softmax(-1), 4.0 * k * len(ids)

    return kept


def distillkit(k: int = 128, exact: int = 16) -> Sparse:
    """The 16 likeliest in bfloat16, the other 112 by a least-squares fit over their rank (1, t, t², t³, t⁴, √t), all as the
    distribution: its missing mass is none (renormalised)."""
    rank = torch.arange(k - exact, dtype=torch.float64)
    basis = torch.stack([rank**power for power in (0, 1, 2, 3, 4, 0.5)], -1)
    fit = basis @ torch.linalg.pinv(basis)

    def kept(logprobs: Tensor, _: torch.Generator) -> tuple[Tensor, Tensor, float]:
        values, ids = logprobs.topk(k)
        rest = (values[:, exact:].double() @ fit.T).float()
        values = torch.cat([values[:, :exact].bfloat16().float(), rest], -1)
        return ids, values.softmax(-1), len(ids) * (k * 16 / 8 + exact * 2 + 6 * 4)

    return kept
