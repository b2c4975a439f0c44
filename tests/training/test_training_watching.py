"""Steps that would do harm change nothing, are counted, and end a run that has only them; damaged checkpoints are not taken up."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import count

import pytest
import torch

from potstill.errors import NotFiniteError, RunDirectoryError
from potstill.losses import HARD_LABELS, FeatureLoss, ForwardKL, HiddenLoss, SoftLabelLoss
from potstill.teachers import LiveTeacher
from potstill.training import TrainingSettings, train
from potstill.training.checkpoint import newest_checkpoint
from potstill.training.watching import Watch
from potstill.types import Batch


@dataclass(frozen=True)
class SpoiledText:
    """Another text, with a weight that is no number in some steps (from 0)."""

    text: object
    spoiled: Collection[int]

    def from_step(self, step: int) -> Iterator[Batch]:
        for number, batch in zip(count(step), self.text.from_step(step), strict=False):  # type: ignore[attr-defined]
            weights = batch.weights.clone()
            weights[2, 5] = math.inf if number in self.spoiled else weights[2, 5]
            yield replace(batch, weights=weights)


def bits(model) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_spoiled_step_changes_nothing(new_student, text):
    student, before, changed, skipped = new_student(), None, [], []
    for step in train(student, None, SpoiledText(text, {2, 4}), HARD_LABELS, TrainingSettings(steps=7)):
        changed.append(before is None or not same(before, bits(student)))
        skipped.append(step.skipped is not None)
        before = bits(student)
    assert skipped == [False, False, True, False, True, False, False]
    assert changed == [not one for one in skipped]
    assert all(tensor.isfinite().all() for tensor in bits(student))


def test_balance_is_found_again_after_a_spoiled_step(new_student, text):
    """A factor that is no number would spoil all steps that follow."""
    features = FeatureLoss((HiddenLoss(((1, 1),)),), balance="dynamic")
    teacher = LiveTeacher(new_student(seed=8).eval(), size=61, layers=features.teacher_layers)
    steps = list(
        train(
            new_student(),
            teacher,
            SpoiledText(text, {1}),
            SoftLabelLoss(ForwardKL()),
            TrainingSettings(steps=4),
            features=features,
        )
    )
    assert [step.skipped is not None for step in steps] == [False, True, False, False]
    assert math.isfinite(steps[-1].loss)


def test_a_killed_run_leaves_out_the_same_steps(new_student, text, tmp_path):
    settings = TrainingSettings(steps=8, checkpoint_every=2)
    spoiled = SpoiledText(text, {3, 5})
    whole = new_student()
    list(train(whole, None, spoiled, HARD_LABELS, settings))
    for stop in (3, 5):
        for step in train(new_student(), None, spoiled, HARD_LABELS, settings, folder=tmp_path):
            if step.index == stop:
                break
    resumed = new_student()
    skipped = [
        step.index for step in train(resumed, None, spoiled, HARD_LABELS, settings, folder=tmp_path) if step.skipped
    ]
    assert skipped == [6]
    assert same(bits(whole), bits(resumed))


@pytest.mark.parametrize(("spoiled", "steps_done"), [(range(100), 0), (range(4, 100), 13)])
def test_what_persists_ends_the_run(spoiled, steps_done, new_student, text):
    found: list[int] = []
    steps = train(new_student(), None, SpoiledText(text, spoiled), HARD_LABELS, TrainingSettings(steps=50))
    with pytest.raises(NotFiniteError, match=rf"step {steps_done + 1} .* is nan.*Lower the learning rate"):
        found.extend(step.index for step in steps)
    assert len(found) == steps_done


def test_a_gradient_is_compared_with_those_before_it():
    watch = Watch(20.0)
    for step in range(60):
        assert watch.judge(step, 1.0, 1.0 + 0.1 * (step % 3), 1e-3) is None
    assert watch.judge(60, 1.0, 21.0, 1e-3) is None
    again = Watch(20.0)
    again.restore(watch.state())
    for one in (watch, again):
        assert "usually 2" in str(one.judge(61, 1.0, 50.0, 1e-3))
    assert again == watch
    assert Watch(None, seen=60, usual=1.0).judge(61, 1.0, 1e9, 1e-3) is None
    assert Watch(20.0, seen=10, usual=1.0).judge(11, 1.0, 1e9, 1e-3) is None


@pytest.mark.parametrize("name", ["student.safetensors", "optimizer.safetensors", "random.safetensors", "state.json"])
@pytest.mark.parametrize("place", [0, 60, -1])
def test_a_damaged_checkpoint_is_not_taken_up(name, place, new_student, text, tmp_path):
    settings = TrainingSettings(steps=4, checkpoint_every=2)
    list(train(new_student(), None, text, HARD_LABELS, settings, folder=tmp_path))
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    data = bytearray((newest / name).read_bytes())
    data[place] ^= 1
    (newest / name).write_bytes(bytes(data))
    with pytest.raises(RunDirectoryError, match=r"step-00000004 can't be read .*delete that folder"):
        list(train(new_student(), None, text, HARD_LABELS, replace(settings, steps=6), folder=tmp_path))


def test_a_checkpoint_of_another_version_is_named(new_student, text, tmp_path):
    settings = TrainingSettings(steps=2, checkpoint_every=2)
    list(train(new_student(), None, text, HARD_LABELS, settings, folder=tmp_path))
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    (newest / "state.json").write_text('{"step": 2, "version": 1}')
    with pytest.raises(RunDirectoryError, match="of version 1"):
        list(train(new_student(), None, text, HARD_LABELS, replace(settings, steps=4), folder=tmp_path))
