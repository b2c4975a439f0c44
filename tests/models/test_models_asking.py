"""How a model is asked: what its head reads while text is generated."""

from __future__ import annotations

import torch
from tiny_models import tiny_model

from potstill.models.asking import whole_rows_at_heads


def strides(model) -> list[tuple[int, ...]]:
    """Of what its head reads, the prompt's last places first, and the logits of all places."""
    seen: list[tuple[int, ...]] = []
    hook = model.lm_head.register_forward_pre_hook(lambda _, args: seen.append(args[0].stride()))
    try:
        ids = torch.arange(14).reshape(2, 7)
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, do_sample=False, pad_token_id=0)
    finally:
        hook.remove()
    return seen


def test_a_head_reads_whole_rows_inside_and_what_it_is_given_outside():
    model = tiny_model("llama").eval()
    hidden = model.config.hidden_size
    cut = (7 * hidden, hidden, 1)
    assert strides(model)[0] == cut
    with whole_rows_at_heads(model):
        assert strides(model)[0] == (hidden, hidden, 1)
    assert strides(model)[0] == cut


def test_the_same_logits():
    model = tiny_model("llama").eval()
    states = torch.randn(2, 7, model.config.hidden_size)[:, -3:]
    plain = model.lm_head(states)
    with whole_rows_at_heads(model):
        assert torch.equal(model.lm_head(states), plain)
        assert torch.equal(model.lm_head(states.flatten(0, 1)), plain.flatten(0, 1))
