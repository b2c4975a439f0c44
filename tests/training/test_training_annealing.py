"""The teacher's share over a run: the plain loss of each step with that step's alpha, however the run is split or killed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from torch import nn

from potstill.errors import DataError, LossError
from potstill.losses import HARD_LABELS, ForwardKL, SoftLabelLoss
from potstill.teachers import FakeTeacher
from potstill.training import Annealing, TrainingSettings, train, train_classifier
from potstill.types import Batch

MEASURE = SoftLabelLoss(ForwardKL(), temperature=2.0, alpha=0.75)
SETTINGS = TrainingSettings(steps=5, learning_rate=1e-2, checkpoint_every=2)


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_bits(one, other) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@dataclass(frozen=True)
class CountingTeacher:
    """One that says how often it was asked."""

    asked: list[int]
    num_tokens: int = 61

    def label(self, batch: Batch):
        self.asked.append(len(batch.inputs))
        return FakeTeacher(61).label(batch)


@pytest.mark.parametrize("start", [0.0, 0.75, 1.0])
@pytest.mark.parametrize(
    ("to", "over", "steps"),
    [(0.0, 1.0, 5), (1.0, 1.0, 2), (0.25, 0.5, 9), (0.0, 0.1, 30), (0.5, 0.01, 7), (0.0, 1.0, 1)],
)
def test_alpha_begins_where_the_loss_is_and_ends_exactly_at_its_end_in_a_straight_line(start, to, over, steps):
    found = [Annealing(to, over).alpha(start, index, steps) for index in range(steps)]
    last = max(math.ceil(Fraction(str(over)) * steps) - 1, 0)
    assert found[last:] == [to] * (steps - last)
    if last > 0:
        assert found[0] == start
        changes = [later - earlier for earlier, later in pairwise(found[: last + 1])]
        assert changes == pytest.approx([(to - start) / last] * last)


@pytest.mark.parametrize(("to", "over"), [(-0.1, 1.0), (1.1, 1.0), (0.0, 0.0), (0.0, 1.5), (math.nan, 1.0)])
def test_a_share_that_is_none_is_refused(to, over):
    with pytest.raises(LossError, match="annealing"):
        Annealing(to, over)


def test_a_share_that_does_not_change_is_the_plain_loss_bit_for_bit(new_student, text):
    students = []
    for annealing in (None, Annealing(to=0.75)):
        student = new_student(dropout=0.1)
        steps = list(train(student, FakeTeacher(61), text, MEASURE, SETTINGS, annealing=annealing))
        assert [step.alpha for step in steps] == [0.75] * 5
        students.append(weights_of(student))
    assert same_bits(*students)


def test_the_loss_of_a_step_is_its_parts_mixed_by_its_alpha(new_student, text):
    annealed = list(train(new_student(), FakeTeacher(61), text, MEASURE, SETTINGS, annealing=Annealing()))
    for step, alpha in zip(annealed, (0.75, 0.5625, 0.375, 0.1875, 0.0), strict=True):
        assert step.alpha == pytest.approx(alpha)
        soft = step.parts.get("soft", 0.0)
        assert step.loss == pytest.approx(alpha * soft + (1 - alpha) * step.parts["hard"], rel=1e-5)


def test_the_gradient_of_a_late_step_is_that_of_its_alpha(new_student, text):
    """At rate 0 the student stays as it was, so the gradient of each step is to be had from a plain run."""

    @dataclass(frozen=True)
    class Still:
        def factor(self, index: int, steps: int) -> float:
            return 0.0

    settings = replace(SETTINGS, schedule=Still())
    steps = list(train(new_student(), FakeTeacher(61), text, MEASURE, settings, annealing=Annealing(to=0.25)))
    for index, step in enumerate(steps):
        alone = replace(MEASURE, alpha=step.alpha)
        plain = list(train(new_student(), FakeTeacher(61), text, alone, settings))[index]
        assert step.gradient_norm == plain.gradient_norm
        assert step.loss == plain.loss
    assert len({step.gradient_norm for step in steps}) == len(steps)


@pytest.mark.parametrize("stopped_at", [1, 3, 4])
def test_a_killed_run_goes_on_with_the_alpha_of_its_step(stopped_at, new_student, text, tmp_path):
    undisturbed = new_student(dropout=0.2)
    whole = list(train(undisturbed, FakeTeacher(61), text, MEASURE, SETTINGS, annealing=Annealing()))
    killed = new_student(dropout=0.2)
    for step in train(killed, FakeTeacher(61), text, MEASURE, SETTINGS, folder=tmp_path, annealing=Annealing()):
        if step.index == stopped_at:
            break
    resumed = new_student(dropout=0.2)
    again = list(train(resumed, FakeTeacher(61), text, MEASURE, SETTINGS, folder=tmp_path, annealing=Annealing()))
    assert [step.alpha for step in again] == [step.alpha for step in whole[-len(again) :]]
    assert again[-1].alpha == 0.0
    assert same_bits(weights_of(resumed), weights_of(undisturbed))


@pytest.mark.parametrize("micro_rows", [1, 3])
def test_micro_batches_see_the_alpha_of_their_step(micro_rows, new_student, text):
    found = []
    for rows in (None, micro_rows):
        settings = replace(SETTINGS, micro_rows=rows)
        found.append(
            list(train(new_student().double(), FakeTeacher(61), text, MEASURE, settings, annealing=Annealing()))
        )
    for one, other in zip(*found, strict=True):
        assert one.alpha == other.alpha
        assert other.loss == pytest.approx(one.loss, rel=1e-6)
        assert other.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-6)


@pytest.mark.parametrize(("measure", "annealing", "steps_asked"), [
    (MEASURE, Annealing(over=0.6), 2),
    (MEASURE, None, 5),
    (HARD_LABELS, Annealing(to=0.5), 4),
    (HARD_LABELS, Annealing(), 0),
])  # fmt: skip
def test_the_teacher_is_asked_only_where_it_has_a_share(measure, annealing, steps_asked, new_student, text):
    teacher = CountingTeacher([])
    steps = list(train(new_student(), teacher, text, measure, SETTINGS, annealing=annealing))
    assert len(teacher.asked) == steps_asked
    assert sum("soft" in step.parts for step in steps) == steps_asked


def test_a_compiled_loss_has_one_alpha(new_student, text):
    with pytest.raises(LossError, match="compile_loss"):
        next(train(new_student(), None, text, HARD_LABELS, replace(SETTINGS, compile_loss=True), annealing=Annealing()))


def test_a_classifier_is_annealed_too():
    inputs = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(3, (40,), generator=torch.Generator().manual_seed(1))
    logits = torch.randn(40, 3, generator=torch.Generator().manual_seed(2))

    def learned(measure: SoftLabelLoss, annealing: Annealing | None) -> tuple[dict[str, torch.Tensor], list]:
        torch.manual_seed(3)
        student = nn.Linear(6, 3)
        steps = list(train_classifier(student, logits, inputs, labels, measure, SETTINGS, rows=8, annealing=annealing))
        return weights_of(student), steps

    plain, _ = learned(MEASURE, None)
    same, _ = learned(MEASURE, Annealing(to=0.75))
    changed, steps = learned(MEASURE, Annealing())
    assert same_bits(plain, same)
    assert not same_bits(plain, changed)
    assert [step.alpha for step in steps] == pytest.approx([0.75, 0.5625, 0.375, 0.1875, 0.0])
    assert steps[-1].loss == pytest.approx(steps[-1].parts["hard"])
    with pytest.raises(DataError, match="no labels"):
        next(train_classifier(nn.Linear(6, 3), logits, inputs, None, SoftLabelLoss(), SETTINGS, annealing=Annealing()))
    with pytest.raises(DataError, match="no teacher"):
        next(
            train_classifier(nn.Linear(6, 3), None, inputs, labels, HARD_LABELS, SETTINGS, annealing=Annealing(to=1.0))
        )
