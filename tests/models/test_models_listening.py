"""What comes along with a forward pass, in each family: heads and channels as the model's own attention has them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiny_encoders import ENCODERS, tiny_encoder
from tiny_models import FAMILIES, GROUPED, VOCABULARY, batch_of, tiny_model
from torch.nn import functional
from transformers import PreTrainedModel

from potstill.errors import ModelError
from potstill.models import few_tokens, hidden_states, is_causal
from potstill.models.projections import projections_of
from potstill.types import Batch

MORE = {"phi3": GROUPED, "gpt_bigcode": {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64, "vocab_size": 61}}
SETTINGS = FAMILIES | MORE
DECODERS = {family: lambda family=family: tiny_model(family, settings=SETTINGS[family]) for family in SETTINGS}
MODELS: dict[str, Callable[[], PreTrainedModel]] = DECODERS | {
    family: lambda family=family: tiny_encoder(family) for family in ENCODERS
}
WANTED = [(part, layer) for layer in (1, 3) for part in ("queries", "keys", "values", "asked", "offered")]
# Norms or factors lie between what is projected and what is multiplied.
TURNED_ON_THE_WAY = {"qwen3", "gemma3_text", "olmo2"}


@pytest.mark.parametrize("family", MODELS)
def test_projections_are_what_attention_gets(family: str):
    """At the first token, where rotary embeddings do nothing; and attention made of the parts is the model's own."""
    model = MODELS[family]()
    batch = few_tokens(model)
    with torch.no_grad():
        states = hidden_states(model, batch, layers=(-1, 1, 3), attention=WANTED)
    assert set(states.attention) == set(WANTED)
    assert set(states.layers) == {-1, 1, 3}
    for layer in (1, 3):
        found = {part: states.attention[part, layer] for part, at in WANTED if at == layer}
        assert found["asked"].shape == found["queries"].shape == (8, 4, 8)
        assert found["keys"].shape == found["values"].shape
        again = 4 // found["keys"].shape[1], found["offered"].shape[1] // found["keys"].shape[1]
        if family not in TURNED_ON_THE_WAY:
            assert is_parallel(found["queries"][0], found["asked"][0])
            assert is_parallel(found["keys"][0].repeat_interleave(again[1], 0), found["offered"][0])
        if family in ("bert", "gpt2"):  # no rotary embeddings: everywhere
            assert is_parallel(found["queries"], found["asked"])


def is_parallel(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((functional.cosine_similarity(one, other, dim=-1) > 1 - 1e-5).all())


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_attention_made_of_the_parts_is_the_models_own(family: str):
    model = MODELS[family]()
    model.set_attn_implementation("eager")
    batch = few_tokens(model)
    wanted = [("asked", 2), ("offered", 2)]
    with torch.no_grad():
        states = hidden_states(model, batch, attention=wanted)
        own = model(input_ids=batch.inputs, output_attentions=True).attentions[2][0]
    asked, offered = (states.attention[key] for key in wanted)
    scores = torch.einsum("ihc,jhc->hij", asked, offered.repeat_interleave(4 // offered.shape[1], 1))
    if is_causal(model):
        scores = scores.masked_fill(torch.ones(8, 8).triu(1).bool(), -torch.inf)
    torch.testing.assert_close(scores.softmax(-1), own, atol=1e-5, rtol=1e-4)


def test_listening_changes_nothing_and_stays_in_the_graph():
    model = tiny_model("llama")
    tokens = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    before = model(tokens).logits
    batch = batch_of(tokens.tolist())
    states = hidden_states(model, batch, layers=(-1,), attention=[("queries", 0), ("asked", 3)])
    (states.attention["queries", 0].sum() + states.attention["asked", 3].sum()).backward()
    assert model.model.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0
    assert model.model.layers[3].self_attn.k_proj.weight.grad is None
    assert torch.equal(model(tokens).logits, before)
    assert torch.equal(states.layers[-1], model.get_input_embeddings()(tokens).flatten(0, 1))


def test_padding_is_left_out_and_contexts_are_counted():
    positions = torch.tensor([[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 0, 0]])
    documents = torch.tensor([[0, 0, 0, 1, 1, -1], [2, 2, 2, 2, -1, -1]])
    tokens = torch.randint(4, VOCABULARY, (2, 6))
    batch = Batch(tokens, tokens, (documents >= 0).float(), documents, positions, positions)
    assert batch.contexts.tolist() == [3, 2, 4]
    assert batch.rows(1, 2).contexts.tolist() == [4]
    states = hidden_states(tiny_model("llama"), batch, layers=(0,), attention=[("keys", 0)])
    assert len(states.layers[0]) == len(states.attention["keys", 0]) == 9


def test_what_can_not_be_told_apart_names_the_class():
    bloom = tiny_model("bloom", settings={"hidden_size": 32, "n_layer": 4, "n_head": 4, "vocab_size": VOCABULARY})
    with pytest.raises(ModelError, match=r"BloomForCausalLM can't be told apart: .*interface.*Compare hidden states"):
        projections_of(bloom)
    with pytest.raises(ModelError, match=r"asked of layer 0 of BloomForCausalLM can't be overheard"):
        hidden_states(bloom, few_tokens(bloom), attention=[("asked", 0)])


def test_who_sees_what_is_behind_it():
    assert is_causal(tiny_model("gpt2"))
    assert not is_causal(tiny_encoder("bert"))
    assert not is_causal(tiny_encoder("distilbert", task="classes"))
