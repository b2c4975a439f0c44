"""A run whose teacher is the student's own average, and the control that is only as uncertain as the teacher."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_job import tiny_folder, tiny_job

from potstill.losses import ForwardKL, SoftLabelLoss
from potstill.runs import ArmStep, Finished, distil
from potstill.teachers import SmoothingTeacher, entropies
from potstill.training import train


def run(path: Path, **changes) -> Finished:
    last = list(distil(tiny_job(control=False, untouched=False, **changes), tiny_folder(path)))[-1]
    assert isinstance(last, Finished)
    return last


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "student" / "model.safetensors")


@pytest.mark.parametrize("stop", [2, 4])
def test_a_run_taught_by_its_average_ends_the_same_if_killed(stop, tmp_path):
    run(tmp_path / "straight", average=0.7)
    job = tiny_job(control=False, untouched=False, average=0.7)
    events = distil(job, tiny_folder(tmp_path / "killed"))
    list(itertools.takewhile(lambda event: not (isinstance(event, ArmStep) and event.step.index > stop), events))
    events.close()
    run(tmp_path / "killed", average=0.7)
    for name, tensor in weights_of(tmp_path / "straight").items():
        assert torch.equal(weights_of(tmp_path / "killed")[name], tensor), name


def test_an_average_is_another_teacher_than_the_teacher(tmp_path):
    run(tmp_path / "average", average=0.7)
    run(tmp_path / "teacher")
    one, other = weights_of(tmp_path / "average"), weights_of(tmp_path / "teacher")
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_smoothed_labels_are_as_uncertain_as_the_teacher(temperature, tmp_path):
    measure = SoftLabelLoss(ForwardKL(), temperature, alpha=0.5)
    last = run(tmp_path / "run", smoothing=True, measure=measure)
    assert last.measurements.keys() == {"teacher", "distilled", "smoothed_labels"}
    job, folder = tiny_job(measure=measure), tiny_folder(tmp_path / "run")
    share = float(str(folder.read_json("smoothing.json")["share"]))
    batch = next(job.batches.from_step(0))
    smoothing = SmoothingTeacher(257, share, temperature)
    smoothed = entropies(smoothing.label(batch), temperature).mean()
    theirs = entropies(job.teacher.label(batch), temperature).mean()
    assert smoothed == pytest.approx(float(theirs), rel=0.1)  # the run has looked at more than this batch
    student = job.new_student()
    for _ in train(student, smoothing, job.batches, measure, job.settings):
        pass
    for name, tensor in weights_of(tmp_path / "run" / "controls" / "smoothed_labels").items():
        assert torch.equal(student.state_dict()[name], tensor), name
