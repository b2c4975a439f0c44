"""What is counted of a model is what it has, and what it does."""

from __future__ import annotations

import pytest
import torch
from tiny_job import tiny_llama
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3MoeConfig

from potstill.planning import Workload, flops_a_token, shape_of

ROWS, LENGTH = 3, 16


def test_a_llama_of_seventy_billion_without_weights():
    config = LlamaConfig(
        vocab_size=128_256,
        hidden_size=8_192,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        intermediate_size=28_672,
    )
    with torch.device("meta"):
        found = shape_of(AutoModelForCausalLM.from_config(config))
    layer = 2 * 8_192 * 8_192 + 2 * 8_192 * 1_024 + 3 * 8_192 * 28_672 + 2 * 8_192
    assert found.largest == layer
    assert found.active == 80 * layer + 8_192
    assert found.parameters == 80 * layer + 8_192 + 2 * 128_256 * 8_192
    assert (found.head, found.vocabulary, found.attention) == (128_256 * 8_192, 128_256, 8_192)
    assert found.cache == 2 * 80 * 8 * 128


def test_of_a_mixture_of_experts_a_token_meets_few():
    config = Qwen3MoeConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        intermediate_size=48,
        moe_intermediate_size=24,
        num_experts=8,
        num_experts_per_tok=2,
        decoder_sparse_step=1,
        mlp_only_layers=[],
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    found = shape_of(model)
    experts = 2 * 8 * 3 * 32 * 24
    assert found.active == sum(weight.numel() for weight in model.model.layers.parameters()) + 32 - experts * 6 // 8
    assert found.ffn == 2 * 24


@pytest.mark.parametrize(("action", "backward"), [("write", False), ("learn_hard", True)])
def test_operations_are_those_that_torch_counts(action: str, backward: bool):
    model = tiny_llama()
    shape = shape_of(model)
    work = Workload("distill", shape, shape, steps=1, rows=ROWS, length=LENGTH, controls=1)
    ids = torch.zeros(ROWS, LENGTH, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        logits = model(input_ids=ids, use_cache=False).logits
        if backward:
            logits.sum().backward()
    passes = 3 if backward else 1
    # Norms have weights and no matmuls; torch counts the whole square of the attention, of which causal models need a half.
    norms = (2 * shape.layers + 1) * shape.width
    other_half = shape.layers * shape.attention * LENGTH
    counted = counter.get_total_flops() / (ROWS * LENGTH)
    expected = flops_a_token(work, action) - 2 * passes * norms + 2 * passes * other_half
    # Flash attention goes forward once more on its way back: two and a half times the forward's work instead of twice.
    assert counted == pytest.approx(expected, rel=0.02)
