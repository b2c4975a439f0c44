"""What a teacher says of a few predictions, on its way into the store: logits, probabilities, and the sums that describe them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Of each document, in this order, in nats where they are nats.
SUMS = ("entropy", "nll", "hits", "collision")


@dataclass
class Observed:
    """logits, probs [predictions, tokens] in fp32 at temperature 1; whoever encodes may overwrite both. rows: the hidden states."""

    logits: Tensor
    probs: Tensor
    rows: Tensor

    def probs_at(self, temperature: float) -> Tensor:
        """The softmax at a temperature, to be overwritten."""
        return self.probs if temperature == 1.0 else torch.softmax(self.logits / temperature, -1)


def observe(logits: Tensor, rows: Tensor, tokens: Tensor) -> tuple[Observed, NDArray[np.float64]]:
    """(what is encoded, [predictions, 4] of SUMS): entropy of the teacher; its surprise at the true token; whether that is its
    likeliest; the probability that two draws from it are the same."""
    largest = logits.amax(-1)
    probs = torch.softmax(logits, -1)
    # The largest probability of a row is 1 / Σ e^(logits - max): its logarithm loses nothing.
    log_sum = largest - probs.amax(-1).log()
    at_target = logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    entropy = log_sum - torch.linalg.vecdot(probs, logits)
    if bool(entropy.isnan().any()):  # 0 · -inf: a token that is impossible adds nothing
        entropy = log_sum - torch.linalg.vecdot(probs, logits.clamp_min(torch.finfo(logits.dtype).min))
    collision = torch.linalg.vector_norm(probs, dim=-1).square()
    sums = [entropy, log_sum - at_target, at_target == largest, collision]
    return Observed(logits, probs, rows), torch.stack([value.double() for value in sums], -1).cpu().numpy()
