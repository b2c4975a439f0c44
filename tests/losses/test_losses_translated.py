"""Losses across tokenizers against slow references in fp64: a loop over spans, written from the papers, and automatic differentiation."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from potstill.errors import LossError
from potstill.losses import (
    HARD_LABELS,
    ForwardKL,
    JensenShannon,
    MatchedTokens,
    ReverseKL,
    SoftLabelLoss,
    SortedProbabilities,
    SpanLikelihood,
    TranslatedLoss,
    gradient_shares,
    linear_loss,
)
from potstill.types import DenseTargets, Head, HiddenStates, TranslatedTargets

OURS, THEIRS, WIDTH = 11, 7, 5
# Seven predictions of the student in four spans, and eight of the teacher's.
STUDENT_SPANS = torch.tensor([-1, 0, 1, 1, -1, 2, 3])
SPANS = torch.tensor([0, 1, 2, 2, 3, 3, 3])
MATCHES = torch.tensor([3, -1, 0, 10, -1, 5, -1])
HOWS = [
    SortedProbabilities(),
    SortedProbabilities(temperature=2.0),
    SpanLikelihood(),
    SpanLikelihood(tau=1.0),
    MatchedTokens(),
    MatchedTokens(ReverseKL(), temperature=1.5, unmatched=0.7),
    MatchedTokens(JensenShannon(0.3), unmatched=0.2),
]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def student_states(*, softcap: float | None = None) -> HiddenStates:
    head = Head(
        random(OURS + 2, WIDTH, seed=2).requires_grad_(), random(OURS + 2, seed=3).requires_grad_(), 1.3, softcap, OURS
    )
    return HiddenStates(random(7, WIDTH, seed=1).requires_grad_(), head)


def teacher_says(matches: torch.Tensor = MATCHES, tokens: int = THEIRS) -> TranslatedTargets:
    chosen = torch.randint(tokens, (7,), generator=torch.Generator().manual_seed(6))
    return TranslatedTargets(
        random(7, 4, seed=4), Head(random(tokens, 4, seed=5)), chosen, SPANS, STUDENT_SPANS, matches
    )


TOKENS = torch.randint(OURS, (7,), generator=torch.Generator().manual_seed(7))
WEIGHTS = torch.tensor([1.0, 0.5, 2.0, 1.0, 1.0, 3.0, 1.0])


def reference(student: HiddenStates, targets: TranslatedTargets, how) -> torch.Tensor:
    """Span by span, without any care for memory or speed."""
    log_q = student.head.logits(student.rows).log_softmax(-1)
    logits, others = student.head.logits(student.rows), targets.head.logits(targets.rows)
    log_p = others.log_softmax(-1)
    total = torch.zeros((), dtype=torch.float64)
    for span in range(4):
        ours = [n for n in range(7) if STUDENT_SPANS[n] == span]
        theirs = [n for n in range(7) if SPANS[n] == span]
        match how:
            case SpanLikelihood(tau):
                p = math.exp(sum(log_p[n, targets.tokens[n]] for n in theirs) / tau)
                q = (sum(log_q[n, TOKENS[n]] for n in ours) / tau).exp()
                kl = p * (math.log(p) - q.log()) + (1 - p) * (math.log(1 - p) - (1 - q).log())
                total = total + WEIGHTS[ours].mean() * tau * kl
            case SortedProbabilities(temperature):
                total = total + WEIGHTS[ours[0]] * distance(
                    others[theirs[0]] / temperature, logits[ours[0]] / temperature
                )
            case MatchedTokens(divergence, temperature, unmatched):
                if len(ours) > 1 or len(theirs) > 1:
                    continue
                p, q = ((row / temperature).softmax(-1) for row in (others[theirs[0]], logits[ours[0]]))
                pairs = [(theirs, int(ours)) for theirs, ours in enumerate(targets.matches) if ours >= 0]
                both_p, both_q = (torch.stack([row[pair[k]] for pair in pairs]) for k, row in enumerate((p, q)))
                rest_p = torch.tensor([p[n] for n in range(THEIRS) if targets.matches[n] < 0])
                rest_q = torch.stack([q[n] for n in range(OURS) if n not in targets.matches.tolist()])
                events = [
                    torch.cat([both, rest.sum()[None]]).log()[None]
                    for both, rest in ((both_p, rest_p), (both_q, rest_q))
                ]
                value = temperature**2 * divergence(*events)[0] + unmatched * distance(
                    rest_p.log(), rest_q.log(), renormalise=False
                )
                total = total + WEIGHTS[ours[0]] * value
    return total


def distance(p: torch.Tensor, q: torch.Tensor, *, renormalise: bool = True) -> torch.Tensor:
    p, q = (one.softmax(-1) if renormalise else one.exp() for one in (p, q))
    longest = max(len(p), len(q))
    p, q = (torch.cat([one.sort(descending=True).values, torch.zeros(longest - len(one))]) for one in (p, q))
    return (p - q).abs().sum()


def gradients(student: HiddenStates) -> list[torch.Tensor]:
    found = []
    for one in (student.rows, student.head.weight, student.head.bias):
        assert one is not None
        assert one.grad is not None
        found.append(one.grad)
    return found


@pytest.mark.parametrize("chunk_rows", [None, 1, 2])
@pytest.mark.parametrize("how", HOWS, ids=str)
def test_value_and_gradients_are_the_references(how, chunk_rows):
    targets, mine, theirs = teacher_says(), student_states(softcap=4.0), student_states(softcap=4.0)
    loss = linear_loss(mine, targets, TOKENS, WEIGHTS, TranslatedLoss(how, alpha=0.6), chunk_rows=chunk_rows)
    (3 * loss.total).backward()
    soft = reference(theirs, targets, how)
    hard = linear_loss(theirs, None, TOKENS, WEIGHTS, HARD_LABELS)
    (3 * (0.6 * soft + 0.4 * hard.total)).backward()
    torch.testing.assert_close(loss.parts["soft"], soft.detach(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(loss.parts["hard"], hard.total.detach())
    assert loss.weight == WEIGHTS.sum()
    for one, other in zip(gradients(mine), gradients(theirs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("how", HOWS, ids=str)
def test_the_gradient_is_that_of_small_steps(how):
    targets = teacher_says()
    direction = random(7, WIDTH, seed=9)

    def value(step: float) -> float:
        student = student_states()
        moved = HiddenStates(student.rows.detach() + step * direction, student.head)
        return linear_loss(moved, targets, TOKENS, WEIGHTS, TranslatedLoss(how, alpha=1.0)).total.item()

    student = student_states()
    linear_loss(student, targets, TOKENS, WEIGHTS, TranslatedLoss(how, alpha=1.0)).total.backward()
    assert student.rows.grad is not None
    slope = (student.rows.grad * direction).sum().item()
    assert (value(1e-5) - value(-1e-5)) / 2e-5 == pytest.approx(slope, rel=1e-4, abs=1e-8)


def same(spans: torch.Tensor, *, tokens: torch.Tensor) -> tuple[HiddenStates, TranslatedTargets, DenseTargets]:
    """A teacher that is its student, with one tokenizer."""
    student = student_states()
    marked = spans >= 0
    rows, head = (
        student.rows.detach(),
        replace(student.head, weight=student.head.weight.detach(), bias=student.head.bias.detach()),
    )
    targets = TranslatedTargets(rows[marked], head, tokens[marked], spans[marked], spans, torch.arange(OURS))
    return student, targets, DenseTargets(rows, head)


@pytest.mark.parametrize("how", HOWS, ids=str)
def test_there_is_nothing_to_learn_from_oneself(how):
    student, targets, _ = same(torch.arange(7), tokens=TOKENS)
    loss = linear_loss(student, targets, TOKENS, WEIGHTS, TranslatedLoss(how, alpha=1.0))
    loss.total.backward()
    assert loss.total.item() == pytest.approx(0.0, abs=1e-9)
    assert max(float(one.abs().max()) for one in gradients(student)) < 1e-7


@pytest.mark.parametrize(
    ("divergence", "temperature"), [(ForwardKL(), 1.0), (ForwardKL(), 2.0), (JensenShannon(0.4), 1.0)]
)
@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_equal_tokenizers_give_the_plain_loss(divergence, temperature, alpha):
    _, targets, dense = same(torch.arange(7), tokens=TOKENS)
    other = Head(random(OURS, WIDTH, seed=20))
    targets, dense = replace(targets, head=other), replace(dense, head=other)
    found = []
    for labels, measure in (
        (targets, TranslatedLoss(MatchedTokens(divergence, temperature, unmatched=0.5), alpha)),
        (dense, SoftLabelLoss(divergence, temperature, alpha)),
    ):
        student = student_states()
        loss = linear_loss(student, labels, TOKENS, WEIGHTS, measure)
        loss.total.backward()
        found.append([loss.total.detach(), loss.parts["soft"], loss.parts["hard"], *gradients(student)])
    for one, another in zip(*found, strict=True):
        torch.testing.assert_close(one, another, rtol=1e-9, atol=1e-12)


def test_a_vocabulary_within_the_other_is_compared_given_a_common_token():
    within = torch.tensor([3, 1, 0, 10, 2, 5, 4])  # every token of the teacher's is one of the student's
    student, targets = student_states(), teacher_says(within)
    loss = linear_loss(student, targets, TOKENS, WEIGHTS, TranslatedLoss(MatchedTokens(), alpha=1.0))
    p = targets.head.logits(targets.rows[:1]).log_softmax(-1)
    q = student.head.logits(student.rows[1:2])[:, within].log_softmax(-1)
    torch.testing.assert_close(loss.parts["soft"], 0.5 * ForwardKL()(p, q)[0].detach())


def test_large_tau_tends_to_its_limit():
    student, targets = student_states(), teacher_says()
    found = linear_loss(student, targets, TOKENS, WEIGHTS, TranslatedLoss(SpanLikelihood(1e6), alpha=1.0)).parts["soft"]
    log_p, log_q = (one.head.logits(one.rows).log_softmax(-1) for one in (targets, student))
    expected = torch.zeros((), dtype=torch.float64)
    for span in range(4):
        a = -sum(log_p[n, targets.tokens[n]] for n in range(7) if SPANS[n] == span)
        b = -sum(log_q[n, TOKENS[n]] for n in range(7) if STUDENT_SPANS[n] == span)
        expected = expected + WEIGHTS[span == STUDENT_SPANS].mean() * (a * (a / b).log() - a + b)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-8)


def test_certainty_on_either_side_stays_finite():
    student, targets = student_states(), teacher_says()
    for one, tokens in ((student, TOKENS), (targets, targets.tokens)):
        sure = torch.zeros(7, one.head.num_tokens, dtype=torch.float64).scatter(1, tokens[:, None], 1e4)
        certain = replace(
            one, rows=sure.requires_grad_(), head=Head(torch.eye(one.head.num_tokens, dtype=torch.float64))
        )
        said, says = (certain, targets) if one is student else (student, certain)
        loss = linear_loss(said, says, TOKENS, WEIGHTS, TranslatedLoss(SpanLikelihood(), alpha=1.0))
        loss.total.backward()
        assert loss.total.isfinite()
        assert said.rows.grad is not None
        assert said.rows.grad.isfinite().all()


def test_nothing_marked_is_a_zero_that_is_still_connected():
    for how in HOWS:
        student = student_states()
        nothing = torch.full((7,), -1)
        targets = TranslatedTargets(random(0, 4), Head(random(THEIRS, 4)), nothing[:0], nothing[:0], nothing, MATCHES)
        loss = linear_loss(student, targets, TOKENS, WEIGHTS, TranslatedLoss(how, alpha=1.0))
        assert loss.total.item() == 0.0
        loss.total.backward()
        assert all(not one.any() for one in gradients(student))


@pytest.mark.parametrize("how", HOWS, ids=str)
def test_nothing_flows_where_no_gradient_is_asked_for(how):
    with torch.no_grad():
        loss = linear_loss(student_states(), teacher_says(), TOKENS, WEIGHTS, TranslatedLoss(how))
    assert not loss.total.requires_grad


def test_the_control_has_no_teacher_and_shares_sum_to_one():
    measure = TranslatedLoss(SpanLikelihood(), alpha=0.0)
    loss = linear_loss(student_states(), None, TOKENS, WEIGHTS, measure)
    assert set(loss.parts) == {"hard"}
    shares = gradient_shares(student_states(), teacher_says(), TOKENS, WEIGHTS, TranslatedLoss(MatchedTokens(), 0.5))
    assert sum(shares.values()) == pytest.approx(1.0)
    assert min(shares.values()) > 0


def test_half_precision_is_near():
    student, targets, measure = student_states(), teacher_says(), TranslatedLoss(SpanLikelihood())
    narrow = HiddenStates(
        student.rows.detach().float(), replace(student.head, weight=student.head.weight.float(), bias=None)
    )
    wide = HiddenStates(student.rows.detach(), replace(student.head, bias=None))
    with torch.autocast("cpu", torch.bfloat16):
        found = linear_loss(narrow, targets, TOKENS, WEIGHTS, measure).total.item()
    assert found == pytest.approx(linear_loss(wide, targets, TOKENS, WEIGHTS, measure).total.item(), rel=0.05)


def test_what_does_not_go_together_is_refused():
    _, targets, dense = same(torch.arange(7), tokens=TOKENS)
    with pytest.raises(LossError, match="TranslatedTeacher"):
        linear_loss(student_states(), dense, TOKENS, WEIGHTS, TranslatedLoss(SpanLikelihood()))
    with pytest.raises(LossError, match="another tokenizer's tokens"):
        linear_loss(student_states(), targets, TOKENS, WEIGHTS, SoftLabelLoss())
    for make in (
        lambda: SpanLikelihood(0.0),
        lambda: MatchedTokens(unmatched=-1.0),
        lambda: SortedProbabilities(math.inf),
    ):
        with pytest.raises(LossError):
            make()
    with pytest.raises(LossError, match="between 0 and 1"):
        TranslatedLoss(SpanLikelihood(), alpha=1.5)
