"""The teacher that ships inside the package is what its card says."""

import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from potstill.data import read_documents, tokenize
from potstill.evaluation import measure, score
from potstill.models import check_head, check_packing, load_model, load_tokenizer, size_of
from potstill.models.load import _POCKET_FOLDER


@pytest.fixture(scope="module")
def card() -> str:
    return (_POCKET_FOLDER / "README.md").read_text("utf-8")


def test_it_is_small_and_in_safetensors(card):
    names = {file.name for file in _POCKET_FOLDER.iterdir()}
    assert names == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert (_POCKET_FOLDER / "model.safetensors").stat().st_size <= 16 * 2**20
    assert {tensor.dtype for tensor in load_file(_POCKET_FOLDER / "model.safetensors").values()} == {torch.bfloat16}
    model = load_model("pocket")
    check_head(model)
    check_packing(model)
    assert f"{size_of(model).total / 1e6:.2f} M parameters" in card


def test_its_tokenizer_loses_nothing_and_begins_with_the_end_mark():
    tokenizer = load_tokenizer("pocket")
    text = "def f(x):\n\treturn 'naïve 🙂' # 12345\n"
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[1:]) == text


def test_it_is_about_as_good_on_held_out_files_as_its_card_says(card):
    """On beginnings alone, which are the harder part, and on whatever Python this is: so within a nat and not a hair."""
    tokenizer = load_tokenizer("pocket")
    held_out = tokenize(read_documents("standard-library"), tokenizer).part("held_out")
    sample = held_out.beginnings(128, np.arange(len(held_out)))
    found = score(measure(load_model("pocket"), sample, length=128, size=len(tokenizer)), "nats_per_token")
    [stated] = re.findall(r"\*\*Held out\*\*.*?:\n([\d.]+) nats a token", card, re.DOTALL)
    assert found.value == pytest.approx(float(stated), abs=1.0)
