"""Teachers that know nothing but the text: what is left of a teacher's worth when only its uncertainty stays."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from potstill.errors import LossError
from potstill.losses.support import logits_of
from potstill.types import Batch, DenseTargets, Head, MixedTargets, SoftTargets, SparseTargets


@dataclass(frozen=True)
class SmoothingTeacher:
    """Label smoothing as a teacher (Szegedy et al. 2016): 1 - share on the true token, share spread evenly over all tokens.

    Learning from it is the control that tells a teacher's knowledge from its mere uncertainty (Yuan et al. 2020, arXiv:1909.11723).
    `temperature`: what its labels say they are of, so that they take a teacher's place in a loss.
    """

    num_tokens: int
    share: float
    temperature: float = 1.0

    def label(self, batch: Batch) -> MixedTargets:
        """The smoothed true tokens of the counted predictions."""
        true = batch.targets[batch.counted].unsqueeze(1)
        ones = torch.ones(true.shape, device=true.device)
        label = SparseTargets(true, ones, torch.zeros(len(true), device=true.device), self.temperature)
        uniform = DenseTargets(torch.zeros_like(ones), Head(torch.zeros(self.num_tokens, 1, device=true.device)))
        return MixedTargets((label, uniform), torch.cat([(1 - self.share) * ones, self.share * ones], 1))


def smoothing_of_entropy(entropy: float, num_tokens: int) -> float:
    """The share at which smoothed labels are as uncertain: their entropy, in nats, is this one."""
    if not 0 <= entropy <= math.log(num_tokens) * (1 + 1e-6):
        raise LossError(
            f"the entropy over {num_tokens:,} tokens lies between 0 and {math.log(num_tokens):.3f} nats, found {entropy:g}"
        )
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _entropy(middle, num_tokens) < entropy else (low, middle)
    return (low + high) / 2


def entropies(targets: SoftTargets, temperature: float = 1.0) -> Float[Tensor, " predictions"]:
    """Of whole distributions, in nats; LossError for listed tokens, whose rest says nothing of itself."""
    found = []
    for logits in logits_of(targets, temperature):
        log_p = (logits / temperature).log_softmax(-1)
        found.append(-(log_p.exp() * log_p).sum(-1))
    return torch.cat(found) if found else torch.zeros(0)


def _entropy(share: float, num_tokens: int) -> float:
    other = share / num_tokens
    true = 1 - share + other
    return -true * math.log(true) - ((num_tokens - 1) * other * math.log(other) if other > 0 else 0.0)
