import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import FAMILIES, LAYERS, batch_of, byte_tokenizer, tiny_model
from transformers import AutoConfig, AutoModelForCausalLM

from potstill.errors import ModelError
from potstill.models import check_head, check_packing, hidden_states, save_model
from potstill.students import copy_layers, ends_of_blocks, evenly_spaced, first_and_last, last_layers

KEPT = [(0, 3), (0, 1, 3), (2,), (0, 1, 2, 3)]
ROWS = [[3, 9, 27, 20, 60, 58, 11, 12], [52, 34, 41, 1, 3, 9, 5, 5]]


@pytest.mark.parametrize("layers", KEPT, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_student_is_the_teacher_with_the_other_layers_skipped(family, layers):
    teacher = tiny_model(family)
    student, lineage = copy_layers(teacher, layers)
    assert lineage.layers == layers
    for layer in set(range(LAYERS)) - set(layers):
        layer_list(teacher)[layer].register_forward_hook(give_back_the_input, with_kwargs=True)
    batch = batch_of(ROWS)
    with torch.no_grad():
        torch.testing.assert_close(hidden_states(student, batch).rows, hidden_states(teacher, batch).rows)
    check_head(student)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_reloads_bit_equal_and_generates_with_its_cache(family, tmp_path):
    student, _ = copy_layers(tiny_model(family), (0, 1, 3))
    save_model(student, byte_tokenizer(), tmp_path / "student")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    assert type(again) is type(student)
    prompt = torch.tensor([[3, 9, 27, 20, 60]])
    assert torch.equal(again(prompt).logits, student(prompt).logits)
    for name, weight in student.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    cached, uncached = (again.generate(prompt, use_cache=use, **settings) for use in (True, False))
    assert torch.equal(cached, uncached)
    if family != "opt":
        check_packing(again)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_teacher_is_not_changed_and_shares_no_memory(family):
    teacher = tiny_model(family)
    config, weights = teacher.config.to_dict(), copy.deepcopy(teacher.state_dict())
    random_state = torch.get_rng_state()
    student, _ = copy_layers(teacher, (0, 3))
    assert torch.equal(random_state, torch.get_rng_state())
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    assert teacher.config.to_dict() == config
    for name, weight in teacher.state_dict().items():
        assert torch.equal(weight, weights[name]), name


@pytest.mark.parametrize(
    ("family", "setting", "expected"),
    [
        ("qwen2", "layer_types", ["sliding_attention", "full_attention", "full_attention"]),
        ("gemma3_text", "layer_types", ["sliding_attention", "full_attention", "full_attention"]),
        ("smollm3", "no_rope_layers", [1, 0, 0]),
    ],
)
def test_what_is_said_layer_by_layer_follows_the_layers(family, setting, expected):
    student, _ = copy_layers(tiny_model(family), (0, 1, 3))
    assert getattr(student.config, setting) == expected
    assert student.config.num_hidden_layers == 3


def test_lists_that_only_happen_to_be_as_long_stay(tmp_path):
    teacher = tiny_model("llama")
    teacher.config.eos_token_id = [2, 5, 6, 7]
    student, _ = copy_layers(teacher, (0, 3))
    assert student.config.eos_token_id == [2, 5, 6, 7]


@pytest.mark.parametrize("family", [name for name in FAMILIES if tiny_model(name).config.tie_word_embeddings])
def test_tied_weights_stay_tied(family):
    student, _ = copy_layers(tiny_model(family), (0, 3))
    assert student.get_output_embeddings().weight is student.get_input_embeddings().weight


def test_layers_know_their_new_place():
    student, _ = copy_layers(tiny_model("llama"), (1, 3))
    assert [layer.self_attn.layer_idx for layer in student.model.layers] == [0, 1]


def test_dtype_generation_settings_and_mode_are_the_teachers():
    teacher = tiny_model("llama").bfloat16().train()
    teacher.generation_config.top_k = 7
    teacher.config._attn_implementation = "eager"
    student, _ = copy_layers(teacher, (0, 3))
    assert student.dtype == torch.bfloat16
    assert student.training
    assert student.generation_config.top_k == 7
    assert student.generation_config is not teacher.generation_config
    assert student.config._attn_implementation == "eager"


def test_the_lineage_names_the_teacher(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path)
    assert copy_layers(AutoModelForCausalLM.from_pretrained(tmp_path), (0,))[1].source == str(tmp_path)
    assert copy_layers(tiny_model("llama"), (0,))[1].source == "LlamaForCausalLM"


@pytest.mark.parametrize("layers", [(), (4,), (-1, 2)])
def test_layers_the_teacher_has_not_got_are_refused(layers):
    with pytest.raises(ModelError, match="the teacher has layers 0 to 3"):
        copy_layers(tiny_model("llama"), layers)


def test_a_layer_that_depends_on_its_place_cant_move_but_may_stay():
    config = AutoConfig.for_model("gpt2", **FAMILIES["gpt2"], scale_attn_by_inverse_layer_idx=True)
    teacher = AutoModelForCausalLM.from_config(config)
    copy_layers(teacher, (0, 1))
    with pytest.raises(ModelError, match=r"layer 3 of GPT2LMHeadModel can't become layer 1: attn.scaling was 0.08"):
        copy_layers(teacher, (0, 3))


def test_a_mixture_whose_plain_layers_are_listed_by_index_cant_shift_them():
    sizes = {**FAMILIES["llama"], "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
    teacher = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3_moe", **sizes, mlp_only_layers=[0]))
    copy_layers(teacher, (0, 2))
    with pytest.raises(ModelError, match=r"layer 1 of Qwen3MoeForCausalLM can't become layer 0: mlp"):
        copy_layers(teacher, (1, 2))


@given(st.integers(1, 100).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def test_choices_are_rising_and_keep_the_ends(counts):
    num_teacher, num_student = counts
    for choose in (evenly_spaced, first_and_last):
        layers = choose(num_teacher, num_student)
        assert len(layers) == num_student
        assert list(layers) == sorted(set(layers))
        assert layers[0] == 0
        assert num_student == 1 or layers[-1] == num_teacher - 1
    gaps = {b - a for a, b in zip(evenly_spaced(*counts), evenly_spaced(*counts)[1:], strict=False)}
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_choices_by_example():
    assert evenly_spaced(6, 3) == (0, 3, 5)
    assert evenly_spaced(30, 4) == (0, 10, 19, 29)
    assert first_and_last(6, 3) == (0, 1, 5)
    assert first_and_last(6, 4) == (0, 1, 4, 5)
    for choose in (evenly_spaced, first_and_last):
        with pytest.raises(
            ModelError, match="a student of 7 layers can't be copied from a teacher of 6: choose 1 to 6"
        ):
            choose(6, 7)


def layer_list(model) -> torch.nn.ModuleList:
    (found,) = (m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == LAYERS)
    return found


def give_back_the_input(module, arguments, settings, output):
    states = arguments[0] if arguments else settings["hidden_states"]
    return (states, *output[1:]) if isinstance(output, tuple) else states


def test_whom_each_layer_imitates():
    assert ends_of_blocks(4, 12) == ((0, 2), (1, 5), (2, 8), (3, 11))  # TinyBERT's g(m) = 3 m, from 0
    assert ends_of_blocks(2, 5) == ((0, 2), (1, 4))
    assert ends_of_blocks(3, 3) == ((0, 0), (1, 1), (2, 2))
    assert last_layers(2, 3, 6) == ((1, 4), (2, 5))
    with pytest.raises(ModelError):
        ends_of_blocks(7, 6)
