"""Bytes on an accelerator and on disk."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_planning_workload import STUDENT, TEACHER, WORK

from potstill.planning import (
    Accelerator,
    Fleet,
    LabelFormat,
    Writing,
    bytes_a_label,
    configuration_of,
    disk_of,
    memory_of_labelling,
    memory_of_learning,
    memory_of_measuring,
    plan_of,
    remedies,
    remedies_of_labelling,
)

LARGE = replace(
    WORK,
    teacher=replace(TEACHER, parameters=4_000_000_000, largest=50_000_000, inside=3_000_000_000),
    student=replace(
        STUDENT,
        parameters=1_000_000_000,
        width=2_048,
        ffn=8_192,
        layers=24,
        largest=40_000_000,
        inside=900_000_000,
        active=900_000_000,
    ),
    rows=32,
    length=2_048,
)
GPU = Accelerator("gpu", flops=1e15, memory=40e9, bandwidth=1e12, link=1e11, network=1e10)


def test_a_student_needs_sixteen_bytes_a_parameter_and_a_teacher_two():
    needed = memory_of_learning(LARGE, there=GPU).needed
    assert needed["student"] + needed["gradients"] + needed["optimizer"] == 16e9
    assert needed["teacher"] == 8e9
    assert "teacher" not in memory_of_learning(replace(LARGE, is_stored=True), there=GPU).needed


def test_a_divided_student_is_as_small_as_there_are_many_but_for_its_ends():
    one_pass = replace(LARGE, micro_rows=8)
    whole, divided = (memory_of_learning(one_pass, count=4, there=GPU, how=how).needed for how in ("ddp", "fsdp2"))
    assert divided["student"] == whole["student"] / 4
    assert divided["optimizer"] == whole["optimizer"] / 4
    assert divided["teacher"] == 2 * (3_000_000_000 / 4 + 1_000_000_000)
    outside, largest = 100_000_000, 40_000_000
    assert divided["gathered"] == 4 * outside + 2 * 2 * largest
    assert divided["gradients"] == 4e9 / 4 + 4 * (outside + largest)
    assert divided["16-bit copies"] == 2 * STUDENT.head
    assert whole["16-bit copies"] == 2 * (900_000_000 + STUDENT.head)
    # Experts are no linear layers: they are gathered as they are, and copied in each.
    mixture = replace(one_pass, student=replace(LARGE.student, active=100_000_000))
    of_mixture = memory_of_learning(mixture, count=4, there=GPU, how="fsdp2").needed
    assert of_mixture["16-bit copies"] == whole["16-bit copies"]
    assert of_mixture["gathered"] == 4 * (outside + 2 * largest)
    assert whole["gradients, as sent"] == 4e9
    # A step of several passes keeps all gradients until the last.
    several = memory_of_learning(replace(LARGE, micro_rows=4), count=4, there=GPU, how="fsdp2").needed
    assert several["gradients"] == 4e9
    shared = memory_of_learning(replace(one_pass, tensor_parallel=True), count=4, there=GPU, how="ddp").needed
    assert shared["teacher"] == divided["teacher"]
    assert shared["student"] == whole["student"]
    assert "teacher's layers, gathered" not in shared
    assert shared["teacher's pass"] > 4 * 8 * 2_048 * 2 * TEACHER.width  # of the rows of all four
    pairs = memory_of_learning(replace(one_pass, tensor_parallel=2), count=4, there=GPU, how="ddp").needed
    assert pairs["teacher"] == 2 * (3_000_000_000 / 2 + 1_000_000_000)
    assert pairs["teacher's pass"] == shared["teacher's pass"] / 2
    translated = replace(one_pass, is_translated=True)
    assert memory_of_learning(translated, count=4, there=GPU, how="fsdp2").needed["teacher"] == 8e9


def test_the_first_configuration_that_fits_is_planned():
    light = replace(LARGE, micro_rows=1)
    assert configuration_of(light, count=4, there=GPU) == "ddp"
    heavy = replace(
        light, student=replace(LARGE.student, parameters=4_000_000_000, inside=3_900_000_000, active=3_900_000_000)
    )
    assert configuration_of(heavy, count=4, there=GPU) == "fsdp2"
    assert configuration_of(heavy, count=1, there=GPU) == "ddp"
    # A student that writes is never divided.
    assert configuration_of(replace(heavy, writing=Writing(1.0, 8, 4, 50.0)), count=4, there=GPU) == "ddp"


def test_models_are_measured_whole_whatever_marks():
    stored = replace(LARGE, is_stored=True)
    needed = memory_of_measuring(stored, there=GPU).needed
    assert needed["teacher"] == 8e9
    assert needed["student"] == 4e9
    heavy = replace(stored, teacher=replace(LARGE.teacher, parameters=40_000_000_000), micro_rows=1)
    plan = plan_of(heavy, Fleet(GPU, 4))
    assert plan.memory["measuring"].missing > 40e9
    assert plan.advice["measuring"] == []
    assert "measuring" not in plan_of(replace(LARGE, micro_rows=1), Fleet(GPU, 4)).memory
    # Without an accelerator the teacher has nowhere else to go while the student learns.
    assert memory_of_learning(stored, there=1e12).needed["teacher"] == 8e9


def test_hidden_states_from_disk_need_the_teachers_head():
    hidden = replace(LARGE, is_stored=True, labels=LabelFormat("hidden"))
    assert memory_of_learning(hidden, there=GPU).needed["teacher's head"] == 6 * TEACHER.head
    assert "teacher's head" not in memory_of_learning(replace(LARGE, is_stored=True), there=GPU).needed


def test_what_is_too_much_says_by_how_much_and_what_fits():
    room = memory_of_learning(LARGE, there=GPU)
    assert room.missing == pytest.approx(room.total - 0.95 * 40e9)
    assert room.missing > 0
    advice = remedies(LARGE, count=1, there=GPU)
    assert advice[0] == "training.micro_rows = 1"
    assert memory_of_learning(replace(LARGE, micro_rows=1), there=GPU).missing == 0
    assert memory_of_learning(replace(LARGE, micro_rows=1), there=1e9).missing > 0
    assert remedies(LARGE, count=1, there=1e9) == []


def test_more_accelerators_are_named_where_nothing_else_helps():
    student = replace(LARGE.student, parameters=4_000_000_000, inside=3_900_000_000, active=3_900_000_000)
    heavy = replace(LARGE, student=student, micro_rows=1, gradient_checkpointing=True, is_stored=True)
    [advice] = remedies(heavy, count=1, there=GPU)
    assert advice.startswith("--count ")
    count = int(advice.split()[1])

    def missing(accelerators: int) -> float:
        wide = replace(heavy, rows=max(32, accelerators))
        return memory_of_learning(wide, count=accelerators, there=GPU, how="fsdp2").missing

    assert missing(count) == 0
    assert missing(count // 2) > 0


@pytest.mark.parametrize(("together", "count"), [(6, 24), (4, 16), (True, 16)])
def test_more_accelerators_are_whole_groups(together: bool | int, count: int):
    heavy = replace(LARGE, micro_rows=1, gradient_checkpointing=True, tensor_parallel=together)
    heavy = replace(
        heavy, student=replace(LARGE.student, parameters=6_000_000_000, inside=5_900_000_000, active=5_900_000_000)
    )
    advice = remedies(heavy, count=12, there=GPU)
    assert [words.split()[1] for words in advice if words.startswith("--count")] == [str(count)]


def test_labels_from_disk_need_no_pass_of_the_teacher():
    stored = memory_of_learning(replace(LARGE, is_stored=True, tensor_parallel=True), count=4, there=GPU).needed
    assert "teacher's pass" not in stored


def test_labelling_needs_room_for_the_whole_teacher():
    heavy = replace(LARGE, teacher=replace(LARGE.teacher, parameters=40_000_000_000))
    assert memory_of_labelling(heavy, there=GPU).missing > 40e9
    assert remedies_of_labelling(heavy, there=GPU) == []
    assert remedies(replace(heavy, is_stored=True), count=1, there=GPU) == [], "it couldn't be measured"
    wide = replace(LARGE, label_rows=1_000)
    assert remedies_of_labelling(wide, there=20e9) == ["labels.rows = 1"]


def test_checkpointing_keeps_fewer_activations():
    found = [
        memory_of_learning(replace(LARGE, gradient_checkpointing=on), there=GPU).needed["activations"]
        for on in (False, True)
    ]
    assert found[1] < found[0] / 10


@pytest.mark.parametrize(("tau", "size"), [(0.02, 24.2), (0.05, 13.1), (0.1, 8.3), (0.2, 5.3)])
def test_sampled_labels_take_what_was_measured(tau: float, size: float):
    assert bytes_a_label(LabelFormat(tau=tau), TEACHER) == pytest.approx(size)


def test_between_and_beyond_what_was_measured():
    sizes = [bytes_a_label(LabelFormat(tau=tau), TEACHER) for tau in (0.01, 0.02, 0.03, 0.05, 0.15, 0.2, 0.4)]
    assert sizes == sorted(sizes, reverse=True)
    assert 24.2 < sizes[0] < 60
    assert 1 < sizes[-1] < 5.3
    assert bytes_a_label(LabelFormat(tau=1e-300), TEACHER) < 2_000


def test_other_tiers():
    assert bytes_a_label(LabelFormat("topk", k=128), replace(TEACHER, vocabulary=1_000)) == pytest.approx(291.0)
    wide = replace(TEACHER, width=576)
    assert bytes_a_label(LabelFormat("hidden"), wide) == pytest.approx(531.5)
    assert bytes_a_label(LabelFormat("hidden", bits=6), wide) == pytest.approx(384.7)
    assert bytes_a_label(LabelFormat("dense"), TEACHER) == 200


def test_disk():
    stored = replace(WORK, is_stored=True, labelled=1_000, text=2_000, steps=1_000, checkpoint_every=100)
    assert disk_of(stored) == {
        "labels": pytest.approx(13_100),
        "checkpoints": 3 * 12 * 700,
        "students": 2 * 4 * 700,
        "text": 8 * 2_000,
    }
    assert disk_of(stored, label_bytes=2.0)["labels"] == 2_000
    hidden = replace(stored, labels=LabelFormat("hidden"))
    assert disk_of(hidden, label_bytes=2.0)["labels"] == 2_000 + 4 * TEACHER.head
