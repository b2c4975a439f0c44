"""The student's own past as its teacher, and a teacher that knows the text alone."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_models import batch_of, tiny_model

from potstill.errors import LossError, ModelError
from potstill.losses import SoftLabelLoss, linear_loss
from potstill.losses.mixing import mixed_logits
from potstill.teachers import (
    AveragedTeacher,
    FakeTeacher,
    LiveTeacher,
    MixtureTeacher,
    SmoothingTeacher,
    entropies,
    smoothing_of_entropy,
)
from potstill.types import HiddenStates, SparseTargets


def test_the_average_follows_by_its_formula():
    average = AveragedTeacher(tiny_model("llama", seed=0), size=61, decay=0.5)
    expected = {name: tensor.double().clone() for name, tensor in average.model.state_dict().items()}
    for step in (1, 2, 30):
        student = tiny_model("llama", seed=step)
        average.follow_(student, step)
        kept = min(0.5, (1 + step) / (10 + step))
        for name, tensor in student.state_dict().items():
            expected[name] = kept * expected[name] + (1 - kept) * tensor.double()
    for name, tensor in average.model.state_dict().items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-5)
    with pytest.raises(ModelError, match="below 1"):
        AveragedTeacher(tiny_model("llama"), size=61, decay=1.0)


def test_the_average_marks_as_what_it_has_become():
    average = AveragedTeacher(tiny_model("llama", seed=0), size=61, decay=0.9)
    student, batch = tiny_model("llama", seed=1), batch_of([[1, 2, 3]])
    for step in range(1, 200):
        average.follow_(student, step)
    expected = LiveTeacher(student, size=61).label(batch).rows
    torch.testing.assert_close(average.label(batch).rows, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_smoothed_labels_give_the_loss_of_label_smoothing(temperature):
    """(1-ε)·CE(y) + ε·mean over tokens of -log q, minus the entropy of the smoothed label (Szegedy et al. 2016)."""
    share, batch = 0.3, batch_of([[3, 7, 5], [1, 2, 9]])
    targets = SmoothingTeacher(61, share, temperature).label(batch)
    student = FakeTeacher(61, seed=4).label(batch)
    log_q = (student.head.logits(student.rows).double() / temperature).log_softmax(-1)
    tokens = batch.targets[batch.counted]
    ce = -(1 - share) * log_q.gather(1, tokens[:, None]).squeeze(1) - share * log_q.mean(1)
    p = torch.full((61,), share / 61).double()
    p[0] += 1 - share
    expected = temperature**2 * (ce + (p * p.log()).sum()).sum()
    measure = SoftLabelLoss(temperature=temperature)
    loss = linear_loss(HiddenStates(student.rows, student.head), targets, tokens, torch.ones(6), measure)
    torch.testing.assert_close(loss.total.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("entropy", [0.0, 0.02, 1.0, 3.9, math.log(61)])
def test_as_uncertain_as_it_is_told(entropy):
    teacher = SmoothingTeacher(61, smoothing_of_entropy(entropy, 61))
    found = entropies(teacher.label(batch_of([[3, 7, 5]])))
    torch.testing.assert_close(found, torch.full((3,), entropy), rtol=1e-3, atol=1e-4)


def test_an_entropy_that_no_labels_have_is_refused():
    with pytest.raises(LossError, match=r"4\.111 nats"):
        smoothing_of_entropy(5.0, 61)


def test_entropies_are_those_of_the_distribution():
    batch = batch_of([[3, 7, 5]])
    one, other = FakeTeacher(61, seed=1), FakeTeacher(61, seed=2)
    dense = one.label(batch)
    log_p = (dense.head.logits(dense.rows) / 2).log_softmax(-1)
    torch.testing.assert_close(entropies(dense, 2.0), -(log_p.exp() * log_p).sum(-1))
    mixed = MixtureTeacher((one, other), (1.0, 1.0)).label(batch)
    log_m = mixed_logits(mixed, 1.0).log_softmax(-1)
    torch.testing.assert_close(entropies(mixed), -(log_m.exp() * log_m).sum(-1))
    with pytest.raises(LossError, match="whole distribution"):
        entropies(SparseTargets(torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1), torch.zeros(1)))
