"""The distillation loss of Hinton, Vinyals and Dean (2015): soft labels at a temperature, mixed with hard labels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from potstill.errors import LossError
from potstill.losses.divergences import Divergence, ForwardKL
from potstill.losses.mixing import settled
from potstill.losses.support import TeacherLogits, shared_events
from potstill.types import MixedTargets, SoftTargets, SparseTargets


@dataclass(frozen=True)
class SoftLabelLoss:
    """L = α·T²·D(p_T ‖ q_T) + (1-α)·CE(y, q_1), a row.

    divergence   how the two distributions are compared
    temperature  T, of both softmaxes; T² multiplies value and gradient, and keeps the gradient of a KL about the same
                 size whatever T (Hinton et al. 2015, section 2)
    alpha        α, the share of the soft labels: 1 = only the teacher, 0 = only hard labels (no teacher is asked)
    """

    divergence: Divergence = field(default_factory=ForwardKL)
    temperature: float = 1.0
    alpha: float = 1.0

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise LossError(f"temperature must be a finite number above 0, found {self.temperature}")
        if not 0.0 <= self.alpha <= 1.0:
            raise LossError(f"alpha is the share of the soft labels, between 0 and 1, found {self.alpha}")

    @property
    def needs_teacher(self) -> bool:
        """Whether soft targets are looked at."""
        return self.alpha > 0

    def terms(
        self,
        logits: Float[Tensor, "rows tokens"],
        targets: SoftTargets | TeacherLogits | None,
        tokens: Int[Tensor, " rows"],
    ) -> dict[str, tuple[float, Float[Tensor, " rows"]]]:
        """Each term as (its share of the loss, its value a row): "soft" = T²·D if it counts, "hard" = CE always, in nats.

        At alpha = 1 the cross-entropy has no share and carries no gradient: it is there to be looked at.
        """
        terms = {}
        if self.alpha > 0:
            if targets is None:
                raise LossError(f"alpha is {self.alpha:g}, so soft targets are needed, and there are none")
            if isinstance(targets, MixedTargets):
                targets = settled(targets, self.temperature)
            if isinstance(targets, SparseTargets) and targets.is_sampled and not self.divergence.takes_samples:
                raise LossError(
                    f"{type(self.divergence).__name__} can't learn from sampled soft labels, whose average is right only under "
                    "forward KL: use forward KL, or labels with a rest event (top-k) or dense ones"
                )
            log_p, log_q = shared_events(logits, targets, self.temperature)
            terms["soft"] = (self.alpha, self.temperature**2 * self.divergence(log_p, log_q))
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.alpha < 1):
            hard = logits.logsumexp(-1) - logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        terms["hard"] = (1 - self.alpha, hard)
        return terms


HARD_LABELS = SoftLabelLoss(alpha=0.0)
