"""A teacher for tests: no model, no file, and a distribution one can write down."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from potstill.types import Batch, DenseTargets, Head


@dataclass(frozen=True)
class FakeTeacher:
    """Believes something fixed and random about what follows each token, whatever stands before it.

    num_tokens  how many tokens get a probability
    width       of its hidden states
    seed        of its opinions
    sharpness   the standard deviation of its logits: 0 is uniform, 5 is sure
    """

    num_tokens: int
    width: int = 16
    seed: int = 0
    sharpness: float = 3.0

    def label(self, batch: Batch) -> DenseTargets:
        """One row of fp32 hidden states for each counted prediction, which depends on the token just read."""
        states, weight = (table.to(batch.inputs.device) for table in self._tables)
        return DenseTargets(states[batch.inputs[batch.counted]], Head(weight))

    @cached_property
    def _tables(self) -> tuple[Float[Tensor, "tokens width"], Float[Tensor, "tokens width"]]:
        generator = torch.Generator().manual_seed(self.seed)
        states = torch.randn(self.num_tokens, self.width, generator=generator)
        # The variance of a logit is the sum of `width` products of variance 1 and sharpness^2 / width.
        weight = torch.randn(self.num_tokens, self.width, generator=generator) * self.sharpness / self.width**0.5
        return states, weight
