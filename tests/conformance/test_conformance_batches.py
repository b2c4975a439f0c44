"""Labels never misaligned: packing, padding, prompts and the shift, through a real decoder in fp64.

Conformance list: (5) packed == unpacked, left- == right-padded; (6) prompt and padding don't count, the first token of the
completion does; (10) a prediction keeps its target; (14) one batch has one loss.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from potstill.losses import ForwardKL, SoftLabelLoss, linear_loss
from potstill.models import hidden_states
from potstill.teachers import LiveTeacher
from potstill.types import Batch

TOKENS, WIDTH = 53, 10
MEASURE = SoftLabelLoss(ForwardKL(), temperature=2.0, alpha=0.6)


def model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=TOKENS,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).double().eval()


@pytest.fixture(scope="module")
def student() -> LlamaForCausalLM:
    return model(1)


@pytest.fixture(scope="module")
def teacher() -> LiveTeacher:
    return LiveTeacher(model(2), size=TOKENS)


def context(length: int, seed: int, *, prompt: int = 0, document: int = 0) -> Batch:
    tokens = torch.randint(3, TOKENS, (1, length + 1), generator=torch.Generator().manual_seed(seed))
    weights = torch.ones(1, length)
    weights[:, :prompt] = 0
    documents = torch.full((1, length), document)
    return Batch(
        tokens[:, :-1], tokens[:, 1:], weights, documents, torch.arange(length)[None], torch.arange(length)[None]
    )


def padding(length: int, token: int = 0) -> Batch:
    zeros = torch.full((1, length), token)
    return Batch(
        zeros,
        zeros,
        torch.zeros(1, length),
        torch.full((1, length), -1),
        torch.arange(length)[None],
        torch.arange(length)[None],
    )


def side_by_side(*parts: Batch) -> Batch:
    return Batch(*(torch.cat([getattr(part, name) for part in parts], 1) for name in FIELDS))


def stacked(*parts: Batch) -> Batch:
    return Batch(*(torch.cat([getattr(part, name) for part in parts], 0) for name in FIELDS))


FIELDS = ("inputs", "targets", "weights", "documents", "positions", "offsets")


def loss_and_gradient(student, teacher, batch: Batch) -> tuple[float, list[torch.Tensor]]:
    states = hidden_states(student, batch, size=TOKENS)
    counted = batch.counted
    loss = linear_loss(states, teacher.label(batch), batch.targets[counted], batch.weights[counted], MEASURE)
    return loss.total.item(), list(torch.autograd.grad(loss.total, list(student.parameters())))


def assert_same(one, other) -> None:
    assert other[0] == pytest.approx(one[0], rel=1e-10)
    for left, right in zip(one[1], other[1], strict=True):
        torch.testing.assert_close(right, left, rtol=1e-7, atol=1e-10)


def test_packed_is_unpacked(student, teacher):
    """Also two windows of one document, which share a row and must not see each other."""
    parts = [context(4, 1, document=3), context(3, 2, document=3), context(3, 3, prompt=1, document=5)]
    alone = stacked(*(side_by_side(part, padding(WIDTH - part.inputs.shape[1])) for part in parts))
    assert_same(loss_and_gradient(student, teacher, alone), loss_and_gradient(student, teacher, side_by_side(*parts)))


def test_left_padded_is_right_padded(student, teacher):
    part = context(6, 4, prompt=2)
    right, left = side_by_side(part, padding(4)), side_by_side(padding(4), part)
    assert_same(loss_and_gradient(student, teacher, right), loss_and_gradient(student, teacher, left))


def test_padding_is_not_looked_at(student, teacher):
    part = context(6, 4)
    first, second = (side_by_side(part, padding(4, token)) for token in (0, 17))
    assert_same(loss_and_gradient(student, teacher, first), loss_and_gradient(student, teacher, second))


def test_micro_batches_sum_to_the_batch(student, teacher):
    parts = [side_by_side(context(n, n), padding(WIDTH - n)) for n in (3, 9, 6)]
    whole = loss_and_gradient(student, teacher, stacked(*parts))
    split = [loss_and_gradient(student, teacher, part) for part in parts]
    summed = [torch.stack(gradients).sum(0) for gradients in zip(*(gradient for _, gradient in split), strict=True)]
    assert_same(whole, (sum(loss for loss, _ in split), summed))


def test_prompt_targets_do_not_count_and_the_first_completion_token_does(student, teacher):
    batch = context(8, 7, prompt=3)
    before = loss_and_gradient(student, teacher, batch)[0]

    def with_target(place: int) -> float:
        targets = batch.targets.clone()
        targets[0, place] = (targets[0, place] + 1) % TOKENS
        return loss_and_gradient(student, teacher, replace(batch, targets=targets))[0]

    assert [with_target(place) for place in range(3)] == [before] * 3
    assert with_target(3) != pytest.approx(before, rel=1e-6)
    assert with_target(7) != pytest.approx(before, rel=1e-6)


def test_position_t_predicts_the_token_after_it(student, teacher):
    """The loss of our shift equals the loss a person would write from whole logits."""
    batch = context(8, 9, prompt=2)
    line = torch.cat([batch.inputs[0], batch.targets[0, -1:]])[None]
    with torch.no_grad():
        z, t = student(line).logits[0, :-1], teacher.model(line).logits[0, :-1]
    log_p, log_q = (t / 2).log_softmax(-1), (z / 2).log_softmax(-1)
    soft = 4 * (log_p.exp() * (log_p - log_q)).sum(-1)
    hard = torch.nn.functional.cross_entropy(z, line[0, 1:], reduction="none")
    expected = (0.6 * soft + 0.4 * hard)[2:].sum().item()
    assert loss_and_gradient(student, teacher, batch)[0] == pytest.approx(expected, rel=1e-9)


def test_fractional_weights_weigh(student, teacher):
    batch = context(8, 11)
    halves = replace(batch, weights=batch.weights * 0.5)
    one, other = loss_and_gradient(student, teacher, batch), loss_and_gradient(student, teacher, halves)
    assert_same((one[0] / 2, [gradient / 2 for gradient in one[1]]), other)
