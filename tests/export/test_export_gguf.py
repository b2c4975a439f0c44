"""A GGUF file runs in llama.cpp and says what the model says; what can't be written is refused, with the reason."""

import pytest
import torch
from in_llama_cpp import check_says_the_same
from small_tokenizers import END, TEXTS, byte_level, pieces
from tiny_models import FAMILIES, GROUPED, SLIDING, byte_tokenizer, tiny_model
from tokenizers import Tokenizer, models, processors
from transformers import PreTrainedTokenizerFast

from potstill.engines import LlamaServer
from potstill.engines.reading import tokens_of
from potstill.errors import MissingExtraError, ModelError
from potstill.export import kind_named, save_gguf
from potstill.export.blocks import KINDS, stored, values_of
from potstill.export.gguf_file import bytes_in, head_in, types_in
from potstill.export.grid import codes
from potstill.models import load_model, load_tokenizer

TOKENS = 320
SIZED = GROUPED | {"vocab_size": TOKENS}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
CASES = {
    "llama": SIZED | {"tie_word_embeddings": False},
    "llama biased": SIZED | {"attention_bias": True, "mlp_bias": True, "head_dim": 16},
    "llama of 3.1": SIZED | {"rope_parameters": LLAMA3 | {"original_max_position_embeddings": 32}},
    "llama stretched": SIZED | {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
    "mistral": SIZED | {"sliding_window": 32},
    "qwen2": SIZED | {"tie_word_embeddings": True},
    "qwen3": SIZED | {"head_dim": 16},
    "gemma3_text": SIZED | SLIDING | {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16},
    "gpt2": FAMILIES["gpt2"] | {"vocab_size": TOKENS},
}
IDS = torch.randint(TOKENS, (30,), generator=torch.Generator().manual_seed(0)).tolist()


@pytest.mark.parametrize("case", CASES)
def test_each_family_says_what_it_says_in_torch(case, tmp_path):
    model = tiny_model(case.split()[0], settings=CASES[case], spread=10.0)
    save_gguf(model, byte_level(), tmp_path / "tiny.gguf", "f16")
    check_says_the_same(tmp_path / "tiny.gguf", model, IDS)


@pytest.mark.parametrize("rule", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_text_is_cut_by_the_tokenizers_own_rule(rule, tmp_path):
    tokenizer = byte_level(rule, begins=rule == "gpt-2")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    save_gguf(tiny_model("llama", settings=SIZED), tokenizer, tmp_path / "tiny.gguf", "f16")
    with LlamaServer(tmp_path / "tiny.gguf", context=32, threads=1) as server:
        for text in TEXTS:
            assert tokens_of(server, text) == tokenizer(text, add_special_tokens=False).input_ids
            assert tokens_of(server, text, special=True) == tokenizer(text).input_ids
    loaded = load_tokenizer(tmp_path / "tiny.gguf")
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded.eos_token_id == tokenizer.eos_token_id


def test_pieces_are_joined_as_sentencepiece_joins_them(tmp_path):
    tokenizer = pieces()
    settings = SIZED | {"vocab_size": len(tokenizer) + 3}  # and rows that no token has
    save_gguf(tiny_model("llama", settings=settings), tokenizer, tmp_path / "tiny.gguf", "f16")
    with LlamaServer(tmp_path / "tiny.gguf", context=32, threads=1) as server:
        for text in TEXTS:
            assert tokens_of(server, text, special=True) == tokenizer(text).input_ids


def test_four_bits_are_read_as_they_were_rounded():
    weight = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
    one = stored("blk.0.ffn_up.weight", weight, "q4_0", num_layers=1)
    q, scales = codes(weight, 32, dtype=torch.float16)
    assert torch.equal(values_of(one), (q.float().unflatten(-1, (2, 32)) * scales[..., None]).flatten(-2))
    assert one.data.nbytes == 6 * 2 * 18


def test_vectors_are_whole_and_embedding_and_head_of_eight_bits(tmp_path):
    model = tiny_model("llama", settings=SIZED | {"tie_word_embeddings": False})
    save_gguf(model, byte_level(), tmp_path / "tiny.gguf", "q4_0")
    assert types_in(tmp_path / "tiny.gguf") == {"Q8_0": 2, "Q4_0": 4 * 7, "F32": 9}
    sizes = bytes_in(tmp_path / "tiny.gguf")
    assert sizes["embedding"] == sizes["head"] == TOKENS * 34
    assert sum(sizes.values()) < (tmp_path / "tiny.gguf").stat().st_size
    head = head_in(tmp_path / "tiny.gguf", model, TOKENS)
    torch.testing.assert_close(head.weight, model.lm_head.weight.detach(), atol=0.02, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_type_can_not_hold_is_refused(kind):
    """Weights that are no numbers by every type; large ones where they, or the scales of their blocks, are beyond f16."""
    weight = torch.randn(4, 256, generator=torch.Generator().manual_seed(0))
    for wrong in (torch.nan, torch.inf, -torch.inf):
        with pytest.raises(ModelError, match=r"ffn_up\.weight has weights that are NaN or infinite"):
            stored("blk.0.ffn_up.weight", weight.index_fill(1, torch.tensor(7), wrong), kind, num_layers=1)
    large = weight.index_fill(1, torch.tensor(7), -1e9)
    if kind == "bf16":
        assert torch.isfinite(values_of(stored("blk.0.ffn_up.weight", large, kind, num_layers=1))).all()
        return
    with pytest.raises(ModelError, match=r"ffn_up.weight has a weight of 1e\+09, which \w+ can't hold: write bf16"):
        stored("blk.0.ffn_up.weight", large, kind, num_layers=1)


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0", "q4_1", "q4_0"])
def test_each_type_is_as_near_as_its_bits(kind, tmp_path):
    model = tiny_model("llama", settings=SIZED | {"hidden_size": 64, "intermediate_size": 96}, spread=10.0)
    save_gguf(model, byte_level(), tmp_path / "tiny.gguf", kind)
    again = load_model(tmp_path / "tiny.gguf")
    most = {"f16": 1e-3, "bf16": 8e-3, "q8_0": 1e-2, "q4_1": 0.15, "q4_0": 0.15}[kind]
    for name, weight in model.state_dict().items():
        theirs = again.state_dict()[name]
        assert ((theirs - weight).norm() / weight.norm()) < most


def test_what_cannot_be_said_is_refused(tmp_path, monkeypatch):
    llama, path = tiny_model("llama", settings=SIZED), tmp_path / "no.gguf"
    with pytest.raises(ModelError, match="OPTForCausalLM can't be written as GGUF: potstill knows how for llama"):
        save_gguf(tiny_model("opt"), byte_level(), path, "f16")
    scaled = CASES["gemma3_text"] | {"query_pre_attn_scalar": 8}
    with pytest.raises(ModelError, match="query_pre_attn_scalar"):
        save_gguf(tiny_model("gemma3_text", settings=scaled), byte_level(), path, "f16")
    with pytest.raises(ModelError, match="without merges"):
        save_gguf(llama, byte_tokenizer(), path, "f16")
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, "a")))
    with pytest.raises(ModelError, match="type WordLevel"):
        save_gguf(llama, words, path, "f16")
    with pytest.raises(ModelError, match=r"no rule here .* \(Split, ByteLevel\)"):
        save_gguf(llama, byte_level(r"\w+|\W+"), path, "f16")
    with pytest.raises(ModelError, match="330 tokens and the model 320"):
        save_gguf(llama, byte_level(size=330), path, "f16")
    with pytest.raises(ModelError, match="no token that ends a text"):
        save_gguf(llama, PreTrainedTokenizerFast(tokenizer_object=byte_level().backend_tokenizer), path, "f16")
    llama.model.layers[1].mlp.up_proj.weight = torch.nn.Parameter(torch.zeros(40, 32))
    with pytest.raises(ModelError, match=r"layers of different sizes .*layers.1.mlp.up_proj.weight \[40, 32\]"):
        save_gguf(llama, byte_level(), path, "f16")
    with pytest.raises(ModelError, match="llama-quantize"):
        kind_named("Q3_K_S")
    assert kind_named("Q8_0") == "q8_0"
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"'\.\[llama\]'"):
        save_gguf(llama, byte_level(), path, "f16")


ALL_FULL = {"layer_types": ["full_attention"] * 4, "query_pre_attn_scalar": 8}
COMPUTED_OTHERWISE = {
    "gemma3_text, nothing slides": (CASES["gemma3_text"] | ALL_FULL, "query_pre_attn_scalar"),
    "gpt2, by layer": (CASES["gpt2"] | {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    "gpt2, unscaled": (CASES["gpt2"] | {"scale_attn_weights": False}, "scale_attn_weights"),
    "qwen2, as Llama 3.1": (CASES["qwen2"] | {"rope_parameters": CASES["llama of 3.1"]["rope_parameters"]}, "'llama3'"),
    "qwen3, biased": (CASES["qwen3"] | {"attention_bias": True}, "attention_bias"),
}


@pytest.mark.parametrize("case", COMPUTED_OTHERWISE)
def test_what_llama_cpp_computes_otherwise_is_refused(case, tmp_path):
    settings, what = COMPUTED_OTHERWISE[case]
    with pytest.raises(ModelError, match=what):
        save_gguf(tiny_model(case.split(",")[0], settings=settings), byte_level(), tmp_path / "no.gguf", "f16")


def test_every_token_that_ends_a_text_ends_it_there(tmp_path):
    model = tiny_model("llama", settings=SIZED)
    model.generation_config.eos_token_id = [0, 12, 13]
    save_gguf(model, byte_level(), tmp_path / "tiny.gguf", "f16")
    with LlamaServer(tmp_path / "tiny.gguf", context=32, threads=1) as server:
        for token, stops in ((0, True), (11, False), (12, True), (13, True)):
            asked = {"prompt": [5, 6], "n_predict": 4, "temperature": 0.0, "logit_bias": [[token, 1e4]]}
            assert (server.ask("/completion", asked)["stop_type"] == "eos") == stops, token
    model.generation_config.eos_token_id = [0, 12, 13, 14]
    with pytest.raises(ModelError, match="any of 4 tokens"):
        save_gguf(model, byte_level(), tmp_path / "no.gguf", "f16")


def test_a_tokenizer_that_cuts_otherwise_with_special_tokens_is_refused(tmp_path):
    tokenizer = byte_level()
    only = processors.TemplateProcessing(single=END, special_tokens=[(END, 0)])
    tokenizer.backend_tokenizer.post_processor = only
    with pytest.raises(ModelError, match="with its special tokens into"):
        save_gguf(tiny_model("llama", settings=SIZED), tokenizer, tmp_path / "no.gguf", "f16")
