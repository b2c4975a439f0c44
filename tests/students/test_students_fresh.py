import copy

import pytest
import torch
from tiny_models import FAMILIES, byte_tokenizer, tiny_model
from transformers import AutoModelForCausalLM

from potstill.errors import ModelError
from potstill.models import check_head, save_model, size_of
from potstill.students import fresh


@pytest.mark.parametrize("family", FAMILIES)
def test_a_smaller_shape_reloads(family, tmp_path):
    teacher = tiny_model(family)
    student = fresh(teacher, {"num_hidden_layers": 2, "hidden_size": 16}, seed=0)
    assert type(student) is type(teacher)
    assert student.config.num_hidden_layers == 2
    assert student.config.hidden_size == 16
    assert size_of(student).non_embedding < size_of(teacher).non_embedding / 2
    check_head(student)
    save_model(student, byte_tokenizer(), tmp_path / "student")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    prompt = torch.tensor([[3, 9, 27]])
    student.eval()
    assert torch.equal(again(prompt).logits, student(prompt).logits)


def test_weights_depend_on_the_seed_and_nothing_else():
    teacher = tiny_model("llama")
    before, config = torch.get_rng_state(), copy.deepcopy(teacher.config.to_dict())
    one, same, other = (fresh(teacher, {"intermediate_size": 24}, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert teacher.config.to_dict() == config
    assert torch.equal(one.lm_head.weight, same.lm_head.weight)
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


def test_a_pattern_of_layers_goes_on():
    student = fresh(tiny_model("smollm3"), {"num_hidden_layers": 3}, seed=0)
    assert student.config.no_rope_layers == [1, 0, 1]
    assert [layer.self_attn.use_rope for layer in student.model.layers] == [1, 0, 1]


def test_more_layers_need_their_lists():
    teacher = tiny_model("gemma3_text")
    with pytest.raises(ModelError, match="6 layers are more than the 4 described: give layer_types"):
        fresh(teacher, {"num_hidden_layers": 6}, seed=0)
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    assert fresh(teacher, {"num_hidden_layers": 6, "layer_types": kinds}, seed=0).config.layer_types == kinds


def test_a_familys_own_word_for_layers_will_do():
    student = fresh(tiny_model("gpt2"), {"n_layer": 2}, seed=0)
    assert len(student.transformer.h) == student.config.num_hidden_layers == 2


def test_a_misspelt_setting_is_named():
    with pytest.raises(ModelError, match="llama has no setting 'hiden_size': did you mean 'hidden_size'"):
        fresh(tiny_model("llama"), {"hiden_size": 16}, seed=0)


@pytest.mark.parametrize(
    "changes", [{"num_attention_heads": 3, "num_key_value_heads": 2}, {"hidden_act": "wonder"}, {"hidden_size": "wide"}]
)
def test_settings_that_dont_fit_are_refused(changes):
    with pytest.raises(ModelError, match=r"no LlamaForCausalLM can be made with \{"):
        fresh(tiny_model("llama"), changes, seed=0)


@pytest.mark.parametrize("num_layers", [0, 1.5])
def test_a_number_of_layers_is_a_whole_number(num_layers):
    with pytest.raises(ModelError, match="whole number of at least 1"):
        fresh(tiny_model("llama"), {"num_hidden_layers": num_layers}, seed=0)
