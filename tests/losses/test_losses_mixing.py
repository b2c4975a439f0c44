"""Several teachers as one: the mean is what its formula says, and learning from it is learning from all of them."""

from __future__ import annotations

import pytest
import torch

from potstill.errors import LossError
from potstill.losses import DIVERGENCES, ForwardKL, SoftLabelLoss, Workspace, engine, linear_loss
from potstill.losses.mixing import settled
from potstill.types import DenseTargets, Head, HiddenStates, MixedTargets, SparseTargets

ROWS, TOKENS = 23, 71
WIDTHS = (8, 5, 12)


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def student_of(dtype: torch.dtype = torch.float64) -> HiddenStates:
    weight = normal(TOKENS, 6, seed=1).to(dtype).requires_grad_()
    return HiddenStates(normal(ROWS, 6, seed=2).to(dtype).requires_grad_(), Head(weight, scale=0.8))


def teacher_of(number: int, dtype: torch.dtype = torch.float64) -> DenseTargets:
    """Teachers of different widths, scales and paddings of the vocabulary."""
    width = WIDTHS[number]
    head = Head(normal(TOKENS + number, width, seed=10 + number).to(dtype), None, 0.5 + number / 4, size=TOKENS)
    return DenseTargets(normal(ROWS, width, seed=20 + number).to(dtype), head)


def weights_of(num_teachers: int, *, routed: bool = False) -> torch.Tensor:
    weights = normal(ROWS, num_teachers, seed=30).softmax(-1)
    return torch.nn.functional.one_hot(weights.argmax(-1), num_teachers).double() if routed else weights


def probs_of(part: DenseTargets, temperature: float) -> torch.Tensor:
    return (part.head.logits(part.rows) / temperature).softmax(-1)


def found(student: HiddenStates, targets, measure: SoftLabelLoss, **options) -> list[torch.Tensor]:
    tokens = torch.randint(0, TOKENS, (ROWS,), generator=torch.Generator().manual_seed(3))
    weights = normal(ROWS, seed=4).abs()
    loss = linear_loss(student, targets, tokens, weights.to(student.rows.dtype), measure, **options)
    gradients = torch.autograd.grad(loss.total, (student.rows, student.head.weight))
    return [tensor.detach().double() for tensor in (loss.total, *loss.parts.values(), *gradients)]


def assert_same(one: list[torch.Tensor], other: list[torch.Tensor], tolerance: float) -> None:
    for left, right in zip(one, other, strict=True):
        assert (left - right).norm() <= tolerance * right.norm().clamp_min(1e-3), (left, right)


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("of", ["probabilities", "logits"])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_a_mixture_is_the_teacher_that_its_formula_describes(name, of, temperature):
    parts, weights = tuple(teacher_of(number) for number in range(3)), weights_of(3)
    if of == "probabilities":
        mean = sum(w[:, None] * probs_of(part, temperature) for w, part in zip(weights.T, parts, strict=True))
        logits = temperature * mean.log()
    else:
        logits = sum(w[:, None] * part.head.logits(part.rows) for w, part in zip(weights.T, parts, strict=True))
    alone = DenseTargets(logits, Head(torch.eye(TOKENS, dtype=torch.float64)))
    measure = SoftLabelLoss(DIVERGENCES[name](), temperature, 0.7)
    mixed = found(student_of(), MixedTargets(parts, weights, of), measure, chunk_rows=7)
    assert_same(mixed, found(student_of(), alone, measure), 1e-10)


@pytest.mark.parametrize("routed", [False, True])
def test_adding_up_the_losses_of_all_teachers_has_the_same_gradient(routed):
    """Σ w KL(p ‖ q) and KL(Σ w p ‖ q) differ by a number without the student in it."""
    parts, weights = tuple(teacher_of(number) for number in range(3)), weights_of(3, routed=routed)
    student = student_of()
    log_q = student.head.logits(student.rows).log_softmax(-1)
    losses = [
        (w * (p * (p.log() - log_q)).sum(-1)).sum()
        for w, p in zip(weights.T, (probs_of(part, 1.0) for part in parts), strict=True)
    ]
    expected = torch.autograd.grad(torch.stack(losses).sum(), (student.rows, student.head.weight))
    tokens, ones = torch.zeros(ROWS, dtype=torch.int64), torch.ones(ROWS, dtype=torch.float64)
    loss = linear_loss(student, MixedTargets(parts, weights), tokens, ones, SoftLabelLoss())
    mixed = torch.autograd.grad(loss.total, (student.rows, student.head.weight))
    assert_same(list(mixed), list(expected), 1e-12)
    assert loss.total <= torch.stack(losses).sum() + 1e-12


@pytest.mark.parametrize("of", ["probabilities", "logits"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_one_teacher_of_weight_one_is_that_teacher(of, dtype):
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    for temperature in (1.0, 2.0):
        measure = SoftLabelLoss(ForwardKL(), temperature, 0.6)
        teacher = teacher_of(0, dtype)
        mixed = MixedTargets((teacher,), torch.ones(ROWS, 1), of)
        plain = found(student_of(dtype), teacher, measure)
        assert_same(found(student_of(dtype), mixed, measure), plain, tolerance)
        unheard = MixedTargets((teacher, teacher_of(1, dtype)), torch.tensor([[1.0, 0.0]]).repeat(ROWS, 1), of)
        assert_same(found(student_of(dtype), unheard, measure), plain, tolerance)


def test_a_mixture_of_the_student_with_itself_teaches_nothing():
    student = student_of()
    itself = DenseTargets(student.rows.detach(), Head(student.head.weight.detach(), scale=student.head.scale))
    for of in ("probabilities", "logits"):
        total, *_, rows, weight = found(student, MixedTargets((itself, itself), weights_of(2), of), SoftLabelLoss())
        assert abs(total) < 1e-10
        assert rows.norm() < 1e-10
        assert weight.norm() < 1e-10


def test_logits_of_all_predictions_never_exist(monkeypatch):
    monkeypatch.setattr(engine, "_CHUNK_BYTES", {"cpu": 0})
    monkeypatch.setattr(engine, "_LEAST_ROWS", 4)
    room = Workspace()
    parts = tuple(teacher_of(number) for number in range(3))
    found(student_of(), MixedTargets(parts, weights_of(3)), SoftLabelLoss(), workspace=room)
    # Student, one teacher at a time, the mixture, and the short way's p: of a chunk each, whatever the number of teachers.
    assert room.num_bytes <= 5 * 4 * TOKENS * 8


def sampled(part: DenseTargets, seed: int, slots: int = 12) -> SparseTargets:
    p = probs_of(part, 1.0)
    ids = torch.multinomial(p, slots, replacement=True, generator=torch.Generator().manual_seed(seed))
    return SparseTargets(ids, torch.full(ids.shape, 1 / slots, dtype=torch.float64), None)


def test_a_union_of_samples_is_as_unbiased_as_they_are():
    parts, weights = (teacher_of(0), teacher_of(1)), weights_of(2)
    expected = sum(w[:, None] * probs_of(part, 1.0) for w, part in zip(weights.T, parts, strict=True))
    mean, draws = torch.zeros(ROWS, TOKENS, dtype=torch.float64), 400
    for seed in range(draws):
        one = settled(MixedTargets(tuple(sampled(part, 2 * seed + n) for n, part in enumerate(parts)), weights), 1.0)
        assert isinstance(one, SparseTargets)
        assert torch.allclose(one.probs.sum(1), torch.ones(ROWS, dtype=torch.float64))
        listed = one.ids.clamp_min(0)
        mean.scatter_add_(1, listed, one.probs / draws)
    noise = (expected * (1 - expected) / (12 * draws)).sqrt()
    assert ((mean - expected).abs() <= 5 * noise + 1e-3).all()


def test_samples_of_several_teachers_pull_as_each_by_itself_would():
    parts, weights = tuple(sampled(teacher_of(n), n) for n in range(3)), weights_of(3)
    measure = SoftLabelLoss(alpha=1.0)
    student = student_of()
    log_q = student.head.logits(student.rows).log_softmax(-1)
    dense = torch.zeros(ROWS, TOKENS, dtype=torch.float64)
    for w, part in zip(weights.T, parts, strict=True):
        dense.scatter_add_(1, part.ids, w[:, None] * part.probs)
    expected = torch.autograd.grad(-(dense * log_q).sum(), (student.rows, student.head.weight))
    tokens, ones = torch.zeros(ROWS, dtype=torch.int64), torch.ones(ROWS, dtype=torch.float64)
    loss = linear_loss(student, MixedTargets(parts, weights), tokens, ones, measure)
    assert_same(list(torch.autograd.grad(loss.total, (student.rows, student.head.weight))), list(expected), 1e-12)


def top_k(part: DenseTargets, k: int) -> SparseTargets:
    probs, ids = probs_of(part, 1.0).topk(k)
    return SparseTargets(ids, probs, 1 - probs.sum(-1))


@pytest.mark.parametrize("routed", [False, True])
def test_likeliest_tokens_mix_on_what_all_teachers_list(routed):
    dense, weights = (teacher_of(0), teacher_of(1)), weights_of(2, routed=routed)
    parts = tuple(top_k(part, 40) for part in dense)
    one = settled(MixedTargets(parts, weights), 1.0)
    assert isinstance(one, SparseTargets)
    assert one.rest is not None
    mean = sum(w[:, None] * probs_of(part, 1.0) for w, part in zip(weights.T, dense, strict=True))
    for row in range(ROWS):
        lists = [set(part.ids[row].tolist()) for part, w in zip(parts, weights[row], strict=True) if w > 0]
        used = one.ids[row] >= 0
        assert set(one.ids[row, used].tolist()) == set.intersection(*lists)
        assert torch.allclose(one.probs[row, used], mean[row, one.ids[row, used]])
        assert (one.probs[row, ~used] == 0).all()
    assert torch.allclose(one.probs.sum(1) + one.rest, torch.ones(ROWS, dtype=torch.float64))


def test_a_true_label_mixes_with_a_teacher():
    """BAM's annealing and label smoothing: λ of the truth, 1 - λ of a whole distribution."""
    truth = torch.arange(ROWS) % TOKENS
    label = SparseTargets(truth[:, None], torch.ones(ROWS, 1, dtype=torch.float64), torch.zeros(ROWS).double())
    teacher, weights = teacher_of(0), weights_of(2)
    mean = weights[:, :1] * torch.nn.functional.one_hot(truth, TOKENS) + weights[:, 1:] * probs_of(teacher, 1.0)
    alone = DenseTargets(mean.log(), Head(torch.eye(TOKENS, dtype=torch.float64)))
    for divergence in ("forward_kl", "reverse_kl"):
        measure = SoftLabelLoss(DIVERGENCES[divergence]())
        mixed = found(student_of(), MixedTargets((label, teacher), weights), measure)
        assert_same(mixed, found(student_of(), alone, measure), 1e-10)


@pytest.mark.parametrize(
    ("parts", "of", "said"),
    [
        ((teacher_of(0), sampled(teacher_of(1), 0)), "probabilities", "several kinds"),
        ((top_k(teacher_of(0), 9), sampled(teacher_of(1), 0)), "probabilities", "several kinds"),
        ((top_k(teacher_of(0), 9), top_k(teacher_of(1), 9)), "logits", "needs the logits of all tokens"),
        ((teacher_of(0), DenseTargets(normal(ROWS, 4, seed=5), Head(normal(60, 4, seed=6)))), "logits", "60 tokens"),
    ],
)
def test_what_can_not_be_mixed_is_refused(parts, of, said):
    with pytest.raises(LossError, match=said):
        found(student_of(), MixedTargets(parts, weights_of(2), of), SoftLabelLoss())


def test_samples_serve_forward_kl_alone_in_a_mixture_too():
    parts = (sampled(teacher_of(0), 0), sampled(teacher_of(1), 1))
    with pytest.raises(LossError, match="can't learn from sampled"):
        found(student_of(), MixedTargets(parts, weights_of(2)), SoftLabelLoss(DIVERGENCES["reverse_kl"]()))
