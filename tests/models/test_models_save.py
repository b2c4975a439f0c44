import errno
import os

import pytest
import torch
from tiny_models import FAMILIES, byte_tokenizer, tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from potstill.errors import ModelError, RunDirectoryError
from potstill.models import load_model, load_tokenizer, save_model, saved_whole


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_from_pretrained_reloads_it(family, tmp_path):
    model = tiny_model(family)
    save_model(model, byte_tokenizer(), tmp_path / "runs" / "student")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "runs" / "student")
    assert type(again) is type(model)
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "runs" / "student")("aé").input_ids == byte_tokenizer()("aé").input_ids
    )
    assert os.listdir(tmp_path / "runs") == ["student"]


def test_an_older_model_is_replaced(tmp_path):
    save_model(tiny_model("llama", seed=1), byte_tokenizer(), tmp_path / "student")
    save_model(tiny_model("llama", seed=2), byte_tokenizer(), tmp_path / "student")
    expected = tiny_model("llama", seed=2).lm_head.weight
    assert torch.equal(load_model(tmp_path / "student").lm_head.weight, expected)
    assert os.listdir(tmp_path) == ["student"]


def test_an_empty_folder_is_used(tmp_path):
    (tmp_path / "student").mkdir()
    save_model(tiny_model("llama"), byte_tokenizer(), tmp_path / "student")
    assert (tmp_path / "student" / "config.json").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "config.json").write_text("mine")
    with pytest.raises(RunDirectoryError, match="not a saved model"):
        save_model(tiny_model("llama"), byte_tokenizer(), tmp_path)
    assert os.listdir(tmp_path) == ["config.json"]
    with pytest.raises(RunDirectoryError, match="not a saved model"):
        save_model(tiny_model("llama"), byte_tokenizer(), tmp_path / "config.json")


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), Exception("No space left on device (os error 28)")]
)
def test_a_full_disk_leaves_the_older_model(error, tmp_path, monkeypatch):
    model, tokenizer = tiny_model("llama", seed=1), byte_tokenizer()
    save_model(model, tokenizer, tmp_path / "student")

    def full(folder):
        raise error

    monkeypatch.setattr(tokenizer, "save_pretrained", full)
    with pytest.raises(RunDirectoryError, match=r"No space left.*GB are free.*untouched"):
        save_model(tiny_model("llama", seed=2), tokenizer, tmp_path / "student")
    assert torch.equal(load_model(tmp_path / "student").lm_head.weight, model.lm_head.weight)
    assert os.listdir(tmp_path) == ["student"]


def test_whoever_may_read_the_configuration_may_read_the_weights(tmp_path):
    save_model(tiny_model("llama"), byte_tokenizer(), tmp_path / "student")
    modes = {file.stat().st_mode for file in (tmp_path / "student").iterdir()}
    assert len(modes) == 1


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "generation_config.json", "tokenizer.json"])
def test_a_bit_that_has_changed_on_the_disk_is_found(name, tmp_path):
    save_model(tiny_model("llama"), byte_tokenizer(), tmp_path / "student")
    load_model(tmp_path / "student")
    load_tokenizer(tmp_path / "student")
    file = tmp_path / "student" / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    with pytest.raises(ModelError, match=rf"{name} is not what was saved: copy the model again, .* delete checks.json"):
        load_tokenizer(tmp_path / "student") if "token" in name else load_model(tmp_path / "student")
    file.write_bytes(whole)
    (tmp_path / "student" / "checks.json").write_text("[")
    with pytest.raises(ModelError, match=r"checks.json can't be read"):
        load_model(tmp_path / "student")
    (tmp_path / "student" / "checks.json").unlink()
    load_model(tmp_path / "student")


def test_what_is_said_beside_it_is_there_with_it_and_may_change(tmp_path):
    with saved_whole(tmp_path / "student", beside={"facts.json": "{}"}) as written:
        tiny_model("llama").save_pretrained(written)
    assert (tmp_path / "student" / "facts.json").read_text() == "{}"
    (tmp_path / "student" / "facts.json").write_text("[]")
    load_model(tmp_path / "student")
