"""Teacher and student as probabilities of the same events.

A divergence needs two distributions over one set of events. Dense targets: every token is an event. Top-k targets: each
listed token is an event, and "any other token" is one more, so both sides still sum to one, the divergence is a true one
(never negative, zero exactly where the student agrees on these events) and a lower bound of the full divergence. Sampled
targets: the listed tokens with their weights, an unbiased estimate of every p-weighted sum; only divergences that are
linear in p may use it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from potstill.errors import LossError
from potstill.losses.mixing import check_size, mixed_logits, settled
from potstill.types import DenseTargets, Head, Labels, MixedTargets, SoftTargets, SparseTargets, TranslatedTargets

# Stands for log 0: exp(LOG_ZERO) is 0 in every floating point type, and 0 * LOG_ZERO is 0 where 0 * -inf would be NaN.
LOG_ZERO = -1e4
_FEW_ROWS = 256


@dataclass(frozen=True)
class TeacherLogits:
    """Dense targets of a few rows whose matmul is done: `head.shape(products)` are the teacher's logits."""

    products: Float[Tensor, "rows tokens"]
    head: Head


def over_students_tokens(labels: Labels) -> SoftTargets:
    """The same labels; LossError where they are over the tokens of another tokenizer."""
    if isinstance(labels, TranslatedTargets):
        raise LossError(
            "labels over the tokens of another tokenizer have losses of their own (TranslatedLoss), and go with no others"
        )
    return labels


def shared_events(
    logits: Float[Tensor, "rows tokens"], targets: SoftTargets | TeacherLogits, temperature: float
) -> tuple[Float[Tensor, "rows events"], Float[Tensor, "rows events"]]:
    """(log p of the teacher, log q of the student) over the same events, both at this temperature.

    Raises LossError when sparse targets were taken at another temperature, or when the vocabularies differ in size.
    """
    log_q = (logits / temperature).log_softmax(-1)
    if isinstance(targets, MixedTargets):
        targets = settled(targets, temperature)
    if isinstance(targets, MixedTargets):
        products = mixed_logits(targets, temperature)
        targets = TeacherLogits(products, Head(products))
    if isinstance(targets, DenseTargets | TeacherLogits):
        is_dense = isinstance(targets, DenseTargets)
        shaped = targets.head.logits(targets.rows) if is_dense else targets.head.shape(targets.products)
        teacher_logits = shaped.to(logits.dtype)
        check_size(teacher_logits.shape[-1], logits.shape[-1])
        return (teacher_logits / temperature).log_softmax(-1).clamp_min(LOG_ZERO), log_q
    if targets.temperature != temperature:
        raise LossError(
            f"these soft labels were taken at temperature {targets.temperature:g} and the loss asks for {temperature:g}: "
            "a few probabilities can't be moved to another temperature; set the loss to theirs or label again"
        )
    return _listed_events(log_q, targets)


def _listed_events(
    log_q: Float[Tensor, "rows tokens"], targets: SparseTargets
) -> tuple[Float[Tensor, "rows events"], Float[Tensor, "rows events"]]:
    unused = targets.ids < 0
    log_p = targets.probs.to(log_q.dtype).log().clamp_min(LOG_ZERO)
    listed_log_q = log_q.gather(-1, targets.ids.clamp_min(0)).masked_fill(unused, LOG_ZERO)
    log_p = log_p.masked_fill(unused, LOG_ZERO)
    if targets.rest is None:
        return log_p, listed_log_q
    # One more column takes the unused slots; the sum over the others is taken directly, since 1 - sum of the listed
    # loses every digit when the student is confident.
    num_tokens = log_q.shape[-1]
    is_listed = torch.zeros(len(log_q), num_tokens + 1, dtype=torch.bool, device=log_q.device)
    is_listed.scatter_(1, targets.ids.masked_fill(unused, num_tokens), True)
    other_log_q = log_q.masked_fill(is_listed[:, :-1], LOG_ZERO).logsumexp(-1, keepdim=True)
    other_log_p = targets.rest.to(log_q.dtype).log().clamp_min(LOG_ZERO).unsqueeze(-1)
    return torch.cat([log_p, other_log_p], -1), torch.cat([listed_log_q, other_log_q], -1)


def rows_of(targets: SoftTargets, start: int, stop: int) -> SoftTargets:
    """The targets of the predictions [start, stop) alone."""
    if isinstance(targets, MixedTargets):
        parts = tuple(_rows_of(part, start, stop) for part in targets.parts)
        return MixedTargets(parts, targets.weights[start:stop], targets.of)
    return _rows_of(targets, start, stop)


def in_dtype(targets: SoftTargets, dtype: torch.dtype) -> SoftTargets:
    """Dense targets whose matmul runs in this dtype, so that the teacher's logits are rounded as the student's are."""
    if isinstance(targets, MixedTargets):
        return replace(targets, parts=tuple(_in_dtype(part, dtype) for part in targets.parts))
    return _in_dtype(targets, dtype)


def logits_of(targets: SoftTargets, temperature: float) -> Iterator[Float[Tensor, "rows tokens"]]:
    """Of whole distributions, a few rows at a time: logits whose softmax at this temperature they are.

    LossError for listed tokens, of whose rest nothing is known.
    """
    targets = settled(targets, temperature)
    if isinstance(targets, SparseTargets):
        raise LossError("a few listed tokens are not the whole distribution: ask a live teacher")
    for start in range(0, num_rows(targets), _FEW_ROWS):
        some = rows_of(targets, start, start + _FEW_ROWS)
        if isinstance(some, DenseTargets):
            yield some.head.logits(some.rows)
        else:
            assert isinstance(some, MixedTargets)
            yield mixed_logits(some, temperature)


def num_rows(targets: SoftTargets) -> int:
    """How many predictions these targets are for."""
    match targets:
        case DenseTargets():
            return len(targets.rows)
        case SparseTargets():
            return len(targets.ids)
        case MixedTargets():
            return len(targets.weights)


def _rows_of(part: DenseTargets | SparseTargets, start: int, stop: int) -> DenseTargets | SparseTargets:
    if isinstance(part, DenseTargets):
        return DenseTargets(part.rows[start:stop], part.head)
    rest = None if part.rest is None else part.rest[start:stop]
    return SparseTargets(part.ids[start:stop], part.probs[start:stop], rest, part.temperature)


def _in_dtype(part: DenseTargets | SparseTargets, dtype: torch.dtype) -> DenseTargets | SparseTargets:
    if not isinstance(part, DenseTargets):
        return part
    head = replace(part.head, weight=part.head.weight[: part.head.num_tokens].to(dtype))
    return DenseTargets(part.rows.to(dtype), head)
