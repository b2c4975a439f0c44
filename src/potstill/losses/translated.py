"""Losses across tokenizers: the teacher's tokens are not the student's, and only spans of text are common to both.

A span begins and ends at a token boundary of both. At its beginning both have read the same text, so their distributions of what comes
next can be compared; over the whole of it both give the same text a likelihood. Each term is a sum over spans with their weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from potstill.errors import LossError
from potstill.losses.divergences import Divergence, ForwardKL
from potstill.losses.support import LOG_ZERO
from potstill.types import Head, HiddenStates, TranslatedTargets

_CHUNK_BYTES = 64 * 2**20
_LEAST_ROWS = 64
# Stands for log 1 where log(1 - p) is asked for: a certainty is off by less than fp32 can tell.
_LOG_ONE = -1e-9


@dataclass(frozen=True)
class SortedProbabilities:
    """Σ_i |p_(i) - q_(i)|, probabilities in falling order, the shorter vocabulary filled up with zeros: at the beginning of each span.

    The Universal Logit Distillation loss (Boizard et al. 2024, arXiv:2402.12030, eq. 5). It says how sure to be, never of what:
    it needs hard labels beside it.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        _check_temperature("temperature", self.temperature)


@dataclass(frozen=True)
class SpanLikelihood:
    """τ · KL between the teacher's and the student's answer to "does this span come next?": P = p(span)^(1/τ) against Q = q(span)^(1/τ).

    KL = P log(P/Q) + (1-P) log((1-P)/(1-Q)). Approximate likelihood matching (Minixhofer et al. 2025, arXiv:2503.20083, sec. 3), which
    has τ = 100 and no factor τ: with it the size of the loss doesn't fall with τ, and for large τ it tends to a log(a/b) - a + b, a and
    b the surprises in nats. A span counts once, with the mean weight of its predictions. That a tokenization knows something of the text
    behind the span is not corrected for.
    """

    tau: float = 100.0

    def __post_init__(self) -> None:
        _check_temperature("tau", self.tau)


@dataclass(frozen=True)
class MatchedTokens:
    """T²·D(p ‖ q) over the tokens that both have and one event "any other", plus `unmatched` · Σ|p_(i) - q_(i)| over the other tokens.

    At the beginning of spans that are one token of both. In the manner of TRL's GOLD, whose matched part is no distribution. Where one
    of the two has no other tokens there is no such event, and both are taken as given that a common token comes. With equal tokenizers
    it is the plain loss.
    """

    divergence: Divergence = field(default_factory=ForwardKL)
    temperature: float = 1.0
    unmatched: float = 0.0

    def __post_init__(self) -> None:
        _check_temperature("temperature", self.temperature)
        if not (self.unmatched >= 0 and math.isfinite(self.unmatched)):
            raise LossError(f"unmatched is a weight, finite and at least 0, found {self.unmatched}")


@dataclass(frozen=True)
class TranslatedLoss:
    """L = α·X + (1-α)·CE(y, q): X is how a teacher of another tokenizer is listened to, CE the student's own, at every prediction.

    X is there at marked spans only, and the sum is divided by the weight of all predictions.
    """

    how: SortedProbabilities | SpanLikelihood | MatchedTokens
    alpha: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 <= self.alpha <= 1.0:
            raise LossError(f"alpha is the share of the teacher, between 0 and 1, found {self.alpha}")

    @property
    def needs_teacher(self) -> bool:
        """Whether the teacher is asked."""
        return self.alpha > 0


def translated_sum(
    student: HiddenStates,
    targets: TranslatedTargets,
    tokens: Int[Tensor, " predictions"],
    weights: Float[Tensor, " predictions"],
    how: SortedProbabilities | SpanLikelihood | MatchedTokens,
    *,
    chunk_rows: int | None = None,
) -> Float[Tensor, ""]:
    """Σ weight · X over the spans, differentiable once in the student's hidden states and head."""
    wide = torch.float64 if student.rows.dtype == torch.float64 else torch.float32
    largest = max(student.head.num_tokens, targets.head.num_tokens)
    chunk = chunk_rows or max(_LEAST_ROWS, _CHUNK_BYTES // (4 * largest))
    weights = weights.to(wide)
    marked = (targets.student_spans >= 0).nonzero().flatten()
    if isinstance(how, SpanLikelihood):
        return _likelihood(_chosen(student, marked), targets, tokens[marked], weights[marked], how, chunk)
    ours, theirs = _first(targets.student_spans[marked]), _first(targets.spans)
    if isinstance(how, MatchedTokens):
        is_one = (torch.bincount(targets.student_spans[marked]) == 1) & (torch.bincount(targets.spans) == 1)
        ours, theirs = ours[is_one], theirs[is_one]
    ours = marked[ours]
    weights, matches = weights[ours], targets.matches

    def term(logits: Tensor, here: slice) -> Tensor:
        with torch.no_grad():
            other = targets.head.logits(targets.rows[theirs[here]]).to(logits.dtype)
        if isinstance(how, SortedProbabilities):
            values = _sorted_distance((other / how.temperature).softmax(-1), (logits / how.temperature).softmax(-1))
        else:
            values = _matched(other, logits, matches, how)
        return weights[here] * values

    return _sum_over_rows(_chosen(student, ours), term, chunk)


def _sorted_distance(p: Float[Tensor, "rows _"], q: Float[Tensor, "rows _"]) -> Float[Tensor, " rows"]:
    """Σ |p_(i) - q_(i)|."""
    p, q = (one.sort(-1, descending=True).values for one in (p, q))
    both = min(p.shape[-1], q.shape[-1])
    return (p[:, :both] - q[:, :both]).abs().sum(-1) + p[:, both:].sum(-1) + q[:, both:].sum(-1)


def _matched(
    other: Float[Tensor, "rows _"], logits: Float[Tensor, "rows _"], matches: Int[Tensor, " _"], how: MatchedTokens
) -> Float[Tensor, " rows"]:
    theirs = (matches >= 0).nonzero().flatten()
    ours = matches[theirs]
    is_other = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device).index_fill(0, ours, False)
    log_p, log_q = ((one / how.temperature).log_softmax(-1) for one in (other, logits))
    log_p = log_p.clamp_min(LOG_ZERO)
    other_p, other_q = log_p[:, matches < 0], log_q[:, is_other]
    log_p, log_q = log_p[:, theirs], log_q[:, ours]
    if other_p.shape[-1] and other_q.shape[-1]:
        rest = [one.logsumexp(-1, keepdim=True) for one in (other_p, other_q)]
        log_p, log_q = torch.cat([log_p, rest[0]], -1), torch.cat([log_q, rest[1]], -1)
    else:
        log_p, log_q = log_p.log_softmax(-1), log_q.log_softmax(-1)
    values = how.temperature**2 * how.divergence(log_p, log_q)
    if how.unmatched and other_q.shape[-1]:
        values = values + how.unmatched * _sorted_distance(other_p.exp(), other_q.exp())
    return values


def _likelihood(
    student: HiddenStates,
    targets: TranslatedTargets,
    tokens: Int[Tensor, " marked"],
    weights: Float[Tensor, " marked"],
    how: SpanLikelihood,
    chunk: int,
) -> Float[Tensor, ""]:
    """A span's likelihood is a product over its tokens. First the value and its slope in each log-likelihood, then their gradient."""
    spans = targets.student_spans[targets.student_spans >= 0]
    with torch.no_grad():
        theirs = _log_likelihoods(HiddenStates(targets.rows, targets.head), targets.tokens, chunk)
        found = _log_likelihoods(student, tokens, chunk).to(weights.dtype)
    num_spans = int(spans.max()) + 1 if len(spans) else 0
    a = weights.new_zeros(num_spans).index_add(0, targets.spans, theirs.to(weights.dtype))
    sizes = torch.bincount(spans, minlength=num_spans)
    span_weights = weights.new_zeros(num_spans).index_add(0, spans, weights) / sizes
    with torch.enable_grad():
        leaf = found.requires_grad_()
        b = weights.new_zeros(num_spans).index_add(0, spans, leaf)
        value = (span_weights * _binary_kl(a, b, how.tau)).sum()
        (slope,) = torch.autograd.grad(value, leaf)

    def term(logits: Tensor, here: slice) -> Tensor:
        return slope[here] * _log_likelihood(logits, tokens[here])

    moving = _sum_over_rows(student, term, chunk)
    return value.detach() + (moving - moving.detach())


def _binary_kl(log_p: Float[Tensor, " spans"], log_q: Float[Tensor, " spans"], tau: float) -> Float[Tensor, " spans"]:
    """τ · KL of "yes" with these log-probabilities, each divided by τ, and "no"."""
    log_p, log_q = ((one / tau).clamp_max(_LOG_ONE) for one in (log_p, log_q))
    no_p, no_q = -torch.expm1(log_p), -torch.expm1(log_q)
    return tau * (log_p.exp() * (log_p - log_q) + no_p * (no_p.log() - no_q.log()))


def _log_likelihoods(states: HiddenStates, tokens: Int[Tensor, " rows"], chunk: int) -> Float[Tensor, " rows"]:
    parts = [
        _log_likelihood(states.head.logits(states.rows[start : start + chunk]), tokens[start : start + chunk])
        for start in range(0, max(1, len(tokens)), chunk)
    ]
    return torch.cat(parts)


def _log_likelihood(logits: Float[Tensor, "rows _"], tokens: Int[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    return logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


def _chosen(states: HiddenStates, which: Int[Tensor, " chosen"]) -> HiddenStates:
    return HiddenStates(states.rows[which], states.head)


def _first(spans: Int[Tensor, " rows"]) -> Int[Tensor, " spans"]:
    """Where each number of an ascending column stands first."""
    return (torch.diff(spans, prepend=spans.new_full((1,), -1)) > 0).nonzero().flatten()


def _sum_over_rows(states: HiddenStates, term: Callable[[Tensor, slice], Tensor], chunk: int) -> Float[Tensor, ""]:
    """Σ term(logits of a chunk, its rows), differentiable in the rows and the head: logits exist for a chunk at a time."""
    head = states.head
    needs_gradient = torch.is_grad_enabled()
    return _ChunkedSum.apply(states.rows, head.weight, head.bias, head, term, chunk, needs_gradient)  # type: ignore[no-any-return]


class _ChunkedSum(torch.autograd.Function):
    """The sum and, in the same pass, its gradients, which backward scales and hands on."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        head: Head,
        term: Callable[[Tensor, slice], Tensor],
        chunk: int,
        needs_gradient: bool,
    ) -> Tensor:
        wide = torch.promote_types(rows.dtype, torch.float32)
        given = [rows, weight] if bias is None else [rows, weight, bias]
        is_asked = [needs_gradient and asked for asked in ctx.needs_input_grad[: len(given)]]  # type: ignore[attr-defined]
        sums = [torch.zeros_like(one, dtype=wide) for one in given]
        total = rows.new_zeros((), dtype=wide)
        for start in range(0, len(rows), chunk):
            here = slice(start, min(start + chunk, len(rows)))
            with torch.set_grad_enabled(any(is_asked)):
                few, matrix, *vector = (
                    one.detach().requires_grad_(asked)
                    for one, asked in zip([rows[here], *given[1:]], is_asked, strict=True)
                )
                value = term(replace(head, weight=matrix, bias=vector[0] if vector else None).logits(few), here).sum()
            total += value.detach()
            leaves = [leaf for leaf in (few, matrix, *vector) if leaf.requires_grad]
            into = [one for one, asked in zip([sums[0][here], *sums[1:]], is_asked, strict=True) if asked]
            for one, found in zip(into, torch.autograd.grad(value, leaves) if leaves else (), strict=True):
                one.add_(found)
        found = [one.to(like.dtype) if asked else None for one, like, asked in zip(sums, given, is_asked, strict=True)]
        ctx.gradients = found if bias is not None else [*found, None]  # type: ignore[attr-defined]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        found = [None if one is None else one * grads[0].to(one.dtype) for one in ctx.gradients]  # type: ignore[attr-defined]
        return (*found, None, None, None, None)


def _check_temperature(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise LossError(f"{name} must be a finite number above 0, found {value}")
