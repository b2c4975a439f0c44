"""This machine, tried: rates are of real work, and a plan adds them up."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from test_planning_workload import WORK
from tiny_job import tiny_job

from potstill.data import PackedBatches
from potstill.errors import RecipeError
from potstill.planning import Fleet, Measured, Trial, accelerator, plan_of, try_out
from potstill.soft_labels import Manifest, Sampled

RATES = Measured(
    {"mark": 0.5, "weigh": 0.1, "learn": 1.0, "learn_hard": 0.6, "read_teacher": 0.2, "read_student": 0.1},
    seconds_a_step=2.0,
    seconds_before=7.0,
    seconds_timing=3.0,
    bytes_a_label=10.0,
    process=500.0,
    memory=1e9,
)


def trial(tmp_path: Path) -> Trial:
    job = tiny_job()
    assert isinstance(job.batches, PackedBatches)
    manifest = Manifest(
        codec=Sampled(0.1),
        num_tokens=job.teacher.num_tokens,
        tokenizer="these",
        teacher={"name": "tiny", "fingerprint": "one", "dtype": "float32"},
        context=job.length,
        rows=4,
        head={"scale": 1.0, "softcap": None},
    )
    return Trial(
        job.teacher,
        job.marker,
        job.new_student(),
        job.batches,
        job.batches.corpus,
        job.held_out,
        job.measure,
        job.settings,
        job.length,
        manifest=manifest,
        is_stored=True,
    )


def test_rates_are_of_real_work(tmp_path: Path):
    found = try_out(trial(tmp_path))
    rates = found.seconds_a_token
    assert all(1e-9 < rates[action] < 1 for action in ("mark", "learn", "learn_hard", "read_teacher", "read_student"))
    assert 0 < found.seconds_a_step < 1
    assert 1 < (found.bytes_a_label or 0) < 1_000
    assert found.seconds_timing > 0
    assert found.took > 0


def test_without_a_store_a_control_and_timing_less_is_tried(tmp_path: Path):
    tried = replace(trial(tmp_path), manifest=None, is_stored=False, control=False, times=False)
    found = try_out(tried)
    assert found.bytes_a_label is None
    assert found.seconds_timing == 0
    assert {"mark", "learn_hard"}.isdisjoint(found.seconds_a_token)


def test_another_clock_may_be_asked(tmp_path: Path):
    ticks = count()
    tried = replace(trial(tmp_path), manifest=None, is_stored=False, control=False, times=False)
    assert try_out(tried, clock=lambda: float(next(ticks))).took > 10


def test_a_plan_adds_up():
    plan = plan_of(WORK, RATES, price=3_600.0)
    #        before, teacher, learning and the optimizer, the control's, students, timing
    expected = [7, 400 * 0.2, 640 + 10 * 2, 640 * 0.6 + 10 * 2, 600 * 0.1, 3]
    assert [one.seconds for one in plan.phases] == pytest.approx(expected)
    assert plan.seconds == pytest.approx(sum(expected))
    assert plan.cost == pytest.approx(plan.seconds)
    assert plan.memory["distill"].needed["process"] == 500
    assert plan_of(WORK, RATES).cost is None


def test_labels_measured_here_decide_what_the_store_takes():
    plan = plan_of(replace(WORK, is_stored=True, labelled=1_000), RATES)
    assert plan.disk["labels"] == 10_000
    assert list(plan.memory)[:2] == ["label", "distill"]
    # A process of its own labels: it loads and reads as the one that learns does.
    assert [one.phase.stage for one in plan.phases if one.seconds == 7.0] == ["label", "distill"]


def test_a_control_of_the_same_time_takes_the_students_time():
    phases = plan_of(replace(WORK, same_time=True), RATES).phases
    soft, hard, same_time = [one for one in phases if one.phase.action in ("learn", "learn_hard")]
    assert same_time.seconds == pytest.approx(soft.seconds)
    assert same_time.phase.steps > hard.phase.steps


def test_an_accelerator_has_no_room_for_what_the_machine_holds():
    plan = plan_of(WORK, replace(RATES, on_accelerator=True, memory=24e9))
    assert "process" not in plan.memory["distill"].needed
    assert plan.memory["distill"].there == 0.95 * 24e9


def test_a_search_is_one_process():
    with pytest.raises(RecipeError, match="a search is one process's work"):
        plan_of(replace(WORK, kind="compress", is_stored=True), Fleet(accelerator("h100"), 2))


def test_what_does_not_fit_comes_with_advice():
    plan = plan_of(replace(WORK, length=100_000, rows=64), RATES)
    assert plan.memory["distill"].missing > 0
    assert plan.advice["distill"][0].startswith("training.micro_rows = 1")


def test_what_could_not_be_started_is_refused():
    with pytest.raises(RecipeError, match=r"4 sequences and there are 8 accelerators.*--set training\.rows=8"):
        plan_of(WORK, Fleet(accelerator("h100"), 8))
    with pytest.raises(RecipeError, match="--price"):
        plan_of(WORK, RATES, price=-1.0)
