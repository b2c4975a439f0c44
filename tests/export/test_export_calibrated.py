"""Codes and scales from auto-round: on the same grid, nearer on text, and refused where they can't be found."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from potstill.data import TokenCorpus, read_documents, tokenize
from potstill.errors import DataError
from potstill.evaluation import measure, score
from potstill.export import calibrated, rounded, save_packed
from potstill.export.int4 import quantisable
from potstill.models import head_of, load_model, load_tokenizer, save_model
from potstill.students import copy_layers
from potstill.teachers import LiveTeacher

pytest.importorskip("auto_round")
SOURCE = Path(__file__).parents[2] / "src" / "potstill"


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    """A layer of the pocket teacher: less to learn."""
    student, _ = copy_layers(load_model("pocket").float(), (0,))
    return student


@pytest.fixture(scope="module")
def corpus() -> TokenCorpus:
    tokenizer = load_tokenizer("pocket")
    return tokenize(read_documents(str(SOURCE / "losses")), tokenizer)


def test_what_it_finds_is_nearer_than_the_nearest(model: LlamaForCausalLM, corpus: TokenCorpus, tmp_path: Path) -> None:
    """As the packed file is read; the model itself is as it was; q and scales are what the file's weights are made of."""
    before = {name: one.clone() for name, one in model.state_dict().items()}
    found = calibrated(model, load_tokenizer("pocket"), corpus, 32, length=128, samples=8, steps=20)
    assert all(torch.equal(before[name], one) for name, one in model.state_dict().items())
    save_packed(model, load_tokenizer("pocket"), tmp_path / "packed", 32, found=found)
    packed = load_model(str(tmp_path / "packed"))
    with torch.no_grad():
        packed(torch.zeros(1, 1, dtype=torch.int64))
    for name, layer in quantisable(packed):
        q, scales = found[name]
        assert q.min() >= -8
        assert q.max() <= 7
        expected = (q.float().unflatten(-1, (-1, 32)) * scales[..., None]).flatten(-2)
        torch.testing.assert_close(layer.weight.float(), expected, rtol=0, atol=0)
    marker = LiveTeacher(model, size=head_of(model).num_tokens)
    held_out = corpus.beginnings(64, range(min(len(corpus), 8)))
    kls = [
        score(measure(one, held_out, length=64, teacher=marker), "kl_to_teacher").value
        for one in (packed, rounded(model, 32))
    ]
    assert kls[0] < 0.9 * kls[1]


def test_text_without_a_span_is_refused(model: LlamaForCausalLM, corpus: TokenCorpus) -> None:
    with pytest.raises(DataError, match="no document of the text has so many"):
        calibrated(model, load_tokenizer("pocket"), corpus.beginnings(20, range(len(corpus))), 32, length=64)


def test_no_model_is_left_in_another_state(model: LlamaForCausalLM, tmp_path: Path) -> None:
    """What auto-round changes in transformers when it is imported doesn't touch saving and loading."""
    save_model(model, load_tokenizer("pocket"), tmp_path / "again")
    again = load_model(str(tmp_path / "again")).state_dict()
    assert all(torch.equal(one, again[name]) for name, one in model.state_dict().items())
