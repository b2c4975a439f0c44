"""Losses and their gradients in the logits, derived by hand and worked out in place, a few rows at a time.

Each function takes the student's logits z [rows, tokens] and leaves in them the gradient of

    pull · T²·D(p ‖ q) / T  +  hold · CE-without-its-target          (the target's part is one number a row, put in by the caller)

with q = softmax(z / T): at T = 1 the hard labels' softmax is the same q, so both terms share it (hold = 1-α); elsewhere hold is 0.
What a divergence costs is passes over [rows, tokens]: two exponentials, and as few others as there are. The definitions are those
of divergences.py; that both give the same numbers is tested for every divergence, kind of targets and dtype.

Where a probability is zero (a teacher's logit of -inf, a rest that underflows), the value is not finite, and the caller takes the
long way instead (automatic differentiation, in engine.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from potstill.losses.divergences import ForwardKL, JensenShannon, ReverseKL
from potstill.losses.soft import SoftLabelLoss
from potstill.losses.support import LOG_ZERO
from potstill.types import SoftTargets, SparseTargets

Logits = Float[Tensor, "rows tokens"]
PerRow = Float[Tensor, " rows"]


@dataclass(frozen=True)
class Pulls:
    """How strongly the gradient of the soft term and the softmax of the hard term enter: pull and hold above."""

    pull: float
    hold: float


# (student's logits, to be overwritten by the gradient; teacher's logits, to be overwritten; memory of the same shape; pulls)
# -> (divergence a row, log-sum-exp of the student's logits a row)
DenseRows = Callable[[Logits, Logits, Logits, Pulls], tuple[PerRow, PerRow]]


def dense_rows(measure: SoftLabelLoss) -> DenseRows | None:
    """The hand-derived form of this divergence for dense targets, where there is one."""
    match measure.divergence:
        case ForwardKL() | JensenShannon(beta=0.0):
            return _forward_kl_
        case ReverseKL() | JensenShannon(beta=1.0):
            return _reverse_kl_
        case JensenShannon(beta=beta):
            return lambda z, t, p, pulls: _jensen_shannon_(z, t, p, pulls, beta)
    return None


def has_sparse_rows(measure: SoftLabelLoss, targets: SoftTargets) -> bool:
    """Whether `sparse_rows_` knows this divergence for these targets."""
    is_forward = isinstance(measure.divergence, ForwardKL) or measure.divergence == JensenShannon(0.0)
    return (
        isinstance(targets, SparseTargets)
        and is_forward
        and (measure.divergence.takes_samples or not targets.is_sampled)
    )


def hard_rows_(z: Logits, pulls: Pulls) -> PerRow:
    """Hard labels alone: z becomes hold · q. The log-sum-exp a row."""
    log_sum = _softmax_(z)
    if pulls.hold != 1.0:
        z.mul_(pulls.hold)
    return log_sum


def _forward_kl_(z: Logits, t: Logits, p: Logits, pulls: Pulls) -> tuple[PerRow, PerRow]:
    """KL(p ‖ q) = Σ p (t - z) - log Σ e^t + log Σ e^z; its gradient in z is q - p."""
    log_sum_t = _softmax_(t, out=p)
    t.sub_(z)
    divergence = torch.linalg.vecdot(p, t)
    log_sum_z = _softmax_(z)
    if pulls.pull + pulls.hold != 1.0:
        z.mul_(pulls.pull + pulls.hold)
    z.sub_(p, alpha=pulls.pull)
    return divergence - log_sum_t + log_sum_z, log_sum_z


def _reverse_kl_(z: Logits, t: Logits, p: Logits, pulls: Pulls) -> tuple[PerRow, PerRow]:
    """KL(q ‖ p) = Σ q a with a = log q - log p; its gradient in z is q (a - KL)."""
    log_sum_t = _softmax_(t, out=p)
    _clamp_(t, log_sum_t)
    torch.sub(z, t, out=t)
    log_sum_z = _softmax_(z)
    shift = log_sum_t - log_sum_z
    divergence = torch.linalg.vecdot(z, t) + shift
    # z = q · (pull (d + shift - KL) + hold)
    if pulls.pull != 1.0:
        t.mul_(pulls.pull)
    t.add_((pulls.pull * (shift - divergence) + pulls.hold).unsqueeze(-1))
    z.mul_(t)
    return divergence, log_sum_z


def _jensen_shannon_(z: Logits, t: Logits, p: Logits, pulls: Pulls, beta: float) -> tuple[PerRow, PerRow]:
    """Σ p log(p/m) / (1-β) + Σ q log(q/m) / β with m = βp + (1-β)q; its gradient in z is q (g - Σ q g), g = log(q/m) / β."""
    log_sum_t = _softmax_(t, out=p)
    log_sum_z = _log_sum_exp(z)
    t.sub_(log_sum_t.unsqueeze(-1))
    z.sub_(log_sum_z.unsqueeze(-1))
    t.clamp_min_(LOG_ZERO)
    # log m = log p + log(β + (1-β) e^(log q - log p)) would need another exponential; m itself may only underflow where both do.
    q = z.exp()
    log_m = torch.add(beta * p, q, alpha=1 - beta).clamp_min_(torch.finfo(z.dtype).tiny).log_()
    from_p = torch.linalg.vecdot(p, t.sub_(log_m)) / (1 - beta)
    z.sub_(log_m)
    from_q = torch.linalg.vecdot(q, z) / beta
    z.mul_(pulls.pull / beta).add_((pulls.hold - pulls.pull * from_q).unsqueeze(-1)).mul_(q)
    return from_p + from_q, log_sum_z


def sparse_rows_(z: Logits, targets: SparseTargets, pulls: Pulls) -> tuple[PerRow, PerRow]:
    """Forward KL over listed tokens, and "any other token" where there is a rest; its gradient in z is mass · q - p, with a
    rest q (mass - rest / q_rest) on what is not listed. (divergence, log-sum-exp) a row."""
    unused = targets.ids < 0
    ids, probs = targets.ids.clamp_min(0), targets.probs.to(z.dtype).masked_fill(unused, 0.0)
    listed = z.gather(-1, ids)
    log_sum = _softmax_(z)
    log_q = listed - log_sum.unsqueeze(-1)
    divergence = (probs * (probs.log().clamp_min(LOG_ZERO) - log_q)).sum(-1)
    mass = probs.sum(-1)
    if targets.rest is None:
        z.mul_((pulls.pull * mass + pulls.hold).unsqueeze(-1))
        z.scatter_add_(-1, ids, -pulls.pull * probs)
        return divergence, log_sum
    rest = targets.rest.to(z.dtype)
    mass = mass + rest
    # Zero where listed; an unused slot points at token 0 and multiplies it by one.
    z.scatter_reduce_(-1, ids, unused.to(z.dtype), "prod")
    q_rest = z.sum(-1)
    divergence = divergence + torch.where(rest > 0, rest * (rest.log() - q_rest.log()), 0.0)
    tiny = torch.finfo(z.dtype).tiny
    z.mul_((pulls.pull * (mass - rest / q_rest.clamp_min(tiny)) + pulls.hold).unsqueeze(-1))
    pulled = (pulls.pull * mass + pulls.hold).unsqueeze(-1) * log_q.exp() - pulls.pull * probs
    z.scatter_add_(-1, ids, pulled.masked_fill(unused, 0.0))
    return divergence, log_sum


def _softmax_(logits: Logits, out: Logits | None = None) -> PerRow:
    """softmax(logits) into `out` (or in place); log Σ e^logits a row, in the logits' own precision.

    The largest probability of a row is 1 / Σ e^(logits - max), at least 1 / tokens: its logarithm loses nothing.
    """
    largest = logits.amax(-1)
    probabilities = torch.softmax(logits, -1, out=logits if out is None else out)
    return largest - probabilities.amax(-1).log()


def _log_sum_exp(logits: Logits) -> PerRow:
    return logits.logsumexp(-1)


def _clamp_(t: Logits, log_sum: PerRow) -> None:
    """log p is nowhere below LOG_ZERO, as in support.py."""
    torch.maximum(t, (log_sum + LOG_ZERO).unsqueeze(-1), out=t)
