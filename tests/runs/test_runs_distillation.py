"""A whole run: what happens in which order, what lies in the folder, and that a killed run goes on."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_job import STEPS, tiny_folder, tiny_job
from transformers import AutoModelForCausalLM

from potstill.errors import NotFiniteError
from potstill.evaluation import retention
from potstill.losses import HARD_LABELS
from potstill.runs import ArmStep, Finished, Measured, Stage, distil, scores_of
from potstill.training import train


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "student" / "model.safetensors")


def finished(job, path: Path) -> tuple[list, Finished]:
    events = list(distil(job, tiny_folder(path)))
    assert isinstance(events[-1], Finished)
    return events, events[-1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, list, Finished]:
    path = tmp_path_factory.mktemp("runs") / "whole"
    return path, *finished(tiny_job(same_time=True), path)


def test_the_student_comes_first_and_the_controls_after(whole):
    _, events, last = whole
    names = [event.name for event in events if isinstance(event, Measured)]
    assert names == ["teacher", "untouched", "distilled", "hard_labels", "hard_labels_same_time"]
    assert last.measurements.keys() == set(names)
    steps = [event.step.index for event in events if isinstance(event, ArmStep) and event.arm.name == "distilled"]
    assert steps == list(range(1, STEPS + 1))


def test_the_folder_holds_what_its_page_says(whole):
    path, _, _ = whole
    there = {entry.relative_to(path).as_posix() for entry in path.rglob("*")}
    assert {"recipe.toml", "identity.json", "steps.jsonl", "student/model.safetensors"} <= there
    assert {"measurements/teacher.npz", "controls/hard_labels/student/config.json"} <= there
    assert not any("checkpoints" in name or "part" in name for name in there)
    assert len(tiny_folder(path).steps("distilled")) == STEPS
    same_time = tiny_folder(path).read_json("same_time.json")
    assert len(tiny_folder(path).steps("hard_labels_same_time")) == same_time["steps"]


def test_the_saved_student_is_the_trained_and_measured_one(whole):
    path, _, _ = whole
    job = tiny_job()
    student = job.new_student()
    for _ in train(student, job.teacher, job.batches, job.measure, job.settings):
        pass
    saved = AutoModelForCausalLM.from_pretrained(path / "student")
    for name, tensor in student.state_dict().items():
        assert torch.equal(saved.state_dict()[name], tensor), name


def test_the_control_is_the_same_student_on_hard_labels(whole):
    path, _, _ = whole
    job = tiny_job()
    student = job.new_student()
    for _ in train(student, job.teacher, job.batches, HARD_LABELS, job.settings):
        pass
    saved = weights_of(path / "controls" / "hard_labels")
    for name, tensor in saved.items():
        assert torch.equal(student.state_dict()[name], tensor), name


def test_what_is_done_is_not_done_again(whole):
    path, _, first = whole
    events, again = finished(tiny_job(same_time=True), path)
    assert not [event for event in events if isinstance(event, Stage | ArmStep)]
    for name, found in again.measurements.items():
        assert (found.nll == first.measurements[name].nll).all()


@pytest.mark.parametrize("stop", [0, 1, 3, 4, 5, 7, 8, 9, 10, 12, 14, 16, 17, 18])
def test_a_run_stopped_anywhere_ends_as_one_that_was_not(stop, whole, tmp_path):
    straight, events, _ = whole
    path = tmp_path / "stopped"
    interrupted = distil(tiny_job(), tiny_folder(path))
    list(itertools.islice(interrupted, stop))
    interrupted.close()
    _, last = finished(tiny_job(), path)
    for arm in (".", "controls/hard_labels"):
        resumed, expected = weights_of(path / arm), weights_of(straight / arm)
        for name, tensor in expected.items():
            assert torch.equal(resumed[name], tensor), name
    for name in ("distilled", "hard_labels"):
        indices = [step["index"] for step in tiny_folder(path).steps(name)]
        assert indices == sorted(set(indices))
        assert indices[-1] == STEPS
    assert last.measurements["distilled"].nll.sum() == events[-1].measurements["distilled"].nll.sum()


def test_controls_can_be_left_out(tmp_path):
    _, last = finished(tiny_job(control=False, untouched=False), tmp_path / "run")
    assert last.measurements.keys() == {"teacher", "distilled"}
    assert not (tmp_path / "run" / "controls").exists()


def test_speeds_are_measured_once(tmp_path):
    _, last = finished(tiny_job(control=False, untouched=False, speed=True), tmp_path / "run")
    assert last.speeds["distilled"].decode_tokens_per_second > 0
    _, again = finished(tiny_job(control=False, untouched=False, speed=True), tmp_path / "run")
    assert again.speeds == last.speeds


def test_scores_stand_in_the_order_of_the_table(whole):
    _, _, last = whole
    scores = scores_of(last.measurements, last.sizes, last.speeds)
    assert [model.name for model in scores.models][:3] == ["teacher", "untouched", "hard_labels"]
    assert scores.models[-1].name == "distilled"
    kept = scores.models[-1].kept["perplexity"]
    assert kept == retention(last.measurements["distilled"], last.measurements["teacher"], "perplexity")
    assert scores.sizes["distilled"].non_embedding < scores.sizes["teacher"].non_embedding
    assert scores.to_json()["models"]["distilled"]["scores"]["perplexity"]["n"] == kept.n


def test_a_teacher_that_breaks_leaves_what_was_finished(tmp_path):
    job = tiny_job()
    events = distil(job, tiny_folder(tmp_path / "run"))
    for event in events:
        if isinstance(event, ArmStep) and event.step.index == 3:
            job.teacher.model.model.norm.weight.data.fill_(float("nan"))
            break
    with pytest.raises(NotFiniteError, match="teacher's logits are NaN"):
        list(events)
    assert [step["index"] for step in tiny_folder(tmp_path / "run").steps("distilled")] == [1, 2, 3]
    assert (tmp_path / "run" / "measurements" / "untouched.npz").exists()


@pytest.mark.parametrize(("killed_after", "begins"), [(1, "begins again"), (3, "goes on after step 2")])
def test_a_run_says_what_a_kill_took(killed_after, begins, tmp_path):
    job = tiny_job(control=False, untouched=False)
    killed = distil(job, tiny_folder(tmp_path / "run"))
    next(event for event in killed if isinstance(event, ArmStep) and event.step.index == killed_after)
    killed.close()  # type: ignore[attr-defined]
    events, _ = finished(job, tmp_path / "run")
    [told] = [event.what for event in events if isinstance(event, Stage) and "checkpoint" in event.what]
    assert told.startswith(f"distilled: {begins};")
    assert told.endswith("are done again: 1 (training.checkpoint_every = 2)")


def test_steps_go_to_a_tracker(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    finished(tiny_job(control=False, untouched=False, trackers=("tensorboard",)), tmp_path / "run")
    [file] = (tmp_path / "run").rglob("events.out.tfevents*")
    found = EventAccumulator(str(file)).Reload()
    assert "distilled/loss" in found.Tags()["scalars"]
    assert [event.step for event in found.Scalars("distilled/loss")] == list(range(1, STEPS + 1))
