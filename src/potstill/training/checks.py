"""What is worth knowing before the first step: that the pipeline itself adds nothing, and who pulls how hard."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from potstill.errors import ModelError
from potstill.losses import Measure, gradient_shares, linear_loss
from potstill.models import hidden_states
from potstill.types import Batch, DenseTargets, HiddenStates, Teacher

# Of the loss an untrained student would have: what rounding alone may leave when teacher and student are one.
_ROUNDING = 1e-3


@dataclass(frozen=True)
class SelfCheck:
    """The student's loss terms at step 0 (nats a token), each one's share of the gradient, and what is left of the soft
    term's value and gradient when the teacher is its own student (None for a teacher without dense targets)."""

    terms: dict[str, float]
    shares: dict[str, float]
    own_loss: float | None
    own_gradient: float | None


def self_check(
    student: PreTrainedModel, teacher: Teacher | None, batch: Batch, measure: Measure, *, dtype: torch.dtype
) -> SelfCheck:
    """Run the loss once on a small batch without learning; ModelError when student = teacher doesn't give zero.

    Masks, the shift, the head and the vocabulary slicing of teacher and student all have to agree for that zero.
    """
    device = batch.inputs.device
    tokens, weights = batch.targets[batch.counted], batch.weights[batch.counted]
    size = None if teacher is None else teacher.num_tokens
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        targets = teacher.label(batch) if teacher is not None and measure.needs_teacher else None
        states = hidden_states(student, batch, size=size)
        loss = linear_loss(states, targets, tokens, weights, measure)
        shares = gradient_shares(states, targets, tokens, weights, measure)
        own_loss = own_gradient = None
        if isinstance(targets, DenseTargets):
            rows = targets.rows.detach().clone().requires_grad_()
            itself = HiddenStates(rows, targets.head)
            alone = replace(measure, alpha=1.0)
            own = linear_loss(itself, targets, tokens, weights, alone)
            own.total.backward()
            scale = linear_loss(itself, None, tokens, weights, replace(measure, alpha=0.0)).total
            own_loss = (own.total / own.weight).item()
            own_gradient = 0.0 if rows.grad is None else (rows.grad.double().norm() / own.weight).item()
            if not abs(own.total.item()) <= _ROUNDING * scale.item():
                raise ModelError(
                    f"the teacher as its own student has a loss of {own_loss:.3g} nats a token where it must have 0: "
                    "the loss and this model don't fit together, please report the model's type"
                )
    terms = {name: (part / loss.weight).item() for name, part in loss.parts.items()}
    return SelfCheck(terms, shares, own_loss, own_gradient)
