"""A frozen model is held in a smaller dtype only where that changes no weight."""

from __future__ import annotations

import torch
from tiny_models import tiny_model

from potstill.models import hold_in_, holds_exactly
from potstill.students import copy_layers, fresh


def test_weights_of_a_bfloat16_checkpoint_are_held_in_it():
    model = tiny_model("llama")
    assert not holds_exactly(model, torch.bfloat16)
    hold_in_(model, torch.bfloat16)
    assert model.dtype == torch.float32
    rounded = tiny_model("llama").to(torch.bfloat16).float()
    before = {name: weight.clone() for name, weight in rounded.state_dict().items()}
    buffers = {name: buffer.dtype for name, buffer in rounded.named_buffers()}
    assert holds_exactly(rounded, torch.bfloat16)
    hold_in_(rounded, torch.bfloat16)
    assert rounded.dtype == torch.bfloat16
    assert {name: buffer.dtype for name, buffer in rounded.named_buffers()} == buffers
    for name, weight in rounded.state_dict().items():
        assert torch.equal(weight.float(), before[name].float()), name


def test_a_tied_head_stays_tied():
    model = tiny_model("gemma2").to(torch.bfloat16).float()
    hold_in_(model, torch.bfloat16)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_students_of_a_held_teacher_are_those_of_the_teacher_before():
    teacher = tiny_model("llama").to(torch.bfloat16).float()
    copied, new = copy_layers(teacher, (0,))[0], fresh(teacher, {"num_hidden_layers": 1}, 3)
    hold_in_(teacher, torch.bfloat16)
    for one, other in (
        (copied, copy_layers(teacher, (0,))[0].float()),
        (new, fresh(teacher, {"num_hidden_layers": 1}, 3)),
    ):
        assert other.dtype == torch.float32
        for name, weight in one.state_dict().items():
            assert torch.equal(weight, other.state_dict()[name]), name
