"""From hidden states to the loss and its gradient without ever holding [predictions, vocabulary].

A chunk of rows at a time: logits, loss, and already the gradient, taken in the forward pass. Three matmuls of the student's
head and one of the teacher's, the fewest there can be; a checkpointed chunk would need four and two. The matmuls run in the
model's dtype (autocast's, where it is on), the row mathematics in fp32 (fp64 for fp64 models), and the gradient of the head's
weight is accumulated in that same wide type.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from potstill.errors import LossError
from potstill.losses.engine import Engine, Needs, Work
from potstill.losses.soft import HARD_LABELS, SoftLabelLoss
from potstill.losses.support import num_rows
from potstill.losses.translated import TranslatedLoss, translated_sum
from potstill.losses.workspace import Workspace
from potstill.types import HiddenStates, Labels, Loss, TranslatedTargets

# How labels become a loss: over the student's tokens, or across tokenizers.
Measure = SoftLabelLoss | TranslatedLoss


def linear_loss(
    student: HiddenStates,
    targets: Labels | None,
    tokens: Int[Tensor, " predictions"],
    weights: Float[Tensor, " predictions"],
    measure: Measure,
    *,
    chunk_rows: int | None = None,
    workspace: Workspace | None = None,
    compiled: bool = False,
) -> Loss:
    """Σ weight · (α·T²·D + (1-α)·CE) over the predictions, differentiable in the hidden states and the head.

    The chunk size changes memory and speed, never a number beyond rounding. A `workspace` that is kept from call to call
    saves getting the memory anew. `compiled` sends the row mathematics through torch.compile: for GPUs, where each of its
    passes goes through memory. With no prediction at all the loss is a zero that is still connected to the student.
    Differentiable once.
    """
    for what, found in (("tokens", len(tokens)), ("weights", len(weights)), ("soft targets", _count(targets))):
        if found is not None and found != len(student.rows):
            raise LossError(f"the student predicts {len(student.rows)} tokens and there are {found} {what}")
    if isinstance(measure, TranslatedLoss):
        return _with_translated(student, targets, tokens, weights, measure, chunk_rows, workspace)
    if isinstance(targets, TranslatedTargets):
        raise LossError(
            "the teacher's labels are in another tokenizer's tokens: a loss for those is needed (TranslatedLoss)"
        )
    head = student.head
    wide = torch.float64 if student.rows.dtype == torch.float64 else torch.float32
    kind = student.rows.device.type
    job = Work(
        head,
        targets if measure.needs_teacher else None,
        measure,
        # Known here only: inside an autograd function the one is always off and the other must be.
        learns=torch.is_grad_enabled(),
        narrow=torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else head.weight.dtype,
        chunk_rows=chunk_rows,
        workspace=workspace or Workspace(),
        compiled=compiled,
    )
    total, parts = _ChunkedLoss.apply(student.rows, head.weight, head.bias, tokens, weights.to(wide), job)
    names = ["soft", "hard"] if measure.needs_teacher else ["hard"]
    return Loss(total, weights.to(wide).sum(), dict(zip(names, parts.unbind(), strict=True)))


def gradient_shares(
    student: HiddenStates,
    targets: Labels | None,
    tokens: Int[Tensor, " predictions"],
    weights: Float[Tensor, " predictions"],
    measure: Measure,
) -> dict[str, float]:
    """The share of the gradient (by norm, at the hidden states) that each term of the loss has; they sum to 1."""
    norms = {}
    for name, share in (("soft", measure.alpha), ("hard", 1 - measure.alpha)):
        if share == 0:
            continue
        rows = student.rows.detach().requires_grad_()
        detached = HiddenStates(rows, replace(student.head, weight=student.head.weight.detach()))
        alone = replace(measure, alpha=1.0 if name == "soft" else 0.0)
        linear_loss(detached, targets, tokens, weights, alone).total.backward()
        norms[name] = share * (0.0 if rows.grad is None else rows.grad.double().norm().item())
    total = sum(norms.values())
    return {name: norm / total if total else 0.0 for name, norm in norms.items()}


def _with_translated(
    student: HiddenStates,
    targets: Labels | None,
    tokens: Int[Tensor, " predictions"],
    weights: Float[Tensor, " predictions"],
    measure: TranslatedLoss,
    chunk_rows: int | None,
    workspace: Workspace | None,
) -> Loss:
    """α·X + (1-α)·CE; at alpha = 1 the cross-entropy is there to be looked at."""
    with torch.set_grad_enabled(torch.is_grad_enabled() and measure.alpha < 1):
        hard = linear_loss(student, None, tokens, weights, HARD_LABELS, chunk_rows=chunk_rows, workspace=workspace)
    if not measure.needs_teacher:
        return hard
    if not isinstance(targets, TranslatedTargets):
        raise LossError("a loss across tokenizers needs the labels of a TranslatedTeacher")
    soft = translated_sum(student, targets, tokens, weights, measure.how, chunk_rows=chunk_rows)
    total = measure.alpha * soft + ((1 - measure.alpha) * hard.total if measure.alpha < 1 else 0.0)
    return Loss(total, hard.weight, {"soft": soft.detach(), **hard.parts})


class _ChunkedLoss(torch.autograd.Function):
    """(total, parts [terms]) and, in the same pass, the gradients of total that backward will scale and hand on."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        tokens: Tensor,
        weights: Tensor,
        job: Work,
    ) -> tuple[Tensor, Tensor]:
        needs = Needs(*(job.learns and asked for asked in ctx.needs_input_grad[:3]))  # type: ignore[attr-defined]
        with torch.autocast(rows.device.type, enabled=False):
            engine = Engine(rows, weight, bias, weights, job, needs)
            total, parts = engine.run(tokens, by_hand=True)
            # A probability of zero makes the short way's value infinite or NaN; the long way has a floor for it.
            if job.measure.needs_teacher and not bool(torch.isfinite(total)):
                total, parts = engine.run(tokens, by_hand=False)
        # Ours alone, and handed on once: scaled in place, so that backward neither gets nor copies memory.
        ctx.gradients = engine.gradients  # type: ignore[attr-defined]
        ctx.mark_non_differentiable(parts)
        ctx.dtypes = (rows.dtype, weight.dtype, None if bias is None else bias.dtype)  # type: ignore[attr-defined]
        return total, parts

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: torch.autograd.function.FunctionCtx, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        if (found := ctx.gradients) is None:  # type: ignore[attr-defined]
            raise LossError(
                "the gradient of this loss was already handed on: call linear_loss anew instead of backward twice"
            )
        ctx.gradients = None  # type: ignore[attr-defined]
        gradients = [
            None if one is None else one.mul_(grads[0].to(one.dtype)).to(dtype)
            for one, dtype in zip(found, ctx.dtypes, strict=True)  # type: ignore[attr-defined]
        ]
        return (*gradients, None, None, None)


def _count(targets: Labels | None) -> int | None:
    if isinstance(targets, TranslatedTargets):
        return len(targets.student_spans)
    return None if targets is None else num_rows(targets)
