import pytest
import torch
from tiny_models import batch_of

from potstill.teachers import FakeTeacher


def log_probs(teacher: FakeTeacher, rows: list[list[int]]) -> torch.Tensor:
    targets = teacher.label(batch_of(rows))
    return targets.head.logits(targets.rows).log_softmax(-1)


def test_the_distribution_depends_on_the_last_token_only():
    teacher = FakeTeacher(20)
    first, second = log_probs(teacher, [[3, 7, 5]]), log_probs(teacher, [[9, 1, 5]])
    assert torch.equal(first[2], second[2])
    assert not torch.allclose(first[1], second[1])
    assert first.shape == (3, 20)


def test_only_counted_predictions_are_marked():
    targets = FakeTeacher(20, width=8).label(batch_of([[3, 7, 5]], [[0.0, 1.0, 0.5]]))
    assert targets.rows.shape == (2, 8)


def test_seeds_give_other_opinions_and_equal_teachers_give_the_same():
    assert torch.equal(log_probs(FakeTeacher(20), [[3]]), log_probs(FakeTeacher(20), [[3]]))
    assert not torch.equal(log_probs(FakeTeacher(20), [[3]]), log_probs(FakeTeacher(20, seed=1), [[3]]))


@pytest.mark.parametrize("sharpness", [0.0, 1.0, 5.0])
def test_sharpness_is_the_spread_of_the_logits(sharpness):
    targets = FakeTeacher(2000, width=256, sharpness=sharpness).label(batch_of([list(range(50))]))
    assert float(targets.head.logits(targets.rows).std()) == pytest.approx(sharpness, rel=0.05)
