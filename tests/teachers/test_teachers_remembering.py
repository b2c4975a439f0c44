"""Text is marked once, and what is remembered is what was said."""

from dataclasses import replace

import torch
from tiny_models import batch_of

from potstill.teachers import FakeTeacher, RememberingTeacher
from potstill.types import Batch, DenseTargets


class Counting:
    """A fake teacher that counts how often it is asked."""

    def __init__(self) -> None:
        self.fake, self.asked, self.num_tokens = FakeTeacher(61), 0, 61

    def label(self, batch: Batch) -> DenseTargets:
        self.asked += 1
        return self.fake.label(batch)


def test_the_same_batch_is_marked_once_and_another_anew():
    teacher = Counting()
    remembering = RememberingTeacher(teacher)
    one, other = batch_of([[1, 2, 3], [4, 5, 6]]), batch_of([[1, 2, 3], [4, 5, 7]])
    for batch in (one, other, one, other):
        assert torch.equal(remembering.label(batch).rows, teacher.fake.label(batch).rows)
    assert teacher.asked == 2
    assert remembering.num_tokens == 61


def test_other_positions_or_weights_are_another_batch():
    teacher = Counting()
    remembering = RememberingTeacher(teacher)
    batch = batch_of([[1, 2, 3, 4]])
    remembering.label(batch)
    remembering.label(replace(batch, positions=torch.tensor([[0, 1, 0, 1]])))
    remembering.label(replace(batch, weights=torch.tensor([[1.0, 0.0, 1.0, 1.0]])))
    assert teacher.asked == 3


def test_it_keeps_no_more_than_it_may():
    teacher = Counting()
    remembering = RememberingTeacher(teacher, most_bytes=3 * 16 * 4)
    for _ in range(2):
        for rows in ([[1, 2, 3]], [[4, 5, 6]]):
            remembering.label(batch_of(rows))
    assert teacher.asked == 3
