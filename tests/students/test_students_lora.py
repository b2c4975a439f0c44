"""Adapters: nothing at first, alone in learning, merged into a plain model that says the same."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from test_students_prune import SETTINGS, TOKENS
from tiny_encoders import tiny_encoder
from tiny_models import tiny_model
from transformers import AutoModelForCausalLM

from potstill.errors import MissingExtraError, ModelError
from potstill.students import add_lora, merge_lora_


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "gemma2"])
def test_adapters_learn_alone_and_merge(family: str, tmp_path: Path):
    plain = tiny_model(family, settings=SETTINGS[family])
    with torch.no_grad():
        before = plain(TOKENS).logits
    student = add_lora(tiny_model(family, settings=SETTINGS[family]), rank=2, alpha=4.0)
    with torch.no_grad():
        torch.testing.assert_close(student(TOKENS).logits, before)
    learns = {name for name, weight in student.named_parameters() if weight.requires_grad}
    assert learns
    assert all("lora_" in name for name in learns)
    assert not any("lm_head" in name or "embed" in name for name in learns)
    optimizer = torch.optim.AdamW([weight for weight in student.parameters() if weight.requires_grad], lr=1e-2)
    for _ in range(3):
        student(TOKENS).logits.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        learned = student(TOKENS).logits
        assert (learned - before).abs().max() > 1e-3 * before.abs().max()
        merged = merge_lora_(student)
        torch.testing.assert_close(merged(TOKENS).logits, learned, rtol=1e-4, atol=1e-4)
    assert merged.state_dict().keys() == plain.state_dict().keys()
    assert all(weight.requires_grad for weight in merged.parameters())
    merged.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(again(TOKENS).logits, learned, rtol=1e-4, atol=1e-4)


def test_chosen_layers_of_an_encoder():
    student = add_lora(tiny_encoder("bert", task="classes"), rank=2, alpha=2.0, targets=["query", "value"])
    assert sum(weight.requires_grad for weight in student.parameters()) == 4 * 2 * 2
    with pytest.raises(ModelError, match="no adapter can be put"):
        add_lora(tiny_encoder("bert"), rank=2, alpha=2.0, targets=["nothing"])


def test_two_are_equal_and_the_random_state_is_left_alone():
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    one, other = (add_lora(tiny_model("llama"), rank=2, alpha=4.0).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_without_peft(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[lora\]'"):
        add_lora(tiny_model("llama"), rank=2, alpha=4.0)
