"""What happens in a run, how often, and what a token of it costs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from potstill.planning import LabelFormat, ModelShape, Workload, Writing, flops_a_token, phases_of

TEACHER = ModelShape(1_200, 1_000, 100, 50, 8, 16, 4, 8, 64, 250, 1_000)
STUDENT = ModelShape(700, 500, 100, 50, 8, 16, 2, 8, 32, 250, 500)
WORK = Workload("distill", TEACHER, STUDENT, steps=10, rows=4, length=16, held_out=200, controls=1, untouched=True)


def tokens(work: Workload) -> dict[str, float]:
    return {phase.action: phase.tokens for phase in phases_of(work)}


def test_a_distillation_with_its_control_and_the_untouched_student():
    # The teacher reads held-out text by itself, and once more for all that are compared with it.
    assert tokens(WORK) == {"read_teacher": 400, "learn": 640, "learn_hard": 640, "read_student": 600}


def test_labels_are_stored_once_and_then_the_teacher_rests():
    stored = replace(WORK, is_stored=True, labelled=1_000)
    assert tokens(stored)["mark"] == 1_000
    assert [phase.stage for phase in phases_of(stored)][:2] == ["label", "distill"]
    teacher = 2 * (1_000 + 4 * 8 * 16) + 2 * 100
    assert flops_a_token(WORK, "learn") - flops_a_token(stored, "learn") == teacher
    assert flops_a_token(stored, "learn") == flops_a_token(stored, "learn_hard")


def test_hidden_states_become_logits_by_the_teachers_head():
    stored = replace(WORK, is_stored=True)
    hidden = replace(stored, labels=LabelFormat("hidden"))
    assert flops_a_token(hidden, "learn") - flops_a_token(stored, "learn") == 2 * 100
    assert flops_a_token(hidden, "learn_hard") == flops_a_token(stored, "learn_hard")


def test_a_search_trains_more_than_its_student():
    search = replace(WORK, kind="compress", is_stored=True, cuts=1, looks=3, chosen_by=50)
    assert tokens(search)["learn"] == pytest.approx(2.2 * 640)
    assert tokens(replace(search, cuts=3))["learn"] == pytest.approx(3.3 * 640)
    assert tokens(search)["read_student"] == 12 * 50 + 7 * 200


def test_checkpointing_computes_once_more_and_adapters_need_fewer_gradients():
    student = 2 * (500 + 2 * 8 * 16)
    hard = flops_a_token(WORK, "learn_hard")
    assert flops_a_token(replace(WORK, gradient_checkpointing=True), "learn_hard") - hard == student
    assert hard - flops_a_token(replace(WORK, lora=0.25), "learn_hard") == pytest.approx(0.75 * student)


def test_what_a_student_writes_itself_is_written_first():
    writing = replace(WORK, writing=Writing(rows=2.0, new_tokens=8, side_by_side=16, read=50.0))
    assert tokens(writing)["write"] == 10 * 2 * 8
    assert tokens(writing)["learn"] == 500
