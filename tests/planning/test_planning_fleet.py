"""Accelerators side by side: what more of them make faster, and what they don't."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_planning_workload import WORK

from potstill.errors import RecipeError
from potstill.planning import ACCELERATORS, Accelerator, Fleet, ModelShape, Phase, Writing, accelerator, flops_a_token

# Operations, bytes a second: round numbers.
ROUND = Accelerator("round", flops=1e6, memory=1e5, bandwidth=1e4, link=1e4, network=1e3)
LEARN = Phase("distill", "", "learn", 640.0, 10.0)


def test_one_computes_and_updates():
    fleet = Fleet(ROUND, 1, 0.5)
    assert fleet.computing(WORK, LEARN) == pytest.approx(640 * flops_a_token(WORK, "learn") / 0.5e6)
    assert fleet.travelling(WORK, LEARN) == 0
    assert fleet.reading(WORK, LEARN) == pytest.approx(10 * 28 * 700 / 0.75e4)
    assert fleet.seconds(WORK, LEARN) == pytest.approx(fleet.computing(WORK, LEARN) + fleet.reading(WORK, LEARN))


def test_more_share_the_computing_and_add_up_gradients():
    fleet = Fleet(ROUND, 4, 0.5)
    assert fleet.computing(WORK, LEARN) == pytest.approx(Fleet(ROUND, 1, 0.5).computing(WORK, LEARN) / 4)
    roomy = Fleet(replace(ROUND, memory=1e11), 4, 0.5)
    assert roomy.configuration(WORK) == "ddp"
    assert roomy.travelling(WORK, LEARN) == pytest.approx(10 * 2 * 4 * 700 * 3 / 4 / 0.75e4)
    assert roomy.travelling(replace(WORK, micro_rows=1), LEARN) == roomy.travelling(WORK, LEARN)
    assert roomy.reading(WORK, LEARN) == pytest.approx(10 * 28 * 700 / 0.75e4)


def test_a_divided_student_is_gathered():
    work = replace(WORK, micro_rows=1)
    tight = Fleet(ROUND, 4, 0.5)
    heavy = replace(work, student=replace(work.student, parameters=700_000, inside=500_000, active=500_000))
    assert tight.configuration(heavy) == "fsdp2"
    # Ten passes: layers of 2 bytes twice, the teacher's once; embeddings and head, and gradients, once a step.
    moved = 10 * (2 * 2 * 500_000 + 2 * 1_000 + 4 * 200_000 + 4 * 700_000)
    assert tight.travelling(heavy, LEARN) == pytest.approx(moved * 3 / 4 / 0.75e4)
    stored = replace(heavy, is_stored=True)
    assert tight.travelling(stored, LEARN) == pytest.approx((moved - 10 * 2 * 1_000) * 3 / 4 / 0.75e4)
    assert tight.reading(heavy, LEARN) == pytest.approx(10 * 28 * 700_000 / 4 / 0.75e4)


def test_a_shared_teacher_adds_up_its_parts_behind_each_half_of_a_layer():
    work, roomy = replace(WORK, tensor_parallel=True), Fleet(replace(ROUND, memory=1e11), 4, 0.5)
    summed = 2 * 2 * 640 * WORK.teacher.layers * WORK.teacher.width * WORK.bytes
    more = roomy.travelling(work, LEARN) - roomy.travelling(WORK, LEARN)
    assert more == pytest.approx(summed * 3 / 4 / 0.75e4)
    hard = replace(LEARN, action="learn_hard")
    assert roomy.travelling(work, hard) == roomy.travelling(WORK, hard)
    # Of two groups each adds up the parts of its own half of the tokens, between two.
    pairs = replace(work, tensor_parallel=2)
    assert roomy.travelling(pairs, LEARN) - roomy.travelling(WORK, LEARN) == pytest.approx(summed / 2 / 2 / 0.75e4)


@pytest.mark.parametrize(
    ("together", "speed"), [(8, 1e4), (4, 1e4), (2, 1e4), (16, 8e3), (12, 4e3), (6, 2e3), (True, 8e3)]
)
def test_a_group_in_one_machine_does_not_wait_for_the_network(together, speed):
    roomy = Fleet(replace(ROUND, memory=1e11), 48, 0.5)
    work = replace(WORK, tensor_parallel=together)
    size = 48 if together is True else together
    summed = 2 * 2 * 640 * size / 48 * WORK.teacher.layers * WORK.teacher.width * WORK.bytes
    more = roomy.travelling(work, LEARN) - roomy.travelling(WORK, LEARN)
    assert more == pytest.approx(summed * (size - 1) / size / (0.75 * speed))


def test_each_measures_all_held_out_text():
    measure = Phase("distill", "", "read_student", 100.0)
    assert Fleet(ROUND, 8).seconds(WORK, measure) == Fleet(ROUND, 1).seconds(WORK, measure)


def test_beyond_one_machine_the_network_counts():
    assert Fleet(ROUND, 8).wire == 0.75 * 1e4
    assert Fleet(ROUND, 16).wire == 0.75 * 8 * 1e3


def test_writing_reads_all_weights_for_each_token():
    work = replace(WORK, writing=Writing(rows=4.0, new_tokens=8, side_by_side=4, read=50.0))
    write = Phase("distill", "", "write", 320.0)
    assert Fleet(ROUND).reading(work, write) == pytest.approx(80 * 2 * (700 + 4 * 8 * 32) / 0.75e4)
    assert Fleet(ROUND, 1).bound(work, write) == "memory"


def test_the_table_is_plausible():
    for name, found in ACCELERATORS.items():
        assert found.name == name
        assert 1e14 < found.flops < 3e15
        assert found.network <= found.link < found.bandwidth
        # A matmul of 8,192 needs fewer bytes than operations allow for: the larger the chip, the more so.
        assert 50 < found.flops / found.bandwidth < 500
    assert accelerator("H100") == ACCELERATORS["h100"]
    assert accelerator("a100_40gb").memory == 40e9


def test_what_is_not_in_it_is_refused_with_what_is():
    with pytest.raises(RecipeError, match=r"did you mean h200.*a10, a100, .*rtx4090"):
        accelerator("h2000")
    with pytest.raises(RecipeError, match="--count"):
        Fleet(ROUND, 0)
    with pytest.raises(RecipeError, match="--mfu is a share"):
        Fleet(ROUND, 1, 40.0)


def test_a_real_size():
    """Six operations a parameter a token at 40 % of the peak: 8 billion parameters, 10 billion tokens, about 340 H100 hours."""
    shape = ModelShape(
        8_030_000_000, 6_980_000_000, 525_000_000, 128_256, 4_096, 14_336, 32, 4_096, 65_536, 218_000_000, 6_980_000_000
    )
    work = replace(WORK, student=shape, teacher=shape, is_stored=True, rows=64, length=4_096)
    phase = Phase("distill", "", "learn", 1e10, 1e10 / (64 * 4_096))
    hours = 8 * Fleet(accelerator("h100"), 8).seconds(work, phase) / 3_600
    assert 320 < hours < 420
