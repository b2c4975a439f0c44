"""Which models several processes can share, asked before they do."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from potstill.errors import ModelError, RecipeError
from potstill.models import check_tensor_parallel, group_size
from potstill.models.checks import check_same_states


def llama(*, heads: int = 6, kv_heads: int = 6) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=40,
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            initializer_range=0.2,
        )
    )


@pytest.mark.parametrize("size", [2, 3, 6])
def test_processes_share_heads_that_come_out_even(size: int):
    check_tensor_parallel(llama(), size)


@pytest.mark.parametrize(("wanted", "size"), [(True, 16), (2, 2), (8, 8), (16, 16)])
def test_all_are_one_group_or_groups_have_so_many(wanted: bool | int, size: int):
    assert group_size(wanted, 16) == size


@pytest.mark.parametrize("wanted", [True, 1, 2])
def test_a_process_alone_shares_nothing(wanted: bool | int):
    with pytest.raises(RecipeError, match="divides the teacher among processes, and there is one: begin several"):
        group_size(wanted, 1)


@pytest.mark.parametrize("wanted", [1, 0, -2, False])
def test_a_group_has_two_at_least(wanted: bool | int):
    with pytest.raises(RecipeError, match="at least 2, found"):
        group_size(wanted, 4)


@pytest.mark.parametrize("wanted", [3, 8])
def test_groups_come_out_even(wanted: int):
    with pytest.raises(
        RecipeError, match=f"4 processes don't make groups of {wanted}: set it to a number that divides 4"
    ):
        group_size(wanted, 4)


@pytest.mark.parametrize(
    ("heads", "size", "words"),
    [((6, 6), 4, "6 attention heads, which 4 processes"), ((6, 3), 2, "3 key-value heads, which 2 processes")],
)
def test_heads_that_do_not_come_out_even_are_refused(heads, size, words):
    with pytest.raises(ModelError, match=words):
        check_tensor_parallel(llama(heads=heads[0], kv_heads=heads[1]), size)


def test_a_model_without_a_plan_is_refused():
    small = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2))
    with pytest.raises(ModelError, match=r"no tensor-parallel plan .* for the layers of GPT2LMHeadModel"):
        check_tensor_parallel(small, 2)


def test_attention_that_is_to_be_compared_is_refused():
    with pytest.raises(RecipeError, match=r"leave loss.attention out"):
        check_tensor_parallel(llama(), 2, [("queries", 0)])


def test_a_model_without_weights_is_asked_too():
    """As a plan does."""
    with torch.device("meta"):
        mixtral = MixtralForCausalLM(MixtralConfig(num_hidden_layers=1, hidden_size=64, intermediate_size=64))
    check_tensor_parallel(mixtral, 8)
    with pytest.raises(ModelError, match="8 key-value heads, which 16 processes"):
        check_tensor_parallel(mixtral, 16)


def test_a_divided_model_that_is_another_is_found_out():
    whole = llama()
    check_same_states(deepcopy(whole), whole)
    other = deepcopy(whole)
    weight = other.model.layers[1].self_attn.o_proj.weight
    weight.data = weight.data.roll(4, dims=1)  # as if heads had been mixed up
    with pytest.raises(ModelError, match="off when its layers are divided"):
        check_same_states(other, whole)
