"""Zeros beside channels and neurons that blocks of 32 don't divide: smaller files that say the same."""

import pytest
import torch
from in_llama_cpp import check_says_the_same
from small_tokenizers import byte_level
from tiny_models import FAMILIES, tiny_model

from potstill.export import gguf_file
from potstill.export.families import Widths
from potstill.export.padding import padding_of
from potstill.models import load_model

TOKENS = 320
ODD = {
    "vocab_size": TOKENS,
    "num_hidden_layers": 3,
    "hidden_size": 40,
    "intermediate_size": 72,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-3,
}
CASES = {
    "llama": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
    "mistral": {},
    "qwen3": {"tie_word_embeddings": True},
}
IDS = torch.randint(TOKENS, (30,), generator=torch.Generator().manual_seed(0)).tolist()


def odd(family: str):
    model = tiny_model(family, settings=ODD | CASES[family], spread=10.0)
    with torch.no_grad():
        # Norms and biases that a mistake would show in.
        for name, tensor in model.named_parameters():
            if tensor.ndim == 1:
                tensor.add_(0.3 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(len(name))))
    return model


@pytest.mark.parametrize("family", CASES)
def test_llama_cpp_says_what_the_student_says(family, tmp_path, monkeypatch):
    """In f16, which would not need the zeros: eight bits would hide a small mistake."""
    model = odd(family)
    monkeypatch.setattr(gguf_file, "padding_of", lambda model, kind: padding_of(model, "q8_0"))
    gguf_file.save_gguf(model, byte_level(), tmp_path / "tiny.gguf", "f16")
    check_says_the_same(tmp_path / "tiny.gguf", model, IDS)


def test_every_matrix_is_of_the_type_that_was_asked_for(tmp_path):
    gguf_file.save_gguf(odd("llama"), byte_level(), tmp_path / "tiny.gguf", "q8_0")
    assert set(gguf_file.types_in(tmp_path / "tiny.gguf")) == {"Q8_0", "F32"}
    assert gguf_file.smaller_blocks_in(tmp_path / "tiny.gguf", "q8_0") == {}


def test_zeros_change_nothing(tmp_path):
    """The file's own weights, with their zeros and without them: one function."""
    model = odd("mistral")
    gguf_file.save_gguf(model, byte_level(), tmp_path / "tiny.gguf", "q8_0")
    wide = load_model(tmp_path / "tiny.gguf")
    assert (wide.config.hidden_size, wide.config.intermediate_size) == (64, 96)
    assert wide.config.rms_norm_eps == pytest.approx(1e-3 * 40 / 64)
    narrow = tiny_model("mistral", settings=ODD)
    with torch.no_grad():
        for name, tensor in narrow.named_parameters():
            theirs = wide.get_parameter(name)
            kept = theirs[tuple(slice(size) for size in tensor.shape)]
            tensor.copy_(kept * (64 / 40) ** 0.5 if "norm" in name else kept)
            assert theirs.abs().sum() == pytest.approx(kept.abs().sum())
        ids = torch.tensor([IDS])
        torch.testing.assert_close(wide(ids).logits, narrow(ids).logits, atol=2e-4, rtol=0)


def test_what_zeros_would_change_keeps_its_channels():
    """GPT-2's norm takes off the mean, Gemma's embedding by the root of the width; Qwen 2's heads fill it there."""
    gemma = tiny_model("gemma3_text", settings=ODD)
    assert padding_of(gemma, "q8_0").file == Widths(40, 96)
    assert padding_of(gemma, "q8_0").words == "72 neurons as 96"
    assert padding_of(tiny_model("qwen2", settings=ODD), "q8_0").file == Widths(40, 96)
    gpt2 = tiny_model("gpt2", settings=FAMILIES["gpt2"] | {"n_embd": 40, "n_head": 4, "n_inner": 72})
    assert padding_of(gpt2, "q4_0").file == Widths(40, 96)
    assert padding_of(gpt2, "f16").words == ""
