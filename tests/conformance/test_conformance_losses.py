"""The losses against closed forms in fp64, written here a second time, in numpy, from the papers.

The numbers are those of the conformance list: (1) gradient, (2) zero at the teacher, (3) temperature, (7) invariances,
(8) chunks, (9) bf16, (11) limits.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.errors import LossError
from potstill.losses import (
    DIVERGENCES,
    AlphaBeta,
    ForwardKL,
    JensenShannon,
    ReverseKL,
    SkewForwardKL,
    SkewReverseKL,
    SoftLabelLoss,
    TotalVariation,
    gradient_shares,
    linear_loss,
)
from potstill.types import DenseTargets, Head, HiddenStates, SparseTargets

ROWS, WIDTH, TOKENS = 23, 6, 31


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return (p * np.log(p / q)).sum(-1)


def jensen_shannon(p, q, beta):
    m = beta * p + (1 - beta) * q
    return (beta * kl(p, m) + (1 - beta) * kl(q, m)) / (beta * (1 - beta))


def alpha_beta(p, q, a, b):
    return -1 / (a * b) * (p**a * q**b - a / (a + b) * p ** (a + b) - b / (a + b) * q ** (a + b)).sum(-1)


# name: (ours, value(p, q), derivative of the value in q_i)
CLOSED_FORMS = {
    "forward_kl": (ForwardKL(), kl, lambda p, q: -p / q),
    "reverse_kl": (ReverseKL(), lambda p, q: kl(q, p), lambda p, q: np.log(q / p) + 1),
    "jensen_shannon": (
        JensenShannon(0.3),
        lambda p, q: jensen_shannon(p, q, 0.3),
        lambda p, q: np.log(q / (0.3 * p + 0.7 * q)) / 0.3,
    ),
    "skew_forward_kl": (
        SkewForwardKL(0.1),
        lambda p, q: kl(p, 0.1 * p + 0.9 * q),
        lambda p, q: -0.9 * p / (0.1 * p + 0.9 * q),
    ),
    "skew_reverse_kl": (
        SkewReverseKL(0.1),
        lambda p, q: kl(q, 0.1 * q + 0.9 * p),
        lambda p, q: np.log(q / (0.1 * q + 0.9 * p)) + 1 - 0.1 * q / (0.1 * q + 0.9 * p),
    ),
    "total_variation": (
        TotalVariation(),
        lambda p, q: np.abs(p - q).sum(-1) / 2,
        lambda p, q: np.sign(q - p) / 2,
    ),
    "alpha_beta": (
        AlphaBeta(0.2, 0.7),
        lambda p, q: alpha_beta(p, q, 0.2, 0.7),
        lambda p, q: -(p**0.2 * q ** (0.7 - 1) - q ** (0.9 - 1)) / 0.2,
    ),
}


@pytest.fixture
def draw():
    generator = torch.Generator().manual_seed(5)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture
def student(draw) -> HiddenStates:
    return HiddenStates(draw(ROWS, WIDTH).requires_grad_(), Head(draw(TOKENS, WIDTH).requires_grad_()))


@pytest.fixture
def teacher(draw) -> DenseTargets:
    return DenseTargets(draw(ROWS, WIDTH), Head(draw(TOKENS, WIDTH)))


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(0, TOKENS, (ROWS,), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def weights() -> torch.Tensor:
    return torch.rand(ROWS, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.1


def gradients(loss, student: HiddenStates) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.autograd.grad(loss.total, (student.rows, student.head.weight))


def numpy_of(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_value_and_gradient_are_the_closed_form(name, temperature, student, teacher, tokens, weights):
    ours, value, derivative = CLOSED_FORMS[name]
    measure = SoftLabelLoss(ours, temperature, alpha=0.7)
    loss = linear_loss(student, teacher, tokens, weights, measure, chunk_rows=7)
    rows_gradient, weight_gradient = gradients(loss, student)

    h, weight, w, y = map(numpy_of, (student.rows, student.head.weight, weights, tokens))
    z = h @ weight.T
    p = softmax(numpy_of(teacher.rows) @ numpy_of(teacher.head.weight).T / temperature)
    q, q1 = softmax(z / temperature), softmax(z)
    hard = -np.log(q1[np.arange(ROWS), y])
    expected = (w * (0.7 * temperature**2 * value(p, q) + 0.3 * hard)).sum()
    in_q = derivative(p, q)
    soft_in_z = q * (in_q - (q * in_q).sum(-1, keepdims=True)) / temperature
    in_z = w[:, None] * (0.7 * temperature**2 * soft_in_z + 0.3 * (q1 - np.eye(TOKENS)[y]))

    np.testing.assert_allclose(loss.total.item(), expected, rtol=1e-11)
    np.testing.assert_allclose(numpy_of(rows_gradient), in_z @ weight, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(numpy_of(weight_gradient), in_z.T @ h, rtol=1e-9, atol=1e-11)
    assert loss.weight.item() == pytest.approx(w.sum())
    np.testing.assert_allclose(loss.parts["hard"].item(), (w * hard).sum(), rtol=1e-11)


def test_forward_kl_at_a_temperature_pulls_with_t_times_the_difference(student, teacher, tokens, weights):
    """T² · KL has the gradient T (q - p): axolotl-like mistakes, which scale only the value, fail here."""
    for temperature in (1.0, 3.0):
        loss = linear_loss(student, teacher, tokens, weights, SoftLabelLoss(ForwardKL(), temperature))
        rows_gradient, _ = gradients(loss, student)
        z = numpy_of(student.rows) @ numpy_of(student.head.weight).T
        t = numpy_of(teacher.rows) @ numpy_of(teacher.head.weight).T
        in_z = temperature * numpy_of(weights)[:, None] * (softmax(z / temperature) - softmax(t / temperature))
        np.testing.assert_allclose(numpy_of(rows_gradient), in_z @ numpy_of(student.head.weight), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_gradient_is_the_finite_difference(name, student, teacher, tokens, weights):
    measure = SoftLabelLoss(CLOSED_FORMS[name][0], 1.7, alpha=0.6)
    gradient, _ = gradients(linear_loss(student, teacher, tokens, weights, measure), student)
    step, place = 1e-6, (4, 2)

    def moved(by: float) -> float:
        rows = student.rows.detach().clone()
        rows[place] += by
        return linear_loss(HiddenStates(rows, student.head), teacher, tokens, weights, measure).total.item()

    assert gradient[place].item() == pytest.approx((moved(step) - moved(-step)) / (2 * step), rel=1e-5)


def top_k_of(logits: torch.Tensor, k: int, temperature: float = 1.0) -> SparseTargets:
    probs, ids = (logits / temperature).softmax(-1).topk(k, -1)
    return SparseTargets(ids, probs, (1 - probs.sum(-1)).clamp_min(0), temperature)


@pytest.mark.parametrize("kind", ["dense", "top_k", "sampled"])
@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_student_equal_to_teacher_has_no_loss_and_no_gradient(name, kind, temperature, student, tokens, weights):
    divergence = DIVERGENCES[name]()
    logits = student.head.logits(student.rows).detach()
    targets = {
        "dense": DenseTargets(student.rows.detach(), Head(student.head.weight.detach())),
        "top_k": top_k_of(logits, 5, temperature),
        # Every token with its own probability is a sample too, and the only one without noise.
        "sampled": SparseTargets(
            torch.arange(TOKENS).expand(ROWS, -1), (logits / temperature).softmax(-1), None, temperature
        ),
    }[kind]
    if kind == "sampled" and not divergence.takes_samples:
        with pytest.raises(LossError, match="sampled"):
            linear_loss(student, targets, tokens, weights, SoftLabelLoss(divergence, temperature))
        return
    loss = linear_loss(student, targets, tokens, weights, SoftLabelLoss(divergence, temperature))
    assert abs(loss.total.item()) < 1e-10
    if name == "total_variation" and kind == "top_k":
        return  # |p - q| has a kink at p = q: any rounding of p picks a side, so only the value is zero
    for gradient in gradients(loss, student):
        assert gradient.abs().max().item() < 1e-9


def test_top_k_gradient_is_the_tail_bucket_and_a_lower_bound(student, teacher, tokens):
    weights = torch.ones(ROWS, dtype=torch.float64)
    logits = teacher.head.logits(teacher.rows)
    q = softmax(numpy_of(student.rows) @ numpy_of(student.head.weight).T)
    dense = linear_loss(student, teacher, tokens, weights, SoftLabelLoss()).total.item()
    last = 0.0
    for k in (1, 4, 12, TOKENS):
        targets = top_k_of(logits, k)
        loss = linear_loss(student, targets, tokens, weights, SoftLabelLoss())
        gradient, _ = gradients(loss, student)
        p, ids = numpy_of(targets.probs), numpy_of(targets.ids)
        listed = np.take_along_axis(q, ids, -1)
        p_mass, q_mass = p.sum(-1, keepdims=True), listed.sum(-1, keepdims=True)
        in_z = q * (p_mass - q_mass) / np.maximum(1 - q_mass, 1e-300) if k < TOKENS else np.zeros_like(q)
        np.put_along_axis(in_z, ids, listed - p, -1)
        np.testing.assert_allclose(numpy_of(gradient), in_z @ numpy_of(student.head.weight), rtol=1e-8, atol=1e-10)
        assert last - 1e-12 <= loss.total.item() <= dense + 1e-9
        last = loss.total.item()
    assert last == pytest.approx(dense, rel=1e-9)


def test_samples_are_unbiased(student, teacher, tokens):
    """The mean gradient of many samples of the teacher is the dense gradient, within its own standard error."""
    weights = torch.ones(ROWS, dtype=torch.float64)
    p = teacher.head.logits(teacher.rows).softmax(-1)
    draws, n = 400, 8
    generator = torch.Generator().manual_seed(9)
    found = []
    for _ in range(draws):
        ids = torch.multinomial(p, n, replacement=True, generator=generator)
        targets = SparseTargets(ids, torch.full((ROWS, n), 1 / n, dtype=torch.float64), None)
        found.append(gradients(linear_loss(student, targets, tokens, weights, SoftLabelLoss()), student)[0])
    found = torch.stack(found)
    dense = gradients(linear_loss(student, teacher, tokens, weights, SoftLabelLoss()), student)[0]
    error = (found.mean(0) - dense) / (found.std(0) / draws**0.5)
    assert error.abs().mean().item() < 1.0  # 0.8 is the mean of |N(0, 1)|
    assert error.abs().max().item() < 4.5


def test_unused_slots_change_nothing(student, teacher, tokens, weights):
    targets = top_k_of(teacher.head.logits(teacher.rows), 6)
    padded = SparseTargets(
        torch.cat([targets.ids, torch.full((ROWS, 3), -1)], -1),
        torch.cat([targets.probs, torch.zeros(ROWS, 3, dtype=torch.float64)], -1),
        targets.rest,
    )
    for divergence in (ForwardKL(), ReverseKL(), JensenShannon(), AlphaBeta()):
        plain = linear_loss(student, targets, tokens, weights, SoftLabelLoss(divergence))
        wide = linear_loss(student, padded, tokens, weights, SoftLabelLoss(divergence))
        assert wide.total.item() == pytest.approx(plain.total.item(), rel=1e-12)
        torch.testing.assert_close(gradients(wide, student), gradients(plain, student), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("chunk", [1, 5, 22, 23, 100])
def test_chunk_size_changes_nothing(name, chunk, student, teacher, tokens, weights):
    weights = weights.clone()
    weights[5:10] = 0.0  # a whole chunk of five may count for nothing
    measure = SoftLabelLoss(DIVERGENCES[name](), 2.0, 0.8)
    whole = linear_loss(student, teacher, tokens, weights, measure, chunk_rows=1000)
    parts = linear_loss(student, teacher, tokens, weights, measure, chunk_rows=chunk)
    assert parts.total.item() == pytest.approx(whole.total.item(), rel=1e-13)
    torch.testing.assert_close(gradients(parts, student), gradients(whole, student), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("scale", "softcap", "has_bias"), [(0.0625, None, False), (1.0, 3.0, False), (1.7, 5.0, True)])
def test_scaled_capped_and_biased_heads(scale, softcap, has_bias, draw, teacher, tokens, weights):
    rows, weight, bias = draw(ROWS, WIDTH), draw(TOKENS, WIDTH), draw(TOKENS)
    leaves = [tensor.requires_grad_() for tensor in ((rows, weight, bias) if has_bias else (rows, weight))]
    head = Head(weight, bias if has_bias else None, scale, softcap)
    loss = linear_loss(HiddenStates(rows, head), teacher, tokens, weights, SoftLabelLoss(alpha=0.5), chunk_rows=4)
    found = torch.autograd.grad(loss.total, leaves)

    logits = rows @ weight.T + (bias if has_bias else 0)
    logits = logits * scale
    logits = softcap * torch.tanh(logits / softcap) if softcap else logits
    p = (teacher.rows @ teacher.head.weight.T).softmax(-1)
    soft = (p * (p.log() - logits.log_softmax(-1))).sum(-1)
    hard = torch.nn.functional.cross_entropy(logits, tokens, reduction="none")
    expected = (weights * (0.5 * soft + 0.5 * hard)).sum()
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(found, torch.autograd.grad(expected, leaves), rtol=1e-10, atol=1e-12)


def test_padded_vocabulary_rows_and_constants_change_nothing(draw, student, teacher, tokens, weights):
    measure = SoftLabelLoss(JensenShannon(0.4), 2.0, 0.6)
    plain = linear_loss(student, teacher, tokens, weights, measure)
    padded_student = torch.cat([student.head.weight.detach(), 9 * draw(5, WIDTH)]).requires_grad_()
    padded_teacher = torch.cat([teacher.head.weight, 9 * draw(12, WIDTH)])
    padded = linear_loss(
        HiddenStates(student.rows, Head(padded_student, size=TOKENS)),
        DenseTargets(teacher.rows, Head(padded_teacher).sliced_to(TOKENS)),
        tokens,
        weights,
        measure,
    )
    assert padded.total.item() == pytest.approx(plain.total.item(), rel=1e-13)
    (gradient,) = torch.autograd.grad(padded.total, padded_student, retain_graph=True)
    torch.testing.assert_close(gradient[:TOKENS], gradients(plain, student)[1])
    assert not gradient[TOKENS:].any()

    shifted = Head(student.head.weight, torch.full((TOKENS,), 3.7, dtype=torch.float64))
    constant = linear_loss(HiddenStates(student.rows, shifted), teacher, tokens, weights, measure)
    assert constant.total.item() == pytest.approx(plain.total.item(), rel=1e-12)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_bf16_matmuls_stay_within_a_millinat_of_fp64(name):
    """The rounding left is that of the hidden states and weights themselves: log-sum-exp and the sums stay wide."""
    generator = torch.Generator().manual_seed(0)
    rows, teacher_rows = (torch.randn(256, 64, generator=generator).bfloat16() for _ in range(2))
    weight, teacher_weight = (torch.randn(2000, 64, generator=generator).bfloat16() * 0.2 for _ in range(2))
    tokens = torch.randint(0, 2000, (256,), generator=generator)
    measure = SoftLabelLoss(DIVERGENCES[name](), alpha=0.5)

    def loss_in(dtype: torch.dtype) -> float:
        states = HiddenStates(rows.to(dtype), Head(weight.to(dtype)))
        targets = DenseTargets(teacher_rows.to(dtype), Head(teacher_weight.to(dtype)))
        return linear_loss(states, targets, tokens, torch.ones(256, dtype=torch.float64), measure).total.item() / 256

    assert loss_in(torch.bfloat16) == pytest.approx(loss_in(torch.float64), abs=1e-3)


@pytest.mark.parametrize(("near", "at"), [(1e-7, ForwardKL()), (1 - 1e-7, ReverseKL())])
def test_jensen_shannon_runs_into_both_kls(near, at, student, teacher, tokens, weights):
    limit = linear_loss(student, teacher, tokens, weights, SoftLabelLoss(at))
    close = linear_loss(student, teacher, tokens, weights, SoftLabelLoss(JensenShannon(near)))
    exact = linear_loss(student, teacher, tokens, weights, SoftLabelLoss(JensenShannon(float(round(near)))))
    assert exact.total.item() == limit.total.item()
    assert close.total.item() == pytest.approx(limit.total.item(), rel=1e-3)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (AlphaBeta(1.0, 0.0), ForwardKL()),
        (AlphaBeta(0.0, 1.0), ReverseKL()),
        (AlphaBeta(1.0, 1e-6), ForwardKL()),
        (SkewForwardKL(0.0), ForwardKL()),
        (SkewReverseKL(0.0), ReverseKL()),
    ],
)
def test_families_contain_the_kls(one, other, student, teacher, tokens, weights):
    found = linear_loss(student, teacher, tokens, weights, SoftLabelLoss(one)).total.item()
    assert found == pytest.approx(
        linear_loss(student, teacher, tokens, weights, SoftLabelLoss(other)).total.item(), rel=1e-4
    )


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(DIVERGENCES)),
    st.floats(0.3, 8.0),
    st.floats(0.0, 12.0),
    st.integers(0, 2**31 - 1),
)
def test_never_negative_and_unmoved_by_a_constant(name, temperature, spread, seed):
    generator = torch.Generator().manual_seed(seed)
    p, q = (spread * torch.randn(4, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    divergence = DIVERGENCES[name]()
    value = divergence((p / temperature).log_softmax(-1), (q / temperature).log_softmax(-1))
    moved = divergence(((p + 5) / temperature).log_softmax(-1), ((q - 3) / temperature).log_softmax(-1))
    assert (value >= -1e-9).all()
    torch.testing.assert_close(value, moved, rtol=1e-7, atol=1e-9)


def test_impossible_tokens_of_the_teacher_give_numbers(student, tokens, weights):
    """A teacher whose decoder forbids tokens has -inf logits: forward KL and its kin must stay finite."""
    bias = torch.zeros(TOKENS, dtype=torch.float64)
    bias[3:9] = -torch.inf
    targets = DenseTargets(student.rows.detach(), Head(student.head.weight.detach(), bias))
    for name in DIVERGENCES:
        loss = linear_loss(student, targets, tokens, weights, SoftLabelLoss(DIVERGENCES[name]()))
        assert torch.isfinite(loss.total), name
        assert all(torch.isfinite(gradient).all() for gradient in gradients(loss, student)), name


def test_no_prediction_is_a_connected_zero():
    rows, weight = torch.zeros(0, WIDTH, requires_grad=True), torch.randn(TOKENS, WIDTH, requires_grad=True)
    none = torch.zeros(0)
    loss = linear_loss(HiddenStates(rows, Head(weight)), None, none.long(), none, SoftLabelLoss(alpha=0.0))
    loss.total.backward()
    assert loss.total.item() == 0
    assert weight.grad is not None
    assert not weight.grad.any()


def test_what_does_not_fit_is_refused(student, teacher, tokens, weights):
    with pytest.raises(LossError, match="there are 22 tokens"):
        linear_loss(student, teacher, tokens[1:], weights[1:], SoftLabelLoss())
    with pytest.raises(LossError, match="soft targets are needed"):
        linear_loss(student, None, tokens, weights, SoftLabelLoss())
    with pytest.raises(LossError, match="temperature 1 and the loss asks for 2"):
        linear_loss(
            student, top_k_of(teacher.head.logits(teacher.rows), 3), tokens, weights, SoftLabelLoss(temperature=2.0)
        )
    with pytest.raises(LossError, match="slice both heads"):
        linear_loss(student, DenseTargets(teacher.rows, teacher.head.sliced_to(9)), tokens, weights, SoftLabelLoss())
    for wrong in ({"temperature": 0.0}, {"temperature": float("inf")}, {"alpha": 1.5}):
        with pytest.raises(LossError, match="found"):
            SoftLabelLoss(**wrong)
    for build in (lambda: JensenShannon(1.2), lambda: SkewForwardKL(1.0), lambda: AlphaBeta(0.0, 0.0)):
        with pytest.raises(LossError, match="must be"):
            build()


def test_gradient_shares_add_up(student, teacher, tokens, weights):
    shares = gradient_shares(student, teacher, tokens, weights, SoftLabelLoss(temperature=2.0, alpha=0.9))
    assert sum(shares.values()) == pytest.approx(1)
    assert set(shares) == {"soft", "hard"}
    assert gradient_shares(student, None, tokens, weights, SoftLabelLoss(alpha=0.0)) == {"hard": 1.0}
