"""Plain torch classifiers: the gradient of the closed form, unlabelled inputs, logits instead of a model, mistakes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from potstill.errors import DataError
from potstill.losses import HARD_LABELS, ForwardKL, SoftLabelLoss
from potstill.training import Constant, TrainingSettings, train_classifier

INPUTS = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(3, (40,), generator=torch.Generator().manual_seed(1))
MEASURE = SoftLabelLoss(ForwardKL(), temperature=4.0, alpha=0.7)


def classifier(seed: int, width: int = 5) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 3))


def settings(steps: int, **more) -> TrainingSettings:
    return TrainingSettings(steps=steps, learning_rate=1e-2, schedule=Constant(), max_gradient_norm=1e9, **more)


def test_the_loss_and_its_gradient_are_those_of_the_formula():
    student, teacher = classifier(1), classifier(2, width=9)
    reference = classifier(1).double()
    x = INPUTS.double()
    p = (teacher.double()(x) / 4).softmax(-1)
    log_q = (reference(x) / 4).log_softmax(-1)
    soft = 16 * (p * (p.log() - log_q)).sum(-1).mean()
    loss = 0.7 * soft + 0.3 * functional.cross_entropy(reference(x), LABELS)
    loss.backward()
    norm = torch.stack([weight.grad.norm() for weight in reference.parameters()]).norm()
    (step,) = train_classifier(student, teacher.float(), INPUTS, LABELS, MEASURE, settings(1), rows=40)
    assert step.loss == pytest.approx(loss.item(), rel=1e-5)
    assert step.parts["soft"] == pytest.approx(soft.item(), rel=1e-5)
    assert step.gradient_norm == pytest.approx(norm.item(), rel=1e-4)


def test_logits_do_as_well_as_the_teacher_that_made_them():
    students = []
    teacher = classifier(2, width=9)
    with torch.no_grad():
        logits = teacher(INPUTS)
    for marker in (teacher, logits):
        student = classifier(1)
        list(train_classifier(student, marker, INPUTS, LABELS, MEASURE, settings(7), rows=8))
        students.append(student)
    for one, other in zip(*(student.parameters() for student in students), strict=True):
        torch.testing.assert_close(one, other)


def test_a_student_learns_its_teacher_without_labels_and_nothing_from_itself():
    student, teacher = classifier(1), classifier(2, width=9)
    steps = list(train_classifier(student, teacher, INPUTS, None, SoftLabelLoss(), settings(300), rows=40))
    assert "hard" not in steps[0].parts
    assert steps[-1].loss < steps[0].loss / 20
    (step,) = train_classifier(classifier(2), classifier(2), INPUTS, None, SoftLabelLoss(), settings(1))
    assert step.loss == pytest.approx(0.0, abs=1e-6)
    assert step.gradient_norm < 1e-6


def test_every_input_is_read_once_before_any_is_read_again():
    seen = []

    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = classifier(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.extend(x[:, 0].tolist())
            return self.inner(x)

    list(train_classifier(Watching(), None, INPUTS, LABELS, HARD_LABELS, settings(5), rows=16))
    assert sorted(seen[:40]) == sorted(INPUTS[:, 0].tolist())
    assert sorted(seen[40:80]) == sorted(INPUTS[:, 0].tolist())


def test_mistakes():
    for teacher, labels, measure, message in (
        (None, LABELS, MEASURE, "no teacher"),
        (classifier(2), None, MEASURE, "no labels"),
        (torch.zeros(3, 3), LABELS, MEASURE, "40 inputs and 3 rows of the teacher's logits"),
        (classifier(2), LABELS[:5], MEASURE, "40 inputs and 5 labels"),
    ):
        with pytest.raises(DataError, match=message):
            next(train_classifier(classifier(1), teacher, INPUTS, labels, measure, settings(1)))
