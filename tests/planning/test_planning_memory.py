"""Bytes on an accelerator and on disk."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_planning_workload import STUDENT, TEACHER, WORK

from potstill.planning import (
    Accelerator,
    LabelFormat,
    bytes_a_label,
    disk_of,
    memory_of_labelling,
    memory_of_learning,
    remedies,
    remedies_of_labelling,
)

LARGE = replace(
    WORK,
    teacher=replace(TEACHER, parameters=4_000_000_000, largest=50_000_000),
    student=replace(STUDENT, parameters=1_000_000_000, width=2_048, ffn=8_192, layers=24, largest=40_000_000),
    rows=32,
    length=2_048,
)
GPU = Accelerator("gpu", flops=1e15, memory=40e9, bandwidth=1e12, link=1e11, network=1e10)


def test_a_student_needs_sixteen_bytes_a_parameter_and_a_teacher_two():
    needed = memory_of_learning(LARGE, there=GPU).needed
    assert needed["student"] + needed["gradients"] + needed["optimizer"] == 16e9
    assert needed["teacher"] == 8e9
    assert "teacher" not in memory_of_learning(replace(LARGE, is_stored=True), there=GPU).needed


def test_shards_are_as_small_as_there_are_many():
    one, four = (memory_of_learning(LARGE, count=count, there=GPU).needed for count in (1, 4))
    assert four["optimizer"] == one["optimizer"] / 4
    assert four["gathered"] > 0
    # A teacher that takes less than half of one accelerator is on each.
    assert four["teacher"] == one["teacher"]
    heavy = replace(LARGE, teacher=replace(LARGE.teacher, parameters=40_000_000_000))
    assert memory_of_learning(heavy, count=4, there=GPU).needed["teacher"] == 20e9
    assert memory_of_labelling(heavy, count=4, there=GPU).needed["teacher"] == 20e9


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
    heavy = replace(LARGE, student=replace(LARGE.student, parameters=20_000_000_000))
    [advice] = remedies(heavy, count=1, there=GPU)
    assert advice.startswith("--count ")
    count = int(advice.split()[1])
    assert memory_of_learning(replace(heavy, rows=max(32, count)), count=count, there=GPU).missing == 0
    assert memory_of_learning(heavy, count=count // 2, there=GPU).missing > 0


def test_labelling_needs_room_for_the_teacher():
    heavy = replace(LARGE, teacher=replace(LARGE.teacher, parameters=40_000_000_000))
    assert memory_of_labelling(heavy, count=1, there=GPU).missing > 40e9
    assert remedies_of_labelling(heavy, count=1, there=GPU) == ["--count 4"]
    assert memory_of_labelling(heavy, count=4, there=GPU).missing == 0
    wide = replace(LARGE, label_rows=1_000)
    assert remedies_of_labelling(wide, count=1, there=20e9) == ["labels.rows = 1"]


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


def test_other_tiers():
    assert bytes_a_label(LabelFormat("topk", k=128), TEACHER) == pytest.approx(291.0)
    wide = replace(TEACHER, width=576)
    assert bytes_a_label(LabelFormat("hidden"), wide) == pytest.approx(531.5)
    assert bytes_a_label(LabelFormat("hidden", bits=6), wide) == pytest.approx(384.7, rel=0.05)
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
