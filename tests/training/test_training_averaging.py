"""A student taught by its own average: killed or not, it ends as the same student, with the same average."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from potstill.errors import RunDirectoryError
from potstill.losses import ForwardKL, SoftLabelLoss
from potstill.teachers import AveragedTeacher, FakeTeacher
from potstill.training import TrainingSettings, train

MEASURE = SoftLabelLoss(ForwardKL(), alpha=0.5)
SETTINGS = TrainingSettings(steps=7, learning_rate=1e-2, checkpoint_every=2)


def learned(new_student, text, folder: Path, *, seed: int = 3, stop: int | None = None):
    student = new_student(dropout=0.2, seed=seed)
    average = AveragedTeacher(new_student(dropout=0.2, seed=seed), size=61, decay=0.8)
    for step in train(student, average, text, MEASURE, SETTINGS, folder=folder):
        if step.index == stop:
            break
    return student.state_dict(), average.model.state_dict()


@pytest.mark.parametrize("stop", [1, 2, 5, 6])
def test_a_killed_run_goes_on_with_the_same_average(stop, new_student, text, tmp_path):
    straight = learned(new_student, text, tmp_path / "straight")
    learned(new_student, text, tmp_path / "killed", stop=stop)
    # Whatever it starts from, once there is a checkpoint: that has everything.
    resumed = learned(new_student, text, tmp_path / "killed", seed=3 if stop == 1 else 8)
    for one, other in zip(resumed, straight, strict=True):
        for name, tensor in other.items():
            assert torch.equal(one[name], tensor), name


def test_the_average_is_not_the_student_and_has_moved(new_student, text, tmp_path):
    student, average = learned(new_student, text, tmp_path)
    untouched = new_student(dropout=0.2).state_dict()
    name = "model.layers.0.mlp.up_proj.weight"
    assert 0 < (average[name] - untouched[name]).norm() < (student[name] - untouched[name]).norm()


@pytest.mark.parametrize("micro_rows", [1, 3])
def test_the_average_is_the_same_however_a_step_is_split(micro_rows, new_student, text):
    found = []
    for rows in (None, micro_rows):
        student, average = new_student(), AveragedTeacher(new_student(), size=61, decay=0.5)
        settings = TrainingSettings(steps=3, learning_rate=1e-2, micro_rows=rows)
        for _ in train(student, average, text, MEASURE, settings):
            pass
        found.append(average.model.state_dict())
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-3, atol=1e-4)


def test_a_checkpoint_without_an_average_is_not_taken_up(new_student, text, tmp_path):
    for _ in train(new_student(), FakeTeacher(61), text, MEASURE, SETTINGS, folder=tmp_path):
        pass
    average = AveragedTeacher(new_student(), size=61, decay=0.8)
    with pytest.raises(RunDirectoryError, match="average"):
        next(train(new_student(), average, text, MEASURE, SETTINGS, folder=tmp_path))
