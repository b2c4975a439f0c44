import pytest
import torch
from tiny_models import FAMILIES, VOCABULARY, batch_of, tiny_model

from potstill.errors import ModelError, NotFiniteError
from potstill.teachers import LiveTeacher
from potstill.types import Batch

ROWS = [[3, 9, 27, 20, 60, 58], [52, 34, 41, 1, 3, 9]]
WEIGHTS = [[0.0, 1.0, 0.5, 1.0, 0.0, 1.0], [1.0, 1.0, 0.0, 0.0, 2.0, 0.0]]


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_are_the_models_logits_at_counted_predictions(family):
    model, batch = tiny_model(family), batch_of(ROWS, WEIGHTS)
    targets = LiveTeacher(model, size=50).label(batch)
    with torch.no_grad():
        own = model(input_ids=batch.inputs).logits[batch.counted][:, :50]
    torch.testing.assert_close(targets.head.logits(targets.rows), own)


def test_labels_carry_no_gradient_but_may_be_multiplied_by_one_that_does():
    teacher = LiveTeacher(tiny_model("llama"), size=VOCABULARY)
    targets = teacher.label(batch_of(ROWS))
    assert not targets.rows.requires_grad
    assert not targets.head.weight.requires_grad
    student = torch.ones((), requires_grad=True)
    (student * targets.head.logits(targets.rows)).sum().backward()  # saved for backward: no inference tensors
    assert student.grad is not None


def test_the_model_is_frozen_and_deterministic():
    model = tiny_model("gpt2").train()  # has dropout
    teacher = LiveTeacher(model, size=VOCABULARY)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    batch = batch_of(ROWS)
    assert torch.equal(teacher.label(batch).rows, teacher.label(batch).rows)
    assert teacher.num_tokens == VOCABULARY


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_are_marked_in_theirs(dtype):
    teacher = LiveTeacher(tiny_model("llama").to(dtype), size=VOCABULARY)
    assert teacher.label(batch_of(ROWS)).rows.dtype == dtype


@pytest.mark.parametrize("size", [0, VOCABULARY + 1])
def test_a_size_beyond_the_head_is_refused(size):
    with pytest.raises(ModelError, match=f"61 rows, so it can't mark {size} tokens"):
        LiveTeacher(tiny_model("llama"), size=size)


def test_nothing_counted_gives_no_rows():
    teacher = LiveTeacher(tiny_model("llama"), size=VOCABULARY)
    assert teacher.label(batch_of([[3, 4]], [[0.0, 0.0]])).rows.shape == (0, 32)


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
def test_a_hidden_state_that_is_no_number_is_located(number):
    model = tiny_model("llama")

    def damage(module, arguments, states):
        states[0, 4], states[1, 2] = number, number
        return states

    model.model.norm.register_forward_hook(damage)
    batch = batch_of(ROWS)
    batch = Batch(batch.inputs, batch.targets, batch.weights, batch.documents + 7, batch.positions, batch.offsets)
    with pytest.raises(
        NotFiniteError,
        match=r"2 of 12 predictions, first in document 7 at position 4 of its context.*float32 or bfloat16",
    ):
        LiveTeacher(model, size=VOCABULARY).label(batch)


@pytest.mark.parametrize("family", ["llama", "phi"])
def test_damaged_head_weights_are_found(family):
    model = tiny_model(family)
    with torch.no_grad():
        (model.lm_head.weight if family == "llama" else model.lm_head.bias)[7] = torch.nan
    with pytest.raises(NotFiniteError, match="12 of 12 predictions, first in document 0 at position 0"):
        LiveTeacher(model, size=VOCABULARY).label(batch_of(ROWS))


def test_padding_rows_of_the_vocabulary_may_hold_anything():
    model = tiny_model("llama")
    with torch.no_grad():
        model.lm_head.weight[55:] = torch.nan
    LiveTeacher(model, size=55).label(batch_of(ROWS))


def test_an_overflow_in_half_precision_is_found_though_hidden_states_are_finite():
    model = tiny_model("llama").half()
    with torch.no_grad():
        model.lm_head.weight.copy_(torch.full_like(model.lm_head.weight, 30_000.0).sign() * 30_000)
        model.model.norm.weight.fill_(100.0)
    teacher = LiveTeacher(model, size=VOCABULARY)
    with pytest.raises(NotFiniteError, match=r"it is in torch.float16"):
        teacher.label(batch_of(ROWS))


def test_large_finite_logits_are_no_error():
    model = tiny_model("llama").half()
    with torch.no_grad():
        model.lm_head.weight.fill_(0).fill_diagonal_(20_000.0)  # the bound of all logits overflows, no logit does
        model.model.norm.weight.fill_(1.0)
    targets = LiveTeacher(model, size=VOCABULARY).label(batch_of(ROWS))
    assert targets.head.logits(targets.rows).isfinite().all()
