"""Four bits: what is measured is what is saved, and learning goes through the rounding."""

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from small_tokenizers import byte_level
from tiny_models import FAMILIES, SHAPE, tiny_model
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    ModernBertConfig,
    ModernBertForMaskedLM,
)

from potstill.errors import ModelError, RunDirectoryError
from potstill.export import bytes_of, group_of, learning_through_, rounded, save_packed
from potstill.export.grid import codes, on_grid
from potstill.export.int4 import packed, quantisable
from potstill.models import load_model, load_tokenizer


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return load_model("pocket").float()


def test_codes_are_the_nearest_on_the_grid() -> None:
    """Against every code tried one by one."""
    weight = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
    q, scales = codes(weight, 32)
    every = torch.arange(-8, 8).float()
    each = scales.repeat_interleave(32, 1)[..., None] * every
    nearest = (weight[..., None] - each).abs().argmin(-1) - 8
    assert torch.equal(q.long(), nearest)
    assert q.min() >= -8
    assert q.max() <= 7


def test_the_largest_weight_of_a_group_keeps_its_value() -> None:
    """Whatever its sign, as far as a scale of bfloat16 can; and the error is less than with the largest half a step outside."""
    weight = torch.randn(40, 64, generator=torch.Generator().manual_seed(0))
    parts, ours = weight.unflatten(-1, (-1, 32)), on_grid(weight, 32).unflatten(-1, (-1, 32))
    where = parts.abs().argmax(-1, keepdim=True)
    torch.testing.assert_close(ours.gather(-1, where), parts.gather(-1, where), rtol=2**-8, atol=0)
    plain = (2 * parts.abs().amax(-1, keepdim=True) / 15).bfloat16().float()
    theirs = plain * (parts / plain).round().clamp(-8, 7)
    assert (ours - parts).square().sum() < (theirs - parts).square().sum()


def test_what_lies_on_the_grid_stays() -> None:
    scales = torch.rand(6, 2, 1, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    q = torch.randint(-7, 8, (6, 2, 32), generator=torch.Generator().manual_seed(1))
    q[..., 0] = -8
    weight = (scales * q).flatten(-2)
    assert torch.equal(on_grid(weight, 32), weight)
    assert torch.equal(on_grid(torch.zeros(2, 32), 32), torch.zeros(2, 32))


def test_packed_words_hold_the_codes() -> None:
    q = torch.randint(-8, 8, (5, 64), generator=torch.Generator().manual_seed(0), dtype=torch.int8)
    words = packed(q).long() & 0xFFFFFFFF
    unpacked = ((words[..., None] >> (4 * torch.arange(8))) & 15).flatten(-2) - 8
    assert torch.equal(unpacked, q.long())
    assert packed(q.to("meta")).device.type == "meta"  # packed where the codes are


@pytest.mark.parametrize("family", ["bert", "bert classes", "llama classes", "opt"])
def test_linear_layers_outside_the_layers_stay_whole(family, tmp_path) -> None:
    settings = SHAPE | {"vocab_size": 320, "pad_token_id": 0}
    small = {
        "bert": lambda: BertForMaskedLM(BertConfig(**settings)),
        "bert classes": lambda: BertForSequenceClassification(BertConfig(**settings, num_labels=3)),
        "llama classes": lambda: LlamaForSequenceClassification(LlamaConfig(**settings, num_labels=3)),
        "opt": lambda: tiny_model("opt", settings=FAMILIES["opt"] | {"vocab_size": 320}),
    }[family]().eval()
    save_packed(small, byte_level(), tmp_path / "int4")
    loaded, ids = load_model(tmp_path / "int4"), torch.arange(12)[None]
    with torch.no_grad():
        loaded(ids)  # unpacks
        theirs, ours = loaded(ids).logits, rounded(small)(ids).logits
    torch.testing.assert_close(theirs, ours, atol=0.02 * float(ours.abs().max()), rtol=0)


def test_what_was_packed_before_stays_until_all_is_written(model, tmp_path, monkeypatch) -> None:
    save_packed(model, load_tokenizer("pocket"), tmp_path / "int4", 32)
    before = {one.name: one.read_bytes() for one in (tmp_path / "int4").iterdir()}

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr("potstill.export.int4.save_file", full)
    with pytest.raises(RunDirectoryError, match="No space left"):
        save_packed(model, load_tokenizer("pocket"), tmp_path / "int4", 64)
    assert {one.name: one.read_bytes() for one in (tmp_path / "int4").iterdir()} == before
    assert [one.name for one in tmp_path.iterdir()] == ["int4"]


def test_counts_stay_counts(tmp_path) -> None:
    counting = tiny_model("llama", settings=SHAPE | {"vocab_size": 320})
    counting.model.register_buffer("seen", torch.tensor([16_777_217]))
    save_packed(counting, byte_level(), tmp_path / "int4")
    assert load_file(tmp_path / "int4" / "model.safetensors")["model.seen"].tolist() == [16_777_217]


def test_the_saved_model_is_the_measured_one(model, tmp_path) -> None:
    """Loaded by transformers through compressed-tensors, it says what the rounded model says, bit for bit."""
    from transformers import AutoModelForCausalLM

    save_packed(model, load_tokenizer("pocket"), tmp_path / "int4")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "int4", dtype=torch.float32)
    inputs = torch.randint(1000, (2, 24), generator=torch.Generator().manual_seed(0))
    rounded_model = rounded(model)
    with torch.no_grad():
        loaded(inputs)  # the first pass decompresses
        for name, layer in quantisable(rounded_model):
            assert torch.equal(layer.weight.to(torch.bfloat16), loaded.get_submodule(name).weight.to(torch.bfloat16))
        theirs, ours = loaded.to(torch.bfloat16)(inputs).logits, rounded_model.to(torch.bfloat16)(inputs).logits
    assert torch.equal(theirs, ours)


def test_sizes(model, tmp_path) -> None:
    save_packed(model, load_tokenizer("pocket"), tmp_path / "int4")
    on_disk = (tmp_path / "int4" / "model.safetensors").stat().st_size
    assert bytes_of(model, group_of(model)) == pytest.approx(on_disk, rel=0.01)


def test_learning_goes_through_the_rounding(model) -> None:
    """Inside, the model computes with rounded weights; a step changes those behind; afterwards they are its own again."""
    student = load_model("pocket").float().requires_grad_(True)
    before = {name: layer.weight.clone() for name, layer in quantisable(student)}
    inputs = torch.randint(1000, (1, 16), generator=torch.Generator().manual_seed(0))
    with learning_through_(student):
        with torch.no_grad():
            assert torch.equal(student(inputs).logits, rounded(model)(inputs).logits)
        student(inputs, labels=inputs).loss.backward()
        torch.optim.SGD(student.parameters(), lr=0.1).step()
    after = dict(quantisable(student))
    assert all(type(layer.weight) is torch.nn.Parameter for layer in after.values())
    assert all(not torch.equal(after[name].weight, weight) for name, weight in before.items())


def test_what_has_no_groups_is_refused() -> None:
    config = LlamaConfig(
        hidden_size=20,
        intermediate_size=36,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=64,
    )
    with pytest.raises(ModelError, match="inputs of 20, 36"):
        group_of(LlamaForCausalLM(config))


def test_what_transformers_cannot_load_is_refused(tmp_path) -> None:
    settings = SHAPE | {"vocab_size": 320, "pad_token_id": 0}
    with pytest.raises(ModelError, match="can't load a ModernBertForMaskedLM"):
        save_packed(ModernBertForMaskedLM(ModernBertConfig(**settings)), byte_level(), tmp_path / "int4")
    assert not list(tmp_path.iterdir())


def test_eight_bits_are_loaded_by_transformers_too(model, tmp_path) -> None:
    save_packed(model, load_tokenizer("pocket"), tmp_path / "int8", bits=8)
    loaded, ours = load_model(tmp_path / "int8"), rounded(model, bits=8)
    inputs = torch.randint(1000, (2, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        loaded(inputs)
        for name, layer in quantisable(ours):
            assert torch.equal(layer.weight.bfloat16(), loaded.get_submodule(name).weight.bfloat16())
    size = (tmp_path / "int8" / "model.safetensors").stat().st_size
    assert bytes_of(model, group_of(model), bits=8) == pytest.approx(size, rel=0.01)


def test_a_group_that_does_not_divide_is_refused(model, tmp_path) -> None:
    with pytest.raises(ModelError, match=r"groups of 96 don't divide the 256 inputs of .*q_proj.* are of 128"):
        save_packed(model, load_tokenizer("pocket"), tmp_path / "int4", 96)


def test_learning_computes_exactly_what_the_export_says(model, tmp_path) -> None:
    """Not one bit between the logits that are learned through and those of the file, where the rest is of bfloat16 already."""
    student = rounded(model, 32)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter)).copy_(parameter.bfloat16().float())
    ids = torch.arange(40)[None]
    save_packed(student, load_tokenizer("pocket"), tmp_path / "packed", 32)
    packed_model = load_model(tmp_path / "packed")
    with torch.no_grad():
        packed_model(ids)  # unpacks
        with learning_through_(student, 32):
            ours = student(ids).logits
        assert torch.equal(packed_model(ids).logits, ours)
