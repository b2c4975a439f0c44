import importlib.util
import json
import logging
from pathlib import Path

import pytest
import torch
from tiny_models import CHAT_TEMPLATE, byte_tokenizer, tiny_model
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    T5Config,
    T5ForConditionalGeneration,
)

from potstill.errors import MissingExtraError, ModelError
from potstill.models import load_model, load_shape, load_tokenizer, save_model


@pytest.fixture
def folder(tmp_path) -> Path:
    tiny_model("llama").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_folder_gives_the_model_in_fp32_unless_asked_otherwise(folder):
    model = load_model(folder)
    assert model.dtype == torch.float32
    assert not model.training
    for name, weight in tiny_model("llama").state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name
    assert load_model(str(folder), dtype=torch.bfloat16).dtype == torch.bfloat16


def test_a_missing_path_says_so():
    for source in ["./nowhere", "/no/such/model", "a/b/c", "nowhere.gguf", Path("gpt2")]:
        with pytest.raises(ModelError, match="there is no model at"):
            load_model(source)


def test_a_hub_name_that_cant_be_reached_says_so():
    with pytest.raises(ModelError, match=r"no folder org/nothing, and the model hub gave no model.*check the spelling"):
        load_model("org/nothing")
    with pytest.raises(ModelError, match="the model hub gave no tokenizer"):
        load_tokenizer("org/nothing")


def test_a_slip_of_pocket_is_named_before_the_hub_is_asked():
    for slip in ("pockt", "Pocket", "pocket2"):
        with pytest.raises(ModelError, match=f"no folder {slip}: did you mean pocket"):
            load_tokenizer(slip)
    with pytest.raises(ModelError, match="the model hub gave no tokenizer"):
        load_tokenizer("org/pockt")


def test_a_folder_without_a_model_lists_what_it_found(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ModelError, match=r"has no config.json \(found notes.txt\)"):
        load_model(tmp_path)
    with pytest.raises(ModelError, match=r"the tokenizer in .* can't be loaded"):
        load_tokenizer(tmp_path)


def test_the_folder_of_a_run_stands_for_its_student(tmp_path):
    (tmp_path / "recipe.toml").write_text("")
    for load in (load_model, load_shape, load_tokenizer):
        with pytest.raises(ModelError, match="a run that has no student yet: finish it first"):
            load(tmp_path)
    save_model(tiny_model("llama"), byte_tokenizer(), tmp_path / "stages" / "two" / "student")
    with pytest.raises(ModelError, match=r"a run of stages: give the student of one, .*stages/two/student$"):
        load_model(tmp_path)
    save_model(tiny_model("llama", seed=1), byte_tokenizer(), tmp_path / "student")
    expected = tiny_model("llama", seed=1).state_dict()
    for name, weight in load_model(tmp_path).state_dict().items():
        assert torch.equal(weight, expected[name]), name
    assert load_shape(str(tmp_path)).config.vocab_size == tiny_model("llama").config.vocab_size
    assert load_tokenizer(tmp_path)("ab")["input_ids"] == byte_tokenizer()("ab")["input_ids"]


def test_another_file_is_refused(tmp_path):
    file = tmp_path / "model.onnx"
    file.write_text("")
    with pytest.raises(ModelError, match=r"a file, but not a .gguf file"):
        load_model(file)


def test_pickled_weights_are_refused(folder):
    weights = folder / "model.safetensors"
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled weights only"):
        load_model(folder)


def test_missing_weights_are_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights"):
        load_model(folder)


def test_damaged_weights_are_refused(folder):
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(500)
    with pytest.raises(ModelError, match="can't be loaded"):
        load_model(folder)


def test_weights_that_would_be_random_are_refused(tmp_path):
    tiny_model("llama").model.save_pretrained(tmp_path)  # the body without its head
    with pytest.raises(ModelError, match=r"incomplete: 1 tensors are missing, lm_head.weight among them"):
        load_model(tmp_path)


def test_weights_of_another_shape_are_refused(folder):
    edit_config(folder, intermediate_size=64)
    with pytest.raises(
        ModelError, match=r"don't fit its config.json: .* is \[32, 48\], the config asks for \[32, 64\]"
    ):
        load_model(folder)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"model_type": "wonder"}, "wonder"),
        ({"model_type": "wonder", "auto_map": {"AutoConfig": "x.Y"}}, "custom code"),
    ],
)
def test_an_unknown_family_and_its_code_are_refused(folder, changes, found):
    edit_config(folder, **changes)
    with pytest.raises(ModelError, match=found):
        load_model(folder)


def test_a_config_that_is_not_json_is_refused(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not a valid JSON file"):
        load_model(folder)


def test_a_config_with_a_senseless_value_is_refused(folder):
    edit_config(folder, hidden_size="wide")
    with pytest.raises(ModelError, match="hidden_size"):
        load_model(folder)


def test_a_damaged_tokenizer_is_refused(folder):
    byte_tokenizer().save_pretrained(folder)
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": 3}')
    with pytest.raises(ModelError, match=r"the tokenizer in .* can't be loaded"):
        load_tokenizer(folder)


def test_what_a_model_was_made_to_predict_decides_its_class_and_the_rest_is_refused(tmp_path):
    small = {"vocab_size": 61, "num_hidden_layers": 1, "intermediate_size": 16}
    config = BertConfig(hidden_size=16, num_attention_heads=2, **small)
    for kind in (BertForMaskedLM, BertForSequenceClassification, BertModel):
        kind(config).save_pretrained(tmp_path / kind.__name__)
    T5ForConditionalGeneration(T5Config(vocab_size=61, d_model=16, d_ff=16, num_layers=1, num_heads=2)).save_pretrained(
        tmp_path / "t5"
    )
    for kind in (BertForMaskedLM, BertForSequenceClassification):
        assert type(load_model(tmp_path / kind.__name__)) is kind
        assert type(load_shape(tmp_path / kind.__name__)) is kind
    with pytest.raises(ModelError, match="neither a language model nor a text classifier, but BertModel"):
        load_model(tmp_path / "BertModel")
    with pytest.raises(ModelError, match="nor a text classifier, but T5ForConditionalGeneration"):
        load_model(tmp_path / "t5")


def test_loading_says_nothing(folder, capfd):
    byte_tokenizer().save_pretrained(folder)
    load_model(folder)
    load_tokenizer(folder)
    assert capfd.readouterr() == ("", "")


def test_a_tokenizer_pads_and_does_not_complain_about_long_texts(tmp_path, caplog):
    byte_tokenizer(chat_template=CHAT_TEMPLATE).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.pad_token == tokenizer.eos_token == "<|end|>"
    assert tokenizer.chat_template == CHAT_TEMPLATE
    logging.getLogger("transformers").propagate = True
    with caplog.at_level("WARNING"):
        assert len(tokenizer("x" * 100).input_ids) == 100
    logging.getLogger("transformers").propagate = False
    assert not caplog.records


def test_a_padding_token_of_its_own_is_kept(tmp_path):
    tokenizer = byte_tokenizer(extra=("<pad>",))
    tokenizer.pad_token = "<pad>"
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).pad_token == "<pad>"


def test_gguf_without_its_package_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"'\.\[gguf\]'"):
        load_model(tmp_path / "model.gguf")


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
