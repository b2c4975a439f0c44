"""Divergences between a teacher p and a student q over the same events, from their log-probabilities.

Each is a frozen dataclass: its fields are its configuration, calling it gives one number a row, in nats, never negative
and zero exactly where p = q. Gradients flow to the student only, whatever side it stands on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from potstill.errors import LossError

LogProbabilities = Float[Tensor, "rows events"]
PerRow = Float[Tensor, " rows"]


@runtime_checkable
class Divergence(Protocol):
    """D(teacher, student) a row. `takes_samples`: linear in p, so an unbiased sample of p gives an unbiased gradient."""

    takes_samples: ClassVar[bool]

    def __call__(self, log_p: LogProbabilities, log_q: LogProbabilities) -> PerRow:
        """One number a row, in nats."""
        ...


@dataclass(frozen=True)
class ForwardKL:
    """KL(p ‖ q) = Σ p (log p - log q): the student covers all the teacher does (Hinton, Vinyals, Dean 2015)."""

    takes_samples: ClassVar[bool] = True

    def __call__(self, log_p: LogProbabilities, log_q: LogProbabilities) -> PerRow:
        """One number a row, in nats."""
        return (log_p.exp() * (log_p - log_q)).sum(-1)


@dataclass(frozen=True)
class ReverseKL:
    """KL(q ‖ p): the student seeks the teacher's modes (Gu et al. 2024, MiniLLM, arXiv:2306.08543)."""

    takes_samples: ClassVar[bool] = False

    def __call__(self, log_p: LogProbabilities, log_q: LogProbabilities) -> PerRow:
        """One number a row, in nats."""
        return (log_q.exp() * (log_q - log_p)).sum(-1)


@dataclass(frozen=True)
class JensenShannon:
    """[β KL(p ‖ m) + (1-β) KL(q ‖ m)] / (β(1-β)), m = βp + (1-β)q, with 0 ≤ β ≤ 1.

    The generalised Jensen-Shannon divergence of GKD (Agarwal et al. 2024, arXiv:2306.13649), divided by β(1-β): the
    undivided form vanishes at both ends, so the size of the loss would jump with β. Divided, β → 0 is exactly KL(p ‖ q)
    and β → 1 exactly KL(q ‖ p); at β = 1/2 it is four times the textbook value.
    """

    beta: float = 0.5
    takes_samples: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check("beta", self.beta, 0.0 <= self.beta <= 1.0, "between 0 (forward KL) and 1 (reverse KL)")

    def __call__(self, log_p: LogProbabilities, log_q: LogProbabilities) -> PerRow:
        """One number a row, in nats."""
        if self.beta in (0.0, 1.0):
            return (ReverseKL() if self.beta else ForwardKL())(log_p, log_q)
        log_m = torch.logaddexp(log_p + math.log(self.beta), log_q + math.log1p(-self.beta))
        p_to_m = (log_p.exp() * (log_p - log_m)).sum(-1)
        q_to_m = (log_q.exp() * (log_q - log_m)).sum(-1)
        return p_to_m / (1 - self.beta) + q_to_m / self.beta


@dataclass(frozen=True)
class SkewForwardKL:
    """KL(p ‖ λp + (1-λ)q): forward KL whose gradient stays bounded (Ko et al. 2024, DistiLLM, arXiv:2402.03898)."""

    skew: float = 0.1
    takes_samples: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check("skew", self.skew, 0.0 <= self.skew < 1.0, "at least 0 (forward KL) and below 1")

    def __call__(self, log_p: LogProbabilities, log_q: LogProbabilities) -> PerRow:
        """One number a row, in nats."""
        return (log_p.exp() * (log_p - _mixture(log_p, log_q, self.skew))).sum(-1)


@dataclass(frozen=True)
class SkewReverseKL:
    """KL(q ‖ λq + (1-λ)p): reverse KL that stays finite where the teacher says never (DistiLLM, arXiv:2402.03898)."""

    skew: float = 0.1
    takes_samples: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check("skew", self.skew, 0.0 <= self.skew < 1.0, "at least 0 (reverse KL) and below 1")

    def __call__(self, log_p: LogProbabilities, log_q: LogProbabilities) -> PerRow:
        """One number a row, in nats."""
        return (log_q.exp() * (log_q - _mixture(log_q, log_p, self.skew))).sum(-1)


@dataclass(frozen=True)
class TotalVariation:
    """½ Σ |p - q|, between 0 and 1 (Wen et al. 2023, f-distillation, arXiv:2307.15190)."""

    takes_samples: ClassVar[bool] = False

    def __call__(self, log_p: LogProbabilities, log_q: LogProbabilities) -> PerRow:
        """One number a row, between 0 and 1."""
        return (log_p.exp() - log_q.exp()).abs().sum(-1) / 2


@dataclass(frozen=True)
class AlphaBeta:
    """-1/(αβ) Σ [p^α q^β - α/(α+β) p^(α+β) - β/(α+β) q^(α+β)] (Cichocki et al. 2011; ABKD, Wang et al. 2025, arXiv:2505.04560).

    α weighs the teacher's confident events, β the student's. (1, 0) is forward KL, (0, 1) reverse KL, (½, ½) four times the
    squared Hellinger distance; where α or β is 0 the limit is taken.
    """

    alpha: float = 0.2
    beta: float = 0.7
    takes_samples: ClassVar[bool] = False

    def __post_init__(self) -> None:
        legal = self.alpha >= 0 and self.beta >= 0 and self.alpha + self.beta > 0
        _check("alpha, beta", (self.alpha, self.beta), legal, "not negative, and not both 0")

    def __call__(self, log_p: LogProbabilities, log_q: LogProbabilities) -> PerRow:
        """One number a row, in nats where α + β = 1."""
        a, b, total = self.alpha, self.beta, self.alpha + self.beta
        if b == 0.0:  # limit: Σ [p^α log(p^α/q^α) - p^α + q^α] / α²
            return (((a * log_p).exp() * (a * (log_p - log_q) - 1)) + (a * log_q).exp()).sum(-1) / a**2
        if a == 0.0:
            return (((b * log_q).exp() * (b * (log_q - log_p) - 1)) + (b * log_p).exp()).sum(-1) / b**2
        both, teacher, student = (a * log_p + b * log_q).exp(), (total * log_p).exp(), (total * log_q).exp()
        return (a / total * teacher + b / total * student - both).sum(-1) / (a * b)


DIVERGENCES: Mapping[str, type[Divergence]] = {
    "forward_kl": ForwardKL,
    "reverse_kl": ReverseKL,
    "jensen_shannon": JensenShannon,
    "skew_forward_kl": SkewForwardKL,
    "skew_reverse_kl": SkewReverseKL,
    "total_variation": TotalVariation,
    "alpha_beta": AlphaBeta,
}


def _mixture(log_first: LogProbabilities, log_second: LogProbabilities, share: float) -> LogProbabilities:
    if share == 0.0:
        return log_second
    return torch.logaddexp(log_first + math.log(share), log_second + math.log1p(-share))


def _check(name: str, value: object, is_legal: bool, range_in_words: str) -> None:
    if not is_legal:
        raise LossError(f"{name} must be {range_in_words}, found {value}")
