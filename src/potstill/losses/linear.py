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
from potstill.losses.soft import SoftLabelLoss
from potstill.losses.support import in_dtype, num_rows, rows_of
from potstill.types import Head, HiddenStates, Loss, SoftTargets

# Of fp32 logits in a chunk. On a CPU what stays in the cache through a dozen passes over it (measured: 8,192 rows of 4,096
# tokens take 0.33 s in chunks of 8 MiB and 0.79 s in chunks of 32 MiB); elsewhere enough to keep the device busy.
_CHUNK_BYTES = {"cpu": 8 * 2**20}
_CHUNK_BYTES_ELSEWHERE = 256 * 2**20
_LEAST_ROWS = 128  # below it, reading the head's weight again for every chunk costs more than the cache saves


def linear_loss(
    student: HiddenStates,
    targets: SoftTargets | None,
    tokens: Int[Tensor, " predictions"],
    weights: Float[Tensor, " predictions"],
    measure: SoftLabelLoss,
    *,
    chunk_rows: int | None = None,
) -> Loss:
    """Σ weight · (α·T²·D + (1-α)·CE) over the predictions, differentiable in the hidden states and the head.

    The chunk size changes memory and speed, never a number beyond rounding. With no prediction at all the loss is a zero
    that is still connected to the student. Differentiable once.
    """
    for what, found in (("tokens", len(tokens)), ("weights", len(weights)), ("soft targets", _count(targets))):
        if found is not None and found != len(student.rows):
            raise LossError(f"the student predicts {len(student.rows)} tokens and there are {found} {what}")
    head = student.head
    wide = torch.float64 if student.rows.dtype == torch.float64 else torch.float32
    if chunk_rows is None:
        chunk_bytes = _CHUNK_BYTES.get(student.rows.device.type, _CHUNK_BYTES_ELSEWHERE)
        chunk_rows = max(_LEAST_ROWS, chunk_bytes // (4 * head.num_tokens))
    total, parts = _ChunkedLoss.apply(
        student.rows, head.weight, head.bias, head, targets, tokens, weights.to(wide), measure, chunk_rows
    )
    names = ["soft", "hard"] if measure.needs_teacher else ["hard"]
    return Loss(total, weights.to(wide).sum(), dict(zip(names, parts.unbind(), strict=True)))


def gradient_shares(
    student: HiddenStates,
    targets: SoftTargets | None,
    tokens: Int[Tensor, " predictions"],
    weights: Float[Tensor, " predictions"],
    measure: SoftLabelLoss,
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


class _ChunkedLoss(torch.autograd.Function):
    """(total, parts [terms]) and, in the same pass, the gradients of total that backward will scale and hand on."""

    @staticmethod
    def forward(  # the arguments are linear_loss's; autograd functions take tensors one by one
        ctx: torch.autograd.function.FunctionCtx,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        head: Head,
        targets: SoftTargets | None,
        tokens: Tensor,
        weights: Tensor,
        measure: SoftLabelLoss,
        chunk_rows: int,
    ) -> tuple[Tensor, Tensor]:
        wide, size, device = weights.dtype, head.num_tokens, rows.device.type
        narrow = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        needs_rows, needs_weight, needs_bias = ctx.needs_input_grad[:3]  # type: ignore[attr-defined]
        matrix = weight[:size].to(narrow)
        targets = None if targets is None else in_dtype(targets, narrow)
        grad_rows = torch.zeros_like(rows) if needs_rows else None
        grad_weight = torch.zeros(weight.shape, dtype=wide, device=rows.device) if needs_weight else None
        grad_bias = torch.zeros(bias.shape, dtype=wide, device=rows.device) if needs_bias and bias is not None else None
        total = torch.zeros((), dtype=wide, device=rows.device)
        parts = torch.zeros(1 + measure.needs_teacher, dtype=wide, device=rows.device)
        for start in range(0, len(rows), chunk_rows):
            stop = min(start + chunk_rows, len(rows))
            states = rows[start:stop].to(narrow)
            products = (states @ matrix.T).to(wide)
            with torch.enable_grad(), torch.autocast(device, enabled=False):
                products.requires_grad_(needs_rows or needs_weight or needs_bias)
                chunk_targets = None if targets is None else rows_of(targets, start, stop)
                terms = measure.terms(head.shape(products), chunk_targets, tokens[start:stop])
                sums = torch.stack([(weights[start:stop] * value).sum() for _, value in terms.values()])
                shares = sums.new_tensor([share for share, _ in terms.values()])
                loss = (shares * sums).sum()
            total += loss.detach()
            parts += sums.detach()
            if not products.requires_grad:
                continue
            (grad,) = torch.autograd.grad(loss, products)
            narrow_grad = grad.to(narrow)
            if grad_rows is not None:
                grad_rows[start:stop] = narrow_grad @ matrix
            if grad_weight is not None:
                grad_weight[:size] += narrow_grad.T @ states
            if grad_bias is not None:
                grad_bias[:size] += grad.sum(0)
        ctx.save_for_backward(grad_rows, grad_weight, grad_bias)  # type: ignore[arg-type]  # None is kept as None
        ctx.mark_non_differentiable(parts)
        ctx.dtypes = (rows.dtype, weight.dtype, None if bias is None else bias.dtype)  # type: ignore[attr-defined]
        return total, parts

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: torch.autograd.function.FunctionCtx, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        gradients = [
            None if saved is None else (saved * grads[0].to(saved.dtype)).to(dtype)
            for saved, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)  # type: ignore[attr-defined]
        ]
        return (*gradients, None, None, None, None, None, None)


def _count(targets: SoftTargets | None) -> int | None:
    return None if targets is None else num_rows(targets)
