"""Is the teacher worth hearing? Before the run by a short look, after it by the control; and what the run does about it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_job import STEPS, tiny_folder, tiny_job, tiny_llama

from potstill.errors import ModelError
from potstill.evaluation import Measurement
from potstill.losses import HARD_LABELS, SoftLabelLoss
from potstill.reports.sentences import worth_in_words
from potstill.runs import ArmStep, Finished, Gate, Job, Judged, Worth, distil, scores_of, worth_of
from potstill.runs.worth import expected_gain
from potstill.teachers import LiveTeacher, MixtureTeacher
from potstill.training import Annealing, TrainingSettings, train


def of_nats(values: list[float], tokens: int = 100) -> Measurement:
    """A measurement of documents of as many tokens each, with these nats a token."""
    sums = tokens * np.array(values)
    nothing = np.full(len(values), np.nan)
    counts = np.full(len(values), float(tokens))
    bins = np.zeros((len(values), 15))
    return Measurement(counts, 4 * counts, sums, 0.5 * counts, nothing, nothing, bins, bins, bins)


def learned_teacher(job: Job, steps: int = 60) -> LiveTeacher:
    """One that knows the text."""
    model = tiny_llama(seed=5)
    for _ in train(model, None, job.batches, HARD_LABELS, TrainingSettings(steps=steps, learning_rate=1e-2)):
        pass
    return LiveTeacher(model.eval().requires_grad_(False), size=257)


@pytest.fixture(scope="module")
def knowing() -> LiveTeacher:
    return learned_teacher(tiny_job())


def gated_job(then: str, steps: int = STEPS, **changes: object) -> Job:
    job = tiny_job(control=False, untouched=False, **changes)
    return replace(job, gate=Gate(job.held_out, steps, then))  # type: ignore[arg-type]


def student_of(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "student" / "model.safetensors")


def finished(job: Job, path: Path) -> tuple[list, Finished]:
    events = list(distil(job, tiny_folder(path)))
    assert isinstance(events[-1], Finished)
    return events, events[-1]


@pytest.mark.parametrize(("teacher", "labels", "coming", "verdict"), [
    ([2.0, 2.2, 2.1], [3.0, 3.1, 3.3], 0.0, "worth"),
    ([2.0, 2.2, 2.1], [3.0, 3.1, 3.3], 2.0, "unclear"),
    ([3.0, 3.1, 3.3], [2.0, 2.2, 2.1], 0.0, "not"),
    ([3.0, 3.1, 3.3], [2.0, 2.2, 2.1], 1.0, "not"),
    ([2.0, 3.0, 2.0], [3.0, 2.0, 2.1], 0.0, "unclear"),
    ([2.0], [3.0], 0.0, "unclear"),
])  # fmt: skip
def test_the_verdict_is_the_paired_interval_and_what_labels_will_gain(teacher, labels, coming, verdict):
    worth = replace(worth_of(of_nats(teacher), of_nats(labels)), coming=coming)
    assert worth.verdict == verdict
    assert worth.lead.value == pytest.approx(np.mean(labels) - np.mean(teacher))
    again = Worth.from_json(json.loads(json.dumps(worth.to_json(), allow_nan=False)))
    assert again.verdict == verdict
    assert again.to_json() == worth.to_json()
    assert math.isnan(again.lead.low) == (len(teacher) == 1)


def test_models_that_cut_the_text_differently_are_compared_by_bits_a_byte():
    teacher, labels = of_nats([2.0, 2.1], tokens=50), of_nats([1.2, 1.3], tokens=100)
    teacher = replace(teacher, bytes=labels.bytes)
    worth = worth_of(teacher, labels)
    assert worth.metric == "bits_per_byte"
    assert worth.lead.value == pytest.approx((100 * 2.5 - 50 * 4.1) / (800 * math.log(2)))
    assert worth.teacher_right is None
    assert "bits a byte" in worth_in_words(replace(worth, heard=worth.lead))


def test_the_words_say_what_came_of_it():
    worse, better = of_nats([3.0, 3.1, 3.3]), of_nats([2.0, 2.2, 2.1])
    middle = of_nats([2.5, 2.6, 2.7])
    said = {
        (v, h): worth_in_words(worth_of(teacher, labels, distilled=distilled))
        for (v, teacher, labels) in (("worth", better, middle), ("not", worse, middle))
        for (h, distilled) in (("helped", better), ("harmed", worse), ("same", middle))
    }
    assert "it is worth hearing here, and hearing it helped" in said["worth", "helped"]
    assert "it is worth hearing here, yet hearing it did harm" in said["worth", "harmed"]
    assert "labels alone know this text better, yet hearing it helped" in said["not", "helped"]
    assert "labels alone know this text better, and hearing it did harm" in said["not", "harmed"]
    assert "no clear difference" in said["not", "same"]
    assert "loss.annealing" in said["not", "harmed"]
    assert "loss.annealing" not in said["not", "helped"]
    assert "50.0% right" in said["not", "same"]


def test_labels_gain_as_much_for_each_doubling():
    assert expected_gain(3.0, 2.5, 10, 10) == 0.0
    assert expected_gain(3.0, 2.5, 10, 80) == pytest.approx(1.5)
    assert expected_gain(2.5, 3.0, 10, 80) == 0.0


def test_a_gate_that_warns_changes_no_bit_of_the_student(tmp_path):
    events, _ = finished(gated_job("warn"), tmp_path / "asked")
    finished(tiny_job(control=False, untouched=False), tmp_path / "not")
    judged = [event for event in events if isinstance(event, Judged)]
    assert [event.annealed for event in judged] == [False]
    lengths = [event.arm.steps for event in events if isinstance(event, ArmStep) and event.step.index == 1]
    assert lengths == [STEPS // 2, STEPS, STEPS]
    asked, plain = student_of(tmp_path / "asked"), student_of(tmp_path / "not")
    assert all(torch.equal(asked[name], plain[name]) for name in plain)
    found = json.loads((tmp_path / "asked" / "gate.json").read_text())
    assert found["verdict"] == judged[0].worth.verdict


def test_the_gate_anneals_where_labels_know_better(tmp_path):
    """A teacher of random weights: labels know everything better."""
    job = gated_job("anneal", measure=SoftLabelLoss())
    events, _ = finished(job, tmp_path / "gated")
    (judged,) = [event for event in events if isinstance(event, Judged)]
    assert judged.worth.verdict == "not"
    assert judged.annealed
    by_hand = tiny_job(control=False, untouched=False, measure=SoftLabelLoss(), annealing=Annealing())
    finished(by_hand, tmp_path / "annealed")
    gated, annealed = student_of(tmp_path / "gated"), student_of(tmp_path / "annealed")
    assert all(torch.equal(gated[name], annealed[name]) for name in annealed)
    alphas = [step["alpha"] for step in tiny_folder(tmp_path / "gated").steps("distilled")]
    assert (alphas[0], alphas[-1]) == (1.0, 0.0)
    before = [event for event in finished(job, tmp_path / "gated")[0] if isinstance(event, ArmStep)]
    assert before == []


def test_a_killed_run_is_judged_as_before(tmp_path):
    job = gated_job("anneal", measure=SoftLabelLoss())
    whole, _ = finished(job, tmp_path / "whole")
    interrupted = distil(job, tiny_folder(tmp_path / "killed"))
    for event in interrupted:
        if isinstance(event, ArmStep) and event.arm.name == "distilled" and event.step.index == 3:
            break
    interrupted.close()
    again, _ = finished(job, tmp_path / "killed")
    assert [e.worth.to_json() for e in again if isinstance(e, Judged)] == [
        e.worth.to_json() for e in whole if isinstance(e, Judged)
    ]
    assert not [event for event in again if isinstance(event, ArmStep) and event.arm.name.endswith("look")]
    one, other = student_of(tmp_path / "whole"), student_of(tmp_path / "killed")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_teacher_that_knows_the_text_is_let_in(knowing, tmp_path):
    job = gated_job("anneal", steps=1, teacher=knowing, marker=knowing, measure=SoftLabelLoss())
    events, _ = finished(job, tmp_path / "run")
    (judged,) = [event for event in events if isinstance(event, Judged)]
    assert judged.worth.verdict == "worth"
    assert not judged.annealed
    assert {step["alpha"] for step in tiny_folder(tmp_path / "run").steps("distilled")} == {1.0}


def test_a_run_is_refused_where_labels_know_better_and_its_folder_stays_free(tmp_path):
    with pytest.raises(ModelError, match="labels alone knows this text better") as error:
        finished(gated_job("refuse"), tmp_path / "run")
    assert "loss.annealing" in str(error.value)
    finished(gated_job("warn"), tmp_path / "run")


def test_the_run_says_what_its_teacher_was_worth(knowing, tmp_path):
    job = tiny_job(untouched=False, teacher=knowing, marker=knowing)
    _, last = finished(job, tmp_path / "run")
    assert last.worth is not None
    assert last.worth.verdict == "worth"
    assert last.worth.heard is not None
    found = scores_of(last.measurements, last.sizes, last.speeds, last.worth).to_json()["worth"]
    assert found == json.loads(json.dumps(found, allow_nan=False))
    assert found["lead"]["value"] == pytest.approx(found["labels"]["value"] - found["teacher"]["value"])  # type: ignore[index,call-overload]


def test_nothing_is_said_where_nobody_can_say_it(tmp_path):
    _, alone = finished(tiny_job(control=False, untouched=False), tmp_path / "no_control")
    assert alone.worth is None
    live = tiny_job().teacher
    mixed = tiny_job(untouched=False, marker=MixtureTeacher((live, live), (1.0, 1.0)))
    _, several = finished(mixed, tmp_path / "several")
    assert several.worth is None


def test_annealing_leaves_the_control_alone(tmp_path):
    finished(tiny_job(untouched=False), tmp_path / "plain")
    finished(tiny_job(untouched=False, annealing=Annealing()), tmp_path / "annealed")
    plain, annealed = (
        load_file(tmp_path / run / "controls/hard_labels/student/model.safetensors") for run in ("plain", "annealed")
    )
    assert all(torch.equal(annealed[name], plain[name]) for name in plain)
    assert {step["alpha"] for step in tiny_folder(tmp_path / "annealed").steps("hard_labels")} == {0.0}
    one, other = student_of(tmp_path / "plain"), student_of(tmp_path / "annealed")
    assert not all(torch.equal(one[name], other[name]) for name in one)
