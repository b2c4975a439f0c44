"""How the positions of a context stand to each other, in student and teacher: a product for each two positions, in chunks.

Attention is queries beside keys, MiniLM's relations are queries beside queries and so on: the same sums for all of them. Contexts are
taken one by one, so nothing is compared across them and padding isn't there. Of the products of a context, [heads, positions,
positions], only a chunk exists at a time: its gradient is taken in the forward pass, as in linear.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

# kl: KL(teacher's distribution ‖ student's). scores: mean square of the products' difference. probabilities: of the distributions'.
Comparison = Literal["kl", "scores", "probabilities"]
# Products of one model in a chunk, at most (a position's are never divided).
_CHUNK_ENTRIES = 2**21


@dataclass(frozen=True)
class Relation:
    """`left` beside `right`: position i stands to j as scale · left_i · right_j, in each head."""

    left: Float[Tensor, "positions heads channels"]
    right: Float[Tensor, "positions heads channels"]
    scale: float = 1.0


def relation_distance(
    student: Relation,
    teacher: Relation,
    contexts: Int[Tensor, " contexts"],
    comparison: Comparison,
    *,
    causal: bool,
    chunk_entries: int = _CHUNK_ENTRIES,
) -> Float[Tensor, ""]:
    """The sum over positions of the mean over heads of a position's distance; differentiable in the student, once or more.

    A position stands to all of its context, or, if causal, to itself and those before it. kl is in nats, a sum over positions it stands
    to; the two mean squares are means over them.
    """
    job = _Job(
        teacher, student.scale, tuple(contexts.tolist()), comparison, causal, chunk_entries, torch.is_grad_enabled()
    )
    return _InChunks.apply(student.left, student.right, job)


@dataclass(frozen=True)
class _Job:
    teacher: Relation
    scale: float
    contexts: tuple[int, ...]
    comparison: Comparison
    causal: bool
    chunk_entries: int
    learns: bool

    def chunks(self) -> list[tuple[slice, slice]]:
        """(positions that stand to others, those they may stand to)."""
        found, start, heads = [], 0, self.teacher.left.shape[1]
        for size in self.contexts:
            rows = max(1, self.chunk_entries // (heads * size))
            for first in range(start, start + size, rows):
                last = min(first + rows, start + size)
                found.append((slice(first, last), slice(start, last if self.causal else start + size)))
            start += size
        return found

    def value(self, left: Tensor, right: Tensor, here: slice, there: slice) -> Tensor:
        """Of one chunk."""
        ours = self.scale * torch.einsum("ihc,jhc->hij", left, right)
        theirs = self.teacher.scale * torch.einsum("ihc,jhc->hij", self.teacher.left[here], self.teacher.right[there])
        places = torch.arange(there.start, there.stop, device=left.device)
        seen = torch.ones(ours.shape[1:], dtype=torch.bool, device=left.device)
        if self.causal:
            seen = places <= torch.arange(here.start, here.stop, device=left.device)[:, None]
        if self.comparison != "scores":
            ours, theirs = (products.masked_fill(~seen, -torch.inf).log_softmax(-1) for products in (ours, theirs))
        match self.comparison:
            case "kl":
                each = theirs.exp() * (theirs - ours).masked_fill(~seen, 0.0)
                return each.sum() / len(each)
            case "probabilities":
                each = (ours.exp() - theirs.exp()).square()
            case "scores":
                each = (ours - theirs).square() * seen
        return (each.sum(-1) / seen.sum(-1)).sum() / len(each)


class _InChunks(torch.autograd.Function):
    """The value, and in the same pass the gradients that backward scales."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, left: Tensor, right: Tensor, job: _Job) -> Tensor:  # type: ignore[override]
        needs = [job.learns and asked for asked in ctx.needs_input_grad[:2]]  # type: ignore[attr-defined]
        gradients = [torch.zeros_like(one) if asked else None for one, asked in zip((left, right), needs, strict=True)]
        total = left.new_zeros(())
        with torch.autocast(left.device.type, enabled=False):
            for here, there in job.chunks():
                first = left[here].detach().requires_grad_(needs[0])
                second = right[there].detach().requires_grad_(needs[1])
                with torch.set_grad_enabled(any(needs)):
                    value = job.value(first, second, here, there)
                total += value.detach()
                learning = [one for one in (first, second) if one.requires_grad]
                found = iter(torch.autograd.grad(value, learning) if learning else ())
                for gradient, part in zip(gradients, (here, there), strict=True):
                    if gradient is not None:
                        gradient[part] += next(found)
        ctx.gradients = gradients  # type: ignore[attr-defined]
        return total

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        found = ctx.gradients  # type: ignore[attr-defined]
        return (*(None if one is None else one * grads[0] for one in found), None)
