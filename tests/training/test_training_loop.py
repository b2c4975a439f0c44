"""The loop: one gradient however a step is split, one student however often the run was killed."""

from __future__ import annotations

import pytest
import torch

from potstill.errors import NotFiniteError, RunDirectoryError
from potstill.losses import HARD_LABELS, FeatureLoss, ForwardKL, HiddenLoss, SoftLabelLoss
from potstill.models import hidden_states
from potstill.teachers import FakeTeacher, LiveTeacher
from potstill.training import Constant, Cosine, Linear, TrainingSettings, self_check, train
from potstill.training.checkpoint import newest_checkpoint

MEASURE = SoftLabelLoss(ForwardKL(), temperature=2.0, alpha=0.7)


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_bits(one, other) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("micro_rows", [1, 2, 3])
def test_micro_batches_change_nothing(micro_rows, new_student, text):
    """Rows differ in weight on purpose: a mean of means would be another gradient."""
    found = []
    for rows in (None, micro_rows):
        student = new_student().double()
        teacher = FakeTeacher(61)
        settings = TrainingSettings(steps=3, learning_rate=1e-2, micro_rows=rows)
        steps = list(train(student, teacher, text, MEASURE, settings))
        found.append((weights_of(student), steps))
    (whole, whole_steps), (parts, parts_steps) = found
    for name in whole:
        # Llama's norms compute in fp32 whatever the model's dtype, and Adam divides by the gradient's own size.
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-5, atol=1e-6)
    for one, other in zip(whole_steps, parts_steps, strict=True):
        assert other.loss == pytest.approx(one.loss, rel=1e-6)
        assert other.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-6)


def test_gradient_checkpointing_changes_nothing(new_student, text):
    students = []
    for checkpointing in (False, True):
        student = new_student()
        settings = TrainingSettings(steps=2, gradient_checkpointing=checkpointing)
        list(train(student, FakeTeacher(61), text, MEASURE, settings))
        students.append(weights_of(student))
    for name in students[0]:
        torch.testing.assert_close(students[1][name], students[0][name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stopped_at", [1, 4, 5])
def test_a_killed_run_gives_the_same_bits(stopped_at, new_student, text, tmp_path):
    """With dropout, so that the random state matters, and killed between checkpoints as well as on one."""
    settings = TrainingSettings(steps=7, learning_rate=1e-2, checkpoint_every=2)
    undisturbed = new_student(dropout=0.2)
    steps = list(train(undisturbed, FakeTeacher(61), text, MEASURE, settings))

    killed = new_student(dropout=0.2)
    for step in train(killed, FakeTeacher(61), text, MEASURE, settings, folder=tmp_path):
        if step.index == stopped_at:
            break
    torch.manual_seed(99)
    resumed = new_student(dropout=0.2, seed=8)  # whatever it starts from: the checkpoint has everything
    if newest_checkpoint(tmp_path) is None:
        resumed = new_student(dropout=0.2)
    again = list(train(resumed, FakeTeacher(61), text, MEASURE, settings, folder=tmp_path))
    assert again[0].index == stopped_at - stopped_at % 2 + 1
    assert_same_bits(weights_of(resumed), weights_of(undisturbed))
    assert again[-1].loss == steps[-1].loss
    assert list(train(resumed, FakeTeacher(61), text, MEASURE, settings, folder=tmp_path)) == []


def test_checkpoints_hold_no_pickle_and_only_two_stay(new_student, text, tmp_path):
    settings = TrainingSettings(steps=5, checkpoint_every=1)
    list(train(new_student(), FakeTeacher(61), text, MEASURE, settings, folder=tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000004", "step-00000005"]
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".safetensors", ".json"}


def test_a_torn_checkpoint_is_not_taken_up(new_student, text, tmp_path):
    settings = TrainingSettings(steps=4, checkpoint_every=2)
    list(train(new_student(), FakeTeacher(61), text, MEASURE, settings, folder=tmp_path))
    torn = tmp_path / "step-00000009.part-77"
    torn.mkdir()
    (torn / "student.safetensors").write_bytes(b"half")
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.name == "step-00000004"
    (newest / "optimizer.safetensors").write_bytes(b"garbage")
    with pytest.raises(RunDirectoryError, match="can't be read"):
        list(train(new_student(), FakeTeacher(61), text, MEASURE, settings, folder=tmp_path))


def test_a_full_disk_says_so_and_keeps_the_last_checkpoint(new_student, text, tmp_path, monkeypatch):
    settings = TrainingSettings(steps=4, checkpoint_every=2)
    run = train(new_student(), FakeTeacher(61), text, MEASURE, settings, folder=tmp_path)
    next(run), next(run)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("potstill.training.checkpoint.save_file", full)
    with pytest.raises(
        RunDirectoryError, match=r"step 4 .* No space left on device\. The checkpoint step-00000002 is whole"
    ):
        list(run)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_another_student_can_not_take_up_a_checkpoint(new_student, text, tmp_path):
    settings = TrainingSettings(steps=1, checkpoint_every=1)
    list(train(new_student(), FakeTeacher(61), text, MEASURE, settings, folder=tmp_path))
    with pytest.raises(RunDirectoryError, match="another student"):
        list(train(new_student(tied=False), FakeTeacher(61), text, MEASURE, settings, folder=tmp_path))


def test_the_student_learns_the_teacher(new_student, text):
    teacher = FakeTeacher(61)
    settings = TrainingSettings(steps=60, learning_rate=1e-2, schedule=Cosine(warmup=0.1))
    steps = list(train(new_student(), teacher, text, SoftLabelLoss(), settings))
    assert steps[-1].loss < 0.5 * steps[0].loss
    assert steps[-1].parts.keys() == {"soft", "hard"}
    assert steps[-1].parts["soft"] == pytest.approx(steps[-1].loss)
    assert steps[-1].tokens == 48


def test_no_teacher_is_asked_for_hard_labels_alone(new_student, text):
    class Silent:
        num_tokens = 61

        def label(self, batch):
            raise AssertionError("asked")

    steps = list(train(new_student(), Silent(), text, HARD_LABELS, TrainingSettings(steps=2)))
    assert steps[0].parts.keys() == {"hard"}


def test_a_loss_that_is_no_number_stops_the_run_before_it_harms(new_student, text):
    student = new_student()
    with torch.no_grad():
        student.model.norm.weight[3] = torch.inf
    before = weights_of(student)
    with pytest.raises(NotFiniteError, match="step 1 can't be learned from: the loss is nan"):
        list(train(student, None, text, HARD_LABELS, TrainingSettings(steps=2)))
    assert_same_bits(weights_of(student), before)


def test_self_check_finds_zero_and_shares(new_student, text):
    teacher, student = LiveTeacher(new_student(seed=1), size=61), new_student(seed=2)
    batch = next(text.from_step(0))
    check = self_check(student, teacher, batch, MEASURE, dtype=torch.float32)
    assert check.own_loss == pytest.approx(0, abs=1e-6)
    assert check.own_gradient == pytest.approx(0, abs=1e-6)
    assert sum(check.shares.values()) == pytest.approx(1)
    assert check.terms.keys() == {"soft", "hard"}
    assert all(parameter.grad is None for parameter in student.parameters())


def test_step_loss_is_the_loss_of_the_batch(new_student, text):
    """Loss in training and loss in evaluation are one number on the same batch."""
    student = new_student()
    batch = next(text.from_step(0))
    states = hidden_states(student, batch)
    logits = states.head.logits(states.rows)
    counted = batch.counted
    nats = torch.nn.functional.cross_entropy(logits, batch.targets[counted], reduction="none")
    expected = ((nats * batch.weights[counted]).sum() / batch.weight).item()
    step = next(train(student, None, text, HARD_LABELS, TrainingSettings(steps=1)))
    assert step.loss == pytest.approx(expected, rel=1e-6)
    assert step.weight == batch.weight.item()


@pytest.mark.parametrize("schedule", [Constant(0.25), Linear(0.25, 0.1), Cosine(0.25, 0.1)])
def test_schedules_rise_and_fall(schedule):
    factors = [schedule.factor(index, 40) for index in range(40)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[10] == 1.0
    assert all(0 < factor <= 1 for factor in factors)
    if not isinstance(schedule, Constant):
        assert factors[-1] == pytest.approx(0.1, abs=0.04)
        assert factors[10:] == sorted(factors[10:], reverse=True)
    assert schedule.factor(0, 1) > 0


@pytest.mark.parametrize("micro_rows", [1, 3])
def test_hidden_states_change_nothing_about_how_a_step_is_split(micro_rows, new_student, text):
    hidden = HiddenLoss(((0, 0), (1, 1)), weight=0.3)
    found = []
    for rows in (None, micro_rows):
        student = new_student()
        teacher = LiveTeacher(new_student(seed=9), size=61, layers=hidden.teacher_layers)
        settings = TrainingSettings(steps=3, learning_rate=1e-2, micro_rows=rows)
        found.append(
            (
                list(train(student, teacher, text, MEASURE, settings, features=FeatureLoss((hidden,)))),
                weights_of(student),
            )
        )
    (whole, weights), (parts, split) = found
    for one, other in zip(whole, parts, strict=True):
        assert other.loss == pytest.approx(one.loss, rel=1e-5)
        assert other.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-4)
        assert one.parts["hidden"] > 0
        labels = MEASURE.alpha * one.parts["soft"] + (1 - MEASURE.alpha) * one.parts["hard"]
        assert one.loss == pytest.approx(labels + 0.3 * one.parts["hidden"], rel=1e-5)
    for name, weight in weights.items():
        torch.testing.assert_close(split[name], weight, rtol=1e-3, atol=1e-4)
    assert whole[-1].parts["hidden"] < whole[0].parts["hidden"]


def test_a_teacher_that_is_the_student_teaches_nothing_through_hidden_states(new_student, text):
    student, teacher = new_student(), new_student()
    before = weights_of(student)
    marker = LiveTeacher(teacher, size=61, layers=(0, 1))
    settings = TrainingSettings(steps=1, learning_rate=1e-2)
    only_soft = SoftLabelLoss(ForwardKL(), alpha=1.0)
    features = FeatureLoss((HiddenLoss(((0, 0), (1, 1))),))
    (step,) = train(student, marker, text, only_soft, settings, features=features)
    assert step.loss == pytest.approx(0.0, abs=1e-5)
    assert step.gradient_norm < 1e-4
    assert before.keys() == weights_of(student).keys()
