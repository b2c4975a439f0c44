"""A run through four bits: what is scored is what is packed, the rounding without learning stands beside it, and a killed run goes on."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_job import LENGTH, tiny_folder, tiny_job

from potstill.evaluation import measure
from potstill.export import rounded
from potstill.export.int4 import quantisable
from potstill.models import load_model
from potstill.runs import Finished, distil
from potstill.runs.distillation import CORRECTED
from potstill.teachers import LiveTeacher
from potstill.training import TrainingSettings

GROUP = 8


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, Finished]:
    path = tmp_path_factory.mktemp("runs") / "whole"
    *_, last = distil(tiny_job(int4=GROUP), tiny_folder(path))
    assert isinstance(last, Finished)
    return path, last


def test_scores_are_of_the_rounded_student(whole):
    path, last = whole
    job = tiny_job(int4=GROUP)
    student, beside = load_model(path / "student"), LiveTeacher(job.teacher.model, size=257)
    for model, name in ((rounded(student, GROUP), "distilled"), (rounded(job.new_student(), GROUP), "rounded")):
        found = measure(model, job.held_out, length=LENGTH, teacher=beside, size=257)
        np.testing.assert_array_equal(found.nll, last.measurements[name].nll)
    in_full = measure(student, job.held_out, length=LENGTH, teacher=beside, size=257)
    assert not np.array_equal(in_full.nll, last.measurements["distilled"].nll)
    assert set(last.measurements) == {"teacher", "untouched", "rounded", "distilled", "hard_labels"}


def test_what_is_packed_is_the_rounded_student(whole):
    path, _ = whole
    packed, student = load_model(path / "student-int4"), rounded(load_model(path / "student"), GROUP)
    ids = torch.arange(12)[None]
    packed(ids)  # compressed-tensors unpacks at the first pass
    ours = dict(quantisable(student))
    for name, layer in quantisable(packed):
        assert torch.equal(layer.weight.float(), ours[name].weight)


def test_weights_behind_the_grid_learn(whole):
    path, _ = whole
    before, after = tiny_job().new_student().state_dict(), load_model(path / "student").state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in before if name.endswith("proj.weight"))


def test_a_killed_run_gives_the_same_student(whole, tmp_path):
    path, _ = whole
    killed = distil(tiny_job(int4=GROUP), tiny_folder(tmp_path / "killed"))
    for _ in itertools.islice(killed, 7):
        pass
    killed.close()  # type: ignore[attr-defined]
    *_, last = distil(tiny_job(int4=GROUP), tiny_folder(tmp_path / "killed"))
    assert isinstance(last, Finished)
    ours, theirs = (load_file(one / "student" / "model.safetensors") for one in (path, tmp_path / "killed"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_that_was_ended_before_it_packed_packs(whole, tmp_path):
    path, _ = whole
    shutil.copytree(path, tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "student-int4")
    (tmp_path / "half" / "measurements" / "distilled.npz").unlink()
    *_, last = distil(tiny_job(int4=GROUP), tiny_folder(tmp_path / "half"))
    assert isinstance(last, Finished)
    ours, theirs = (load_file(one / "student-int4" / "model.safetensors") for one in (path, tmp_path / "half"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert json.loads((path / "four_bits.json").read_text()) == {"group": GROUP}


def test_a_damaged_note_of_the_groups_is_written_anew(whole, tmp_path):
    path, _ = whole
    shutil.copytree(path, tmp_path / "damaged")
    (tmp_path / "damaged" / "four_bits.json").write_text("{}")
    *_, last = distil(tiny_job(int4=GROUP), tiny_folder(tmp_path / "damaged"))
    assert isinstance(last, Finished)
    assert json.loads((tmp_path / "damaged" / "four_bits.json").read_text()) == {"group": GROUP}


def test_a_corrected_teacher_stays_in_full(tmp_path):
    job = tiny_job(int4=GROUP, correction=TrainingSettings(steps=2, learning_rate=1e-3), control=False)
    *_, last = distil(job, tiny_folder(tmp_path / "corrected"))
    assert isinstance(last, Finished)
    in_full = load_model(tmp_path / "corrected" / "controls" / CORRECTED / "student")
    beside = LiveTeacher(job.teacher.model, size=257)
    found = measure(in_full, job.held_out, length=LENGTH, teacher=beside, size=257)
    np.testing.assert_array_equal(found.nll, last.measurements[CORRECTED].nll)
