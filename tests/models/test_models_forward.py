import pytest
import torch
from tiny_models import FAMILIES, VOCABULARY, batch_of, tiny_model
from transformers import BertConfig, BertLMHeadModel, MambaConfig, MambaForCausalLM

from potstill.errors import ModelError, NotFiniteError
from potstill.models import check_head, check_packing, forward, head_of, hidden_states

ROWS = [[3, 9, 27, 20, 60, 58], [52, 34, 41, 1, 3, 9]]
WEIGHTS = [[0.0, 1.0, 0.5, 1.0, 0.0, 1.0], [1.0, 1.0, 0.0, 0.0, 2.0, 0.0]]


@pytest.mark.parametrize("family", FAMILIES)
def test_head_gives_the_models_own_logits(family):
    model = tiny_model(family)
    batch = batch_of(ROWS, WEIGHTS)
    with torch.no_grad():
        states = hidden_states(model, batch)
        own = model(input_ids=batch.inputs).logits
    torch.testing.assert_close(states.head.logits(states.rows), own[batch.counted])
    check_head(model)


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"opt"}))
def test_packing_is_right_in_families_that_read_positions(family):
    check_packing(tiny_model(family))


def test_packing_is_refused_where_positions_dont_separate_texts():
    with pytest.raises(ModelError, match=r"OPTForCausalLM can't keep texts in one row apart.*turn packing off"):
        check_packing(tiny_model("opt"))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_family_without_positions_runs_unpacked_and_is_refused_packed():
    torch.manual_seed(0)
    model = MambaForCausalLM(
        MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, state_size=4)
    ).eval()
    check_head(model)
    with pytest.raises(ModelError, match="turn packing off"):
        check_packing(model)


@pytest.mark.parametrize(
    ("family", "reader", "nothing"),
    [("cohere", "_scale", 1.0), ("granite", "_scale", 1.0), ("gemma2", "_softcap", None)],
)
def test_check_head_notices_a_missed_factor(family, reader, nothing, monkeypatch):
    monkeypatch.setattr(forward, reader, lambda config: nothing)
    with pytest.raises(ModelError, match=r"logits of .* are not its last hidden state through its head"):
        check_head(tiny_model(family))


def test_check_head_refuses_a_model_that_sees_the_future():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    model = BertLMHeadModel(config)
    model.cls.predictions.transform = torch.nn.Identity()  # so that the head is linear and the future its only fault
    with pytest.raises(ModelError, match="not causal"):
        check_head(model)


def test_check_head_names_numbers_that_are_none():
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(NotFiniteError, match=r"NaN or infinite.*float32 or bfloat16"):
        check_head(model)


def test_checks_leave_training_mode_and_random_numbers_alone():
    model = tiny_model("gpt2").train()
    model.transformer.h[0].eval()
    before = torch.get_rng_state()
    check_head(model)
    check_packing(model)
    assert model.training
    assert model.transformer.h[1].attn.training
    assert not model.transformer.h[0].training
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("family", ["llama", "gemma2", "cohere", "phi"])
def test_checks_hold_in_other_dtypes(family, dtype):
    model = tiny_model(family).to(dtype)
    check_head(model)
    check_packing(model)


def test_hidden_states_are_the_counted_rows_in_reading_order():
    model = tiny_model("llama")
    batch = batch_of(ROWS, WEIGHTS)
    everything = model.model(batch.inputs).last_hidden_state
    expected = torch.stack([everything[r, c] for r in range(2) for c in range(6) if WEIGHTS[r][c] > 0])
    torch.testing.assert_close(hidden_states(model, batch).rows, expected)


def test_hidden_states_carry_the_gradient_to_every_weight():
    model = tiny_model("qwen3")
    states = hidden_states(model, batch_of(ROWS))
    states.head.logits(states.rows).logsumexp(-1).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_size_cuts_the_head_and_nothing_else():
    model = tiny_model("phi")
    with torch.no_grad():
        whole, part = hidden_states(model, batch_of(ROWS)), hidden_states(model, batch_of(ROWS), size=50)
        assert part.head.num_tokens == 50
        torch.testing.assert_close(part.head.logits(part.rows), whole.head.logits(whole.rows)[:, :50])


def test_the_head_is_the_models_own_weight():
    model = tiny_model("gemma3_text")
    assert head_of(model).weight is model.model.embed_tokens.weight


def test_a_batch_that_counts_nothing_gives_no_rows():
    states = hidden_states(tiny_model("llama"), batch_of([[3, 4]], [[0.0, 0.0]]))
    assert states.rows.shape == (0, 32)


def test_a_model_without_a_linear_head_is_refused():
    model = tiny_model("llama")
    model.lm_head = torch.nn.Identity()
    with pytest.raises(ModelError, match=r"no linear head.*Identity"):
        head_of(model)
