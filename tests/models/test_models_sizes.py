import pytest
import torch
from tiny_models import VOCABULARY, tiny_model
from transformers import AutoModelForCausalLM

from potstill.models import Size, faster_dtype, precision, size_of

EMBEDDING = VOCABULARY * 32
# Queries, keys, values, output; the three matrices of the MLP; two norms.
BLOCK = 32 * (32 + 16 + 16 + 32) + 3 * 32 * 48 + 2 * 32


def test_untied_embeddings_count_twice_in_the_total_only():
    total = 2 * EMBEDDING + 4 * BLOCK + 32
    assert size_of(tiny_model("llama")) == Size(total=total, non_embedding=4 * BLOCK + 32, bytes=4 * total)


def test_tied_embeddings_count_once():
    model = tiny_model("smollm3")
    assert size_of(model).total - size_of(model).non_embedding == EMBEDDING


def test_learned_positions_are_no_computing():
    model = tiny_model("gpt2")
    assert size_of(model).total - size_of(model).non_embedding == EMBEDDING + 64 * 32


def test_bytes_follow_the_dtype_and_the_meta_device_will_do():
    config = tiny_model("llama").config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    assert size_of(model).bytes == 2 * size_of(tiny_model("llama")).total


@pytest.mark.parametrize(("half", "expected"), [(0.5, torch.bfloat16), (0.9, torch.float32), (3.0, torch.float32)])
def test_bf16_has_to_be_worth_it(monkeypatch, half, expected):
    precision._measured.cache_clear()
    monkeypatch.setattr(precision, "_seconds", lambda device, dtype: 1.0 if dtype == torch.float32 else half)
    assert faster_dtype("cpu") == expected
    precision._measured.cache_clear()


def test_the_device_is_asked_once(monkeypatch):
    first = faster_dtype("cpu")
    monkeypatch.setattr(precision, "_seconds", lambda device, dtype: pytest.fail("measured again"))
    assert faster_dtype(torch.device("cpu")) == first
